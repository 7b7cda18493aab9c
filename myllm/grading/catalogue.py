"""Which exercises there are, read from the marked solutions without running them."""

import ast
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from myllm.files import UserError, read_text
from myllm.grading import Exercise

START, END = "# SOLUTION", "# END SOLUTION"
ANSWER = ast.FunctionDef | ast.ClassDef


def folder(name: str) -> Path:
    """The folder of ``"solutions"`` or ``"exercises"``: inside an installed wheel, else in the repository."""
    here = Path(__file__).parent / name
    return here if here.is_dir() else Path(__file__).parents[2] / name


def checks(chapter: str) -> Path:
    """The file that holds the checks of a chapter (its two digits)."""
    return folder("solutions") / "checks" / f"ch{chapter}.py"


def stub(source: str, forbidden: Callable[[str], Sequence[str]] = lambda id: ()) -> str:
    """The text of an answer file with every marked part replaced by ``raise NotImplementedError``.

    A marked part that is not indented (a helper function) is left out altogether.

    Args:
        source: The answer file.
        forbidden: Maps the id of an exercise to the names that an answer may not call, which a comment lists.

    Raises:
        ValueError: an unmatched mark.
    """
    lines, inside, id, listed = list[str](), False, "", set[str]()
    for line in source.splitlines(keepends=True):
        if found := re.match(r'@exercise\("([\d.]+)"', line):
            id = found[1]
        mark, indent = line.strip(), line[: len(line) - len(line.lstrip())]
        if mark in (START, END):
            if inside == (mark == START):
                raise ValueError(f"{mark} without its partner")
            inside = not inside
            if inside and indent:
                if names := ", ".join(() if id in listed else forbidden(id)):
                    told = textwrap.wrap(f"May not be called: {names}.", 100, break_on_hyphens=False)
                    lines.extend(f"{indent}# {one}\n" for one in told)
                listed.add(id)
                lines.append(f"{indent}raise NotImplementedError\n")
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"{START} without its partner")
    return "".join(lines)


def read_exercises(path: Path) -> list[Exercise]:
    """The exercises of one answer file, in its order, from the arguments of ``@exercise``."""
    found = list[Exercise]()
    for node in ast.parse(read_text(path)).body:
        for mark in node.decorator_list if isinstance(node, ANSWER) else []:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "exercise":
                given = [ast.literal_eval(value) for value in mark.args]
                named = {word.arg: ast.literal_eval(word.value) for word in mark.keywords if word.arg}
                assert isinstance(node, ANSWER)
                found.append(Exercise(*given, **named, function=node.name, file=path.name))
    return found


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises by id, in the order of the book."""
    paths = sorted(folder("solutions").glob("ch*.py"))
    return {one.id: one for path in paths for one in sorted(read_exercises(path), key=lambda one: one.id)}


def choose(names: list[str]) -> list[Exercise]:
    """The exercises selected by chapters (``"5"``, ``"05"``) and ids (``"5.2"``, ``"05.2"``).

    Raises:
        UserError: a name that matches no exercise.
    """
    chosen = dict[str, Exercise]()
    for name in names:
        match = re.fullmatch(r"(\d{1,2})(\.\d+)?", name)
        wanted = f"{int(match[1]):02}{match[2] or ''}" if match else name
        found = {id: one for id, one in exercises().items() if wanted in (id, one.chapter)}
        if not found:
            raise UserError(f"There is no exercise {name!r}; `myllm exercises list` shows all of them.")
        chosen |= found
    return list(chosen.values())


def solution(one: Exercise) -> str:
    """The source of one answer, its specification included, without the marks."""
    text = read_text(folder("solutions") / one.file)
    node = next(
        node for node in ast.parse(text).body if isinstance(node, ANSWER) and node.name == one.function
    )
    lines = text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
    return "".join(line for line in lines if line.strip() not in (START, END))
