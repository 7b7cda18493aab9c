"""The GGUF file format: a header of named values, then tensors, often quantized to few bits.

The header is read here; every length in it is checked against the size of the file before it is used. The
`gguf` library dequantizes tensors. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch

from myllm.files import StrPath, UserError, expand, reason

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

# The codes of the numeric types, and their names in `struct` and NumPy.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Entry(NamedTuple):
    """Where and how a tensor is stored.

    Attributes:
        kind: The quantization type.
        shape: Outermost dimension first, as in PyTorch; the file has the reverse order.
        offset: Bytes from the start of the tensor data to its first byte.
        size: Its size in bytes.
    """

    kind: "GGMLQuantizationType"
    shape: tuple[int, ...]
    offset: int
    size: int


class GGUFFile:
    """A GGUF file: the header in memory, tensors read on request.

    Args:
        path: The file.

    Attributes:
        path: The file.
        metadata: The header's values by name; arrays of numbers are NumPy arrays.
        tensors: Where each tensor is stored.

    Raises:
        UserError: The file is missing, incomplete, not GGUF of version 2 or 3, or claims more than it holds;
            or the `gguf` library is not installed.
    """

    def __init__(self, path: StrPath) -> None:
        self.path, self._at = expand(path), 0
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Entry] = {}
        try:
            if not self.path.is_file():
                raise UserError(f"There is no file {path}; check the name.")
            if not self.path.stat().st_size:
                self.refuse("it is empty")
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._data = data
                self._read_header()
        except (OSError, ValueError) as error:  # the second: text that is not UTF-8
            raise UserError(f"Cannot read {path}: {reason(error)}.") from error

    def refuse(self, why: str) -> NoReturn:
        """Raise an error that says why the file cannot be read."""
        raise UserError(f"{self.path} is not a readable GGUF file: {why}; download or convert it again.")

    def _read_header(self) -> None:
        if (magic := self._take(4)) != b"GGUF":
            raise UserError(f"{self.path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'.")
        version, n_tensors, n_values = self._number("I"), self._number("Q"), self._number("Q")
        if version not in (2, 3):
            raise UserError(f"{self.path} is GGUF of version {version}; only little-endian 2 and 3 are read.")
        for _ in range(n_values):  # each consumes bytes, so a false count runs into the end of the file
            name = self._string()
            if name in self.metadata:
                self.refuse(f"it has {name!r} twice")
            self.metadata[name] = self._value(self._number("I"))
        for _ in range(n_tensors):
            name, n_dims = self._string(), self._number("I")
            if name in self.tensors or not 1 <= n_dims <= 4:
                self.refuse(f"it has {name!r} twice, or with {n_dims} dimensions")
            shape = tuple(self._number("Q") for _ in range(n_dims))[::-1]
            self.tensors[name] = self._entry(name, shape, self._number("I"), self._number("Q"))
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            self.refuse(f"its alignment is {alignment!r}")
        self._start, end = -(-self._at // alignment) * alignment, 0
        for name, entry in sorted(self.tensors.items(), key=lambda item: item[1].offset):
            if entry.offset < end or self._start + entry.offset + entry.size > len(self._data):
                self.refuse(f"its tensor {name!r} of shape {entry.shape} overlaps another or ends outside")
            end = entry.offset + entry.size

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            self.refuse(f"it is cut off or claims {size:,} more bytes than it has")
        self._at += size
        return self._data[self._at - size : self._at]

    def _number(self, code: str) -> Any:
        [number] = struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))
        return number

    def _string(self) -> str:
        return self._take(self._number("Q")).decode()

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        kind, count = (self._number("I"), self._number("Q")) if kind == ARRAY else (kind, 0)
        if kind == STRING:
            return [self._string() for _ in range(count)]
        if kind not in SCALARS:
            self.refuse(f"it has a value or an array of the unknown type {kind}")
        numbers = np.dtype("<" + SCALARS[kind])
        return np.frombuffer(self._take(count * numbers.itemsize), numbers)

    def _entry(self, name: str, shape: tuple[int, ...], code: int, offset: int) -> Entry:
        try:
            from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        except ModuleNotFoundError as error:
            raise UserError("GGUF files need: pip install 'myllm-course[book]'.") from error
        if code not in [*GGMLQuantizationType]:
            self.refuse(f"its tensor {name!r} has numbers of the unknown type {code}")
        kind = GGMLQuantizationType(code)
        block, size = GGML_QUANT_SIZES[kind]
        if not math.prod(shape) or shape[-1] % block:
            self.refuse(f"its tensor {name!r} of shape {shape} is empty or fills no whole blocks")
        return Entry(kind, shape, offset, math.prod(shape) // block * size)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as float32, in its own memory.

        Raises:
            UserError: The library cannot dequantize its type.
        """
        from gguf import dequantize

        entry = self.tensors[name]
        shape = (*entry.shape[:-1], entry.size // math.prod(entry.shape[:-1]))
        data = np.fromfile(self.path, np.uint8, entry.size, offset=self._start + entry.offset).reshape(shape)
        try:
            numbers = dequantize(data, entry.kind)
        except NotImplementedError:
            self.refuse(f"it has numbers of the type {entry.kind.name}, which cannot be read")
        return torch.from_numpy(numbers)
