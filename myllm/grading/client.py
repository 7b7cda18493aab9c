"""The near end of the warm worker process: starts it, sends it answers, replaces it when it is lost."""

import atexit
import base64
import importlib
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from myllm.grading import Exercise
from myllm.grading.results import Result


class Worker:
    """One warm process that checks answers, each within limits.

    Args:
        seconds: processor time of one exercise; three times as many may pass on the clock.
        memory: bytes an answer may allocate.
    """

    def __init__(self, seconds: float = 10.0, memory: int = 1 << 30) -> None:
        self.seconds, self.memory = seconds, memory
        self.process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()

    def check_file(self, exercise: Exercise, file: Path, seed: int | None = None) -> Result:
        """Check the answer to an exercise in a file."""
        return self._ask(exercise, seed, file=str(file.resolve()), folder=str(file.resolve().parent))

    def check_function(
        self, exercise: Exercise, function: Callable[..., Any], seed: int | None = None
    ) -> Result:
        """Check a function of this process; it travels by cloudpickle."""
        cloudpickle: Any = importlib.import_module("cloudpickle")
        data = base64.b64encode(cloudpickle.dumps(function)).decode()
        return self._ask(exercise, seed, function=data, folder=str(Path.cwd()))

    def _ask(self, exercise: Exercise, seed: int | None, **answer: str) -> Result:
        request = {"exercise": asdict(exercise), "seed": secrets.randbelow(10**6) if seed is None else seed}
        limits = {"seconds": self.seconds, "memory": self.memory, "path": sys.path}
        line = json.dumps({**request, **limits, **answer}) + "\n"
        process = self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = self._replies.get(timeout=10 * self.seconds + 60)
        except (OSError, queue.Empty):
            reply = ""
        except BaseException:  # Ctrl-C: a late reply must not be taken for the next one
            self.close()
            raise
        if not reply:  # the answer ended the worker itself
            self.close()
            return Result.failed(exercise, "The checking process was lost.")
        return Result.from_json(json.loads(reply))

    def _start(self) -> "subprocess.Popen[str]":
        if self.process is not None and self.process.poll() is None:
            return self.process
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = process = subprocess.Popen(
            [sys.executable, "-P", "-m", "myllm.grading.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        self._replies = replies = queue.SimpleQueue[str]()

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                replies.put(line)
            replies.put("")

        threading.Thread(target=listen, daemon=True).start()
        atexit.register(self.close)
        return process

    def close(self) -> None:
        """End the process; the next check starts a new one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None
