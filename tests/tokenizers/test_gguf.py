"""Tokenizers from GGUF values: ids of the vocabularies they come from, types, roles, what is refused."""

import io
import json
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer

from myllm import load_tokenizer
from myllm.files import UserError
from myllm.tokenizers.gguf import KEY, from_gguf
from myllm.tokenizers.pretrained import ASSETS, save_tokenizer
from myllm.tokenizers.ranks import byte_symbols

TEXTS = ["", " ", "a", "  two  spaces\n\n\tand 1999", "It's 東京 🙂 ü!", "<|im_end|> </s> [INST]", "x" * 40]
JINJA = "{{ messages }}"
WORDS = [
    "the",
    " ",
    "  ",
    "naïve",
    "東",
    "🙂",
    "\n",
    "1999",
    "</s>",
    "<unk>",
    "▁",
    "<0x41>",
    "It's",
    "====",
    "\t",
    "a",
]
FUZZ = st.lists(st.sampled_from(WORDS) | st.characters(exclude_categories=["Cs", "Cn"]), max_size=8).map(
    "".join
)


def gguf(**values: Any) -> Any:
    template = {"tokenizer.chat_template": values.pop("chat_template")} if "chat_template" in values else {}
    return from_gguf({KEY + key: value for key, value in values.items()} | template, "a.gguf")


@pytest.fixture(scope="module")
def smollm2() -> dict[str, Any]:
    """SmolLM2 as a GGUF file describes it."""
    fields = json.loads((ASSETS / "smollm2" / "tokenizer.json").read_text("utf-8"))
    special = {token["content"] for token in fields["added_tokens"]}
    tokens = [*fields["model"]["vocab"]]
    return {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": np.array([3 if token in special else 1 for token in tokens]),
        "merges": fields["model"]["merges"],
        "bos_token_id": np.uint32(1),
        "eos_token_id": 2,
        "padding_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": False,
    }


def described(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """A SentencePiece model as a GGUF file describes it."""
    ids = range(model.get_piece_size())
    kinds = {"is_unknown": 2, "is_control": 3, "is_unused": 5, "is_byte": 6}
    types = [next((kind for asked, kind in kinds.items() if getattr(model, asked)(i)), 1) for i in ids]
    return {
        "model": "llama",
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": np.array([model.get_score(i) for i in ids], np.float32),
        "token_type": types,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


@pytest.fixture(scope="module")
def mistral() -> dict[str, Any]:
    return described(
        sentencepiece.SentencePieceProcessor(model_file=str(ASSETS / "mistral" / "tokenizer.model"))
    )


@pytest.mark.slow
def test_smollm2(smollm2: dict[str, Any], tmp_path):
    found, known = gguf(**smollm2, chat_template=JINJA), load_tokenizer("smollm2")
    assert found.special_tokens == known.special_tokens and found.vocab_size == known.vocab_size
    assert (found.name, found.bos_id, found.eos_id, found.pad_id, found.add_bos) == ("a.gguf", 1, 2, 2, False)
    assert found.chat_template == JINJA and found.end_ids == {2}
    for text in TEXTS:
        assert found.encode(text) == known.encode(text)
    save_tokenizer(found, tmp_path)
    back, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert back.encode(text) == found.encode(text)
        assert theirs.encode(text) == found.encode(text, allowed_special="all")
    assert (back.bos_id, back.eos_id, back.pad_id, back.add_bos, back.chat_template) == (
        1,
        2,
        2,
        False,
        JINJA,
    )
    assert theirs.eos_token_id == 2 and theirs.chat_template == JINJA


@pytest.mark.slow
def test_sentencepiece(mistral: dict[str, Any], tmp_path):
    found, known = gguf(**mistral), load_tokenizer("mistral")
    assert (found.bos_id, found.eos_id, found.pad_id, found.add_bos) == (1, 2, None, True)
    assert found.special_tokens == known.special_tokens
    for i in range(found.vocab_size):
        if i not in found.special_tokens.values():
            assert found.decode_bytes([i]) == known.decode_bytes([i])
            assert found.decode_bytes([300, i]) == known.decode_bytes([300, i])
    plain = gguf(**mistral | {"add_space_prefix": False, "add_bos_token": False})
    assert not plain.add_bos

    @given(st.lists(FUZZ, min_size=10, max_size=10))
    def equal(texts: list[str]):
        for text in [*TEXTS, *texts]:
            assert found.encode(text) == known.encode(text)
            assert found.encode_text(text, continued=True) == known.encode_text(text, continued=True)
            assert plain.encode(text) == known.encode_text(text, continued=True)
            assert found.decode_bytes(found.encode(text)) == known.decode_bytes(known.encode(text))

    equal()
    save_tokenizer(found, tmp_path)
    back, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the sea", "naïve 東京"):
        assert theirs.encode(text) == [1, *found.encode(text)] == back.encode(text, bos=back.add_bos)


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("fallback", [True, False])
def test_small_sentencepiece_models(prefix: bool, fallback: bool, corpora: dict[str, str]):
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpora["sotu"][:40_000].split(". ")),
        model_writer=made,
        minloglevel=2,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=fallback,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    found = gguf(**described(theirs) | {"add_space_prefix": prefix})
    for text in [*TEXTS, corpora["kjv"][:3_000], "the 東京京東 sea"]:
        assert found.encode(text) == theirs.encode(text)


@pytest.mark.parametrize(
    ("pre", "pattern"),
    [
        ("gpt-2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        (
            "qwen2",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ],
)
def test_how_text_is_cut(pre: str, pattern: str):
    """Every two letters of one chunk merge, so the ids show where chunks end."""
    symbols = byte_symbols()
    merges = [(a, b) for a in symbols for b in symbols if len({a, b} - set("aĠ1.'s\u010a")) == 0]
    theirs = tokenizers.Tokenizer(
        models.BPE({t: i for i, t in enumerate([*symbols, *(a + b for a, b in merges)])}, merges)
    )
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, cut])
    tokens = [*symbols, *(a + b for a, b in merges)]
    found = gguf(model="gpt2", pre=pre, tokens=tokens, merges=[f"{a} {b}" for a, b in merges])
    for text in ("a's 11 a.a\n\n a", "  aa  .. 1'S", " \n a1a"):
        assert found.encode(text) == theirs.encode(text).ids


def test_llama3_takes_whole_words_and_a_begin_token():
    tokens = [*byte_symbols(), "abc", "<|begin_of_text|>"]
    types = [1] * 257 + [3]
    found = gguf(model="gpt2", pre="llama-bpe", tokens=tokens, token_type=types, merges=[], bos_token_id=257)
    assert found.add_bos and found.encode("abc") == [256]
    assert found.encode("1234a", bos=True)[0] == 257


def test_types_of_tokens(tmp_path):
    tokens = [*byte_symbols(), "<|control|>", "<think>", "[PAD258]", "<|eot|>", "<|end|>", "<|im_end|>"]
    types = [1] * 256 + [3, 4, 5, 3, 3, 1]
    ends = {"eot_token_id": 259, "eom_token_id": 260, "eos_token_id": 261}
    found = gguf(model="gpt2", tokens=tokens, token_type=types, merges=[], **ends, padding_token_id=0)
    assert found.encode("<think>") == [257] and 256 not in found.encode("<|control|>")
    assert found.encode("<|control|>", allowed_special="all") == [256]
    assert found.end_ids == {259, 260, 261} and (found.eos_id, found.pad_id) == (261, 0)
    assert found.special_tokens == {tokens[i]: i for i in (0, 256, 259, 260, 261)}
    assert found.decode([257, 258, 300]) == "<think>[PAD258]"
    save_tokenizer(found, tmp_path)
    back = load_tokenizer(tmp_path)
    assert back.end_ids == found.end_ids and back.special_tokens == found.special_tokens
    none = gguf(model="gpt2", tokens=tokens, merges=[], eos_token_id=-1, bos_token_id=np.uint32(2**32 - 1))
    assert none.eos_id is None and none.bos_id is None and none.end_ids == frozenset()


def test_roles_by_number(mistral: dict[str, Any]):
    more = {
        "tokens": [
            *mistral["tokens"][:1],
            "<|startoftext|>",
            "<|endoftext|>",
            *mistral["tokens"][3:],
            "<|im_end|>",
        ],
        "scores": np.append(mistral["scores"], 0),
        "token_type": [*mistral["token_type"], 3],
    }
    found = gguf(**mistral | more | {"eos_token_id": 32_000, "padding_token_id": 0, "eot_token_id": 2})
    assert (found.bos_id, found.eos_id, found.pad_id, found.end_ids) == (1, 32_000, 0, {2, 32_000})
    assert found.encode("hi", bos=found.add_bos)[0] == 1
    assert 32_000 not in found.encode("a <|im_end|>") and "<|startoftext|>" in found.special_tokens


def test_marks_among_user_defined_pieces_are_text(mistral: dict[str, Any]):
    more = {
        "tokens": [*mistral["tokens"], "<start_of_turn>", "\n\n"],
        "scores": np.append(mistral["scores"], [0, 0]),
        "token_type": [*mistral["token_type"], 4, 4],
    }
    found = gguf(**mistral | more)
    assert 32_000 not in found.encode("a <start_of_turn>") and 32_001 in found.encode("a\n\nb")
    assert 32_000 in found.encode("a <start_of_turn>", allowed_special="all")


def test_no_tokenizer():
    assert from_gguf({"general.architecture": "llama"}, "a") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "rwkv"}, "kind 'rwkv'; known are gpt2, llama"),
        ({"model": 7}, "kind '7'"),
        ({"model": [7]}, "kind"),
        ({"pre": "tekken"}, "as 'tekken', which is not known; known are gpt-2"),
        ({"merges": ["nonsense"]}, "library `tokenizers` reads"),
        ({"merges": ["Ġ t t"]}, "library `tokenizers` reads"),
        ({"merges": 7}, "damaged"),
        ({"token_type": [1]}, "damaged"),
        ({"token_type": None}, "damaged"),
        ({"tokens": None}, "damaged"),
        ({"tokens": [1, 2]}, "damaged"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "the token 'a' is listed twice"),
        ({"eos_token_id": 10**9}, "damaged"),
        ({"eos_token_id": -2}, "damaged"),
        ({"eos_token_id": "x"}, "damaged"),
        ({"eot_token_id": 10**9}, "damaged"),
        ({"model": "llama"}, "damaged"),
        ({"model": "bert"}, "kind 'bert'; known are"),
        ({"model": "llama", "scores": [0.0]}, "damaged"),
    ],
)
def test_damaged_values_are_one_sentence(smollm2: dict[str, Any], changes: dict[str, Any], message: str):
    short = {"tokens": smollm2["tokens"][:300], "token_type": smollm2["token_type"][:300], "merges": []}
    with pytest.raises(UserError, match=message) as raised:
        gguf(**smollm2 | short | changes)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("a.gguf ")
