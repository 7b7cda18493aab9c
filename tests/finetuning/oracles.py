"""Oracles that tell wrong versions of what fine-tuning uses from the right one; see ``tests/mutants.py``.

They are the tests of this folder and their neighbours in ``tests/data`` and ``tests/evaluation``, called
without pytest, so that a mutant that they kill is one that the tests kill.
"""

import importlib.util
import inspect
import tempfile
import warnings
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def load(path):
    """The tests in a file, imported anew, so that they use the changed modules."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def cases(test):
    """The arguments of each case of a test."""
    found = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            keys, values = mark.args
            keys = keys.split(",") if isinstance(keys, str) else keys
            rows = [value if len(keys) > 1 else (value,) for value in values]
            found = [case | dict(zip(keys, row, strict=True)) for case in found for row in rows]
    return found


def run(path, *, only=("",), without=()):
    """Call the tests of a file whose names contain one of some words and none of others."""
    for name, test in load(TESTS / path).items():
        if (
            not name.startswith("test_")
            or not any(word in name for word in only)
            or any(word in name for word in without)
        ):
            continue
        for case in cases(test):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if "tmp_path" in inspect.signature(test).parameters:
                    case = case | {"tmp_path": Path(folder)}
                try:
                    test(**case)
                except pytest.skip.Exception:  # a library that is not installed
                    continue
                except pytest.fail.Exception as failure:  # no Exception, which is what the runner expects
                    raise AssertionError(f"{name}: {failure}") from None
                except (NameError, SyntaxError):  # a slip in the table
                    raise
                except Exception as error:
                    raise AssertionError(f"{name}: {type(error).__name__} {error}") from error


SCORES = ("calibration", "temperature", "conformal")


def lora():
    run("finetuning/test_lora.py", without=("folder",))


def adapters():
    run("finetuning/test_lora.py", only=("folder",), without=("peft_computes",))


def peft():
    run("finetuning/test_lora.py", only=("peft_computes",))


def classify():
    run("finetuning/test_classify.py", without=SCORES)


def calibration():
    run("finetuning/test_classify.py", only=SCORES)


def sft():
    run("finetuning/test_sft.py")


def exact_match():
    run("evaluation/test_exact_match.py")


def examples():
    run("data/test_examples.py")


def wordops():
    run("data/test_wordops.py")


ORACLES = [lora, adapters, sft, classify, calibration, exact_match, examples, wordops, peft]
FIRST = {
    "finetuning.lora": lora,
    "finetuning.adapters": adapters,
    "finetuning.classify": classify,
    "finetuning.sft": sft,
    "evaluation.calibration": calibration,
    "evaluation.exact_match": exact_match,
    "data.examples": examples,
    "data.wordops": wordops,
}
