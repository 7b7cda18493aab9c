"""The same small run with weights held and computed in several ways: book/_results/engine_precision.json.

    python -m bench.engine_precision

Rows: fp32; bfloat16 by autocast; bfloat16 weights with fp32 masters; bfloat16 weights alone; the
same with stochastic rounding. Three seeds each, validation in nats per token.
"""

import json
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common import origin
from bench.engine_resume import BATCH, SEEDS, SHAPE, tokens
from bench.scoreboard import RESULTS
from myllm import ModelConfig, Transformer
from myllm.data.loader import WindowLoader
from myllm.files import atomic_write
from myllm.training.schedule import rate

STEPS, LR = 120, 1e-3
WAYS = {
    "fp32": 16,
    "autocast to bf16": 16,
    "bf16 with fp32 masters": 18,
    "bf16 alone": 8,
    "bf16, stochastic rounding": 12,
}
"""Bytes a parameter: weight, gradient, two moments, master and its gradient; see the chapter."""


def stochastic(x: Tensor) -> Tensor:
    """Round fp32 to bfloat16, up or down with the probabilities that keep the mean."""
    bits = x.view(torch.int32) + torch.randint_like(x, 1 << 16, dtype=torch.int32)
    return (bits & -(1 << 16)).view(torch.float32).bfloat16()


def train(way: str, seed: int) -> dict[str, Any]:
    """One run: losses, the share of weights that the last update changed, validation."""
    torch.manual_seed(seed)
    model, T = Transformer(ModelConfig(**SHAPE)), SHAPE["block_size"]
    if way.startswith("bf16"):
        model = model.bfloat16()
    params = [*model.parameters()]
    apart = way in ("bf16 with fp32 masters", "bf16, stochastic rounding")
    held = [nn.Parameter(p.detach().float()) for p in params] if apart else params
    optimizer = torch.optim.AdamW(held, betas=(0.9, 0.95), weight_decay=0.1)
    train_ids, held_out = tokens()
    batches = WindowLoader(train_ids, block_size=T, batch_size=BATCH, seed=seed)
    losses, before = [], params
    for step, (x, y) in enumerate(islice(batches, STEPS)):
        optimizer.param_groups[0]["lr"] = LR * rate(step, STEPS, warmup=10)
        with torch.autocast("cpu", torch.bfloat16, enabled=way.startswith("autocast")):
            loss = F.cross_entropy(model(x).flatten(0, 1).float(), y.flatten())
        loss.backward()
        before = [p.detach().clone() for p in params]
        if apart:
            for p, master in zip(params, held, strict=True):
                master.grad, p.grad = p.grad.float(), None
        nn.utils.clip_grad_norm_(held, 1.0)
        with torch.no_grad():
            if way.endswith("rounding"):  # no master is kept: what was rounded is where the next one begins
                for p, master in zip(params, held, strict=True):
                    master.copy_(p)
            optimizer.step()
            for p, master in zip(params, held, strict=True):
                if apart:
                    p.copy_(stochastic(master) if way.endswith("rounding") else master)
        optimizer.zero_grad()
        losses.append(loss.item())
    moved = sum(int((p != q).sum()) for p, q in zip(params, before, strict=True))
    checks = WindowLoader(held_out, block_size=T, batch_size=64, shuffle=False)
    model.float()
    with torch.no_grad():
        scores = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in islice(checks, 8)]
    return {
        "first": sum(losses[:20]) / 20,
        "validation": sum(scores) / 8,
        "moved": moved / sum(p.numel() for p in params),
    }


def main() -> None:
    """Run all of it and write the file."""
    torch.set_num_threads(1)
    rows = []
    for way, size in WAYS.items():
        runs = [train(way, seed) for seed in SEEDS]
        row = {"way": way, "bytes": size}
        row |= {name: [round(run[name], 4) for run in runs] for name in runs[0]}
        rows.append(row)
        print(row, flush=True)
    content = {"command": "python -m bench.engine_precision", **origin(), "steps": STEPS, "lr": LR}
    content["rows"] = rows
    atomic_write(RESULTS / "engine_precision.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
