"""What the loop costs beside the work: its own overhead, its loader, and the start of a run.

    python -m bench.loop

The overhead is that of `Trainer.update` over the same computation line by line, on a small model, where
overhead weighs most. The loader is timed alone. The start is that of ``myllm pretrain`` with one update on a
text of a few bytes, less that of ``import torch``.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import bench.common as common  # before torch: it sets the threads
from bench.import_time import run

SHAPE = {"vocab_size": 1024, "block_size": 128, "n_layer": 3, "n_head": 4, "n_embd": 96, "init_std": 0.06}
ROWS = 32


def make() -> tuple[Any, Any]:
    """The model of the scoreboard's GPT row, and its loader over random ids."""
    import numpy as np
    import torch

    from myllm import ModelConfig, Transformer
    from myllm.data.loader import WindowLoader

    torch.manual_seed(0)
    model = Transformer(ModelConfig.preset("gpt2", **SHAPE))
    ids = np.random.default_rng(0).integers(0, 1024, 2_000_000).astype(np.uint16)
    return model, WindowLoader(ids, block_size=128, batch_size=ROWS, seed=0)


def trainer() -> Callable[[], float]:
    """One update of `Trainer`."""
    from myllm import Pretrain, TrainConfig, Trainer

    model, loader = make()
    run = Trainer(model, Pretrain(loader), TrainConfig(steps=10**6, schedule="constant"))
    stream = run.objective.batches(model)
    return lambda: run.update(stream)["loss"]


def by_hand() -> Callable[[], float]:
    """The same forward pass, backward pass, clipping and update, one after the other."""
    import torch

    from myllm.training.losses import chunked_loss
    from myllm.training.optimizer import make_optimizer

    model, loader = make()
    optimizer = make_optimizer(model, lr=1e-3)
    x, y = next(iter(loader))

    def update() -> float:
        loss = model(x, head=lambda hidden: chunked_loss(hidden, y, model.lm_head))
        (loss / y.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return update


def loading() -> Callable[[], None]:
    """A hundred batches of the loader."""
    _, loader = make()
    stream = iter(loader)
    return lambda: [None for _ in islice(stream, 100)] and None


def start(rounds: int) -> dict[str, Any]:
    """How much longer ``myllm pretrain`` with one update takes than ``import torch``, in new processes."""
    small = ["--n-layer", "1", "--n-embd", "16", "--n-head", "1", "--block-size", "16"]
    extra: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name:
        text = Path(name, "text.txt")
        text.write_text("To be, or not to be, that is the question. " * 200)
        train = ["-m", "myllm", "pretrain", str(text), "--tokenizer", "bytes", *small, "--steps", "1"]
        for i in range(rounds):
            commands = ["-c", "import torch"], [*train, "--warmup", "0", "--out", str(Path(name, str(i)))]
            bare, whole = (run(tuple(command)) for command in commands)
            extra.append([b - a for a, b in zip(bare, whole, strict=True)])
    cpu, wall = ([round(f(column), 2) for f in (median, min, max)] for column in zip(*extra, strict=True))
    return {
        "command": "myllm pretrain, one update, beyond import torch",
        "cpu": cpu,
        "wall": wall,
        "goal": 3.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    sides = {
        "Trainer.update": trainer(),
        "the same line by line": by_hand(),
        "100 batches of the loader": loading(),
    }
    cpu, wall = common.paired(sides, options.rounds)
    ours, bare, loader = sides
    single = "one batch of the loader"
    one = [{bare: clock[bare], single: [s / 100 for s in clock[loader]]} for clock in (cpu, wall)]
    common.record(
        "The training loop",
        f"GPT-2, 3 layers of width 96, {ROWS} x 128 tokens, float32",
        machine=common.machine("myllm-course", "torch"),
        cpu_seconds={name: round(median(s), 4) for name, s in cpu.items()},
        comparisons=[
            common.compare(cpu, wall, ours, bare, goal=0.97),
            common.compare(*one, single, bare, goal=50),
        ],
        start_up=[start(3)],
    )


if __name__ == "__main__":
    main()
