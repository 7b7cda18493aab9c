"""Run the checks of one exercise against one function, in this process."""

import random
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from myllm.grading import Exercise
from myllm.grading.compare import Failure
from myllm.grading.exam import Check, Exam, Rng
from myllm.grading.guard import Guard, OutOfMemory, describe
from myllm.grading.results import CheckResult, Result, clean


def exam(id: str) -> Exam[...]:
    """The checks of an exercise."""
    import_module(f"myllm.grading.checks.ch{id[:2]}")
    return Exam.all[id]


def grade(
    exercise: Exercise,
    load: Callable[[], Callable[..., Any]],
    seed: int,
    tell: Callable[[str], None] = lambda stage: None,
) -> Result:
    """Load an answer and check it.

    The caller gives up its process: forbidden names stay forbidden, and what the answer did at its top level
    stays done.

    Args:
        exercise: the exercise.
        load: gives the answer; what it raises is reported as an error of the answer's file.
        seed: of the random cases.
        tell: called with the name of each stage before it begins.
    """
    paper = exam(exercise.id)
    guard = Guard(paper.forbidden)
    tell("load")
    try:
        function = load()
    except BaseException as error:
        if isinstance(error, Failure):
            return Result.failed(exercise, str(error), paper.checks)
        message = f"{exercise.file} could not be loaded: {describe(error)}"
        return Result.failed(exercise, message, paper.checks, whole_file=True)
    guard.restore()

    def fenced(*args: Any) -> Any:
        return guard.call(function, args)

    fenced.__name__ = exercise.function
    results, unstarted = list[CheckResult](), 0
    for index, check in enumerate(paper.checks):
        tell(f"{check.kind} check")
        rng = Rng(f"{seed}/{exercise.id}/{index}")
        random.seed(seed)
        torch.manual_seed(seed)
        message = ""
        try:
            check.run(fenced, rng)
        except OutOfMemory:
            message = f"The memory limit was reached during the {check.kind} check."
            return Result.failed(exercise, message, paper.checks)
        except Failure as failure:
            message = str(failure)
            cause = failure.cause
            unstarted += type(cause) is NotImplementedError and not str(cause)
        results.append(CheckResult(check.kind, check.weight, not message, clean(message)))
    if unstarted and unstarted == sum(one.kind != "conduct" for one in results):
        return Result.unstarted(exercise, paper.checks)
    return Result(exercise.id, exercise.title, exercise.points, _conditions(results, guard, seed))


def _conditions(results: list[CheckResult], guard: Guard, seed: int) -> list[CheckResult]:
    """Conduct and cost are worth nothing on a wrong answer; random checks name their seed."""
    right = all(one.passed for one in results if one.kind == "oracle")
    final = list[CheckResult]()
    for one in results:
        message = one.message
        if one.kind == "conduct" and guard.used:
            message = f"{' and '.join(guard.used)} may not be used here: write this step yourself."
        elif one.kind in ("conduct", "cost") and not right:
            message = "Counts once the oracle checks pass."
        elif message and one.kind != "example":
            message = f"{message}\nThe same cases again: --seed {seed}"
        final.append(CheckResult(one.kind, one.weight, not message, message))
    return final


__all__ = ["Check", "exam", "grade"]
