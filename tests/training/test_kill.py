"""kill -9 at any moment, in training and while a checkpoint is written: the run ends in the same bits.

``MYLLM_KILLS=100 pytest tests/training/test_kill.py`` kills runs of one process 100 times and runs of two 200
times, and within every operation of the first updates.
"""

import json
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
KILLED = -signal.SIGKILL


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
        return json.loads(process.stdout.readline())

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
    """Uninterrupted runs by the number of processes: state, journal, and how long each takes."""
    runs = {}
    for world in (1, 2):
        folder = room / f"whole-{world}"
        assert server(room / f"first-{world}", world) == [0] * world  # imports take longer than the run
        begun = time.monotonic()
        assert server(folder, world) == [0] * world
        runs[world] = *outcome(folder), time.monotonic() - begun
    return runs


def outcome(folder):
    clock = {"seconds", "units_per_second"}
    state, problems = checkpoint.latest(folder / "checkpoints")
    assert problems == []
    return state, [{k: line[k] for k in line.keys() - clock} for line in journal.read(folder)]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def finish(server, whole, folder, world):
    """Resume a run that died; it must end as the uninterrupted one."""
    assert server(folder, world) == [0] * world
    state, lines = outcome(folder)
    assert same(state, whole[world][0]) and lines == whole[world][1], folder
    assert len([*(folder / "checkpoints").iterdir()]) <= 3  # two last ones and the best


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_run_that_dies_within_any_operation(server, whole, room, world):
    """The first 40 operations are those of the first updates and checkpoints; a second death follows each."""
    died = 0
    for n in range(1, 40, STRIDE):
        folder = room / f"operation-{world}-{n}"
        for operation in (n, n + 2):
            codes = server(folder, world, "die", operation)
            assert codes in ([0] * world, [KILLED] * world)
            died += codes[0] == KILLED
        finish(server, whole, folder, world)
    assert died >= 1.8 * len(range(1, 40, STRIDE))  # a second run may end before the operation


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_random(server, whole, room, world):
    generator, kills, n = random.Random(0), 0, 0
    while kills < KILLS * world:
        folder, n = room / f"random-{world}-{n}", n + 1
        for _ in range(4):
            moment = generator.uniform(0, 0.8 * whole[world][2])
            kills += KILLED in server(folder, world, "kill", moment)
        finish(server, whole, folder, world)
    print(f"{world} processes: killed {kills} times in {n} runs")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "hang"])
@pytest.mark.parametrize("n", range(3, 12, 2))  # in forward passes and within the writing of a checkpoint
def test_where_one_process_is_lost_the_other_says_so_and_the_run_can_be_resumed(server, whole, room, how, n):
    folder = room / f"{how}-{n}"
    assert server(folder, 2, how, n) == [1, KILLED]
    said = (folder / "said-0").read_text()
    assert said.startswith("Another process ended or did not answer (") and said.endswith("); run again.")
    assert "\n" not in said
    finish(server, whole, folder, 2)
