"""Oracles that tell wrong versions of what fine-tuning uses from the right one; see ``tests/mutants.py``.

They are the tests of this folder and their neighbours in ``tests/data`` and ``tests/evaluation``, called
without pytest, so that a mutant that they kill is one that the tests kill.
"""

from cases import cases

ORACLES = [
    *cases("finetuning/test_lora.py"),
    *cases("finetuning/test_sft.py"),
    *cases("finetuning/test_classify.py"),
    *cases("evaluation/test_exact_match.py"),
    *cases("data/test_examples.py"),
    *cases("data/test_wordops.py"),
]
