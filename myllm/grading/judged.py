"""What a report says about a function under a learner's test: which one, and a call that shows its fault."""

import copy
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from myllm.grading.compare import difference
from myllm.grading.mistakes import solution
from myllm.grading.outcomes import Raised, differ, outcome
from myllm.grading.shown import short_call, show


class Watched:
    """A function under test that remembers its last call.

    Args:
        function: right or wrong; its ``form``, if it has one, is a function with the names of its parameters.
        name: how its calls are written.
    """

    def __init__(self, function: Any, name: str) -> None:
        self.function, self.form, self.__name__ = function, getattr(function, "form", function), name
        self.args: Sequence[Any] | None = None
        self.result: Any = None
        self.changed = False

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Call the function."""
        given = signature(self.form).bind(*args, **named).args
        try:
            self.args = copy.deepcopy(given)
        except RuntimeError:  # a tensor inside a graph
            self.args = given
        self.result = outcome(self.function, given)
        self.changed = difference(given, self.args) is not None
        if isinstance(self.result, Raised):
            raise self.result.error
        return self.result

    def told(self, right: Callable[..., Any] | None) -> str:
        """The last call, and what is wrong with its result."""
        if self.args is None:
            return "none"
        wanted = outcome(right, copy.deepcopy(self.args)) if right else self.result
        wrong = differ(self.result, wanted) or difference(self.result, wanted) or ""
        error = self.result.error if isinstance(self.result, Raised) else None
        gave = f"raised {error!r}" if error else f"returned {show(self.result)}"
        more = f"; {wrong}" if wrong and not error else ", and changed its arguments" if self.changed else ""
        return f"{short_call(self, self.args, wrong)}, which {gave}{more}"


def last_call(judge: Callable[..., Any], args: Sequence[Any], name: str, right: Any = None) -> str:
    """The last call that a test makes of the function in its first argument."""
    watched = Watched(copy.deepcopy(args[0]), name)
    outcome(judge, (watched, *args[1:]))
    return watched.told(right)


def about(id: str, judge: Callable[..., Any], args: Sequence[Any], faulty: bool, right: Any = None) -> str:
    """A line about a function on which a learner's test is wrong.

    Args:
        id: the exercise; a fault is shown by the last call that its own answer makes.
        judge: the learner's test.
        args: its arguments, the function first.
        faulty: whether the function has a fault, which the test did not find.
        right: a function without faults, if all of them give the same.
    """
    answer = solution(id)
    name = next(iter(signature(answer).parameters)) if answer else "f"
    if answer and faulty:
        return f"A call that shows its fault: {last_call(answer, args, name, right)}."
    return f"The last call that your test made of it: {last_call(judge, args, name)}."
