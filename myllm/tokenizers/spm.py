"""SentencePiece tokenizers (LLaMA, Mistral, Gemma): ``▁`` for spaces, bytes where a piece is missing.

Text is not split into words first (Kudo and Richardson 2018): every space becomes ``▁`` (U+2581), another
``▁`` is prepended, and pieces are merged across the whole text. A character without a piece is encoded as its
UTF-8 bytes, which have pieces such as ``<0xE6>``.
"""

from functools import cached_property
from typing import TYPE_CHECKING

import regex

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer, split_at
from myllm.tokenizers.patterns import well_formed
from myllm.tokenizers.settings import Settings

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

#: The usual names of special tokens, which a model may list as user-defined pieces.
USUAL_SPECIAL = regex.compile(r"<\|.*\|>|<(start|end)_of_turn>|</?s>|<(bos|eos|pad|mask)>|\[/?[A-Z_]+\]")

#: A serialized `normalizer_spec` (field 3 of the model) in which `add_dummy_prefix` and
#: `remove_extra_whitespaces` (its fields 3 and 4) are false; of a field's values, protobuf uses the last.
NO_PREFIX = b"\x1a\x04\x18\x00\x20\x00"


class SentencePiece(Tokenizer):
    """A tokenizer run by the `sentencepiece` library.

    The added tokens in the settings are split off first, special ones only if allowed. The library itself
    recognizes user-defined pieces in any text; those that are named like special tokens are special tokens
    here, and text that spells one is split until the library no longer recognizes it.

    Decoding removes the space that encoding prepends to each part of a text, if the model prepends one. ``▁``
    itself decodes to a space; all other characters are restored, if the model has byte pieces and does not
    normalize text.

    Args:
        model: The content of the model file.
        settings: The settings next to the file.
        name: A display name.
        source: The name of the file, for error messages.

    Attributes:
        pieces: The piece of each id, with ``▁`` for a space and ``<0x0A>`` for a byte.
        tokens: The bytes of each id; those of a special token spell its name.

    Raises:
        UserError: The model is damaged, or the library is not installed.
    """

    def __init__(self, model: bytes, settings: Settings, *, name: str, source: str):
        self.name, self.model = name, model
        self._processor = processor = _processor(model, source)
        self.pieces: list[str] = processor.id_to_piece([*range(processor.get_piece_size())])
        self.tokens = tokens = [piece.replace("▁", " ").encode() for piece in self.pieces]
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        special: dict[str, int] = {}
        self._user_defined: set[int] = set()
        for i, piece in enumerate(self.pieces):
            if processor.is_byte(i):
                tokens[i] = bytes.fromhex(piece[3:5])
            elif processor.is_control(i) or processor.is_unknown(i):
                special[piece] = i
            elif USUAL_SPECIAL.fullmatch(piece) and i in processor.encode(piece):
                special[piece] = i
                self._user_defined.add(i)
        own = {"bos": processor.bos_id(), "eos": processor.eos_id(), "pad": processor.pad_id()}
        named = {f"{role}_token": self.pieces[i] for role, i in own.items() if i >= 0}
        settings = settings._replace(config={**named, **settings.config})
        self._added = settings.added_tokens()
        for token, fields in self._added.items():
            i = self._ids[token] = fields.get("id", self._ids.get(token, len(tokens)))
            tokens += [b""] * (i + 1 - len(tokens))
            tokens[i] = token.encode()
            if fields.get("special"):
                special[token] = i
        self.special_tokens, self.vocab_size = special, len(tokens)
        self._starting = {*self.special_tokens.values(), *(self._ids[token] for token in self._added)}
        settings.apply(self, self._ids)
        self.add_bos = bool(settings.config.get("add_bos_token", self.bos_id is not None))
        self._has_prefix: bool = processor.encode("a", out_type=str)[0].startswith("▁")

    @cached_property
    def _continuing(self) -> "SentencePieceProcessor":
        return _processor(self.model + NO_PREFIX, self.name)

    def encode_special(
        self, text: str, allowed: frozenset[str] = frozenset(), *, continued: bool = False
    ) -> list[int]:
        """Encode text, recognizing the special tokens in `allowed`."""
        tokens = {token: fields for token, fields in self._added.items() if not fields.get("special")}
        tokens |= {token: self._added.get(token, {}) for token in allowed}
        ids: list[int] = []
        for part in split_at(well_formed(text), tokens):
            ids += [self._ids[part]] if part in tokens else self._encode_part(part, continued)
            continued = False
        return ids

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text, treating special tokens as ordinary text; no space is prepended if `continued`."""
        return self.encode_special(text, continued=continued)

    def _encode_part(self, text: str, continued: bool) -> list[int]:
        """Encode text without added tokens; text that spells a user-defined special token is split in two."""
        processor = self._continuing if continued else self._processor
        ids: list[int] = processor.encode(text)
        if self._user_defined.isdisjoint(ids) or len(text) < 2:
            return ids
        middle = len(text) // 2
        return self._encode_part(text[:middle], continued) + self._encode_part(text[middle:], True)

    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes of a token; at the start of a text, without the space that encoding prepended."""
        token = self.tokens[i]
        drop = start and self._has_prefix and i < len(self.pieces) and self.pieces[i].startswith("▁")
        return token[1:] if drop else token

    def starts_anew(self, i: int) -> bool:
        """Whether `i` is an added or special token, since encoding prepends a space to the text after one."""
        return i >= len(self.pieces) or i in self._starting


def _processor(model: bytes, source: str) -> "SentencePieceProcessor":
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise UserError("SentencePiece models need: pip install 'myllm-course[book]'.") from error
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)  # unlike the constructor, it refuses an empty model
    except RuntimeError as error:
        raise UserError(f"{source} is no whole SentencePiece model; copy it again.") from error
    return processor
