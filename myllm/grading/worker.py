"""The warm process: torch is loaded once, then every exercise is checked in a fork of its own.

What an answer does to its process (patched modules, seeds, folders, exits, crashes) ends with that fork. The
warm process only waits: it reads one JSON request a line, watches the fork, writes one JSON result a line.
This is practice, not proctoring: it stops accidents, not attacks.
"""

import base64
import ctypes
import gc
import importlib
import json
import math
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import torch

from myllm.grading import Exercise
from myllm.grading.compare import Failure
from myllm.grading.engine import exam, grade
from myllm.grading.exam import measure
from myllm.grading.results import LONGEST, Result, clean

PROCESSES = 64  # that an answer may have at once
BLOCKED = 3  # times the limit of processor time that may pass on the clock
TOO_LONG = "The time limit was reached (an endless loop?)"
TICK = 0.1  # seconds between looks at a fork


def load(request: dict[str, Any]) -> Callable[..., Any]:
    """The answer that a request carries: a pickled function, or a name in a file."""
    os.chdir(request["folder"])
    sys.path[:] = request["path"]
    if "function" in request:
        return cloudpickle.loads(base64.b64decode(request["function"]))
    path, name = Path(request["file"]), request["exercise"]["function"]
    sys.path.insert(0, str(path.parent))
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules.setdefault(path.stem, module)
    exec(compile(path.read_text("utf-8"), str(path), "exec"), module.__dict__)
    if not callable(found := module.__dict__.get(name)):
        raise Failure(f"there is no function {name} in {path.name}; `myllm exercises start` shows the stub")
    return found


def run_fork(request: dict[str, Any], results: int, output: int) -> None:
    """Check one answer in this process, then end it."""
    me = os.getpid()

    def send(message: object) -> None:
        if os.getpid() != me:  # a fork that the answer made came back into the checks
            os._exit(0)
        os.write(results, json.dumps(message).encode() + b"\n")

    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    limit = _data_bytes() + request["memory"]
    with suppress(ValueError, OSError):  # a system that limits us further already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Processor time, not the clock: a busy machine must not fail a right answer.
        seconds = math.ceil(request["seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    exercise = Exercise(**request["exercise"])
    result = grade(exercise, lambda: load(request), request["seed"], lambda stage: send({"stage": stage}))
    with suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    send({"result": result.to_json() | {"error": result.error}})


@cache
def warm(chapter: str) -> None:
    """Load the checks of a chapter here, and what counts operations, which takes torch seconds."""
    if hasattr(importlib.import_module(f"myllm.grading.checks.ch{chapter}"), "measure"):
        with measure():
            torch.ones(1)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Check one answer in a fork, within its limits; the result as JSON."""
    with suppress(ModuleNotFoundError):
        warm(request["exercise"]["id"][:2])
    exam(request["exercise"]["id"])  # imported once, for every fork
    gc.freeze()  # what is there now stays shared between the forks
    from_results, to_results = os.pipe()
    from_output, to_output = os.pipe()
    if not (child := os.fork()):
        try:
            os.close(0)
            run_fork(request, to_results, to_output)
        except BaseException:  # a mistake of the grader's: say it where the answer's output goes
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(0)
    os.close(to_results)
    os.close(to_output)
    told, printed, ended = _watch(
        child, from_results, from_output, time.monotonic() + BLOCKED * request["seconds"]
    )
    sweep(child)
    os.close(from_results)
    os.close(from_output)
    messages = [json.loads(line) for line in told.decode(errors="replace").splitlines() if line.endswith("}")]
    text = clean(printed.decode(errors="replace"))
    if messages and "result" in messages[-1]:
        return {**messages[-1]["result"], "printed": text}
    stage = next((one["stage"] for one in reversed(messages)), "start")
    during = "while the file was loaded" if stage == "load" else f"during the {stage}"
    exercise = Exercise(**request["exercise"])
    lost = Result.failed(exercise, f"{ended} {during}.", exam(exercise.id).checks, whole_file=stage == "load")
    return {**lost.to_json(), "error": lost.error, "printed": text}


def _watch(child: int, results: int, output: int, deadline: float) -> tuple[bytes, bytes, str]:
    """Read what a fork writes until it is done, dead, or beyond a limit: (messages, output, why it ended)."""
    told, printed, looked, gone, status = b"", b"", time.monotonic(), 0, 0
    os.set_blocking(results, False)
    os.set_blocking(output, False)
    while True:
        select.select([results, output], [], [], 0 if gone else TICK)
        new, block = _read(results), _read(output)
        told += new
        printed += block[: max(0, 4 * LONGEST - len(printed))]
        if told.endswith(b"}\n") and b'{"result"' in told:
            return told, printed, ""
        if gone and not new:
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "its own exit"
            return told, printed, TOO_LONG if name == "SIGXCPU" else f"The process was ended by {name}"
        now = time.monotonic()
        if gone or ((new or block) and now < looked + TICK):
            continue
        looked = now
        if now > deadline:
            return told, printed, TOO_LONG
        if len(descendants(child)) > PROCESSES:
            return told, printed, f"More than {PROCESSES} processes were started"
        gone, status = os.waitpid(child, os.WNOHANG)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 20)
    except BlockingIOError:
        return b""


def descendants(root: int) -> list[int]:
    """The ids of a process and of all that it started, where the system tells (Linux)."""
    parents = dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def sweep(child: int) -> None:
    """End a fork and everything it started, in its own session or not."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    for _ in range(1000):  # what forks faster than that is left to the system's own limits
        if not (rest := descendants(os.getpid())[1:]):
            break
        for pid in rest:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def _data_bytes() -> int:
    """The writable memory this process has mapped."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    return 1 << 30


def main() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(1)  # no thread pool: a fork would inherit its locks and not its threads
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with suppress(OSError, AttributeError):  # Linux: what loses its parent becomes ours, so it can be swept
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
