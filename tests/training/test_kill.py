"""kill -9 at any moment, in training and while a checkpoint is written: the run ends in the same bits.

``MYLLM_KILLS=100 pytest tests/training/test_kill.py`` kills as often, and within every file operation.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from myllm.training import checkpoint, journal

pytestmark = pytest.mark.timeout(3600)
KILLS = int(os.environ.get("MYLLM_KILLS", "6"))
STRIDE = 1 if KILLS >= 100 else 8


@pytest.fixture(scope="module")
def server():
    """Runs `process.py` once; each run is a fork of it, so that PyTorch is imported once."""
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("process.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )

    def run(*words):
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder in memory, where there is one: hundreds of checkpoints are forced to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("room")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def whole(server, room):
    """An uninterrupted run: its state, its journal, and how long it takes."""
    folder = room / "whole"
    assert server(room / "first") == 0  # imports take longer than the run
    begun = time.monotonic()
    assert server(folder) == 0
    return *outcome(folder), time.monotonic() - begun


def outcome(folder):
    clock = {"seconds", "units_per_second"}
    state, problems = checkpoint.latest(folder / "checkpoints")
    assert problems == []
    return state, [{k: line[k] for k in line.keys() - clock} for line in journal.read(folder)]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.slow
def test_a_run_that_dies_within_any_file_operation_of_a_checkpoint(server, whole, room):
    """The first 40 operations are those of the first checkpoints; a second death follows each."""
    died = 0
    for n in range(1, 40, STRIDE):
        folder = room / f"operation-{n}"
        died += server(folder, "die", n) == 9
        died += server(folder, "die", n + 2) == 9
        assert server(folder) == 0
        state, lines = outcome(folder)
        assert same(state, whole[0]) and lines == whole[1], n
        assert len([*(folder / "checkpoints").iterdir()]) <= 3  # two last ones and the best
    assert died >= 2 * len(range(1, 40, STRIDE)) - 2


def test_a_run_that_is_killed_at_random(server, whole, room):
    generator, kills, n = random.Random(0), 0, 0
    while kills < KILLS:
        folder, n = room / f"random-{n}", n + 1
        for _ in range(4):
            kills += server(folder, "kill", generator.uniform(0, 0.8 * whole[2])) == -signal.SIGKILL
        assert server(folder) == 0
        state, lines = outcome(folder)
        assert same(state, whole[0]) and lines == whole[1], n
    print(f"killed {kills} times in {n} runs")
