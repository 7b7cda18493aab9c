"""The results of checks, as the report holds them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from myllm.grading import Exercise

NOT_STARTED = "Not started."
# The kinds of checks in a learner's words.
KINDS = {
    "example": "example",
    "oracle": "random cases",
    "edge": "special cases",
    "property": "property",
    "cost": "amount of work",
    "conduct": "forbidden names",
}
# A line of a check's message that names the cause; other lines compare the expected and the actual value.
DIAGNOSIS = re.compile(r"This is what you get with |Your \w+ does not pass ")
LONGEST = 2000  # characters of a message
STRANGE = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Text that every format can hold: bounded, without control characters or lone surrogates."""
    return STRANGE.sub("\N{REPLACEMENT CHARACTER}", text if len(text) <= LONGEST else f"{text[:LONGEST]} …")


class Weighed(Protocol):
    """The part of a check that the report reads."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class CheckResult:
    """One line of the report; ``message`` says what went wrong."""

    kind: str
    weight: float
    passed: bool
    message: str


@dataclass(frozen=True)
class Result:
    """The verdict on one exercise.

    ``error`` is what kept the whole file from being loaded, ``printed`` what the answer wrote.
    """

    id: str
    title: str
    points: int
    checks: list[CheckResult] = field(default_factory=list[CheckResult])
    error: str = ""
    printed: str = ""

    @property
    def earned(self) -> float:
        """The points of the checks that passed, an int if they are whole."""
        total = sum(one.weight for one in self.checks if one.passed)
        return int(total) if total == int(total) else total

    @property
    def status(self) -> str:
        """``not started``, ``partial``, ``passed`` or ``failed``."""
        if all(one.message == NOT_STARTED for one in self.checks) and not self.error:
            return "not started"
        return "passed" if self.earned == self.points else "partial" if self.earned else "failed"

    @classmethod
    def failed(
        cls, exercise: Exercise, message: str, checks: Sequence[Weighed] = (), *, whole_file: bool = False
    ) -> "Result":
        """The result if no check can pass, for one reason; ``whole_file`` if that affects the whole file."""
        lines = [CheckResult(one.kind, one.weight, False, clean(message)) for one in checks]
        lines = lines or [CheckResult("run", exercise.points, False, clean(message))]
        error = lines[0].message if whole_file else ""
        return cls(exercise.id, exercise.title, exercise.points, lines, error)

    @classmethod
    def unstarted(cls, exercise: Exercise, checks: Sequence[Weighed] = ()) -> "Result":
        """The result if the answer is still the stub."""
        lines = [CheckResult(one.kind, one.weight, False, NOT_STARTED) for one in checks]
        return cls(exercise.id, exercise.title, exercise.points, lines)

    def to_json(self) -> dict[str, Any]:
        """The entry of this exercise in the report."""
        checks = [vars(one) for one in self.checks]
        about = {"id": self.id, "title": self.title, "points": self.points, "earned": self.earned}
        return {**about, "status": self.status, "checks": checks}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        """The inverse of :meth:`to_json`.

        Raises:
            LookupError, TypeError, ValueError: the data does not come from there.
        """
        checks = [CheckResult(**one) for one in data["checks"]]
        result = cls(
            data["id"], data["title"], data["points"], checks, data.get("error", ""), data.get("printed", "")
        )
        texts = [result.id, result.title, result.error, result.printed]
        texts += [text for one in checks for text in (one.kind, one.message)]
        numbers = [result.points, *(one.weight for one in checks)]
        if any(type(one) is not str for one in texts) or any(
            type(one) not in (int, float) for one in numbers
        ):
            raise TypeError("text or a number of another type")
        if not all(0 <= one <= result.points < math.inf for one in numbers):  # false for NaN, too
            raise ValueError("a number outside of its range")
        if any(type(one.passed) is not bool for one in checks):
            raise TypeError("neither true nor false")
        return result
