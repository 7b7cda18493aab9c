"""Tokenizers by path: folders that `transformers` writes and reads, SentencePiece models, our own files."""

import io
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from myllm import BPE, load_tokenizer
from myllm.files import UserError, sha256
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import TEMPLATES
from myllm.tokenizers.huggingface import HuggingFaceTokenizer
from myllm.tokenizers.patterns import GPT2, GPT4
from myllm.tokenizers.pretrained import ASSETS, decode_stream, save_tokenizer

HARD = [
    "",
    " ",
    "  a",
    "a  ",
    "The people, 1999.",
    "東京 🙂\n\n",
    "<s>[INST]",
    "\0",
    "naïve",
    "<|im_end|> <think>!",
]
JINJA = "{{ bos_token }}{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"


def write(content: Any, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


@pytest.fixture(scope="module")
def library(corpora: dict[str, str]) -> tokenizers.Tokenizer:
    """A byte-level BPE with special and other added tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([corpora["sotu"][:40_000]], trainer)
    made.add_tokens([AddedToken("<think>", special=False, normalized=False, lstrip=True)])
    return made


def same(ours: Tokenizer, theirs: Any) -> None:
    """The ids with and without special tokens, the roles and the template are those of `transformers`."""
    for text in HARD:
        assert ours.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False)
        plain = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == plain
    assert ours.bos_id == theirs.bos_token_id and ours.eos_id == theirs.eos_token_id
    assert ours.pad_id == theirs.pad_token_id
    assert ours.add_bos == (ours.bos_id is not None and theirs.encode("a")[0] == ours.bos_id)
    assert ours.chat_template == theirs.chat_template
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1


def saved_again(ours: Tokenizer, folder: Path) -> Tokenizer:
    folder.mkdir()
    save_tokenizer(ours, folder)
    back = load_tokenizer(folder)
    for text in HARD:
        assert back.encode(text) == ours.encode(text)
        assert back.encode(text, allowed_special="all") == ours.encode(text, allowed_special="all")
    for fact in ("bos_id", "eos_id", "pad_id", "add_bos", "special_tokens", "vocab_size", "end_ids"):
        assert getattr(back, fact) == getattr(ours, fact), fact
    return back


# Folders that `transformers` wrote


@pytest.mark.parametrize(
    "roles",
    [
        {},
        {"eos_token": "<|im_end|>"},
        {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        {"pad_token": "!", "eos_token": "<|endoftext|>"},  # a word of the model
        {"eos_token": "<eos>", "pad_token": "[PAD]"},  # which the vocabulary lacks
        {"bos_token": AddedToken("<bos>", lstrip=True, special=True), "extra_special_tokens": ["<x>", "the"]},
        {"eos_token": "<think>"},
    ],
    ids=str,
)
@pytest.mark.parametrize("begin", [False, True])
def test_folders_that_transformers_wrote(roles, begin, library, tmp_path: Path):
    made = tokenizers.Tokenizer.from_str(library.to_str())
    if begin:
        step = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
        made.post_processor = step
    theirs = PreTrainedTokenizerFast(tokenizer_object=made, **roles)
    theirs.chat_template = JINJA if begin else None
    theirs.save_pretrained(tmp_path / "a")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "a"), load_tokenizer(tmp_path / "a")
    assert isinstance(ours, HuggingFaceTokenizer) and ours.name == "a"
    same(ours, theirs)
    saved_again(ours, tmp_path / "b")
    same(load_tokenizer(tmp_path / "b"), AutoTokenizer.from_pretrained(tmp_path / "b"))


THINK = {"content": "<think>", "lstrip": False, "rstrip": True, "normalized": False, "special": False}
NEW = {"501": {"content": "<new>", "special": True}, "502": {"content": "ab c"}}


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map.json": {"eos_token": "<|im_end|>", "bos_token": {"content": "<|endoftext|>"}}},
        {
            "tokenizer_config.json": {"eos_token": "<|endoftext|>", "pad_token": "<|im_end|>"},
            "special_tokens_map.json": {"eos_token": "<|im_end|>", "pad_token": "<pad>"},
        },
        {
            "tokenizer_config.json": {"eos_token": "<|endoftext|>", "added_tokens_decoder": {"500": THINK}},
            "special_tokens_map.json": {"eos_token": "<|im_end|>"},
        },
        {"tokenizer_config.json": {"eos_token": "<|im_end|>", "added_tokens_decoder": NEW}},
        {
            "tokenizer_config.json": {"eos_token": "<|im_end|>", "chat_template": JINJA},
            "chat_template.jinja": "x",
        },
        {
            "tokenizer_config.json": {
                "eos_token": None,
                "pad_token": "<|endoftext|>",
                "additional_special_tokens": ["<t>", "<|im_start|>"],
            },
            "added_tokens.json": {"<t>": 501},
        },
    ],
    ids=str,
)
def test_folders_with_older_and_other_files(files, library, tmp_path: Path):
    write(library.to_str(), tmp_path / "a", "tokenizer.json")
    for name, content in files.items():
        write(content, tmp_path / "a", name)
    ours = load_tokenizer(tmp_path / "a")
    same(ours, PreTrainedTokenizerFast.from_pretrained(tmp_path / "a"))
    saved_again(ours, tmp_path / "b")
    for name in ("tokenizer.json", *files):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_several_templates(library, tmp_path: Path):
    write(library.to_str(), tmp_path, "tokenizer.json")
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": JINJA}]
    write({"chat_template": named}, tmp_path, "tokenizer_config.json")
    assert load_tokenizer(tmp_path).chat_template == JINJA
    write({"chat_template": named[:1]}, tmp_path, "tokenizer_config.json")
    assert load_tokenizer(tmp_path).chat_template is None


def test_without_settings_the_usual_names_have_the_roles(library, tmp_path: Path):
    write(library.to_str(), tmp_path, "tokenizer.json")
    one = load_tokenizer(tmp_path)
    assert (one.bos_id, one.eos_id, one.pad_id, one.end_ids) == (0, 0, None, {0})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("tokenizer_config.json", text)
            for text in ("{", "[]", "7", '{"added_tokens_decoder": {"x": {}}}')
        ),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {}}}'),
        ("tokenizer_config.json", '{"eos_token": {}}'),
        ("tokenizer_config.json", '{"chat_template": [7]}'),
        ("special_tokens_map.json", "[]"),
        ("added_tokens.json", '{"a": []}'),
        ("added_tokens.json", "{"),
    ],
)
def test_damaged_settings_are_one_sentence(name: str, content: str, library, tmp_path: Path):
    write(library.to_str(), tmp_path, "tokenizer.json")
    write(content, tmp_path, name)
    with pytest.raises(UserError, match=r"\.json is ") as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_gpt2_is_saved_and_read_as_it_was_published(tmp_path: Path):
    ours, folder = load_tokenizer("gpt2"), tmp_path / "gpt2"
    back = saved_again(ours, folder)
    assert {path.name for path in folder.iterdir()} == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in HARD:
        assert theirs.encode(text) == back.encode(text, allowed_special="all")
    write({"tokenizer_class": "Qwen2Tokenizer"}, folder, "tokenizer_config.json")
    with pytest.raises(UserError, match=r"Qwen2Tokenizer without its tokenizer\.json"):
        load_tokenizer(folder)


def test_smollm2_is_saved_for_others(tmp_path: Path):
    back = saved_again(load_tokenizer("smollm2"), tmp_path / "a")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a")
    same(back, theirs)
    written = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert written.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by ")
    assert back.chat_template == TEMPLATES["smollm2"]


def test_mistral_is_saved_as_its_file(tmp_path: Path):
    back = saved_again(load_tokenizer("mistral"), tmp_path / "a")
    saved = (tmp_path / "a" / "tokenizer.model").read_bytes()
    assert saved == (ASSETS / "mistral" / "tokenizer.model").read_bytes()
    messages = [("system", "S"), ("user", "u"), ("assistant", "a"), ("user", "v")]
    rendered, _ = render_jinja_template(
        [[{"role": role, "content": content} for role, content in messages]],
        chat_template=str(back.chat_template),
        bos_token="<s>",
        eos_token="</s>",
    )
    assert rendered == ["<s>[INST] S\n\nu [/INST] a</s>[INST] v [/INST]"]


def test_saving_replaces_the_files_of_another_tokenizer(library, tmp_path: Path):
    write(library.to_str(), tmp_path, "tokenizer.json")
    write({"eos_token": "<|im_end|>"}, tmp_path, "special_tokens_map.json")
    ours = load_tokenizer("mistral")
    save_tokenizer(ours, tmp_path)
    assert load_tokenizer(tmp_path).encode("a b") == ours.encode("a b")
    own = BPE.train("the theatre, then the other " * 9, 265)
    save_tokenizer(own, tmp_path)
    assert load_tokenizer(tmp_path).encode("the other") == own.encode("the other")
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


OWN = {
    "plain": {},
    "an end": {"special_tokens": ["<|endoftext|>"]},
    "roles": {"special_tokens": ["<s>", "stop it", "<|pad|>", "ü <x>", "停"], "eos": "stop it"},
    "another split": {"special_tokens": ["<|im_end|>"], "pattern": GPT4},
}


@pytest.mark.parametrize("options", OWN.values(), ids=OWN)
def test_a_bpe_of_ours_is_read_by_others_and_comes_back(
    options: Any, corpora: dict[str, str], tmp_path: Path
):
    merges = BPE.train(corpora["sotu"][:40_000], 500, pattern=options.get("pattern", GPT2)).merges
    own = BPE(merges, **options)
    own.chat_template = JINJA
    back = saved_again(own, tmp_path / "a")
    assert type(back) is BPE and back.pattern == own.pattern and back.merges == own.merges
    assert back.roles() == own.roles() and back.chat_template == JINJA
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a")
    same(own, theirs)
    for text in (corpora["sotu"][-20_000:], *corpora.values()):
        assert theirs.encode(text[:20_000], add_special_tokens=False) == own.encode(text[:20_000])
    text = "".join(own.special_tokens) + "naïve 東京\n"
    assert theirs.decode(own.encode(text, allowed_special="all")) == text


@pytest.mark.parametrize(
    "own",
    [
        BPE([(97, 98), (98, 99), (256, 99), (97, 257)], name="twice"),
        BPE([(97, 98)], pattern=r"\w+|\W+", name="words of another library"),
        BPE([(97, 98)], special_tokens=["ab", "<x>"], name="a word"),
        BPE([(97, 98)], special_tokens=["ü"], name="a byte"),
        BPE([(97, 98)], special_tokens=["«stop»"], name="bytes"),
    ],
    ids=lambda own: own.name,
)
def test_what_others_cannot_express_is_saved_as_ours(own: BPE, tmp_path: Path):
    own.chat_template = JINJA
    back = saved_again(own, tmp_path / "a")
    assert type(back) is BPE and back.merges == own.merges and back.name == own.name
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"tokenizer.json", "chat_template.jinja"}
    assert back.chat_template == JINJA


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda x: x["added_tokens"][0].update(special=False, lstrip=True)),
        ("tokenizer.json", lambda x: x.update(normalizer={"type": "NFC"})),
        ("tokenizer.json", lambda x: x["model"]["vocab"].update({"ab": 700})),
        ("tokenizer_config.json", lambda x: x.update(add_bos_token=True)),
        ("added_tokens.json", lambda x: x.update({"<new>": 258})),
    ],
)
def test_a_file_that_was_changed_is_read_as_others_read_it(name: str, change: Any, tmp_path: Path):
    save_tokenizer(BPE([(97, 98)], special_tokens=["<|endoftext|>"]), tmp_path)
    content = json.loads((tmp_path / name).read_text("utf-8")) if (tmp_path / name).exists() else {}
    change(content)
    write(content, tmp_path, name)
    back, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(back) is HuggingFaceTokenizer
    for text in ("ab  <|endoftext|> e\u0301", "cab", "a<new>"):
        assert back.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False)


def test_files_that_only_look_like_ours_are_refused_soon(tmp_path: Path):
    """A pattern that no compiler survives, and merges that would double a token each time."""
    save_tokenizer(BPE([(97, 98)]), tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    deep = json.loads(json.dumps(whole))
    deep["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:" * 3000 + "a" + ")" * 3000
    names = ["a", *(f"x{i}" for i in range(40))]
    whole["model"]["merges"] = [[name, name] for name in names[:-1]]
    whole["model"]["vocab"] |= {name: 256 + i for i, name in enumerate(names[1:])}
    for content in (deep, whole):
        write(content, tmp_path, "tokenizer.json")
        with pytest.raises(UserError, match="is damaged, or no tokenizer that the library"):
            load_tokenizer(tmp_path)


def test_a_template_given_later_is_saved(library, tmp_path: Path):
    write(library.to_str(), tmp_path, "tokenizer.json")
    one = load_tokenizer(tmp_path)
    one.chat_template = JINJA
    assert saved_again(one, tmp_path / "b").chat_template == JINJA


def test_what_has_no_files_cannot_be_saved(tmp_path: Path):
    one = load_tokenizer("gpt2")
    one.files = {}
    with pytest.raises(UserError, match="gpt2 cannot be written; copy its own files"):
        save_tokenizer(one, tmp_path)


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


def test_added_tokens_of_the_settings(tmp_path: Path):
    """Fine-tunes of LLaMA and Mistral: the model as published, and tokens that were added since."""
    shutil.copy(ASSETS / "mistral" / "tokenizer.model", tmp_path / "tokenizer.model")
    plain, size = load_tokenizer("mistral"), 32_000
    added = {
        "2": {"content": "</s>", "special": True},
        "32000": {"content": "<|im_end|>", "special": True},
        "32002": {"content": "<think>", "special": False, "lstrip": True},
    }
    config = {"eos_token": "<|im_end|>", "pad_token": "[PAD]", "added_tokens_decoder": added}
    config |= {"add_bos_token": False, "chat_template": JINJA}
    write(config, tmp_path, "tokenizer_config.json")
    one = load_tokenizer(tmp_path)
    assert (one.bos_id, one.eos_id, one.pad_id, one.vocab_size) == (1, size, size + 3, size + 4)
    assert one.add_bos is False and one.chat_template == JINJA and one.end_ids == {size}
    assert one.encode("a  <think>b") == [*plain.encode("a"), size + 2, *plain.encode("b")]
    assert one.encode("<|im_end|>") == plain.encode("<|im_end|>")
    ids = one.encode("a<|im_end|>b", allowed_special="all")
    assert ids == [*plain.encode("a"), size, *plain.encode("b")] and one.decode(ids) == "a<|im_end|>b"
    assert one.decode([*ids, size + 1, size + 9]) == "a<|im_end|>b"
    saved_again(one, tmp_path / "b")
    write({"eos_token": "<|im_end|>"}, tmp_path, "tokenizer_config.json")
    write({"pad_token": "<pad>"}, tmp_path, "special_tokens_map.json")
    write({"<|im_end|>": size, "<think>": size + 1}, tmp_path, "added_tokens.json")
    one = load_tokenizer(tmp_path)
    assert (one.eos_id, one.pad_id, one.add_bos) == (size, size + 2, True)
    assert {*one.special_tokens} == {"<unk>", "<s>", "</s>", "<|im_end|>", "<pad>"}
    assert size + 1 in one.encode("a <think> b")


def test_a_named_file_is_the_one_that_is_read(library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(library.to_str(), tmp_path, "tokenizer.json")
    changed = json.loads(library.to_str())
    changed["added_tokens"] = changed["added_tokens"][:1]
    write(changed, tmp_path, "other.json")
    shutil.copy(ASSETS / "mistral" / "tokenizer.model", tmp_path / "tokenizer.model")
    assert len(load_tokenizer(tmp_path / "other.json").special_tokens) == 1
    assert load_tokenizer(tmp_path / "tokenizer.model").vocab_size == 32_000
    assert len(load_tokenizer(tmp_path).special_tokens) == 3
    write("{", tmp_path, "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_tokenizer("~/other.json").special_tokens) == 1
    assert load_tokenizer(str(tmp_path / "tokenizer.model").encode()).vocab_size == 32_000
    with pytest.raises(UserError, match="There is no tokenizer '~nosuchuser/x'"):
        load_tokenizer("~nosuchuser/x")


def test_a_model_that_lacks_bytes_says_so_in_the_text(corpora: dict[str, str], tmp_path: Path):
    path = model(corpora, tmp_path / "m.model", byte_fallback=False, **LLAMA)
    ours = load_tokenizer(path)
    assert ours.special_tokens["<unk>"] in ours.encode("a 東 b")
    assert "<unk>" in ours.decode(ours.encode("a 東 b"))


def test_a_torn_model_is_refused(tmp_path: Path):
    whole = (ASSETS / "mistral" / "tokenizer.model").read_bytes()
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
    with pytest.raises(
        UserError, match=r"holds neither tokenizer\.json nor tokenizer\.model, nor vocab\.json"
    ):
        load_tokenizer(tmp_path)
    shutil.copy(ASSETS / "mistral" / "tokenizer.model", tmp_path / "tokenizer.model")
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
    assert sum(len(zlib.compress(path.read_bytes())) for path in files.values()) < 1_500_000  # in a wheel
