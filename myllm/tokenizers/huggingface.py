"""Published tokenizers in the format ``tokenizer.json``, run by the library `tokenizers`.

https://huggingface.co/docs/tokenizers describes the parts of such a file: added tokens, which are found in
the text first, a normalizer, a pre-tokenizer, a model (BPE, WordPiece, Unigram, WordLevel), a post-processor
and a decoder.
"""

import json
import secrets
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

import regex

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.patterns import well_formed
from myllm.tokenizers.ranks import BYTE_OF
from myllm.tokenizers.settings import Fields, Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
BRACKETED = regex.compile(r"<.+>|\[.+\]", regex.DOTALL)  # special tokens that are no words of the text
BYTE_TOKEN = regex.compile(r"<0x([0-9A-F]{2})>")
ANCHOR = "a"  # a token that every decoder leaves as it is
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTE_LEVEL = {
    "pre_tokenizer": BYTES,
    "decoder": BYTES,
}  # of a byte-level tokenizer that cuts text as GPT-2 does
NO_PREFIX: dict[str, dict[str, Any]] = {  # the settings with which no space is put in front of a text
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
    "Prepend": {"prepend": ""},
    "ByteLevel": {"add_prefix_space": False},
}


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer that the library `tokenizers` runs.

    Special tokens are ordinary text unless allowed; other added tokens are found in any text. A special token
    that is also a word of the model, such as a padding token ``!``, keeps its id where it is a word.

    Args:
        content: The fields of its ``tokenizer.json``.
        settings: The settings beside the file: roles, more added tokens, the chat template, the files' bytes.
        name: A name for people.
        source: What messages call the file.

    Attributes:
        content: The fields, with the added tokens of the settings.

    Raises:
        UserError: The fields are damaged, or the library cannot read them.
    """

    def __init__(self, content: Fields, settings: Settings, *, name: str, source: str):
        self.name, self.source, self.files = name, source, settings.files
        self.chat_template = settings.chat_template
        try:
            self.content = with_added(content, settings)
            self._read(settings)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source} is a damaged tokenizer file; copy it again.") from error

    def _read(self, settings: Settings) -> None:
        ids = vocabulary(self.content["model"])
        added: list[Fields] = self.content["added_tokens"]
        self._added = {token["id"] for token in added} - {*ids.values()}
        ids |= {token["content"]: token["id"] for token in added}
        self._tokens = {i: token for token, i in ids.items()}
        self.vocab_size = max(self._tokens, default=-1) + 1
        self.special_tokens = {token["content"]: token["id"] for token in added if token["special"]}
        self.bos_id, self.eos_id, self.pad_id = settings.roles(ids)
        self.extra_end_ids = settings.extra_ends(ids)
        self._libraries: dict[tuple[frozenset[str], bool], Library] = {}
        self._decoder = self._library(frozenset(), False).decoder
        steps = json.dumps(self.content.get("decoder"))
        self._byte_level, self._byte_fallback = '"ByteLevel"' in steps, '"ByteFallback"' in steps
        one_token: Fields = {"type": "BPE", "vocab": {"a": 1 << 31}, "merges": []}
        processed = _library({**self.content, "added_tokens": [], "model": one_token}, self.source)
        self.add_bos = processed.encode("a").ids[:1] == [self.bos_id]

    def _library(self, allowed: frozenset[str], continued: bool) -> "Library":
        """The library's tokenizer that recognizes the special tokens `allowed` and no others."""
        known = self._libraries.get((allowed, continued))
        if known is None:
            hidden = _hide(self.content, self.special_tokens.keys() - allowed)
            content: dict[str, Any] = {**hidden, "post_processor": None}
            if continued:
                content |= {key: _without_prefix(content.get(key)) for key in ("normalizer", "pre_tokenizer")}
            known = self._libraries[allowed, continued] = _library(content, self.source)
            if any(known.token_to_id(token["content"]) != token["id"] for token in hidden["added_tokens"]):
                raise UserError(
                    f"{self.source} has added tokens whose ids do not follow each other; the library "
                    "`tokenizers` would number them differently."
                )
        return known

    def _encode(self, text: str, allowed: frozenset[str], continued: bool) -> list[int]:
        library = self._library(allowed, continued)
        try:
            return library.encode(well_formed(text), add_special_tokens=False).ids
        except Exception as error:  # such as a character that a vocabulary without an unknown token lacks
            raise UserError(f"{self.source} cannot encode this text: {_line(error)}.") from error

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text in which special tokens are ordinary text; `continued` text gets no space in front."""
        return self._encode(text, frozenset(), continued)

    def encode_special(self, text: str, allowed: frozenset[str]) -> list[int]:
        """Encode text in which the special tokens `allowed` are recognized, as the library does."""
        return self._encode(text, allowed, False)

    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes of a token, by what the file's decoder makes of it."""
        token = self._tokens.get(i)
        if token is None:
            return b""
        if self._byte_level:
            spelled = i not in self._added and all(symbol in BYTE_OF for symbol in token)
            return bytes(map(BYTE_OF.__getitem__, token)) if spelled else token.encode()
        if self._byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if self._decoder is None:
            return (token if start else " " + token).encode()
        decode = self._decoder.decode
        behind = decode([ANCHOR, ANCHOR]).removeprefix(ANCHOR)
        text = decode([token, ANCHOR]) if start else decode([ANCHOR, token, ANCHOR]).removeprefix(ANCHOR)
        return text.removesuffix(behind).encode()

    def __repr__(self) -> str:
        kind = self.content["model"].get("type", "BPE")
        special = f"{len(self.special_tokens)} special tokens"
        return f"HuggingFaceTokenizer {self.name!r}: {kind}, {self.vocab_size} ids, {special}"


def vocabulary(model: Fields) -> dict[str, int]:
    """The id of each token of a model in a ``tokenizer.json``."""
    listed: Any = model["vocab"]
    return dict(listed) if hasattr(listed, "items") else {entry[0]: i for i, entry in enumerate(listed)}


def with_added(content: Fields, settings: Settings) -> dict[str, Any]:
    """The fields of a ``tokenizer.json`` with the added tokens of the settings, numbered as by the library.

    What is random or shortens texts (dropout, truncation, padding) is switched off.

    Args:
        content: The fields.
        settings: The settings: flags of added tokens that are there already, other added and special tokens.
    """
    ids = vocabulary(content["model"])
    listed: list[Fields] = content.get("added_tokens") or []
    added: dict[str, Fields] = {token["content"]: token for token in listed}
    numbers: dict[str, int] = {token["content"]: token["id"] for token in listed}
    numbers |= {text: ids[text] for text in numbers.keys() & ids.keys()}
    added |= {token["content"]: token for _, token in sorted(settings.added.items())}
    for token in settings.special():
        added[token["content"]] = {**added.get(token["content"], token), "special": True}
    following = max([len(ids) - 1, *numbers.values()]) + 1
    for text in added:
        numbers.setdefault(text, ids.get(text, following))
        following += numbers[text] == following
    tokens = [
        {"id": numbers[text], "content": text, **{flag: bool(token.get(flag)) for flag in FLAGS}}
        for text, token in sorted(added.items(), key=lambda item: numbers[item[0]])
    ]
    fixed = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens}
    return {**content, **fixed, "model": {**content["model"], "dropout": None}}


def _library(content: Fields, source: str) -> "Library":
    from tokenizers import Tokenizer as Library

    try:
        return Library.from_str(json.dumps(content))
    except BaseException as error:  # a panic of the library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = f"{source} is no tokenizer that the library `tokenizers` reads: {_line(error)}."
        raise UserError(why) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _without_prefix(part: Any) -> Any:
    """A normalizer or pre-tokenizer that puts no space in front of a text."""

    def changed(fields: dict[str, Any]) -> Fields:
        return fields | NO_PREFIX.get(fields.get("type", ""), {})

    return json.loads(json.dumps(part), object_hook=changed)


def _hide(content: Fields, hidden: Set[str]) -> dict[str, Any]:
    """The fields of a ``tokenizer.json`` in which no text contains one of the special tokens `hidden`.

    The tokens are renamed to something that nobody can know, among the added tokens and in the model, so that
    all ids stay. A token that is also a word of the model stays a word there and is no longer an added token.
    """
    model: dict[str, Any] = dict(content["model"])
    vocab: Any = model["vocab"]
    pieces: dict[str, float] = {} if hasattr(vocab, "items") else dict(vocab)  # of Unigram, with scores
    known: Set[str] = (pieces or vocabulary(model)).keys()
    words = {t for t in hidden & known if not BRACKETED.fullmatch(t) and pieces.get(t, -1) < 0}
    secret = secrets.token_hex(16)
    names = {token: f"{secret}{n}" for n, token in enumerate(sorted(hidden - words))}
    if not names.keys().isdisjoint(known):
        if pieces:
            model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
        else:
            model["vocab"] = {names.get(token, token): i for token, i in vocab.items()}
        if merges := model.get("merges"):
            pairs: Iterable[list[str]] = (m.split(" ") if isinstance(m, str) else m for m in merges)
            model["merges"] = [pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])]
        if (unknown := model.get("unk_token")) in names:
            model["unk_token"] = names[unknown]
    listed: list[Fields] = content["added_tokens"]
    visible = (token for token in listed if token["content"] not in words)
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in visible]
    return {**content, "added_tokens": added, "model": model}
