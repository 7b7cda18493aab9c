"""Encoding: rank order, bounded work, special tokens, batches, decoding."""

import random
import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myllm.files import UserError
from myllm.tokenizers import bpe as bpe_module
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.merges import encode_chunk
from myllm.tokenizers.patterns import PATTERNS, pieces

TEXT = (
    "the theatre, then the other; she sells sea shells 1999 2001, weather or whether, bother and rather. " * 3
)


def lowest_rank_first(chunk: bytes, merges: dict[tuple[int, int], int]) -> list[int]:
    """The definition: again and again, merge the leftmost of the pairs that were learned first."""
    ids = list(chunk)
    while True:
        found = [(merges[a, b], i) for i, (a, b) in enumerate(pairwise(ids)) if (a, b) in merges]
        if not found:
            return ids
        new_id, i = min(found)
        ids[i : i + 2] = [new_id]


@st.composite
def any_merges(draw: st.DrawFn) -> dict[tuple[int, int], int]:
    """Merges that nobody learned: any pairs of earlier ids over two letters, in any order."""
    known, merges = [*b"ab"], {}
    for new_id in range(256, 256 + draw(st.integers(0, 10))):
        pair = draw(st.tuples(st.sampled_from(known), st.sampled_from(known)))
        if pair not in merges:
            merges[pair] = new_id
            known.append(new_id)
    return merges


@given(st.text("ab", max_size=30), any_merges())
def test_encode_chunk_merges_the_lowest_rank_first(chunk: str, merges: dict[tuple[int, int], int]):
    before = dict(merges)
    assert encode_chunk(chunk.encode(), merges) == lowest_rank_first(chunk.encode(), merges)
    assert merges == before


def test_trained_merges_too():
    bpe = BPE.train(TEXT, 290)
    for word in TEXT.split():
        assert bpe.encode(word) == lowest_rank_first(word.encode(), bpe.merges)


class Counted(dict[tuple[int, int], int]):
    """Merges that count how often they are looked up, and give up when that is too often."""

    lookups = 0
    limit = 0

    def count(self) -> None:
        self.lookups += 1
        assert self.lookups <= self.limit, "more lookups than a chunk of this length may cost"

    def __contains__(self, pair: object) -> bool:
        self.count()
        return super().__contains__(pair)

    def __getitem__(self, pair: tuple[int, int]) -> int:
        self.count()
        return super().__getitem__(pair)

    def get(self, *args: object) -> object:  # pyright: ignore
        self.count()
        return super().get(*args)  # pyright: ignore


@pytest.mark.parametrize(("letters", "n"), [("a", 50_000), ("abcdehnorstw", 1_000_000)])
def test_a_megabyte_without_a_space_costs_bounded_work(letters: str, n: int):
    # n bytes make at most n - 1 merges, and each looks at two new pairs; two lookups a pair.
    bpe = BPE.train(TEXT + letters * 70, 290)
    chunk = "".join(random.Random(0).choices(letters, k=n)).encode()
    merges = Counted(bpe.merges)
    merges.limit = 6 * n
    assert bpe.decode_bytes(encode_chunk(chunk, merges)) == chunk


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("unit", [" ", "\n", "x", "'", "7", "!", " \n", "\r ", "é"])
def test_hostile_runs_split_and_come_back(unit: str, pattern: str):
    bpe = BPE([], pattern=PATTERNS[pattern])
    for end in ("", "x", " ", "\n"):
        text = unit * 50_000 + end
        assert bpe.decode(bpe.encode(text)) == text


def test_cache_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bpe_module, "CACHE_SIZE", 4)
    bpe = BPE.train(TEXT, 280)
    words = [f"{word} {'long' * 100}" for word in TEXT.split()]
    first = [bpe.encode(word) for word in words]
    assert [bpe.encode(word) for word in words] == first
    assert [bpe.encode_bytes(word.encode()) for word in words] == first  # which has no cache
    assert len(bpe._cache) <= 4  # pyright: ignore
    assert max(map(len, bpe._cache)) <= bpe_module.CACHE_CHUNK  # pyright: ignore


def test_what_encode_returns_is_the_callers_own():
    bpe = BPE.train(TEXT, 280)
    ids = bpe.encode("the")
    bpe.encode("the").append(7)
    assert bpe.encode("the") == ids


# Special tokens


@pytest.fixture
def special() -> BPE:
    # "<|end|>" is the beginning of a longer one, and one holds characters that mean something in a regex.
    return BPE.train(TEXT, 290, special_tokens=["<|end|>", "<|end|>>", "<s>", "</s>", "(.*)"])


def test_special_tokens_have_the_last_ids(special: BPE):
    assert special.special_tokens == {"<|end|>": 285, "<|end|>>": 286, "<s>": 287, "</s>": 288, "(.*)": 289}
    assert (special.bos_id, special.eos_id, special.pad_id, special.vocab_size) == (287, 288, None, 290)
    assert special.decode([285, 289]) == "<|end|>(.*)"


def test_special_tokens_are_text_unless_allowed(special: BPE):
    text = "<s>the<|end|>>(.*)"
    assert max(special.encode(text)) < 285
    assert special.encode(text, allowed_special=["<s>"]) == [287, *special.encode("the<|end|>>(.*)")]
    assert special.encode(text, allowed_special="<s>") == [287, *special.encode("the<|end|>>(.*)")]
    assert special.decode(special.encode(text)) == text


def test_the_longest_special_token_wins(special: BPE):
    the = special.encode("the")
    assert special.encode("the<|end|>>the", allowed_special="all") == [*the, 286, *the]
    short = special.encode("the<|end|>>the", allowed_special=["<|end|>"])
    assert short == [*the, 285, *special.encode(">the")]
    assert special.encode("(.*)abc", allowed_special="all") == [289, *b"abc"]
    assert special.encode("<s><s></s>", allowed_special="all") == [287, 287, 288]


def test_a_special_token_ends_a_chunk(special: BPE):
    assert special.encode("the<s>n", allowed_special=["<s>"]) == [*special.encode("the"), 287, ord("n")]


def test_unknown_special_tokens_are_named(special: BPE):
    with pytest.raises(UserError, match=r"'<\|nope\|>' is no special token of bpe; it has: <\|end\|>, "):
        special.encode("x", allowed_special=["<s>", "<|nope|>"])
    with pytest.raises(UserError, match="it has: none"):
        BPE([]).encode("x", allowed_special=["<s>"])
    assert BPE([]).encode("x", allowed_special="all") == [ord("x")]


def test_begin_and_end(special: BPE):
    assert special.encode("", bos=True, eos=True) == [287, 288]
    assert special.encode("x", bos=True) == [287, ord("x")]
    with pytest.raises(UserError, match=r"has no eos token; train it with special token '<\|eos\|>'"):
        BPE([]).encode("x", eos=True)


@pytest.mark.parametrize(
    ("tokens", "roles", "ids"),
    [
        (["<|endoftext|>"], {}, (256, 256, None)),
        (["<|endoftext|>", "<|bos|>"], {}, (257, 256, None)),
        (["<pad>", "<|eos|>", "<|endoftext|>"], {}, (258, 257, 256)),
        (["<a>", "<b>", "<c>"], {"bos": "<b>", "eos": "<a>", "pad": "<c>"}, (257, 256, 258)),
        ([], {}, (None, None, None)),
    ],
)
def test_roles(tokens: list[str], roles: dict[str, str], ids: tuple[int | None, ...]):
    bpe = BPE([], special_tokens=tokens, **roles)
    assert (bpe.bos_id, bpe.eos_id, bpe.pad_id) == ids


def test_a_role_needs_its_token():
    with pytest.raises(UserError, match="bos token '<x>' is not among the special tokens"):
        BPE([], special_tokens=["<y>"], bos="<x>")


# Batches


def test_batches_are_padded_on_either_side():
    bpe = BPE([], special_tokens=["<|eos|>", "<|pad|>"])
    ids, mask = bpe.encode_batch(["abc", "", "é"])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.tolist() == [[97, 98, 99], [257, 257, 257], [195, 169, 257]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    ids, mask = bpe.encode_batch(["abc", "", "é"], pad="left")
    assert ids.tolist() == [[97, 98, 99], [257, 257, 257], [257, 195, 169]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 1]]


def test_padding_falls_back_to_the_end_token_and_else_fails():
    assert BPE([], special_tokens=["<|eos|>"]).encode_batch(["ab", "a"])[0].tolist() == [[97, 98], [97, 256]]
    assert BPE([]).encode_batch(["ab", "cd"])[0].tolist() == [[97, 98], [99, 100]]
    assert BPE([]).encode_batch([])[0].shape == (0, 0)
    with pytest.raises(UserError, match=r"bpe has no padding or end token .* '<\|pad\|>'"):
        BPE([]).encode_batch(["ab", "a"])
    with pytest.raises(UserError, match="'left' or 'right', not 'middle'"):
        BPE([]).encode_batch(["ab"], pad="middle")  # pyright: ignore


# Decoding, construction, other libraries


def test_ids_outside_the_vocabulary(special: BPE):
    assert special.decode([97, 290, 10**30, 98]) == "ab"
    with pytest.raises(UserError, match="Id -1 is outside the vocabulary of bpe; ids start at 0"):
        special.decode([97, -1])


def test_half_a_character_decodes_to_the_replacement_character():
    assert BPE([]).decode("é".encode()[:1]) == "\ufffd"
    assert BPE([]).decode_bytes(np.array([195])) == b"\xc3"


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([(97, 256)], "Merge 0 joins ids 97 and 256, which do not exist yet"),
        ([(97, 98), (-1, 97)], "Merge 1 joins ids -1 and 97"),
        ([(97, 98), (97, 98)], "listed twice"),
        ([(97, 97), *((i, i) for i in range(256, 320))], r"make more than [\d,]+ bytes"),
    ],
)
def test_impossible_merges_are_refused(merges: list[tuple[int, int]], message: str):
    with pytest.raises(UserError, match=message):
        BPE(merges)


def test_a_pattern_that_drops_characters_never_drops_them_silently():
    bpe = BPE([], pattern=r"\p{L}+| +")
    assert bpe.encode("a b") == [*b"a b"]
    for encode in (bpe.encode, lambda text: bpe.encode_bytes(text.encode())):
        with pytest.raises(UserError, match="leaves characters of this text out"):
            encode("a 1")


def test_tiktoken_is_refused_merges_it_cannot_express():
    a, b, c = b"abc"
    with pytest.raises(UserError, match="same bytes"):
        BPE([(a, b), (b, c), (256, c), (a, 257)]).to_tiktoken()


def test_repr_says_what_it_is(special: BPE):
    assert repr(special).startswith("BPE 'bpe': 290 ids, 29 merges, special tokens <|end|>, ")
    assert repr(BPE([])) == "BPE 'bpe': 256 ids, 0 merges"


# Streams


class Line(str):
    """A string that can be watched."""

    __slots__ = ("__weakref__",)


def test_a_corpus_in_a_generator_is_never_held():
    alive: list[weakref.ref[Line]] = []
    most = 0

    def lines() -> Iterator[Line]:
        nonlocal most
        for i in range(3000):
            line = Line(f"line {i} of a corpus that is never held\n")
            alive[:] = [ref for ref in alive if ref() is not None] + [weakref.ref(line)]
            most = max(most, len(alive))
            yield line

    BPE.train(lines(), 300)
    assert most <= 3
    BPE.train(pieces(lines(), 1000), 300)
    assert most <= 2 * 1000 // 30 + 3
