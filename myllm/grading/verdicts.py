"""Exams of exercises whose answer is a test: it must accept right functions and reject wrong ones."""

import copy
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

from myllm.grading.exam import Exam, Function, Rng


class Suspect:
    """A function that the learner's test is tried on; counts its calls.

    Args:
        name: says what is wrong with the function, or begins with ``right``.
        function: takes positional arguments.
        form: a function whose parameters the suspect has; its arguments may be given by these names.
    """

    def __init__(self, name: str, function: Function, form: Function) -> None:
        self.__name__, self.form, self.calls = name, form, 0
        self.function = copy.deepcopy(function)  # one that remembers something begins anew

    def __call__(self, *args: Any, **named: Any) -> Any:
        """What the function returns."""
        self.calls += 1
        return self.function(*signature(self.form).bind(*args, **named).args)

    def __repr__(self) -> str:
        return self.__name__


class VerdictExam(Exam[[Suspect]]):
    """The checks of a test of functions, which returns whether the function under test is right.

    Args:
        id: the exercise.
        right: functions that the test must accept, by names; the first has the parameters of all suspects.
    """

    def __init__(self, id: str, right: Mapping[str, Function]) -> None:
        super().__init__(id, lambda suspect, /: suspect.__name__ in right)
        self.right = right

    def suspect(self, name: str, function: Function) -> Suspect:
        """One function, right or wrong."""
        return Suspect(name, function, next(iter(self.right.values())))

    def reject(self, kind: str, weight: float, wrong: Mapping[str, Function], *labels: str) -> None:
        """Add an ``"oracle"`` or ``"edge"`` check: these are rejected, all right ones accepted.

        Args:
            kind: of the check; an oracle check recognizes all mistakes that no edge check names.
            weight: points.
            wrong: functions that the test must reject, by names.
            labels: of an edge check, as :meth:`edge` takes them.
        """

        def cases(rng: Rng) -> Iterator[tuple[Suspect]]:
            mixed = [*{**wrong, **self.right}.items()]
            yield from [(self.suspect(*one),) for one in rng.sample(mixed, len(mixed))]

        (self.edge(weight, *labels) if kind == "edge" else self.oracle(weight))(cases)
