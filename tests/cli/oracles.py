"""Oracles that tell wrong versions of ``myllm pipeline`` from the right one; see ``tests/mutants.py``.

They are tests of ``test_pipeline.py``, called by pytest in this process, which uses the changed modules.
"""

import os
from contextlib import redirect_stdout
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("test_pipeline.py")


class Failures:
    """A plugin that remembers which tests failed."""

    def __init__(self):
        self.found = []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.found.append(f"{report.nodeid}: {report.longreprtext[-200:]}")


def oracle(name):
    """The tests whose names contain a word, as one oracle."""

    def run():
        failures = Failures()
        # With CI=true pytest would explain a failure by a whole difference, which takes minutes for models.
        options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-k", name]
        with Path(os.devnull).open("w") as null, redirect_stdout(null):
            code = pytest.main([*options, str(FILE)], [failures])
        assert code == 0, failures.found

    run.__name__ = name
    return run


ORACLES = [
    *map(oracle, ("mistakes", "left_alone", "kept_out", "a_mistake", "refused", "noticed", "without_a")),
    *map(oracle, ("other_questions", "its_command", "stopped")),
]
