"""What every tokenizer of the course can do: the protocol, and the parts that are the same for all."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from myllm.files import UserError

if TYPE_CHECKING:
    from myllm.tokenizers.chat import Template


class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        name: A name for people.
        vocab_size: One more than the highest id, special tokens included.
        bos_id, eos_id, pad_id: The begin, end and padding ids, or None where there is no such token.
        extra_end_ids: Ids that end a generated text besides `eos_id`, where the tokenizer's files name any.
        special_tokens: The id of each special token.
        chat_template: The chat format that the model was trained on: the source of a Jinja template, a
            `Template` of the course, or None; see `render`.
        add_bos: Whether the model expects the begin token in front of a text; `encode` adds it when asked to.
        files: The files that the tokenizer was read from, by name; see `save_tokenizer`.
    """

    name: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    special_tokens: Mapping[str, int]
    chat_template: "str | Template | None" = None
    add_bos: bool = False
    extra_end_ids: Set[int] = frozenset()
    files: Mapping[str, bytes] = MappingProxyType({})

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a generated text: `eos_id` and `extra_end_ids`."""
        return frozenset(self.extra_end_ids if self.eos_id is None else {self.eos_id, *self.extra_end_ids})

    @abstractmethod
    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text in which special tokens are ordinary text; `continued` says that text precedes it."""
        ...

    def encode(
        self,
        text: str,
        *,
        bos: bool = False,
        eos: bool = False,
        allowed_special: Iterable[str] | Literal["all"] = (),
    ) -> list[int]:
        """Encode text.

        Args:
            text: Any string; lone surrogates, which UTF-8 cannot express, become U+FFFD.
            bos: Put the begin token in front.
            eos: Put the end token at the end.
            allowed_special: Special tokens to recognize in the text: one, several, or "all"; other text that
                looks like one is ordinary text.

        Raises:
            UserError: A token asked for does not exist.
        """
        ids = [self._need("bos")] if bos else []
        if isinstance(allowed_special, str):
            allowed_special = self.special_tokens if allowed_special == "all" else [allowed_special]
        allowed = frozenset(allowed_special)
        if unknown := allowed - set(self.special_tokens):
            known = ", ".join(self.special_tokens) or "none"
            raise UserError(f"{sorted(unknown)[0]!r} is no special token of {self.name}; it has: {known}.")
        ids += self.encode_special(text, allowed) if allowed else self.encode_text(text)
        return [*ids, self._need("eos")] if eos else ids

    def encode_special(self, text: str, allowed: frozenset[str]) -> list[int]:
        """Encode text in which the special tokens `allowed` are recognized, the longest first."""
        longest_first = sorted(allowed, key=len, reverse=True)
        ids: list[int] = []
        for part in regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text):
            ids += [self.special_tokens[part]] if part in allowed else self.encode_text(part)
        return ids

    def _need(self, role: str) -> int:
        found = getattr(self, f"{role}_id")
        if found is None:
            raise UserError(
                f"{self.name} has no {role} token; train it with special token '<|{role}|>', or ask for none."
            )
        return found

    @abstractmethod
    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes that an id of the vocabulary adds to a text; `start` says that it is the first one."""
        ...

    def starts_anew(self, i: int) -> bool:
        """Whether the token behind `i` is decoded as the first one of a text."""
        return False

    def token_bytes(self, ids: Iterable[int], *, after: Sequence[int] = ()) -> Iterator[bytes]:
        """The bytes that each id adds to the text.

        A model may have more embeddings than its tokenizer has tokens; ids beyond the vocabulary add nothing.

        Args:
            ids: The ids.
            after: The ids that precede them, such as a prompt. They are not decoded, but after them a space
                is kept that some tokenizers drop at the start of a text.

        Raises:
            UserError: An id is negative.
        """
        last = next((i for i in reversed(after) if i < self.vocab_size), None)
        start = last is None or self.starts_anew(last)
        for i in ids:
            if i < 0:
                raise UserError(f"Id {i} is outside the vocabulary of {self.name}; ids start at 0.")
            known = i < self.vocab_size
            yield self.id_bytes(i, start=start) if known else b""
            if known:
                start = self.starts_anew(i)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode ids to the exact bytes they stand for; see `token_bytes`."""
        return b"".join(self.token_bytes(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text; bytes that are no valid UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode_batch(
        self, texts: Sequence[str], *, pad: Literal["left", "right"] = "right"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Encode several texts as one rectangle.

        Args:
            texts: B texts.
            pad: The side on which short rows are padded: "left" for generation, where all rows must end
                together.

        Returns:
            ids and mask, both (B, T) int64, T the longest row; the mask is 1 on text and 0 on padding.

        Raises:
            UserError: Rows differ in length and there is neither a padding nor an end token.
        """
        if pad not in ("left", "right"):
            raise UserError(f"pad must be 'left' or 'right', not {pad!r}.")
        rows = [self.encode(text) for text in texts]
        width = max(map(len, rows), default=0)
        fill = self.pad_id if self.pad_id is not None else self.eos_id
        if fill is None and any(len(row) < width for row in rows):
            raise UserError(
                f"{self.name} has no padding or end token to fill short rows; train one with '<|pad|>'."
            )
        ids = np.full((len(rows), width), fill or 0, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for b, row in enumerate(rows):
            where = slice(width - len(row), width) if pad == "left" else slice(0, len(row))
            ids[b, where], mask[b, where] = row, 1
        return ids, mask
