"""The byte-level BPE tokenizer: text becomes ids by learned merges, ids become text by joining bytes."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from myllm.files import UserError, atomic_write, read_json
from myllm.tokenizers.base import USUAL_NAMES, Tokenizer, usual_roles
from myllm.tokenizers.merges import Pair, count_chunks, encode_chunk, train
from myllm.tokenizers.patterns import GPT2, PATTERNS, compile_pattern, pieces, well_formed

if TYPE_CHECKING:
    import tiktoken

FORMAT = "myllm-bpe-1"
CACHE_SIZE = 1 << 16  # chunks remembered by an encoder, about 10 MB
CACHE_CHUNK = 64  # the longest chunk remembered, in characters; longer ones seldom recur
MAX_TOKENS = 1 << 28  # the most bytes of all tokens together; each merge can double the longest


class BPE(Tokenizer):
    """A byte-level BPE tokenizer: its ids are the 256 bytes, the merges and the special tokens, in order.

    Any text and any bytes can be encoded, and decoding restores them. Special tokens are recognized only if
    `encode` is told to allow them; otherwise text that looks like one is ordinary text.

    Attributes:
        name: A display name.
        vocab_size: The number of bytes, merges and special tokens together.
        special_tokens: The id of each special token.
        bos_id, eos_id, pad_id: The ids of the BOS, EOS and padding tokens, or None.
        merges: The id that each pair of ids merges into, in the order in which they were learned.
        tokens: The bytes of each id; those of a special token spell its name.
    """

    def __init__(
        self,
        merges: Iterable[Pair],
        *,
        pattern: str = GPT2,
        special_tokens: Sequence[str] = (),
        name: str = "bpe",
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
    ):
        self.name = name
        self.pattern = pattern
        self.tokens = [bytes([byte]) for byte in range(256)]
        self.merges: dict[Pair, int] = {}
        size = 0
        for n, (left, right) in enumerate(merges):
            if min(left, right) < 0 or max(left, right) >= len(self.tokens):
                raise UserError(f"Merge {n} joins ids {left} and {right}, which do not exist yet.")
            self.merges[left, right] = len(self.tokens)
            size += len(self.tokens[left]) + len(self.tokens[right])
            if size > MAX_TOKENS:
                raise UserError(f"{n + 1} merges make more than {MAX_TOKENS:,} bytes of tokens.")
            self.tokens.append(self.tokens[left] + self.tokens[right])
        if len(self.merges) + 256 != len(self.tokens):
            raise UserError("A merge is listed twice; each pair may be merged once.")
        special = enumerate(check_special(special_tokens), start=len(self.tokens))
        self.special_tokens = {token: i for i, token in special}
        self.tokens += [token.encode() for token in self.special_tokens]
        self.vocab_size = len(self.tokens)
        given = {"bos": bos, "eos": eos, "pad": pad}
        roles = usual_roles(self.special_tokens) | {
            r: token for r, token in given.items() if token is not None
        }
        for role, token in roles.items():
            if token not in self.special_tokens:
                raise UserError(f"The {role} token {token!r} is not among the special tokens; add it there.")
            setattr(self, f"{role}_id", self.special_tokens[token])
        self._split = compile_pattern(pattern).findall
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int,
        *,
        pattern: str = GPT2,
        special_tokens: Sequence[str] = (),
        progress: bool | None = None,
    ) -> Self:
        """Learn a vocabulary from text.

        Args:
            text: One text, or an iterable of texts; one at a time is held in memory, and no chunk spans two.
            vocab_size: The total number of ids: 256 bytes, the merges, and the special tokens.
            pattern: How text is split into chunks; see `myllm.tokenizers.patterns`.
            special_tokens: The special tokens; they get the last ids.
            progress: Whether to show a progress bar; None shows one only on a terminal.

        Raises:
            UserError: `vocab_size` is too small for the bytes and special tokens, or too large for the text.
        """
        special_tokens = check_special(special_tokens)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            least = (
                f"256 bytes and {len(special_tokens)} special tokens need at least {vocab_size - n_merges}"
            )
            raise UserError(f"A vocabulary of {vocab_size} is too small: {least}.")
        if isinstance(text, str):
            text = pieces([text]) if pattern in PATTERNS.values() else [text]
        chunks = count_chunks(text, pattern)
        if not chunks:
            raise UserError("There is no text to learn from; give at least a few words.")
        merges = _train_with_bar(chunks, n_merges, progress)
        if len(merges) < n_merges:
            most = f"ask for at most {vocab_size - n_merges + len(merges)}, or give more text"
            raise UserError(f"This text has too few pairs for a vocabulary of {vocab_size}: {most}.")
        return cls(merges, pattern=pattern, special_tokens=special_tokens)

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Encode text, treating special tokens as ordinary text; `continued` makes no difference."""
        ids: list[int] = []
        for chunk in self._chunks(well_formed(text)):
            known = self._cache.get(chunk)
            if known is None:
                known = encode_chunk(chunk.encode(), self.merges)
                if len(chunk) <= CACHE_CHUNK:
                    if len(self._cache) >= CACHE_SIZE:
                        self._cache.clear()
                    self._cache[chunk] = known
            ids += known
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """Encode any bytes, valid UTF-8 or not; `decode_bytes` restores them."""
        ids: list[int] = []
        for chunk in self._chunks(data.decode("utf-8", "surrogateescape")):
            ids += encode_chunk(chunk.encode("utf-8", "surrogateescape"), self.merges)
        return ids

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as one JSON file, completely or not at all."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "pattern": self.pattern,
            "special_tokens": list(self.special_tokens),
            "merges": list(self.merges),
            **dict.fromkeys(USUAL_NAMES),
            **self.roles(),
        }
        atomic_write(path, json.dumps(content | {"sha256": _digest(content)}))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a tokenizer that `save` wrote.

        Raises:
            UserError: The file is missing, incomplete, modified, or of another kind.
        """
        fields: Any = read_json(path, "a tokenizer")
        if not hasattr(fields, "items") or fields.get("format") != FORMAT:
            raise UserError(f"{path} is no tokenizer of ours; make one with `myllm tokenizer train`.")
        with suppress(AttributeError, KeyError, RecursionError, TypeError, ValueError):
            if fields.pop("sha256") == _digest(fields):
                del fields["format"]
                return cls(**fields)
        raise UserError(f"{path} is a damaged tokenizer file; train or copy it again.")

    def to_tiktoken(self) -> "tiktoken.Encoding":
        """The same tokenizer as a `tiktoken.Encoding`, which encodes several times as fast.

        With learned merges it gives the same ids as `encode`. It looks up a token by its bytes, not by its
        pair, so it cannot distinguish two merges that make the same bytes. Characters newer than the Unicode
        version that it was built with may be split differently.

        Raises:
            UserError: Two merges make the same bytes.
        """
        import tiktoken

        ranks = {token: i for i, token in enumerate(self.tokens[: 256 + len(self.merges)])}
        if len(ranks) < 256 + len(self.merges):
            raise UserError(f"Two merges of {self.name} make the same bytes, which tiktoken cannot express.")
        return tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=dict(self.special_tokens)
        )

    def __repr__(self) -> str:
        special = f", special tokens {', '.join(self.special_tokens)}" if self.special_tokens else ""
        return f"BPE {self.name!r}: {self.vocab_size} ids, {len(self.merges)} merges{special}"

    def _chunks(self, text: str) -> list[str]:
        chunks = self._split(text)
        if sum(map(len, chunks)) != len(text):
            raise UserError(f"The split pattern of {self.name} leaves characters of this text out.")
        return chunks


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_special(tokens: Sequence[str]) -> list[str]:
    """Check special tokens and return them as a list.

    Raises:
        UserError: One of them is empty, a duplicate or not encodable in UTF-8, or they are a single string.
    """
    if isinstance(tokens, str):
        raise UserError(f"special_tokens must be a list of names; write [{tokens!r}].")
    if not all(tokens) or len(set(tokens)) != len(tokens):
        raise UserError("Special tokens must be different and not empty.")
    if any(well_formed(token) != token for token in tokens):
        raise UserError("A special token has a lone surrogate, which UTF-8 cannot express; leave it out.")
    return list(tokens)


def _train_with_bar(chunks: Mapping[str, int], n_merges: int, progress: bool | None) -> list[Pair]:
    """Train with a progress bar, shown if `progress` is true, or if it is None and stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    with Progress(console=console, disable=not shown) as bar:
        task = bar.add_task("Learning merges", total=n_merges)
        return train(chunks, n_merges, on_merge=(lambda: bar.advance(task)) if shown else None)
