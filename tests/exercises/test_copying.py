"""No exercise can be copied: what the chapters define and show earns full points nowhere.

Every function and class of the chapters' cells, and every definition of the package that a chapter builds or
uses, is submitted in place of every answer.
"""

import ast
import dis
import importlib
import inspect
import multiprocessing
import os
import signal
import subprocess
import tomllib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest

from myllm.grading import Exercise
from myllm.grading.attempt import prepare
from myllm.grading.catalogue import exercises, folder
from myllm.grading.classes import Calls, as_function
from myllm.grading.compare import WrongType
from myllm.grading.engine import exam, grade
from myllm.grading.exam import Rng

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]-*.md"))
SECONDS = (
    0.3  # of processor time, for one call of what is no answer; for a statement of a chapter, three times
)

Candidates = dict[str, Callable[..., Any]]


class TooLong(BaseException):
    """What is tried has used its processor time."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TooLong` after some processor time, but in the middle of no import."""

    def stop(_: int, frame: types.FrameType | None) -> None:
        while frame:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                return  # until the next signal
            frame = frame.f_back
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def names(code: types.CodeType, loading: bool) -> Iterator[str]:
    """The global names that a piece of code loads, or binds at its top."""
    top = {"LOAD_NAME"} if loading else {"STORE_NAME"}
    for one in dis.get_instructions(code):
        if one.opname in top | ({"LOAD_GLOBAL"} if loading else set()):
            yield one.argval
    for inner in code.co_consts if loading else ():
        if isinstance(inner, types.CodeType):
            yield from names(inner, loading)


def defines(node: ast.stmt) -> bool:
    """Whether a statement is a function, a class or a named lambda."""
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Lambda)
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def definitions_of(source: str) -> dict[str, Any]:
    """What the definitions in a program are, run without the statements that none of them needs."""
    nodes = [node for node in ast.parse(source).body if not isinstance(node, ast.For | ast.While)]
    parts = [compile(ast.Module([node], []), "cell", "exec") for node in nodes]
    binds, loads = ([{*names(part, loading)} for part in parts] for loading in (False, True))
    own = {name for node, bound in zip(nodes, binds, strict=True) if defines(node) for name in bound}
    wanted, before = own, set[str]()
    while wanted != before:
        before = wanted
        wanted = wanted.union(*(more for bound, more in zip(binds, loads, strict=True) if bound & wanted))
    space: dict[str, Any] = {"__name__": "cell"}
    for part, bound in zip(parts, binds, strict=True):
        if bound & wanted:
            # It needs something that was left out, and is left out as well; or it trains a model.
            with suppress(Exception, TooLong), limited(3 * SECONDS):
                exec(part, space)
    return {name: space[name] for name in own if name in space}


def with_methods(name: str, definition: Any) -> Candidates:
    """A definition and, where it is a class, its methods, as functions of an instance and the rest."""
    found = {name: definition} if callable(definition) else {}
    for method in vars(definition) if inspect.isclass(definition) else ():
        if callable(getattr(definition, method)) and (method[0] != "_" or method == "__call__"):
            found[f"{name}.{method}"] = getattr(definition, method)
    return found


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    """By chapter and name: what each chapter defines, and what it builds or uses of the package."""
    found: Candidates = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(BOOK)
        for chapter in CHAPTERS:
            cells = jupytext.read(chapter, fmt="md:myst").cells
            own = definitions_of("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
            for name, definition in own.items():
                found |= with_methods(f"{chapter.stem}: {name}", definition)
    for chapter, kinds in tomllib.loads((BOOK / "source-map.toml").read_text("utf-8")).items():
        for dotted in {**kinds.get("built", {}), **kinds.get("used", {})}:
            module, _, name = dotted.rpartition(".")
            definition = getattr(importlib.import_module(f"myllm.{module}"), name)
            found |= with_methods(f"{chapter}: {dotted}", definition)
    return found


def passes_examples(exercise: Exercise, candidate: Callable[..., Any]) -> bool:
    """Whether a candidate takes the arguments of the visible examples and gives the values shown."""
    paper = exam(exercise.id)
    try:
        for args, _ in paper.examples:
            inspect.signature(candidate).bind(*args)
        with limited(SECONDS):
            for check in paper.checks:
                if check.kind == "example":
                    with suppress(WrongType):
                        check.run(candidate, Rng(0))
    except (Exception, SystemExit, TooLong):
        return False
    return True


def refuse(*_: object, **__: object) -> None:
    raise TooLong


def try_all(exercise: Exercise, candidates: Candidates, results: Connection) -> None:
    """In a process that starts no other: send the names of the candidates that answer an exercise."""
    subprocess.Popen.__init__ = refuse
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    answers = list[str]()
    [(*_, last), _], *_ = exam(exercise.id).examples
    for name, candidate in candidates.items():
        candidate = as_function(candidate) if isinstance(last, Calls) else candidate
        if passes_examples(exercise, candidate):
            result = grade(exercise, partial(lambda one: one, candidate), seed=0)
            missed = [check.message for check in result.checks if not check.passed]
            if all("only their type costs you" in message for message in missed):
                answers.append(name)
    results.send(answers)


def copied(exercise: Exercise, candidates: Candidates, place: Path) -> list[str]:
    """The names of the candidates that answer an exercise, or give its values in another type."""
    prepare(exercise.id)
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        process = context.Process(target=try_all, args=(exercise, candidates, writer))
        process.start()
    writer.close()
    answers = reader.recv()
    process.join()
    return answers


@pytest.mark.parametrize("exercise", exercises().values(), ids=lambda one: one.id)
def test_nothing_from_the_chapters_answers_an_exercise(
    exercise: Exercise, candidates: Candidates, tmp_path: Path
) -> None:
    assert copied(exercise, candidates, tmp_path) == []


# The two steps themselves, on a program and answers made up for the purpose.


def test_definitions_run_with_what_they_need_and_without_the_rest() -> None:
    source = """
import math, no_such_module
import math as m
size = 2
scale = m.sqrt(size * size)
model = train()
for step in range(10**12):
    pass
ready = lambda: model
def double(x):
    def inner():
        return scale
    return inner() * x
class Kept:
    factor = size
    def __call__(self, x):
        return double(x) + self.factor
"""
    found = definitions_of(source)
    assert set(found) == {"ready", "double", "Kept"}
    assert (found["double"](3), found["Kept"]()(1)) == (6, 4)
    assert list(with_methods("Kept", found["Kept"])) == ["Kept", "Kept.__call__"]


def test_a_copy_is_found_whatever_the_type_of_its_numbers(tmp_path: Path) -> None:
    exercise = exercises()["05.4"]
    space: dict[str, Any] = {}
    exec((folder("solutions") / exercise.file).read_text("utf-8"), space)
    answer = space[exercise.function]
    tried: Candidates = {
        "the answer": answer,
        "of another type": lambda head_dim, q_std, k_std: np.float64(answer(head_dim, q_std, k_std)),
        "the example": lambda head_dim, q_std, k_std: 0.0625,
        "of another signature": lambda head_dim: head_dim**-0.5,
        "without an end": lambda head_dim, q_std, k_std: [None for _ in iter(int, 1)],
    }
    assert copied(exercise, tried, tmp_path) == ["the answer", "of another type"]
