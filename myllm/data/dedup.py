"""Near-duplicates: documents with almost the same text, found without comparing every pair.

A document becomes the set of its *shingles*, the runs of n words in it. The similarity of two documents is
the overlap of their sets (Jaccard similarity). MinHash (Broder 1997) reduces a set to a short signature; two
signatures agree in each entry with a probability equal to the similarity. Banding the signatures (Indyk and
Motwani 1998) puts likely pairs into a common bucket, so that only those are compared exactly.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from hashlib import blake2b

import numpy as np
import regex
from numpy.typing import NDArray

from myllm.data.corpus import Document
from myllm.files import UserError

Signature = NDArray[np.uint64]

BLOCK = 1 << 10  # shingles hashed at a time
MISS_RATE = 1e-3  # the share of pairs exactly at the threshold that may share no bucket

# Scripts without spaces between words: Chinese and Japanese, and those whose line breaks Unicode leaves to
# dictionaries (class "SA": Thai, Lao, Khmer, Burmese and others).
CJK, SA = r"[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}]", r"\p{Line_Break=SA}"
LETTER = r"[\p{L}\p{M}\p{N}]"
SPACED = rf"[[a-z0-9]||[{LETTER}--[{CJK}{SA}]]]"  # ASCII first, because it is tested fastest
WORD = regex.compile(rf"(?V1){SPACED}+|[[{CJK}{SA}]&&{LETTER}]\p{{M}}*")
INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u0640]")  # the last is Arabic's tatweel
UNITS = 6  # per word, so that a half and a third of a word are whole numbers of units


def words(text: str) -> list[str]:
    """The words of a text, normalized for comparison: runs of letters, combining marks and digits.

    Case, punctuation and invisible differences are removed: the text is normalized to Unicode's NFKC with
    case folding, without soft hyphens, zero-width characters and variation selectors (``NFKC_Casefold``,
    section 3.13 of the Unicode Standard). NFC, which `myllm.data.corpus.clean` applies, would distinguish
    ligatures and full-width letters from plain ones. In scripts without spaces, each letter is its own item.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return WORD.findall(unicodedata.normalize("NFKC", INVISIBLE.sub("", text)))


@cache
def _units(character: str) -> int:
    """The size, in units, of an item of `words` that begins with this character; a word has `UNITS`."""
    if regex.match(CJK, character):
        return UNITS // 2
    return UNITS // 3 if regex.match(SA, character) else UNITS


def _sizes(items: list[str]) -> NDArray[np.int64]:
    """The cumulative sizes of N items in units, starting with 0, (N + 1,) int64."""
    return np.cumsum([0, *(_units(item[0]) for item in items)])


def n_words(text: str) -> Fraction:
    """The number of words in a text; two Chinese or Japanese characters, or three Thai letters, count as one.

    These are roughly the mean lengths of words, so a run of n words is about equally rare in every script.
    """
    return Fraction(int(_sizes(words(text))[-1]), UNITS)


def shingles(text: str, n: int | Fraction = 5) -> set[int]:
    """The 64-bit hashes of all runs of `n` words, the same in every process; see `n_words`.

    A text of fewer than `n` words is one shingle.

    Raises:
        UserError: `n` is not positive.
    """
    if n <= 0:
        raise UserError(f"A shingle needs at least one word, not {n}.")
    items = words(text)
    sizes = _sizes(items)
    # A run that would reach past the last word has an end beyond `sizes`.
    ends = np.searchsorted(sizes, sizes + int(UNITS * n)).tolist()
    runs = (items[i:end] for i, end in enumerate(ends) if end < len(sizes))
    return {_hash(run) for run in runs} or {_hash(items)}


def _hash(run: list[str]) -> int:
    return int.from_bytes(blake2b(" ".join(run).encode(), digest_size=8).digest())


def jaccard(a: set[int], b: set[int]) -> float:
    """The size of the intersection over that of the union; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


class MinHash:
    """Signatures of sets: two sets agree in each entry with a probability equal to their Jaccard similarity.

    Each entry permutes all 64-bit numbers by a map of its own, ``x → a·x + b`` modulo 2⁶⁴ with odd ``a``, and
    holds the smallest image of the set. Each member of the union is about equally likely to have the smallest
    one; if that member is in both sets, the entries are equal.

    Args:
        n_hashes: The number of entries, at least 1.
        seed: At least 0; different seeds give different maps.
    """

    def __init__(self, n_hashes: int = 128, seed: int = 0):
        if n_hashes < 1 or seed < 0:
            raise UserError(f"MinHash needs n_hashes ≥ 1 and seed ≥ 0, not {n_hashes} and {seed}.")
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
    """The longest band with which pairs at the threshold are still likely to share a bucket.

    A pair with similarity s agrees in a whole band of r entries with probability sʳ, and in none of the n/r
    bands with probability (1 - sʳ)ⁿᐟʳ. Longer bands separate more dissimilar pairs; shorter ones miss fewer
    similar pairs.
    """
    lengths = range(1, n_hashes + 1)
    return max((r for r in lengths if (1 - threshold**r) ** (n_hashes // r) <= MISS_RATE), default=1)


class Index:
    """An index of sets that finds those similar to a given set.

    Args:
        threshold: The least Jaccard similarity that counts as similar, above 0 and at most 1.
        n_hashes: Entries in a signature; more of them allow longer bands, hence fewer pairs to compare.

    Raises:
        UserError: The threshold is out of range.
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
        """Find the sets that are similar to this one, then add it.

        Args:
            members: The set; it gets the next number, counted from 0.
            only_new: Whether to add it only if there are no similar sets.

        Returns:
            The number and the exact similarity of each similar set, in order of number.
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
    """All pairs of documents whose shingles of `n` words have a Jaccard similarity of at least `threshold`.

    A pair exactly at the threshold is missed at most once in a thousand times, one well above it almost
    never. There are no false positives, since each candidate pair is compared exactly.

    Returns:
        For each pair, the ids, the earlier document's first, and the Jaccard similarity.

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
    """Keep each document unless it is similar to an earlier one that was kept.

    Args:
        documents: The documents, better sources first, since the earlier of two similar ones is kept.
        threshold: The least similarity of duplicates; see `near_duplicates`, which raises the same errors.
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
