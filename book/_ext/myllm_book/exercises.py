"""What the book prints about a graded exercise: its specification, its hints, what may not be called."""

import ast
import re
import textwrap
from typing import NamedTuple

from myllm.grading import catalogue
from myllm.grading.engine import exam
from myllm.grading.mistakes import hints

from .sources import ROOT

LEVELS = {1: "gentle", 2: "moderate", 3: "demanding"}


class Card(NamedTuple):
    """One exercise: its facts, its specification and its hints (nudge, pointer, pseudocode)."""

    id: str
    title: str
    facts: str
    signature: str
    docstring: str
    hints: tuple[str, ...]
    forbidden: tuple[str, ...]
    file: str


def card(number: str) -> Card:
    """The card of one exercise.

    Raises:
        KeyError: no solutions file holds this exercise.
    """
    about = catalogue.exercises()[number]
    tree = ast.parse((ROOT / "solutions" / about.file).read_text("utf-8"))
    answer = next(n for n in tree.body if isinstance(n, catalogue.ANSWER) and n.name == about.function)
    return Card(
        id=number,
        title=about.title,
        facts=f"{about.points} points · about {about.minutes} minutes · {LEVELS[about.difficulty]}",
        signature=signature(answer),
        docstring=ast.get_docstring(answer) or "",
        hints=hints(about),
        forbidden=exam(number).announced,
        file=about.file,
    )


def signature(answer: ast.FunctionDef | ast.ClassDef) -> str:
    """The head of a function, or of a class and its methods."""
    if isinstance(answer, ast.ClassDef):
        methods = [signature(one) for one in answer.body if isinstance(one, ast.FunctionDef)]
        return "\n    ".join([f"class {answer.name}:", *methods])
    returns = f" -> {ast.unparse(answer.returns)}" if answer.returns else ""
    return f"def {answer.name}({ast.unparse(answer.args)}){returns}: ..."


def not_allowed(names: tuple[str, ...]) -> str:
    """The names that raise while an answer is checked, as Markdown."""
    listed = ", ".join(f"`{name}`" for name in names)
    return f"Your answer builds the step itself, so these raise while it is checked: {listed}."


SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Examples?|Notes?):$", re.MULTILINE)
ITEM = re.compile(r"^(\S[^:\n]*): ", re.MULTILINE)


def specification(docstring: str) -> str:
    """A Google-style docstring as reStructuredText that reads well on a page."""
    first, *sections = SECTION.split(docstring)
    out = first
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        body = textwrap.dedent(body.strip("\n")).strip()
        if title in ("Args", "Raises"):
            body = ITEM.sub(r"* **\1**: ", re.sub(r"\n +", " ", body))  # an item is one line
        elif title in ("Returns", "Yields"):
            body = re.sub(r"\n +(?=[^\s*-])", " ", body)  # an indented second line would define the first
        out += f"\n.. rubric:: {title.replace('Args', 'Parameters')}\n\n{body}\n"
    return out
