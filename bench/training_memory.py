"""Peak memory of a training step with a vocabulary of 50,304 words, where the logits take most of it.

    python -m bench.training_memory                      both shapes
    python -m bench.training_memory --shapes 6x384       the small one, a minute

Each side is a fresh process that makes one update in float32, so that the optimizer's state is there, and
then another, whose high-water mark is reported. All sides train a GPT-2 of the same weights on the same
batches, as in `bench.training`; their first losses are compared. Ours computes the loss of a few rows at a
time (`chunked_loss`). Computing activations again saves more and costs a third more time; it is a
setting of both libraries, so these two are compared with each other.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import bench.common as common  # before torch: it sets the threads
import bench.training as training
from bench.training import OURS, PLAIN, RIVAL

training.SHAPES |= {  # layers, heads, width, vocabulary, texts, tokens of each
    "6x384": (6, 6, 384, 50_304, 4, 1024),
    "gpt2-small": (12, 12, 768, 50_304, 4, 1024),
}
AGAIN = ", activations computed again"
SIDES = [OURS, PLAIN, RIVAL, OURS + AGAIN, RIVAL + AGAIN]
GOAL = 0.6


def be(name: str, shape: str) -> None:
    """Be one side: print its first loss and the memory of its second update, in MB."""
    kind, again = name.removesuffix(AGAIN), name.endswith(AGAIN)
    if kind == OURS:
        update = training.ours(shape, "fp32", recompute=again)
    else:
        update = training.rival(shape, "fp32", kind, recompute=again)
    print(json.dumps({"loss": update(), **common.memory(update)}))


def measure(shape: str) -> None:
    """All sides, one after the other."""
    memory: dict[str, dict[str, float]] = {}
    for name in SIDES:
        command = [sys.executable, "-m", "bench.training_memory", "--be", name, shape]
        done = subprocess.run(command, cwd=common.ROOT, check=True, capture_output=True, text=True)
        memory[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"  {name:40} {memory[name]['peak']:8.0f} MB", flush=True)
    losses = [one.pop("loss") for one in memory.values()]
    far = max(losses) - min(losses)
    assert far <= 1e-4, dict(zip(SIDES, losses, strict=True))

    def ratio(ours: str, rivals: list[str], goal: float | None) -> dict[str, Any]:
        leanest = min(rivals, key=lambda name: memory[name]["peak"])
        share = round(memory[ours]["peak"] / memory[leanest]["peak"], 3)
        print(f"{ours}: {share}x of {leanest}" + (f" (goal {goal})" if goal else ""))
        return {"ours": ours, "against": leanest, "ratio": share, "goal": goal}

    layers, _, width, vocabulary, B, T = training.SHAPES[shape]
    common.record(
        "Memory of a training step",
        f"GPT-2, {layers} layers of width {width}, vocabulary {vocabulary:,}, {B} x {T} tokens, fp32",
        machine=common.machine("myllm-course", "torch", "transformers"),
        losses_apart=far,
        memory_mb=memory,
        memory_ratios=[
            ratio(OURS, [PLAIN, RIVAL], GOAL),
            ratio(OURS + AGAIN, [RIVAL + AGAIN], GOAL),
            ratio(OURS + AGAIN, [PLAIN, RIVAL], None),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    shapes = ["6x384", "gpt2-small"]
    parser.add_argument("--shapes", nargs="+", choices=shapes, default=shapes)
    parser.add_argument("--be", nargs=2, metavar=("SIDE", "SHAPE"), help="be one side")
    options = parser.parse_args()
    if options.be:
        return be(*options.be)
    for shape in options.shapes:
        measure(shape)
    return None


if __name__ == "__main__":
    main()
