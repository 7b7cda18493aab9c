"""Answers that are classes: checked as functions of the constructor's arguments and of calls of methods."""

from collections.abc import Callable, Sequence
from typing import Any


class Calls(list[tuple[Any, ...]]):
    """Calls of methods in their order, each a name and its arguments; the last argument of such an answer."""

    def __repr__(self) -> str:
        # It imports torch, which the help of the command line does not need.
        from myllm.grading.shown import show

        return "; ".join(f"x.{name}({', '.join(map(show, args))})" for name, *args in self)

    def named(self, results: Sequence[Any]) -> dict[str, Any]:
        """The results by calls, as `as_function` returns them."""
        keys = (f"call {i}: {name}" for i, (name, *_) in enumerate(self, start=1))
        return dict(zip(keys, results, strict=True))


def as_function(answer: Callable[..., Any]) -> Callable[..., Any]:
    """A function stays as it is; of a class, a function that makes an object and calls its methods.

    Returns:
        A function of the arguments of the constructor and of `Calls`; its result is a dict of the results.
    """
    if not isinstance(answer, type):
        return answer

    def played(*args: Any) -> dict[str, Any]:
        *given, calls = args
        made = answer(*given)
        return calls.named([getattr(made, name)(*rest) for name, *rest in calls])

    return played
