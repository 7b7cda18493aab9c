"""Tokenizers by path: `tokenizer.json`, SentencePiece models, our own files, folders, and what is refused."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers

from myllm import BPE, load_tokenizer
from myllm.files import UserError, sha256
from myllm.tokenizers.patterns import GPT2, GPT4
from myllm.tokenizers.pretrained import ASSETS, decode_stream

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUT = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPLITTERS = {
    "gpt2": BYTE_LEVEL,
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
    "gpt4": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), CUT]),
}
TEXTS = st.text(
    st.sampled_from("abcde theorm 012'\n<|>é東\u0301▁") | st.characters(exclude_categories=["Cs", "Cn"])
)


def trained(splitter: Any, corpora: dict[str, str], **changes: Any) -> dict[str, Any]:
    """The content of a `tokenizer.json` that the library `tokenizers` trained."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpora["sotu"][:60_000]], trainer)
    return json.loads(tokenizer.to_str()) | changes


def write(content: Any, folder: Path, name: str = "tokenizer.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(content), "utf-8")
    return path


def original(path: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


# tokenizer.json


@pytest.mark.parametrize("kind", SPLITTERS)
def test_tokenizer_json_gives_the_ids_of_its_library(kind: str, corpora: dict[str, str], tmp_path: Path):
    path = write(trained(SPLITTERS[kind], corpora), tmp_path / "little")
    ours, theirs = load_tokenizer(path), original(path)
    assert (ours.name, ours.vocab_size, ours.eos_id) == ("little", 700, 0)
    assert ours.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    text = corpora["shakespeare"][:20_000]
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.decode(ours.encode(text)) == text

    @settings(max_examples=100, derandomize=True, deadline=None)
    @given(st.lists(TEXTS, min_size=10, max_size=10))
    def equal(texts: list[str]):
        assert [ours.encode(text) for text in texts] == [one.ids for one in theirs.encode_batch(texts)]
        assert ["".join(decode_stream(ours, ours.encode(text))) for text in texts] == texts

    equal()
    marked = "<|im_start|>a<|im_end|>"
    assert (
        ours.encode(marked, allowed_special="all")
        == tokenizers.Tokenizer.from_file(str(path)).encode(marked).ids
    )


@st.composite
def any_model(draw: st.DrawFn) -> dict[str, Any]:
    """Merges that nobody learned, some with the same result, and ids in any order with holes."""
    known, merges = ["a", "b"], []
    for _ in range(draw(st.integers(0, 16))):
        pair = draw(st.tuples(st.sampled_from(known), st.sampled_from(known)))
        if pair not in merges and len("".join(pair)) < 5:
            merges.append(pair)
            known.append("".join(pair))
    tokens = sorted({*known})
    ids = draw(st.permutations(range(len(tokens) + 3)))
    vocab = dict(zip(tokens, ids, strict=False))
    return {"vocab": vocab, "merges": merges, "ignore_merges": draw(st.booleans())}


@settings(max_examples=150, derandomize=True, deadline=None)
@given(any_model(), st.lists(st.text("ab d", max_size=12), min_size=10, max_size=10))
def test_any_merges_and_any_ids(model: dict[str, Any], texts: list[str]):
    """Also without most bytes, and where two merges make the same token."""
    theirs = tokenizers.Tokenizer(models.BPE(**model))
    theirs.pre_tokenizer = BYTE_LEVEL
    ours = PublishedBPE(
        model["vocab"],
        model["merges"],
        pattern=GPT2,
        name="any",
        special_tokens={},
        whole_words=model["ignore_merges"],
    )
    assert [ours.encode(text) for text in texts] == [one.ids for one in theirs.encode_batch(texts)]
    for text in texts:
        assert ours.decode(ours.encode(text)) == text.replace("d", "").replace(" ", "")


def test_twins_are_one_token():
    """Two merges make "abc", the second after the merges that go on from it."""
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("abc", "d"), ("e", "abc"), ("a", "bc")]
    tokens = ["a", "b", "c", "d", "e", "bc", "ab", "abc", "abcd", "eabc"]
    vocab = {token: i for i, token in enumerate(tokens)}
    ours = PublishedBPE(vocab, merges, pattern=GPT2, name="twins", special_tokens={})
    theirs = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    for text in ("abcd", "abc", "eabc", "eabcd", "abcabcd"):
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode("abcd") == [vocab["abcd"]]


@pytest.mark.parametrize(("whole_words", "ids"), [(False, [2, 1]), (True, [4])])
def test_whole_words_need_no_merges(whole_words: bool, ids: list[int]):
    merges = [("a", "a"), ("a", "b"), ("a", "ab")]
    vocab = {"a": 0, "b": 1, "aa": 2, "ab": 3, "aab": 4}
    theirs = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole_words))
    ours = PublishedBPE(vocab, merges, pattern=GPT2, name="any", special_tokens={}, whole_words=whole_words)
    assert ours.encode("aab") == theirs.encode("aab").ids == ids


def test_unicode_form_c(corpora: dict[str, str], tmp_path: Path):
    content = trained(BYTE_LEVEL, corpora)
    path = write(content | {"normalizer": {"type": "NFC"}}, tmp_path)
    text = "cafe\u0301 \u1100\u1161 <|im_start|>"
    assert load_tokenizer(path).encode(text) == original(path).encode(text).ids
    assert load_tokenizer(path).decode(load_tokenizer(path).encode(text)) == "café 가 <|im_start|>"


def test_settings_beside_the_file_name_the_parts(corpora: dict[str, str], tmp_path: Path):
    write(trained(BYTE_LEVEL, corpora), tmp_path)
    said = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|im_start|>"}
    write(said, tmp_path, "tokenizer_config.json")
    one = load_tokenizer(tmp_path)
    assert (one.bos_id, one.eos_id, one.pad_id) == (0, 2, 1)
    write({"eos_token": "<|nope|>"}, tmp_path, "tokenizer_config.json")
    with pytest.raises(UserError, match=r"eos token '<\|nope\|>' is not among the special tokens"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not a tokenizer's settings"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "holds a WordPiece tokenizer; only byte-level BPE"),
        ({"model": {"type": "Unigram", "vocab": []}}, "holds a Unigram tokenizer; only byte-level BPE"),
        ({"pre_tokenizer": None}, "cuts text in a way that cannot be read"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "cuts text in a way that cannot be read"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "cuts text in a way"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, "cuts text in a way that cannot"),
        (
            {"pre_tokenizer": {"pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}},
            "cuts text in",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "changes text by Lowercase first; only NFC"),
        (
            {"added_tokens": [{"id": 5, "content": "  ", "special": False}]},
            "adds '  ' to its tokens as plain",
        ),
        ({"added_tokens": [{}]}, "is a damaged tokenizer file; copy it again"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}, "is a damaged tokenizer file"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "merge whose result is no token"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "unk_token": "?"}}, "it sets unk_token, which"),
        (
            {"model": {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True}},
            "it sets byte_fallback",
        ),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}, "is a damaged tokenizer"),
        ({"model": 7}, "is a damaged tokenizer file"),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], why: str, corpora, tmp_path: Path):
    path = write(trained(BYTE_LEVEL, corpora, **changes), tmp_path)
    with pytest.raises(UserError) as error:
        load_tokenizer(path)
    assert why in str(error.value) and str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"a": 1}', "\0\0", "[" * 100_000])
def test_other_json_is_refused(content: str, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(path)


def test_a_torn_tokenizer_json_is_refused_at_any_length(corpora: dict[str, str], tmp_path: Path):
    whole = json.dumps(trained(BYTE_LEVEL, corpora))
    path = tmp_path / "tokenizer.json"
    for percent in range(0, 100, 5):
        path.write_text(whole[: len(whole) * percent // 100])
        with pytest.raises(UserError):
            load_tokenizer(path)


def test_a_published_tokenizer_is_not_saved_under_other_ids(corpora: dict[str, str], tmp_path: Path):
    one = load_tokenizer(write(trained(BYTE_LEVEL, corpora), tmp_path))
    with pytest.raises(UserError, match=r"copy its file to x\.json instead"):
        one.save("x.json")
    with pytest.raises(UserError, match="as tiktoken needs them"):
        one.to_tiktoken()


# SentencePiece models


def model(corpora: dict[str, str], path: Path, **options: Any) -> Path:
    """A SentencePiece model trained here."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpora["sotu"][:40_000].split(". ")),
        model_writer=made,
        minloglevel=2,
        **{"vocab_size": 600, "model_type": "bpe", "byte_fallback": True, **options},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.getvalue())
    return path


LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
HARD = ["", " ", "  a", "a  ", "The people, 1999.", "東京 🙂\n\n", "<s>[INST]", "\0", "naïve"]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_models_give_the_ids_of_their_library(kind: str, prefix: bool, corpora, tmp_path: Path):
    path = model(corpora, tmp_path / "own.model", model_type=kind, add_dummy_prefix=prefix, **LLAMA)
    ours, theirs = load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert (ours.name, ours.vocab_size, ours.bos_id, ours.eos_id, ours.pad_id) == ("own", 600, 1, 2, None)
    for text in [*HARD, corpora["kjv"][:3_000]]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text) and ours.decode(ids) == theirs.decode(ids) == text
        assert "".join(decode_stream(ours, ids)) == text
        spoken = [*ours.encode("So"), *ours.encode_text(text, continued=True)]
        assert ours.decode(spoken) == "So" + text


def test_user_defined_marks_are_text_unless_allowed(corpora: dict[str, str], tmp_path: Path):
    """SentencePiece itself finds a user-defined symbol in any text; ours does so only where it is allowed."""
    marks = ["<start_of_turn>", "<end_of_turn>", "[INST]", "<|im_start|>"]
    path = model(corpora, tmp_path / "m.model", user_defined_symbols=[*marks, "\n\n"], pad_id=3, **LLAMA)
    ours, theirs = load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert {*ours.special_tokens} == {"<unk>", "<s>", "</s>", "<pad>", *marks} and ours.pad_id == 3
    for mark in marks:
        i = theirs.piece_to_id(mark)
        assert ours.special_tokens[mark] == i and i in theirs.encode(f"a {mark} b")
        ids = ours.encode(f"a {mark} b")
        assert i not in ids and ours.decode(ids) == f"a {mark} b"
        ids = ours.encode(f"a{mark}b", allowed_special=[mark])
        assert ids == [*ours.encode("a"), i, *ours.encode("b")]
        assert ours.decode(ids) == f"a{mark}b"
    assert ours.encode("a\n\nb") == theirs.encode("a\n\nb")  # other such symbols stay what they are
    assert theirs.piece_to_id("\n\n") in ours.encode("a\n\nb")


def test_a_model_that_lacks_bytes_says_so_in_the_text(corpora: dict[str, str], tmp_path: Path):
    path = model(corpora, tmp_path / "m.model", byte_fallback=False, **LLAMA)
    ours = load_tokenizer(path)
    assert ours.special_tokens["<unk>"] in ours.encode("a 東 b")
    assert "<unk>" in ours.decode(ours.encode("a 東 b"))


def test_a_torn_model_is_refused(tmp_path: Path):
    whole = (ASSETS / "mistral_v1_sp.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    for data in (b"", b"no model", b"\0" * 100, whole[:1000], whole[: len(whole) // 2], whole[:-1000]):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=r"tokenizer\.model is no whole SentencePiece model; copy it again\.$"
        ):
            load_tokenizer(path)


# Our own files and folders


def test_our_own_file(tmp_path: Path):
    bpe = BPE.train("the theatre, then the other " * 9, 265, special_tokens=["<|endoftext|>"])
    bpe.save(tmp_path / "own.json")
    one = load_tokenizer(tmp_path / "own.json")
    assert isinstance(one, BPE) and one.encode("the other") == bpe.encode("the other")
    assert load_tokenizer(str(tmp_path / "own.json")).special_tokens == bpe.special_tokens
    bpe.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).encode("then") == bpe.encode("then")


def test_folders(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds neither tokenizer\.json nor tokenizer\.model\.$"):
        load_tokenizer(tmp_path)
    shutil.copy(ASSETS / "mistral_v1_sp.model", tmp_path / "tokenizer.model")
    assert load_tokenizer(tmp_path).encode("Hello") == load_tokenizer("mistral").encode("Hello")


def test_a_name_goes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert load_tokenizer("gpt2").vocab_size == 50_257
    with pytest.raises(UserError, match="holds neither"):
        load_tokenizer("./gpt2")


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt is no tokenizer; name a \.json or \.model file"):
        load_tokenizer(tmp_path / "notes.txt")


# What comes with the package


def test_every_vocabulary_stands_in_the_attribution_with_its_checksum():
    rows = (ASSETS / "ATTRIBUTION.md").read_text("utf-8").splitlines()
    listed = {row.split("|")[1].strip(): row for row in rows if row.startswith("| ") and "`" in row}
    files = {path.relative_to(ASSETS).as_posix(): path for path in ASSETS.rglob("*") if path.is_file()}
    del files["ATTRIBUTION.md"]
    assert files.keys() == listed.keys()
    for name, path in files.items():
        assert f"`{sha256(path)}`" in listed[name]
    assert sum(path.stat().st_size for path in files.values()) < 2_500_000
