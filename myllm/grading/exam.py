"""The vocabulary of check files: an :class:`Exam` for each exercise, to which decorators add checks."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, ParamSpec, cast

import torch
from torch import Tensor

from myllm.grading.compare import Changed, Failure, WrongType, as_expected, difference
from myllm.grading.meters import same_operations
from myllm.grading.mistakes import mistakes
from myllm.grading.shown import kind, short_call, show, whole_call

Function = Callable[..., Any]
Cases = Callable[["Rng"], Iterator[tuple[Any, ...]]]
P = ParamSpec("P")
Mistakes = Mapping[str, tuple[Callable[P, Any], str]]
Property = Callable[[Function, "Rng"], None]

NONE: dict[str, tuple[Function, str]] = {}
# Never allowed: the answers themselves.
ANSWERS = ("solutions.*", "myllm.grading.solutions.*")


class Rng(random.Random):
    """Python's random generator, and two ways to sample tensors from the same seed."""

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self._torch(), dtype=torch.float64).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Int64 numbers from ``low`` up to, not including, ``high``."""
        return torch.randint(low, high, shape, generator=self._torch())

    def _torch(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.getrandbits(48))


@dataclass(frozen=True)
class Check:
    """One line of the report. ``run(f, rng)`` raises :class:`Failure` if ``f`` does not pass."""

    kind: str
    weight: float
    run: Property
    mistakes: Mistakes[...] = field(default_factory=lambda: NONE)


@dataclass(frozen=True)
class Raised:
    """Represents the result of a call that raised."""

    error: BaseException
    text: str


class Exam(Generic[P]):
    """The checks of one exercise.

    Args:
        id: the exercise.
        reference: an independent naive answer; not the solution, nor the package's own function.
        tolerance: relative and absolute, if a few roundings of the result's precision are not enough.
    """

    all: ClassVar[dict[str, "Exam[...]"]] = {}

    def __init__(self, id: str, reference: Callable[P, Any], *, tolerance: float | None = None) -> None:
        self.id, self.reference, self.tolerance = id, reference, tolerance
        self.checks: list[Check] = []
        self.examples: list[tuple[tuple[Any, ...], Any]] = []
        self.forbidden: list[str] = [*ANSWERS]
        rows = [row for row in mistakes(id[:2]) if row.exercise == id and row.label]
        # What the oracle check recognizes: the mistakes of the chapter's table that no other check names.
        self.unnamed: dict[str, tuple[Function, str]] = {
            row.label: (row, row.hint) for row in rows if row.hint
        }
        self.others: dict[str, list[Function]] = {
            label: [row for row in rows if row.label == label and not row.hint] for label in self.unnamed
        }
        Exam.all[id] = self

    @property
    def announced(self) -> tuple[str, ...]:
        """The forbidden names of this exercise, which its card and its stub list."""
        return tuple(name for name in dict.fromkeys(self.forbidden) if name not in ANSWERS)

    def example(self, weight: float, args: tuple[Any, ...], expected: Any) -> None:
        """Add a visible example: the arguments and the result, as the specification shows them."""

        def run(f: Function, rng: Rng) -> None:
            self._report(f, [args], [_outcome(f, copy.deepcopy(args))], [expected])

        self.examples.append((args, expected))
        self.checks.append(Check("example", weight, run))

    def oracle(self, weight: float, *, mistakes: Mistakes[P] = NONE) -> Callable[[Cases], Cases]:
        """Add a comparison with the reference on the cases that the decorated generator yields.

        The hint of a mistake in the chapter's table is shown if the answer agrees with the wrong one on every
        case; this check knows all mistakes of the exercise that no :meth:`edge` names.

        Args:
            weight: points.
            mistakes: further ones, besides the table's: ``{label: (wrong function, hint)}``.
        """
        for label, one in mistakes.items():
            if label in self.unnamed:
                self.others.setdefault(label, []).append(one[0])
            self.unnamed.setdefault(label, one)
        return self._cases("oracle", weight, self.unnamed)

    def edge(self, weight: float, *labels: str, mistakes: Mistakes[P] = NONE) -> Callable[[Cases], Cases]:
        """Add edge cases (empty, length 1, ties …); otherwise as :meth:`oracle`.

        Raises:
            KeyError: the chapter's table has no mistake of this exercise with a hint and this label.
        """
        named = {label: self.unnamed.pop(label) for label in labels}
        return self._cases("edge", weight, {**named, **mistakes})

    def property(self, weight: float) -> Callable[[Property], Property]:
        """Add a check of a property that always holds; the function's docstring states it."""
        return self._property("property", weight)

    def cost(self, weight: float) -> Callable[[Property], Property]:
        """Add a check of a count (see :func:`measure`), earned only if all oracle checks pass."""
        return self._property("cost", weight)

    def operations(
        self, weight: float, what: str, sizes: tuple[int, int], case: Callable[[Rng, int], tuple[Any, ...]]
    ) -> None:
        """Add a cost check: the number of torch operations does not grow with a size.

        Args:
            weight: points.
            what: what the size counts, such as ``"rows"``.
            sizes: a small and a large one.
            case: makes the arguments for a size.
        """

        def test(f: Function, rng: Rng) -> None:
            same_operations(f, what, [(size, case(rng, size)) for size in sizes])

        test.__doc__ = f"The number of tensor operations does not grow with the number of {what}."
        self.cost(weight)(test)

    def conduct(self, weight: float, *names: str) -> None:
        """Forbid functions or ``module.*``: their use raises in every check; earned as :meth:`cost`."""
        self.forbidden.extend(names)
        self.checks.append(Check("conduct", weight, lambda f, rng: None))

    def _property(self, kind: str, weight: float) -> Callable[[Property], Property]:
        def add(test: Property) -> Property:
            def run(f: Function, rng: Rng) -> None:
                try:
                    test(f, rng)
                except Failure as failure:
                    failure.args = (f"{(test.__doc__ or test.__name__).strip()} But: {failure}",)
                    raise

            self.checks.append(Check(kind, weight, run))
            return test

        return add

    def _cases(self, kind: str, weight: float, known: Mistakes[P]) -> Callable[[Cases], Cases]:
        def add(cases: Cases) -> Cases:
            def run(f: Function, rng: Rng) -> None:
                self._compare(f, list(cases(rng)), known)

            self.checks.append(Check(kind, weight, run, known))
            return cases

        return add

    def _compare(self, f: Function, cases: list[tuple[Any, ...]], mistakes: Mistakes[P]) -> None:
        expected = [_outcome(self.reference, copy.deepcopy(args)) for args in cases]
        got = [_outcome(f, copy.deepcopy(args)) for args in cases]
        self._report(f, cases, got, expected, mistakes)

    def _report(
        self,
        f: Function,
        cases: list[tuple[Any, ...]],
        got: list[Any],
        expected: list[Any],
        mistakes: Mistakes[P] = NONE,
    ) -> None:
        problems = [self._differ(*pair) for pair in zip(got, expected, strict=True)]
        failed = [index for index, problem in enumerate(problems) if problem]
        if not failed:
            return _types(f, cases, got, expected, self.tolerance)
        first = min(failed, key=lambda index: len(whole_call(f, cases[index])))  # the easiest one to read
        told = f"{problems[first]}\nThe call was {short_call(f, cases[first], problems[first] or '')}"
        if not self._differ(_fresh(f, cases[first]), expected[first]):
            told += "\nMade alone, this call gives the right value: your code keeps something between calls."
        for label, (wrong, hint) in mistakes.items():
            if any(self._equal(one, cases, got) for one in (wrong, *self.others.get(label, ()))):
                told = f"{told}\nThis is what you get with {label}. {hint}"
                break
        failure = Failure(told)
        failure.cause = got[first].error if isinstance(got[first], Raised) else None
        raise failure

    def lifted(self, answer: Function) -> Function:
        """The answer as a function of a case's arguments; a subclass may adapt it."""
        return answer

    def _equal(self, wrong: Function, cases: list[tuple[Any, ...]], got: list[Any]) -> bool:
        """Whether a wrong answer gives the same results, and changes its arguments where this one did."""
        f = self.lifted(wrong)
        for one, args in zip(got, cases, strict=True):
            given = copy.deepcopy(args)
            found = _outcome(f, given)
            changed = isinstance(one, Changed)
            if self._differ(one.value if changed else one, found) or (
                changed and not difference(given, args)
            ):
                return False
        return True

    def _differ(self, got: Any, expected: Any) -> str | None:
        if isinstance(got, Changed):
            return str(got)
        if isinstance(got, Raised) and isinstance(expected, Raised):
            same = isinstance(got.error, type(expected.error))
            return None if same else f"expected {type(expected.error).__name__}, the function {got.text}"
        if isinstance(got, Raised):
            return f"expected {show(expected)}, the function {got.text}"
        if isinstance(expected, Raised):
            return f"expected {type(expected.error).__name__} to be raised, got {show(got)}"
        return difference(as_expected(got, expected), expected, self.tolerance)


def _types(
    f: Function, cases: list[tuple[Any, ...]], got: list[Any], expected: list[Any], tolerance: float | None
) -> None:
    """Refuse right values of a wrong type."""
    for args, one, other in zip(cases, got, expected, strict=True):
        if not isinstance(other, Raised) and (problem := difference(one, other, tolerance)):
            told = f"{problem}\nThe call was {short_call(f, args, problem)}"
            raise WrongType(
                f"{told}\nThe values are right; only their type costs you the points of this check."
            )


def _fresh(f: Function, args: tuple[Any, ...]) -> Any:
    """What the answer gives when it is loaded anew and called with these arguments first."""
    try:
        load = cast("Callable[[], Function]", f.fresh)  # pyright: ignore[reportFunctionMemberAccess]
        return _outcome(load(), copy.deepcopy(args))
    except Exception as error:  # no way to load it anew
        return Raised(error, "")


def _outcome(f: Function, args: tuple[Any, ...]) -> Any:
    try:
        return f(*args)
    except Changed as failure:
        return failure
    except Failure as failure:
        if failure.cause is None:
            raise
        return Raised(failure.cause, str(failure))
    except Exception as error:  # the reference and the wrong functions are not fenced
        return Raised(error, f"raised {type(error).__name__}")


def expect(condition: object, otherwise: str) -> None:
    """Fail the check with a sentence unless the condition is true."""
    if not condition:
        raise Failure(otherwise)


def same(got: Any, expected: Any, what: str, tolerance: float | None = None) -> None:
    """Fail the check if the value of ``got`` differs from ``expected``; ``what`` names the case."""
    if problem := difference(as_expected(got, expected), expected, tolerance):
        raise Failure(f"{what}: {problem}")


def two_tensors(found: Any, *shape: int) -> tuple[Tensor, Tensor]:
    """Return a result of two tensors of one shape; fail the check if it is anything else."""
    parts = cast("list[Any]", [*found] if isinstance(found, tuple | list) else [found])
    right = [getattr(one, "shape", None) for one in parts] == [shape, shape]
    expect(right, f"expected two tensors of shape {shape}, got {' and '.join(map(kind, parts))}")
    return cast("tuple[Tensor, Tensor]", found)


class Spell:
    """A stand-in for ``encode`` whose ids show how a text was cut: the length of a piece, then its bytes."""

    def __init__(self) -> None:
        self.__name__ = "encode"

    def __call__(self, text: str) -> list[int]:
        """The ids of a piece of text."""
        if not text:
            raise ValueError("encode was called on an empty string")
        return [len(text), *text.encode()]

    def __repr__(self) -> str:
        return "encode"
