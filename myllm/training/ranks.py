"""Several processes on one machine that run the same function, each with its own rank."""

import atexit
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]
import torch

from myllm.files import UserError

_warm: dict[int, list[subprocess.Popen[bytes]]] = {}


def launch(function: Callable[..., Any], *arguments: Any, world: int = 2, timeout: float = 60.0) -> list[Any]:
    """Run ``function(rank, world, *arguments)`` in `world` gloo processes; return the results by rank.

    The processes stay alive for the next call, so that PyTorch is imported once. Functions defined in a
    notebook are pickled by value.

    Args:
        function: Called in each process; it may use `torch.distributed`.
        arguments: Passed on to it.
        world: How many processes.
        timeout: Seconds after which all of them are killed.

    Raises:
        UserError: A process raised an error, ended or did not finish in time; the first such error.
    """
    if world not in _warm:
        _warm[world] = _start(world)
    work = cloudpickle.dumps((function, arguments))

    def exchange(rank: int, worker: subprocess.Popen[bytes]) -> Any:
        try:
            pickle.dump(work, worker.stdin)  # pyright: ignore[reportArgumentType]
            worker.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            answer, problem = pickle.load(worker.stdout)  # pyright: ignore[reportArgumentType]
        except (EOFError, OSError, pickle.UnpicklingError):
            answer, problem = None, f"process {rank} ended without an answer"
        if problem:
            raise UserError(problem)
        return answer

    pool = ThreadPoolExecutor(world)
    answers = [pool.submit(exchange, rank, worker) for rank, worker in enumerate(_warm[world])]
    try:
        for answer in as_completed(answers, timeout):
            answer.result()
    except BaseException as error:
        _stop(world)  # which ends the threads, too
        if isinstance(error, TimeoutError):
            raise UserError(f"The processes did not finish in {timeout:g} seconds.") from error
        raise
    return [pickle.loads(answer.result()) for answer in answers]


def same_as_one_process(
    loop: Callable[[int, int], dict[str, Any]], *, world: int = 2, timeout: float = 60.0
) -> dict[str, float]:
    """How far a training loop on several processes is from the same loop on one process.

    Up to rounding they must be equal: the invariant of distributed training.

    Args:
        loop: Called with rank and world, it trains on its share of the data and returns numbers and tensors
            by name: losses, norms, weights. On one process it is called with 0 and 1.
        world: How many processes.
        timeout: See `launch`.

    Returns:
        For each name, the largest absolute difference between any of the processes and the single one.

    Raises:
        UserError: As `launch`, or the results differ in names or shapes.
    """
    alone = launch(loop, world=1, timeout=timeout)[0]
    ranks = launch(loop, world=world, timeout=timeout)
    differences: dict[str, float] = {}
    for found in ranks:
        if found.keys() != alone.keys():
            raise UserError(f"One process returned {sorted(alone)}, several returned {sorted(found)}.")
        for name, value in found.items():
            a, b = torch.as_tensor(value).double(), torch.as_tensor(alone[name]).double()
            if a.shape != b.shape:
                raise UserError(f"{name} has the shape {tuple(a.shape)}, on one process {tuple(b.shape)}.")
            worst = (a - b).abs().max() if a.numel() else torch.zeros(())
            before = torch.as_tensor(differences.get(name, 0.0))
            differences[name] = torch.maximum(worst, before.to(worst.dtype)).item()  # NaN stays NaN
    return differences


def _start(world: int) -> list[subprocess.Popen[bytes]]:
    store = Path(tempfile.mkdtemp()) / "store"
    atexit.register(shutil.rmtree, store.parent, ignore_errors=True)
    atexit.register(_stop, world)
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "myllm.training.ranks", str(rank), str(world), str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(world)
    ]


def _stop(world: int) -> None:
    for worker in _warm.pop(world, []):
        worker.kill()
        worker.wait()


def _serve(rank: int, world: int, store: str) -> None:
    """Run one of the processes: answer calls until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints must not mix with answers
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{store}", timeout=timedelta(seconds=60), rank=rank, world_size=world
        )
    while True:
        try:
            function, arguments = pickle.loads(pickle.load(sys.stdin.buffer))
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = cloudpickle.dumps(function(rank, world, *arguments)), None
        except Exception as error:
            answer = None, f"process {rank}: {type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


def gathered(items: list[Any], world: int) -> list[Any]:
    """The items of all processes in the order of their ranks; every process must call it."""
    if world == 1:
        return items
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
