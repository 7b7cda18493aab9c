"""Published tokenizers: ids equal those of their own libraries, bytes come back, streams stay whole."""

import json
import random
import sys
import unicodedata
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from myllm import load_tokenizer
from myllm.files import UserError
from myllm.tokenizers import pretrained
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import TEMPLATES
from myllm.tokenizers.pretrained import ASSETS, decode_stream
from myllm.tokenizers.ranks import byte_symbols

GOLDENS = json.loads(Path(__file__).with_name("token_goldens.json").read_text("utf-8"))
OFFLINE = ["gpt2", "mistral", "smollm2"]
HAS_LLAMA3 = find_spec("llama_models") is not None
WITH_LLAMA3 = [
    *OFFLINE,
    pytest.param("llama3", marks=pytest.mark.skipif(not HAS_LLAMA3, reason="llama-models is not installed")),
]
SCRIPTS = {
    "Latin": "Ça coûte 12,50 € à l'école, n'est-ce pas? We'll see; they're SURE it's O'Brien's.",
    "Greek": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το σκυλί.",
    "Cyrillic": "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Arabic": "الكتابة العربية من اليمين إلى اليسار، والأرقام ٠١٢٣٤٥٦٧٨٩.",
    "Hebrew": "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם",
    "Devanagari": "सभी मनुष्य स्वतंत्र पैदा होते हैं। १२३",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。共二〇二三年",
    "Japanese": "すべての人間は、生まれながらにして自由であり、カタカナも。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며",
    "Amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻ",
}
HARD = {
    "empty": "",
    "spaces": "  two   three    \t tab \n\n\n  lines \r\n end  ",
    "digits": "0 1 12 123 1234 12345 3.14159 1e-9 ½ Ⅷ ² ٣٤ 一二 1000000",
    "emoji": "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇯🇵 ❤️ 🙂🙂 1️⃣",
    "control": "".join(map(chr, range(32))) + "\x7f\x80\x85\x9f\xa0\xad",
    "marks": "<|endoftext|><s></s><unk><|im_start|>user<|im_end|>[INST] <0x0A> <|begin_of_text|>",
    "planes": "a\u2028b\u200bc\ufeffd\ufffde\U0001d54f\U00020000\U000f0000\U0010fffd",
    "code": "def f(x):\n    return x  # \ttabs\n\n\nclass A:\n\tpass\n",
    "combining": "e\u0301 n\u0303 \u1100\u1161\u11a8 \u0e33",
    "block": "a▁b ▁▁ ▁",
}
TEXTS = SCRIPTS | HARD

Oracle = Callable[[list[str]], list[list[int]]]


def hugging_face(model: tokenizers.models.BPE, splitter: object) -> Oracle:
    """A byte-level BPE of the library `tokenizers`."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = splitter  # pyright: ignore
    return lambda texts: [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]


@pytest.fixture(scope="module")
def tokenizer() -> Callable[[str], Tokenizer]:
    made: dict[str, Tokenizer] = {}

    def get(name: str) -> Tokenizer:
        return made.setdefault(name, made.get(name) or load_tokenizer(name))

    return get


@pytest.fixture(scope="module")
def oracles() -> dict[str, dict[str, Oracle]]:
    """For each tokenizer, others' programs that read the same vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import GPT2TokenizerFast, LlamaTokenizer

    # GPT-2: tiktoken with ranks from the merges alone, in the order that encoder.json does not give away.
    symbols = byte_symbols()
    ranks = {bytes([symbols.index(s)]): i for i, s in enumerate(sorted(symbols))}
    to_bytes = {symbol: bytes([byte]) for byte, symbol in enumerate(symbols)}
    for line in (ASSETS / "gpt2" / "vocab.bpe").read_text("utf-8").splitlines()[1:]:
        ranks[b"".join(to_bytes[s] for s in line.replace(" ", ""))] = len(ranks)
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    gpt2 = tiktoken.Encoding("oracle", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    folder = ASSETS / "gpt2"
    fast = GPT2TokenizerFast(vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe"))
    fast._tokenizer.encode_special_tokens = True

    model = str(ASSETS / "mistral" / "tokenizer.model")
    library = sentencepiece.SentencePieceProcessor(model_file=model)
    vocabulary = {library.id_to_piece(i): i for i in range(library.get_piece_size())}
    halves = []  # any two pieces whose joined text is a piece may merge; the better piece goes first
    for piece, i in vocabulary.items():
        if not (library.is_byte(i) or library.is_control(i) or library.is_unknown(i)):
            cuts = ((piece[:n], piece[n:]) for n in range(1, len(piece)))
            halves += [(library.get_score(i), *two) for two in cuts if {*two} <= vocabulary.keys()]
    halves.sort(key=lambda half: -half[0])
    merges = [(left, right) for _, left, right in halves]
    llama = LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=True)._tokenizer
    llama.encode_special_tokens = True

    small = json.loads((ASSETS / "smollm2" / "tokenizer.json").read_text("utf-8"))["model"]
    bpe = tokenizers.models.BPE(
        vocab=small["vocab"], merges=[tuple(pair.split(" ")) for pair in small["merges"]]
    )
    digits_first = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    return {
        "gpt2": {
            "tiktoken": lambda texts: [gpt2.encode_ordinary(text) for text in texts],
            "transformers": lambda texts: [
                one.ids for one in fast._tokenizer.encode_batch(texts, add_special_tokens=False)
            ],
        },
        "mistral": {
            "sentencepiece": library.encode,
            "transformers": lambda texts: [
                # It gives a text that begins with a space no second one.
                llama.encode(text, add_special_tokens=False).ids
                if not text.startswith((" ", "▁"))
                else library.encode(text)
                for text in texts
            ],
        },
        "smollm2": {"tokenizers": hugging_face(bpe, digits_first)},
    }


# Ids


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_goldens(name: str, tokenizer: Callable[[str], Tokenizer]):
    golden = GOLDENS["mistral_v1" if name == "mistral" else name]
    assert tokenizer(name).encode(golden["text"]) == golden["ids"]
    assert tokenizer(name).decode(golden["ids"]) == golden["text"]


@pytest.mark.parametrize("name", OFFLINE)
def test_ten_scripts_and_hard_texts(name: str, tokenizer, oracles):
    texts = list(TEXTS.values())
    ours = [tokenizer(name).encode(text) for text in texts]
    for library, oracle in oracles[name].items():
        for kind, text, ids, theirs in zip(TEXTS, texts, ours, oracle(texts), strict=True):
            assert ids == theirs, (library, kind, text)


SNIPPETS = [word + end for text in TEXTS.values() for word in text.split(" ") for end in ("", " ")]
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])  # assigned for long: libraries agree on them
ASSIGNED = [c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c) not in ("Cs", "Cn", "Co")]
FUZZ = st.lists(st.sampled_from(SNIPPETS) | CHARACTERS, max_size=6).map("".join)


def fuzzed(seed: int, n: int) -> list[str]:
    """Strings of known words and any characters, those that come first in Unicode more often."""
    draw = random.Random(seed)
    sources = SNIPPETS, ASSIGNED, ASSIGNED[:6000], ASSIGNED[:200]
    return ["".join(draw.choice(draw.choice(sources)) for _ in range(draw.randrange(9))) for _ in range(n)]


@given(st.integers(0, 1 << 40))
def test_fuzzed_strings(tokenizer, oracles, seed: int):
    texts = fuzzed(seed, 100)
    for name in OFFLINE:
        ours = [tokenizer(name).encode(text) for text in texts]
        for library, oracle in oracles[name].items():
            for text, ids, theirs in zip(texts, ours, oracle(texts), strict=True):
                assert ids == theirs, (name, library, text)


@pytest.mark.skipif(not HAS_LLAMA3, reason="llama-models is not installed")
def test_llama3_equals_its_own_program(tokenizer):
    from llama_models.llama3.tokenizer import Tokenizer as Original

    original, ours = Original.get_instance(), tokenizer("llama3")
    for kind, text in TEXTS.items():
        assert ours.encode(text) == original.encode(text, bos=False, eos=False), kind
        assert ours.encode(text, bos=True, eos=True, allowed_special="all") == original.encode(
            text, bos=True, eos=True, allowed_special="all"
        )
    assert ours.special_tokens == original.special_tokens
    assert (ours.vocab_size, ours.bos_id, ours.eos_id, ours.pad_id) == (
        original.n_words,
        original.bos_id,
        original.eos_id,
        original.pad_id,
    )


# The protocol


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("gpt2", (50_257, 50_256, 50_256, None, 1, {50_256})),
        ("mistral", (32_000, 1, 2, None, 3, {2})),
        ("smollm2", (49_152, 1, 2, None, 17, {2})),
        pytest.param(
            "llama3",
            (128_256, 128_000, 128_001, 128_004, 256, {128_001, 128_008, 128_009}),
            marks=WITH_LLAMA3[3].marks,
        ),
    ],
)
def test_the_facts_of_each(name: str, facts: tuple[object, ...], tokenizer):
    one = tokenizer(name)
    assert facts == (
        *(one.vocab_size, one.bos_id, one.eos_id, one.pad_id),
        *(len(one.special_tokens), one.end_ids),
    )
    assert one.chat_template == TEMPLATES.get(name)
    assert one.name == name and name in repr(one) and len(repr(one)) < 120


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_special_tokens_are_text_unless_allowed(name: str, tokenizer):
    one = tokenizer(name)
    ids = {*one.special_tokens.values()}
    for token, i in [*one.special_tokens.items()][:20]:
        for text in (token, f"a {token}b", f"{token}{token}"):
            ordinary = one.encode(text)
            assert not ids & {*ordinary}
            assert one.decode(ordinary) == text
            assert one.encode(text, allowed_special=token).count(i) == text.count(token)
            assert one.decode(one.encode(text, allowed_special="all")) == text
    assert one.encode("", bos=True, eos=True) == [one.bos_id, one.eos_id]
    assert one.encode("x", bos=True, eos=True) == [one.bos_id, *one.encode("x"), one.eos_id]


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_batches(name: str, tokenizer):
    one = tokenizer(name)
    rows = [one.encode(text) for text in ("a b c d", "", "東京")]
    fill = one.eos_id if one.pad_id is None else one.pad_id
    for side in ("left", "right"):
        ids, mask = one.encode_batch(["a b c d", "", "東京"], pad=side)
        assert ids.dtype == mask.dtype == np.int64 and ids.shape == mask.shape == (3, max(map(len, rows)))
        for b, row in enumerate(rows):
            padding = [fill] * (ids.shape[1] - len(row))
            assert ids[b].tolist() == (padding + row if side == "left" else row + padding)
            assert mask[b].sum() == len(row) and ids[b][mask[b] == 1].tolist() == row


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_ids_beyond_the_vocabulary_add_nothing(name: str, tokenizer):
    """A model may have more embeddings than its tokenizer has tokens, and may choose one of them."""
    one = tokenizer(name)
    ids = one.encode("the sea, the sea")
    for beyond in (one.vocab_size, 1 << 40):
        mixed = [beyond, *ids[:3], beyond, beyond, *ids[3:], beyond]
        assert one.decode(mixed) == "".join(decode_stream(one, mixed)) == "the sea, the sea"
        assert (
            "".join(decode_stream(one, ids[2:], after=[*ids[:2], beyond]))
            == one.decode(ids)[len("the sea") :]
        )
    with pytest.raises(UserError, match=f"^Id -1 is outside the vocabulary of {name}; ids start at 0"):
        one.decode([5, -1])
    one.decode([one.vocab_size - 1])


# Bytes and back


@given(FUZZ | st.text())
def test_what_comes_back(tokenizer, text: str):
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer("gpt2").decode_bytes(tokenizer("gpt2").encode(text)) == whole.encode()
    mistral = tokenizer("mistral").decode_bytes(tokenizer("mistral").encode(text))
    assert mistral == whole.replace("▁", " ").encode()  # which it cannot tell from a space
    lacking = b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"  # no token of SmolLM2 has these bytes
    kept = whole.encode().translate(None, lacking)
    assert tokenizer("smollm2").decode_bytes(tokenizer("smollm2").encode(text)) == kept


def test_every_token_has_the_bytes_of_its_library(tokenizer):
    library = sentencepiece.SentencePieceProcessor(model_file=str(ASSETS / "mistral" / "tokenizer.model"))
    mistral = tokenizer("mistral")
    first = next(i for i in range(32_000) if library.id_to_piece(i) == "a")
    for i in range(3, 32_000):
        if not library.is_byte(i):
            assert mistral.decode([i]) == library.decode([i])
            assert mistral.decode([first, i]) == library.decode([first, i])
    for byte in range(256):
        assert mistral.decode_bytes([3 + byte]) == bytes([byte])
    published = json.loads((ASSETS / "gpt2" / "encoder.json").read_text("utf-8"))
    symbols = byte_symbols()
    for token, i in published.items():
        assert tokenizer("gpt2").decode_bytes([i]) == bytes(map(symbols.index, token)), token


def test_byte_symbols_are_those_of_gpt2():
    symbols = byte_symbols()
    assert len({*symbols}) == 256 and {*tokenizers.pre_tokenizers.ByteLevel.alphabet()} == {*symbols}
    assert [symbols[byte] for byte in b"aZ~ \n\t\0"] == ["a", "Z", "~", "Ġ", "Ċ", "ĉ", "Ā"]
    encode = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    text = "".join(map(chr, range(0x250))) + "東🙂\U0010ffff"
    assert "".join(piece for piece, _ in encode(text)) == "".join(symbols[byte] for byte in text.encode())


# Streams


@given(FUZZ, st.lists(st.integers(0, 31_999), max_size=12), st.booleans())
def test_streamed_pieces_join_to_the_text(tokenizer, text: str, noise: list[int], mixed: bool):
    for name in OFFLINE:
        one = tokenizer(name)
        ids = one.encode(text)
        if mixed:
            ids = random.Random(len(text)).sample([*ids, *noise], len(ids) + len(noise))
        pieces = list(decode_stream(one, ids))
        assert "".join(pieces) == one.decode(ids)
        assert b"".join(one.token_bytes(ids)) == one.decode_bytes(ids)
        assert "" not in pieces
        if not mixed:  # then nothing is broken, and no piece may look so
            assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_a_stream_gives_each_character_as_soon_as_it_is_whole(name: str, tokenizer):
    one = tokenizer(name)
    fed: list[int] = []

    def feed():
        for i in one.encode("a 👩‍👧 東京"):
            fed.append(i)
            yield i

    shown = ""
    for piece in decode_stream(one, feed()):
        shown += piece
        assert shown == one.decode_bytes(fed).decode("utf-8", "ignore")
    assert shown == "a 👩‍👧 東京"


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_a_stream_goes_on_after_a_prompt(name: str, tokenizer):
    one = tokenizer(name)
    prompt = one.encode("The capital of France is")
    ids = one.encode("The capital of France is Paris. Paris!")[len(prompt) :]
    assert "".join(decode_stream(one, ids, after=prompt)) == " Paris. Paris!"


def test_a_stream_ends_a_half_character_once(tokenizer):
    ids = tokenizer("gpt2").encode("🙂🙃")[:-1]
    assert list(decode_stream(tokenizer("gpt2"), ids)) == ["🙂", "\ufffd"]
    assert list(decode_stream(tokenizer("gpt2"), [])) == []


# Hostile texts


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("unit", [" ", "\n", "a", "!", "é"])
def test_long_runs(name: str, unit: str, tokenizer):
    text = unit * 100_000
    assert tokenizer(name).decode(tokenizer(name).encode(text)) == text


def test_a_million_spaces(tokenizer):
    """The regular expressions of tiktoken give up on them."""
    gpt2 = tokenizer("gpt2")
    with pytest.raises(ValueError, match="stack"):
        gpt2.encoding.encode(" " * 1_000_000, disallowed_special=())
    for text in (" " * 1_000_000 + "x 12", "it's  \n" + "\n" * 1_000_000):
        ids = gpt2.encode(text)
        assert gpt2.decode(ids) == text
        assert ids[:200] == gpt2.encode(text[:200_000])[:200]
    assert gpt2.decode(gpt2.encode(" " * 1_000_000 + "\ud83d")).endswith(" \ufffd")


@pytest.mark.parametrize("name", WITH_LLAMA3)
def test_lone_surrogates_become_the_replacement_character(name: str, tokenizer):
    one = tokenizer(name)
    assert one.decode(one.encode("a\ud83d b\ude42")) == "a\ufffd b\ufffd"
    assert one.encode("\ud83d\ude42") == one.encode("🙂")


def test_continued_text_gets_no_space_in_front(tokenizer):
    mistral = tokenizer("mistral")
    for text in ("Hello", " Hello", "  two", "\n", "東", "<s>"):
        prompt = mistral.encode("It says:")
        ids = mistral.encode_text(text, continued=True)
        assert mistral.decode_bytes([*prompt, *ids]) == f"It says:{text}".encode()
    for name in ("gpt2", "smollm2"):
        assert tokenizer(name).encode_text(" a", continued=True) == tokenizer(name).encode(" a")


# Names


@pytest.mark.parametrize("name", ["gpt3", "GPT2", "", "no/such/file.json", "missing.model"])
def test_an_unknown_name_lists_the_known_ones(name: str):
    if not name:
        name = "nothing here"
    with pytest.raises(UserError) as error:
        load_tokenizer(name)
    known = "gpt2, llama3, mistral, shakespeare, smollm2"
    assert str(error.value) == f"There is no tokenizer {name!r}; take {known}, or name a file."


def test_llama3_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"run `pip install --no-deps llama-models==0\.3\.0`, or name the path"
    ):
        load_tokenizer("llama3")


def test_llama3_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "llama_models"
    (package / "llama3").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    lines = [b"IQ== 0", b"Ig== 1", *(b"%s %d" % (b"YQ==", 2),)]
    (package / "llama3" / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "llama_models", raising=False)
    with pytest.raises(UserError, match=r"is not LLaMA-3's tokenizer\.model, or damaged"):
        load_tokenizer("llama3")
    digest = pretrained.sha256(package / "llama3" / "tokenizer.model")
    monkeypatch.setitem(pretrained.PUBLISHED["llama3"], "sha256", digest)
    one = load_tokenizer("llama3")
    assert one.encode('!"a') == [0, 1, 2] and one.vocab_size == 3 + 256
    assert (
        one.special_tokens["<|eot_id|>"] == 3 + 9
        and one.special_tokens["<|reserved_special_token_245|>"] == 258
    )
    assert load_tokenizer(package / "llama3" / "tokenizer.model").encode("a") == [2]
    assert "llama_models" not in sys.modules


def test_mistral_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        UserError,
        match=r"^SentencePiece models need: pip install 'myllm-course\[book\]'\.$",
    ):
        load_tokenizer("mistral")
