"""Tokenizers given by ranks (GPT-2, LLaMA-3): each token's bytes and its place in the order of merging."""

from collections.abc import Iterable, Mapping

import tiktoken

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import Template
from myllm.tokenizers.patterns import compile_pattern, well_formed


def byte_symbols() -> list[str]:
    """The printable character by which GPT-2's files write each of the 256 bytes.

    A printable byte of Latin-1 stands for itself; the other 68 become U+0100, U+0101, … in order, so that the
    space is ``Ġ`` and the line end ``Ċ`` (``bytes_to_unicode`` in Radford et al. 2019, ``encoder.py``).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]


class RankedBPE(Tokenizer):
    """A byte-level BPE given by ranks, encoded by the library `tiktoken`.

    It has no list of merges: of two neighbours whose joined bytes are a token, those of the lowest rank merge
    first, and the rank is the id.

    Attributes:
        encoding: The `tiktoken.Encoding`.
    """

    def __init__(
        self,
        name: str,
        ranks: Mapping[bytes, int],
        *,
        pattern: str,
        special_tokens: Mapping[str, int],
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        chat_template: Template | None = None,
    ):
        self.name = name
        self.pattern = pattern
        self.special_tokens = dict(special_tokens)
        self.encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=self.special_tokens
        )
        self.vocab_size = self.encoding.n_vocab
        self.bos_id, self.eos_id, self.pad_id = (
            None if token is None else self.special_tokens[token] for token in (bos, eos, pad)
        )
        self.chat_template = chat_template

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Turn text into ids, none of them special; what stands before it makes no difference."""
        text = well_formed(text)
        try:
            return self.encoding.encode(text, disallowed_special=())
        except ValueError:  # its regular expressions give up on some 500,000 spaces in a row
            chunks = compile_pattern(self.pattern).findall(text)
            encode = self.encoding._encode_single_piece  # pyright: ignore[reportPrivateUsage]
            return [i for chunk in chunks for i in encode(chunk)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into the exact bytes they stand for.

        Raises:
            UserError: An id is outside the vocabulary.
        """
        ids = list(ids)
        try:
            return self.encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise UserError(
                f"Id {wrong} is outside the vocabulary of {self.name}, which ends at {self.vocab_size - 1}."
            ) from None

    def __repr__(self) -> str:
        return f"RankedBPE {self.name!r}: {self.vocab_size} ids, {len(self.special_tokens)} of them special"
