"""The client of the warm worker process: starts it, sends it answers, restarts it after a crash."""

import atexit
import base64
import importlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from myllm.files import UserError
from myllm.grading import Exercise
from myllm.grading.results import Result

MARK = "MYLLM_WORKER"  # the environment variable that marks the descendants of a worker


class Worker:
    """One warm process that checks answers, each within limits.

    Args:
        seconds: the limit of processor time for one exercise; that of wall-clock time is three times as long.
        memory: the most bytes that an answer may allocate.
    """

    def __init__(self, seconds: float = 10.0, memory: int = 1 << 30) -> None:
        self.seconds, self.memory = seconds, memory
        self.process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._mark = secrets.token_hex(16)
        atexit.register(self.close)

    def check_file(self, exercise: Exercise, file: Path, seed: int | None = None) -> Result:
        """Check the answer to an exercise in a file."""
        return self._ask(exercise, seed, file=str(file.resolve()), folder=str(file.resolve().parent))

    def check_function(
        self, exercise: Exercise, function: Callable[..., Any], seed: int | None = None
    ) -> Result:
        """Check a function of this process, which cloudpickle serializes."""
        cloudpickle: Any = importlib.import_module("cloudpickle")
        data = base64.b64encode(cloudpickle.dumps(function)).decode()
        return self._ask(exercise, seed, function=data, folder=str(Path.cwd()))

    def _ask(self, exercise: Exercise, seed: int | None, **answer: str) -> Result:
        request = {"exercise": asdict(exercise), "seed": secrets.randbelow(10**6) if seed is None else seed}
        limits = {"seconds": self.seconds, "memory": self.memory, "path": sys.path}
        line = json.dumps({**request, **limits, **answer}) + "\n"
        try:
            process = self._start()
            assert process.stdin is not None
            with suppress(OSError):  # the process is gone, as the missing reply will show
                process.stdin.write(line.encode())
                process.stdin.flush()
            reply = self._reply(10 * self.seconds + 60)
        except BaseException:  # Ctrl-C: a late reply must not be mistaken for the next one
            self.close()
            raise
        if not reply:  # the answer ended the worker itself
            self.close()
            return Result.failed(exercise, "The checking process was lost.")
        return Result.from_json(json.loads(reply))

    def _reply(self, seconds: float) -> bytes:
        """The next line that the process writes; nothing if it ends or exceeds the time limit."""
        assert self.process and self.process.stdout
        pipe, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
                return b""
            if not (block := os.read(pipe, 1 << 16)):
                return b""
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _start(self) -> "subprocess.Popen[bytes]":
        if self.process is not None and self.process.poll() is None:
            return self.process
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with tempfile.TemporaryFile() as errors:
            self._buffer = b""
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "myllm.grading.worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, MARK: self._mark, **threads},
                start_new_session=True,  # only this process handles Ctrl-C
            )
            if not self._reply(120):
                errors.seek(0)
                told = errors.read().decode(errors="replace").strip().splitlines() or ["it ended in silence"]
                raise UserError(
                    f"The checking process could not start ({told[-1][:300]}); see whether `import torch` "
                    "works and whether there is memory left."
                )
        return self.process

    def close(self) -> None:
        """End the process and what its answers have started; the next check starts a new one."""
        process, self.process = self.process, None
        if process is None:
            return
        with suppress(OSError):
            process.terminate()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe
                pipe.close()
        if process.returncode:  # it was killed, so it has not cleaned up
            self._sweep()

    def _sweep(self) -> None:
        """End the processes that a crashed worker has left behind (Linux only).

        A process shows no environment while it starts another program, and one may fork after it has been
        examined. So the sweep ends only when two passes in a row, some time apart, find nothing.
        """
        mark, looks_in_vain = f"{MARK}={self._mark}".encode(), 0
        for _ in range(100):
            found = False
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if mark in (folder / "environ").read_bytes():
                        found = True
                        os.kill(int(folder.name), signal.SIGKILL)
            looks_in_vain = 0 if found else looks_in_vain + 1
            if looks_in_vain == 2:
                return
            time.sleep(0.05)
