"""Oracles that tell wrong versions of the harness from the right one; see ``tests/mutants.py``.

They are the tests of this folder, called without pytest, so that a mutant that they kill is one that the
tests kill.
"""

from cases import cases

ORACLES = [
    *cases("evaluation/test_intervals.py"),
    *cases("evaluation/test_harness.py"),
    *cases(
        "evaluation/test_multiple_choice.py",
        only=("begins_behind", "wrong_token", "several", "knows", "half_precision"),
    ),
    *cases("evaluation/test_lm_eval.py", without=("numbers_of_our",)),
    *cases("cli/test_evaluate.py", only=("line_that_follows", "no_model_of_the_course", "must_exist")),
]
