"""What a model could have read before: planted passages, real ones, and a count by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myllm.data import corpus
from myllm.data.contamination import contamination
from myllm.data.corpus import Document
from myllm.files import UserError


def distinct(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def test_a_planted_passage_is_found():
    """20 of 100 words stand in the training text: 8 runs of 13 lie wholly within them, of 88 in all."""
    test = distinct("t", 100)
    train = distinct("a", 50) + test[40:60] + distinct("b", 50)
    shares = contamination(
        [Document("train", " ".join(train))],
        [Document("seen", " ".join(test)), Document("unseen", " ".join(distinct("u", 100)))],
    )
    assert shares == {"seen": 8 / 88, "unseen": 0}


def test_case_and_punctuation_do_not_hide_it():
    passage = " ".join(distinct("w", 30))
    disguised = passage.upper().replace(" ", " -- ")
    assert contamination([Document("a", f"Before: {disguised}. After.")], [Document("b", passage)]) == {
        "b": 1
    }


def test_twelve_words_are_chance_thirteen_are_not():
    def share(n):
        return contamination(
            [Document("a", " ".join(distinct("w", n)))], [Document("b", " ".join(distinct("w", 14)))]
        )["b"]

    assert (share(12), share(13), share(14)) == (0, 0.5, 1)


def test_a_test_document_shorter_than_a_run():
    train = [Document("a", "the question is whether to be or not to be tonight"), Document("b", "yes")]
    texts = {"seen": "to be or not", "unseen": "not or be to", "word": "Tonight.", "whole": "yes", "no": ""}
    shares = contamination(train, [Document(*item) for item in texts.items()])
    assert shares == {"seen": 1, "unseen": 0, "word": 1, "whole": 1, "no": 0}


TEXTS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), max_size=4)


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_by_hand(train, test, n):
    def runs(words, m):
        return {tuple(words[i : i + m]) for i in range(len(words) - m + 1)}

    expected = {}
    for i, words in enumerate(test):
        m = min(n, len(words))
        own, read = runs(words, m), set().union(*(runs(other, m) for other in train))
        expected[f"{i}"] = len(own & read) / len(own)
    documents = [
        [Document(f"{i}", " ".join(words)) for i, words in enumerate(part)] for part in (train, test)
    ]
    assert contamination(*documents, n=n) == expected


def test_the_training_documents_are_read_once_and_one_at_a_time():
    read = []

    def train():
        for i in range(5):
            read.append(i)
            yield Document(f"{i}", f"this is document number {i}")

    test = [Document("short", "document number 3"), Document("long", "document " * 20)]
    assert contamination(train(), test) == {"short": 1, "long": 0}
    assert read == [0, 1, 2, 3, 4]


def test_a_split_of_plays_shares_nothing_and_an_anthology_does():
    plays = corpus.load("shakespeare")
    assert set(contamination(*corpus.split(plays[:12])).values()) == {0}
    # The Passionate Pilgrim of 1599 printed three poems out of Love's Labour's Lost.
    pilgrim = [play for play in plays if play.id == "passionate_pilgrim"]
    lost = [play for play in plays if play.id == "loves_labours_lost"]
    assert 0.05 < contamination(lost, pilgrim)["passionate_pilgrim"] < 0.08


def test_mistakes():
    twice = [Document("a", "x"), Document("a", "y")]
    assert contamination(twice, [Document("t", "x")]) == {"t": 1}  # among training documents it does no harm
    with pytest.raises(UserError, match="have the id 'a'"):
        contamination([], twice)
    with pytest.raises(UserError, match="at least one word, not 0"):
        contamination([], [Document("a", "x")], n=0)
    assert contamination([], []) == {}
