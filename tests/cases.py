"""Tests as oracles for ``mutants.py``: each case of each test is a function without arguments."""

import importlib.util
import inspect
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def load(file):
    """The module of a file of tests; `mutants.py` forgets it for each mutant."""
    name = f"tests/{file}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def arguments(test):
    """The arguments of each case of a test."""
    found = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            keys, values = mark.args
            keys = keys.replace(" ", "").split(",") if isinstance(keys, str) else keys
            rows = [value if len(keys) > 1 else (value,) for value in values]
            found = [case | dict(zip(keys, row, strict=True)) for case in found for row in rows]
    return found


class Case:
    """One case of a test, which uses the modules that are imported when it is called."""

    def __init__(self, file, test, number, fixtures):
        self.file, self.test, self.number, self.fixtures = file, test, number, fixtures
        self.__name__ = f"{test}[{number}]"

    def __call__(self):
        tests = load(self.file)
        test = getattr(tests, self.test)
        given = arguments(test)[self.number]
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            fixtures = {"tmp_path": lambda _: Path(folder), "monkeypatch": lambda _: patch, **self.fixtures}
            needed = inspect.signature(test).parameters.keys() & fixtures.keys()
            with suppress(pytest.skip.Exception):  # a library that is not installed
                test(**given, **{key: fixtures[key](tests) for key in needed})


def cases(file, *, only=("",), without=(), **fixtures):
    """The cases of the tests in a file whose names contain one of some words and none of others.

    A fixture is given as a function of the module of tests.
    """
    return [
        Case(file, name, number, fixtures)
        for name, test in vars(load(file)).items()
        if name.startswith("test_") and any(word in name for word in only)
        if not any(word in name for word in without)
        for number in range(len(arguments(test)))
    ]
