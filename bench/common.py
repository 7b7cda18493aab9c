"""What all benchmarks share: paired timing, peak memory of a fresh process, the machine, the results file."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

# One thread for everybody, before anything is imported that would start more.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results.jsonl")
Seconds = dict[str, list[float]]  # side -> one number a round


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds (all threads) and wall seconds of one call."""
    start = time.process_time(), time.perf_counter()
    result = run()
    taken = time.process_time() - start[0], time.perf_counter() - start[1]
    del result  # freeing it is not part of the work
    return taken


def paired(
    sides: dict[str, Any], rounds: int = 5, clock: Callable[[Any], tuple[float, float]] = timed
) -> tuple[Seconds, Seconds]:
    """Run the sides in turn, A B C A B C …, after one round to warm up.

    Args:
        sides: What `clock` times, by default functions.
        rounds: How often each is timed.
        clock: Runs a side; its CPU and wall seconds.

    Returns:
        CPU seconds (all threads) and wall seconds of each side and round.
    """
    cpu: Seconds = {name: [] for name in sides}
    wall: Seconds = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, run in sides.items():
            taken = clock(run)
            if i:
                cpu[name].append(taken[0])
                wall[name].append(taken[1])
            print(f"  {'round ' + str(i) if i else 'warm-up'}  {name:34} {taken[0]:8.3f} s CPU", flush=True)
    return cpu, wall


def ratio(seconds: Seconds, ours: str, theirs: str) -> list[float]:
    """How many times as fast ours is: median, smallest and largest of the rounds' own ratios."""
    ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    return [round(f(ratios), 3) for f in (median, min, max)]


def compare(
    cpu: Seconds, wall: Seconds, ours: str, theirs: str, goal: float | None = None, limit: bool = False
) -> dict[str, Any]:
    """One line of the report: ours against theirs; `limit` says that theirs is a bound and no rival."""
    return {
        "ours": ours,
        "against": theirs,
        "limit": limit,
        "goal": goal,
        "cpu": ratio(cpu, ours, theirs),
        "wall": ratio(wall, ours, theirs),
    }


def peak_memory(module: str, *arguments: str) -> dict[str, float]:
    """Run ``python -m module arguments`` and read the JSON it prints with `report_memory`, in MB."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory(work: Callable[[], object]) -> dict[str, float]:
    """How much memory this process held before the work, and the high-water mark during it, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew: loading may have stood higher
    before = _status("VmRSS")
    result = work()
    peak = _status("VmHWM")
    del result
    return {"before": before, "peak": peak}


def report_memory(work: Callable[[], object]) -> None:
    """Print what `memory` measures."""
    print(json.dumps(memory(work)))


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith(field)).split()[1]) / 1000, 1)


def machine(*packages: str) -> dict[str, Any]:
    """Where and with what a result was measured."""
    try:
        cpus = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in cpus if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": 1,
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def origin() -> dict[str, str]:
    """What a file in book/_results says of its commit and machine."""
    where = f"{platform.machine()}, 1 thread, torch {version('torch')}"
    return {"commit": _commit(), "machine": where}


def _commit() -> str:
    """The commit, with a plus sign if code that matters for a result differs from it."""
    changed = _git("status", "--porcelain", "--", "myllm", "bench/*.py")
    return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def record(claim: str, setting: str, **fields: Any) -> None:
    """Add one result to bench/results.jsonl and print its comparisons."""
    with RESULTS.open("a") as file:
        file.write(json.dumps({"claim": claim, "setting": setting, **fields}, ensure_ascii=False) + "\n")
    for row in fields.get("comparisons", []):
        goal = "" if row["goal"] is None else f"  (goal {row['goal']})"
        print(f"{row['ours']} is {row['cpu'][0]}× as fast as {row['against']} {row['cpu'][1:]}{goal}")
