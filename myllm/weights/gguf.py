"""Models from GGUF files, the format of llama.cpp: names, the order of rows, configuration."""

import math
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

#: The parts of names in the file, and what they are called in ours.
GGUF_NAMES = {
    "blk": "layers",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
YARN_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
LLAMA3_CONTEXT = 8192
FACTORS = "rope_freqs.weight"  # not a parameter: what LLaMA 3 divides each rotary frequency by
# Settings with which a model computes the same when they are 1; of all others that are not read, 0 is.
ONE = (
    "attention.causal",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "rope.scaling.yarn_attn_factor",
)
NO_EFFECT = ("rope.scaling.finetuned", "tensor_data_layout")


def parameter_name(name: str) -> str:
    """Our name for a tensor of the file: ``layers.3.mlp.up_proj.weight`` for ``blk.3.ffn_up.weight``."""
    return ".".join(GGUF_NAMES.get(part, part) for part in name.split("."))


def unpermute(weight: Tensor, n_head: int) -> Tensor:
    """Undo the order of rows in which llama.cpp stores the projections to queries and keys.

    It rotates the pairs (2 i, 2 i + 1) of each head, `myllm.model.rope` the pairs (i, i + half): the same
    numbers in another order.

    Args:
        weight: (n_head · D, C).
        n_head: The number of heads of this projection: for keys the number of key heads.
    """
    rows, width = weight.shape
    return weight.view(n_head, rows // n_head // 2, 2, width).transpose(1, 2).reshape(rows, width)


def config(file: GGUFFile) -> ModelConfig:
    """The configuration that a file's values describe.

    Raises:
        UserError: Another architecture than llama, a value that is missing or that `Transformer` cannot
            express, or a model larger than the file.
    """
    architecture = file.metadata.get("general.architecture")
    if str(architecture) != "llama":  # text, not an array
        raise UserError(
            f"{file.path} holds a model of the architecture {architecture!r:.40}; known is llama."
        )
    if "token_embd.weight" not in file.tensors or str(file.metadata.get("split.count", 1)) not in ("0", "1"):
        file.refuse("it has no token_embd.weight, or is one part of several (join them first)")
    vocab_size, values = file.tensors["token_embd.weight"].shape[0], _Values(file)
    n_head, n_embd = values.number("attention.head_count"), values.number("embedding_length")
    head_dim = values.number("attention.key_length", n_embd // n_head)
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "block_size": values.number("context_length"),
        "n_layer": values.number("block_count"),
        "n_head": n_head,
        "n_embd": n_embd,
        "n_kv_head": values.number("attention.head_count_kv", n_head),
        "head_dim": head_dim,
        "intermediate_size": values.number("feed_forward_length"),
        "norm_eps": values.number("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": values.number("rope.freq_base", 10_000.0),
        "tie_embeddings": "output.weight" not in file.tensors,
    }
    scaling = _scaling(values, head_dim, settings["rope_theta"], settings["block_size"])
    same = {"rope.dimension_count": head_dim, "attention.value_length": head_dim, "vocab_size": vocab_size}
    values.refuse_unread(same | dict.fromkeys(ONE, 1))
    try:
        found = ModelConfig(**settings, rope_scaling=RopeScaling(**scaling) if scaling else None)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    if found.n_layer > len(file.tensors):
        file.refuse(f"it describes {found.n_layer:,} layers and holds {len(file.tensors)} tensors")
    return found


class _Values:
    """The values of a file whose names begin with ``llama.``, each read once."""

    def __init__(self, file: GGUFFile) -> None:
        own = {name: value for name, value in file.metadata.items() if name.startswith("llama.")}
        self.file, self.unread = file, {name.removeprefix("llama."): own[name] for name in own}

    def number(self, name: str, default: float | None = None) -> Any:
        """A positive integer; where the default is a float, any finite number.

        A float32 number becomes the shortest decimal that stands for it: 1e-5 for 9.999999747378752e-06.
        """
        value, real = self.unread.pop(name, default), type(default) is float
        if type(value) is int and (real or value > 0):
            return value
        if type(value) is not float or not real or not math.isfinite(value):
            self.file.refuse(f"its llama.{name} is {value!r:.40}")
        return float(f"{value:.7g}")

    def refuse_unread(self, same: dict[str, int]) -> None:
        """Raise an error if a value that was not read could change what the model computes.

        Args:
            same: The values with which it computes the same, where that is not 0.
        """
        for name, value in self.unread.items():
            plain = not isinstance(value, list | np.ndarray) and value == same.get(name, 0)
            if not plain and name not in NO_EFFECT:
                raise UserError(f"{self.file.path} has llama.{name} {value!r:.40}, which is not supported.")


def _scaling(values: _Values, head_dim: int, theta: float, context: int) -> dict[str, Any] | None:
    """The arguments of `RopeScaling`, from the settings as llama.cpp reads them; None for no scaling."""
    file, prefix = values.file, "rope.scaling."
    kind = str(values.unread.pop(prefix + "type", "linear"))  # as old files have it, with a factor alone
    factor = values.number(prefix + "factor", values.number("rope.scale_linear", 1.0)) or 1.0
    original = values.number(prefix + "original_context_length", context)
    attention = values.number(prefix + "attn_factor", 1.0)
    ramp = values.number(prefix + "yarn_ext_factor", -1.0)  # negative: what the type implies
    betas = {beta: values.number(f"{prefix}yarn_{beta}", usual) for beta, usual in YARN_BETAS.items()}
    scaling = {"kind": kind, "factor": factor, "original_context": original}
    unscaled = kind == "none" or (kind == "linear" and factor == 1)
    if FACTORS in file.tensors:
        if unscaled and attention == 1 and (found := _llama3_factor(file, head_dim, theta)):
            return {"kind": "llama3", "factor": found, "original_context": LLAMA3_CONTEXT}
        kind = f"{kind}, with factors of its own"
    elif kind == "yarn" and factor >= 1 and ramp in (-1, 1):
        grown = None if attention == 1 else attention * (0.1 * math.log(factor) + 1)
        return {**scaling, **betas, "attention_factor": grown}
    elif kind in ("none", "linear") and attention == 1 and ramp in (-1, 0):
        return None if unscaled else scaling
    what = f"{kind:.60}, factor {factor}, attn_factor {attention}, yarn_ext_factor {ramp}"
    raise UserError(f"{file.path} scales rotary frequencies in a way that is not supported: {what}.")


def _llama3_factor(file: GGUFFile, head_dim: int, theta: float) -> float | None:
    """The factor of LLaMA 3's scaling, if the file's factors are those; it does not name the settings."""
    if file.tensors[FACTORS].shape != (head_dim // 2,):
        return None
    factors, plain = file.tensor(FACTORS).double(), frequencies(head_dim, theta)
    factor = round(factors.max().item(), 4)
    if not 1 <= factor < math.inf:
        return None
    scaled = llama3(plain, RopeScaling("llama3", factor, LLAMA3_CONTEXT))
    return factor if torch.allclose(plain / scaled, factors) else None


def load(
    path: StrPath, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> tuple[Transformer, dict[str, Any]]:
    """Read a model, tensor by tensor: no more than one copy of the weights is in memory.

    Args:
        path: The file.
        dtype: What the weights become, by default float32.
        device: Where they go, by default the CPU.

    Returns:
        The model in eval mode, and the file's values by name, its tokenizer among them.

    Raises:
        UserError: A damaged file, an architecture that is not known, missing or unexpected tensors.
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
