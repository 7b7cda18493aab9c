"""The GGUF file format: a header of named values, then tensors, often with few bits a number.

The header is read here, every claim in it checked against the size of the file before it is believed; numbers
in blocks of few bits are widened by the library `gguf`. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch

from myllm.files import StrPath, UserError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_DIMS = 4


class Entry(NamedTuple):
    """Where a tensor lies, and how its numbers are written.

    Attributes:
        kind: The format of its numbers.
        shape: Outermost dimension first, as in PyTorch; the file has them the other way round.
        begin: Its first byte, counted from the start of the file.
        size: In bytes.
    """

    kind: "GGMLQuantizationType"
    shape: tuple[int, ...]
    begin: int
    size: int


class GGUFFile:
    """A GGUF file: the header in memory, the tensors read when asked for.

    Args:
        path: The file.

    Attributes:
        path: The same.
        metadata: The header's values by name.
        tensors: Where each tensor lies.

    Raises:
        UserError: The file is missing, torn, not GGUF of version 2 or 3, or claims what it cannot hold; or
            the library `gguf` is not installed.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"There is no file {path}; check the name.")
        with self.path.open("rb") as file:
            self._size = self.path.stat().st_size
            magic = file.read(4)
            if magic != b"GGUF":
                raise UserError(f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                try:
                    self._read(data)
                except (struct.error, UnicodeDecodeError):
                    self.bad("its header is cut off or damaged")

    def bad(self, why: str) -> NoReturn:
        """Refuse the file."""
        raise UserError(f"{self.path} is no whole GGUF file: {why}; fetch it again.")

    def _read(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 4
        version = self._number("I")
        if version not in (2, 3):
            raise UserError(
                f"{self.path} is GGUF of version {version}; only little-endian 2 and 3 can be read."
            )
        n_tensors, n_values = self._number("Q"), self._number("Q")
        self._fits(n_tensors, 24, "tensors")  # bytes that the smallest one takes
        self._fits(n_values, 13, "values")
        self.metadata: dict[str, Any] = {}
        for _ in range(n_values):
            name = self._string()
            if name in self.metadata:
                self.bad(f"it has {name!r} twice")
            self.metadata[name] = self._value(self._number("I"))
        claims = [self._claim() for _ in range(n_tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            self.bad(f"its alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        self.tensors: dict[str, Entry] = {claim[0]: self._entry(*claim, start) for claim in claims}
        if len(self.tensors) != n_tensors:
            self.bad("it has two tensors of one name")
        spans = sorted((entry.begin, entry.begin + entry.size) for entry in self.tensors.values())
        if any(end > begin for (_, end), (begin, _) in pairwise(spans)):
            self.bad("two of its tensors overlap")
        del self._data

    def _fits(self, count: int, size: int, what: str) -> None:
        if count > (self._size - self._at) // size:
            self.bad(f"it claims {count:,} {what}, more than its {self._size:,} bytes hold")

    def _number(self, code: str) -> Any:
        [number] = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize("<" + code)
        return number

    def _string(self) -> str:
        [size] = struct.unpack_from("<Q", self._data, self._at)
        self._fits(size, 1, "bytes of text")
        self._at += 8 + size
        return self._data[self._at - size : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind != ARRAY:
            self.bad(f"it has a value of the unknown type {kind}")
        kind, count = self._number("I"), self._number("Q")
        if kind == STRING:
            self._fits(count, 8, "strings")
            return [self._string() for _ in range(count)]
        if kind not in SCALARS:
            self.bad(f"it has an array of the type {kind}, which cannot be read")
        self._fits(count, struct.calcsize(SCALARS[kind]), "numbers")
        first = self._at
        self._at += count * struct.calcsize(SCALARS[kind])
        return np.frombuffer(self._data[first : self._at], "<" + SCALARS[kind])

    def _claim(self) -> tuple[str, tuple[int, ...], int, int]:
        name, n_dims = self._string(), self._number("I")
        if not 1 <= n_dims <= MAX_DIMS:
            self.bad(f"its tensor {name!r} has {n_dims} dimensions")
        return (
            name,
            tuple(self._number("Q") for _ in range(n_dims))[::-1],
            self._number("I"),
            self._number("Q"),
        )

    def _entry(self, name: str, shape: tuple[int, ...], code: int, offset: int, start: int) -> Entry:
        kinds, sizes = _library()
        with suppress(ValueError):
            kind = kinds(code)
            block, size = sizes[kind]
            n_bytes = math.prod(shape) * size // block
            if not math.prod(shape) or shape[-1] % block or start + offset + n_bytes > self._size:
                self.bad(f"its tensor {name!r} of shape {shape} lies outside or fills no whole blocks")
            return Entry(kind, shape, start + offset, n_bytes)
        raise UserError(f"{self.path} has numbers of the unknown format {code} in {name!r}; convert it anew.")

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as float32, in memory of its own.

        Raises:
            UserError: Its numbers are in a format that cannot be widened.
        """
        from gguf import dequantize

        entry = self.tensors[name]
        shape = (*entry.shape[:-1], entry.size // math.prod(entry.shape[:-1]))
        data = np.memmap(self.path, np.uint8, "r", entry.begin, shape)  # unmapped as soon as it is widened
        try:
            wide = dequantize(data, entry.kind)
        except NotImplementedError:
            message = f"{self.path} has numbers of the format {entry.kind.name}, which cannot be read."
            raise UserError(message) from None
        return torch.from_numpy(wide.copy() if entry.kind.name == "F32" else wide)


def _library() -> tuple[Any, Any]:
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ModuleNotFoundError as error:
        raise UserError('GGUF files need the book extra: pip install -e ".[book]".') from error
    return GGMLQuantizationType, GGML_QUANT_SIZES
