"""`myllm speedrun` against a GPT-2 of `transformers`: held-out bits per byte after the same tokens.

    python -m bench.speedrun              about twelve CPU minutes a seed, three seeds

The rival has as many layers, the same width and vocabulary, and the parameters that a GPT-2 then has. It
reads the same batches in the same order and is updated by PyTorch's AdamW with the command's learning rates,
clipping and weight decay; nothing is tuned for it, and it begins as GPT-2 does. Both are scored by `nll` on
the text that the command holds out.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import bench.common as common  # before torch: it sets the threads
from bench.training import adamw

DEPTH, ROWS = 3, 32


def theirs(folder: Path, config: Any, summary: dict[str, Any], seed: int) -> tuple[Any, int]:
    """Train the rival on the tokens in the folder; it and its number of parameters."""
    import torch
    from torch import nn
    from transformers import GPT2Config, GPT2LMHeadModel

    from myllm.data.loader import WindowLoader
    from myllm.data.shards import Shards
    from myllm.training.schedule import rate

    T, steps = config.block_size, round(summary["tokens"] / ROWS / config.block_size)
    torch.manual_seed(seed)
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "n_positions": T}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=config.vocab_size, use_cache=False, **sizes, **dropout))
    optimizer = adamw(model)
    loader = WindowLoader(Shards(folder / "tokens"), block_size=T, batch_size=ROWS, seed=seed)
    for step, (x, y) in enumerate(islice(loader, steps)):
        for group in optimizer.param_groups:
            group["lr"] = 0.48 / config.n_embd * rate(step, steps, warmup=steps // 20, floor=0.1)
        loss = model(x, labels=x, shift_labels=y).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            print(step, round(loss.item(), 3), flush=True)
    return model.eval(), sum(p.numel() for p in model.parameters())


def measure(seed: int) -> dict[str, Any]:
    """Both sides for one seed."""
    from myllm import LLM
    from myllm.evaluation.perplexity import bits_per_byte, nll

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        command = [sys.executable, "-m", "myllm", "speedrun", "--depth", str(DEPTH), "--seed", str(seed)]
        subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((folder / "report.json").read_text())
        llm = LLM.from_pretrained(folder / "model")
        assert llm.tokenizer is not None
        model, size = theirs(folder, llm.config, summary, seed)
        text = (folder / "validation.txt").read_text(encoding="utf-8")
        ids, bytes_ = llm.tokenizer.encode(text), len(text.encode()) - 1
        window = {"block_size": llm.config.block_size, "stride": llm.config.block_size // 2}
        scores = {
            "ours": nll(llm.model, ids, **window),
            "theirs": nll(lambda x: model(x).logits, ids, **window),
        }
        bits = {side: round(bits_per_byte(one, bytes_), 4) for side, one in scores.items()}
        assert math.isclose(bits["ours"], summary["bits_per_byte"], abs_tol=1e-3), (bits, summary)
    return {"seed": seed, **bits, "parameters": [llm.config.n_params, size], "tokens": summary["tokens"]}


def main() -> None:
    """Measure each seed and record the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = []
    for seed in options.seeds:
        rows.append(measure(seed))
        print(rows[-1], flush=True)
    sides = {side: mean(row[side] for row in rows) for side in ("ours", "theirs")}
    ours, rival = rows[0]["parameters"]
    common.record(
        "Speedrun",
        "bits per byte of held-out Shakespeare, the same learning rates, "
        f"after {rows[0]['tokens']:,.0f} tokens, seeds " + ", ".join(str(row["seed"]) for row in rows),
        machine=common.machine("myllm-course", "torch", "transformers"),
        rows=rows,
        bits_per_byte={
            f"myllm speedrun, {ours:,} parameters": round(sides["ours"], 4),
            f"transformers' GPT-2, {rival:,} parameters": round(sides["theirs"], 4),
        },
    )
    print(sides)


if __name__ == "__main__":
    main()
