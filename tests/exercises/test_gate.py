"""The gate of every exercise: a stub earns nothing, the solution everything, wrong answers are named.

Each kind of answer goes through the real worker once; the many others share a fork of this process, which
takes a fifth of the time.
"""

import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from myllm.grading import Exercise
from myllm.grading.attempt import load, prepare
from myllm.grading.catalogue import exercises, folder, read_exercises, stub
from myllm.grading.client import Worker
from myllm.grading.engine import exam, grade
from myllm.grading.mistakes import Mistake, hints, mistakes
from myllm.grading.results import Result

ALL = list(exercises().values())

each = pytest.mark.parametrize("exercise", ALL, ids=lambda one: one.id)


MISTAKES = {
    f"{row.exercise}-{number}": row
    for chapter in sorted({one.chapter for one in ALL})
    for number, row in enumerate(mistakes(chapter), start=1)
}

RIGHT = {
    f"{row.exercise}-{row.label}": row
    for chapter in sorted({one.chapter for one in ALL})
    for row in mistakes(chapter, "right")
}


def graded(
    exercise: Exercise, answers: Iterable[Path | Callable[..., Any]], seeds: Iterable[int] = (0,)
) -> list[Result]:
    """The verdicts on files or functions for every seed, by one process of their own."""
    prepare(exercise.id)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # an endless loop ends, too
            os.close(reader)
            with os.fdopen(writer, "w") as out:
                for answer in answers:
                    for seed in seeds:
                        result = grade(exercise, loader(exercise, answer), seed)
                        print(json.dumps(result.to_json() | {"error": result.error}), file=out, flush=True)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        results = [Result.from_json(json.loads(line)) for line in lines]
    os.waitpid(child, 0)
    return results


def loader(exercise: Exercise, answer: Path | Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    if not isinstance(answer, Path):
        return lambda: answer
    place = {"file": str(answer), "folder": str(answer.parent), "path": [*sys.path]}
    return lambda: load({"exercise": asdict(exercise), **place})


def test_ids_are_unique_and_stand_in_their_chapter() -> None:
    found = [one for path in folder("solutions").glob("ch*.py") for one in read_exercises(path)]
    assert not [id for id, count in Counter(one.id for one in found).items() if count > 1]
    assert all(one.file.startswith(f"ch{one.chapter}_") for one in found)


def test_stubs_are_what_the_solutions_give() -> None:
    wanted = {
        path.name: stub(path.read_text("utf-8"), lambda id: exam(id).announced)
        for path in folder("solutions").glob("ch*.py")
    }
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
    assert len(hints(exercise)) == 3 and all(hints(exercise))
    assert any(check.mistakes for check in paper.checks)
    assert exercise.difficulty in (1, 2, 3) and exercise.minutes > 0 and exercise.section


@each
def test_stub_earns_nothing_and_says_so(exercise: Exercise, worker: Worker) -> None:
    result = worker.check_file(exercise, folder("exercises") / exercise.file, 0)
    assert (result.status, result.earned, result.points) == ("not started", 0, exercise.points)
    assert all(check.message == "Not started." for check in result.checks)


@each
def test_solution_earns_everything_on_twenty_seeds(exercise: Exercise) -> None:
    results = graded(exercise, [folder("solutions") / exercise.file], range(20))
    assert len(results) == 20
    for seed, result in enumerate(results):
        assert result.status == "passed", (seed, [check for check in result.checks if not check.passed])


@each
def test_all_checks_of_a_solution_take_two_seconds_of_processor_time_at_most(
    exercise: Exercise, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "seconds", 2.0)
    assert worker.check_file(exercise, folder("solutions") / exercise.file, 1).status == "passed"


@each
def test_there_are_three_wrong_answers_one_of_them_unlisted(exercise: Exercise) -> None:
    labels = [one.label for one in MISTAKES.values() if one.exercise == exercise.id]
    assert len(labels) >= 3 and "" in labels
    assert {*labels} - {""} <= {label for check in exam(exercise.id).checks for label in check.mistakes}
    assert all(hint for check in exam(exercise.id).checks for _, hint in check.mistakes.values())


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_wrong_answer_is_rejected_with_a_fitting_hint(mistake: Mistake, tmp_path: Path) -> None:
    exercise, path = mistake.about, tmp_path / mistake.about.file
    path.write_text(mistake.text(), "utf-8")
    results = graded(exercise, [path], range(2))
    assert len(results) == 2
    for seed, result in enumerate(results):
        assert result.status in ("partial", "failed"), seed
        told = "\n".join(check.message for check in result.checks)
        if mistake.label:
            assert f"This is what you get with {mistake.label}." in told, told
        else:
            assert "This is what you get with" not in told
            assert "expected" in told or "But:" in told


@pytest.mark.parametrize("row", RIGHT.values(), ids=RIGHT)
def test_another_right_answer_earns_everything(row: Mistake, tmp_path: Path) -> None:
    path = tmp_path / row.about.file
    path.write_text(row.text(), "utf-8")
    for result in graded(row.about, [path], range(5)):
        assert result.status == "passed", [check for check in result.checks if not check.passed]


@each
def test_each_wrong_function_is_rejected_and_recognised(exercise: Exercise) -> None:
    wrong = [
        (index, label, function)
        for index, check in enumerate(exam(exercise.id).checks)
        for label, (function, _) in check.mistakes.items()
        if not isinstance(function, Mistake)  # those are tried above
    ]
    results = graded(exercise, [function for *_, function in wrong], [7])
    for (index, label, _), result in zip(wrong, results, strict=True):
        assert result.status in ("partial", "failed"), label
        assert f"This is what you get with {label}." in result.checks[index].message, label


def key(value: Any) -> str:
    """What tells arguments apart; tensors as lists, since printing a tensor is slow."""
    if isinstance(value, torch.Tensor):
        return repr((value.dtype, value.tolist()))
    if isinstance(value, dict):
        return repr({name: key(one) for name, one in value.items()})
    return repr([*map(key, value)] if type(value) in (list, tuple) else value)


@each
def test_lookup_table_of_the_examples_earns_a_fifth_at_most(exercise: Exercise) -> None:
    keyed = [(key(args), expected) for args, expected in exam(exercise.id).examples]
    table, last = dict(keyed), keyed[-1][1]

    def remember(*args: object) -> object:
        return table[key(args)]

    def remember_or_last(*args: object) -> object:
        return table.get(key(args), last)

    def remember_or_none(*args: object) -> object:
        return table.get(key(args))

    answers = remember, remember_or_last, remember_or_none
    for answer, result in zip(answers, graded(exercise, answers), strict=True):
        assert 0 < result.earned <= 0.2 * exercise.points, answer.__name__
