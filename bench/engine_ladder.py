"""The speed ladder of a training step, one change at a time: book/_results/engine_ladder.json.

    python -m bench.engine_ladder

Each rung keeps the changes before it, unless it says that it was dropped. All rungs take the same batches of
8 × 64 tokens and take turns; the file has the CPU seconds of one update in each round, and the losses.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from bench.common import machine, origin, timed
from bench.course_models import CONFIG as BASE
from bench.engine_resume import tokens
from bench.scoreboard import RESULTS
from myllm import Transformer
from myllm.data.loader import WindowLoader
from myllm.files import atomic_write
from myllm.training.losses import chunked_loss
from myllm.training.optimizer import parameter_groups
from myllm.training.settings import TrainConfig
from myllm.training.speed import allow_fast_products
from myllm.training.step import Step
from myllm.training.strategies.single import Single

CONFIG = BASE.replace(block_size=64)
ROWS, ROUNDS, LR = 8, 5, TrainConfig(steps=1).lr
START: dict[str, Any] = {
    "micro": 1,
    "fused_attention": False,
    "fused_optimizer": False,
    "chunked": False,
    "onednn": False,
    "bf16": False,
    "compile": False,
}
RUNGS: list[tuple[str, dict[str, Any], bool]] = [
    ("one row at a time", {}, True),
    ("all 8 rows at once", {"micro": ROWS}, True),
    ("fused attention", {"fused_attention": True}, True),
    ("fused AdamW", {"fused_optimizer": True}, True),
    ("loss in chunks", {"chunked": True}, True),
    ("fp32 products by oneDNN", {"onednn": True}, True),
    ("weights held in bf16", {"bf16": True}, False),
    ("compiled layers", {"compile": True}, False),
]
"""Name, change, and whether the rungs after it keep the change."""


def updates(way: dict[str, Any]) -> Iterator[float]:
    """The losses of endless updates, made in one way."""
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    fused = way["fused_optimizer"]
    groups = [{k: v for k, v in group.items() if k != "muon"} for group in parameter_groups(model, 0.1)]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), fused=fused, foreach=False)
    strategy = Single("bf16" if way["bf16"] else "fp32")
    strategy.setup(Step(model, None), optimizer)  # pyright: ignore[reportArgumentType]
    if way["compile"]:
        for layer in model.layers:
            layer.compile()
    attention = nullcontext if way["fused_attention"] else lambda: sdpa_kernel(SDPBackend.MATH)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        if way["chunked"]:
            return model(x, head=lambda hidden: chunked_loss(hidden, y, model.lm_head, rows=512))
        return cross_entropy(model(x).flatten(0, 1).float(), y.flatten(), reduction="sum")

    loader = WindowLoader(tokens()[0], block_size=CONFIG.block_size, batch_size=ROWS, seed=0)
    for x, y in loader:
        total = 0.0
        for first in range(0, ROWS, way["micro"]):
            part = slice(first, first + way["micro"])
            with attention():
                value = loss(x[part], y[part]) / y.numel()
                value.backward()
            total += value.item()
        strategy.step(1.0)
        yield total


def peak_of_products(n: int = 1024, rounds: int = 7) -> float:
    """Operations a second of a matrix product, in CPU seconds, which other work disturbs least."""
    a, b = torch.randn(2, n, n)
    return 2 * n**3 / min(timed(lambda: a @ b)[0] for _ in range(rounds))


def with_products(way: dict[str, Any], work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of some work, with fp32 products by oneDNN if the way says so."""
    torch.set_float32_matmul_precision("medium" if way["onednn"] else "highest")
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def main() -> None:
    """Measure all rungs in turn and write the file."""
    torch.set_num_threads(1)
    tokens()
    probe = allow_fast_products()
    print(probe)
    ways, kept = [], dict(START)
    for name, change, keeps in RUNGS:
        way = kept | change
        ways.append((name, way, keeps))
        kept = way if keeps else kept
    runs, rows = [updates(way) for _, way, _ in ways], []
    for (name, way, keeps), run in zip(ways, runs, strict=True):
        first, loss = with_products(way, lambda run=run: next(run))
        rows.append({"rung": name, "kept": keeps, "first_seconds": round(first, 2), "losses": [loss]})
        rows[-1]["seconds"] = []
        print(name, round(first, 2), flush=True)
    for _ in range(ROUNDS):
        for row, (_, way, _), run in zip(rows, ways, runs, strict=True):
            seconds, loss = with_products(way, lambda run=run: next(run))
            row["seconds"].append(round(seconds, 4))
            row["losses"].append(loss)
    with_products(START, lambda: None)
    peak = peak_of_products()
    content = {"command": "python -m bench.engine_ladder", **origin(), "cpu": machine()["cpu"]}
    content |= {"tokens": ROWS * CONFIG.block_size, "probe": probe, "peak_flops": round(peak)}
    content |= {"flops_per_token": 3 * CONFIG.flops_per_token(CONFIG.block_size), "rows": rows}
    atomic_write(RESULTS / "engine_ladder.json", json.dumps(content, indent=1) + "\n")
    for row in rows:
        print(row["rung"], row["seconds"], round(row["losses"][-1], 4))


if __name__ == "__main__":
    main()
