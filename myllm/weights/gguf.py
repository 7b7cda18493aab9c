"""Models loaded from GGUF files, llama.cpp's format: names, row order and configuration."""

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from myllm.config import ModelConfig, RopeScaling
from myllm.files import StrPath, UserError
from myllm.model.rope import frequencies, llama3
from myllm.model.transformer import Transformer
from myllm.weights import convert
from myllm.weights.gguf_file import GGUFFile

_TABLES: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
#: Parts of the tensor names in the file, and their counterparts in ours.
GGUF_NAMES: dict[str, str] = _TABLES["names"]
#: The fields of `ModelConfig` that the file holds, each with the name of the value and its default.
FIELDS: dict[str, list[Any]] = _TABLES["keys"]
LLAMA3_CONTEXT = 8192
FACTORS = "rope_freqs.weight"  # not a parameter: the divisors of LLaMA 3's rotary frequencies


def parameter_name(name: str) -> str:
    """Our name for a tensor of the file: ``layers.3.mlp.up_proj.weight`` for ``blk.3.ffn_up.weight``."""
    return ".".join(GGUF_NAMES.get(part, part) for part in name.split("."))


def unpermute(weight: Tensor, n_head: int) -> Tensor:
    """Undo the row order in which llama.cpp stores query and key projections.

    llama.cpp rotates the pairs (2 i, 2 i + 1) of each head, `myllm.model.rope` the pairs (i, i + half): the
    same numbers in another order.

    Args:
        weight: (n_head · D, C).
        n_head: The number of heads of this projection; for keys, the number of key heads.
    """
    rows, width = weight.shape
    return weight.view(n_head, rows // n_head // 2, 2, width).transpose(1, 2).reshape(rows, width)


def config(file: GGUFFile) -> ModelConfig:
    """The configuration that a file's values describe.

    Raises:
        UserError: An architecture other than llama, a value that is missing or that `Transformer` cannot
            express, or more layers than the file has tensors.
    """
    architecture = file.metadata.get("general.architecture")
    if str(architecture) != "llama":  # as text, since it may be an array
        raise UserError(
            f"{file.path} holds a model of the architecture {architecture!r:.40}; only llama is known."
        )
    table = file.tensors.get("token_embd.weight")
    if table is None or str(file.metadata.get("split.count", 1)) not in ("0", "1"):
        file.refuse("it has no token_embd.weight, or is one part of several (join them first)")
    values = _Values(file)
    settings = {field: values.number(*key) for field, key in FIELDS.items()}
    settings["vocab_size"] = table.shape[0]
    settings["tie_embeddings"] = "output.weight" not in file.tensors
    found = _make(file, settings)
    found = _make(file, settings, rope_scaling=_scaling(values, found))
    sizes = {"rope.dimension_count": found.head_dim, "attention.value_length": found.head_dim}
    values.refuse_unread(sizes | {"vocab_size": found.vocab_size})
    if found.n_layer > len(file.tensors):
        file.refuse(f"it describes {found.n_layer:,} layers and holds {len(file.tensors)} tensors")
    return found


def _make(file: GGUFFile, settings: dict[str, Any], **changes: Any) -> ModelConfig:
    try:
        return ModelConfig(**settings).replace(**changes)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error


class _Values:
    """The values of a file whose names begin with ``llama.``, each read once."""

    def __init__(self, file: GGUFFile) -> None:
        own = {name: value for name, value in file.metadata.items() if name.startswith("llama.")}
        self.file, self.unread = file, {name.removeprefix("llama."): own[name] for name in own}

    def number(self, name: str, default: float | None = None) -> Any:
        """A positive integer or, if the default is a float, any finite number.

        A float32 is rounded to 7 significant digits: 1e-5 for 9.999999747378752e-06.
        """
        if default is not None and name not in self.unread:
            return default
        value, real = self.unread.pop(name, None), type(default) is float
        if type(value) is int and (real or value > 0):
            return value
        if type(value) is not float or not real or not math.isfinite(value):
            self.file.refuse(f"its llama.{name} is {value!r:.40}")
        return float(f"{value:.7g}")

    def refuse_unread(self, sizes: dict[str, int]) -> None:
        """Raise an error if a value that was not read could change the model's output.

        Args:
            sizes: Further values that leave the output unchanged.
        """
        neutral = _TABLES["neutral"] | sizes
        for name, value in self.unread.items():
            plain = not isinstance(value, list | np.ndarray) and value == neutral.get(name, 0)
            if not plain and name not in _TABLES["inert"]["names"]:
                raise UserError(f"{self.file.path} has llama.{name} {value!r:.40}, which is not supported.")


def _scaling(values: _Values, model: ModelConfig) -> dict[str, Any] | None:
    """The fields of `RopeScaling`, from the values as llama.cpp reads them; None for no scaling."""
    file, number = values.file, values.number
    kind = str(values.unread.pop("rope.scaling.type", "linear"))  # old files have only a factor
    factor = number("rope.scaling.factor", number("rope.scale_linear", 1.0)) or 1.0
    original = number("rope.scaling.original_context_length", model.block_size)
    attention = number("rope.scaling.attn_factor", 1.0)
    ramp = number("rope.scaling.yarn_ext_factor", -1.0)  # negative: what the type implies
    fast, slow = number("rope.scaling.yarn_beta_fast", 32.0), number("rope.scaling.yarn_beta_slow", 1.0)
    scaling = {"kind": kind, "factor": factor, "original_context": original}
    unscaled = kind == "none" or (kind == "linear" and factor == 1)
    if FACTORS in file.tensors:
        if unscaled and attention == 1 and (found := _llama3_factor(file, model)):
            return {"kind": "llama3", "factor": found, "original_context": LLAMA3_CONTEXT}
        kind = f"{kind}, with factors of its own"
    elif kind == "yarn" and factor >= 1 and ramp in (-1, 1):
        grown = None if attention == 1 else attention * (0.1 * math.log(factor) + 1)
        return {**scaling, "beta_fast": fast, "beta_slow": slow, "attention_factor": grown}
    elif kind in ("none", "linear") and attention == 1 and ramp in (-1, 0):
        return None if unscaled else scaling
    what = f"{kind:.60}, factor {factor}, attn_factor {attention}, yarn_ext_factor {ramp}"
    raise UserError(f"{file.path} scales rotary frequencies in a way that is not supported: {what}.")


def _llama3_factor(file: GGUFFile, model: ModelConfig) -> float | None:
    """The factor of LLaMA 3's scaling, if it explains the file's divisors; the file does not store it."""
    if file.tensors[FACTORS].shape != (model.head_dim // 2,):
        return None
    factors, plain = file.tensor(FACTORS).double(), frequencies(model.head_dim, model.rope_theta)
    factor = round(factors.max().item(), 4)
    if not 1 <= factor < math.inf:
        return None
    scaled = llama3(plain, RopeScaling("llama3", factor, LLAMA3_CONTEXT))
    return factor if torch.allclose(plain / scaled, factors) else None


def load(
    path: StrPath, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> tuple[Transformer, dict[str, Any]]:
    """Read a model tensor by tensor, so that there is never more than one copy of the weights in memory.

    Args:
        path: The file.
        dtype: The dtype of the weights; by default float32.
        device: The device of the weights; by default the CPU.

    Returns:
        The model in eval mode, and the file's metadata by name, including the tokenizer's.

    Raises:
        UserError: A damaged file, an unknown architecture, missing or unexpected tensors.
    """
    file = GGUFFile(path)
    settings = config(file)
    held = sum(math.prod(entry.shape) for entry in file.tensors.values())
    if settings.n_params > held:  # before anything is built
        file.refuse(f"it describes {settings.n_params:,} parameters and holds {held:,} numbers")
    stored = {parameter_name(name): name for name in file.tensors if name != FACTORS}
    shapes = {name: file.tensors[old].shape for name, old in stored.items()}
    parts = convert.layout(settings, "llama").values()
    wanted = {name: shape for part in parts for name, shape in part.items()}
    convert.check(wanted, shapes, f"llama model that {path} describes")
    state: dict[str, Tensor] = {}
    for name, old in stored.items():
        weight = file.tensor(old)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = unpermute(weight, settings.n_head if "q_proj" in name else settings.n_kv_head)
        state[name] = weight.to(device, dtype or torch.float32)
    return convert.build(settings, state), file.metadata
