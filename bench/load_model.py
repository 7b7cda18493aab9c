"""Loading SmolLM2 from its GGUF file: ours against transformers on the same file, time and peak memory.

Run ``python -m bench.load_model`` after ``myllm download smollm2``. Each side loads in fresh processes, in
turn; the clock starts behind the imports of the library itself and stops when the model can be called.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.common import ROOT, compare, machine, record, report_memory

OURS, THEIRS = "LLM.from_pretrained", "AutoModelForCausalLM and AutoTokenizer"


def loader(side: str) -> Callable[[], Any]:
    """What is measured: model and tokenizer."""
    from myllm.data import downloads

    path = downloads.find("smollm2")
    if path is None:
        sys.exit("Run `myllm download smollm2` first.")
    if side == OURS:
        from myllm import LLM

        return lambda: LLM.from_pretrained(path)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load() -> object:
        options = {"gguf_file": path.name}
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
        return model.eval(), AutoTokenizer.from_pretrained(path.parent, **options)

    return load


def measure(side: str, what: str) -> None:
    load = loader(side)
    if what == "memory":
        return report_memory(load)
    start = time.process_time(), time.perf_counter()
    loaded = load()
    print(json.dumps([time.process_time() - start[0], time.perf_counter() - start[1]]))
    del loaded


def fresh(side: str, what: str) -> dict[str, float] | list[float]:
    """What one fresh process measured."""
    command = [sys.executable, "-m", "bench.load_model", "--side", side, "--what", what]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def check() -> None:
    """Both must have loaded the same model."""
    import torch

    ids = torch.arange(100, 164)[None]
    with torch.inference_mode():
        ours, theirs = loader(OURS)().model(ids), loader(THEIRS)()[0](ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side")
    parser.add_argument("--what", default="time")
    options = parser.parse_args()
    if options.side:
        return measure(options.side, options.what)
    check()
    cpu: dict[str, list[float]] = {OURS: [], THEIRS: []}
    wall: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for i in range(options.rounds + 1):
        for side in (OURS, THEIRS):
            seconds = fresh(side, "time")
            if i:  # in the first round the files are read from the disk
                cpu[side].append(seconds[0])
                wall[side].append(seconds[1])
            print(f"  round {i}  {side:40} {seconds[0]:8.3f} s CPU", flush=True)
    record(
        "Loading a model",
        "SmolLM2-135M from its GGUF file (Q4_1) to float32, with its tokenizer",
        machine=machine("torch", "gguf", "transformers"),
        comparisons=[compare(cpu, wall, OURS, THEIRS, goal=1.0)],
        cpu_seconds={side: round(median(seconds), 3) for side, seconds in cpu.items()},
        memory_mb={side: fresh(side, "memory") for side in (OURS, THEIRS)},
    )


if __name__ == "__main__":
    main()
