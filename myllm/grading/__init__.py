"""Graded exercises: a learner writes a function, has it checked, and gets points, reasons and hints.

This package is only the engine. ``solutions/chNN_slug.py`` is the marked source of the answers and
``exercises/chNN_slug.py`` the stub generated from it. ``solutions/checks/chNN.py`` defines the checks;
``solutions/mistakes/chNN.toml`` holds hints and known wrong answers.

Importing this package is quick; only the worker loads torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Exercise:
    """The description of an exercise; ``function`` and ``file`` name the answer."""

    id: str
    title: str
    points: int
    minutes: int
    difficulty: int
    section: str
    function: str = ""
    file: str = ""

    @property
    def chapter(self) -> str:
        """The chapter's two digits."""
        return self.id[:2]


def exercise(
    id: str, title: str, *, points: int, minutes: int, difficulty: int, section: str
) -> Callable[[F], F]:
    """Mark a function or a class as the answer to an exercise.

    Args:
        id: chapter and number, such as ``"03.1"``; never changes once published.
        title: a few words.
        points: what a full answer earns.
        minutes: how long a reader of the chapter will probably need.
        difficulty: 1 to 3.
        section: the anchor in the chapter that teaches it.
    """
    about = Exercise(id, title, points, minutes, difficulty, section)

    def mark(function: F) -> F:
        setattr(function, "exercise", about)  # noqa: B010 (a class, too, takes the attribute)
        return function

    return mark
