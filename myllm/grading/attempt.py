"""One answer, loaded and checked within limits, in a process that is discarded afterwards."""

import base64
import gc
import json
import math
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import decode_source
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import torch

from myllm.grading import Exercise
from myllm.grading.compare import Failure
from myllm.grading.engine import exam, grade
from myllm.grading.meters import measure

torch.set_num_threads(1)  # no thread pool: a fork would inherit its locks but not its threads


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
    try:  # respects a byte-order mark and a declared encoding
        source = decode_source(path.read_bytes())
    except (SyntaxError, UnicodeError):
        raise UnicodeError("it is not UTF-8; save it in that encoding or declare its own") from None
    exec(compile(source, str(path), "exec"), module.__dict__)
    if not callable(found := module.__dict__.get(name)):
        raise Failure(f"there is no function {name} in {path.name}; `myllm exercises start` shows the stub")
    return found


@cache
def prepare(id: str) -> None:
    """Do the slow work once for all forks: load the checks of an exercise and the operation counters."""
    if any(check.kind == "cost" for check in exam(id).checks):
        with measure():
            torch.ones(1)
    gc.collect()
    gc.freeze()  # keep existing objects shared between the forks


def attempt(request: dict[str, Any], results: int, output: int, mark: bytes) -> None:
    """Check the answer of a request.

    Args:
        request: the exercise, the answer, the seed and the limits.
        results: where one JSON object per line goes: each stage before it begins, and the result at the end.
        output: where the answer's own output goes.
        mark: begins each of our lines, since an answer may write anywhere.
    """
    me = os.getpid()

    def send(message: object) -> None:
        if os.getpid() != me:  # a fork that the answer made came back into the checks
            os._exit(0)
        os.write(results, b"\n" + mark + json.dumps(message).encode() + b"\n")

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    limit = _data_bytes() + request["memory"]
    with suppress(ValueError, OSError):  # the system has a lower limit already
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


def _data_bytes() -> int:
    """The writable memory this process has mapped."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    return 1 << 30
