"""Near-duplicates: documents that say almost the same, found without comparing each with every other.

A document becomes the set of its *shingles*, the runs of n words in it. Two documents are as alike as their
sets overlap (Jaccard similarity). MinHash (Broder 1997) shrinks a set to a short signature whose entries
agree with just that probability, and banding the signatures (Indyk and Motwani 1998) brings likely pairs
together in buckets, so that only those are compared exactly.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from myllm.data.corpus import Document
from myllm.files import UserError

Signature = NDArray[np.uint64]

BLOCK = 1 << 10  # shingles hashed at a time
MISS = 1e-3  # how often a pair just at the threshold may share no bucket


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def shingles(text: str, n: int = 5) -> set[int]:
    """The hashes of all runs of `n` words, 64 bits each, the same in every process.

    A text of fewer than `n` words is one shingle.

    Raises:
        UserError: `n` is less than 1.
    """
    if n < 1:
        raise UserError(f"A shingle needs at least one word, not {n}.")
    all_words = words(text)
    runs = (" ".join(all_words[i : i + n]) for i in range(max(1, len(all_words) - n + 1)))
    return {int.from_bytes(blake2b(run.encode(), digest_size=8).digest()) for run in runs}


def jaccard(a: set[int], b: set[int]) -> float:
    """The share of the union that is common to both; two empty sets are equal."""
    return len(a & b) / len(a | b) if a or b else 1.0


class MinHash:
    """Signatures of sets: two sets agree in each entry with a probability equal to their Jaccard similarity.

    Each entry shuffles all 64-bit numbers by a map of its own, ``x → a·x + b`` modulo 2⁶⁴ with odd ``a``, and
    notes the smallest of the set. Any member of the union may be the smallest, each as likely as the other;
    where it is a common one, both sets note the same.
    """

    def __init__(self, n_hashes: int = 128, seed: int = 0):
        if n_hashes < 1:
            raise UserError(f"A signature needs at least one entry, not {n_hashes}.")
        self.a, self.b = np.random.PCG64(seed).random_raw((2, n_hashes, 1))  # each (n_hashes, 1) uint64
        self.a |= np.uint64(1)

    def signature(self, members: set[int]) -> Signature:
        """The smallest image of any member under each map, (n_hashes,) uint64."""
        x = np.fromiter(members, np.uint64, len(members))
        smallest = np.full(len(self.a), np.iinfo(np.uint64).max, np.uint64)
        for i in range(0, len(x), BLOCK):
            images = self.a * x[i : i + BLOCK] + self.b  # (n_hashes, BLOCK)
            np.minimum(smallest, images.min(axis=1), out=smallest)
        return smallest


def band_length(n_hashes: int, threshold: float) -> int:
    """How many entries to put in a band: the most that still let pairs at the threshold meet.

    A pair of similarity s agrees in a whole band of r entries with probability sʳ, so it meets in none of the
    n/r bands with probability (1 - sʳ)ⁿᐟʳ. Long bands keep unlike pairs apart, short ones miss fewer alike.
    """
    lengths = range(1, n_hashes + 1)
    return max((r for r in lengths if (1 - threshold**r) ** (n_hashes // r) <= MISS), default=1)


class Index:
    """Sets that can be asked which of them are like another.

    Args:
        threshold: The least Jaccard similarity that counts as alike, above 0 and at most 1.
        n_hashes: Entries of a signature; with more of them a band can be longer, and the buckets emptier.

    Raises:
        UserError: The threshold lies elsewhere.
    """

    def __init__(self, threshold: float = 0.8, n_hashes: int = 128):
        if not 0 < threshold <= 1:
            raise UserError(f"The threshold must lie above 0 and be at most 1, not {threshold}.")
        self.threshold = threshold
        self.minhash = MinHash(n_hashes)
        self.band = band_length(n_hashes, threshold)
        self.sets: list[set[int]] = []
        self.buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, members: set[int], *, only_new: bool = False) -> list[tuple[int, float]]:
        """Find the sets like this one, then hold this one too.

        Args:
            members: The set; it gets the next number, from 0.
            only_new: Do not hold it when there are sets like it.

        Returns:
            The number and the exact similarity of each set that is alike, by number.
        """
        signature, r = self.minhash.signature(members), self.band
        keys = [(i, signature[i : i + r].tobytes()) for i in range(0, len(signature) - r + 1, r)]
        candidates = sorted({i for key in keys for i in self.buckets.get(key, ())})
        similar = [(i, jaccard(self.sets[i], members)) for i in candidates]
        alike = [(i, similarity) for i, similarity in similar if similarity >= self.threshold]
        if not (alike and only_new):
            for key in keys:
                self.buckets[key].append(len(self.sets))
            self.sets.append(members)
        return alike


def near_duplicates(
    documents: Iterable[Document], threshold: float = 0.8, *, n: int = 5
) -> list[tuple[str, str, float]]:
    """All pairs of documents whose shingles of `n` words overlap by at least `threshold`.

    A pair just at the threshold is missed once in a thousand times, one further above it hardly ever. No pair
    is reported in error, since each is compared exactly.

    Returns:
        The ids, the earlier document's first, and the Jaccard similarity.

    Raises:
        UserError: The threshold is not above 0 and at most 1, or `n` is less than 1.
    """
    index, ids = Index(threshold), list[str]()
    pairs: list[tuple[str, str, float]] = []
    for document in documents:
        alike = index.add(shingles(document.text, n))
        pairs += [(ids[i], document.id, similarity) for i, similarity in alike]
        ids.append(document.id)
    return pairs


def deduplicate(
    documents: Iterable[Document], threshold: float = 0.8, *, n: int = 5
) -> tuple[list[Document], list[Document]]:
    """Keep a document unless an earlier one that was kept is alike.

    Args:
        documents: The order decides which of two stays, so put the better source first.
        threshold: The least similarity of shingles that counts as alike; finds and raises as
            `near_duplicates`.
        n: Words in a shingle.

    Returns:
        kept and dropped, each in the order given.
    """
    index = Index(threshold)
    kept: list[Document] = []
    dropped: list[Document] = []
    for document in documents:
        alike = index.add(shingles(document.text, n), only_new=True)
        (dropped if alike else kept).append(document)
    return kept, dropped
