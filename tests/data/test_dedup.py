"""Near-duplicates are found: all that comparing every pair finds, none more, with few comparisons."""

import math
import random
import re
import subprocess
import sys
from hashlib import blake2b
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myllm.data import corpus, dedup
from myllm.data.corpus import Document
from myllm.data.dedup import MISS_RATE, MinHash, band_length, deduplicate, jaccard, near_duplicates, shingles
from myllm.files import UserError

# Shingles


def number(run):
    """What a run of words is hashed to, step by step."""
    return int.from_bytes(blake2b(run.encode(), digest_size=8).digest(), "big")


def test_shingles_by_example():
    expected = {number(run) for run in ("to be or", "be or not", "or not to", "not to be")}
    assert shingles("To be, or not -- to be!", 3) == expected
    assert shingles("TO BE OR\nNOT TO BE", 3) == expected


def test_a_short_text_is_one_shingle():
    assert shingles("To be", 3) == {number("to be")}
    assert shingles("to be or", 3) == {number("to be or")}
    assert shingles("", 3) == shingles("  -- \ud800 !", 3) == {number("")}


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(1, 8))
def test_there_is_a_shingle_for_each_different_run(words, n):
    runs = {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
    assert len(shingles(" ".join(words), n)) == len(runs)


def test_shingles_are_the_same_in_every_process():
    code = "from myllm.data.dedup import shingles; print(sorted(shingles('the quality of mercy is not', 2)))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{sorted(shingles('the quality of mercy is not', 2))}\n".encode()}


def test_jaccard():
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard({1}, {2}) == jaccard(set(), {1}) == 0
    assert jaccard({1, 2}, {2, 1}) == jaccard(set(), set()) == 1


# MinHash

SETS = st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=50)


@given(SETS, st.integers(0, 2**32))
def test_a_signature_is_the_smallest_image(members, seed):
    minhash = MinHash(4, seed)
    a, b = (column.ravel().tolist() for column in (minhash.a, minhash.b))
    assert all(factor % 2 for factor in a)  # an odd factor makes a shuffle of all 64-bit numbers
    expected = [
        min((factor * x + shift) % 2**64 for x in members) for factor, shift in zip(a, b, strict=True)
    ]
    assert minhash.signature(members).tolist() == expected


@given(SETS, SETS)
def test_the_signature_of_a_union_is_the_smaller_of_both(a, b):
    sign = MinHash(8).signature
    assert (sign(a | b) == np.minimum(sign(a), sign(b))).all()


def test_a_large_set_is_hashed_in_blocks(monkeypatch):
    members = shingles(corpus.load("shakespeare")[0].text)
    assert len(members) > 10 * dedup.BLOCK
    in_blocks = MinHash().signature(members)
    monkeypatch.setattr(dedup, "BLOCK", len(members))
    assert (MinHash().signature(members) == in_blocks).all()


@pytest.mark.parametrize("common", [0, 20, 100, 180, 200])
def test_signatures_agree_as_often_as_the_sets_overlap(common):
    """200 members each: the share of agreeing entries is the Jaccard similarity, within 4 deviations."""
    numbers = random.Random(common)
    draw = [numbers.getrandbits(64) for _ in range(400 - common)]
    a, b = {*draw[:200]}, {*draw[200 - common :]}
    similarity = common / (400 - common)
    assert jaccard(a, b) == similarity
    agree = [MinHash(128, seed).signature(a) == MinHash(128, seed).signature(b) for seed in range(40)]
    deviation = math.sqrt(similarity * (1 - similarity) / (128 * 40))
    assert abs(np.mean(agree) - similarity) <= 4 * deviation


def test_another_seed_another_signature():
    members = shingles("so shaken as we are so wan with care")
    assert (MinHash(seed=1).signature(members) == MinHash(seed=1).signature(members)).all()
    assert (MinHash(seed=1).signature(members) != MinHash(seed=2).signature(members)).all()


# Bands


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_are_as_long_as_the_miss_rate_allows(threshold):
    def missed(r):
        return (1 - threshold**r) ** (128 // r)

    r = band_length(128, threshold)
    assert missed(r) <= MISS_RATE
    assert all(missed(longer) > MISS_RATE for longer in range(r + 1, 129))


def test_with_few_entries_a_band_has_one():
    assert band_length(4, 0.1) == 1


# Planted copies

WORDS = re.findall(r"\w+", corpus.load("shakespeare")[6].text.lower())  # Hamlet's


def plant(n_documents, n_words, seed=0):
    """Passages of Hamlet, and copies of them with 0, 1, 2 … words replaced, all in random order."""
    draw = random.Random(seed)
    documents = []
    for d in range(n_documents):
        passage = WORDS[d * n_words : (d + 1) * n_words]
        edited = [*passage]
        for i in draw.sample(range(n_words), d % 12):
            edited[i] = f"word{i}"
        documents += [Document(f"{d}", " ".join(passage)), Document(f"{d}'", " ".join(edited))]
    draw.shuffle(documents)
    return documents


def compare_all(documents, threshold, n=5):
    """Every pair, by sets of tuples of words."""
    sets = []
    for document in documents:
        words = document.text.split()
        sets.append({tuple(words[i : i + n]) for i in range(len(words) - n + 1)})
    found = {}
    for (i, a), (j, b) in combinations(enumerate(sets), 2):
        if (similarity := len(a & b) / len(a | b)) >= threshold:
            found[documents[i].id, documents[j].id] = similarity
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_all_planted_copies_are_found_and_nothing_else(threshold):
    documents = plant(100, 100)
    truth = compare_all(documents, threshold)
    assert 15 <= len(truth) < 100  # copies lie on both sides of the threshold
    found = near_duplicates(documents, threshold)
    assert {(a, b): similarity for a, b, similarity in found} == truth
    assert len(found) == len(truth)
    backwards = near_duplicates(documents[::-1], threshold)
    assert {(b, a) for a, b, _ in backwards} == {*truth}


def test_the_recall_just_at_the_threshold():
    """2,000 pairs with a similarity of exactly 0.8: one in a thousand is missed, give or take chance."""
    draw = random.Random(1)
    index, pairs = dedup.Index(0.8), []
    for _ in range(2_000):
        numbers = [draw.getrandbits(64) for _ in range(50)]
        pairs.append(({*numbers[:45]}, {*numbers[5:]}))  # 40 of 50 in common
    for a, b in pairs:
        assert jaccard(a, b) == 0.8
        index.add(a)
    found = sum(len(index.add(b)) for _, b in pairs)
    assert 2_000 - 8 <= found <= 2_000


def test_few_pairs_are_compared(monkeypatch):
    documents, compared = plant(200, 60), []
    monkeypatch.setattr(dedup, "jaccard", lambda a, b: compared.append(1) or jaccard(a, b))
    assert near_duplicates(documents, 0.8)
    assert len(compared) < math.comb(len(documents), 2) / 200


def test_a_threshold_of_one_finds_equal_texts_only():
    documents = [Document("a", "one two three"), Document("b", "One, two: three"), Document("c", "one two")]
    assert near_duplicates(documents, 1) == [("a", "b", 1.0)]


def test_documents_shorter_than_a_shingle():
    texts = {"a": "yes", "b": "Yes!", "c": "no", "d": "", "e": "?", "f": "yes yes"}
    pairs = near_duplicates(Document(*item) for item in texts.items())
    assert pairs == [("a", "b", 1.0), ("d", "e", 1.0)]


def test_pairs_come_in_the_order_of_the_documents():
    texts = [*"abcdefgh", "b", "b"]
    pairs = near_duplicates(Document(f"{i}", text) for i, text in enumerate(texts))
    assert pairs == [("1", "8", 1.0), ("1", "9", 1.0), ("8", "9", 1.0)]


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_that_is_none(threshold):
    with pytest.raises(UserError, match="above 0 and be at most 1"):
        near_duplicates([], threshold)


def test_numbers_that_make_no_sense():
    with pytest.raises(UserError, match="at least one word, not 0"):
        near_duplicates([Document("a", "x")], n=0)
    with pytest.raises(UserError, match="n_hashes ≥ 1 and seed ≥ 0"):
        MinHash(0)
    with pytest.raises(UserError, match="n_hashes ≥ 1 and seed ≥ 0"):
        MinHash(seed=-1)


# Removal


def test_deduplicate_keeps_one_of_each():
    documents = plant(100, 100)
    kept, dropped = deduplicate(documents, 0.7)
    assert not compare_all(kept, 0.7)
    assert sorted(kept + dropped) == sorted(documents)
    assert kept == [document for document in documents if document in kept]
    assert dropped == [document for document in documents if document in dropped]
    place = {document.id: i for i, document in enumerate(documents)}
    earlier = {b: a for a, b in compare_all(documents, 0.7)}
    assert {document.id for document in dropped} == {*earlier}
    assert all(place[a] < place[b] for b, a in earlier.items())
    assert deduplicate(documents, 0.7) == (kept, dropped)


def test_a_document_is_compared_with_those_kept_only():
    """b is like a, c is like b but not like a: b goes, and then nothing speaks against c."""
    words = WORDS[:120]
    a, b, c = (Document(id, " ".join(words[i : i + 100])) for id, i in (("a", 0), ("b", 8), ("c", 16)))
    assert [pair[:2] for pair in near_duplicates([a, b, c], 0.8)] == [("a", "b"), ("b", "c")]
    assert deduplicate([a, b, c], 0.8) == ([a, c], [b])


def test_many_equal_documents_cost_one_comparison_each(monkeypatch):
    compared = []
    monkeypatch.setattr(dedup, "jaccard", lambda a, b: compared.append(1) or jaccard(a, b))
    kept, dropped = deduplicate(
        Document(f"{i}", "it is a truth universally acknowledged") for i in range(500)
    )
    assert [document.id for document in kept] == ["0"]
    assert len(dropped) == len(compared) == 499


def test_no_documents():
    assert near_duplicates([]) == []
    assert deduplicate([]) == ([], [])
