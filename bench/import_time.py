"""Start-up: ``import myllm`` and ``myllm --help`` in a fresh interpreter, beside an empty one.

Run ``python -m bench.import_time``.
"""

import argparse
import resource
import subprocess
import sys
import time
from statistics import median

from bench.common import ROOT, machine, record

COMMANDS = {
    "python, nothing": ("-c", "pass"),
    "import myllm": ("-c", "import myllm"),
    "myllm --help": ("-c", "import sys; from myllm.cli import main; sys.exit(main(['--help']))"),
}
GOALS = {"import myllm": 0.15, "myllm --help": 0.5}  # seconds in all
CHECK = "import sys, myllm; sys.exit('torch' in sys.modules)"


def run(arguments: tuple[str, ...]) -> tuple[float, float]:
    """CPU and wall seconds of one fresh interpreter."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, check=True)
    seconds = {name: [] for name in COMMANDS}
    for i in range(options.rounds + 1):
        for name, arguments in COMMANDS.items():
            taken = run(arguments)
            if i:
                seconds[name].append(taken)
    record(
        "Start-up",
        "a fresh interpreter each time, files in the page cache",
        machine=machine("myllm-course", "tyro", "rich"),
        start_up=[
            {"command": name, "goal": GOALS.get(name)}
            | {
                kind: [round(f(column), 3) for f in (median, min, max)]
                for kind, column in zip(("cpu", "wall"), zip(*rows, strict=True), strict=True)
            }
            for name, rows in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
