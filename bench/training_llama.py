"""A training step of a LLaMA: `Trainer` against loops around `transformers` and litgpt.

    python -m bench.training_llama                    both shapes, float32 and bfloat16

litgpt wants an environment of its own, as `bench.forward` says, and is left out where MYLLM_LITGPT_PYTHON
names none. All sides train the same weights on the same batches with AdamW, clipping and no dropout, each in
a process of its own. In bfloat16 the rivals use autocast, as they do by default; ours holds the weights in
bfloat16 and updates fp32 masters.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import bench.common as common  # before torch: it sets the threads
from bench import forward
from bench.training import GOALS, Update, our_update, plain_update

OURS = forward.OURS


def batches(folder: Path) -> Any:
    """The same batch for all, again and again: (ids, targets)."""
    import torch

    ids = torch.load(folder / "ids.pt")
    while True:
        yield ids, ids.roll(-1, 1)


def ours(folder: Path, precision: str) -> Update:
    """One update of our loop; its loss."""
    import torch

    model, _ = forward.myllm(torch.load(folder / "hf.pt"), torch.load(folder / "weights.pt"))
    return our_update(model.train(), batches(folder), precision)


def rival(name: str, folder: Path, precision: str) -> Update:
    """One update of a loop around another library's model; its loss."""
    import torch

    make = getattr(forward, name)
    model, logits = make(torch.load(folder / "hf.pt"), torch.load(folder / "weights.pt"))

    def loss_of(ids: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(logits(ids).flatten(0, 1).float(), targets.flatten())

    return plain_update(model, loss_of, batches(folder), precision)


def work(name: str, folder: str, precision: str) -> None:
    """What the process of one side does: answer each line of standard input with a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print what they like
    import torch

    torch.set_num_threads(1)
    update = ours(Path(folder), precision) if name == OURS else rival(name, Path(folder), precision)
    commands = {
        "loss": update,
        "time": lambda: common.timed(update),
        "version": lambda: forward.version("myllm-course" if name == OURS else name),
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


def measure(shape: str, precision: str, rounds: int) -> None:
    """Equal losses, then time in turns."""
    pythons = {OURS: sys.executable, "transformers": sys.executable}
    if other := os.environ.get("MYLLM_LITGPT_PYTHON"):
        pythons["litgpt"] = other
    layers, _, width, vocabulary, B, T = forward.SHAPES[shape]
    with TemporaryDirectory() as name:
        forward.prepare("llama", shape, Path(name))
        sides = {
            side: forward.Side(python, "bench.training_llama", "--work", side, name, precision)
            for side, python in pythons.items()
        }
        losses = {side: [one.ask("loss") for _ in range(3)] for side, one in sides.items()}
        far = max(abs(a - b) for other in losses.values() for a, b in zip(losses[OURS], other, strict=True))
        assert far <= (1e-4 if precision == "fp32" else 2e-2), losses
        versions = {side: one.ask("version") for side, one in sides.items()}
        asked = {side: (one, "time") for side, one in sides.items()}
        cpu, wall = common.paired(asked, rounds, clock=lambda pair: pair[0].ask(pair[1]))
        for one in sides.values():
            one.process.communicate()
    where = common.machine("torch")
    where["versions"] |= versions
    common.record(
        "Training step",
        f"LLaMA, {layers} layers of width {width}, vocabulary {vocabulary:,}, {B} x {T} tokens, {precision}, "
        "each side in a process of its own",
        machine=where,
        losses_apart=far,
        cpu_seconds={side: round(median(seconds), 3) for side, seconds in cpu.items()},
        comparisons=[
            common.compare(cpu, wall, OURS, side, goal=GOALS[precision]) for side in sides if side != OURS
        ],
    )


def main() -> None:
    """Measure, or be one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=forward.SHAPES, default=list(forward.SHAPES))
    parser.add_argument("--precisions", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--work", nargs=3, metavar=("SIDE", "FOLDER", "PRECISION"), help="be one side")
    options = parser.parse_args()
    if options.work:
        return work(*options.work)
    for shape in options.shapes:
        for precision in options.precisions:
            measure(shape, precision, options.rounds)
    return None


if __name__ == "__main__":
    main()
