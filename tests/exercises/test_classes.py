"""Answers that are classes: read, stubbed and checked like functions."""

from pathlib import Path

from myllm.grading.catalogue import read_exercises, stub
from myllm.grading.classes import Calls, as_function
from myllm.grading.exam import Exam, Failure, Rng
from myllm.grading.notebook import is_stub

SOURCE = '''
@exercise("13.5", "Sum", points=1, minutes=1, difficulty=1, section="sum")
class Sum:
    """Add."""

    def __init__(self, start):
        # SOLUTION
        self.total = start
        # END SOLUTION

    def add(self, x):
        """Add one."""
        # SOLUTION
        self.total += x
        return self.total
        # END SOLUTION
'''


class Sum:
    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, x: int) -> int:
        self.total += x
        return self.total


class Unfinished:
    def __init__(self, start: int) -> None:
        raise NotImplementedError

    def add(self, x: int) -> int:
        raise NotImplementedError


def test_a_class_becomes_a_function_of_calls() -> None:
    calls = Calls([("add", 2), ("add", 3)])
    assert as_function(Sum)(10, calls) == {"call 1: add": 12, "call 2: add": 15} == calls.named([12, 15])
    assert as_function(len) is len


def test_a_class_is_an_exercise_and_its_stub_names_what_is_forbidden_once(tmp_path: Path) -> None:
    (tmp_path / "ch13_x.py").write_text(SOURCE)
    assert [one.function for one in read_exercises(tmp_path / "ch13_x.py")] == ["Sum"]
    text = stub(SOURCE, lambda id: ["torch.sum"])
    assert text.count("raise NotImplementedError") == 2 and text.count("torch.sum") == 1
    assert "self.total" not in text


def test_only_a_class_without_a_written_method_is_a_stub() -> None:
    assert is_stub(Unfinished)
    assert not is_stub(Sum)
    assert not is_stub(type("Half", (Unfinished,), {"add": Sum.add}))


def test_the_report_shows_the_calls() -> None:
    paper = Exam("13.0", lambda start, calls: calls.named([start + 1]))
    try:
        paper.example(1, (4, Calls([("add", 1)])), {"call 1: add": 5})
        paper.checks[0].run(as_function(type("Sum", (Sum,), {"add": lambda self, x: 0})), Rng(0))
    except Failure as failure:
        told = str(failure)
        assert "at ['call 1: add']: expected 5, got 0" in told and "(4); x.add(1)" in told
    else:
        raise AssertionError("it passes")
    finally:
        del Exam.all["13.0"]
