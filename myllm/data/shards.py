"""Shards: token ids on disk, read through memory maps, so that a corpus may be larger than memory.

A shard is one file: a header of 104 bytes, the ids of whole documents one after the other, and where each
document ends. Ids take two bytes where the vocabulary has at most 65,536 of them, else four. The checksum of
a shard also covers the checksum of the one before, so that a shard that is torn, missing, moved or from
another corpus is noticed when the folder is opened.
"""

import hashlib
import os
import re
import secrets
import shutil
import struct
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from myllm.files import BLOCK, StrPath, UserError, atomic_writer

MAGIC, VERSION = b"myllmtok", 1
LAYOUT = struct.Struct("<8s 2I 3Q 32s 32s")  # little-endian; 104 bytes


class Vocabulary(Protocol):
    """What is needed of a tokenizer here: how many ids it has, and what each stands for."""

    name: str
    vocab_size: int

    def decode_bytes(self, ids: Iterable[int], /) -> bytes:
        """The bytes these ids stand for."""
        ...


class Header(NamedTuple):
    """What a shard says about itself.

    Attributes:
        magic: ``b"myllmtok"``, which tells a shard from any other file.
        version: Of this layout.
        item_size: Bytes an id takes, 2 or 4.
        n_documents: How many documents the shard holds.
        n_tokens: How many ids they have.
        vocab_size: Every id is less.
        vocab_hash: SHA-256 of the vocabulary, see `hash_vocabulary`.
        checksum: SHA-256 of ids, ends, and this header with the checksum of the shard before in this place.
    """

    magic: bytes
    version: int
    item_size: int
    n_documents: int
    n_tokens: int
    vocab_size: int
    vocab_hash: bytes
    checksum: bytes


def hash_vocabulary(tokenizer: Vocabulary) -> str:
    """SHA-256 of what each id stands for, in order: 64 hexadecimal digits that name the vocabulary."""
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
    """Write documents into a new folder, which appears whole or not at all.

    One block of ids is held at a time: neither the corpus nor a document needs to fit in memory.

    Args:
        documents: The ids of each document, in any iterable: a list, an array, the bytes of a text.
        folder: A name that is free, or an empty folder.
        vocab_size: Every id must be less.
        vocab_hash: Of the tokenizer, by `hash_vocabulary`.
        shard_tokens: A shard ends with the document that brings it to this many ids, or beyond.

    Returns:
        The files, in order.

    Raises:
        UserError: The folder is in use, an id lies outside the vocabulary, there is no id, or no room.
    """
    if not 1 <= vocab_size <= 1 << 32 or shard_tokens < 1:
        raise UserError("vocab_size must lie between 1 and 2³², and shard_tokens must be at least 1.")
    if not re.fullmatch("[0-9a-f]{64}", vocab_hash):
        raise UserError("vocab_hash must be what hash_vocabulary(tokenizer) gives: 64 hexadecimal digits.")
    item_size = 2 if vocab_size <= 1 << 16 else 4
    header = Header(MAGIC, VERSION, item_size, 0, 0, vocab_size, bytes.fromhex(vocab_hash), bytes(32))
    n_tokens, parts, documents = 0, list[Path](), iter(documents)
    with _new_folder(Path(folder)) as temporary:
        for first in documents:  # of a shard; the others are taken from the same iterator
            parts.append(temporary / f"{len(parts)}")
            with atomic_writer(parts[-1]) as file:
                header = _write_shard(file, chain([first], documents), header, shard_tokens)
            n_tokens += header.n_tokens
        if not n_tokens:
            raise UserError("There is no token to write; give at least one document with text.")
        names = _names(len(parts))
        for part, name in zip(parts, names, strict=True):
            part.rename(temporary / name)
    return [Path(folder) / name for name in names]


def _names(n: int) -> list[str]:
    return [f"shard-{i:05}-of-{n:05}.bin" for i in range(n)]


def _write_shard(
    file: BinaryIO, documents: Iterable[Iterable[int]], before: Header, shard_tokens: int
) -> Header:
    """Write documents until there are `shard_tokens` ids; the header goes in front when all is known."""
    digest, ends, n_tokens = hashlib.sha256(), array("Q"), 0
    file.seek(LAYOUT.size)
    for document in documents:
        for ids in _blocks(document, before.vocab_size):
            data = ids.astype(f"<u{before.item_size}").tobytes()
            digest.update(data)
            file.write(data)
            n_tokens += len(ids)
        ends.append(n_tokens)
        if n_tokens >= shard_tokens:
            break
    data = np.array(ends, "<u8").tobytes()
    digest.update(data)
    file.write(data)
    header = before._replace(n_documents=len(ends), n_tokens=n_tokens)
    digest.update(LAYOUT.pack(*header))
    header = header._replace(checksum=digest.digest())
    file.seek(0)
    file.write(LAYOUT.pack(*header))
    return header


def _blocks(document: Iterable[int], vocab_size: int) -> Iterator[NDArray[Any]]:
    """The ids of a document, some at a time, each seen to be in the vocabulary."""
    ids = iter(document)
    while block := [*islice(ids, BLOCK)]:
        array = np.array(block)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise UserError(f"A document is a row of whole numbers; this one holds {block[0]!r:.40}.")
        if array.min() < 0 or array.max() >= vocab_size:
            bad = next(i for i in block if not 0 <= i < vocab_size)
            raise UserError(f"Id {bad} is outside a vocabulary of {vocab_size}; give its whole size.")
        yield array


@contextmanager
def _new_folder(folder: Path) -> Generator[Path]:
    """A folder to fill that takes its name when the block ends well, and vanishes when it does not."""
    target = Path(os.path.realpath(folder))
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"{folder} is in use; choose another name, or remove it first.")
        temporary.mkdir()
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.filename not in (str(target), str(temporary)):  # the caller's own work
            raise
        raise UserError(f"Cannot write {folder}: {error.strerror}; choose another place.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Shards:
    """The ids of all shards of a folder as one long row that stays on the disk.

    ``len(shards)`` counts ids, ``shards[i]`` is one of them, ``shards[i:j]`` an array of uint16 or uint32: a
    view of the file where it lies in one shard, else a copy.

    Attributes:
        documents: Where documents begin, and the end of the last, (D + 1,) int64: document d is
            ``shards[documents[d] : documents[d + 1]]``.
        headers: What each shard says about itself.
        vocab_size: Every id is less.
        vocab_hash: Of the tokenizer that made the ids.

    Args:
        folder: What `write_shards` made.
        tokenizer: The tokenizer the ids will be used with, to be compared with the one that made them.
        verify: Compare the checksums, which reads every byte once.

    Raises:
        UserError: No shards there; or they are torn, changed, incomplete or mixed; or from another tokenizer.
    """

    def __init__(self, folder: StrPath, *, tokenizer: Vocabulary | None = None, verify: bool = True):
        paths = sorted(Path(folder).glob("*.bin"))
        if not paths:
            raise UserError(f"There are no shards in {folder}; make some with `myllm data build`.")
        if [path.name for path in paths] != _names(len(paths)):
            raise UserError(f"The set of shards in {folder} is not complete; copy or build it again.")
        self.headers: list[Header] = []
        self._ids: list[NDArray[Any]] = []
        self._starts, starts, checksum = [0], [np.zeros(1, np.int64)], bytes(32)
        for path in paths:
            header, file = _open(path)
            if verify and header.checksum != _checksum(header, file, checksum):
                raise UserError(f"{path} is damaged or from another build; build the shards again.")
            self.headers.append(header)
            checksum = header.checksum
            ids, ends = np.split(file[LAYOUT.size :], [header.item_size * header.n_tokens])
            self._ids.append(ids.view(f"<u{header.item_size}"))
            starts.append(self._starts[-1] + ends.view("<u8").astype(np.int64))
            self._starts.append(self._starts[-1] + header.n_tokens)
        if len({(one.item_size, one.vocab_size, one.vocab_hash) for one in self.headers}) > 1:
            raise UserError(f"The shards in {folder} come from different builds; build them again.")
        self.documents = np.concatenate(starts)
        self.vocab_size, self.vocab_hash = self.headers[0].vocab_size, self.headers[0].vocab_hash.hex()
        if tokenizer is not None and hash_vocabulary(tokenizer) != self.vocab_hash:
            made = f"The shards in {folder} were not made with {tokenizer.name}"
            raise UserError(f"{made}; name the tokenizer that made them, or build them again.")

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> NDArray[Any]: ...
    def __getitem__(self, key: int | slice) -> int | NDArray[Any]:
        where = range(len(self))[key]
        if isinstance(where, int):
            return int(self._read(where, where + 1)[0])
        if where.step != 1:
            raise UserError("Shards are read forwards and without gaps; take a slice of the slice.")
        return self._read(where.start, max(where.start, where.stop))

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        i = bisect_right(self._starts, start, hi=len(self._ids)) - 1  # the shard that holds `start`
        parts: list[NDArray[Any]] = []
        while not parts or start < stop:
            parts.append(self._ids[i][start - self._starts[i] : stop - self._starts[i]])
            i += 1
            start = self._starts[i]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _open(path: Path) -> tuple[Header, NDArray[np.uint8]]:
    """The header of a shard, and all its bytes as a memory map; only the sizes are compared."""
    mend = "build the shards again"
    try:
        file = np.asarray(np.memmap(path, np.uint8, "r"))
    except ValueError:  # an empty file cannot be mapped
        file = np.empty(0, np.uint8)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}; {mend}.") from error
    if len(file) < LAYOUT.size or file[: len(MAGIC)].tobytes() != MAGIC:
        raise UserError(f"{path} is no shard, or cut off in its header; {mend}.")
    header = Header(*LAYOUT.unpack(file[: LAYOUT.size].tobytes()))
    if header.version != VERSION:
        raise UserError(f"{path} has layout {header.version}, this package reads layout {VERSION}; {mend}.")
    size = LAYOUT.size + header.item_size * header.n_tokens + 8 * header.n_documents
    if header.item_size not in (2, 4) or len(file) != size:
        raise UserError(f"{path} is torn: its header speaks of {size:,} bytes, not {len(file):,}; {mend}.")
    return header, file


def _checksum(header: Header, file: NDArray[np.uint8], before: bytes) -> bytes:
    """What the checksum of a shard must be, given that of the shard before."""
    digest = hashlib.sha256(file[LAYOUT.size :].data)
    digest.update(LAYOUT.pack(*header._replace(checksum=before)))
    return digest.digest()
