"""What ends a run from outside: a signal, or the loss of another process."""

import re
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from myllm.files import UserError

LOST = "gloo|nccl|peer|connection|timed? ?out|socket"
"""What the errors of torch.distributed say when another process is gone."""


@contextmanager
def stop_signals() -> Generator[list[int]]:
    """Collect the signals that ask this process to stop in a list; a second Ctrl-C stops it at once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield received
        return
    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def lost_process(world: int) -> Generator[None]:
    """Turn the error that a collective operation raises when another process is gone into one sentence.

    Raises:
        UserError: Another process ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if world == 1 or not re.search(LOST, str(error), re.IGNORECASE):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"Another process ended or did not answer ({reason}); run again.") from error
