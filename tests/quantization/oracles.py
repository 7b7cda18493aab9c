"""Oracles that tell wrong versions of `myllm.quantization` from the right one; see ``tests/mutants.py``.

They are the tests beside this file, called without pytest, so that a mutant that they kill is one that the
tests kill.
"""

from cases import cases
from hypothesis import settings

settings.register_profile("mutants", max_examples=20, derandomize=True, deadline=None, database=None)
settings.load_profile("mutants")

ORACLES = [
    *cases("quantization/test_affine.py"),
    *cases("quantization/test_int8.py"),
    *cases("quantization/test_int4.py"),
    *cases("quantization/test_swap.py"),
    *cases("quantization/test_layer.py", without=("course_base_writes_the_same_tokens",)),
]
