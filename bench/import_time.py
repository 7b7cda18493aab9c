"""What it costs to import the package and to ask the command line for help.

Claims: ``import myllm`` takes under 0.15 s, ``myllm --help`` under 0.5 s, the start of Python included. Each
round starts plain Python, then the import, then help; the medians of the rounds are printed as one JSON line.
Run it alone: ``python bench/import_time.py``.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROUNDS = 5
START = [sys.executable, "-c", "pass"]
WORK = {
    "import myllm": ([sys.executable, "-c", "import myllm"], 0.15),
    "myllm --help": ([sys.executable, "-c", "import myllm.cli; myllm.cli.main(['--help'])"], 0.5),
}


def seconds(command):
    """Wall seconds of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    """Measure, print, and exit 1 where a claim does not hold."""
    for command in [START, *(command for command, _ in WORK.values())]:
        seconds(command)  # warm the disk cache
    rounds = {name: [] for name in ("start", *WORK)}
    for _ in range(ROUNDS):
        rounds["start"].append(seconds(START))
        for name, (command, _) in WORK.items():
            rounds[name].append(seconds(command))
    start = statistics.median(rounds["start"])
    result = {
        name: {
            "seconds": round(statistics.median(rounds[name]), 4),
            "above_start": round(statistics.median(rounds[name]) - start, 4),
            "limit": limit,
        }
        for name, (_, limit) in WORK.items()
    }
    machine = {"python": platform.python_version(), "load": os.getloadavg()[0], "cores": os.cpu_count()}
    print(json.dumps({"bench": "import_time", "rounds": ROUNDS, **machine, **result}))
    return int(any(one["seconds"] > one["limit"] for one in result.values()))


if __name__ == "__main__":
    sys.exit(main())
