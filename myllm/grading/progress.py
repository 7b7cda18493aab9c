"""What has been solved so far in a folder of answers: one JSON report, written whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path

from myllm.files import UserError, atomic_write, read_json
from myllm.grading import Exercise
from myllm.grading.report import to_json
from myllm.grading.results import Result


def progress_path(folder: Path) -> Path:
    """Where the progress of a folder of answers is kept."""
    return folder / ".myllm" / "progress.json"


def read(folder: Path, exercises: Sequence[Exercise]) -> list[Result]:
    """The last result of each of these exercises; not started where there is none.

    Raises:
        UserError: the file is torn or foreign.
    """
    path, known = progress_path(folder), dict[str, Result]()
    if path.exists():
        try:
            known = {one["id"]: Result.from_json(one) for one in read_json(path, "progress")["exercises"]}
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} is not a progress file; delete it and check your answers again."
            ) from None
    results = [known.get(one.id, Result.unstarted(one)) for one in exercises]
    # An exercise whose points have changed since is another exercise.
    return [
        result if result.points == one.points else Result.unstarted(one)
        for one, result in zip(exercises, results, strict=True)
    ]


def record(folder: Path, results: Sequence[Result], exercises: Sequence[Exercise]) -> list[Result]:
    """Put new results in the progress file, and give back what it holds now."""
    new = {one.id: one for one in results}
    merged = [new.get(one.id, one) for one in read(folder, exercises)]
    path = progress_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(to_json(merged), indent=1) + "\n")
    return merged
