"""The safetensors format: a header that says where each tensor lies, then the numbers, and no code.

Eight bytes hold the length of the header; the header is JSON, with dtype, shape and place of each tensor;
the rest of the file is the numbers, one tensor after the other.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from myllm.files import StrPath, UserError, atomic_writer, safetensors_header

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What the numbers of a model may be."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: StrPath) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory: a number is read when it is first used.

    Changing a tensor does not change the file.

    Args:
        path: The file; it must stay as it is while the tensors are in use.

    Returns:
        Name to tensor.

    Raises:
        UserError: The file is damaged or no safetensors, or holds other numbers than weights.
    """
    header = safetensors_header(path)
    header.pop("__metadata__", None)
    size = Path(path).stat().st_size
    start = size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
    data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            known = ", ".join(DTYPES)
            raise UserError(f"{name} in {path} is {entry['dtype']}; weights must be one of {known}.")
        dtype, (begin, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
        numbers = data[start + begin : start + end]
        if (start + begin) % dtype.itemsize:  # some writers do not align; then a copy must do
            numbers = numbers.clone()
        tensors[name] = numbers.view(dtype).view(entry["shape"])
    return tensors


def write(path: StrPath, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file, whole or not at all.

    Args:
        path: The file.
        tensors: Name to tensor, of any device; those with larger numbers come first, so that all are aligned.

    Raises:
        UserError: The file cannot be written.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_writer(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            numbers = tensors[name].detach().contiguous().cpu().view(-1).view(torch.uint8)
            file.write(numbers.numpy().data)
