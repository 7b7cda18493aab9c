"""Oracles that tell wrong versions of `myllm.quantization` from the right one; see ``tests/mutants.py``.

They are the tests beside this file, called without pytest, so that a mutant that they kill is one that the
tests kill.
"""

import importlib
import inspect
import warnings

import pytest
from hypothesis import settings

settings.register_profile("mutants", max_examples=20, derandomize=True, deadline=None, database=None)
settings.load_profile("mutants")


def run(module, *, without=()):
    """Call the tests of a module, each with all of its parameters."""
    tests = importlib.import_module(module)
    for name, test in [*vars(tests).items()]:
        if not name.startswith("test_") or name in without:
            continue
        cases = [{}]
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize":
                keys = mark.args[0].split(",")
                rows = [value if len(keys) > 1 else (value,) for value in mark.args[1]]
                cases = [case | dict(zip(keys, row, strict=True)) for case in cases for row in rows]
        for case in cases:
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if "monkeypatch" in inspect.signature(test).parameters:
                    case = case | {"monkeypatch": patch}
                try:
                    test(**case)
                except pytest.fail.Exception as failure:  # no Exception, which is what the runner expects
                    raise AssertionError(str(failure)) from None


def affine():
    run("test_affine")


def layer():
    run("test_layer", without=["test_course_base_writes_the_same_tokens_in_a_batch_and_alone"])


def swap():
    run("test_swap")


def int8():
    run("test_int8")


def int4():
    run("test_int4")


ORACLES = [affine, int8, int4, swap, layer]
FIRST = {"affine": affine, "layer": layer, "swap": swap, "int8": int8, "int4": int4}
