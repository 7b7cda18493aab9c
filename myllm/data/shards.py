"""Shards: token ids on disk, read through memory maps, so that a corpus may be larger than memory.

A folder of shards holds NumPy's own files and one index. ``shard-00000.npy``, ``shard-00001.npy`` … hold the
ids of whole documents, concatenated: two bytes each for a vocabulary of at most 65,536, otherwise four.
``documents.npy`` contains the offset at which each document begins. ``index.json`` contains the SHA-256 of
the vocabulary and of each file, so that a file that is truncated, missing, renamed or from another corpus is
detected when the folder is opened.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from myllm.files import BLOCK, DISK_ERRORS, StrPath, UserError, expand, read_json, sha256

FORMAT = "myllm-shards-2"
INDEX, DOCUMENTS = "index.json", "documents.npy"


class Vocabulary(Protocol):
    """The part of a tokenizer that identifies it: how many ids there are, and the bytes each stands for."""

    name: str
    vocab_size: int

    def decode_bytes(self, ids: Iterable[int], /) -> bytes:
        """The bytes that these ids stand for."""
        ...


def hash_vocabulary(tokenizer: Vocabulary) -> str:
    """The SHA-256 of the bytes that each id stands for, in order of id: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for i in range(tokenizer.vocab_size):
        token = tokenizer.decode_bytes([i])
        digest.update(len(token).to_bytes(8, "little") + token)
    return digest.hexdigest()


def write_shards(
    documents: Iterable[Iterable[int]],
    folder: StrPath,
    *,
    vocab_size: int,
    vocab_hash: str,
    shard_tokens: int = 1 << 26,
) -> list[Path]:
    """Write documents into a new folder, atomically: it appears complete or not at all.

    Only one block of ids is held at a time, so neither the corpus nor a document needs to fit in memory.

    Args:
        documents: The ids of each document, as any iterable: a list, an array, the bytes of a text.
        folder: A folder that does not exist yet, or is empty.
        vocab_size: The size of the vocabulary; every id must be smaller.
        vocab_hash: The hash of the tokenizer's vocabulary, from `hash_vocabulary`.
        shard_tokens: A shard ends with the document that brings it to this many ids or more.

    Returns:
        The shard files, in order.

    Raises:
        UserError: The folder is in use, an id lies outside the vocabulary, there are no ids, or the disk is
            full.
    """
    if not 1 <= vocab_size <= 1 << 32 or shard_tokens < 1:
        raise UserError("vocab_size must lie between 1 and 2³², and shard_tokens must be at least 1.")
    if not re.fullmatch("[0-9a-f]{64}", vocab_hash):
        raise UserError("vocab_hash must be what hash_vocabulary(tokenizer) gives: 64 hexadecimal digits.")
    names, starts, documents = list[str](), array("q", [0]), iter(documents)
    with _new_folder(folder) as temporary:
        for first in documents:  # the first of a shard; the others come from the same iterator
            names.append(f"shard-{len(names):05}.npy")
            _write_shard(temporary / names[-1], chain([first], documents), starts, vocab_size, shard_tokens)
        if not starts[-1]:
            raise UserError("There are no tokens to write; give at least one document with text.")
        np.save(temporary / DOCUMENTS, np.array(starts, "<i8"))
        files = {name: sha256(temporary / name) for name in (*names, DOCUMENTS)}
        facts = {"n_tokens": starts[-1], "vocab_size": vocab_size, "vocab_hash": vocab_hash, "files": files}
        index = {"format": FORMAT, **facts, "checksum": _checksum(facts)}
        (temporary / INDEX).write_text(json.dumps(index, indent=1))
    return [expand(folder) / name for name in names]


def _write_shard(
    path: Path, documents: Iterable[Iterable[int]], starts: "array[int]", vocab_size: int, shard_tokens: int
) -> None:
    """Write documents until there are `shard_tokens` ids; append to `starts` where each ends.

    NumPy pads the header, so it keeps its size when the length is filled in at the end.
    """
    dtype = "<u2" if vocab_size <= 1 << 16 else "<u4"
    header: dict[str, Any] = {"descr": dtype, "fortran_order": False}
    first, n = starts[-1], 0
    with path.open("xb") as file:
        write_array_header_1_0(file, {**header, "shape": (0,)})
        for document in documents:
            for block in _blocks(document, vocab_size):
                file.write(block.astype(dtype).tobytes())
                n += len(block)
            starts.append(first + n)
            if n >= shard_tokens:
                break
        file.seek(0)
        write_array_header_1_0(file, {**header, "shape": (n,)})


def _blocks(document: Iterable[int], vocab_size: int) -> Iterator[NDArray[Any]]:
    """The ids of a document in blocks, each id checked against the vocabulary."""
    ids = iter(document)
    while block := [*islice(ids, BLOCK)]:
        array = np.array(block)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise UserError(f"A document must be a sequence of integers; this one holds {block[0]!r:.40}.")
        if array.min() < 0 or array.max() >= vocab_size:
            outside = next(i for i in block if not 0 <= i < vocab_size)
            raise UserError(f"The id {outside} is outside a vocabulary of {vocab_size}; check vocab_size.")
        yield array


def _checksum(facts: dict[str, Any]) -> str:
    """The SHA-256 of what the index says, so that a changed index is detected too."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _new_folder(folder: StrPath) -> Generator[Path]:
    """A temporary folder that gets its final name when the block ends, and is removed if the block fails."""
    target = Path(os.path.realpath(expand(folder)))
    temporary = target.parent / f".{target.name[:40]}.{secrets.token_hex(4)}.tmp"
    try:
        empty = target.is_dir() and not any(target.iterdir()) and target != Path(os.path.realpath("."))
        if target.exists() and not empty:
            raise UserError(f"{folder} is in use; choose another name, or remove it first.")
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        own = str(error.filename).startswith((str(target), str(temporary)))
        if not own and error.errno not in DISK_ERRORS:  # raised by the code inside the block
            raise
        raise UserError(f"Cannot write {folder}: {error.strerror}; choose another place.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Shards:
    """The ids of all shards in a folder, as one long sequence that stays on disk.

    ``len(shards)`` counts ids, ``shards[i]`` is one of them, ``shards[i:j]`` an array of uint16 or uint32: a
    view of the file if the slice lies in one shard, otherwise a copy.

    Attributes:
        documents: Where each document begins, and the end of the last, (D + 1,) int64: document d is
            ``shards[documents[d] : documents[d + 1]]``.
        parts: The ids of each shard, memory-mapped.
        vocab_size: The size of the vocabulary; every id is smaller.
        vocab_hash: The hash of the vocabulary of the tokenizer that produced the ids.

    Args:
        folder: A folder that `write_shards` wrote.
        tokenizer: The tokenizer that the ids will be used with; it must be the one that produced them.
        verify: Whether to verify the checksums, which reads every byte once. Otherwise only files that are
            truncated, missing or unknown are refused.

    Raises:
        UserError: The folder holds no shards; they are truncated, changed, incomplete or mixed; or another
            tokenizer produced them.
    """

    def __init__(self, folder: StrPath, *, tokenizer: Vocabulary | None = None, verify: bool = True):
        folder = expand(folder)
        index = _read_index(folder)
        if {path.name for path in folder.glob("*.npy")} != index["files"].keys():
            raise UserError(f"The files in {folder} are not those of its {INDEX}; copy or build it again.")
        files = index["files"].items()
        *self.parts, self.documents = [_open(folder / name, hash if verify else None) for name, hash in files]
        self._starts = [0, *np.cumsum([len(part) for part in self.parts]).tolist()]
        if self._starts[-1] != index["n_tokens"]:
            raise UserError(f"{folder} does not hold {index['n_tokens']:,} tokens; build the shards again.")
        self.vocab_size, self.vocab_hash = index["vocab_size"], index["vocab_hash"]
        if tokenizer is not None and hash_vocabulary(tokenizer) != self.vocab_hash:
            made = f"The shards in {folder} were not made with {tokenizer.name}"
            raise UserError(f"{made}; name the tokenizer that made them, or build them again.")

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, key: int | slice) -> Any:
        where = range(len(self))[key]
        if isinstance(where, int):
            return int(self._read(where, where + 1)[0])
        if where.step != 1:
            raise UserError("Shards are read forwards and without gaps; take every nth id of a plain slice.")
        return self._read(where.start, max(where.start, where.stop))

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        i = bisect_right(self._starts, start, hi=len(self.parts)) - 1  # the shard that holds `start`
        found: list[NDArray[Any]] = []
        while not found or start < stop:
            found.append(self.parts[i][start - self._starts[i] : stop - self._starts[i]])
            i += 1
            start = self._starts[i]
        return found[0] if len(found) == 1 else np.concatenate(found)


def _read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder, checked against its own checksum."""
    if not (folder / INDEX).exists():
        raise UserError(f"There are no shards in {folder}; make some with `myllm data build`.")
    index: dict[str, Any] | None = read_json(folder / INDEX, "an index of shards")
    if not isinstance(index, dict) or index.pop("format", None) != FORMAT:
        raise UserError(f"{folder / INDEX} is not an index of the format {FORMAT}; build the shards again.")
    if index.pop("checksum", None) != _checksum(index):
        raise UserError(f"{folder / INDEX} was changed or damaged; build the shards again.")
    return index


def _open(path: Path, checksum: str | None) -> NDArray[Any]:
    """The array of a file, memory-mapped; its checksum is checked first, if given."""
    if checksum and sha256(path) != checksum:
        raise UserError(f"{path} is torn, damaged or from another build; build the shards again.")
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is torn, or not an array; build the shards again.") from error
