"""The progress in a folder of answers: one JSON report, written completely or not at all."""

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
        UserError: the file is damaged, or is not a progress file.
    """
    path, known = progress_path(folder), dict[str, Result]()
    damaged = f"{path} is not a progress file; `myllm exercises check` sets it aside and begins a new one."
    try:
        if path.is_file():
            known = {one["id"]: Result.from_json(one) for one in read_json(path, "progress")["exercises"]}
        elif path.exists():  # a folder, or a pipe, which would block
            raise UserError(damaged)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    except (LookupError, TypeError, AttributeError, ValueError):
        raise UserError(damaged) from None
    results = [known.get(one.id, Result.unstarted(one)) for one in exercises]
    # An exercise whose points have changed since is another exercise.
    return [
        result if result.points == one.points else Result.unstarted(one)
        for one, result in zip(exercises, results, strict=True)
    ]


def record(folder: Path, results: Sequence[Result], exercises: Sequence[Exercise]) -> None:
    """Add new results to the progress file; an unreadable one is renamed to ``progress.damaged``.

    Raises:
        UserError: the file cannot be written.
    """
    path, new = progress_path(folder), {one.id: one for one in results}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            old = read(folder, exercises)
        except UserError:
            path.replace(path.with_suffix(".damaged"))
            old = read(folder, exercises)
    except OSError as error:
        raise UserError(f"Cannot keep your progress in {path}: {error.strerror}.") from None
    atomic_write(path, json.dumps(to_json([new.get(one.id, one) for one in old]), indent=1) + "\n")
