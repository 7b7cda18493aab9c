"""Answers that are classes: checked as functions of the constructor's arguments and of method calls."""

from collections.abc import Callable, Sequence
from typing import Any


class Calls(list[tuple[Any, ...]]):
    """Method calls in order, each a name and its arguments; the last argument of a case for a class."""

    def __repr__(self) -> str:
        # This imports torch, which the command line's help does not need.
        from myllm.grading.shown import show

        return "; ".join(f"x.{name}({', '.join(map(show, args))})" for name, *args in self)

    def named(self, results: Sequence[Any]) -> dict[str, Any]:
        """The results with their calls as keys, as `as_function` returns them."""
        keys = (f"call {i}: {name}" for i, (name, *_) in enumerate(self, start=1))
        return dict(zip(keys, results, strict=True))


def as_function(answer: Callable[..., Any]) -> Callable[..., Any]:
    """A function as it is, or for a class, a function that makes an object and calls its methods.

    Returns:
        For a class, a function of the constructor's arguments and of `Calls`, which returns a dict of the
        results.
    """
    if not isinstance(answer, type):
        return answer

    def played(*args: Any) -> dict[str, Any]:
        *given, calls = args
        made = answer(*given)
        return calls.named([getattr(made, name)(*rest) for name, *rest in calls])

    return played
