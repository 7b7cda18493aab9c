"""What every tokenizer of the course can do: the protocol, and the parts that are the same for all."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
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
        vocab_size: The number of ids, special tokens included.
        bos_id, eos_id, pad_id: The begin, end and padding ids, or None where there is no such token.
        special_tokens: The id of each special token.
        chat_template: The chat format that its model was trained on: Jinja source as its files have it,
            a `Template` of this package, or None; see `render`.
        add_bos: Whether that model wants the begin token in front of a text; `encode` puts it there only when
            asked.
    """

    name: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    special_tokens: Mapping[str, int]
    chat_template: "str | Template | None" = None
    add_bos: bool = False

    @abstractmethod
    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Turn text into ids, none of them special; `continued` says that other text stands before it."""
        ...

    def encode(
        self,
        text: str,
        *,
        bos: bool = False,
        eos: bool = False,
        allowed_special: Iterable[str] | Literal["all"] = (),
    ) -> list[int]:
        """Turn text into ids.

        Args:
            text: Any string; lone surrogates, which UTF-8 cannot express, become U+FFFD.
            bos: Put the begin token in front.
            eos: Put the end token at the end.
            allowed_special: Special tokens to recognise in the text: one, several, or "all"; other text that
                looks like one is ordinary text.

        Raises:
            UserError: A token asked for does not exist.
        """
        ids = [self._need("bos")] if bos else []
        if isinstance(allowed_special, str):
            allowed_special = self.special_tokens if allowed_special == "all" else [allowed_special]
        allowed = set(allowed_special)
        if unknown := allowed - set(self.special_tokens):
            known = ", ".join(self.special_tokens) or "none"
            raise UserError(f"{sorted(unknown)[0]!r} is no special token of {self.name}; it has: {known}.")
        if allowed:
            longest_first = sorted(allowed, key=len, reverse=True)
            for part in regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text):
                ids += [self.special_tokens[part]] if part in allowed else self.encode_text(part)
        else:
            ids += self.encode_text(text)
        return [*ids, self._need("eos")] if eos else ids

    def _need(self, role: str) -> int:
        found = getattr(self, f"{role}_id")
        if found is None:
            raise UserError(
                f"{self.name} has no {role} token; train it with special token '<|{role}|>', or ask for none."
            )
        return found

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into the exact bytes they stand for."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; bytes that are no valid UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode_batch(
        self, texts: Sequence[str], *, pad: Literal["left", "right"] = "right"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Encode several texts as one rectangle.

        Args:
            texts: B texts.
            pad: The side that short rows are filled on: "left" for generation, so that all rows end together.

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
