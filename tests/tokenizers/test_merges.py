"""The trainers learn the merges that independent libraries learn, and each other's."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import regex
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from myllm.files import UserError
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.merges import count_chunks, train
from myllm.tokenizers.patterns import GPT2, GPT4, PATTERNS, SMOLLM2, pieces

VOCAB = 1000


def spelled(merges: list[tuple[int, int]]) -> list[tuple[bytes, bytes]]:
    """Merges as pairs of the bytes they join: the form that does not depend on anybody's numbering."""
    tokens = BPE(merges).tokens
    return [(tokens[left], tokens[right]) for left, right in merges]


def learned_by_hugging_face(chunks: list[str], n_merges: int) -> list[tuple[bytes, bytes]]:
    # Of equally frequent pairs its trainer takes the one with the smaller ids, and it numbers its alphabet in
    # order of the characters. With one character a byte, in order, its ties fall as ours do.
    spell = [chr(256 + byte) for byte in range(256)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + n_merges, initial_alphabet=spell, show_progress=False, min_frequency=0
    )
    tokenizer.train_from_iterator(("".join(spell[b] for b in chunk.encode()) for chunk in chunks), trainer)
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(bytes(ord(c) - 256 for c in token) for token in pair) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("shakespeare", "gpt2"), ("kjv", "gpt2"), ("sotu", "gpt2"), ("sotu", "gpt4"), ("kjv", "smollm2")],
)
def test_merges_equal_those_of_hugging_face(corpora: dict[str, str], name: str, pattern: str):
    text = corpora[name]
    ours = list(BPE.train(text, VOCAB, pattern=PATTERNS[pattern], progress=False).merges)
    theirs = learned_by_hugging_face(regex.findall(PATTERNS[pattern], text), VOCAB - 256)
    assert len(theirs) == VOCAB - 256
    assert spelled(ours) == theirs


@pytest.mark.parametrize(
    ("name", "pattern"), [("shakespeare", "gpt2"), ("kjv", "gpt2"), ("sotu", "gpt2"), ("sotu", "gpt4")]
)
def test_tokens_equal_those_of_rustbpe(corpora: dict[str, str], name: str, pattern: str):
    rustbpe = pytest.importorskip("rustbpe", reason="rustbpe comes with the extra 'bench'")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter([corpora[name]]), VOCAB, pattern=PATTERNS[pattern])
    ours = BPE.train(corpora[name], VOCAB, pattern=PATTERNS[pattern], progress=False)
    ranks = sorted(theirs.get_mergeable_ranks(), key=lambda entry: entry[1])
    assert [bytes(token) for token, _ in ranks] == ours.tokens


def train_naive(chunks: dict[str, int], n_merges: int) -> list[tuple[int, int]]:
    """The definition: count all pairs before each merge; of the most frequent, merge the smallest."""
    words = [(list(chunk.encode()), n) for chunk, n in chunks.items()]
    merges: list[tuple[int, int]] = []
    while len(merges) < n_merges:
        counts = Counter[tuple[int, int]]()
        for ids, n in words:
            for pair in pairwise(ids):
                counts[pair] += n
        if not counts:
            break
        merges.append(min(pair for pair, n in counts.items() if n == max(counts.values())))
        for ids, _ in words:
            for i in range(len(ids)):
                if tuple(ids[i : i + 2]) == merges[-1]:
                    ids[i : i + 2] = [255 + len(merges)]
    return merges


# Two letters and short words: nearly every pair ties with another, and "aaaa" overlaps itself.
small = st.dictionaries(
    st.text("ab", max_size=12) | st.text("abcé", max_size=6), st.integers(1, 3), max_size=8
)


@given(small, st.integers(0, 40))
def test_incremental_equals_naive(chunks: dict[str, int], n_merges: int):
    assert train(chunks, n_merges) == train_naive(chunks, n_merges)


@given(small, st.integers(1, 25))
def test_incremental_equals_hugging_face_on_ties(chunks: dict[str, int], n_merges: int):
    repeated = [chunk for chunk, n in chunks.items() for _ in range(n) if chunk]
    if repeated:
        ours = train(chunks, n_merges)
        assert spelled(ours) == learned_by_hugging_face(repeated, n_merges)[: len(ours)]


def test_merges_by_hand():
    # aaabdaaabac, the example of Wikipedia's article on byte-pair encoding, one chunk.
    a, b = b"ab"
    assert train({"aaabdaaabac": 1}, 3) == train_naive({"aaabdaaabac": 1}, 3) == [(a, a), (a, b), (256, 257)]
    assert train({"aaaa": 1}, 9) == [(a, a), (256, 256)]  # "aaaa" holds (a, a) three times, and then is one
    assert train({"ab": 2, "aa": 2}, 1) == [(a, a)]  # a tie: the smaller pair wins
    assert train({"ab": 3, "aa": 2}, 1) == [(a, b)]  # weights count
    assert train({}, 5) == train({"a": 7}, 5) == []  # no pair, no merge


def test_on_merge_is_called_once_a_merge():
    calls: list[None] = []
    merges = train({"hello": 2, "help": 1}, 100, on_merge=lambda: calls.append(None))
    assert len(calls) == len(merges) > 3


def test_no_progress_bar_in_a_pipe_unless_asked(capsys: pytest.CaptureFixture[str]):
    BPE.train("a few words, a few words", 260)
    assert capsys.readouterr() == ("", "")
    BPE.train("a few words, a few words", 260, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "Learning merges" in err


@pytest.mark.parametrize("special", [[], ["<|endoftext|>", "<|pad|>"]])
def test_vocab_size_edges_and_what_the_messages_promise(special: list[str]):
    text, least = "to be, or not to be", 256 + len(special)
    assert BPE.train(text, least, special_tokens=special).vocab_size == least
    with pytest.raises(UserError, match=rf"^A vocabulary of {least - 1} is too small.* at least {least}\.$"):
        BPE.train(text, least - 1, special_tokens=special)
    with pytest.raises(UserError, match=r"vocabulary of 5000: ask for at most (\d+),") as failed:
        BPE.train(text, 5000, special_tokens=special)
    most = int(regex.search(r"at most (\d+)", str(failed.value))[1])
    full = BPE.train(text, most, special_tokens=special)
    assert full.vocab_size == most == len(full.tokens)
    assert all(len(full.encode(chunk)) == 1 for chunk in regex.findall(GPT2, text))
    with pytest.raises(UserError, match=rf"ask for at most {most},"):
        BPE.train(text, most + 1, special_tokens=special)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "no text to learn from"),
        ([], {}, "no text to learn from"),
        (["", ""], {}, "no text to learn from"),
        ([b"bytes"], {}, "Training needs text .* given bytes"),
        (b"bytes", {}, "Training needs text .* given int"),
        ("a b", {"pattern": r"\p{L}+"}, "leaves characters out"),
        ("a b", {"pattern": r"\p{L}*"}, "leaves characters out"),
        ("a b", {"pattern": r"(\p{L}+)|\s"}, "capturing groups"),
        ("a b", {"pattern": "("}, "not a regular expression"),
        ("a b", {"special_tokens": "<|pad|>"}, r"must be a list of names; write \['<\|pad\|>'\]"),
        ("a b", {"special_tokens": ["x", "x"]}, "different and not empty"),
        ("a b", {"special_tokens": ["x", ""]}, "different and not empty"),
        ("a b", {"special_tokens": ["\ud800"]}, "lone surrogate"),
    ],
)
def test_bad_input_is_named(text: object, options: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        BPE.train(text, 259, **options)  # pyright: ignore


def test_lone_surrogates_are_learned_as_they_are_encoded():
    assert BPE.train("\ud800b " * 9, 258).tokens[256:] == BPE.train("\ufffdb " * 9, 258).tokens[256:]


@pytest.mark.parametrize("pattern", [GPT2, GPT4, SMOLLM2])
def test_lines_regrouped_count_as_the_whole_text(corpora: dict[str, str], pattern: str):
    text = corpora["kjv"][:40_000] + corpora["sotu"][:40_000]
    whole = Counter(regex.findall(pattern, text))
    for size in (1, 7, 1000, 1 << 20):
        assert count_chunks(pieces(text.splitlines(keepends=True), size), pattern) == whole
    streamed = BPE.train(pieces(text.splitlines(keepends=True), 1000), 400, pattern=pattern)
    assert streamed.merges == BPE.train(text, 400, pattern=pattern).merges
