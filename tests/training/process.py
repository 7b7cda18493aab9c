"""Training runs in processes of their own, which tests kill.

Each line of the input is a folder, in which a run begins or is resumed, and how many processes train. More
words tell how it ends before its time:

- ``kill S``: all processes are killed by SIGKILL after S seconds;
- ``die N``: all are killed when one of them begins its N-th operation: a forward pass or a step of a write;
- ``alone N``: only the last process is killed, at its N-th operation; the others must notice;
- ``hang N``: the last process stops answering at its N-th operation.

Each process that ends with a `UserError` writes it to a file ``said-<rank>``. The exit codes are printed.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch._dynamo  # here once, as PyTorch itself would import it in each run's first update
from tiny import Dropped, objective, trainer

from myllm.files import UserError
from myllm.training import checkpoint
from myllm.training.journal import Journal
from myllm.training.strategies import ddp  # noqa: F401, imported here once

STEPS = 12
WAIT = {"hang": 2.0}
"""Seconds after which a process that does not answer is given up, where it is not the usual time."""


def start(folder, strategy):
    random.seed(0)  # a forked process seeds it anew
    torch.manual_seed(0)
    model = Dropped()
    return trainer(
        STEPS,
        model=model,
        strategy=strategy,
        folder=folder / "checkpoints",
        checkpoint_every=1,
        validation=[next(objective(2, seed=3).loader)],
        evaluate_every=3,
        callbacks=[Journal(folder, quiet=True)],
    )


def at_operation(count, act):
    """Call `act` before the count-th call of a function that an update or a write consists of."""
    left = [count]

    def counted(function):
        def wrapped(*args, **options):
            left[0] -= 1
            if left[0] == 0:
                act()
            return function(*args, **options)

        return wrapped

    checkpoint.atomic_write = counted(checkpoint.atomic_write)
    checkpoint.shutil.rmtree = counted(checkpoint.shutil.rmtree)
    checkpoint.sha256 = counted(checkpoint.sha256)
    Path.replace = counted(Path.replace)
    Path.mkdir = counted(Path.mkdir)
    os.fsync = counted(os.fsync)
    Dropped.forward = counted(Dropped.forward)


def work(rank, world, folder, store, how, number):
    """One process of a run; it does not return."""
    if how == "die" and rank == int(number) % world:
        at_operation(int(number), lambda: os.killpg(0, signal.SIGKILL))
    if how in ("alone", "hang") and rank == world - 1:
        sign = signal.SIGKILL if how == "alone" else signal.SIGSTOP
        at_operation(int(number), lambda: os.kill(os.getpid(), sign))
    if world > 1:
        wait = timedelta(seconds=WAIT.get(how, 60.0))
        torch.distributed.init_process_group(
            "gloo", f"file://{store}/store", timeout=wait, rank=rank, world_size=world
        )
    try:
        start(folder, "ddp" if world > 1 else "single").fit()
    except UserError as error:
        (folder / f"said-{rank}").write_text(str(error))
        os._exit(1)
    os._exit(0)


def run(world, *what):
    """Fork the processes of a run, since PyTorch is then imported once; their exit codes by rank."""
    *_, how, number = what
    pids = []
    for rank in range(world):
        pid = os.fork()
        group = pids[0] if pids else pid
        os.setpgid(pid, group)  # here and there, whichever comes first
        if pid == 0:
            work(rank, world, *what)
        pids.append(pid)
    if how == "kill":
        time.sleep(float(number))
        os.killpg(pids[0], signal.SIGKILL)  # not waited for yet, so the number is still theirs
    codes = []
    for rank, pid in enumerate(pids):
        if how == "hang" and rank == world - 1:
            os.kill(pid, signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return codes


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in iter(sys.stdin.readline, ""):
        folder, world, how, number, *_ = [*line.split(), "", ""]
        with tempfile.TemporaryDirectory() as store:
            print(json.dumps(run(int(world), Path(folder), store, how, number)), flush=True)
