"""Run the checks of one exercise against one function, in this process."""

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

import torch

from myllm.grading import Exercise, catalogue
from myllm.grading.classes import as_function
from myllm.grading.compare import Failure, WrongType
from myllm.grading.exam import Exam, Rng
from myllm.grading.guard import Guard, OutOfMemory, describe
from myllm.grading.results import KINDS, CheckResult, Result, clean


def checks(chapter: str) -> ModuleType:
    """The module with the checks of a chapter, loaded by its path, since ``solutions`` is not a package.

    Raises:
        FileNotFoundError: the chapter has no checks.
    """
    name = f"checks_ch{chapter}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, catalogue.checks(chapter))
        assert spec and spec.loader
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def exam(id: str) -> Exam[...]:
    """The checks of an exercise."""
    if id not in Exam.all:
        checks(id[:2])
    return Exam.all[id]


def grade(
    exercise: Exercise,
    load: Callable[[], Callable[..., Any]],
    seed: int,
    tell: Callable[[str], None] = lambda stage: None,
) -> Result:
    """Load an answer and check it.

    The calling process must be discarded afterwards: forbidden names stay forbidden, and what the answer did
    at module level stays done.

    Args:
        exercise: the exercise.
        load: returns the answer; what it raises is reported as an error of the answer's file.
        seed: the seed of the random cases.
        tell: called with the name of each stage before it begins.
    """
    paper = exam(exercise.id)
    same_file = [one for one in catalogue.exercises().values() if one.file == exercise.file]
    siblings = [one for one in same_file if one.id != exercise.id]
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

    fenced = _fenced(guard, function, exercise.function)
    fenced.fresh = lambda: _fenced(guard, load(), exercise.function)  # pyright: ignore[reportFunctionMemberAccess]
    results, unstarted, mistyped = list[CheckResult](), 0, False
    for index, check in enumerate(paper.checks):
        stage = f"check of the {KINDS[check.kind]}"
        tell(stage)
        rng = Rng(f"{seed}/{exercise.id}/{index}")
        random.seed(seed)
        torch.default_generator.manual_seed(seed % 2**63)  # `seed` may be of any size
        message = ""
        try:
            check.run(fenced, rng)
        except OutOfMemory:
            message = f"The memory limit was reached during the {stage}."
            return Result.failed(exercise, message, paper.checks)
        except WrongType as failure:  # affects one check only, usually the example
            message = "" if mistyped else str(failure)
            mistyped = True
        except Failure as failure:
            message = str(failure)
            cause = failure.cause
            unstarted += type(cause) is NotImplementedError and not str(cause)
        except Exception as error:  # the check cannot process what the answer returned
            message = f"The {stage} cannot use what your function returned: {describe(error)}"
        results.append(CheckResult(check.kind, check.weight, not message, clean(message)))
    results = _conditions(results, guard)
    if wrong := next((one for one in results if not one.passed), None):
        if blame := _blame(siblings, function, guard, seed, tell):
            results[results.index(wrong)] = replace(wrong, message=f"{wrong.message}\n{blame}")
        elif unstarted and unstarted == sum(one.kind != "conduct" for one in results):
            return Result.unstarted(exercise, paper.checks)
    return Result(exercise.id, exercise.title, exercise.points, results)


def _blame(
    siblings: list[Exercise],
    function: Callable[..., Any],
    guard: Guard,
    seed: int,
    tell: Callable[[str], None],
) -> str:
    """Name the other answers of the same file that ``function`` calls and that fail their own checks."""
    called = getattr(getattr(function, "__code__", None), "co_names", ())
    told = list[str]()
    for other in siblings:
        answer = getattr(function, "__globals__", {}).get(other.function)
        if other.function not in called or not callable(answer):
            continue
        tell(f"check of your {other.function}")
        for check in Exam.all[other.id].checks:
            try:
                check.run(_fenced(guard, answer, other.function), Rng(f"{seed}/{other.id}"))
            except WrongType:
                continue
            except Exception:
                told.append(f"Your {other.function} does not pass {other.id} yet; fix that first.")
                break
    return "\n".join(told)


def _fenced(guard: Guard, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def fenced(*args: Any) -> Any:
        return guard.call(as_function(function), args)

    fenced.__name__ = name
    return fenced


def _conditions(results: list[CheckResult], guard: Guard) -> list[CheckResult]:
    """Conduct and cost earn nothing on a wrong answer."""
    right = all(one.passed for one in results if one.kind == "oracle")
    final = list[CheckResult]()
    for one in results:
        message = one.message
        if one.kind == "conduct" and guard.used:
            message = f"{' and '.join(guard.used)} may not be used here: write this step yourself."
        elif one.kind in ("conduct", "cost") and not right:
            message = "Counts as soon as the random cases pass."
        final.append(CheckResult(one.kind, one.weight, not message, message))
    return final
