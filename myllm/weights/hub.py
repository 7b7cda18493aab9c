"""Models in folders as Hugging Face writes them: ``config.json`` and safetensors, never pickles."""

import json
import re
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from myllm.config import ModelConfig
from myllm.files import StrPath, UserError, atomic_write, cache_dir, read_bytes, read_json, sha256
from myllm.model.transformer import Transformer
from myllm.weights import convert, tensors
from myllm.weights.skeleton import skeleton

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_DANGER = "which can run any code when it is read; take a model with safetensors."
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
WANTED = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt", "*.jinja"]


def load_folder(
    path: StrPath, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Transformer:
    """The model of a folder, in eval mode.

    The weights stay in the file, mapped into memory, as long as neither dtype nor device changes; otherwise
    they are converted one by one. There is never more than one copy.

    Args:
        path: A folder with ``config.json`` and ``model.safetensors``, or shards of it and their index.
        dtype: What the weights become; by default as stored.
        device: Where they go; by default the CPU.

    Raises:
        UserError: A missing, damaged or hostile file, or weights that are not those of the configuration.
    """
    folder = Path(path)
    hf = _read_object(folder / CONFIG, "the configuration of a model")
    config, state = ModelConfig.from_hf(hf), read_weights(folder)
    held = sum(tensor.numel() for tensor in state.values())
    if config.n_params > held:  # before so many layers are made
        raise UserError(
            f"{folder / CONFIG} describes {config.n_params:,} parameters and the weights beside it hold only "
            f"{held:,} numbers; fetch both from the same place."
        )
    state = convert.from_hf(state, config, hf["model_type"])
    dtype = dtype or state["embed_tokens.weight"].dtype
    head = {"lm_head.weight"} if config.tie_embeddings else set[str]()
    for name in state.keys() - head:
        state[name] = state[name].to(device, dtype)
    state |= dict.fromkeys(head, state["embed_tokens.weight"])
    model = skeleton(config)
    model.load_state_dict(state, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    if model.position is not None:
        model.position.to_empty(device=device or "cpu")
    return model.eval()


def _read_object(path: Path, what: str) -> dict[str, Any]:
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not {what}; fetch it again.")
    return cast("dict[str, Any]", value)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by their names in the files, mapped into memory.

    Raises:
        UserError: No safetensors, an index that points outside the folder, a tensor missing or held twice.
    """
    if (folder / WEIGHTS).exists():
        return tensors.read(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
        if pickles:
            raise UserError(f"{folder / pickles[0]} is a pickle, {_DANGER}")
        raise UserError(f"There is no {WEIGHTS} in {folder}; name a folder with a model.")
    index = _read_object(folder / INDEX, "an index of weights")
    places: dict[str, Any] = index["weight_map"] if isinstance(index.get("weight_map"), dict) else {}
    state: dict[str, Tensor] = {}
    files = sorted({str(file) for file in places.values()})
    for file in files:  # all of them, before one is opened
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file):
            raise UserError(
                f"{folder / INDEX} names {file!r}, no safetensors of this folder; do not trust it."
            )
    for file in files:
        shard = tensors.read(folder / file)
        for name in shard:
            if places.get(name) != file:
                raise UserError(
                    f"{folder / file} holds {name}, which the index has elsewhere; fetch both again."
                )
        state |= shard
    if lacking := places.keys() - state:
        raise UserError(
            f"The shards in {folder} lack {min(lacking)}, which the index names; fetch them again."
        )
    return state


def save(model: Transformer, folder: StrPath, *, tokenizer_files: Iterable[StrPath] = ()) -> None:
    """Write a folder that `load_folder` and the transformers library read.

    The configuration comes last: a folder that was left half-written has none, and is refused.

    Args:
        model: The model.
        folder: Where to; it is made if there is none.
        tokenizer_files: Files that are copied beside it.

    Raises:
        UserError: No family of Hugging Face describes the model, or a file cannot be written.
    """
    hf = model.config.to_hf()
    state = convert.to_hf(model.state_dict(), model.config, hf["model_type"])
    hf["torch_dtype"] = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    folder = Path(folder)
    copies = {Path(file).name: read_bytes(file) for file in tokenizer_files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (CONFIG, INDEX):
            (folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {error.strerror}; choose another folder.") from error
    tensors.write(folder / WEIGHTS, state)
    for name, data in copies.items():
        atomic_write(folder / name, data)
    atomic_write(folder / CONFIG, json.dumps(hf, indent=2) + "\n")


def resolve(name_or_path: StrPath, revision: str | None = None) -> Path:
    """The folder of a model: itself, or what the Hugging Face hub has under a name.

    From the hub come configuration, tokenizer and safetensors, nothing else, and each file is compared with
    its checksum once.

    Args:
        name_or_path: A folder, a file in it, or a name such as ``HuggingFaceTB/SmolLM2-135M``.
        revision: A commit, tag or branch; by default what is newest. A commit never changes.

    Returns:
        The folder; a file of another format as it is.

    Raises:
        UserError: No such folder or name, no network, a wrong checksum.
    """
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.suffix in PICKLES:
        raise UserError(f"{path} is a pickle, {_DANGER}")
    if path.exists():
        return path.parent if path.suffix == ".safetensors" else path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(f"There is no folder {name}, and a name on the hub looks like owner/model.")
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    except ImportError as error:
        raise UserError(
            f'To fetch {name}, install the extra hub, pip install -e ".[hub]", or take a model that '
            "needs none: myllm download smollm2."
        ) from error
    try:
        fetched: str = snapshot_download(
            name, revision=revision, allow_patterns=WANTED, ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:  # the library's errors are such
        reason = re.split(r"\.?\s*\n|\. |\.$", str(error).strip())[0]
        raise UserError(f"Cannot fetch {name}: {reason}; check the name and the network.") from error
    folder = Path(fetched)
    _verify(folder)
    return folder


def _verify(folder: Path) -> None:
    """Compare each file of a snapshot with its name in the store, which is its checksum."""
    done = cache_dir() / "verified" / folder.name
    if done.exists():
        return
    for file in sorted(folder.iterdir()):
        digest = file.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", digest):
            right = sha256(file) == digest
        elif re.fullmatch(r"[0-9a-f]{40}", digest):  # small files have the one that git gives them
            data = read_bytes(file)
            right = sha1(b"blob %d\0" % len(data) + data).hexdigest() == digest
        else:
            continue
        if not right:
            file.resolve().unlink()
            raise UserError(f"{file.name} of {folder} has a wrong checksum and was removed; run again.")
    done.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(done, "")
