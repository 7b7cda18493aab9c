"""Checking a function from a notebook cell; `check` never raises, so an unsolved chapter still runs."""

import dis
import re
import secrets
from collections.abc import Callable
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from myllm.files import UserError
from myllm.grading.catalogue import exercises
from myllm.grading.client import Worker
from myllm.grading.progress import progress_path, record
from myllm.grading.report import random_failed, to_html, to_text
from myllm.grading.results import Result

# The bytecode instructions of a stub.
STUB = {"RESUME", "LOAD_GLOBAL", "RAISE_VARARGS"}


class Card:
    """A verdict that a notebook shows as HTML and everything else as text."""

    def __init__(self, result: Result | None, note: str = "") -> None:
        self.result, self.note = result, note

    def __repr__(self) -> str:
        """The card as text."""
        if self.result is None:
            return self.note
        return "\n".join(filter(None, [to_text(self.result), self.note]))

    def _repr_html_(self) -> str:
        note = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(self.note))
        note = f"<p>{note}</p>" if note else ""
        return (to_html(self.result) if self.result else "") + note


@cache
def worker() -> Worker:
    """The one warm worker of this process."""
    return Worker()


def is_stub(function: Callable[..., Any]) -> bool:
    """Whether a function, or each method of a class, does nothing but ``raise NotImplementedError``."""
    if isinstance(function, type):
        methods = [one for one in vars(function).values() if callable(one)]
        return bool(methods) and all(map(is_stub, methods))
    code = getattr(function, "__code__", None)
    if code is None or set(code.co_names) != {"NotImplementedError"}:
        return False
    return {one.opname for one in dis.get_instructions(code)} <= STUB


def check(id: str, function: Callable[..., Any], *, seed: int | None = None) -> Card:
    """Check an answer and return a card; it never raises.

    Args:
        id: the exercise, such as ``"03.1"``.
        function: your answer.
        seed: the seed of the random cases; the card of a failed check names it.
    """
    exercise = exercises().get(str(id))
    if exercise is None:
        return Card(None, f"There is no exercise {id!r}; `myllm exercises list` shows all of them.")
    if is_stub(function):
        return Card(
            Result.unstarted(exercise),
            "Replace `raise NotImplementedError` with your answer and run the cell again.",
        )
    if not callable(function):
        return Card(None, f"check({id!r}, …) needs the function itself: check({id!r}, {exercise.function}).")
    seed = secrets.randbelow(10**6) if seed is None else seed
    try:
        result = worker().check_function(exercise, function, seed)
    except Exception as error:
        return Card(None, f"{id} could not be checked. {type(error).__name__}: {error}")
    again = f'The same random cases again: check("{id}", {exercise.function}, seed={seed})'
    notes = [again] if random_failed([result]) else []
    try:
        if progress_path(Path.cwd()).exists():
            record(Path.cwd(), [result], list(exercises().values()))
    except (OSError, UserError) as error:
        notes.append(str(error))
    return Card(result, "\n".join(notes))


def assert_solved(id: str, function: Callable[..., Any], *, seed: int | None = None) -> None:
    """Check an answer under pytest.

    Raises:
        AssertionError: it is not solved; the message is the text of the card.
    """
    card = check(id, function, seed=seed)
    assert card.result is not None and card.result.status == "passed", repr(card)
