"""Saving and loading adapters in the format of the peft library: ``adapter_config.json`` and safetensors."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from myllm.files import StrPath, UserError, atomic_write, atomic_writer, expand, read_json, reason
from myllm.finetuning.lora import apply_lora, linears, lora_layers
from myllm.weights import convert
from myllm.weights.hub import read_weights

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora"}
#: Settings that do not affect the computation, whatever their value.
INERT = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules"),
    *("inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config"),
    *("megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision", "target_modules"),
    "task_type",
}
#: The values of ``init_lora_weights`` that leave the base weights unchanged; PiSSA and others change them.
HARMLESS = (None, True, False, "gaussian", "eva", "orthogonal")


def save_adapter(model: nn.Module, folder: StrPath, *, base: str | None = None) -> None:
    """Write the active adapter in a form that `load_adapter` and peft read.

    Args:
        model: A model with an active adapter that has the same rank in all layers.
        folder: The folder to write; it is created if it does not exist.
        base: The name of the base model, recorded for whoever loads the adapter.

    Raises:
        UserError: No active adapter, a family whose layers peft adapts in another form, or a folder that
            cannot be written.
    """
    adapters = {path: x for path, layer in lora_layers(model) if (x := layer.adapter) is not None}
    if not adapters:
        raise UserError("No adapter is active; call apply_lora or set_adapter first.")
    names = _hf_paths(model)
    if other := adapters.keys() - names.keys():
        raise UserError(
            f"peft adapts {min(other)} of such a model in another form; merge the adapter instead."
        )
    state: dict[str, Tensor] = {}
    for path, adapter in adapters.items():
        for part, name in PARTS.items():
            if (tensor := getattr(adapter, part)) is not None:
                state[f"{PREFIX}{names[path]}.{name}"] = tensor.detach().contiguous()
    first = next(iter(adapters.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "target_modules": sorted({names[path].rpartition(".")[2] for path in adapters}),
        "r": len(first.A),
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "use_rslora": first.rslora,
        "use_dora": first.magnitude is not None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    folder = expand(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)  # written last: an incomplete folder has none
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {reason(error)}.") from error
    with atomic_writer(folder / WEIGHTS) as file:
        save_file(state, file.name, {"format": "pt"})
    atomic_write(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_adapter(model: nn.Module, folder: StrPath, *, name: str = "default") -> list[str]:
    """Load an adapter that this package or peft wrote into a model, and activate it.

    Args:
        model: The base model, which may be quantized or have other adapters.
        folder: The folder of the adapter.
        name: The name to give the adapter.

    Returns:
        The names of the adapted layers.

    Raises:
        UserError: A damaged file, a setting of peft that is not supported, or another model's adapter.
    """
    folder = expand(folder)
    config, tensors = read_adapter(folder)
    ours = {f"{PREFIX}{name}": path for path, name in _hf_paths(model).items()}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part = next((part for part, suffix in PARTS.items() if key.endswith(f".{suffix}")), "A")
        path = ours.get(key.removesuffix(f".{PARTS[part]}"))
        if path is None:
            raise UserError(f"{folder} adapts {key}, which this model does not have; take its own base.")
        parts.setdefault(path, {})[part] = tensor
    options = {"rslora": config["use_rslora"], "dora": config["use_dora"], "dropout": config["lora_dropout"]}
    wanted = {"A", "B"} | ({"magnitude"} if options["dora"] else set[str]())
    for path, found in parts.items():
        linear: Any = model.get_submodule(path)
        linear = getattr(linear, "base", linear)
        N, K, r = linear.out_features, linear.in_features, config["r"]
        shapes = {"A": (r, K), "B": (N, r), "magnitude": (N,)}
        if {*found} != wanted or any(found[part].shape != shapes[part] for part in found):
            raise UserError(f"{folder} does not fit {path}, a layer of {K} inputs and {N} outputs.")
    adapted = apply_lora(
        model, config["r"], alpha=config["lora_alpha"], targets=[*parts], name=name, **options
    )
    with torch.no_grad():
        for path, layer in lora_layers(model):
            for part, tensor in parts.get(path, {}).items():
                getattr(layer.adapters[name], part).copy_(tensor)
    return adapted


def read_adapter(folder: StrPath) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the tensors in the folder of an adapter; its base is not needed.

    Raises:
        UserError: A damaged file, or a setting of peft that is not supported.
    """
    folder = expand(folder)
    return _config(folder), read_weights(folder / WEIGHTS)


def _config(folder: Path) -> dict[str, Any]:
    """The settings that are read; any others must not affect the computation."""
    defaults: dict[str, Any] = {"lora_dropout": 0.0, "use_rslora": False, "use_dora": False}
    config = read_json(folder / CONFIG, "the settings of an adapter")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{folder / CONFIG} does not describe a LoRA adapter; no other kind is read.")
    found: dict[str, Any] = defaults | config
    for key, value in found.items():
        changes = key not in READ | INERT and value not in (None, False, {}, [], "none")
        if changes or (key == "init_lora_weights" and value not in HARMLESS):
            raise UserError(f"{folder / CONFIG} sets {key} to {value!r:.40}, which is not supported.")
    for key, kinds in {"r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float)}.items():
        value: Any = found.get(key)
        least = int(key == "r")
        if type(value) not in kinds or not least <= value < math.inf:
            raise UserError(f"{folder / CONFIG} has {key} {value!r:.40}, which is not a number from {least}.")
    return found


def _hf_paths(model: nn.Module) -> dict[str, str]:
    """The names by which peft finds the layers: those of the transformers library, or a foreign model's own.

    Layers that transformers fuses or transposes, as in GPT-2, are missing: peft adapts them in another form.
    """
    paths = [path for path, _ in linears(model)]
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_hf"):
        return dict(zip(paths, paths, strict=True))
    family = config.to_hf()["model_type"]
    stored = {name for name in convert.layout(config, family) if not convert.TRANSPOSED.fullmatch(name)}
    names = {path: convert.hf_name(f"{path}.weight", family) for path in paths}
    return {path: name.removesuffix(".weight") for path, name in names.items() if name in stored}
