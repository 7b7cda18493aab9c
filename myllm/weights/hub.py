"""Models in Hugging Face's folder format: ``config.json`` and safetensors, never pickles."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from myllm.checks import near
from myllm.config import ModelConfig
from myllm.files import StrPath, UserError, expand, read_json
from myllm.model.transformer import Transformer
from myllm.tensors import CONFIG, INDEX, WEIGHTS, read_tensors, write_model
from myllm.weights import convert

_DANGER = "which can run arbitrary code when it is loaded; use a model in safetensors format."
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
WANTED = ["*.json", "*.safetensors", "*.model", "merges.txt", "*.jinja"]
UNWANTED = ["*/*", "consolidated*"]  # the same weights in other formats
SHIPPED = {name: Path(__file__).with_name("assets") / name for name in ("course-base", "course-sft")}
"""The course's own models, which are part of the package."""


def load_folder(
    path: StrPath, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Transformer:
    """The model in a folder, in eval mode.

    The weights stay in the file, memory-mapped, if neither dtype nor device changes; otherwise they are
    converted one by one. Matrices that the file stores transposed are copied in any case.

    Args:
        path: A folder with ``config.json`` and ``model.safetensors`` or its shards and their index, or one
            safetensors file that has a ``config.json`` beside it.
        dtype: The dtype of the weights; by default as stored.
        device: The device of the weights; by default the CPU.

    Raises:
        UserError: A missing, damaged or malicious file, or weights that do not match the configuration.
    """
    path = expand(path)
    hf = read_config(path)
    config = ModelConfig.from_hf(hf)
    state = convert.from_hf(read_weights(path), config, hf["model_type"])
    return convert.build(config, state, dtype=dtype, device=device)


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder, or beside a safetensors file.

    Raises:
        UserError: There is none, or it is not JSON.
    """
    folder = path.parent if path.is_file() else path
    if path.is_file() and path.suffix != ".safetensors" and not (folder / CONFIG).exists():
        raise UserError(f"{path} is no model; name a folder, a safetensors file or a GGUF file.")
    if not (folder / CONFIG).exists():
        inside = folder / "model"
        advice = f"take {inside}" if (inside / CONFIG).is_file() else "name a folder that contains a model"
        if (folder / "adapter_config.json").is_file():
            advice = "it holds an adapter, which `myllm merge` puts into its base"
        raise UserError(f"There is no {CONFIG} in {folder}; {advice}.")
    return read_json(folder / CONFIG, "the configuration of a model")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a folder, by their names in the files, memory-mapped.

    Numbers are read from the disk on first use, and changing them does not change the file. Tensors that the
    index does not list are left out.

    Raises:
        UserError: No safetensors, an index that points outside the folder, or a tensor that its shard lacks.
    """
    if path.is_file() or (path / WEIGHTS).is_file():
        return _read_file(path if path.is_file() else path / WEIGHTS)
    if not (path / INDEX).is_file():
        pickles = sorted(file.name for file in path.glob("*") if file.suffix in PICKLES)
        if pickles:
            raise UserError(f"{path / pickles[0]} is a pickle, {_DANGER}")
        if path.suffix == ".safetensors":
            raise UserError(f"There is no file {path}; check the name.")
        raise UserError(f"There is no {WEIGHTS} in {path}; name a folder that contains a model.")
    try:
        places: dict[str, Any] = {**read_json(path / INDEX, "an index of weights")["weight_map"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / INDEX} is not an index of weights; download it again.") from error
    shards = sorted({str(shard) for shard in places.values()})
    for shard in shards:  # check all of them before one is opened
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise UserError(
                f"{path / INDEX} names {shard!r}, not a safetensors file of this folder; do not trust it."
            )
    state: dict[str, Tensor] = {}
    for shard in shards:
        tensors = _read_file(path / shard)
        state |= {name: tensor for name, tensor in tensors.items() if places.get(name) == shard}
    if lacking := places.keys() - state:
        raise UserError(
            f"The shards in {path} lack {min(lacking)}, which the index names; download them again."
        )
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, each under its name and the aliases that the metadata gives it."""
    state, shared = read_tensors(path)
    return {alias: state[name] for alias, name in shared.items() if name in state} | state


def save(model: Transformer, folder: StrPath) -> None:
    """Write a folder that `load_folder` and the `transformers` library can read; see `write_model`.

    Raises:
        UserError: No Hugging Face model family describes the model, or a file cannot be written.
    """
    hf = model.config.to_hf()
    state = convert.to_hf(model.state_dict(), model.config, hf["model_type"])
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    hf |= {"dtype": dtype, "torch_dtype": dtype}  # the newer and the older name
    write_model(folder, state, {"format": "pt"}, hf)


def resolve(name_or_path: StrPath, revision: str | None = None) -> Path:
    """The local path of a model: one of `SHIPPED`, a folder or file, or a download from the hub.

    Only configuration, tokenizer and safetensors files are downloaded from the hub. Once downloaded, they are
    found again without a network.

    Args:
        name_or_path: A name in `SHIPPED`, a folder, a file in it, or a name on the hub, such as
            ``HuggingFaceTB/SmolLM2-135M``.
        revision: A commit, tag or branch; by default the newest commit. Only a commit never changes.

    Returns:
        The folder, or the file that was named.

    Raises:
        UserError: No such folder or name, a pickle, or a download that fails.
    """
    path, name = expand(name_or_path), str(name_or_path)
    if name in SHIPPED:
        return SHIPPED[name]
    if path.suffix in PICKLES:
        raise UserError(f"{path} is a pickle, {_DANGER}")
    if os.path.exists(path):  # noqa: PTH110  (Path.exists raises where a folder may not be searched)
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        hub = "and a name on the hub looks like owner/model"
        raise UserError(f"There is no folder {name}, {hub}; {near(name, [*SHIPPED, 'smollm2'])}")
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    except ImportError as error:
        how = "install the extra hub, pip install 'myllm-course[hub]', or use myllm download smollm2"
        raise UserError(f"To fetch {name}, {how}.") from error
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        )
    except (OSError, ValueError) as error:  # the library's errors are subclasses
        why = re.split(r"\.?\s*\n|\. |\.$", str(error).strip())[0]
        raise UserError(f"Cannot fetch {name}: {why}; check the name and the network.") from error
