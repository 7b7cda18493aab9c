"""Contamination: how much of a test set also occurs in the training documents."""

from collections.abc import Iterable
from fractions import Fraction

from myllm.data.corpus import Document
from myllm.data.dedup import n_words, shingles
from myllm.files import UserError


def contamination(train: Iterable[Document], test: Iterable[Document], *, n: int = 13) -> dict[str, float]:
    """The share of each test document's runs of `n` words that occur somewhere in the training documents.

    Two authors rarely share a run of 13 words by chance (Brown et al. 2020, appendix C). Words are those of
    `myllm.data.dedup.words`. A test document of fewer than `n` words counts as one run. The training
    documents are read once, one at a time.

    Returns:
        For each test document's id, a number from 0 (none of its runs occurs) to 1 (all occur).

    Raises:
        UserError: Two test documents have the same id, or `n` is less than 1.
    """
    runs: dict[str, set[int]] = {}
    lengths = set[int | Fraction]()
    for document in test:
        if document.id in runs:
            raise UserError(f"Two test documents have the id {document.id!r}; give each its own.")
        runs[document.id] = shingles(document.text, n)
        lengths.add(min(n, n_words(document.text)) or n)
    wanted = set[int]().union(*runs.values())
    seen = set[int]()
    for document in train:
        for length in lengths:  # just n, unless a test document is shorter
            seen |= wanted & shingles(document.text, length)
    return {id: len(own & seen) / len(own) for id, own in runs.items()}
