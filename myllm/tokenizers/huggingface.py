"""Published tokenizers in the format ``tokenizer.json``, run by the library `tokenizers`.

https://huggingface.co/docs/tokenizers describes the parts of such a file: added tokens, which are found in
the text first, a normalizer, a pre-tokenizer, a model (BPE, WordPiece, Unigram, WordLevel), a post-processor
and a decoder.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

import regex

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.patterns import well_formed
from myllm.tokenizers.ranks import BYTE_OF
from myllm.tokenizers.settings import Fields, Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

    from myllm.tokenizers.chat import Template

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
BRACKETED = regex.compile(r"<.+>|\[.+\]", regex.DOTALL)  # special tokens that are no words of the text
BYTE_TOKEN = regex.compile(r"<0x([0-9A-F]{2})>")
ANCHOR = "a"  # a token that every decoder leaves as it is
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTE_LEVEL = {
    "pre_tokenizer": BYTES,
    "decoder": BYTES,
}  # of a byte-level tokenizer that cuts text as GPT-2 does
NO_PREFIX = {  # the settings with which no space is put in front of a text
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
        name: A name for people.
        source: What messages call the file.
        bos, eos, pad: The begin, end and padding ids.
        chat_template, files: See `Tokenizer`; the post-processor decides on `add_bos`.

    Raises:
        UserError: The library cannot read the fields.
    """

    def __init__(
        self,
        content: Fields,
        *,
        name: str,
        source: str,
        bos: int | None = None,
        eos: int | None = None,
        pad: int | None = None,
        chat_template: "str | Template | None" = None,
        files: Mapping[str, bytes],
    ):
        defaults = {"version": "1.0", "added_tokens": [], **content}
        model = {**content["model"], "dropout": None}
        self.content = {**defaults, "model": model, "truncation": None, "padding": None}
        self.name, self.source, self.files = name, source, files
        self.bos_id, self.eos_id, self.pad_id = bos, eos, pad
        self.chat_template = chat_template
        added: list[Fields] = self.content["added_tokens"]
        self._tokens = {i: token for token, i in vocabulary(content["model"]).items()}
        self._added: dict[int, str] = {t["id"]: t["content"] for t in added if t["id"] not in self._tokens}
        self._tokens |= self._added
        self.vocab_size = max(self._tokens, default=-1) + 1
        self.special_tokens = {token["content"]: token["id"] for token in added if token["special"]}
        self._libraries: dict[tuple[frozenset[str], bool], Library] = {}
        self._decoder = self._library(frozenset(), False).decoder
        kinds = {part.get("type") for part in _parts(content.get("decoder"))}
        self._byte_level, self._byte_fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
        self.add_bos = bos is not None and self._template_ids()[:1] == [bos]

    def _template_ids(self) -> list[int]:
        """What the post-processor makes of a text of one token, which has the id 2³¹."""
        model = {"type": "BPE", "vocab": {"a": 1 << 31}, "merges": []}
        steps = {"post_processor": self.content.get("post_processor")}
        return (
            _library({"version": "1.0", "added_tokens": [], "model": model, **steps}, self.source)
            .encode("a")
            .ids
        )

    def _library(self, allowed: frozenset[str], continued: bool) -> "Library":
        """The library's tokenizer that recognizes the special tokens `allowed` and no others."""
        known = self._libraries.get((allowed, continued))
        if known is None:
            content = _hide(self.content, self.special_tokens.keys() - allowed) | {"post_processor": None}
            if continued:
                content |= {key: _unprefixed(content.get(key)) for key in ("normalizer", "pre_tokenizer")}
            known = self._libraries[allowed, continued] = _library(content, self.source)
            for token in content["added_tokens"]:
                if known.token_to_id(token["content"]) != token["id"]:
                    raise UserError(
                        f"{self.source} gives an added token the id {token['id']}, which is not the next free; "
                        "the library `tokenizers` would number it differently."
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
            return bytes(BYTE_OF[symbol] for symbol in token) if spelled else token.encode()
        if self._byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if self._decoder is None:
            return (token if start else " " + token).encode()
        decode = self._decoder.decode
        behind = decode([ANCHOR, ANCHOR]).removeprefix(ANCHOR)
        if start:
            return decode([token, ANCHOR]).removesuffix(behind).encode()
        return decode([ANCHOR, token, ANCHOR]).removeprefix(ANCHOR).removesuffix(behind).encode()

    def __repr__(self) -> str:
        kind = self.content["model"].get("type", "BPE")
        special = f"{len(self.special_tokens)} special tokens"
        return f"HuggingFaceTokenizer {self.name!r}: {kind}, {self.vocab_size} ids, {special}"


def from_fields(content: Fields, settings: Settings, name: str, source: str) -> HuggingFaceTokenizer:
    """The tokenizer of a ``tokenizer.json`` and of the settings beside it.

    Args:
        content: The fields of the file.
        settings: The settings, with the bytes of all files.
        name: A name for people.
        source: What messages call the file.

    Raises:
        UserError: The fields are damaged, or the library cannot read them.
    """
    try:
        known = {token["content"]: token for token in content.get("added_tokens") or ()}
        listed = {token["content"]: token for _, token in sorted(settings.added.items())}
        for token in settings.special():
            text = token["content"]
            listed[text] = {**(listed.get(text) or known.get(text) or token), "special": True}
        content = with_added(content, listed.values())
        ids = vocabulary(content["model"])
        ids |= {token["content"]: token["id"] for token in content["added_tokens"]}
        tokenizer = HuggingFaceTokenizer(
            content,
            name=name,
            source=source,
            **settings.roles(ids),
            chat_template=settings.chat_template,
            files=settings.files,
        )
        tokenizer.extra_end_ids = settings.ends(ids)
        return tokenizer
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} is a damaged tokenizer file; copy it again.") from error


def vocabulary(model: Fields) -> dict[str, int]:
    """The id of each token of a model in a ``tokenizer.json``."""
    listed = model["vocab"]
    return dict(listed) if isinstance(listed, Mapping) else {entry[0]: i for i, entry in enumerate(listed)}


def with_added(content: Fields, tokens: Iterable[Fields]) -> dict[str, Any]:
    """The fields of a ``tokenizer.json`` with more added tokens, numbered as the library numbers them.

    Args:
        content: The fields.
        tokens: Fields of added tokens, "content" and flags; one that is there already gets other flags.
    """
    ids = vocabulary(content["model"])
    listed: list[Fields] = content.get("added_tokens") or []
    added = {t["content"]: {**t, "id": ids.get(t["content"], t["id"])} for t in listed}
    following = max([len(ids) - 1, *(token["id"] for token in added.values())]) + 1
    for token in tokens:
        text = token["content"]
        i = added[text]["id"] if text in added else ids.get(text, following)
        following += i == following
        flags = {flag: bool(token.get(flag)) for flag in FLAGS}
        added[text] = {"id": i, "content": text, **flags}
    return {**content, "added_tokens": sorted(added.values(), key=lambda token: token["id"])}


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


def _parts(part: Any) -> Iterator[Fields]:
    """A component and, where it is a sequence, those inside it."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            for inner in value if isinstance(value, list) else ():
                yield from _parts(inner)


def _unprefixed(part: Any) -> Any:
    """A normalizer or pre-tokenizer that puts no space in front of a text."""
    if isinstance(part, list):
        return [_unprefixed(inner) for inner in part]
    if isinstance(part, dict):
        return {key: _unprefixed(value) for key, value in part.items()} | NO_PREFIX.get(part.get("type"), {})
    return part


def _hide(content: Fields, hidden: Set[str]) -> dict[str, Any]:
    """The fields of a ``tokenizer.json`` in which no text contains one of the special tokens `hidden`.

    The tokens are renamed to something that nobody can know, among the added tokens and in the model, so that
    all ids stay. A token that is also a word of the model stays a word there and is no longer an added token.
    """
    model = dict(content["model"])
    scores = {} if isinstance(model["vocab"], Mapping) else dict(model["vocab"])
    known = scores or model["vocab"]
    words = {t for t in hidden if t in known and not BRACKETED.fullmatch(t) and scores.get(t, -1) < 0}
    secret = secrets.token_hex(16)
    names = {token: f"{secret}{n}" for n, token in enumerate(sorted(hidden - words))}
    if any(token in known for token in names):
        if isinstance(model["vocab"], Mapping):
            model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
        if model.get("merges"):
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
    visible = (token for token in content["added_tokens"] if token["content"] not in words)
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in visible]
    return {**content, "added_tokens": added, "model": model}
