"""Exams for exercises whose answer is a test, which must accept right functions and reject wrong ones."""

import copy
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, ClassVar

from myllm.grading.exam import Exam, Function, Mistakes, Rng


class Suspect:
    """A function on which the learner's test is tried; it counts its calls, and those of all suspects.

    Args:
        name: says what is wrong with the function, or begins with ``right``.
        function: takes positional arguments.
        form: a function with the suspect's parameters; arguments may be passed by these names.
    """

    made: ClassVar = 0

    def __init__(self, name: str, function: Function, form: Function) -> None:
        self.__name__, self.form, self.calls = name, form, 0
        self.function = copy.deepcopy(function)  # one with state starts afresh

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Call the function."""
        self.calls += 1
        Suspect.made += 1
        return self.function(*signature(self.form).bind(*args, **named).args)

    def __repr__(self) -> str:
        return self.__name__


class VerdictExam(Exam[[Suspect]]):
    """The checks of an answer that tests a function and returns whether that function is right.

    Args:
        id: the exercise.
        right: functions that the test must accept, by names; the first has the parameters of all suspects.
    """

    def __init__(self, id: str, right: Mapping[str, Function]) -> None:
        super().__init__(id, lambda suspect, /: suspect.__name__ in right)
        self.right = {**right}
        self.called = False  # whether the answer called its functions at all

    def suspect(self, name: str, function: Function) -> Suspect:
        """One function, right or wrong."""
        return Suspect(name, function, next(iter(self.right.values())))

    def _compare(self, f: Function, cases: list[tuple[Any, ...]], mistakes: "Mistakes[[Suspect]]") -> None:
        before = Suspect.made
        got = self.outcomes(f, cases)
        self.called = Suspect.made > before
        self._report(f, cases, got, self.outcomes(self.reference, cases), mistakes)

    def _equal(self, wrong: Function, cases: list[tuple[Any, ...]], got: list[Any]) -> bool:
        """What calls nothing is not the mistake of an answer that calls its functions."""
        before = Suspect.made
        return super()._equal(wrong, cases, got) and (Suspect.made > before or not self.called)

    def reject(self, kind: str, weight: float, wrong: Mapping[str, Function], *labels: str) -> None:
        """Add an ``"oracle"`` or ``"edge"`` check: the test rejects these, and accepts all right ones.

        Args:
            kind: the kind of check; an oracle check recognizes all mistakes that no edge check names.
            weight: points.
            wrong: functions that the test must reject, by names.
            labels: those of an edge check, as :meth:`edge` takes them.
        """

        def cases(rng: Rng) -> Iterator[tuple[Suspect]]:
            mixed = [*{**wrong, **self.right}.items()]
            yield from [(self.suspect(*one),) for one in rng.sample(mixed, len(mixed))]

        (self.edge(weight, *labels) if kind == "edge" else self.oracle(weight))(cases)
