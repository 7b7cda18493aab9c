"""Checkpoints: one folder per step, complete or absent; safetensors and JSON, no pickles.

``step-000100`` holds ``rank-00000.safetensors``, one such file for each process, and ``state.json`` with
everything that is not a tensor and the SHA-256 of each file and of its own content. A tensor's name is its
path in the state, joined by "/". Rank 0's file also holds what is the same on all ranks; the other files hold
only what is their rank's own: the state of its generators, and its rows of sharded tensors.
"""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from myllm.files import UserError, atomic_write, read_json, sha256
from myllm.training.step import Strategy

STATE, FORMAT = "state.json", "myllm-checkpoint-2"
Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], path: str = "") -> tuple[Tree, dict[str, Tensor]]:
    """Separate a nested dictionary into its plain values and its tensors, by path."""
    plain: Tree = {}
    tensors: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            tensors[path + key] = value
        elif isinstance(value, Mapping):
            plain[key], more = flatten(value, f"{path}{key}/")  # pyright: ignore[reportUnknownArgumentType]
            tensors |= more
        else:
            plain[key] = value
    return plain, tensors


def unflatten(plain: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """Put tensors back where `flatten` found them."""
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        node = plain
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = tensor
    return plain


def write(folder: Path, step: int, tree: Mapping[str, Any], strategy: Strategy) -> Path:
    """Write a checkpoint; every process calls it with its own state, and rank 0 writes what is common to all.

    The folder is renamed to its final name when all files are on disk.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    target = folder / f"step-{step:06d}"
    temporary = folder / f".{target.name}.tmp"
    if strategy.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"Cannot write checkpoints into {folder}: {error.strerror}.") from error
    strategy.sum(0)  # nobody writes before the folder exists
    plain, tensors = flatten(tree)
    mine: dict[str, Tensor] = {}
    for name, x in tensors.items():
        sharded = hasattr(x, "to_local")  # a DTensor, whose import would take seconds
        if strategy.rank == 0 or sharded or name.startswith("rng/"):
            mine[name] = getattr(x, "to_local", x.detach)().cpu().contiguous()
    atomic_write(temporary / f"rank-{strategy.rank:05d}.safetensors", save(mine))
    strategy.sum(0)  # rank 0 does not go on before all have written
    if strategy.rank == 0:
        files = {path.name: sha256(path) for path in sorted(temporary.glob("rank-*.safetensors"))}
        content = {"format": FORMAT, "files": files, "state": plain}
        atomic_write(temporary / STATE, json.dumps({"sha256": _digest(content), **content}))
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    strategy.sum(0)  # nobody goes on before the checkpoint is complete
    return target


def read(path: Path) -> Tree:
    """The state in a checkpoint.

    Raises:
        UserError: There is no checkpoint, or it is damaged.
    """
    content = read_json(path / STATE, "a checkpoint")
    if not isinstance(content, dict) or content.get("format") != FORMAT:  # pyright: ignore[reportUnknownMemberType]
        raise UserError(f"{path} is not a checkpoint of this package.")
    stated = content.pop("sha256", None)  # pyright: ignore[reportUnknownVariableType]
    if stated != _digest(content):  # pyright: ignore[reportUnknownArgumentType]
        raise UserError(f"The checkpoint {path} is damaged: {STATE} was changed.")
    tensors: dict[str, Tensor] = {}
    for name, expected in content["files"].items():  # pyright: ignore[reportUnknownVariableType]
        file = path / Path(name).name  # pyright: ignore[reportUnknownArgumentType]
        if not file.is_file() or sha256(file) != expected:
            raise UserError(f"The checkpoint {path} is damaged: {name} is missing or was changed.")
        try:
            found = load_file(file)
        except SafetensorError as error:
            raise UserError(f"The checkpoint {path} is damaged: {name} is no safetensors file.") from error
        for key, x in found.items():  # a tensor in several files is sharded by rows, in the order of ranks
            tensors[key] = torch.cat([tensors[key], x]) if key in tensors else x
    return unflatten(content["state"], tensors)  # pyright: ignore[reportUnknownArgumentType]


def steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step, the oldest first."""
    found = {path: re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def latest(folder: Path) -> tuple[Tree | None, list[str]]:
    """The state of the newest intact checkpoint, and what was wrong with those after it.

    Raises:
        UserError: There are checkpoints, but none is intact.
    """
    problems: list[str] = []
    for path in reversed(steps(folder).values()):
        try:
            return read(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"{problems[0]} No earlier checkpoint is whole; begin anew in another folder.")
    return None, problems


def prune(folder: Path, keep_last: int, best: int | None) -> None:
    """Delete all checkpoints except the last few and the best one."""
    found = steps(folder)
    for step in [*found][:-keep_last]:
        if step != best:
            shutil.rmtree(found[step], ignore_errors=True)


def rng_state() -> dict[str, Tensor]:
    """The state of all random-number generators of this process: PyTorch's, NumPy's and Python's."""
    others = {"numpy": np.random.get_state(legacy=False), "python": random.getstate()}
    text = json.dumps(others, default=np.ndarray.tolist)  # JSON keeps every bit of a float
    state = {"torch": torch.get_rng_state(), "others": torch.tensor([*text.encode()], dtype=torch.uint8)}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restore what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    others = json.loads(state["others"].numpy().tobytes())
    np.random.set_state(others["numpy"])
    version, words, second = others["python"]
    random.setstate((version, tuple(words), second))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _digest(content: Tree) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
