"""SentencePiece tokenizers (LLaMA, Mistral, Gemma): ``▁`` for spaces, bytes where a piece is missing.

Kudo and Richardson 2018. Nothing is split into words first: every space becomes ``▁`` (U+2581), one more is
put in front of the text, and pieces are merged across the whole of it. A character without a piece becomes
its UTF-8 bytes, which have pieces such as ``<0xE6>``.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import regex

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.patterns import well_formed
from myllm.tokenizers.settings import Fields, Settings

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MARK = regex.compile(r"<\|.*\|>|<(start|end)_of_turn>|</?s>|<(bos|eos|pad|mask)>|\[/?[A-Z_]+\]")
"""The usual names of special tokens, which a model may list as user-defined pieces."""

NO_PREFIX = b"\x1a\x04\x18\x00\x20\x00"
"""A `normalizer_spec` (field 3 of the model, a protocol buffer, in which the later value counts) that sets
`add_dummy_prefix` and `remove_extra_whitespaces` (its fields 3 and 4) to false."""


class SentencePiece(Tokenizer):
    """A SentencePiece tokenizer, encoded by the library of that name.

    Added tokens of the settings are found in the text first, special ones only where they are allowed.
    User-defined pieces with the name of a special token, which the library finds in any text, are special
    tokens here: text that spells one is cut until none is found.

    The space that is put in front of each stretch of text, where the model asks for it, is removed again by
    decoding. ``▁`` itself decodes to a space: the one character that does not come back.

    Args:
        model: The bytes of its file.
        name: A name for people.
        source: What messages call the file.
        settings: Roles, added tokens and the chat template.

    Attributes:
        pieces: The piece of each id, ``▁`` for a space, ``<0x0A>`` for a byte.
        tokens: The bytes of each id; a special token has those of its name.

    Raises:
        UserError: The model is damaged, or the library is not installed.
    """

    def __init__(self, model: bytes, *, name: str, source: str, settings: Settings):
        self.name, self.model = name, model
        self._processor = processor = _processor(model, source)
        ids = list(range(processor.get_piece_size()))
        self.pieces: list[str] = processor.id_to_piece(ids)
        is_byte, is_control, is_unknown = (
            asked(ids) for asked in (processor.is_byte, processor.is_control, processor.is_unknown)
        )
        self.tokens = [
            bytes([int(piece[3:5], 16)] if byte else piece.replace("▁", " ").encode())
            for piece, byte in zip(self.pieces, is_byte, strict=True)
        ]
        self._marks = {i for i in ids if MARK.fullmatch(p := self.pieces[i]) and i in processor.encode(p)}
        special = {self.pieces[i]: i for i in ids if is_control[i] or is_unknown[i] or i in self._marks}
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._added = self._add(settings)
        self.special_tokens = special | {
            token: self._ids[token] for token, fields in self._added.items() if fields["special"]
        }
        self.vocab_size = len(self.tokens)
        own = (processor.bos_id(), processor.eos_id(), processor.pad_id())
        named = settings.roles(self._ids) if settings.config else (None, None, None)
        self.bos_id, self.eos_id, self.pad_id = (
            i if i is not None else model_id if model_id >= 0 else None
            for i, model_id in zip(named, own, strict=True)
        )
        self.chat_template = settings.chat_template
        self.add_bos = bool(settings.config.get("add_bos_token", self.bos_id is not None))
        self.files = {**settings.files, "tokenizer.model": model}
        self._has_prefix: bool = processor.encode("a", out_type=str)[0].startswith("▁")
        self._splitters: dict[frozenset[str], Any] = {}

    def _add(self, settings: Settings) -> dict[str, Fields]:
        """The added tokens by text; they get their ids, and those without one the next free ids."""
        added = {token["content"]: token for _, token in sorted(settings.added.items())}
        self._ids |= {token["content"]: i for i, token in settings.added.items()}
        for token in settings.special():
            self._ids.setdefault(token["content"], max(self._ids.values()) + 1)
            added.setdefault(token["content"], token)
        for token in added:
            i = self._ids[token]
            self.tokens += [b""] * (i + 1 - len(self.tokens))
            self.tokens[i] = token.encode()
        return added

    @cached_property
    def _continuing(self) -> "SentencePieceProcessor":
        return _processor(self.model + NO_PREFIX, self.name)

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text in which special tokens are ordinary text; `continued` text gets no space in front."""
        return self._encode(text, frozenset(), continued)

    def encode_special(self, text: str, allowed: frozenset[str]) -> list[int]:
        """Encode text in which the special tokens `allowed` are recognized."""
        return self._encode(text, allowed, False)

    def _encode(self, text: str, allowed: frozenset[str], continued: bool) -> list[int]:
        if allowed not in self._splitters:
            tokens = [self._added.get(token, {"content": token}) for token in allowed]
            tokens += [token for token in self._added.values() if not token["special"]]
            self._splitters[allowed] = _splitter(tokens) if tokens else None
        splitter = self._splitters[allowed]
        text, ids = well_formed(text), list[int]()
        for token, part in _split(splitter, text) if splitter else [(None, text)]:
            ids += [self._ids[token]] if token is not None else self._encode_part(part, continued)
            continued = False
        return ids

    def _encode_part(self, text: str, continued: bool) -> list[int]:
        """Encode text without added tokens; where the library finds a mark in it, it is cut in two."""
        processor = self._continuing if continued else self._processor
        ids: list[int] = processor.encode(text)
        if self._marks.isdisjoint(ids) or len(text) < 2:
            return ids
        middle = len(text) // 2
        return self._encode_part(text[:middle], continued) + self._encode_part(text[middle:], True)

    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes of a token, at the start of a text without the space in front."""
        token = self.tokens[i]
        drop = start and self._has_prefix and i < len(self.pieces) and self.pieces[i].startswith("▁")
        return token[1:] if drop else token

    def starts_anew(self, i: int) -> bool:
        """Whether `i` is an added or special token: text behind it gets a space in front again."""
        return i >= len(self.pieces) or i in self._special_ids

    @cached_property
    def _special_ids(self) -> set[int]:
        return {*self.special_tokens.values(), *(self._ids[token] for token in self._added)}

    def __repr__(self) -> str:
        return f"SentencePiece {self.name!r}: {self.vocab_size} pieces"


def _processor(model: bytes, source: str) -> "SentencePieceProcessor":
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise UserError('SentencePiece models need the book extra: pip install -e ".[book]".') from error
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)  # which refuses an empty one; the constructor does not
    except RuntimeError as error:
        raise UserError(f"{source} is no whole SentencePiece model; copy it again.") from error
    return processor


def _splitter(tokens: list[Fields]) -> Any:
    """A tokenizer of the library `tokenizers` that finds added tokens; what lies between them is unknown."""
    from tokenizers import AddedToken, Tokenizer, models

    splitter = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
    flags = ("single_word", "lstrip", "rstrip")
    splitter.add_tokens(
        [AddedToken(t["content"], normalized=False, **{f: bool(t.get(f)) for f in flags}) for t in tokens]
    )
    return splitter


def _split(splitter: Any, text: str) -> Iterator[tuple[str | None, str]]:
    """The stretches of a text, each with the added token that it is, or None."""
    encoding = splitter.encode(text)
    for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        yield (splitter.id_to_token(i) if i else None), text[start:end]
