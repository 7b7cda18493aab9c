"""Tokenizers defined by ranks (GPT-2, LLaMA-3): each token's bytes and its place in the order of merges."""

from collections.abc import Mapping

import tiktoken

from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.patterns import compile_pattern, well_formed
from myllm.tokenizers.settings import Settings


def byte_symbols() -> list[str]:
    """The printable character that stands for each of the 256 bytes in GPT-2's files.

    A printable Latin-1 byte stands for itself; the other 68 become U+0100, U+0101, … in order, so that the
    space is ``Ġ`` and the newline ``Ċ`` (``bytes_to_unicode`` in Radford et al. 2019, ``encoder.py``).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]


#: The byte that each of those characters stands for.
BYTE_OF = {symbol: byte for byte, symbol in enumerate(byte_symbols())}


class RankedBPE(Tokenizer):
    """A byte-level BPE defined by ranks and run by the `tiktoken` library.

    It has no list of merges: of the adjacent pairs whose joined bytes are a token, the one of lowest rank
    merges first, and the rank is the id.

    Args:
        name: A display name.
        ranks: The rank of each token's bytes.
        pattern: The split pattern.
        special_tokens: The id of each special token.
        settings: The roles of special tokens and the chat template.

    Attributes:
        encoding: The `tiktoken.Encoding`.
        tokens: The bytes of each id; those of a special token spell its name.
    """

    def __init__(
        self,
        name: str,
        ranks: Mapping[bytes, int],
        *,
        pattern: str,
        special_tokens: Mapping[str, int],
        settings: Settings,
    ):
        self.name, self.pattern, self.special_tokens = name, pattern, dict(special_tokens)
        self.encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=self.special_tokens
        )
        self.vocab_size = self.encoding.n_vocab
        self.tokens = [b""] * self.vocab_size
        for token, i in ranks.items():
            self.tokens[i] = token
        for token, i in special_tokens.items():
            self.tokens[i] = token.encode()
        settings.apply(self, special_tokens)
        self.add_bos = settings.config.get("add_bos_token", False)

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text, treating special tokens as ordinary text; `continued` makes no difference."""
        text = well_formed(text)
        try:
            return self.encoding.encode(text, disallowed_special=())
        except ValueError:  # its regex engine gives up on some 500,000 spaces in a row
            chunks = compile_pattern(self.pattern).findall(text)
            encode = self.encoding._encode_single_piece  # pyright: ignore[reportPrivateUsage]
            return [i for chunk in chunks for i in encode(chunk)]
