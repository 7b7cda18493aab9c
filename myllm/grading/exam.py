"""The vocabulary of check files: an :class:`Exam` for each exercise, to which decorators add checks."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, ParamSpec, cast

import torch
from torch import Tensor

from myllm.grading.compare import Changed, Failure, as_expected, difference
from myllm.grading.judged import about
from myllm.grading.meters import same_operations
from myllm.grading.mistakes import mistakes
from myllm.grading.outcomes import Raised, anew, differ, outcome, passes, types, with_torch
from myllm.grading.shown import kind, rows_named, short_call, whole_call

Function = Callable[..., Any]
Cases = Callable[["Rng"], Iterator[tuple[Any, ...]]]
P = ParamSpec("P")
Mistakes = Mapping[str, tuple[Callable[P, Any], str]]
Property = Callable[[Function, "Rng"], None]

NONE: dict[str, tuple[Function, str]] = {}
# Never allowed: the answers themselves.
ANSWERS = ("solutions.*", "myllm.grading.solutions.*")
KEEPS = "your code keeps something between calls."
# Every usual way to tidy up a text changes this one: `strip`, line ends, normal forms, small letters.
UNTIDY = " e\u0301\r\nK\u212b\ufb01 \t"


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
        # Of an answer that tests functions: what it says of right ones, and such ones that give the same.
        self.says_of_right, self.right = True, dict[str, Function]()
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
            self._report(f, [args], [outcome(f, copy.deepcopy(args))], [expected])

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
                f, again = with_torch(f), copy.deepcopy(rng)
                try:
                    test(f, rng)
                except Failure as failure:
                    told = f"{(test.__doc__ or test.__name__).strip()} But: {failure}"
                    # A count of effort holds only in this process: made again, it might not end.
                    alone = kind == "property" and passes(lambda: test(with_torch(anew(f)), again))
                    failure.args = (f"{told}\nMade alone, these calls are right: {KEEPS}" if alone else told,)
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
        expected = self.outcomes(self.reference, cases)
        self._report(f, cases, self.outcomes(f, cases), expected, mistakes)

    @staticmethod
    def outcomes(f: Function, cases: list[tuple[Any, ...]]) -> list[Any]:
        """What a function gives for each case, which it cannot change for the next one."""
        return [outcome(f, copy.deepcopy(args)) for args in cases]

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
            return types(f, cases, got, expected, self.tolerance)
        # The easiest one to read; of functions under a test, a right one.
        read = [
            (_judges(args, one) and one is not self.says_of_right, len(whole_call(f, args)))
            for args, one in zip(cases, expected, strict=True)
        ]
        first = min(failed, key=read.__getitem__)
        told = "\n".join(self._told(f, cases, expected, problems, first))
        if passes(lambda: expect(self._right(anew(f), cases[first], expected[first]), "")):
            told += f"\nMade alone, this call gives the right value: {KEEPS}"
        for label, (wrong, hint) in mistakes.items():
            if any(self._equal(one, cases, got) for one in (wrong, *self.others.get(label, ()))):
                told = f"{told}\nThis is what you get with {label}. {hint}"
                break
        failure = Failure(told)
        failure.cause = got[first].error if isinstance(got[first], Raised) else None
        raise failure

    def _told(
        self,
        f: Function,
        cases: list[tuple[Any, ...]],
        expected: list[Any],
        problems: list[str | None],
        first: int,
    ) -> list[str]:
        """The lines about a failed case; where the answer is a test of functions, about a function."""
        problem, args, wanted = problems[first] or "", cases[first], expected[first]
        if not _judges(args, wanted):
            call = f"The call was {short_call(f, args, problem)}"
            return [problem, call, *rows_named(args, problem)]
        alike = [told for told, one in zip(problems, expected, strict=True) if one is wanted]
        n, is_right = len(alike) - alike.count(None), wanted is self.says_of_right
        words = args[0].__name__.removeprefix("right_" * is_right).replace("_", " ")
        which = f"{n} of {len(alike)} {'right' if is_right else 'wrong'} functions, {'such as ' * (n > 1)}"
        told = f'{problem} for {which}"{words}".'
        missed = not is_right and "raised" not in problem
        return [told, about(self.id, f, args, missed, next(iter(self.right.values()), None))]

    def _right(self, f: Function, args: tuple[Any, ...], expected: Any) -> bool:
        return not self._differ(outcome(f, copy.deepcopy(args)), expected)

    def lifted(self, answer: Function) -> Function:
        """The answer as a function of a case's arguments; a subclass may adapt it."""
        return answer

    def _equal(self, wrong: Function, cases: list[tuple[Any, ...]], got: list[Any]) -> bool:
        """Whether a wrong answer gives the same results, and changes its arguments where this one did."""
        f = self.lifted(wrong)
        for one, args in zip(got, cases, strict=True):
            given = copy.deepcopy(args)
            found = outcome(f, given)
            changed = isinstance(one, Changed)
            if self._differ(one.value if changed else one, found) or (
                changed and not difference(given, args)
            ):
                return False
        return True

    def _differ(self, got: Any, expected: Any) -> str | None:
        return differ(got, expected, self.tolerance)


def _judges(args: tuple[Any, ...], expected: Any) -> bool:
    return type(expected) is bool and bool(args) and callable(args[0])


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
