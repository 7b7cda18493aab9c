"""Oracles that tell wrong versions of the harness from the right one; see ``tests/mutants.py``.

They are the tests of this folder, called without pytest, so that a mutant that they kill is one that the
tests kill.
"""

import importlib.util
from pathlib import Path

FINETUNING = Path(__file__).parents[1] / "finetuning" / "oracles.py"


def run(path, **words):
    """Call the tests of a file, as the oracles of fine-tuning do."""
    spec = importlib.util.spec_from_file_location("finetuning_oracles", FINETUNING)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.run(path, **words)


def intervals():
    run("evaluation/test_intervals.py", without=("refused", "contains_the_truth"))


def coverage():
    run("evaluation/test_intervals.py", only=("refused", "contains_the_truth"))


def harness():
    run("evaluation/test_harness.py")


def choices():
    run(
        "evaluation/test_multiple_choice.py",
        only=("begins_behind", "wrong_token", "several", "knows", "half_precision"),
    )


def lm_eval():
    run("evaluation/test_lm_eval.py", without=("numbers_of_our",))


def shipped():
    run("cli/test_evaluate.py", only=("line_that_follows", "no_model_of_the_course", "must_exist"))


ORACLES = [intervals, coverage, harness, choices, lm_eval, shipped]
FIRST = {
    "evaluation.intervals": intervals,
    "evaluation.harness": harness,
    "evaluation.multiple_choice": lm_eval,
    "cli.lm_eval": lm_eval,
    "cli.evaluation": shipped,
}
