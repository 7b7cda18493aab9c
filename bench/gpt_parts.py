"""What a small GPT scores without a part, with another depth, or with ReLU: book/_results/gpt_parts.json.

    python -m bench.gpt_parts

trains each variant of chapter 7's tiny GPT with the chapter's loop and three seeds, and scores it on the same
20,000 held-out tokens; about a quarter of an hour. A score of null is a run that diverged.
"""

import json
import math
from functools import cache
from itertools import islice
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common import origin
from bench.scoreboard import RESULTS, tokens
from myllm import ModelConfig, Transformer, load_tokenizer
from myllm.data.loader import WindowLoader
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import atomic_write

BLOCK, BATCH, STEPS, LONGER, RATE, SEEDS = 32, 16, 300, 1000, 5e-3, 3
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


class Nothing(nn.Module):
    """In the place of a layer: it adds 0 to the stream."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """Zeros, shaped like the input."""
        return torch.zeros_like(x)


def not_added(block: Any, x: Tensor, **context: Any) -> Tensor:
    """The forward pass of a block without its residual connections."""
    x = block.self_attn(block.input_layernorm(x), **context)
    return block.mlp(block.post_attention_layernorm(x))


def build(config: ModelConfig, without: str) -> Transformer:
    """The model, or the model without one of its parts."""
    if without == "norms":
        return Transformer(config, norm=lambda C: nn.Identity())
    if without == "attention":
        return Transformer(config, attention=Nothing)
    if without == "feed-forward network":
        return Transformer(config, mlp=Nothing)
    if without == "positions":
        return Transformer(config.replace(position="none"))
    model = Transformer(config)
    if without == "residual connections":
        for block in model.layers:
            block.forward = MethodType(not_added, block)
    return model


def score(config: ModelConfig, seed: int, rate: float, without: str, steps: int = STEPS) -> float | None:
    """Train one variant; its bits per byte, or None if the training diverged."""
    ids, few, n_bytes = data()
    torch.manual_seed(seed)
    model = build(config, without)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    batches = WindowLoader(ids, block_size=BLOCK, batch_size=BATCH, seed=seed)
    for x, y in islice(batches, steps):
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
    parts = ("", "norms", "positions", "attention", "feed-forward network", "residual connections")
    variants: list[tuple[ModelConfig, float, str, int]] = [(TINY, RATE, part, LONGER) for part in parts]
    variants += [
        (config, rate, without, STEPS)
        for config in (TINY, *DEEP.values())
        for rate in (RATE, 4 * RATE)
        for without in ("", "norms")
    ]
    variants.append((TINY.replace(activation="relu"), RATE, "", STEPS))
    rows: list[dict[str, Any]] = []
    for config, rate, without, steps in variants:
        row = {"n_layer": config.n_layer, "n_embd": config.n_embd, "activation": config.activation}
        row |= {"parameters": config.n_params, "rate": rate, "without": without, "steps": steps}
        rows.append(row | {"bits": [score(config, seed, rate, without, steps) for seed in range(SEEDS)]})
        print(rows[-1], flush=True)
    run = {"command": "python -m bench.gpt_parts", **origin(), "rows": rows}
    atomic_write(RESULTS / "gpt_parts.json", json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
