"""Nothing that a check starts outlives the command or the kernel that asked for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from myllm.grading import client
from myllm.grading.catalogue import exercises, folder
from myllm.grading.client import Worker

FILE = exercises()["01.1"].file
# Its limits are so wide that within a test only the end of the command can end an answer.
COMMAND = """
import functools, sys
from myllm import cli
from myllm.cli import exercises
exercises.Worker = functools.partial(exercises.Worker, seconds=1000.0)
sys.exit(cli.main())
"""
# Children in other sessions, a daemon by double fork, forks that ignore signals; then an endless loop.
HOSTILE = """
import os, pathlib, signal, subprocess, sys, time

def bigram_counts(text, alphabet):
    for number in {*range(1, 32)} - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleeper, start_new_session=True)
    subprocess.Popen(["sh", "-c", '(setsid "$@" &) ', "sh", *sleeper])
    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(600)
        os._exit(0)
    if not os.fork():
        time.sleep(600)
    pathlib.Path("running").touch()
    END
"""
LOOP = "while True: pass"
REAL_SLEEP = time.sleep
# No test measures time: what is to happen happens within this even on a busy machine, and what is left behind
# by mistake lasts five times as long.
PATIENCE = 120

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")


def alive(mark: str) -> list[int]:
    """The processes whose environment holds a mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def eventually(condition: Callable[[], object]) -> bool:
    """Whether a condition comes true at all."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        REAL_SLEEP(0.01)
    return True


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """Stands in the environment of a command and of all that it starts."""
    mark = f"TEST_MARK={tmp_path.name}-{os.getpid()}"
    yield mark
    for pid in alive(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start(code: str, mark: str, cwd: Path, *args: str) -> "subprocess.Popen[bytes]":
    name, _, value = mark.partition("=")
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        env={**os.environ, name: value},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Under `nohup` and cron Ctrl-C is ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_outlives_a_command_that_is_ended_during_a_check(
    number: signal.Signals, mark: str, tmp_path: Path
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("ignored by every process here, as under nohup")
    (tmp_path / FILE).write_text(HOSTILE.replace("END", LOOP))
    command = start(COMMAND, mark, tmp_path, "exercises", "check", "01.1")
    assert eventually((tmp_path / "running").exists)
    assert len(alive(mark)) > 5
    command.send_signal(number)
    command.wait(PATIENCE)
    assert eventually(lambda: not alive(mark)), alive(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_command_that_is_ended_while_its_worker_starts(
    number: signal.Signals, mark: str, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(HOSTILE.replace("END", LOOP))
    command = start(COMMAND, mark, tmp_path, "exercises", "check", "01.1")
    assert eventually(lambda: len(alive(mark)) == 2)
    command.send_signal(number)
    command.wait(PATIENCE)
    assert eventually(lambda: not alive(mark)), alive(mark)


def test_nothing_outlives_a_kernel(mark: str, tmp_path: Path) -> None:
    """The kernel's own fork keeps the pipes to the worker open, as a data loader's processes do."""
    solution = (folder("solutions") / FILE).read_text("utf-8")
    code = f"""{solution}
import os, signal, time
from myllm.grading.notebook import check
assert "passed" in repr(check("01.1", bigram_counts))
if os.fork():
    print("checked", flush=True)
time.sleep(600)
"""
    kernel = start(code, mark, tmp_path)
    assert kernel.stdout and kernel.stdout.readline() == b"checked\n"
    assert len(alive(mark)) == 3
    kernel.kill()
    kernel.wait(PATIENCE)
    assert eventually(lambda: len(alive(mark)) == 1), "only the kernel's own child is left"


@pytest.mark.parametrize(
    "end", ["os.kill(os.getppid(), signal.SIGKILL)", "os.kill(os.getppid(), signal.SIGTERM)", "os._exit(0)"]
)
def test_nothing_outlives_an_answer_that_ends_its_own_process_or_the_worker(
    end: str, mark: str, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(HOSTILE.replace("END", f"{end}; time.sleep(600)"))
    command = start(COMMAND, mark, tmp_path, "exercises", "check", "01.1")
    out, _ = command.communicate(timeout=PATIENCE)
    assert b"failed" in out
    assert eventually(lambda: not alive(mark)), alive(mark)


def test_the_sweep_after_a_lost_worker_also_finds_what_was_not_there_at_its_first_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, late = Worker(), list["subprocess.Popen[bytes]"]()
    mark = f"{client.MARK}={worker._mark}"

    def pause(seconds: float) -> None:
        if not late:  # after the first look: as if it had been starting another program just then
            environment = {**os.environ, client.MARK: worker._mark}
            late.append(subprocess.Popen(["sleep", "600"], env=environment))
            assert eventually(lambda: alive(mark) == [late[0].pid])
        REAL_SLEEP(seconds)

    monkeypatch.setattr(client.time, "sleep", pause)
    worker._sweep()
    monkeypatch.undo()
    assert late and late[0].wait(PATIENCE) == -signal.SIGKILL
    assert not alive(mark)
