"""Texts that several of these tests share."""

import pytest

from myllm.data import corpus


@pytest.fixture(scope="session")
def corpora() -> dict[str, str]:
    """Parts of three unlike texts: verse with stage directions, numbered verses, prose with figures."""
    return {name: corpus.text(name)[200_000:400_000] for name in ("shakespeare", "kjv", "sotu")}
