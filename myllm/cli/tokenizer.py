"""``myllm tokenizer``: train, encode, decode, compare."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from myllm.files import Source, UserError, atomic_writer, expand, read_text, read_text_blocks

if TYPE_CHECKING:
    from myllm.tokenizers.base import Tokenizer

File = Annotated[str, arg(metavar="PATH")]


@dataclass(frozen=True)
class Train:
    """Train a byte-level BPE tokenizer on text files.

    The files are read piece by piece, so they may be larger than memory. No token spans two files.

    Examples:
        myllm tokenizer train book.txt --vocab-size 4096 --out book.json
        myllm tokenizer train *.txt --vocab-size 8192 --pattern gpt4 --special '<|endoftext|>' --out all.json
        xzcat corpus.xz | myllm tokenizer train --vocab-size 1024 --out corpus.json
    """

    vocab_size: Annotated[int, arg(metavar="N")]
    """Ids in all: 256 bytes, the merges, and the special tokens."""
    out: File
    """The tokenizer file to write."""
    files: Annotated[tuple[str, ...], Positional, arg(metavar="[FILE …]")] = ()
    """UTF-8 text files; standard input without any."""
    pattern: Literal["gpt2", "gpt4", "smollm2"] = "gpt2"
    """How text is split into words before merging."""
    special: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="TOKEN")] = ()
    """A special token."""
    json: bool = False
    """Print one JSON object about the result."""

    def run(self) -> int:
        """Train, save, and report the result."""
        from myllm.tokenizers.bpe import BPE
        from myllm.tokenizers.patterns import PATTERNS

        if any(expand(file) == expand(self.out) for file in self.files):
            raise UserError(f"--out {self.out} is one of the texts, which would be lost; name another file.")
        _try(self.out)
        text = (piece for source in self.files or [_standard_input()] for piece in _pieces(source))
        bpe = BPE.train(text, self.vocab_size, pattern=PATTERNS[self.pattern], special_tokens=self.special)
        bpe.save(self.out)
        made = {"path": self.out, "vocab_size": bpe.vocab_size, "merges": len(bpe.merges)}
        if self.json:
            print(json.dumps({**made, "pattern": self.pattern, "special_tokens": bpe.special_tokens}))
        else:
            print(f"{self.out}: {bpe.vocab_size:,} ids, {len(bpe.merges):,} of them merges")
        return 0


@dataclass(frozen=True)
class Encode:
    """Encode text as ids, on one line.

    Text that looks like a special token is encoded as ordinary text.

    Examples:
        myllm tokenizer encode --tokenizer book.json 'To be, or not to be'
        myllm tokenizer encode --tokenizer book.json --file chapter.txt --json
        myllm tokenizer encode --tokenizer book.json < chapter.txt
        myllm tokenizer encode --tokenizer book.json --pieces 'To be, or not to be'
    """

    tokenizer: Annotated[str, arg(metavar="NAME|PATH")]
    """gpt2, llama3, mistral, smollm2, or the path of a tokenizer file or folder."""
    text: Annotated[str | None, Positional, arg(metavar="[TEXT]")] = None
    """The text; standard input without it and without --file."""
    file: Annotated[str | None, arg(metavar="PATH")] = None
    """A UTF-8 text file to encode."""
    pieces: bool = False
    """Print the text of each token instead of its id, as Python writes it; broken UTF-8 stays bytes."""
    json: bool = False
    """Print one JSON array; broken UTF-8 becomes U+FFFD."""

    def run(self) -> int:
        """Print the ids, piece by piece."""
        if self.text is not None and self.file is not None:
            raise UserError("Give a text or --file, not both.")
        tokenizer = _load(self.tokenizer)
        source = _standard_input() if self.text is None and self.file is None else self.file
        pieces = [self.text or ""] if source is None else _parts(tokenizer, source)
        before, between, after = ("[", ", ", "]\n") if self.json else ("", " ", "\n")
        gap = before
        for piece in pieces:
            ids = tokenizer.encode(piece)
            shown = map(self._written, tokenizer.token_bytes(ids)) if self.pieces else ids
            for one in shown:
                sys.stdout.write(f"{gap}{one}")
                gap = between
        sys.stdout.write(after if gap == between else before + after)
        return 0

    def _written(self, token: bytes) -> str:
        """A token between quotes."""
        if self.json:
            return json.dumps(token.decode(errors="replace"))
        with suppress(UnicodeDecodeError):
            return repr(token.decode())
        return repr(token)


@dataclass(frozen=True)
class Decode:
    """Decode ids into text, byte for byte.

    Examples:
        myllm tokenizer decode --tokenizer book.json 84 111 260
        myllm tokenizer encode --tokenizer book.json < a.txt | myllm tokenizer decode --tokenizer book.json
    """

    tokenizer: Annotated[str, arg(metavar="NAME|PATH")]
    """gpt2, llama3, mistral, smollm2, or the path of a tokenizer file or folder."""
    ids: Annotated[tuple[str, ...], Positional, arg(metavar="[ID …]")] = ()
    """Whole numbers; without any, read from standard input, plain or as a JSON array."""
    json: bool = False
    """Print one JSON string; broken UTF-8 becomes U+FFFD."""

    def run(self) -> int:
        """Print the text."""
        tokenizer = _load(self.tokenizer)
        words = re.split(r"[\s,\[\]]+", " ".join(self.ids) if self.ids else read_text(_standard_input()))
        ids = [_id(word) for word in words if word]
        for i in ids:
            if not 0 <= i < tokenizer.vocab_size:
                last = tokenizer.vocab_size - 1
                raise UserError(
                    f"Id {i} is outside the vocabulary of {tokenizer.name}, which ends at {last}."
                )
        if self.json:
            print(json.dumps(tokenizer.decode(ids)))
            return 0
        data = tokenizer.decode_bytes(ids)
        sys.stdout.buffer.write(data)
        if sys.stdout.isatty() and not data.endswith(b"\n"):
            print()
        return 0


@dataclass(frozen=True)
class Compare:
    """Show how several tokenizers encode one text.

    A tokenizer is gpt2, llama3, mistral, smollm2, or the path of a tokenizer file.

    Examples:
        myllm tokenizer compare 'Tokyo is 東京 🙂'
        myllm tokenizer compare --file chapter.txt
        myllm tokenizer compare --tokenizer gpt2 --tokenizer book.json 'To be, or not to be' --json
    """

    text: Annotated[str | None, Positional, arg(metavar="[TEXT]")] = None
    """The text; standard input without it and without --file."""
    file: Annotated[str | None, arg(metavar="PATH")] = None
    """A UTF-8 text file to compare on."""
    tokenizer: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME|PATH")] = ()
    """A tokenizer; gpt2, mistral and smollm2 where none is named."""
    json: bool = False
    """Print JSON, with all ids and the bytes of each as text; broken UTF-8 becomes U+FFFD."""

    def run(self) -> int:
        """Encode with each, and print the table."""
        from myllm.tokenizers.pretrained import load_tokenizer

        if self.text is not None and self.file is not None:
            raise UserError("Give a text or --file, not both.")
        source = _standard_input() if self.text is None and self.file is None else self.file
        text = self.text or "" if source is None else read_text(source)
        size = len(text.encode(errors="replace"))
        rows: list[dict[str, Any]] = []
        for name in self.tokenizer or ("gpt2", "mistral", "smollm2"):
            tokenizer = load_tokenizer(name)
            ids = tokenizer.encode(text)
            rows.append(
                {
                    "tokenizer": name,
                    "vocab_size": tokenizer.vocab_size,
                    "tokens": len(ids),
                    "bytes_per_token": round(size / len(ids), 2) if ids else None,
                    "ids": ids,
                    "pieces": [*tokenizer.token_bytes(ids if self.json else ids[:SHOWN])],
                }
            )
        if self.json:
            pieces = [[piece.decode(errors="replace") for piece in row["pieces"]] for row in rows]
            print(json.dumps([{**row, "pieces": p} for row, p in zip(rows, pieces, strict=True)]))
        else:
            _print(rows)
        return 0


COMMANDS = {"train": Train, "encode": Encode, "decode": Decode, "compare": Compare}
SHOWN = 60  # the most tokens of each tokenizer in the table of `compare`


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    numbers = (Column(name, justify="right") for name in ("Vocabulary", "Tokens", "Bytes a token"))
    table = Table("Tokenizer", *numbers, Column("Pieces", overflow="fold"), box=None, header_style="bold")
    for row in rows:
        more = "|…" if row["tokens"] > SHOWN else ""
        pieces = Text("|".join(map(_visible, row["pieces"])) + more)
        rate = f"{row['bytes_per_token']:.2f}" if row["tokens"] else "–"
        table.add_row(row["tokenizer"], f"{row['vocab_size']:,}", f"{row['tokens']:,}", rate, pieces)
    Console(highlight=False).print(table)


def _load(name: str) -> "Tokenizer":
    """A published tokenizer, or one of ours, named after its file."""
    from myllm.tokenizers.bpe import BPE
    from myllm.tokenizers.pretrained import load_tokenizer

    tokenizer = load_tokenizer(name)
    if isinstance(tokenizer, BPE):
        tokenizer.name = Path(name).stem
    return tokenizer


def _visible(piece: bytes) -> str:
    """A token on one line: spaces as ␣, what cannot be shown as escapes."""
    text = piece.decode(errors="backslashreplace").replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _pieces(source: Source) -> Iterator[str]:
    from myllm.tokenizers.patterns import pieces

    return pieces(read_text_blocks(source))


def _parts(tokenizer: "Tokenizer", source: Source) -> Iterable[str]:
    """The text of a file, piece by piece where a cut changes no id."""
    from myllm.tokenizers.bpe import BPE

    return _pieces(source) if isinstance(tokenizer, BPE) else [read_text(source)]


def _standard_input() -> Source:
    if sys.stdin.isatty():
        raise UserError("There is nothing to read; name it on the command line or pipe it in.")
    return sys.stdin.buffer


def _id(word: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", word):
        raise UserError(f"{word[:40]!r} is not an id; ids are whole numbers such as 72.")
    return int(word)


class _TriedError(Exception):
    pass


def _try(path: str) -> None:
    """Check before the long work that its result can be written; ``path`` is left unchanged."""
    with suppress(_TriedError), atomic_writer(path):
        raise _TriedError
