"""The warm process: torch is loaded once, then every exercise is checked in a fork of its own.

What an answer does to its process (patched modules, seeds, folders, exits, crashes) ends with that fork. The
warm process only waits: it reads one JSON request per line, watches the fork, and writes one JSON result per
line. When the requesting process ends, it ends at once, together with everything that an answer has started.
This is practice, not proctoring: it stops accidents, not attacks.
"""

import ctypes
import json
import os
import secrets
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from myllm.grading import Exercise
from myllm.grading.results import LONGEST, Result, clean

PROCESSES = 64  # that an answer may have at once
BLOCKED = 3  # times the limit of processor time: the limit of wall-clock time
TOO_LONG = "The time limit was reached (an endless loop?)"
TICK = 0.1  # seconds between looks at a fork
# Linux: send a signal when the parent ends; make orphans of our descendants our children.
PARENT_DEATH_SIGNAL, CHILD_SUBREAPER = 1, 36


def serve(request: dict[str, Any], replies: int) -> dict[str, Any]:
    """Check one answer in a fork, within its limits, and return the result as a JSON object.

    Args:
        request: as :func:`myllm.grading.attempt.attempt` takes it.
        replies: where the result will be written; closed in the fork.
    """
    from myllm.grading.attempt import attempt, prepare
    from myllm.grading.engine import exam

    exercise, warm = Exercise(**request["exercise"]), os.getpid()
    prepare(exercise.id)
    mark = secrets.token_hex(16).encode()
    from_results, to_results = os.pipe()
    from_output, to_output = os.pipe()
    if not (child := os.fork()):
        try:
            os.setsid()
            _tie(warm, signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(replies)
            attempt(request, to_results, to_output, mark)
        except BaseException:  # an error of the grader: report it where the answer's output goes
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(0)
    try:
        os.close(to_results)
        os.close(to_output)
        deadline = time.monotonic() + BLOCKED * request["seconds"]
        told, printed, ended = _watch(child, from_results, from_output, deadline, mark)
    finally:
        sweep(child)
        os.close(from_results)
        os.close(from_output)
    lines = [line for line in told.split(b"\n") if line.startswith(mark) and line.endswith(b"}")]
    messages = [json.loads(line.removeprefix(mark)) for line in lines]
    text = clean(printed.decode(errors="replace"))
    if messages and "result" in messages[-1]:
        return {**messages[-1]["result"], "printed": text}
    stage = next((one["stage"] for one in reversed(messages)), "start")
    during = "while the file was loaded" if stage == "load" else f"during the {stage}"
    lost = Result.failed(exercise, f"{ended} {during}.", exam(exercise.id).checks, whole_file=stage == "load")
    return {**lost.to_json(), "error": lost.error, "printed": text}


def _watch(child: int, results: int, output: int, deadline: float, mark: bytes) -> tuple[bytes, bytes, str]:
    """Read what a fork writes until it is done, dead, or over a limit: (messages, output, why it ended)."""
    told, printed, looked, gone, status = b"", b"", time.monotonic(), 0, 0
    os.set_blocking(results, False)
    os.set_blocking(output, False)
    while True:
        ready, _, _ = select.select([0, results, output], [], [], 0 if gone else TICK)
        if 0 in ready:  # no request comes before the last one is answered: this is the end of the input
            _end()
        new, block = _read(results), _read(output)
        told = (told + new)[-(1 << 22) :]  # an answer may write there, too
        printed += block[: max(0, 4 * LONGEST - len(printed))]
        if b"\n" in told.partition(mark + b'{"result"')[2]:
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
    """The ids of a process and of all its descendants (Linux only)."""
    parents = dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def sweep(child: int = 0) -> None:
    """Kill a fork and all processes that any fork has started, in sessions of their own or not."""
    if child:
        for end in (os.killpg, os.kill):  # it may not have a session of its own yet
            with suppress(ProcessLookupError, PermissionError):
                end(child, signal.SIGKILL)
    with suppress(ChildProcessError):  # raised when no children are left
        for _ in range(1000):  # processes that fork faster than this are left to the system's limits
            if os.waitpid(child or -1, 0 if child else os.WNOHANG)[0]:
                child = 0
                continue
            for pid in descendants(os.getpid())[1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # Linux only; elsewhere the end of the input must suffice
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _tie(parent: int, death: signal.Signals) -> None:
    """Ask for a signal when the parent ends; exit now if it has ended already."""
    _prctl(PARENT_DEATH_SIGNAL, death)
    if os.getppid() != parent:
        os._exit(0)


def _end(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may interrupt the cleanup now
    raise SystemExit


def main(parent: int) -> None:
    """Answer requests until the input or the requesting process ends."""
    _tie(parent, signal.SIGTERM)  # before torch, whose import takes seconds
    # Loaded here, so that the forks for the answers share it.
    import myllm.grading.attempt  # noqa: F401  # pyright: ignore[reportUnusedImport]

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _prctl(CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _end)
    try:
        print(json.dumps({"ready": True}), file=replies, flush=True)
        for line in sys.stdin:
            print(json.dumps(serve(json.loads(line), replies.fileno())), file=replies, flush=True)
    except (SystemExit, BrokenPipeError):
        sweep()
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
