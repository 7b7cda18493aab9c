"""What the engine promises, each promise really tried: a hostile answer costs its own exercise only."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from myllm.grading.catalogue import exercises, folder
from myllm.grading.client import Worker
from myllm.grading.results import LONGEST, Result

COUNTS = exercises()["01.1"]
SOLUTION = folder("solutions") / COUNTS.file


def solution(text: str, alphabet: str) -> torch.Tensor:
    counts = torch.zeros(len(alphabet), len(alphabet), dtype=torch.int64)
    for a, b in pairwise(text):
        if a in alphabet and b in alphabet:
            counts[alphabet.index(a), alphabet.index(b)] += 1
    return counts


@pytest.fixture(scope="module")
def short() -> Iterator[Worker]:
    worker = Worker(seconds=2, memory=300 << 20)
    yield worker
    worker.close()


def survives(worker: Worker, answer: Callable[..., Any], *, same_process: bool = True) -> Result:
    """Check a hostile answer, then a right one, which must earn everything from the same warm process."""
    worker.check_function(COUNTS, solution, 0)
    before = worker.process and worker.process.pid
    result = worker.check_function(COUNTS, answer, 0)
    after = worker.check_function(COUNTS, solution, 0)
    assert after.status == "passed", after
    assert result.status == "failed" and result.earned == 0
    assert result.points == COUNTS.points
    if same_process:
        assert worker.process and worker.process.pid == before
    return result


def left_over(marker: str) -> list[str]:
    """Processes whose command line holds a marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if marker in text:
            found.append(text)
    return found


def test_endless_loop(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        while True:
            pass

    result = survives(short, answer)
    assert "time limit was reached" in result.checks[0].message
    assert "check of the example" in result.checks[0].message


def test_endless_loop_that_ignores_signals_and_exceptions(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        while True:
            with suppress(BaseException):
                time.sleep(1)

    assert "time limit was reached" in survives(short, answer).checks[0].message


@pytest.mark.parametrize("how", ["python", "torch", "swallowed"])
def test_memory_bomb(short: Worker, how: str) -> None:
    def answer(text: str, alphabet: str) -> Any:
        if how == "torch":
            return torch.ones(1 << 28, dtype=torch.float64)
        blocks = []
        try:
            while True:
                blocks.append(b"x" * (50 << 20))
        except MemoryError:
            if how == "python":
                raise
            return blocks

    result = survives(short, answer)
    if how != "swallowed":
        assert "memory limit was reached" in result.checks[0].message


def test_segmentation_fault(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        ctypes.string_at(0)

    assert "SIGSEGV" in survives(short, answer).checks[0].message


@pytest.mark.parametrize("code", [0, 1])
def test_hard_exit(short: Worker, code: int) -> None:
    def answer(text: str, alphabet: str) -> None:
        os._exit(code)

    assert "its own exit" in survives(short, answer).checks[0].message


@pytest.mark.parametrize(
    "error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), RecursionError("deep")]
)
def test_raising_anything_is_a_wrong_answer(short: Worker, error: BaseException) -> None:
    def answer(text: str, alphabet: str) -> None:
        raise error

    assert f"raised {type(error).__name__}" in survives(short, answer).checks[0].message


def test_bottomless_recursion(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> Any:
        return answer(text, alphabet)

    assert "RecursionError" in survives(short, answer).checks[0].message


def test_fork_bomb(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        while True:
            os.fork()

    result = survives(short, answer)
    assert "processes were started" in result.checks[0].message or "time limit" in result.checks[0].message


def test_fork_that_returns_twice_counts_once(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        os.fork()
        return torch.zeros(0)

    survives(short, answer)


def test_children_in_other_sessions_are_ended(short: Worker, tmp_path: Path) -> None:
    marker = f"marker-{tmp_path.name}-{os.getpid()}"

    def answer(text: str, alphabet: str) -> None:
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)", marker]
        subprocess.Popen(sleeper, start_new_session=True)
        subprocess.Popen(["sh", "-c", '(setsid "$@" &) ', "sh", *sleeper])

    survives(short, answer)
    assert not left_over(marker)


def test_children_of_a_crash_are_ended(short: Worker, tmp_path: Path) -> None:
    marker = f"marker-{tmp_path.name}-{os.getpid()}"

    def answer(text: str, alphabet: str) -> None:
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)", marker],
            start_new_session=True,
        )
        os.kill(os.getpid(), signal.SIGKILL)

    assert "SIGKILL" in survives(short, answer).checks[0].message
    assert not left_over(marker)


def test_endless_print_storm(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        while True:
            print("storm" * 1000)

    result = survives(short, answer)
    assert result.printed.startswith("stormstorm")
    assert len(result.printed) <= LONGEST + 2


def test_print_storm_of_every_kind_passes_when_the_answer_is_right(
    short: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        for _ in range(2000):
            print("x" * 100)
        sys.stderr.write("\x1b[31m\ud800\x00" * 1000)
        os.write(1, b'{"result": {"earned": 1000}}\n')
        return solution(text, alphabet)

    result = short.check_function(COUNTS, answer, 0)
    assert (result.status, result.earned) == ("passed", COUNTS.points)
    assert len(result.printed) <= LONGEST + 2 and "\x1b" not in result.printed
    assert capfd.readouterr() == ("", "")


def test_closing_and_replacing_the_standard_streams(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        sys.stdout.close()
        sys.stderr = None  # type: ignore[assignment]
        with suppress(OSError):
            os.closerange(0, 3)
        return solution(text, alphabet)

    assert short.check_function(COUNTS, answer, 0).status == "passed"


def test_ending_the_worker_itself_costs_that_exercise_only(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        os.kill(os.getppid(), signal.SIGKILL)

    result = survives(short, answer, same_process=False)
    assert result.checks[0].message == "The checking process was lost."


def test_changed_globals_do_not_reach_the_next_exercise(short: Worker, tmp_path: Path) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        import builtins

        right = solution(text, alphabet)
        torch.zeros = torch.ones  # type: ignore[assignment]
        torch.softmax = torch.Tensor.index_put_ = lambda *a, **k: 1  # type: ignore[assignment,method-assign]
        builtins.len = lambda x: 1  # type: ignore[assignment]
        builtins.enumerate = builtins.zip  # type: ignore[assignment,misc]
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.manual_seed(1)
        random.seed(1)
        os.chdir(tmp_path)
        os.environ["PATH"] = "nowhere"
        for name in list(sys.modules):
            if name.startswith(("torch", "myllm", "json")):
                sys.modules[name] = None  # type: ignore[assignment]
        sys.path.clear()
        sys.meta_path.clear()
        return right

    polluted = short.check_function(COUNTS, answer, 0)
    assert polluted.checks, "there is a verdict"
    assert short.check_file(COUNTS, SOLUTION, 0).status == "passed"
    assert short.check_function(COUNTS, solution, 0).status == "passed"


def test_changed_comparison_does_not_pass_its_own_wrong_answer(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        torch.isclose = lambda a, *rest, **named: torch.ones_like(a, dtype=torch.bool)  # type: ignore[assignment]
        torch.equal = torch.allclose = lambda *a, **k: True  # type: ignore[assignment]
        torch.Tensor.__eq__ = lambda *a: True  # type: ignore[assignment,method-assign]
        return torch.zeros(len(alphabet), len(alphabet), dtype=torch.int64)

    result = short.check_function(COUNTS, answer, 0)
    assert result.earned <= 1  # an empty text does hold no pair


class Agreeable:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class AgreeableTensor(torch.Tensor):
    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return True

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.tensor(True)


@pytest.mark.parametrize("kind", ["object", "tensor", "none", "list"])
def test_values_that_agree_with_everything_are_refused(short: Worker, kind: str) -> None:
    def answer(text: str, alphabet: str) -> Any:
        values = {"object": Agreeable(), "none": None, "list": [Agreeable()]}
        return torch.zeros(2, 2).as_subclass(AgreeableTensor) if kind == "tensor" else values[kind]

    assert "expected" in survives(short, answer).checks[0].message


def test_the_seed_reproduces_a_failed_check_word_for_word(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        return solution(text, alphabet).T

    first, again, other = (short.check_function(COUNTS, answer, seed) for seed in (11, 11, 12))
    assert first == again
    assert first.checks[1].message != other.checks[1].message


def test_fresh_seeds_differ(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        return solution(text, alphabet).T

    assert len({short.check_function(COUNTS, answer).checks[1].message for _ in range(4)}) > 1


def test_long_and_strange_messages_are_bounded_and_printable(short: Worker) -> None:
    def answer(text: str, alphabet: str) -> None:
        raise ValueError("\x00\ud800\x1b[2J" + "y" * 10**7)

    message = survives(short, answer).checks[0].message
    assert len(message) < LONGEST + 100
    assert "\x1b" not in message and "\x00" not in message
    message.encode()


def test_an_interrupted_question_is_not_answered_later(
    short: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> bytes:
        raise KeyboardInterrupt

    short.check_function(COUNTS, solution, 0)
    with monkeypatch.context() as patched:
        patched.setattr(short, "_reply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            short.check_function(COUNTS, solution, 0)
    assert short.process is None
    assert short.check_function(COUNTS, lambda text, alphabet: None, 0).status == "failed"
