"""What a small GPT scores with another depth, without its norms, or with ReLU: book/_results/gpt_parts.json.

    python -m bench.gpt_parts

trains each variant of chapter 7's tiny GPT with the chapter's loop and three seeds, and scores it on the same
20,000 held-out tokens; about ten minutes. A score of null is a run whose loss was no longer a number.
"""

import json
import math
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.common import origin
from bench.scoreboard import RESULTS, tokens
from myllm import ModelConfig, Transformer, load_tokenizer
from myllm.data.loader import WindowLoader
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import atomic_write

BLOCK, BATCH, STEPS, RATE, SEEDS = 32, 16, 300, 5e-3, 3
TINY = ModelConfig.preset(
    "gpt2", vocab_size=1024, block_size=BLOCK, n_layer=2, n_head=4, n_embd=64, init_std=0.07
)
DEEP = {8: TINY.replace(n_layer=8, n_embd=32), 24: TINY.replace(n_layer=24, n_embd=32)}


@cache
def data() -> tuple[np.ndarray, torch.Tensor, int]:
    """The ids to train on, those that are scored, and the bytes of the latter, less the first."""
    tokenizer = load_tokenizer("shakespeare")
    ids, held_out, _ = tokens(tokenizer)
    few = held_out[:20_000]
    return ids.numpy(), few, len(tokenizer.decode_bytes(few[1:].tolist()))


def score(config: ModelConfig, seed: int, rate: float, norms: bool) -> float | None:
    """Train one variant; its bits per byte, or None if the training diverged."""
    ids, few, n_bytes = data()
    torch.manual_seed(seed)
    model = Transformer(config) if norms else Transformer(config, norm=lambda C: nn.Identity())
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    batches = WindowLoader(ids, block_size=BLOCK, batch_size=BATCH, seed=seed)
    for x, y in islice(batches, STEPS):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        if not loss.isfinite():
            return None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits = bits_per_byte(nll(model, few), n_bytes)
    return bits if math.isfinite(bits) else None


def main() -> None:
    """Train all variants and write the file."""
    torch.set_num_threads(1)
    variants: list[tuple[ModelConfig, float, bool]] = [
        (config, rate, norms)
        for config in (TINY, *DEEP.values())
        for rate in (RATE, 4 * RATE)
        for norms in (True, False)
    ]
    variants.append((TINY.replace(activation="relu"), RATE, True))
    rows: list[dict[str, Any]] = []
    for config, rate, norms in variants:
        row = {"n_layer": config.n_layer, "n_embd": config.n_embd, "activation": config.activation}
        row |= {"parameters": config.n_params, "rate": rate, "norms": norms}
        rows.append(row | {"bits": [score(config, seed, rate, norms) for seed in range(SEEDS)]})
        print(rows[-1], flush=True)
    run = {"command": "python -m bench.gpt_parts", **origin(), "steps": STEPS, "rows": rows}
    atomic_write(RESULTS / "gpt_parts.json", json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
