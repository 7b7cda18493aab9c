"""``myllm tokenizer``: train, encode, decode."""

import json as js
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from myllm.files import Source, UserError, atomic_writer, read_text, read_text_blocks

File = Annotated[str, arg(metavar="PATH")]
Files = Annotated[tuple[str, ...], Positional, arg(metavar="[FILE …]")]
Special = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="TOKEN")]


def train(
    files: Files = (),
    /,
    *,
    vocab_size: Annotated[int, arg(metavar="N")],
    out: File,
    pattern: Literal["gpt2", "gpt4", "smollm2"] = "gpt2",
    special: Special = (),
    json: bool = False,
) -> None:
    """Train a byte-level BPE tokenizer on text files.

    The files are read piece by piece, so they may be larger than memory. No token spans two files.

    Examples:
        myllm tokenizer train book.txt --vocab-size 4096 --out book.json
        myllm tokenizer train *.txt --vocab-size 8192 --pattern gpt4 --special '<|endoftext|>' --out all.json
        xzcat corpus.xz | myllm tokenizer train --vocab-size 1024 --out corpus.json

    Args:
        files: UTF-8 text files; standard input without any.
        vocab_size: Ids in all: 256 bytes, the merges, and the special tokens.
        out: The tokenizer file to write.
        pattern: How text is cut into words before merging.
        special: A special token.
        json: Print one JSON object about the result.
    """
    from myllm.tokenizers.bpe import BPE
    from myllm.tokenizers.patterns import PATTERNS

    _try(out)
    text = (piece for source in files or [_standard_input()] for piece in _pieces(source))
    bpe = BPE.train(text, vocab_size, pattern=PATTERNS[pattern], special_tokens=special)
    bpe.save(out)
    if json:
        made = {"path": out, "vocab_size": bpe.vocab_size, "merges": len(bpe.merges), "pattern": pattern}
        print(js.dumps({**made, "special_tokens": bpe.special_tokens}))
    else:
        print(f"{out}: {bpe.vocab_size:,} ids, {len(bpe.merges):,} of them merges")


def encode(
    text: Annotated[str | None, Positional, arg(metavar="[TEXT]")] = None,
    /,
    *,
    tokenizer: File,
    file: Annotated[str | None, arg(metavar="PATH")] = None,
    json: bool = False,
) -> None:
    """Turn text into ids, on one line.

    Text that looks like a special token is ordinary text.

    Examples:
        myllm tokenizer encode --tokenizer book.json 'To be, or not to be'
        myllm tokenizer encode --tokenizer book.json --file chapter.txt --json
        myllm tokenizer encode --tokenizer book.json < chapter.txt

    Args:
        text: The text; standard input without it and without --file.
        tokenizer: A file that `myllm tokenizer train` wrote.
        file: A UTF-8 text file to encode.
        json: Print one JSON array.
    """
    from myllm.tokenizers.bpe import BPE

    if text is not None and file is not None:
        raise UserError("Give a text or --file, not both.")
    bpe = BPE.load(tokenizer)
    pieces = [text] if text is not None else _pieces(_standard_input() if file is None else file)
    before, between, after = ("[", ", ", "]\n") if json else ("", " ", "\n")
    sys.stdout.write(before)
    gap = ""
    for piece in pieces:
        for i in bpe.encode(piece):
            sys.stdout.write(f"{gap}{i}")
            gap = between
    sys.stdout.write(after)


def decode(
    ids: Annotated[tuple[str, ...], Positional, arg(metavar="[ID …]")] = (),
    /,
    *,
    tokenizer: File,
    json: bool = False,
) -> None:
    """Turn ids back into text, byte for byte.

    Examples:
        myllm tokenizer decode --tokenizer book.json 84 111 260
        myllm tokenizer encode --tokenizer book.json < a.txt | myllm tokenizer decode --tokenizer book.json

    Args:
        ids: Whole numbers; without any, read from standard input, plain or as a JSON array.
        tokenizer: A file that `myllm tokenizer train` wrote.
        json: Print one JSON string; broken UTF-8 becomes U+FFFD.
    """
    from myllm.tokenizers.bpe import BPE

    bpe = BPE.load(tokenizer)
    words = re.split(r"[\s,\[\]]+", " ".join(ids) if ids else read_text(_standard_input()))
    numbers = [_id(word) for word in words if word]
    if json:
        return print(js.dumps(bpe.decode(numbers)))
    data = bpe.decode_bytes(numbers)
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty() and not data.endswith(b"\n"):
        print()


commands = {"train": train, "encode": encode, "decode": decode}


def _pieces(source: Source) -> Iterator[str]:
    from myllm.tokenizers.patterns import pieces

    return pieces(read_text_blocks(source))


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
    """See before the long work that its result can be written; ``path`` stays as it is."""
    with suppress(_TriedError), atomic_writer(path):
        raise _TriedError
