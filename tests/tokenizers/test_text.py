"""Any text and any bytes come back; chunks and ids equal those of the libraries the patterns come from."""

from itertools import combinations

import pytest
import regex
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.patterns import GPT2, GPT4, PATTERNS, SMOLLM2, pieces

SPECIAL = ["<|endoftext|>", "<|end|>", "<|pad|>"]

# What tokenizers stumble over: contractions and their look-alikes (long s, Kelvin sign), marks, digits and
# letters of many scripts, emoji of several characters, special tokens whole and half; every white space and
# what only looks like it; control bytes.
WORDS = (
    "'s 'LL 'Ve 'ſ 'K don't ' '' ’s the ſt K a é e\u0301 1 12 1234 007 ٣٤ Ⅷ ² ½ 四 𝟙 १२ "
    "中文 日本語 ひらがな 한국어 العربية עברית हिन्दी ไทย Ελληνικά Привет 𐍈 😀 👩‍👩‍👧 🇩🇪 👍🏽 ☃ "
    "... !? — _ `` $ ( #!/ <|endoftext|> <|endof <|end|> |> =\n"
)
FRAGMENTS = [
    *WORDS.split(" "),
    *[" ", "  ", "   ", "\n\n", "\r\n", " \n", "\n ", " The", " ("],
    *"\n\r\t\v\f\x1c\x1d\x1e\x1f\x85\xa0\xad\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000",
    *"\0\x01\x7f\ufeff\ufffd\ue000\uffff",
]
# Half of the texts are fragments, half are any characters with some fragments among them; a fragment is drawn
# as one character for private use. Only characters that this Python knows to be assigned: the libraries below
# may know other versions of Unicode.
table = {0xF0000 + i: fragment for i, fragment in enumerate(FRAGMENTS)}
names = "".join(map(chr, table))
characters = st.characters(exclude_categories=["Cs", "Cn", "Co"], include_characters=names)
texts = (st.text(names, max_size=16) | st.text(characters)).map(lambda text: text.translate(table))


@pytest.fixture(scope="module")
def trained(corpora: dict[str, str]) -> dict[str, BPE]:
    """A tokenizer of each pattern, trained on English and on all the awkward fragments side by side."""
    awkward = "".join(a + b for a in FRAGMENTS for b in FRAGMENTS) + "a" * 50 + " " * 40 + "\n" * 30
    mixed = "".join(text[:40_000] for text in corpora.values()) + awkward * 2
    return {
        name: BPE.train(mixed, 2000, pattern=pattern, special_tokens=SPECIAL)
        for name, pattern in PATTERNS.items()
    }


@given(texts | st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([*PATTERNS]))
def test_text_comes_back(trained: dict[str, BPE], text: str, pattern: str):
    bpe = trained[pattern]
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert bpe.decode(bpe.encode(text, allowed_special="all")) == text
    assert ids == bpe.encode_bytes(text.encode())
    assert max(ids, default=0) < bpe.vocab_size - len(SPECIAL)  # no special token, whatever the text


@given(st.binary() | texts.map(lambda text: text.encode()[1:-1]))  # half a character at either end
@example(b"\xed\xa0\x80 CESU \xf4\x90\x80\x80 \xc0\x80 \xe4\xb8 half a character")
def test_bytes_come_back(trained: dict[str, BPE], data: bytes):
    bpe = trained["gpt2"]
    assert bpe.decode_bytes(bpe.encode_bytes(data)) == data


@given(st.text(st.characters(categories=["Cs"]) | st.sampled_from(["a", " ", "😀", "\ufffd"])))
@example("\ud800")
@example("a\udfff\ud83d b")
@example("\ud83d\ude00")
def test_lone_surrogates_become_the_replacement_character(trained: dict[str, BPE], text: str):
    # Two surrogates that form a pair are the character they spell; any other one is lone.
    paired = regex.sub(
        r"([\ud800-\udbff])([\udc00-\udfff])",
        lambda m: chr(0x10000 + ((ord(m[1]) - 0xD800) << 10) + ord(m[2]) - 0xDC00),
        text,
    )
    expected = regex.sub(r"[\ud800-\udfff]", "\ufffd", paired)
    assert trained["gpt4"].decode(trained["gpt4"].encode(text)) == expected


@given(texts, st.sampled_from([*PATTERNS]), st.integers(0, 3))
def test_tiktoken_gives_the_same_ids(
    trained: dict[str, BPE],
    encodings: dict[str, tiktoken.Encoding],
    text: str,
    pattern: str,
    n_allowed: int,
):
    allowed = set(SPECIAL[:n_allowed])
    theirs = encodings[pattern].encode(text, allowed_special=allowed, disallowed_special=())
    assert trained[pattern].encode(text, allowed_special=allowed) == theirs


@given(
    st.lists(st.tuples(st.sampled_from("ab \n'1中"), st.integers(1, 70)), max_size=6),
    st.sampled_from([*PATTERNS]),
)
def test_tiktoken_gives_the_same_ids_on_runs(
    trained: dict[str, BPE],
    encodings: dict[str, tiktoken.Encoding],
    runs: list[tuple[str, int]],
    pattern: str,
):
    text = "".join(character * n for character, n in runs)
    assert trained[pattern].encode(text) == encodings[pattern].encode_ordinary(text)


@pytest.fixture(scope="module")
def encodings(trained: dict[str, BPE]) -> dict[str, tiktoken.Encoding]:
    return {name: bpe.to_tiktoken() for name, bpe in trained.items()}


byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
ORACLES = {
    GPT2: byte_level,
    # `pre_tokenizer` of SmolLM2's published tokenizer.json.
    SMOLLM2: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
}


@pytest.mark.parametrize("pattern", ORACLES, ids=["gpt2", "smollm2"])
@given(text=texts)
def test_chunks_equal_those_of_hugging_face(pattern: str, text: str):
    theirs = [text[start:end] for _, (start, end) in ORACLES[pattern].pre_tokenize_str(text)]
    assert regex.findall(pattern, text) == theirs


# The published pattern of GPT-4 (tiktoken's cl100k_base), in the dialect of tiktoken's own engine.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@given(texts)
@example("a\n  ")
@example("x  \r\n\r\n \t y'LLs 12345!\n\n")
def test_chunks_equal_those_of_gpt4(text: str):
    # tiktoken does not tell its chunks, but a chunk whose bytes are a token becomes that one id. So let every
    # chunk of ours be a token, and every run of chunks too: then the ids are ours only if its borders are.
    chunks = regex.findall(GPT4, text)
    assert "".join(chunks) == text
    ends = [len("".join(chunks[:i])) for i in range(len(chunks) + 1)]
    ranks = {bytes([byte]): byte for byte in range(256)}
    for start, end in combinations(ends, 2):
        ranks.setdefault(text[start:end].encode(), len(ranks))
    engine = tiktoken.Encoding("borders", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    assert engine.encode_ordinary(text) == [ranks[chunk.encode()] for chunk in chunks]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(whole=texts, step=st.integers(1, 10), size=st.integers(1, 20))
def test_pieces_end_where_chunks_end(pattern: str, whole: str, step: int, size: int):
    parts = [whole[i : i + step] for i in range(0, len(whole), step)]
    cut = list(pieces(parts, size))
    assert "".join(cut) == whole
    assert all(len(piece) >= size for piece in cut[:-1])
    split = regex.compile(PATTERNS[pattern]).findall
    assert [chunk for piece in cut for chunk in split(piece)] == split(whole)
