"""What each swap from GPT-2 to LLaMA is worth, at an equal budget of steps and nearly equal parameters.

    python -m bench.llama_swaps

trains every variant with three seeds on the tokens of chapter 3 and writes book/_results/llama_swaps.json,
which chapter 8 shows; the chapter trains the first steps of each variant again and compares.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.common import origin
from bench.scoreboard import n_bytes, tokens
from myllm import ModelConfig, Transformer, load_tokenizer
from myllm.data.loader import WindowLoader
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import atomic_write

RESULTS = Path(__file__).parents[1] / "book" / "_results" / "llama_swaps.json"
BLOCK, BATCH, STEPS, FIRST, RATE, SEEDS = 64, 16, 1000, 60, 5e-3, 3

BASE = {"block_size": BLOCK, "n_layer": 2, "n_head": 4, "n_embd": 64, "init_std": 0.07}
GPT2 = {**BASE, "norm": "layernorm", "mlp": "plain", "activation": "gelu_tanh", "position": "learned"}
GPT2 |= {"bias": True, "tie_embeddings": True}
SWAPS = {
    "GPT-2": {},
    "RMSNorm, no biases": {"norm": "rmsnorm", "bias": False},
    "RoPE": {"position": "rope"},
    "SwiGLU": {"mlp": "gated", "activation": "silu", "intermediate_size": 171},
    "GQA": {"n_kv_head": 2, "intermediate_size": 192},
}


def variants(vocab_size: int) -> dict[str, ModelConfig]:
    """The configurations, each with all swaps up to its own."""
    found, fields = {}, {"vocab_size": vocab_size, **GPT2}
    for name, change in SWAPS.items():
        fields |= change
        found[name] = ModelConfig(**fields)
    return found


def main() -> None:
    """Train all variants and write the file."""
    torch.set_num_threads(1)
    ids, held_out, V = tokens(load_tokenizer("shakespeare"))
    train_ids = ids.numpy().astype(np.uint16)
    rows = []
    for name, config in variants(V).items():
        row: dict[str, Any] = {"swap": name, "parameters": config.n_params, "first": [], "held_out": []}
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            model = Transformer(config)
            optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
            batches = WindowLoader(train_ids, block_size=BLOCK, batch_size=BATCH, seed=seed)
            losses: list[float] = []
            for x, y in islice(batches, STEPS):
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            row["first"].append(sum(losses[FIRST - 10 : FIRST]) / 10)
            row["held_out"].append(bits_per_byte(nll(model, held_out, stride=BLOCK // 2), n_bytes()))
            print(f"{name:20} seed {seed}: {row['held_out'][-1]:.3f} bits per byte", flush=True)
        rows.append(row)
    result = {
        "command": "python -m bench.llama_swaps",
        **origin(),
        "steps": STEPS,
        "tokens_per_step": BATCH * BLOCK,
        "rows": rows,
    }
    atomic_write(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
