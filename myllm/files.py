"""Files: atomic writes, checksums, downloads and bounded reading; all other modules may use this one."""

import codecs
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

StrPath = str | os.PathLike[str]
Source = StrPath | BinaryIO  # a file by name, or an open stream such as standard input

BLOCK = 1 << 16  # bytes read or written at a time
LIMIT = 1 << 30  # the largest file, in bytes, that is read whole

REASONS = {
    errno.ENOENT: "there is no such file; check the name",
    errno.EISDIR: "it is a folder; name a file",
    errno.EACCES: "permission denied; change its permissions or choose another place",
    errno.EAGAIN: "another process is writing it; wait until that is done",
    errno.ENOSPC: "the disk is full; make room and run again",
}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class UserError(Exception):
    """A user's mistake, in one sentence that says how to fix it; the command line exits with status 1."""


def reason(error: BaseException) -> str:
    """Why reading or writing failed and, where known, how to fix it: the end of a `UserError`'s message."""
    cause = getattr(error, "reason", None)  # what a URLError wraps
    if isinstance(cause, OSError):
        error = cause
    known = REASONS.get(error.errno or 0) if isinstance(error, OSError) else None
    return known or getattr(error, "strerror", None) or str(error) or type(error).__name__


def expand(path: StrPath) -> Path:
    """Expand ``~`` and ``~user`` in a path, if there is such a home folder.

    Raises:
        UserError: The path is empty or contains a null byte.
    """
    path = os.fspath(path)
    if not path or "\0" in path:
        raise UserError("An empty path, or one with a null byte, names no file; give a name.")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no home


def new_folder(path: StrPath) -> Path:
    """The expanded path of a folder that is to be written, after a check that it can be; writes nothing.

    Raises:
        UserError: Something other than an empty folder is there, or nothing can be written there.
    """
    folder = expand(path)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{path} exists already; name a new place, or an empty folder.")
    check_place(folder)
    return folder


def check_place(path: StrPath) -> None:
    """Raise an error if a path leads through something that is not a folder, or may not be written.

    Raises:
        UserError: It leads through a file, or may not be written.
    """
    place = Path(path).absolute()
    there = next(one for one in (place, *place.parents) if os.path.lexists(one))
    if not there.is_dir() and (there != place or not os.path.exists(place)):  # noqa: PTH110 - Path's may raise
        raise UserError(f"Cannot write {path}: {there} is no folder; choose another place.")
    if not os.access(there, os.W_OK):
        raise UserError(f"Cannot write {path}: {REASONS[errno.EACCES]}.")


def cache_dir() -> Path:
    """The folder for downloads: ``MYLLM_CACHE`` if it is set, else ``~/.cache/myllm``.

    Raises:
        UserError: The environment variable is not set and there is no home folder.
    """
    folder = expand(os.environ.get("MYLLM_CACHE") or "~/.cache/myllm")
    if folder.parts[0] == "~":
        raise UserError("There is no home folder for downloads; set MYLLM_CACHE to a folder.")
    return folder


@contextmanager
def atomic_writer(path: StrPath) -> Generator[BinaryIO]:
    """Open a binary file that appears at ``path`` complete or not at all.

    The bytes go to a temporary file in the same folder. When the block ends, they are flushed to disk and the
    file is renamed to ``path`` in one step. Whatever ends the block early, Ctrl-C included, removes the
    temporary file and leaves ``path`` as it was. A library that writes to a name instead of an open file may
    be given ``file.name``, even if it replaces the file of that name.

    Raises:
        UserError: ``path`` cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(expand(path)))  # follows symbolic links to the file itself
    if not target.parent.is_dir():
        raise UserError(f"Cannot write {path}: there is no folder {target.parent}; make it first.")
    temporary = target.parent / f".{target.name[:40]}.{secrets.token_hex(4)}.tmp"
    try:
        old = target.exists()
        if old and not target.is_file():  # renaming over a device such as /dev/null would destroy it
            raise UserError(f"Cannot write {path}: it is not an ordinary file; choose another name.")
        if old:
            target.open("r+b").close()  # a file without write permission must not be replaced either
        with temporary.open("xb") as file:
            if old:
                shutil.copymode(target, temporary)
            yield file
            mode = os.fstat(file.fileno()).st_mode
        temporary.chmod(mode & 0o777)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        # An error that names another file was raised by the code inside the block; it is passed on.
        if error.errno in DISK_ERRORS or error.filename in (str(target), str(temporary)):
            raise UserError(f"Cannot write {path}: {reason(error)}.") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush a new directory entry to the disk, where the system can (Windows cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)


def atomic_write(path: StrPath, data: bytes | str) -> None:
    """Write ``data`` to ``path`` completely or not at all, text as UTF-8; raises as `atomic_writer` does."""
    with atomic_writer(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _name(source: Source) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "standard input"


def _blocks(source: Source, limit: float) -> Iterator[bytes]:
    is_path = isinstance(source, (str, os.PathLike))
    size = 0  # counted while reading, since a pipe or a device does not tell its size
    try:
        with expand(source).open("rb") if is_path else nullcontext(source) as file:
            while block := file.read(BLOCK):
                size += len(block)
                if size > limit:
                    raise UserError(f"{_name(source)} is larger than {limit:,} bytes; take a smaller file.")
                yield block
    except OSError as error:
        raise UserError(f"Cannot read {_name(source)}: {reason(error)}.") from error


def read_bytes(source: Source, *, limit: int = LIMIT) -> bytes:
    """The bytes of a file or stream, at most ``limit``.

    Raises:
        UserError: The file is missing, a folder, unreadable or larger.
    """
    return b"".join(_blocks(source, limit))


def read_text_blocks(source: Source, *, limit: float = math.inf) -> Iterator[str]:
    """The text of a UTF-8 file or stream, 64 KiB at a time, without a byte-order mark; line endings are kept.

    Raises:
        UserError: It is missing, a folder, unreadable, longer than ``limit`` bytes, binary or not UTF-8.
    """
    decoder, position = codecs.getincrementaldecoder("utf-8-sig")(), 0
    for block in chain(_blocks(source, limit), [b""]):  # the empty block is the end
        if not position and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{_name(source)} is UTF-16 or UTF-32 text; convert it to UTF-8.")
        if b"\0" in block:
            raise UserError(f"{_name(source)} is binary, not text; convert it to UTF-8 text.")
        position += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            where = f"byte {position - len(error.object) + error.start:,}"
            raise UserError(f"{_name(source)} is not UTF-8 text ({where}); convert it to UTF-8.") from error
        if text:
            yield text


def read_text(source: Source, *, limit: int = LIMIT) -> str:
    """The text of a UTF-8 file or stream; raises as `read_text_blocks` does."""
    return "".join(read_text_blocks(source, limit=limit))


def read_filled(path: StrPath) -> str:
    """The text of a file; raises as `read_text` does, and a `UserError` if it is only white space."""
    text = read_text(expand(path))
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with text.")
    return text


def read_json(source: Source, what: str) -> Any:
    """The value in a JSON file.

    Args:
        source: The file.
        what: What the file should be, for the message: ``"a tokenizer"``.

    Raises:
        UserError: As `read_text`, and if the file is empty or not complete JSON.
    """
    text = read_text(source)
    if not text.strip():
        raise UserError(f"{_name(source)} is empty; it should be {what}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # the second: brackets nested thousands deep
        raise UserError(f"{_name(source)} is not {what}: damaged or not JSON; make it again.") from error


def sha256(path: StrPath) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for block in _blocks(path, math.inf):
        digest.update(block)
    return digest.hexdigest()


def download(url: str, path: StrPath, *, sha256: str, progress: bool | None = None) -> Path:
    """Download ``url`` to ``path``, unless it is there already.

    The bytes go to ``path`` + ``.part``, from which a later call resumes. The file is renamed to
    ``path`` only when its checksum is right, so whatever is at ``path`` can be trusted.

    Args:
        url: The address of the file.
        path: Where to write it; missing folders are made.
        sha256: The SHA-256 of the whole file, as 64 hexadecimal digits.
        progress: Whether to show a progress bar; None shows one only on a terminal.

    Raises:
        UserError: No network, no such address, a wrong checksum (the part is then removed), a full disk.
    """
    path = expand(path)
    part = path.with_name(path.name + ".part")
    if _has(path, sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            with suppress(ImportError):  # Windows has no flock, and needs none: it renames no open file
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when this process ends
            if _has(path, sha256):  # another process finished it while this one waited for the lock
                return path
            if not _has(part, sha256):
                _fetch(url, file, progress)
                os.fsync(file.fileno())
            if not _has(part, sha256):
                part.unlink()
                raise UserError(f"The file from {url} has a wrong checksum and was removed; run again.")
            part.replace(path)
            _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {reason(error)}.") from error
    return path


def _has(path: Path, expected: str) -> bool:
    return path.is_file() and sha256(path) == expected


def _fetch(url: str, part: BinaryIO, progress: bool | None) -> None:
    """Append the rest of ``url`` to ``part``; where the server cannot resume, start from the beginning."""
    from http.client import HTTPException  # slow to import and seldom needed
    from urllib.request import Request, urlopen

    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    console, columns = Console(stderr=True), (*Progress.get_default_columns(), DownloadColumn())
    shown = console.is_terminal if progress is None else progress
    done = part.tell()
    headers = {"User-Agent": "myllm"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:
            if answer.status != 206:
                done = part.truncate(0)
            total = done + int(answer.headers.get("Content-Length") or 0)
            with Progress(*columns, console=console, disable=not shown) as bar:
                task = bar.add_task(Path(url).name, total=total or None)
                while block := answer.read(BLOCK):
                    done += part.write(block)
                    bar.update(task, completed=done)
        part.flush()
        if done < total:
            raise ConnectionError("the connection broke")
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        if getattr(error, "code", None) != 416:  # "range not satisfiable": nothing is missing
            raise UserError(f"Cannot fetch {url}: {reason(error)}; check the network, run again.") from error
