"""Published tokenizers in the format ``tokenizer.json``, run by the library `tokenizers`.

https://huggingface.co/docs/tokenizers describes the parts of such a file: added tokens, which are found in
the text first, a normalizer, a pre-tokenizer, a model (BPE, WordPiece, Unigram, WordLevel), a post-processor
and a decoder.
"""

import json
import re
import secrets
from collections.abc import Generator, Iterable, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from myllm.files import UserError
from myllm.tokenizers.base import Fields, Tokenizer
from myllm.tokenizers.patterns import well_formed
from myllm.tokenizers.ranks import BYTE_OF
from myllm.tokenizers.settings import Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

BRACKETED = re.compile(r"<.+>|\[.+\]", re.DOTALL)  # special tokens that are not words of the text
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
ANCHOR = "a"  # a token that every decoder leaves as it is
WITHOUT_PREFIX: dict[str, Fields] = {  # settings with which the components add no space in front of a text
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
    "Prepend": {"prepend": ""},
    "ByteLevel": {"add_prefix_space": False},
    "Strip": {"start": 0},
}


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer that the library `tokenizers` runs.

    Special tokens are ordinary text unless allowed; other added tokens are found in any text. A special token
    that is also a word of the model, such as a padding token ``!``, keeps its id where it is a word.

    Args:
        content: The fields of its ``tokenizer.json``.
        settings: The settings beside the file.
        name: A display name.
        source: The name of the file, for messages.

    Attributes:
        content: The fields, with the added tokens of the settings.

    Raises:
        UserError: The fields are damaged, or the library cannot read them.
    """

    def __init__(self, content: Fields, settings: Settings, *, name: str, source: str):
        self.name, self.source = name, source
        with reading(source):
            added_tokens = settings.added_tokens(content.get("added_tokens") or [])
            library = _build_library(content, added_tokens.values())
        self.content: Fields = json.loads(library.to_str())
        ids = library.get_vocab()
        self._tokens = {i: token for token, i in ids.items()}
        self.vocab_size = max(self._tokens, default=-1) + 1
        added: list[Fields] = self.content["added_tokens"]
        words = {*library.get_vocab(with_added_tokens=False).values()}
        self._only_added = {token["id"] for token in added} - words
        self.special_tokens = {token["content"]: token["id"] for token in added if token["special"]}
        settings.apply(self, ids)
        self._libraries = {(frozenset(self.special_tokens), False): library}
        self._decoder = library.decoder
        steps = json.dumps(self.content["decoder"])
        self._byte_level, self._byte_fallback = '"ByteLevel"' in steps, '"ByteFallback"' in steps
        if self.bos_id is not None:  # see whether the post-processor puts it in front of a text
            begun = library.encode(self._tokens[self.bos_id])
            self.add_bos = begun.ids[:1] == [self.bos_id] and begun.special_tokens_mask[:1] == [1]

    def _library(self, allowed: frozenset[str], continued: bool) -> "Library":
        """The library's tokenizer that recognizes the special tokens `allowed` and no others."""
        key = allowed, continued
        if key not in self._libraries:
            content = _hide(self.content, self.special_tokens.keys() - allowed)
            if continued:
                content = without_prefix(content, ("normalizer", "pre_tokenizer"))
            self._libraries[key] = _build_library(content, content["added_tokens"])
        return self._libraries[key]

    def encode_special(
        self, text: str, allowed: frozenset[str] = frozenset(), *, continued: bool = False
    ) -> list[int]:
        """Encode text in which the special tokens `allowed` are recognized, as the library does.

        Raises:
            UserError: The vocabulary lacks a character and has no token for unknown ones.
        """
        library = self._library(allowed, continued)
        try:
            return library.encode(well_formed(text), add_special_tokens=False).ids
        except Exception as error:
            raise UserError(f"{self.source} cannot encode this text: {_one_line(error)}.") from error

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text in which special tokens are ordinary text; `continued` text gets no space in front."""
        return self.encode_special(text, continued=continued)

    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes of a token, as the file's decoder gives them."""
        token = self._tokens.get(i, "")
        if self._byte_level:
            is_text = i in self._only_added or any(symbol not in BYTE_OF for symbol in token)
            return token.encode() if is_text else bytes(BYTE_OF[symbol] for symbol in token)
        if self._byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        if not token:
            return b""
        if self._decoder is None:
            return (token if start else " " + token).encode()
        before = [] if start else [ANCHOR]
        text = self._decoder.decode([*before, token, ANCHOR]).removeprefix("".join(before))
        behind = self._decoder.decode([ANCHOR, ANCHOR]).removeprefix(ANCHOR)
        return text.removesuffix(behind).encode()

    def __repr__(self) -> str:
        kind, special = self.content["model"]["type"], f"{len(self.special_tokens)} special tokens"
        return f"HuggingFaceTokenizer {self.name!r}: {kind}, {self.vocab_size} ids, {special}"


@contextmanager
def reading(source: str) -> Generator[None]:
    """Convert whatever the block raises on a damaged tokenizer into a `UserError`."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise UserError(
            f"{source} is damaged, or no tokenizer that the library `tokenizers` reads ({_one_line(error)}); "
            "fetch it again."
        ) from error


def _one_line(error: BaseException) -> str:
    """The message of an exception on one line, without a full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _build_library(content: Fields, added: Iterable[Fields]) -> "Library":
    """The library's tokenizer, with added tokens that it numbers itself.

    What is random or shortens texts (dropout, truncation, padding) is switched off.

    Args:
        content: The fields of a ``tokenizer.json``; its own added tokens are left out.
        added: The added tokens in the order of their ids, each with "content" and flags.
    """
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Library

    fixed: Fields = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    model = {**content["model"], "dropout": None}
    library = Library.from_str(json.dumps({**content, **fixed, "model": model}))
    tokens: list[AddedToken] = []
    for token in added:
        flags = {flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "special")}
        flags["normalized"] = bool(token.get("normalized", not flags["special"]))
        tokens.append(AddedToken(token["content"], **flags))
    library.add_tokens(tokens)
    return library


def without_prefix(content: Fields, parts: Iterable[str]) -> dict[str, Any]:
    """The fields of a ``tokenizer.json`` in which these parts handle no space in front of a text."""

    def change(component: dict[str, Any]) -> Fields:
        return component | WITHOUT_PREFIX.get(component.get("type", ""), {})

    changed = {part: json.loads(json.dumps(content.get(part)), object_hook=change) for part in parts}
    return {**content, **changed}


def _hide(content: Fields, hidden: Set[str]) -> dict[str, Any]:
    """The fields of a ``tokenizer.json`` in which no text contains the special tokens `hidden`.

    Among the added tokens and in the model they are renamed to something that nobody can guess, so that all
    ids stay. A token that is also a word of the model stays a word there and is no longer an added token.

    Args:
        content: The fields as the library writes them.
        hidden: Special tokens.
    """
    model: dict[str, Any] = dict(content["model"])
    vocabulary: Any = model["vocab"]
    is_unigram = model["type"] == "Unigram"
    entries: list[tuple[str, float]] = [*(vocabulary if is_unigram else vocabulary.items())]
    known = dict(entries)
    words = {
        t for t in hidden & known.keys() if not BRACKETED.fullmatch(t) and (known[t] < 0 or not is_unigram)
    }
    secret = secrets.token_hex(16)
    names = {token: f"{secret}{n}" for n, token in enumerate(hidden - words)}
    renamed = [(names.get(token, token), value) for token, value in entries]
    model["vocab"] = renamed if is_unigram else dict(renamed)
    if "merges" in model:
        pairs: list[list[str]] = model["merges"]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    visible = [token for token in content["added_tokens"] if token["content"] not in words]
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in visible]
    return {**content, "added_tokens": added, "model": model}
