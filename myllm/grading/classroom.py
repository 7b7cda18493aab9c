"""Finding and grading the folders of many learners; a problem in one affects no other."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from myllm.files import UserError
from myllm.grading import Exercise, catalogue
from myllm.grading.results import Result, clean
from myllm.grading.worker import TOO_LONG

ARCHIVES = (".zip", ".gz", ".tgz", ".xz", ".bz2", ".tar", ".7z", ".rar")
ENDED = ("The process was ended by", "The checking process was lost", "More than")


class Checks(Protocol):
    """What grading requires of a worker."""

    def check_file(self, exercise: Exercise, file: Path, seed: int | None = None) -> Result:
        """Check one exercise in a file of answers."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


@dataclass(frozen=True)
class Learner:
    """One row of the table.

    Attributes:
        name: The name of the folder, in printable characters.
        folder: Where the answers are.
        results: One for each requested exercise; empty if the folder could not be graded.
        notes: Sentences on what went wrong.
    """

    name: str
    folder: Path
    results: list[Result] = field(default_factory=list[Result])
    notes: list[str] = field(default_factory=list[str])


def find(folders: Sequence[Path]) -> list[Learner]:
    """The learners in some folders, not graded yet.

    A folder that holds an answer file belongs to one learner. Any other holds a folder for each learner, in
    which the answers may be one level deeper. Hidden folders are skipped; one that is named twice counts
    once.
    """
    found = dict[Path, Learner]()
    for folder in folders:
        try:
            inside = [folder] if _holds_answers(folder) else _learners_in(folder) or [folder]
        except OSError:  # the row will say so
            inside = [folder]
        for one in inside:
            place = one.absolute()
            with suppress(OSError, RuntimeError):  # a loop of links
                place = one.resolve()
            found[place] = _learner(one)
    return _distinct(found)


def _learner(folder: Path) -> Learner:
    name = _printable(folder)
    try:
        if not folder.is_dir():
            is_there = "This is a file, not a folder; unpack it if it is an archive."
            return Learner(name, folder, notes=[is_there if folder.exists() else "There is no such folder."])
        inside = [folder] if _holds_answers(folder) else [*filter(_holds_answers, _learners_in(folder))]
    except OSError as error:
        return Learner(name, folder, notes=[_unreadable(error)])
    if len(inside) == 1:
        return Learner(name, inside[0])
    if inside:
        listed = ", ".join(map(_printable, inside))
        return Learner(name, folder, notes=[f"Several folders hold answers ({listed}); keep one of them."])
    example = min(one.file for one in catalogue.exercises().values())
    return Learner(name, folder, notes=[f"There are no answers here, that is, no files such as {example}."])


def _distinct(found: dict[Path, Learner]) -> list[Learner]:
    """Prefix duplicate names with the parent folder, and mark those that are still duplicates "(again)"."""
    names, out = [one.name for one in found.values()], dict[str, Learner]()
    for place, one in found.items():
        name = one.name if names.count(one.name) == 1 else f"{_printable(place.parent)}/{one.name}"
        while name in out:
            name += " (again)"
        out[name] = Learner(name, one.folder, notes=one.notes)
    return list(out.values())


def _holds_answers(folder: Path) -> bool:
    return any((folder / file).is_file() for file in {one.file for one in catalogue.exercises().values()})


def _learners_in(folder: Path) -> list[Path]:
    """The folders inside, and archives that have not been unpacked."""
    inside = list[Path]()
    for one in folder.iterdir() if folder.is_dir() else ():
        packed = one.suffix.lower() in ARCHIVES and not (folder / one.name.partition(".")[0]).is_dir()
        if (one.is_dir() or packed) and not one.name.startswith((".", "__")):
            inside.append(one)
    return sorted(inside, key=lambda one: (one.name.casefold(), one.name))


def _printable(folder: Path) -> str:
    name = folder.name or folder.absolute().resolve().name or str(folder)
    return " ".join(clean(name).split()) or "(a name of spaces)"


def _unreadable(error: OSError) -> str:
    return f"The folder cannot be read: {(error.strerror or str(error)).lower()}."


def check(worker: Checks, folder: Path, chosen: Sequence[Exercise], seed: int) -> list[Result]:
    """Check the chosen exercises in one folder of answers; those in a missing file count as not started."""
    results, broken = list[Result](), dict[str, str]()
    for one in chosen:
        path = folder / one.file
        if one.file in broken:  # its file does not load; once is enough
            result = Result.failed(one, broken[one.file], whole_file=True)
        elif path.is_file():
            result = worker.check_file(one, path, seed)
        else:
            result = Result.unstarted(one)
        if result.error:
            broken[one.file] = result.error
        results.append(result)
    return results


def grade(
    worker: Checks,
    learners: Sequence[Learner],
    chosen: Sequence[Exercise],
    seed: int,
    tell: Callable[[int, Learner], None] = lambda number, learner: None,
) -> list[Learner]:
    """Grade learners one after the other, with the same random cases for all of them.

    Args:
        worker: Checks each answer in a process of its own.
        learners: As :func:`find` returns them; those with a note are returned as they are.
        chosen: The exercises.
        seed: The seed of the random cases.
        tell: Called with the number of a learner, from 1, and the graded learner.
    """
    graded = list[Learner]()
    for number, one in enumerate(learners, 1):
        if not one.notes:
            try:
                results = check(worker, one.folder, chosen, seed)
                one = Learner(one.name, one.folder, results, remarks(results, chosen))
            except (UserError, OSError, ValueError, LookupError, TypeError) as error:
                worker.close()  # a late reply must not be taken for the next learner's
                one = Learner(one.name, one.folder, notes=[f"Grading broke off: {_line(str(error))}"])
        graded.append(one)
        tell(number, one)
    return graded


def remarks(results: Sequence[Result], chosen: Sequence[Exercise]) -> list[str]:
    """What a teacher should know besides the points: files that do not load, time limits, crashes."""
    unloadable = {one.file: result.error for one, result in zip(chosen, results, strict=True) if result.error}
    told = [_line(error if file in error else f"{file}: {error}") for file, error in unloadable.items()]
    for sentence, starts in (("Time limit reached", (TOO_LONG,)), ("Ended before the checks", ENDED)):
        ids = [
            result.id
            for result in results
            if not result.error and any(check.message.startswith(starts) for check in result.checks)
        ]
        if ids:
            told.append(f"{sentence}: {', '.join(ids)}.")
    return told


def _line(text: str) -> str:
    """A text on one line of bounded length."""
    line = " ".join(clean(text).split())
    return line if len(line) <= 200 else f"{line[:200]} …"
