"""``myllm exercises``: list, start, check, hint, solution, report; grade has its own module."""

import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from myllm.cli.grade import Grade
from myllm.files import UserError, atomic_write, expand
from myllm.grading import Exercise, catalogue, classroom, progress
from myllm.grading.client import Worker
from myllm.grading.mistakes import hints
from myllm.grading.report import Format, random_failed, render

Folder = Annotated[str, arg(metavar="DIR")]
Number = Annotated[str, Positional, arg(metavar="EXERCISE")]


@dataclass(frozen=True)
class List:
    """Show all exercises: points, minutes, difficulty, state.

    Examples:
        myllm exercises list
        myllm exercises list --dir my-answers --format json
    """

    dir: Folder = "."
    """Folder of your answers, for the state."""
    format: Literal["text", "json"] = "text"
    """A table, or the report as JSON."""

    def run(self) -> int:
        """Print the table."""
        exercises = _all()
        results = progress.read(_folder(self.dir), exercises)
        if self.format == "json":
            print(render(results, "json"))
            return 0
        from rich.console import Console
        from rich.table import Table

        table = Table("Exercise", "Title", "Points", "Minutes", "Difficulty", "State", box=None)
        for one, result in zip(exercises, results, strict=True):
            points = f"{result.earned}/{one.points}" if result.status != "not started" else str(one.points)
            table.add_row(one.id, one.title, points, str(one.minutes), "•" * one.difficulty, result.status)
        Console(highlight=False).print(table)
        if _foreign(_folder(self.dir)):
            print(f"\nNo state: {_foreign(_folder(self.dir))}")
        return 0


@dataclass(frozen=True)
class Start:
    """Copy the exercises into a folder; existing files are left unchanged.

    Examples:
        myllm exercises start my-answers
    """

    dir: Annotated[str, Positional, arg(metavar="DIR")]
    """Folder for your answers; it is created if it does not exist."""

    def run(self) -> int:
        """Copy what is missing, and report what was kept."""
        folder = _folder(self.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{folder} is a file or lies in one; name a folder for your answers.") from None
        except OSError as error:
            raise UserError(f"Cannot make {folder}: {error.strerror}; name another folder.") from error
        kept, new = list[str](), list[str]()
        for path in sorted(catalogue.folder("exercises").glob("ch*.py")):
            there = (folder / path.name).exists()
            (kept if there else new).append(path.name)
            if not there:
                atomic_write(folder / path.name, path.read_bytes())
        progress.record(folder, [], _all())
        if new:
            print(f"New in {folder}: {', '.join(new)}")
        if kept:
            print(f"Kept as they are: {', '.join(kept)}")
        print(f"Write your answers there, then: cd {folder} && myllm exercises check --all")
        return 0


@dataclass(frozen=True)
class Check:
    """Check your answers; the exit code is 0 if all chosen exercises pass, else 1.

    Examples:
        myllm exercises check 03
        myllm exercises check 03.2 --watch
        myllm exercises check 03.2 --seed 7
        myllm exercises check --all --dir my-answers --format junit > report.xml
    """

    exercises: Annotated[tuple[str, ...], Positional, arg(metavar="[03 | 03.2 …]")] = ()
    """Chapters (03) and exercises (03.2)."""
    all: bool = False
    """Check every exercise."""
    dir: Folder = "."
    """Folder of your answers."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Seed of the random cases; after a failed check the report names the one it used."""
    watch: bool = False
    """Check again whenever a file is saved, until Ctrl-C."""
    format: Format = "text"
    """Format of the report."""

    def run(self, wait: Callable[[float], None] = time.sleep) -> int:
        """Check, record the progress, print the report; ``wait`` pauses between looks at the files."""
        if self.all == bool(self.exercises):
            raise UserError("Name chapters or exercises (03, 03.2), or give --all.")
        chosen = _all() if self.all else catalogue.choose(list(self.exercises))
        folder, files = _folder(self.dir), {one.file for one in chosen}
        missing = sorted(file for file in files if not (folder / file).is_file())
        if missing and (not self.all or len(missing) == len(files)):
            raise UserError(f"{folder.absolute()} has no {missing[0]}; `myllm exercises start DIR` makes it.")
        worker, code = Worker(), 1
        try:
            code = self._check(worker, chosen)
            while self.watch:
                before = _saved(folder, files)
                while _saved(folder, files) == before:
                    wait(0.3)
                code = self._check(worker, chosen)
        except KeyboardInterrupt:
            if not self.watch:
                raise
        finally:
            worker.close()
        return code

    def _check(self, worker: Worker, chosen: list[Exercise]) -> int:
        seed = secrets.randbelow(10**6) if self.seed is None else self.seed
        results = classroom.check(worker, _folder(self.dir), chosen, seed)
        print(render(results, self.format), flush=True)
        if random_failed(results):
            told = sys.stdout if self.format == "text" else sys.stderr
            print(f"The same random cases again: --seed {seed}", file=told, flush=True)
        progress.record(_folder(self.dir), results, _all())
        return int(any(one.status != "passed" for one in results))


@dataclass(frozen=True)
class Hint:
    """Show a hint: 1 is a nudge, 2 points into the chapter, 3 is pseudocode.

    Examples:
        myllm exercises hint 03.2
        myllm exercises hint 03.2 3
    """

    exercise: Number
    """The exercise, such as 03.2."""
    number: Annotated[Literal[1, 2, 3], Positional, arg(metavar="[1|2|3]")] = 1
    """Which hint to show."""
    level: Annotated[Literal[1, 2, 3] | None, arg(metavar="1|2|3")] = None
    """The same as a named option."""

    def run(self) -> int:
        """Print the hint."""
        if self.level is not None and self.number != 1:
            raise UserError("Give the number of the hint once, with --level or without.")
        one, level = _one(self.exercise), self.level or self.number
        print(hints(one)[level - 1])
        if level < 3:
            print(f"\nHint {level} of 3; the next one: myllm exercises hint {one.id} {level + 1}")
        return 0


@dataclass(frozen=True)
class Solution:
    """Show the solution of an exercise.

    Examples:
        myllm exercises solution 03.2
    """

    exercise: Number
    """The exercise, such as 03.2."""

    def run(self) -> int:
        """Print the solution."""
        print(catalogue.solution(_one(self.exercise)), end="")
        return 0


@dataclass(frozen=True)
class Report:
    """Report on all exercises as they were last checked; nothing is run.

    Examples:
        myllm exercises report
        myllm exercises report --dir my-answers --format html > report.html
    """

    dir: Folder = "."
    """Folder of your answers."""
    format: Format = "text"
    """Format of the report."""

    def run(self) -> int:
        """Print the report."""
        if problem := _foreign(_folder(self.dir)):
            raise UserError(problem)
        print(render(progress.read(_folder(self.dir), _all()), self.format))
        return 0


def _folder(name: str) -> Path:
    try:
        return expand(name).expanduser()  # which, unlike expand, refuses a home folder that does not exist
    except RuntimeError:
        raise UserError(f"There is no home folder to put in for ~ in {name}; give the whole path.") from None


def _all() -> list[Exercise]:
    return list(catalogue.exercises().values())


def _one(name: str) -> Exercise:
    chosen = catalogue.choose([name])
    if "." not in name:
        raise UserError(f"{name} is a chapter; name one exercise, such as {chosen[0].id}.")
    return chosen[0]


def _foreign(folder: Path) -> str:
    """A message if a folder holds neither answers nor progress, else an empty string."""
    if progress.progress_path(folder).exists() or any((folder / one.file).is_file() for one in _all()):
        return ""
    return f"{folder.absolute()} holds no answers; `myllm exercises start DIR` makes them, --dir names them."


def _saved(folder: Path, files: set[str]) -> list[int]:
    paths = [folder / file for file in sorted(files)]
    return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]


COMMANDS = {
    "list": List,
    "start": Start,
    "check": Check,
    "hint": Hint,
    "solution": Solution,
    "report": Report,
    "grade": Grade,
}
