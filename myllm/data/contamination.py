"""Contamination: how much of a test set a model could have read during training."""

from collections.abc import Iterable

from myllm.data.corpus import Document
from myllm.data.dedup import shingles, words
from myllm.files import UserError


def contamination(train: Iterable[Document], test: Iterable[Document], *, n: int = 13) -> dict[str, float]:
    """The share of each test document's runs of `n` words that occur somewhere in the training documents.

    Runs of 13 words are long enough that two writers seldom share one by chance (Brown et al. 2020,
    appendix C). Case, punctuation and spacing do not count. A test document of fewer words is one run. The
    training documents are read once, one at a time.

    Returns:
        For each test document's id, a number from 0 (nothing seen before) to 1 (all of it).

    Raises:
        UserError: Two test documents have the same id, or `n` is less than 1.
    """
    runs: dict[str, set[int]] = {}
    lengths = set[int]()
    for document in test:
        if document.id in runs:
            raise UserError(f"Two test documents have the id {document.id!r}; give each its own.")
        runs[document.id] = shingles(document.text, n)
        lengths.add(max(1, min(n, len(words(document.text)))))
    wanted = set[int]().union(*runs.values())
    seen = set[int]()
    for document in train:
        for length in lengths:  # one, unless a test document is shorter than n words
            seen |= wanted & shingles(document.text, length)
    return {id: len(own & seen) / len(own) for id, own in runs.items()}
