"""The endpoint without sockets: each oracle, once."""

import pytest
import serve_oracles as oracles


@pytest.mark.parametrize("oracle", oracles.ORACLES, ids=lambda one: one.__name__)
def test_the_endpoint(oracle):
    oracle()
