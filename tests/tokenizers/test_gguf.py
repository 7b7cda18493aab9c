"""Tokenizers out of GGUF values and written back as files, against other libraries."""

import json

import pytest

from myllm import load_tokenizer
from myllm.files import UserError
from myllm.tokenizers.chat import TEMPLATES
from myllm.tokenizers.export import save_tokenizer
from myllm.tokenizers.gguf import from_gguf
from myllm.tokenizers.jinja import to_jinja
from myllm.tokenizers.patterns import LLAMA3, SMOLLM2
from myllm.tokenizers.published import PublishedBPE
from myllm.tokenizers.ranks import byte_symbols

KEY = "tokenizer.ggml."
TEXTS = ["", " ", "a", "  two  spaces\n\n\tand 1999", "It's 東京 🙂 ü!", "<|im_end|> </s> [INST]", "x" * 40]


@pytest.fixture(scope="module")
def smollm2():
    import gzip

    from myllm.tokenizers.pretrained import ASSETS

    return json.loads(gzip.decompress((ASSETS / "smollm2_bpe.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def values(smollm2):
    """SmolLM2 as a GGUF file says it."""
    return {
        KEY + "model": "gpt2",
        KEY + "pre": "smollm",
        KEY + "tokens": smollm2["vocab"],
        KEY + "token_type": [3 if token in smollm2["special"] else 1 for token in smollm2["vocab"]],
        KEY + "merges": smollm2["merges"],
        KEY + "bos_token_id": 1,
        KEY + "eos_token_id": 2,
        KEY + "padding_token_id": 2,
        KEY + "add_bos_token": False,
        "tokenizer.chat_template": "{{'<|im_start|>system\nBe good<|im_end|>\n'}}",
    }


def test_smollm2_from_gguf_is_smollm2(values):
    found, known = from_gguf(values, "a"), load_tokenizer("smollm2")
    assert found.tokens == known.tokens and found.special_tokens == known.special_tokens
    assert (found.name, found.bos_id, found.eos_id, found.pad_id, found.add_bos) == ("a", 1, 2, 2, False)
    assert found.chat_template == values["tokenizer.chat_template"]
    for text in TEXTS:
        assert found.encode(text) == known.encode(text)


def test_sentencepiece_from_gguf_is_the_file_it_came_from():
    known = load_tokenizer("mistral")
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=known.model)
    kinds = {"is_unknown": 2, "is_control": 3, "is_byte": 6}
    ids = range(model.get_piece_size())
    values = {
        KEY + "model": "llama",
        KEY + "tokens": [model.id_to_piece(i) for i in ids],
        KEY + "scores": [model.get_score(i) for i in ids],
        KEY + "token_type": [
            next((kind for ask, kind in kinds.items() if getattr(model, ask)(i)), 1) for i in ids
        ],
        KEY + "bos_token_id": 1,
        KEY + "eos_token_id": 2,
        KEY + "unknown_token_id": 0,
    }
    found = from_gguf(values, "a")
    assert (found.bos_id, found.eos_id, found.pad_id, found.add_bos) == (1, 2, None, True)
    assert found.tokens == known.tokens and found.special_tokens == known.special_tokens
    for text in TEXTS:
        assert found.encode(text) == known.encode(text)
        assert found.encode_text(text, continued=True) == known.encode_text(text, continued=True)
        assert found.decode(found.encode(text)) == known.decode(known.encode(text))
    plain = from_gguf({**values, KEY + "add_space_prefix": False, KEY + "add_bos_token": False}, "a")
    assert not plain.add_bos and plain.encode("a b") == known.encode_text("a b", continued=True)


def test_llama3_takes_whole_words_and_a_begin_token():
    symbols = byte_symbols()
    values = {
        KEY + "model": "gpt2",
        KEY + "pre": "llama-bpe",
        KEY + "tokens": [*symbols, "abc", "<|begin_of_text|>"],
        KEY + "token_type": [1] * 257 + [3],
        KEY + "merges": [],
        KEY + "bos_token_id": 257,
    }
    found = from_gguf(values, "a")
    assert found.add_bos and found.pattern == LLAMA3 and found.encode("abc") == [256]
    assert found.encode("1234a", bos=True)[0] == 257


def test_no_tokenizer():
    assert from_gguf({"general.architecture": "llama"}, "a") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({KEY + "model": "bert"}, "kind 'bert'"),
        ({KEY + "model": 7}, "kind 7"),
        ({KEY + "pre": "tekken"}, "as 'tekken'"),
        ({KEY + "pre": None}, "as None"),
        ({KEY + "merges": ["nonsense"]}, "damaged"),
        ({KEY + "merges": ["Ġ t t"]}, "damaged"),
        ({KEY + "merges": 7}, "damaged"),
        ({KEY + "token_type": [1]}, "damaged"),
        ({KEY + "tokens": None}, "damaged"),
        ({KEY + "tokens": [1, 2]}, "damaged"),
        ({KEY + "eos_token_id": 10**9}, "damaged"),
        ({KEY + "eos_token_id": 100}, "not among the special tokens"),
        ({KEY + "model": "llama"}, "damaged"),
        ({KEY + "model": "llama", KEY + "scores": [0.0]}, "damaged"),
    ],
)
def test_damaged_values_are_one_sentence(values, changes, message):
    short = {**values, KEY + "tokens": values[KEY + "tokens"][:300], KEY + "merges": []}
    with pytest.raises(UserError, match=message) as raised:
        from_gguf({**short, **changes}, "a")
    assert "\n" not in str(raised.value)


def test_what_is_saved_is_read_by_the_library_tokenizers(tmp_path, values):
    from tokenizers import Tokenizer

    tokenizer = from_gguf(values, "a")
    tokenizer.add_bos = True
    save_tokenizer(tokenizer, tmp_path)
    theirs, back = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), load_tokenizer(tmp_path)
    for text in TEXTS:
        assert theirs.encode(text).ids == tokenizer.encode(text, bos=True, allowed_special="all")
        assert back.encode(text) == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(TEXTS[4])) == TEXTS[4]
    assert back.add_bos and back.tokens == tokenizer.tokens and back.chat_template == tokenizer.chat_template
    assert (back.bos_id, back.eos_id, back.pad_id) == (1, 2, 2)


@pytest.mark.parametrize("options", [{"normalize": "NFC"}, {"whole_words": True}, {"pattern": LLAMA3}, {}])
def test_every_setting_is_saved(tmp_path, options):
    from tokenizers import Tokenizer

    symbols = {symbol: i for i, symbol in enumerate(byte_symbols())}
    vocabulary = {**symbols, "aa": 256, "aaa": 257, "aaaa": 258, "ab": 259, "b": symbols["b"], "abcd": 260}
    merges = [("a", "a"), ("a", "aa"), ("aa", "aa"), ("aa", "a"), ("a", "b")]
    options = {"pattern": SMOLLM2, **options}
    tokenizer = PublishedBPE(vocabulary, merges, name="a", special_tokens={"<|e|>": 261}, **options)
    save_tokenizer(tokenizer, tmp_path)
    theirs, back = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), load_tokenizer(tmp_path)
    for text in [*TEXTS, "aaaaaaa aaab abcd 12345", "e\u0301 <|e|>"]:
        assert back.encode(text) == tokenizer.encode(text)
        assert theirs.encode(text).ids == tokenizer.encode(text, allowed_special="all")


def test_sentencepiece_is_saved_as_its_file(tmp_path):
    tokenizer = load_tokenizer("mistral")
    save_tokenizer(tokenizer, tmp_path)
    back = load_tokenizer(tmp_path)
    assert back.model == tokenizer.model and back.encode(TEXTS[3]) == tokenizer.encode(TEXTS[3])


def test_a_folder_whose_json_cannot_be_read_falls_back_on_sentencepiece(tmp_path):
    """As LLaMA-2, Mistral and Gemma are published: both files, and the chat format in the settings."""
    tokenizer = load_tokenizer("mistral")
    tokenizer.chat_template, tokenizer.add_bos = TEMPLATES["llama2"], False
    save_tokenizer(tokenizer, tmp_path)
    model = {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    back = load_tokenizer(tmp_path)
    assert back.encode(TEXTS[3]) == tokenizer.encode(TEXTS[3])
    assert back.chat_template == to_jinja(TEMPLATES["llama2"]) and back.add_bos is False
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match="no tokenizer's settings"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).add_bos is True
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="byte_fallback"):
        load_tokenizer(tmp_path)


def test_what_cannot_be_saved_says_so(tmp_path):
    with pytest.raises(UserError, match="gpt2 cannot be written"):
        save_tokenizer(load_tokenizer("gpt2"), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({"add_bos_token": True}, None, True),
        ({"add_bos_token": False}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}]}, False),
        ({}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}, {"Sequence": {}}]}, True),
        ({}, {"type": "TemplateProcessing", "single": [{"Sequence": {}}]}, False),
        (
            {},
            {
                "type": "Sequence",
                "processors": [
                    {"type": "ByteLevel"},
                    {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}]},
                ],
            },
            True,
        ),
        ({}, {"type": "ByteLevel"}, False),
        ({}, None, False),
    ],
)
def test_whether_a_begin_token_is_wanted(tmp_path, settings, steps, expected):
    symbols = {symbol: i for i, symbol in enumerate(byte_symbols())}
    tokenizer = PublishedBPE(symbols, [], pattern=SMOLLM2, name="a", special_tokens={"<s>": 256}, bos="<s>")
    save_tokenizer(tokenizer, tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "post_processor": steps}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", **settings}))
    (tmp_path / "chat_template.jinja").write_text("<|im_start|><|im_end|>")
    found = load_tokenizer(tmp_path)
    assert found.add_bos == expected and found.chat_template == "<|im_start|><|im_end|>"
