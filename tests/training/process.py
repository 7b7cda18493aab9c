"""Training runs in processes of their own, which tests kill.

Each line of the input is a folder, in which a run begins or goes on. With "die N" it ends without any
cleaning up, as kill -9 would end it, at the N-th file operation; with "kill S" it is killed after S seconds.
Its exit code is printed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from tiny import Dropped, objective, trainer

from myllm.training import checkpoint
from myllm.training.journal import Journal

STEPS = 12


def start(folder):
    random.seed(0)  # a forked process seeds it anew
    torch.manual_seed(0)
    model = Dropped()
    return trainer(
        STEPS,
        model=model,
        folder=Path(folder) / "checkpoints",
        checkpoint_every=1,
        validation=[next(objective(2, seed=3).loader)],
        evaluate_every=3,
        callbacks=[Journal(folder, quiet=True)],
    )


def die_at(count):
    """End this process at the count-th call of a function that a write consists of."""
    left = [count]

    def dying(function):
        def wrapped(*args, **options):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return function(*args, **options)

        return wrapped

    checkpoint.atomic_write = dying(checkpoint.atomic_write)
    checkpoint.shutil.rmtree = dying(checkpoint.shutil.rmtree)
    checkpoint.sha256 = dying(checkpoint.sha256)
    Path.replace = dying(Path.replace)
    Path.mkdir = dying(Path.mkdir)
    os.fsync = dying(os.fsync)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in iter(sys.stdin.readline, ""):  # forked, so that PyTorch is imported once
        folder, how, number, *_ = [*line.split(), "", ""]
        pid = os.fork()
        if pid == 0:
            if how == "die":
                die_at(int(number))
            start(folder).fit()
            os._exit(0)
        if how == "kill":
            time.sleep(float(number))
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
