"""The gate of every exercise: a stub earns nothing, the solution everything, wrong answers are named."""

import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from myllm.grading import Exercise
from myllm.grading.catalogue import END, START, exercises, folder, read_exercises, stub
from myllm.grading.client import Worker
from myllm.grading.engine import exam

ALL = list(exercises().values())

each = pytest.mark.parametrize("exercise", ALL, ids=lambda one: one.id)


@dataclass(frozen=True)
class Mutant:
    """A row of a table of wrong answers: the solution with some text replaced."""

    exercise: str
    edits: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""
    hint: str = ""

    def text(self) -> str:
        """The whole answer file."""
        source = (folder("solutions") / exercises()[self.exercise].file).read_text("utf-8")
        start = source.index(f'@exercise("{self.exercise}"')
        before, (answer, *after) = source[:start], re.split(r"(?=\n@exercise)", source[start:], maxsplit=1)
        if self.body:
            marked = rf"(?<={START}\n).*(?=\n    {END})"
            answer, found = re.subn(marked, lambda _: self.body, answer, flags=re.DOTALL)
            assert found == 1, self
        for old, new in self.edits:
            assert answer.count(old) == 1, f"{self.exercise}: stands {answer.count(old)} times there: {old}"
            answer = answer.replace(old, new)
        return "".join([before, answer, *after])


MUTANTS = {
    f"{row['exercise']}-{number}": Mutant(**row)
    for path in sorted((folder("solutions") / "mistakes").glob("ch*.toml"))
    for number, row in enumerate(tomllib.loads(path.read_text("utf-8"))["mutant"], start=1)
}


def test_ids_are_unique_and_stand_in_their_chapter() -> None:
    found = [one for path in folder("solutions").glob("ch*.py") for one in read_exercises(path)]
    assert not [id for id, count in Counter(one.id for one in found).items() if count > 1]
    assert all(one.file.startswith(f"ch{one.chapter}_") for one in found)


def test_stubs_are_what_the_solutions_give() -> None:
    wanted = {path.name: stub(path.read_text("utf-8")) for path in folder("solutions").glob("ch*.py")}
    assert {path.name: path.read_text("utf-8") for path in folder("exercises").glob("*.py")} == wanted


@each
def test_paper(exercise: Exercise) -> None:
    paper = exam(exercise.id)
    weights = Counter[str]()
    for check in paper.checks:
        weights[check.kind] += check.weight
    assert sum(weights.values()) == exercise.points
    assert 0 < weights["example"] <= 0.2 * exercise.points
    assert weights["oracle"] > 0
    assert len(paper.hints) == 3 and all(paper.hints)
    assert any(check.mistakes for check in paper.checks)
    assert exercise.difficulty in (1, 2, 3) and exercise.minutes > 0 and exercise.section


@each
def test_stub_earns_nothing_and_says_so(exercise: Exercise, worker: Worker) -> None:
    result = worker.check_file(exercise, folder("exercises") / exercise.file, 0)
    assert (result.status, result.earned, result.points) == ("not started", 0, exercise.points)
    assert all(check.message == "Not started." for check in result.checks)


@each
def test_solution_earns_everything_on_twenty_seeds(exercise: Exercise, worker: Worker) -> None:
    for seed in range(20):
        result = worker.check_file(exercise, folder("solutions") / exercise.file, seed)
        assert result.status == "passed", (seed, [check for check in result.checks if not check.passed])


@each
def test_solution_needs_half_the_time_limit_at_most(
    exercise: Exercise, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "seconds", worker.seconds / 2)
    assert worker.check_file(exercise, folder("solutions") / exercise.file, 1).status == "passed"


@each
def test_there_are_three_mutants_one_of_them_unlisted(exercise: Exercise) -> None:
    hints = [one.hint for one in MUTANTS.values() if one.exercise == exercise.id]
    assert len(hints) >= 3 and "" in hints
    labels = {label for check in exam(exercise.id).checks for label in check.mistakes}
    assert {*hints} - {""} <= labels


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_is_rejected_with_a_fitting_hint(mutant: Mutant, worker: Worker, tmp_path: Path) -> None:
    exercise = exercises()[mutant.exercise]
    path = tmp_path / exercise.file
    path.write_text(mutant.text(), "utf-8")
    for seed in range(2):
        result = worker.check_file(exercise, path, seed)
        assert result.status in ("partial", "failed"), seed
        told = "\n".join(check.message for check in result.checks)
        if mutant.hint:
            assert f"This is what you get with {mutant.hint}." in told, told
        else:
            assert "This is what you get with" not in told
            assert "expected" in told or "But:" in told


@each
def test_each_listed_mistake_is_wrong_and_recognised(exercise: Exercise, worker: Worker) -> None:
    for index, check in enumerate(exam(exercise.id).checks):
        for label, (wrong, _) in check.mistakes.items():
            result = worker.check_function(exercise, wrong, 7)
            assert result.status in ("partial", "failed"), label
            assert f"This is what you get with {label}." in result.checks[index].message, label


@each
def test_lookup_table_of_the_examples_earns_a_fifth_at_most(exercise: Exercise, worker: Worker) -> None:
    table = [(repr(args), expected) for args, expected in exam(exercise.id).examples]

    def remember(*args: object) -> object:
        return dict(table)[repr(args)]

    def remember_or_last(*args: object) -> object:
        return dict(table).get(repr(args), table[-1][1])

    def remember_or_none(*args: object) -> object:
        return dict(table).get(repr(args))

    for answer in (remember, remember_or_last, remember_or_none):
        result = worker.check_function(exercise, answer, 0)
        assert 0 < result.earned <= 0.2 * exercise.points, answer.__name__
