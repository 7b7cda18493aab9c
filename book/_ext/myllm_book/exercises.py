"""What the book prints about a graded exercise, read from the marked solutions without importing them."""

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .sources import ROOT


class Exercise(NamedTuple):
    """One exercise: its metadata, its specification and its hints (none while its checks are not written)."""

    id: str
    title: str
    points: int
    minutes: int
    difficulty: int
    signature: str
    docstring: str
    hints: tuple[str, ...]
    file: str

    @property
    def facts(self) -> str:
        """One line: points, minutes, difficulty."""
        level = {1: "gentle", 2: "moderate", 3: "demanding"}.get(self.difficulty, f"level {self.difficulty}")
        return f"{self.points} points · about {self.minutes} minutes · {level}"

    @property
    def name(self) -> str:
        """The name of the function that the reader writes."""
        return self.signature.removeprefix("def ").partition("(")[0]


def parse(path: Path) -> list[Exercise]:
    """The exercises of one solutions file, in order."""
    found = []
    for node in ast.parse(path.read_text()).body:
        for mark in getattr(node, "decorator_list", []):
            if (
                isinstance(node, ast.FunctionDef)
                and isinstance(mark, ast.Call)
                and ast.unparse(mark.func).endswith("exercise")
            ):
                number, title = (ast.literal_eval(arg) for arg in mark.args)
                meta = {
                    word.arg: ast.literal_eval(word.value) for word in mark.keywords if word.arg != "hints"
                }
                signature = f"def {node.name}({ast.unparse(node.args)})" + (
                    f" -> {ast.unparse(node.returns)}:" if node.returns else ":"
                )
                found.append(
                    Exercise(
                        number,
                        title,
                        meta["points"],
                        meta["minutes"],
                        meta["difficulty"],
                        signature,
                        inspect.cleandoc(ast.get_docstring(node) or ""),
                        hints(number),
                        path.name,
                    )
                )
    return found


def hints(number: str) -> tuple[str, ...]:
    """The hints of an exercise, from its checks."""
    return ()


@cache
def exercises() -> dict[str, Exercise]:
    """Every exercise by its id."""
    return {e.id: e for path in sorted((ROOT / "solutions").glob("ch*.py")) for e in parse(path)}
