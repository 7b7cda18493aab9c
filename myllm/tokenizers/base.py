"""The tokenizer protocol, and the methods that all tokenizers of the package share."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from myllm.files import UserError

Fields = Mapping[str, Any]  # the fields of a JSON object

#: For each role, its usual special tokens in order of preference: the first one present is used.
USUAL_NAMES = {
    "bos": ("<|bos|>", "<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("<|eos|>", "</s>", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("<|pad|>", "<pad>"),
}


class Tokenizer(Protocol):
    """Converts text to ids and back.

    Attributes:
        name: A display name.
        vocab_size: One more than the highest id, special tokens included.
        tokens: The bytes of each id; those of a special token spell its name.
        bos_id, eos_id, pad_id: The ids of the BOS, EOS and padding tokens; None if there is none.
        extra_end_ids: The ids, besides `eos_id`, that end generation.
        special_tokens: The id of each special token.
        chat_template: The Jinja source of the model's chat template, or None; see `render`.
        add_bos: Whether the model expects a BOS token; `encode` adds one only with ``bos=True``.
        files: The contents of the files that the tokenizer was read from, by name; see `save_tokenizer`.
    """

    name: str
    vocab_size: int
    tokens: Sequence[bytes] = ()
    special_tokens: Mapping[str, int]
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    chat_template: str | None = None
    add_bos: bool = False
    extra_end_ids: Set[int] = frozenset()
    files: Mapping[str, bytes] = MappingProxyType({})

    def __repr__(self) -> str:
        size = f"{self.vocab_size} ids, {len(self.special_tokens)} special tokens"
        return f"{type(self).__name__} {self.name!r}: {size}"

    @property
    def end_ids(self) -> frozenset[int]:
        """All ids that end generation: `eos_id` and `extra_end_ids`."""
        return frozenset(i for i in (self.eos_id, *self.extra_end_ids) if i is not None)

    def roles(self) -> dict[str, str]:
        """The special token of each role ("bos", "eos" or "pad") that has one."""
        names = {i: token for token, i in self.special_tokens.items()}
        ids = {role: getattr(self, f"{role}_id") for role in USUAL_NAMES}
        return {role: names[i] for role, i in ids.items() if i in names}

    @abstractmethod
    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text, treating special tokens as ordinary text; `continued` means that text precedes it."""
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
            text: Any string; lone surrogates, which UTF-8 cannot encode, become U+FFFD.
            bos: Whether to prepend the BOS token.
            eos: Whether to append the EOS token.
            allowed_special: The special tokens to recognize in the text: one, several, or "all". Any other
                special token in it is encoded as ordinary text.

        Raises:
            UserError: A requested token does not exist.
        """
        ids = [self._id_of("bos")] if bos else []
        if isinstance(allowed_special, str):
            allowed_special = self.special_tokens if allowed_special == "all" else [allowed_special]
        allowed = frozenset(allowed_special)
        if unknown := allowed - set(self.special_tokens):
            known = ", ".join(self.special_tokens) or "none"
            raise UserError(f"{sorted(unknown)[0]!r} is no special token of {self.name}; it has: {known}.")
        ids += self.encode_special(text, allowed) if allowed else self.encode_text(text)
        return [*ids, self._id_of("eos")] if eos else ids

    def encode_special(self, text: str, allowed: frozenset[str]) -> list[int]:
        """Encode text, recognizing the special tokens in `allowed`, the longest first."""
        ids: list[int] = []
        for part in split_at(text, {token: {} for token in allowed}):
            ids += [self.special_tokens[part]] if part in allowed else self.encode_text(part)
        return ids

    def _id_of(self, role: str) -> int:
        found = getattr(self, f"{role}_id")
        if found is None:
            how = f"train it with special token '<|{role}|>', or ask for none"
            raise UserError(f"{self.name} has no {role} token; {how}.")
        return found

    def id_bytes(self, i: int, *, start: bool) -> bytes:
        """The bytes that an id below `vocab_size` adds to a text; `start` means that the id comes first."""
        return self.tokens[i]

    def starts_anew(self, i: int) -> bool:
        """Whether the token after `i` is decoded as if it began a text."""
        return False

    def starts_after(self, ids: Sequence[int]) -> bool:
        """Whether the token after these ids is decoded as if it began a text."""
        last = next((i for i in reversed(ids) if i < self.vocab_size), None)
        return last is None or self.starts_anew(last)

    def token_bytes(self, ids: Iterable[int], *, after: Sequence[int] = ()) -> Iterator[bytes]:
        """The bytes that each id adds to the text.

        A model may have more embeddings than its tokenizer has tokens; ids beyond the vocabulary add nothing.

        Args:
            ids: The ids.
            after: The ids that precede them, such as a prompt. They are not decoded, but some tokenizers drop
                a space at the start of a text and keep it after other ids.

        Raises:
            UserError: An id is negative.
        """
        start = self.starts_after(after)
        for i in ids:
            if i < 0:
                raise UserError(f"Id {i} is outside the vocabulary of {self.name}; ids start at 0.")
            if i < self.vocab_size:
                yield self.id_bytes(i, start=start)
                start = self.starts_anew(i)
            else:
                yield b""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode ids to the exact bytes they stand for; see `token_bytes`."""
        return b"".join(self.token_bytes(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text; invalid UTF-8, such as an incomplete character, becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode_batch(
        self, texts: Sequence[str], *, pad: Literal["left", "right"] = "right"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Encode several texts and pad them to the same length.

        Args:
            texts: B texts.
            pad: The side on which to pad short rows; "left" is for generation, where all rows must end at the
                same position.

        Returns:
            ids and mask, both (B, T) int64, where T is the length of the longest row; the mask is 1 on text
            and 0 on padding.

        Raises:
            UserError: Rows differ in length and there is neither a padding nor an EOS token.
        """
        if pad not in ("left", "right"):
            raise UserError(f"pad must be 'left' or 'right', not {pad!r}.")
        rows = [self.encode(text) for text in texts]
        width = max(map(len, rows), default=0)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        columns = np.arange(width) if pad == "right" else np.arange(width)[::-1]
        mask = np.less(columns, lengths[:, None])
        fill = self.pad_id if self.pad_id is not None else self.eos_id
        if fill is None and not mask.all():
            raise UserError(f"{self.name} has no padding or end token to pad with; train '<|pad|>'.")
        ids = np.full(mask.shape, fill or 0, dtype=np.int64)
        ids[mask] = [i for row in rows for i in row]
        return ids, mask.astype(np.int64)


def usual_roles(tokens: Mapping[str, int]) -> dict[str, str]:
    """The token of each role that has one of its usual names among `tokens`."""
    last_first = {role: reversed(names) for role, names in USUAL_NAMES.items()}
    return {role: name for role, names in last_first.items() for name in names if name in tokens}


def any_of(words: Iterable[str], single_words: Set[str] = frozenset()) -> regex.Pattern[str]:
    """A pattern that matches any of the words, the longest first, `single_words` only as whole words."""
    longest_first = sorted(words, key=len, reverse=True)
    escaped = {word: regex.escape(word) for word in longest_first}
    escaped |= {word: rf"(?<!\w){escaped[word]}(?!\w)" for word in single_words}
    return regex.compile("(" + ("|".join(escaped.values()) or "(?!)") + ")")


def split_at(text: str, tokens: Mapping[str, Fields]) -> list[str]:
    """Split a text at tokens; every second part is a token.

    Args:
        text: The text.
        tokens: The flags of each token: ``lstrip`` and ``rstrip`` remove the white space before and after it;
            ``single_word`` matches it only as a whole word.
    """
    parts = any_of(tokens, {t for t, flags in tokens.items() if flags.get("single_word")}).split(text)
    for i in range(1, len(parts), 2):
        flags = tokens[parts[i]]
        if flags.get("lstrip"):
            parts[i - 1] = parts[i - 1].rstrip()
        if flags.get("rstrip"):
            parts[i + 1] = parts[i + 1].lstrip()
    return parts
