"""The stages of ``myllm pipeline``: each is run once, and resumed if it was interrupted."""

import hashlib
import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

from myllm.cli.finetuning import SFT, Merge, say
from myllm.cli.policy import DPO, RL
from myllm.cli.quantization import Quantize
from myllm.files import UserError, atomic_write, expand, read_json, sha256

STAGE = "stage.json"


class Stage(NamedTuple):
    """One step of a pipeline.

    Attributes:
        folder: The folder for all its files.
        command: The command that it runs.
        model: The path of the model that it makes.
    """

    folder: Path
    command: SFT | DPO | RL | Quantize
    model: Path


def run_stage(stage: Stage, before: str, seed: int) -> str:
    """Run a stage, or resume it, and return the digest of its model.

    The file `STAGE` holds the options and inputs from the start, and the digest of the model at the end.

    Args:
        stage: The stage.
        before: The digest of the model that it starts from.
        seed: The seed of what is random before training begins, such as new adapters.

    Raises:
        UserError: The folder is in use, was begun with other options or inputs or by another command, or its
            finished model was changed.
    """
    import torch

    folder, command, file = stage.folder, stage.command, stage.folder / STAGE
    paths = {"model", "data", "out"}
    mine = {name: value for name, value in asdict(command).items() if name not in paths} | {"model": before}
    if not isinstance(command, Quantize):
        mine["data"] = sha256(expand(command.data))
    old = _read(file)
    if old is None and folder.exists() and any(not one.name.startswith(".") for one in folder.iterdir()):
        raise UserError(f"{folder} is in use and holds no stage of a pipeline; choose another --out.")
    if old and not old["result"] and not [*folder.glob("checkpoints/step-*")]:  # nothing would be lost
        shutil.rmtree(folder)
        old = None
    if old and (changed := [name for name in mine if old.get(name) != mine[name]]):
        name = changed[0]
        what = f"other {name}" if name in paths else f"{name} {old.get(name)}, not {mine[name]}"
        raise UserError(f"{folder} was begun with {what}; take its options and files, or another --out.")
    if old and old["result"]:
        if digest(stage.model) != old["result"]:
            raise UserError(f"{stage.model} was changed after it was finished; choose another --out.")
        say(f"{folder.name} is finished")
        return old["result"]
    say(f"{folder.name} {'goes on' if old else 'begins'}")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(mine | {"result": ""}, indent=1) + "\n")
    torch.manual_seed(seed)
    command.run()
    if not isinstance(command, Quantize) and command.lora:
        shutil.rmtree(stage.model, ignore_errors=True)  # left by a process that was killed
        Merge(command.model, str(folder / "adapter"), str(stage.model)).run()
    result = digest(stage.model)
    atomic_write(file, json.dumps(mine | {"result": result}, indent=1) + "\n")
    return result


def _read(file: Path) -> dict[str, Any] | None:
    """What `STAGE` holds, if the stage has begun."""
    if not file.is_file():
        return None
    found: Any = read_json(file, "a stage")
    if not isinstance(found, dict) or "result" not in found:
        raise UserError(f"{file} is not of a pipeline; choose another --out.")
    return cast("dict[str, Any]", found)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Make a folder, and keep a second process out of it.

    Raises:
        UserError: Another process is working in the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            with suppress(ImportError):  # Windows has no flock
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released however this process ends
            yield
    except BlockingIOError as error:
        raise UserError(f"Another process works in {folder}; wait until it is done.") from error


def source(model: str) -> Path:
    """The folder or the GGUF file of the base."""
    from myllm.data import downloads
    from myllm.weights import hub

    path = downloads.find(model) if model == "smollm2" else hub.resolve(model)
    if path is None:
        raise UserError("SmolLM2 is not here yet; run `myllm download smollm2` first.")
    return path if path.is_dir() or path.suffix == ".gguf" else path.parent


def files(path: Path) -> list[Path]:
    """The files of a model, which is a single file or a folder."""
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))


def digest(path: Path) -> str:
    """One SHA-256 digest of all files of a model."""
    found = [f"{one.name} {sha256(one)}\n" for one in files(path)]
    return hashlib.sha256("".join(found).encode()).hexdigest()
