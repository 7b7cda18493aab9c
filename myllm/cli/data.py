"""``myllm data``: build token shards from text, and check them."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from myllm.checks import near
from myllm.files import UserError, expand, read_text_blocks

if TYPE_CHECKING:
    from myllm.tokenizers.base import Tokenizer

Folder = Annotated[str, arg(metavar="FOLDER")]


@dataclass(frozen=True)
class Build:
    """Encode texts into a folder of token shards, which training reads without loading them whole.

    Each text file is one document, and so is each line of a .jsonl file, with its text under "text". A corpus
    of the course is given by its name. Each document ends with the tokenizer's end token, if it has one. The
    folder appears only when everything has been written.

    Examples:
        myllm data build shakespeare --tokenizer gpt2 --out shakespeare-gpt2
        myllm data build *.txt notes.jsonl --tokenizer notes.json --out notes --clean
    """

    files: Annotated[tuple[str, ...], Positional, arg(metavar="FILE …")]
    """UTF-8 text files, .jsonl files, or names of corpora."""
    tokenizer: Annotated[str, arg(metavar="NAME|PATH")]
    """A tokenizer by name or file, or "bytes": each byte is an id."""
    out: Folder
    """The folder to make."""
    clean: bool = False
    """Clean each document first (see myllm.data.corpus.clean); each must then fit in memory."""
    json: bool = False
    """Print one JSON object about the result."""

    def run(self) -> int:
        """Build, then report the result."""
        from myllm.data.corpus import clean
        from myllm.data.shards import hash_vocabulary, write_shards

        if not self.files:
            raise UserError("Name at least one file or corpus to build from.")
        tokenizer = load(self.tokenizer)
        texts = (document for file in self.files for document in documents(file))
        if self.clean:
            texts = ([clean("".join(document))] for document in texts)
        ids = (encode(tokenizer, document) for document in texts)
        vocab_hash = hash_vocabulary(tokenizer)
        write_shards(ids, self.out, vocab_size=tokenizer.vocab_size, vocab_hash=vocab_hash)
        _report(self.out, self.json)
        return 0


@dataclass(frozen=True)
class Info:
    """Check every byte of a folder of shards, and print what it holds.

    Examples:
        myllm data info shakespeare-gpt2
        myllm data info shakespeare-gpt2 --tokenizer gpt2 --json
    """

    folder: Annotated[str, Positional, arg(metavar="FOLDER")]
    """What `myllm data build` made."""
    tokenizer: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Check that the ids were made with this tokenizer."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Print sizes and the vocabulary's hash."""
        _report(self.folder, self.json, None if self.tokenizer is None else load(self.tokenizer))
        return 0


COMMANDS = {"build": Build, "info": Info}


def load(name: str) -> "Tokenizer":
    """A tokenizer by name or file; with "bytes", each byte is an id."""
    if name == "bytes":
        from myllm.tokenizers.bpe import BPE

        return BPE([], name="bytes")
    from myllm.tokenizers.pretrained import load_tokenizer

    return load_tokenizer(name)


def documents(file: str) -> Iterator[Iterable[str]]:
    """The documents of a file or corpus, each as the pieces of its text."""
    from myllm.data import corpus

    if file in corpus.CORPORA and not Path(file).exists():
        for document in corpus.load(file):
            yield [document.text]
    elif not Path(file).suffix and not os.path.lexists(expand(file)):
        raise misspelt(file)
    elif file.lower().endswith(".jsonl"):
        for number, line in enumerate(_lines(read_text_blocks(file)), 1):
            if line.strip():
                yield [_text(line, f"line {number} of {file}")]
    else:
        yield read_text_blocks(file)


def misspelt(name: str) -> UserError:
    """The error for a name that is neither a file nor a corpus."""
    from myllm.data.corpus import CORPORA

    return UserError(f"There is no file and no corpus {name!r}; {near(name, CORPORA)}")


def _lines(blocks: Iterable[str]) -> Iterator[str]:
    """Regroup blocks of text into lines."""
    pending: list[str] = []
    for block in blocks:
        first, *others = block.split("\n")
        pending.append(first)
        for part in others:
            yield "".join(pending)
            pending = [part]
    yield "".join(pending)


def _text(line: str, where: str) -> str:
    text: Any = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        text = json.loads(line.removeprefix("\ufeff"))["text"]  # a BOM occurs where files were joined
    if not isinstance(text, str):
        raise UserError(f'There is no JSON object with a "text" in {where}; fix or remove that line.')
    return text


def encode(tokenizer: "Tokenizer", document: Iterable[str]) -> Iterator[int]:
    """The ids of a document and the end token, encoded piece by piece if the cuts change no id."""
    from myllm.tokenizers.bpe import BPE
    from myllm.tokenizers.patterns import PATTERNS, pieces
    from myllm.tokenizers.ranks import RankedBPE

    if type(tokenizer) in (BPE, RankedBPE) and getattr(tokenizer, "pattern", "") in PATTERNS.values():
        parts = pieces(document)
    else:
        parts = ["".join(document)]
    for part in parts:
        yield from tokenizer.encode(part)
    if tokenizer.eos_id is not None:
        yield tokenizer.eos_id


def _report(folder: str, as_json: bool, tokenizer: "Tokenizer | None" = None) -> None:
    from myllm.data.shards import Shards

    shards = Shards(folder, tokenizer=tokenizer)
    facts: dict[str, Any] = {
        "path": folder,
        "tokens": len(shards),
        "documents": len(shards.documents) - 1,
        "shards": len(shards.parts),
        "dtype": str(shards.parts[0].dtype),
        "vocab_size": shards.vocab_size,
        "vocab_hash": shards.vocab_hash,
    }
    if as_json:
        return print(json.dumps(facts))
    print(
        "{path}: {tokens:,} tokens as {dtype}, documents: {documents:,}, shards: {shards:,}".format(**facts)
    )
    print("vocabulary: {vocab_size:,} ids, {vocab_hash}".format(**facts))
