"""SentencePiece tokenizers (LLaMA, Mistral, Gemma): text with ``▁`` for spaces, bytes where a piece lacks.

Kudo and Richardson 2018. Nothing is split into words first: every space becomes ``▁`` (U+2581), one more is
put in front of the text, and pieces are merged across the whole of it. A character without a piece becomes
its UTF-8 bytes, which have pieces such as ``<0xE6>``.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from myllm.files import Source, UserError, read_bytes
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import Template
from myllm.tokenizers.patterns import well_formed

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MARK = re.compile(r"<\|.*\|>|<(start|end)_of_turn>|</?s>|<(bos|eos|pad|mask)>|\[/?[A-Z_]+\]")
"""Pieces that steer a model, by the names in common use; text must not be able to spell them."""

AS_IT_STANDS = b"\x1a\x04\x18\x00\x20\x00"
"""Appended to a model file: no space in front, no space removed (fields 3 and 4 of its field 3)."""


class SentencePiece(Tokenizer):
    """A SentencePiece tokenizer, encoded by the library of that name.

    The space that is put in front of each stretch of text, where the model asks for it, is taken away again
    by decoding. ``▁`` itself decodes to a space: the one character that does not come back.

    Attributes:
        pieces: The piece of each id, ``▁`` for a space, ``<0x0A>`` for a byte.
        tokens: The bytes of each id; a special token has those of its name.
        model: The bytes of its file.
    """

    def __init__(self, path: Source, *, name: str, chat_template: Template | None = None):
        self.name = name
        try:
            self.model = _without_marks(read_bytes(path))
            self._processor = _processor(self.model)
        except RuntimeError as error:
            raise UserError(f"{path} is no whole SentencePiece model; copy it again.") from error
        size = self.vocab_size = self._processor.get_piece_size()
        ids = list(range(size))
        self.pieces: list[str] = self._processor.id_to_piece(ids)
        control, unknown = self._processor.is_control(ids), self._processor.is_unknown(ids)
        self.special_tokens = {self.pieces[i]: i for i in ids if control[i] or unknown[i]}
        is_byte = self._processor.is_byte(ids)
        self.tokens = [
            bytes([int(piece[3:5], 16)] if byte else piece.replace("▁", " ").encode())
            for piece, byte in zip(self.pieces, is_byte, strict=True)
        ]
        prefix = self._processor.encode("a", out_type=str)[0].startswith("▁")
        self._first = [
            token[1:] if prefix and piece.startswith("▁") else token
            for piece, token in zip(self.pieces, self.tokens, strict=True)
        ]
        roles = (self._processor.bos_id(), self._processor.eos_id(), self._processor.pad_id())
        self.bos_id, self.eos_id, self.pad_id = (i if i >= 0 else None for i in roles)
        self.chat_template = chat_template
        self.add_bos = self.bos_id is not None

    @cached_property
    def _continuing(self) -> "SentencePieceProcessor":
        return _processor(self.model + AS_IT_STANDS)

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Turn text into ids, none of them special; `continued` text gets no space in front."""
        processor = self._continuing if continued else self._processor
        return processor.encode(well_formed(text))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into bytes, without the space in front of each stretch between special tokens.

        Raises:
            UserError: An id is outside the vocabulary.
        """
        parts: list[bytes] = []
        special = {*self.special_tokens.values()}
        tokens = self._first
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(
                    f"Id {i} is outside the vocabulary of {self.name}, which ends at {self.vocab_size - 1}."
                )
            parts.append(tokens[i])
            tokens = self._first if i in special else self.tokens
        return b"".join(parts)

    def __repr__(self) -> str:
        return f"SentencePiece {self.name!r}: {self.vocab_size} pieces"


def _processor(model: bytes) -> "SentencePieceProcessor":
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise UserError('SentencePiece models need the book extra: pip install -e ".[book]".') from error
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)  # which refuses an empty one; the constructor does not
    return processor


def _without_marks(model: bytes) -> bytes:
    """The model with steering pieces that text could spell turned into control pieces.

    A model may list its marks as "user-defined" (type 4), which are found in any text. As "control" (type 3)
    they keep their ids and are no longer found.
    """
    processor = _processor(model)
    pieces: list[str] = processor.id_to_piece(list(range(processor.get_piece_size())))
    for i, piece in enumerate(pieces):
        if MARK.fullmatch(piece) and i in processor.encode(piece):
            name = piece.encode()
            entry = b"\x0a" + bytes([len(name)]) + re.escape(name) + b"\x15.{4}\x18"
            model = re.sub(b"(" + entry + b")\x04", rb"\g<1>" + b"\x03", model, count=1, flags=re.DOTALL)
    return model
