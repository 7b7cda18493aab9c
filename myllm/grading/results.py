"""What a check found, in the shape of the report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from myllm.grading import Exercise

NOT_STARTED = "Not started."


class Weighed(Protocol):
    """A check as far as the report cares."""

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

    ``error`` is what kept the whole answer from being checked, ``printed`` what it wrote while it was.
    """

    id: str
    title: str
    points: int
    checks: list[CheckResult] = field(default_factory=list[CheckResult])
    error: str = ""
    printed: str = ""

    @property
    def earned(self) -> float:
        """The points of the checks that passed, an int where that is exact."""
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
        cls, exercise: Exercise, checks: Sequence[Weighed], message: str, printed: str = ""
    ) -> "Result":
        """No check passed, all for the same reason."""
        lines = [CheckResult(one.kind, one.weight, False, message) for one in checks]
        return cls(exercise.id, exercise.title, exercise.points, lines, message, printed)

    @classmethod
    def unstarted(cls, exercise: Exercise, checks: Sequence[Weighed] = ()) -> "Result":
        """The answer is still the stub."""
        lines = [CheckResult(one.kind, one.weight, False, NOT_STARTED) for one in checks]
        return cls(exercise.id, exercise.title, exercise.points, lines)

    def to_json(self) -> dict[str, Any]:
        """The entry of this exercise in the report."""
        checks = [vars(one) for one in self.checks]
        about = {"id": self.id, "title": self.title, "points": self.points, "earned": self.earned}
        return {**about, "status": self.status, "checks": checks}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        """The inverse of :meth:`to_json`."""
        checks = [CheckResult(**one) for one in data["checks"]]
        return cls(
            data["id"], data["title"], data["points"], checks, data.get("error", ""), data.get("printed", "")
        )
