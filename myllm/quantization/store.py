"""Quantized models in a folder: ``config.json``, and one safetensors file whose header describes the layers.

The header maps the name of each quantized layer to its class and options, so that layers may differ. The
configuration of the full model is an object inside ``config.json``, beside a ``model_type`` that no other
library has: a library that does not know it must refuse the folder, not read codes as weights.
"""

import copy
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from myllm.config import ModelConfig
from myllm.files import StrPath, UserError, expand, read_json
from myllm.model.transformer import Transformer, parts
from myllm.quantization.layer import QuantizedEmbedding, QuantizedLinear
from myllm.quantization.schemes import SCHEMES, on_meta, share_table
from myllm.tensors import CONFIG, WEIGHTS, read_tensors, write_model

FORMAT = "myllm-quantized"
#: The classes that a file may name, and their modules; those of bitsandbytes have a format of their own.
KINDS = {name: module for module, name in SCHEMES.values() if module not in ("gptq", "bnb")}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TABLE, _HEAD = "embed_tokens.weight", "lm_head.weight"
Layers = dict[str, tuple[str, dict[str, Any]]]


def quantized_layers(model: nn.Module) -> Layers:
    """The class and the options of each quantized layer, by name; empty for a model without one."""
    modules: list[tuple[str, nn.Module]] = [*model.named_modules()]
    return {name: (type(x).__name__, x.options) for name, x in modules if isinstance(x, QuantizedLinear)}


def read_config(folder: Path) -> ModelConfig | None:
    """The configuration of the model in a folder; None where it is not in this format."""
    if not (folder / CONFIG).is_file():
        return None
    hf: Any = read_json(folder / CONFIG, "the configuration of a model")
    ours = hasattr(hf, "get") and hf.get("model_type") == FORMAT
    return ModelConfig.from_hf(hf.get("model")) if ours else None


def save(model: Transformer, folder: StrPath) -> None:
    """Write a folder that `load` reads.

    Raises:
        UserError: Parts of the model are neither those of its configuration nor layers of `KINDS`, no family
            of Hugging Face describes it, or a file cannot be written.
    """
    layers, state = quantized_layers(model), model.state_dict()
    _check(_skeleton(model.config, layers, "The model"), state, "The model")
    if model.config.tie_embeddings:
        state.pop(_HEAD, None)
    dtype = str(model.norm.weight.dtype).removeprefix("torch.")
    hf = {"model_type": FORMAT, "quantization_config": {"quant_method": FORMAT}}
    hf["model"] = model.config.to_hf() | {"dtype": dtype}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    write_model(folder, state, {FORMAT: json.dumps(layers)}, hf)


def load(
    path: StrPath, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Transformer:
    """The model that `save` wrote, bit for bit, in eval mode; tensors stay mapped to the file where possible.

    Args:
        path: The folder, or the safetensors file in it.
        dtype: The dtype of the weights that are not quantized; codes and scales stay as they are.
        device: The device of all tensors; by default the CPU.

    Raises:
        UserError: A missing, damaged or foreign file, one that names an unknown class or option, tensors that
            do not match it, or a dtype that weights cannot have.
    """
    path = expand(path)
    path = path if path.is_file() else path / WEIGHTS
    config, (state, metadata) = read_config(path.parent), read_tensors(path)
    if config is None or FORMAT not in metadata:
        raise UserError(f"{path} is no model in the format {FORMAT}; LLM.save_pretrained writes one.")
    if dtype not in (None, *FLOATS):
        raise UserError(f"The weights of a model cannot become {dtype}; take one of {FLOATS}.")
    if config.n_params > 8 * sum(tensor.nbytes for tensor in state.values()):  # before anything is built
        raise UserError(f"{path} is too small for {config.n_params:,} parameters; take both files together.")
    try:
        entries = json.loads(metadata[FORMAT]).items()
        layers: Layers = {name: (str(kind), {**options}) for name, (kind, options) in entries}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} does not describe its layers; save the model again.") from error
    if config.tie_embeddings and _TABLE in state:
        state[_HEAD] = state[_TABLE]
    model = _skeleton(config, layers, path)
    _check(model, state, path)
    buffers = {name for name, _ in model.named_buffers()}
    state = {name: x.to(device, None if name in buffers else dtype) for name, x in state.items()}
    model.load_state_dict(state, assign=True)
    if isinstance(model.embed_tokens, QuantizedEmbedding):
        model.embed_tokens.weight = next(model.norm.parameters()).detach().new_empty(0)
    else:
        model.tie_weights()
    if (position := parts(config).position) is not None:
        with torch.device(device or "cpu"):
            model.position = position(config.head_dim)  # it has no weights, only buffers
    return model.eval()


def _skeleton(config: ModelConfig, layers: Layers, source: StrPath) -> Transformer:
    """The model of a configuration with these quantized layers, on the meta device."""
    with torch.device("meta"):
        model = Transformer(config)
    for name, (kind, options) in layers.items():
        try:
            if kind not in KINDS:
                raise UserError(f"only {', '.join(KINDS)} can be stored.")
            linear: Any = model.get_submodule(name)  # another module lacks in_features
            make = getattr(import_module(f"myllm.quantization.{KINDS[kind]}"), kind)
            model.set_submodule(name, copy.deepcopy(on_meta(make, linear, options)))
            if config.tie_embeddings and name == "lm_head":
                share_table(model)
        except (AttributeError, UserError) as error:
            what = f"{name!r:.60} of the kind {kind!r:.40}"
            raise UserError(f"{source} has no layer {what}: {error}") from error
    return model


def _check(model: Transformer, state: dict[str, Tensor], source: StrPath) -> None:
    """Raise a `UserError` where tensors differ from those of a model in name, shape or kind of numbers."""
    wanted, found = (
        {name: (*x.shape, "float" if x.dtype in FLOATS else str(x.dtype)) for name, x in one.items()}
        for one in (model.state_dict(), state)
    )
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = f"{found.get(name)!s:.60} instead of {wanted.get(name)}"
            raise UserError(f"{source} does not match its description: {name:.80} is {what}.")
