"""Published tokenizers in the ``tokenizer.json`` format, run by the `tokenizers` library.

https://huggingface.co/docs/tokenizers describes the components of such a file: added tokens (which are split
off first), a normalizer, a pre-tokenizer, a model (BPE, WordPiece, Unigram, WordLevel), a post-processor and
a decoder.
"""

import json
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from myllm.files import UserError
from myllm.tokenizers import patterns
from myllm.tokenizers.base import USUAL_NAMES, Fields, Tokenizer
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.ranks import BYTE_OF, byte_symbols
from myllm.tokenizers.settings import CONFIG, Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

BRACKETED = re.compile(r"<.+>|\[.+\]", re.DOTALL)  # special tokens that cannot be ordinary words
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
WHOLE = "tokenizer.json"
SPLITS = (*patterns.PATTERNS.values(), patterns.LLAMA3, patterns.QWEN2)
ANCHOR = "a"  # a token that every decoder leaves unchanged
#: The settings with which each component neither adds nor removes a space at the start of a text.
WITHOUT_PREFIX: dict[str, Fields] = {
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
    "Prepend": {"prepend": ""},
    "ByteLevel": {"add_prefix_space": False},
    "Strip": {"start": 0},
}


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer run by the `tokenizers` library.

    Special tokens are ordinary text unless allowed; other added tokens are recognized in any text. A special
    token that is also an ordinary word of the model, such as a padding token ``!``, keeps its id as a word.

    Args:
        content: The content of its ``tokenizer.json``.
        settings: The settings next to the file.
        name: A display name.
        source: The name of the file, for error messages.

    Attributes:
        content: That content, with the added tokens from the settings.

    Raises:
        UserError: The content is damaged, or the library cannot read it.
    """

    def __init__(self, content: Fields, settings: Settings, *, name: str, source: str):
        self.name, self.source = name, source
        with reading(source):
            listed = settings.added_tokens(content.get("added_tokens") or [])
            library = _build_library(content, listed.values())
        self.content: Fields = json.loads(library.to_str())
        ids = library.get_vocab()
        self._tokens = {i: token for token, i in ids.items()}
        self.vocab_size = max(self._tokens, default=-1) + 1
        added: list[Fields] = self.content["added_tokens"]
        self.special_tokens = {token["content"]: token["id"] for token in added if token["special"]}
        words = library.get_vocab(with_added_tokens=False).values()
        self._only_added = {token["id"] for token in added} - {*words}
        settings.apply(self, ids)
        self._libraries = {(frozenset(self.special_tokens), False): library}
        self._decode: Callable[[Sequence[str]], str] = " ".join
        if library.decoder is not None:
            self._decode = library.decoder.decode
        steps = json.dumps(self.content["decoder"])
        self._byte_level, self._byte_fallback = '"ByteLevel"' in steps, '"ByteFallback"' in steps
        if self.bos_id is not None:  # whether the post-processor prepends it
            begun = library.encode(self._tokens[self.bos_id])
            self.add_bos = begun.ids[:1] == [self.bos_id] and begun.special_tokens_mask[:1] == [1]

    def encode_special(
        self, text: str, allowed: frozenset[str] = frozenset(), *, continued: bool = False
    ) -> list[int]:
        """Encode text, recognizing the special tokens in `allowed` as the library does.

        Raises:
            UserError: The vocabulary lacks a character and has no unknown token.
        """
        key = allowed, continued
        if key not in self._libraries:
            content = _hide(self.content, self.special_tokens.keys() - allowed)
            if continued:
                content = without_prefix(content, ("normalizer", "pre_tokenizer"))
            self._libraries[key] = _build_library(content, content["added_tokens"])
        try:
            return self._libraries[key].encode(patterns.well_formed(text), add_special_tokens=False).ids
        except Exception as error:
            raise UserError(f"{self.source} cannot encode this text: {_one_line(error)}.") from error

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text, treating special tokens as ordinary text; no space is prepended if `continued`."""
        return self.encode_special(text, continued=continued)

    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes of a token, as the file's decoder writes them."""
        token = self._tokens.get(i, "")
        if self._byte_level:
            is_text = i in self._only_added or not BYTE_OF.keys() >= {*token}
            return token.encode() if is_text else bytes(BYTE_OF[symbol] for symbol in token)
        if self._byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        if not token:
            return b""
        before = [] if start else [ANCHOR]
        text = self._decode([*before, token, ANCHOR]).removeprefix("".join(before))
        after = self._decode([ANCHOR, ANCHOR]).removeprefix(ANCHOR)
        return text.removesuffix(after).encode()


@contextmanager
def reading(source: str) -> Generator[None]:
    """Convert whatever the block raises on a damaged tokenizer into a `UserError`."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the library is not an Exception
        raise UserError(
            f"{source} is damaged, or no tokenizer that the library `tokenizers` reads ({_one_line(error)}); "
            "fetch it again."
        ) from error


def _one_line(error: BaseException) -> str:
    """The message of an exception on one line, without a final full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _build_library(content: Fields, added: Iterable[Fields]) -> "Library":
    """The library's tokenizer, with added tokens that it numbers itself.

    Dropout, truncation and padding are turned off.

    Args:
        content: The content of a ``tokenizer.json``; its own added tokens are ignored.
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


def byte_level(
    vocabulary: Mapping[str, int],
    merges: Iterable[Any],
    pattern: str,
    *,
    normalizer: Fields | None = None,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` for a byte-level BPE.

    Args:
        vocabulary: The id of each token.
        merges: The pairs of tokens, earliest first.
        pattern: The split pattern, such as one of those in `myllm.tokenizers.patterns`.
        normalizer: The normalizer.
        ignore_merges: Whether a chunk that is a token is encoded as that token, whatever the merges say.
    """
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [*merges], "ignore_merges": ignore_merges}
    splitter = {"type": "Sequence", "pretokenizers": [split, to_bytes]}
    return {"normalizer": normalizer, "pre_tokenizer": splitter, "model": model, "decoder": to_bytes}


def bpe_files(tokenizer: BPE) -> dict[str, dict[str, Any]]:
    """A `BPE` for other libraries: the contents of its ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        UserError: Its split pattern is not one of the package's (the library reads some others differently),
            two merges make the same bytes, or the name of a special token is also a word or spells bytes.
    """
    symbols = byte_symbols()
    names = ["".join(symbols[byte] for byte in token) for token in tokenizer.tokens]
    merges = [[names[left], names[right]] for left, right in tokenizer.merges]
    vocabulary = {name: i for i, name in enumerate(names[: 256 + len(merges)])}
    spelled = [one for one in tokenizer.special_tokens if not one.isascii() and {*one} <= BYTE_OF.keys()]
    clash = spelled or len(vocabulary) < 256 + len(merges) or tokenizer.special_tokens.keys() & vocabulary
    if clash or tokenizer.pattern not in SPLITS:
        raise UserError(f"Other libraries would read {tokenizer.name} differently, with other ids or texts.")
    content = byte_level(vocabulary, merges, tokenizer.pattern)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": i, "content": name, **flags} for name, i in tokenizer.special_tokens.items()]
    config = {f"{role}_token": name for role, name in tokenizer.roles().items()}
    return {
        WHOLE: {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **content},
        CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast", **config},
    }


def as_bpe(content: Fields, settings: Settings, name: str) -> BPE | None:
    """The `BPE` whose `bpe_files` these are, or None if there is none."""
    with suppress(AttributeError, IndexError, KeyError, TypeError, ValueError, UserError):
        ids, merges = content["model"]["vocab"], content["model"]["merges"]
        names = [*byte_symbols(), *(left + right for left, right in merges)]
        pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        if [ids[name] for name in names] != [*range(len(names))] or pattern not in SPLITS or settings.added:
            return None  # early, before anything large is built or a pattern is compiled
        merges = [(ids[left], ids[right]) for left, right in merges]
        special = [one["content"] for one in content["added_tokens"]]
        roles = {role: settings.config.get(f"{role}_token") for role in USUAL_NAMES}
        made = BPE(merges, pattern=pattern, special_tokens=special, name=name, **roles)
        if bpe_files(made) == {WHOLE: content, CONFIG: settings.config}:
            made.chat_template = settings.chat_template
            return made
    return None


def without_prefix(content: Fields, parts: Iterable[str]) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` with `WITHOUT_PREFIX` applied to some of its components."""

    def change(component: dict[str, Any]) -> Fields:
        return component | WITHOUT_PREFIX.get(component.get("type", ""), {})

    changed = {part: json.loads(json.dumps(content.get(part)), object_hook=change) for part in parts}
    return {**content, **changed}


def _hide(content: Fields, hidden: Set[str]) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` that recognizes none of the special tokens in `hidden`.

    Among the added tokens and in the model, they get names that nobody can guess, so that all ids stay the
    same. A token that is also a word of the model is no longer an added token, but stays a word.

    Args:
        content: The content as the library writes it.
        hidden: The special tokens to hide.
    """
    model: dict[str, Any] = dict(content["model"])
    is_unigram = model["type"] == "Unigram"  # it lists pairs of a piece and its score
    entries: list[tuple[str, float]] = [*(model["vocab"] if is_unigram else model["vocab"].items())]
    known = dict(entries)
    plain = {token for token in hidden & known.keys() if not BRACKETED.fullmatch(token)}
    words = {token for token in plain if not is_unigram or known[token] < 0}
    secret = secrets.token_hex(16)
    names = {token: f"{secret}{n}" for n, token in enumerate(hidden - words)}
    renamed = [(names.get(token, token), value) for token, value in entries]
    model["vocab"] = renamed if is_unigram else dict(renamed)
    if pairs := model.get("merges"):
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])]
    if (unknown := model.get("unk_token")) in names:
        model["unk_token"] = names[unknown]
    visible = [token for token in content["added_tokens"] if token["content"] not in words]
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in visible]
    return {**content, "added_tokens": added, "model": model}
