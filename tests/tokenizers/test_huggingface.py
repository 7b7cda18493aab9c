"""Any `tokenizer.json`: the ids of its library; special tokens are text unless allowed; bytes come back."""

import json
import random
from itertools import product

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from myllm import load_tokenizer
from myllm.files import UserError
from myllm.tokenizers.huggingface import HuggingFaceTokenizer
from myllm.tokenizers.pretrained import decode_stream
from myllm.tokenizers.settings import Settings

MARKS = ["<s>", "</s>", "<|im_end|>", "<|im_end|>>"]
LETTERS = [*"abcdehnorst<>|/_! im"]


def byte_level(**options):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ġ", "Ġ"), ("<", "s")]
    tokens = [*alphabet, *(left + right for left, right in merges), "</s>"]
    made = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, **options))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def sentencepiece_like():
    """As LLaMA's: a space in front of every stretch of text, bytes for what has no piece."""
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁"), ("<", "s"), ("<s", ">")]
    tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"the<s>/"]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return made


def unigram():
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("en_XX", 0.0), ("▁", -2.0), ("▁the", -2.5), ("th", -3.0)]
    pieces += [(letter, -4.0) for letter in LETTERS if letter != " "]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return made


def word_piece():
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "##s", "##t", "a", "##n", "s", "/", "<", ">", "[", "]", "!"]
    model = models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def word_level():
    words = ["[UNK]", "</s>", "the", "sea", "a", "<s>", "!"]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


KINDS = {
    "byte-level": byte_level,
    "whole words": lambda: byte_level(ignore_merges=True),
    "sentencepiece": sentencepiece_like,
    "unigram": unigram,
    "word piece": word_piece,
    "word level": word_level,
}
FLAGS = [
    dict(zip(("lstrip", "rstrip", "single_word"), f, strict=True)) for f in product([False, True], repeat=3)
]
WORDS = [
    "the",
    " sea",
    "  ",
    "\n",
    "a",
    "!",
    "é",
    "東",
    "🙂",
    "<",
    ">",
    "s",
    "<s",
    "|",
    "im_end",
    "THE",
    "ab",
    "\t",
]
WORDS += [*MARKS, "[UNK]", "[SEP]", "<think>", "en_XX", "<0x41>", "▁"]


@st.composite
def any_tokenizer(draw):
    """One of the kinds, with added tokens of any flags, some of them special."""
    made = KINDS[draw(st.sampled_from([*KINDS]))]()
    names = draw(
        st.lists(st.sampled_from([*MARKS, "<think>", "ab", "!", "[SEP]", "🙂", "é", "en_XX"]), unique=True)
    )
    for name in names:
        special = name in MARKS or name in ("[SEP]", "en_XX") or draw(st.booleans())
        normalized = not special and draw(st.booleans())
        token = AddedToken(name, special=special, normalized=normalized, **draw(st.sampled_from(FLAGS)))
        made.add_special_tokens([token]) if special else made.add_tokens([token])
    return made


def ours(made, **config):
    return HuggingFaceTokenizer(json.loads(made.to_str()), Settings(config), name="made", source="made.json")


def without_special(made):
    """The library without special tokens: none is an added token, and the model names them differently."""
    content = json.loads(made.to_str())
    removed = {token["content"] for token in content["added_tokens"] if token["special"]}
    numbers = {token["content"]: token["id"] for token in content["added_tokens"]}
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    model, marks = content["model"], {*MARKS, "[SEP]", "en_XX"} & removed
    if model["type"] == "Unigram":
        model["vocab"] = [[token + "\ue000" * (token in marks), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {token + "\ue000" * (token in marks): i for token, i in model["vocab"].items()}
        pairs = model.get("merges") or []
        model["merges"] = [pair for pair in pairs if "".join(pair) not in marks]
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    back = {library.token_to_id(token): i for token, i in numbers.items() if token not in removed}
    return lambda text: [back.get(i, i) for i in library.encode(text, add_special_tokens=False).ids]


TEXTS = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)


@given(any_tokenizer(), st.lists(TEXTS, min_size=8, max_size=8))
def test_special_tokens_are_text_unless_allowed(made, texts):
    one, plain = ours(made), without_special(made)
    words = {"!", "é", "ab", "🙂", "<think>"}
    marks = {i for token, i in one.special_tokens.items() if token not in words}
    for text in texts:
        ids = one.encode(text)
        assert ids == plain(text)
        assert marks.isdisjoint(ids)
        assert one.encode(text, allowed_special="all") == made.encode(text, add_special_tokens=False).ids
        assert b"".join(one.token_bytes(ids)) == one.decode_bytes(ids)


@given(any_tokenizer(), TEXTS)
def test_some_special_tokens_allowed(made, text):
    """What the library gives with the others removed from its added tokens."""
    one = ours(made)
    allowed = {token for i, token in enumerate(sorted(one.special_tokens)) if i % 2}
    content = json.loads(made.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in allowed
    plain = without_special(tokenizers.Tokenizer.from_str(json.dumps(content)))
    assert one.encode(text, allowed_special=allowed) == plain(text)


@given(TEXTS | st.text(), st.booleans())
def test_bytes_come_back(text, whole):
    made = byte_level(ignore_merges=whole)
    made.add_special_tokens([*MARKS, "!"])
    made.add_tokens([AddedToken("🙂", special=False), AddedToken("éé", special=False), AddedToken("<think>")])
    one, expected = ours(made), text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert one.decode_bytes(one.encode(text)) == expected.encode()
    assert one.decode_bytes(one.encode(text, allowed_special="all")) == expected.encode()
    spoken = ours(sentencepiece_like())
    assert spoken.decode_bytes(spoken.encode(text)) == expected.replace("▁", " ").encode()
    begun = [*spoken.encode("the"), *spoken.encode_text(text, continued=True)]
    assert spoken.decode_bytes(begun) == b"the" + expected.replace("▁", " ").encode()


@given(st.sampled_from([*KINDS]), st.lists(st.integers(0, 400), max_size=8))
def test_decoding_is_that_of_the_library(kind, ids):
    made = KINDS[kind]()
    one, known = ours(made), [i for i in ids if made.id_to_token(i) is not None]
    expected = made.decode(known, skip_special_tokens=False)
    if "\ufffd" not in expected:  # the library does not keep broken UTF-8
        assert one.decode(ids) == "".join(decode_stream(one, ids)) == expected


@pytest.mark.parametrize(
    ("splitter", "decoder", "text", "bare"),
    [
        (pre_tokenizers.Metaspace(), decoders.Metaspace(), "a b", ["a", "▁", "b"]),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel(), "a b", ["a", "Ġ", "b"]),
    ],
)
def test_continued_text_gets_no_space_in_front(splitter, decoder, text, bare):
    made = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "▁": 2, "Ġ": 3}, []))
    made.pre_tokenizer, made.decoder = splitter, decoder
    one = ours(made)
    assert [made.id_to_token(i) for i in one.encode_text(text, continued=True)] == bare
    assert (
        one.encode_text(text)
        == made.encode(text).ids
        == [made.token_to_id(bare[1]), *one.encode_text(text, continued=True)]
    )


@pytest.mark.parametrize(
    "step",
    [
        None,
        lambda bos, eos: processors.TemplateProcessing("<s> $A", special_tokens=[bos]),
        lambda bos, eos: processors.TemplateProcessing("<s> $A </s>", special_tokens=[bos, eos]),
        lambda bos, eos: processors.TemplateProcessing("$A <s>", special_tokens=[bos]),
        lambda bos, eos: processors.TemplateProcessing("$A", special_tokens=[]),
        lambda bos, eos: processors.RobertaProcessing(eos, bos),
        lambda bos, eos: processors.ByteLevel(),
        lambda bos, eos: processors.Sequence(
            [processors.ByteLevel(), processors.TemplateProcessing("<s> $A", special_tokens=[bos])]
        ),
    ],
)
def test_the_post_processor_says_whether_a_begin_token_is_wanted(step):
    made = byte_level()
    made.add_special_tokens(["<s>", "</s>"])
    begin, end = made.token_to_id("<s>"), made.token_to_id("</s>")
    if step is not None:
        made.post_processor = step(("<s>", begin), ("</s>", end))
    assert ours(made, bos_token="<s>").add_bos == (made.encode("a").ids[0] == begin)
    assert not ours(made, eos_token="</s>").add_bos


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "unigram", "word level"])
@pytest.mark.parametrize("unit", [" ", "a", "!", "é", "the "])
def test_long_runs(kind, unit):
    one = ours(KINDS[kind]())
    ids = one.encode(unit * 100_000)
    assert (ids or unit == " ") and ids[:50] == one.encode(unit * 1_000)[:50]


# Files that cannot be read


def write(content, path):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def nested(depth):
    return {
        "type": "Split",
        "pattern": {"Regex": "(" * depth + "a" + ")" * depth},
        "behavior": "Isolated",
        "invert": False,
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"type": "Nonsense", "vocab": {}}}, "library `tokenizers` reads"),
        ({"model": 7}, "damaged"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "library `tokenizers` reads"),
        ({"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}}, ""),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 9}}, "library `tokenizers` reads"),
        ({"pre_tokenizer": {"type": "Nonsense"}}, "library `tokenizers` reads"),
        ({"pre_tokenizer": nested(100_000)}, "library `tokenizers` reads"),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
            "library `tokenizers` reads",
        ),
        ({"added_tokens": [{}]}, "damaged"),
        ({"added_tokens": 7}, "damaged"),
        (
            {"decoder": {"type": "ByteLevel"}, "post_processor": {"type": "Nonsense"}},
            "library `tokenizers` reads",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(changes, why, tmp_path):
    path = write(json.loads(byte_level().to_str()) | changes, tmp_path / "tokenizer.json")
    with pytest.raises(UserError) as error:
        load_tokenizer(path)
    said = str(error.value)
    assert why in said and str(path) in said and said.endswith(".") and "\n" not in said and len(said) < 500


def test_an_added_token_of_the_vocabulary_has_its_id(tmp_path):
    made = byte_level()
    content = json.loads(made.to_str())
    content["added_tokens"] = [{"id": 7, "content": "x", "special": True} | FLAGS[0] | {"normalized": False}]
    one = load_tokenizer(write(content, tmp_path / "tokenizer.json"))
    assert one.special_tokens == {"x": made.token_to_id("x")} and one.decode(one.encode("xx")) == "xx"


def test_a_pattern_nested_a_thousand_deep(tmp_path):
    path = write(
        json.loads(byte_level().to_str()) | {"pre_tokenizer": nested(1_000)}, tmp_path / "tokenizer.json"
    )
    assert load_tokenizer(path).encode("a")


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"a": 1}', "\0\0", "[" * 100_000])
def test_other_json_is_refused(content, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(write(content, tmp_path / "tokenizer.json"))


def test_a_torn_file_is_refused_at_any_length(tmp_path):
    whole = byte_level().to_str()
    for percent in range(0, 100, 5):
        with pytest.raises(UserError):
            load_tokenizer(write(whole[: len(whole) * percent // 100], tmp_path / "tokenizer.json"))


def test_a_character_that_the_vocabulary_lacks(tmp_path):
    made = tokenizers.Tokenizer(models.Unigram([("a", -1.0)]))
    one = ours(made)
    with pytest.raises(UserError, match=r"^made\.json cannot encode this text: "):
        one.encode("ab")


def test_truncation_padding_and_dropout_are_off():
    made = byte_level(dropout=0.9)
    made.enable_truncation(3)
    made.enable_padding(length=9)
    random.seed(0)
    assert [ours(made).encode("the thethe")] * 5 == [
        ours(byte_level()).encode("the thethe") for _ in range(5)
    ]
