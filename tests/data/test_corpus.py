"""The corpora are whole, cleaning keeps the words, a split never cuts a document."""

import hashlib
import lzma
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from myllm.data import corpus
from myllm.data.corpus import Document
from myllm.files import UserError

# Counts that can be looked up elsewhere: works, books of the Protestant canon, chapters, addresses.
FACTS = {
    "kjv": (66, 4_404_412, "Ge", "Rev", "In the beginning God created the heaven and the earth."),
    "moby-dick": (135, 1_190_317, "1", "135", "Call me Ishmael."),
    "shakespeare": (42, 5_057_239, "alls_well_that_ends_well", "winters_tale", "To be, or not to be,"),
    "sotu": (233, 10_760_042, "1790_george_washington_n", "2021_joseph_r_biden_d", "Fellow-Citizens"),
}


def test_list():
    assert [*corpus.CORPORA] == [*FACTS]


@pytest.mark.parametrize("name", FACTS)
def test_every_document_is_there(name):
    n_documents, n_characters, first, last, phrase = FACTS[name]
    documents = corpus.load(name)
    assert len(documents) == len({document.id for document in documents}) == n_documents
    assert sum(len(document.text) for document in documents) == n_characters
    assert (documents[0].id, documents[-1].id) == (first, last)
    assert all(len(document.text) > 100 for document in documents)
    text = corpus.text(name)
    assert phrase in text
    assert len(text) == n_characters + n_documents - 1


@pytest.mark.parametrize("name", ["kjv", "moby-dick"])
def test_cutting_into_documents_loses_nothing(name):
    whole = lzma.decompress(corpus.path(name).read_bytes()).decode()
    assert "".join(document.text for document in corpus.load(name)) == whole


def test_a_book_holds_its_own_verses():
    books = {document.id: document.text for document in corpus.load("kjv")}
    assert all(line.startswith(book) for book, text in books.items() for line in text.splitlines())
    assert len(books["Psa"].splitlines()) == 2461  # verses of the Psalms
    assert len(books["3Jn"].splitlines()) == 14


def test_no_such_corpus():
    with pytest.raises(UserError, match=r"'hamlet'.*kjv, moby-dick, shakespeare, sotu"):
        corpus.load("hamlet")


def test_clean_by_example():
    dirty = "\ufeffCafe\u0301 \t\r\n\r\n\r\n\r\nnext\x00 page\x0c\tindented\x1b[1m \ud800 \u00a0\rend  "
    assert corpus.clean(dirty) == "Café\n\nnext page\n\tindented[1m\nend"


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_every_line_end_becomes_one_and_three_leave_one_blank_line(end):
    assert corpus.clean(f"a{end}b") == "a\nb"
    assert corpus.clean(f"a{end * 2}b") == "a\n\nb"
    assert corpus.clean(f"a{end * 3}b") == "a\n\nb"


ANY = st.text(
    alphabet=st.characters() | st.sampled_from("\ufeff\r\n\t \x0b\x0c\x85\u2028\u2029\u0301\ud800a\u2000")
)


@given(ANY)
@example("\u0339 \u0334")
def test_clean_properties(text):
    cleaned = corpus.clean(text)
    assert corpus.clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\t\n" for c in cleaned)
    assert "\n\n\n" not in cleaned
    assert all(line == line.rstrip() for line in cleaned.split("\n"))
    noise = (c.isspace() or c == "\ufeff" or unicodedata.category(c) in ("Cc", "Cs") for c in text)
    visible = "".join(c for c, drop in zip(text, noise, strict=True) if not drop)
    # Composed again on both sides: without the spaces between them, marks may change their order.
    assert unicodedata.normalize("NFC", "".join(cleaned.split())) == unicodedata.normalize("NFC", visible)


@pytest.mark.parametrize("name", FACTS)
def test_cleaning_a_corpus_keeps_its_words(name):
    text = corpus.text(name).replace("\x02", "")
    assert corpus.clean(text).split() == text.split()


# Splits

DOCUMENTS = st.lists(st.integers(0, 200), min_size=2, max_size=30).map(
    lambda sizes: [Document(f"d{i}", "x" * size) for i, size in enumerate(sizes)]
)


@given(DOCUMENTS, st.floats(0.01, 0.99), st.integers())
def test_split_properties(documents, share, seed):
    train, held_out = corpus.split(documents, validation=share, seed=seed)
    assert train and held_out
    assert [document for document in documents if document in train] == train
    assert {*train} | {*held_out} == {*documents} and not {*train} & {*held_out}
    assert corpus.split(documents, validation=share, seed=seed) == (train, held_out)
    backwards = corpus.split(documents[::-1], validation=share, seed=seed)
    assert backwards == (train[::-1], held_out[::-1])
    sizes = [len(document.text) for document in documents]
    missed = abs(sum(len(document.text) for document in held_out) - share * sum(sizes))
    assert missed <= max(sizes)


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_share_is_met_by_characters(name, share):
    documents = corpus.load(name)
    for seed in range(3):
        _, held_out = corpus.split(documents, validation=share, seed=seed)
        size = sum(len(document.text) for document in held_out)
        near = max(len(document.text) for document in documents) / 2
        assert abs(size - share * FACTS[name][1]) <= near


def test_the_split_of_shakespeare_is_the_same_everywhere():
    _, held_out = corpus.split(corpus.load("shakespeare"))
    assert [document.id for document in held_out] == [
        "henry_v",
        "henry_vi_part_1",
        "john",
        "merchant_of_venice",
    ]
    others = {
        tuple(document.id for document in corpus.split(corpus.load("sotu"), seed=seed)[1])
        for seed in range(5)
    }
    assert len(others) == 5


def test_a_new_document_moves_few_others():
    documents = [Document(f"d{i}", "x" * 100) for i in range(200)]
    before = {document.id for document in corpus.split(documents)[1]}
    after = {document.id for document in corpus.split([*documents, Document("new", "x" * 100)])[1]}
    assert len(before ^ after) <= 2


def test_every_document_can_be_held_out():
    documents = [Document(f"d{i}", "x" * 100) for i in range(10)]
    seen = {document.id for seed in range(60) for document in corpus.split(documents, seed=seed)[1]}
    assert len(seen) == 10


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(UserError, match="between 0 and 1"):
        corpus.split([Document("a", "x"), Document("b", "y")], validation=share)


def test_a_split_that_cannot_be():
    with pytest.raises(UserError, match="at least two"):
        corpus.split([Document("a", "x")])
    for validation in (0.5, {"a"}):
        with pytest.raises(UserError, match="same id"):
            corpus.split([Document("a", "x"), Document("a", "y"), Document("b", "y")], validation=validation)


def test_two_documents_share_alike_by_hash():
    """The order of the draw, computed again by hand."""
    documents = [Document(name, "x" * 10) for name in "abcdef"]
    order = sorted("abcdef", key=lambda name: hashlib.sha256(f"7 {name}".encode()).hexdigest())
    _, held_out = corpus.split(documents, validation=0.5, seed=7)
    assert {document.id for document in held_out} == {*order[:3]}


def test_named_documents_are_held_out():
    """What every score of the course is computed on."""
    works = corpus.load("shakespeare")
    train, held_out = corpus.split(works, validation=corpus.HELD_OUT)
    assert [work.id for work in held_out] == ["hamlet", "sonnets", "tempest"]
    assert sorted(work.id for work in train + held_out) == sorted(work.id for work in works)
    assert not {work.id for work in train} & set(corpus.HELD_OUT)
    with pytest.raises(UserError, match="No document has the id 'macbeth2'"):
        corpus.split(works, validation=["macbeth2"])
