"""Tensors in safetensors files, and the folder that holds a model: its configuration and its weights."""

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from myllm.files import StrPath, UserError, atomic_write, atomic_writer, expand, reason

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, mapped into memory, and the metadata of its header.

    Raises:
        UserError: The file is missing, damaged or of another format.
    """
    opened: Any = safe_open  # the library is not typed
    try:
        with path.open("rb"), opened(path, "pt") as file:
            return {name: file.get_tensor(name) for name in [*file.keys()]}, file.metadata() or {}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {reason(error)}.") from error
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a whole safetensors file ({why:.200}); download it again.") from error


def write_model(
    folder: StrPath, state: dict[str, Tensor], metadata: dict[str, str], config: dict[str, Any]
) -> None:
    """Write ``model.safetensors`` and ``config.json`` into a folder, which is created if it does not exist.

    The configuration is written last: an incomplete folder has none, and is refused.

    Args:
        folder: The folder.
        state: Contiguous tensors that share no memory with each other.
        metadata: Metadata for the header of the weights file.
        config: The content of ``config.json``.

    Raises:
        UserError: A file cannot be written.
    """
    folder = expand(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (CONFIG, INDEX):
            (folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {error.strerror}; choose another folder.") from error
    with atomic_writer(folder / WEIGHTS) as file:
        try:
            save_file(state, file.name, metadata)
        except SafetensorError as error:
            if found := re.search(r"os error (\d+)", str(error)):  # atomic_writer explains it
                raise OSError(int(found[1]), os.strerror(int(found[1])), file.name) from error
            raise UserError(f"Cannot write {folder / WEIGHTS}: {error}.") from error
    atomic_write(folder / CONFIG, json.dumps(config, indent=2) + "\n")
