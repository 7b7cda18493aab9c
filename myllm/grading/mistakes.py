"""What ``solutions/mistakes/chNN.toml`` holds: hints, and wrong answers as edits of the solution."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

from myllm.files import read_text
from myllm.grading import Exercise, catalogue
from myllm.grading.classes import as_function


@dataclass(frozen=True)
class Mistake:
    """One row; calling it calls the wrong answer.

    Args:
        exercise: the id.
        label: completes "This is what you get with …". Several rows may share it; a row without it is a wrong
            answer that the checks must reject without recognizing it.
        hint: what is said after the label; it belongs to the first row of a label.
        edits: pairs of an old text, which occurs once in the exercise's part of the file, and a new one.
        body: in place of ``edits``, everything between the marks.
    """

    exercise: str
    label: str = ""
    hint: str = ""
    edits: tuple[tuple[str, str], ...] = ()
    body: str = ""

    @property
    def about(self) -> Exercise:
        """The exercise that this answers."""
        return catalogue.exercises()[self.exercise]

    def text(self) -> str:
        """The whole answer file.

        Raises:
            ValueError: an old text does not occur exactly once there.
        """
        source = read_text(catalogue.folder("solutions") / self.about.file)
        start = source.index(f'@exercise("{self.exercise}"')
        answer, *after = re.split(r"(?=\n@exercise)", source[start:], maxsplit=1)
        if self.body:
            marked = rf"(?<={catalogue.START}\n).*(?=\n    {catalogue.END})"
            answer = re.sub(marked, lambda _: self.body, answer, flags=re.DOTALL)
        for old, new in self.edits:
            if (count := answer.count(old)) != 1:
                raise ValueError(f"{self.exercise}: this stands {count} times in the solution: {old}")
            answer = answer.replace(old, new)
        return "".join([source[:start], answer, *after])

    def __call__(self, *args: Any) -> Any:
        """The wrong result."""
        return _function(self)(*args)


@cache
def _function(mistake: Mistake) -> Any:
    space: dict[str, Any] = {"__name__": "mistake"}
    exec(compile(mistake.text(), mistake.about.file, "exec"), space)
    return as_function(space[mistake.about.function])


@cache
def _table(chapter: str) -> dict[str, Any]:
    path = catalogue.folder("solutions") / "mistakes" / f"ch{chapter}.toml"
    return tomllib.loads(read_text(path)) if path.exists() else {}


def solution(id: str) -> Any:
    """The answer of this repository as a function; None for an exercise that it does not have."""
    return _function(Mistake(id)) if id in catalogue.exercises() else None


def hints(one: Exercise) -> list[str]:
    """The three hints of an exercise: a nudge, a pointer into the chapter, pseudocode."""
    return _table(one.chapter)["hints"][one.id]


@cache
def mistakes(chapter: str, kind: str = "mistake") -> list[Mistake]:
    """All rows of a chapter (its two digits); none if it has no table.

    Args:
        chapter: its two digits.
        kind: ``"mistake"``, or ``"right"``: other answers that must earn all points, in the same form.
    """
    rows: list[Any] = _table(chapter).get(kind, [])
    return [
        Mistake(**row | {"edits": tuple((old, new) for old, new in row.get("edits", ()))}) for row in rows
    ]
