"""Models from GGUF files, the format of llama.cpp: names, the order of rows, configuration."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from myllm.config import ModelConfig, RopeScaling
from myllm.files import StrPath, UserError
from myllm.model.rope import frequencies, llama3
from myllm.model.transformer import Transformer
from myllm.weights.gguf_file import GGUFFile
from myllm.weights.skeleton import skeleton

NAMES = {
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
FACTORS = "rope_freqs.weight"  # by what LLaMA-3 divides the rotary frequencies; no parameter


def parameter_name(name: str) -> str:
    """Ours for a tensor's name in the file: ``blk.3.attn_q.weight`` is ``layers.3.self_attn.q_proj.weight``.

    Unknown names come back as they are.
    """
    match name.split("."):
        case ["blk", layer, part, leaf] if part in NAMES:
            return f"layers.{layer}.{NAMES[part]}.{leaf}"
        case [part, leaf] if part in NAMES:
            return f"{NAMES[part]}.{leaf}"
        case _:
            return name


def unpermute(weight: Tensor, n_head: int) -> Tensor:
    """Undo the order of rows in which llama.cpp keeps the projections to queries and keys.

    It rotates neighbours (2 i, 2 i + 1) of each head, `myllm.model.rope.rotate` the pairs (i, i + half); the
    same numbers, in another order.

    Args:
        weight: (n_head · D, C).
        n_head: Heads of this projection: for keys those of the keys.
    """
    rows, width = weight.shape
    return weight.view(n_head, rows // n_head // 2, 2, width).transpose(1, 2).reshape(rows, width)


def config(file: GGUFFile) -> ModelConfig:
    """The configuration that a file's values describe.

    Raises:
        UserError: Another architecture than llama, or a value that is missing or cannot be honoured.
    """
    values = file.metadata
    architecture = values.get("general.architecture")
    if architecture != "llama":
        raise UserError(f"{file.path} holds a model of the architecture {architecture!r}; known is llama.")
    if values.get("split.count", 1) != 1 or values.get("llama.expert_count", 0) != 0:
        raise UserError(f"{file.path} is one part of several, or a mixture of experts, which cannot be read.")
    n_layer, n_embd, n_head = (
        _whole(file, key) for key in ("block_count", "embedding_length", "attention.head_count")
    )
    head_dim = _whole(file, "attention.key_length", n_embd // n_head)
    if _whole(file, "rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{file.path} rotates a part of each head, which cannot be read in this format.")
    if "token_embd.weight" not in file.tensors:
        file.bad("it has no token_embd.weight")
    vocab_size = file.tensors["token_embd.weight"].shape[0]
    if len(values.get("tokenizer.ggml.tokens", ())) > vocab_size:
        file.bad(f"it has more tokens than the {vocab_size:,} embeddings")
    return ModelConfig(
        vocab_size=vocab_size,
        block_size=_whole(file, "context_length"),
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        n_kv_head=_whole(file, "attention.head_count_kv", n_head),
        head_dim=head_dim,
        intermediate_size=_whole(file, "feed_forward_length"),
        norm_eps=_real(file, "attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=_real(file, "rope.freq_base", 10_000.0),
        rope_scaling=_scaling(file, head_dim),
        tie_embeddings="output.weight" not in file.tensors,
    )


def _whole(file: GGUFFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(f"llama.{key}", default)
    if type(value) is not int or value < 1:
        file.bad(f"its llama.{key} is {value!r:.40}")
    return value


def _real(file: GGUFFile, key: str, default: float) -> float:
    """A float32 value as the shortest number that stands for it: 1e-5 for 9.999999747378752e-06."""
    value = file.metadata.get(f"llama.{key}", default)
    if type(value) not in (int, float) or not math.isfinite(value):
        file.bad(f"its llama.{key} is {value!r:.40}")
    return float(f"{value:.7g}")


def _scaling(file: GGUFFile, head_dim: int) -> RopeScaling | None:
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if FACTORS in file.tensors:  # LLaMA-3: the file has the factors, not what they were computed from
        factors, plain = file.tensor(FACTORS), frequencies(head_dim, _real(file, "rope.freq_base", 10_000.0))
        scaling = RopeScaling("llama3", max(1.0, round(factors.max().item(), 4)), 8192)
        if factors.shape == plain.shape and torch.allclose(plain / llama3(plain, scaling), factors.double()):
            return scaling
        kind = "by its own factors"
    if kind == "none":
        return None
    if kind in ("linear", "yarn"):
        context = _whole(file, "rope.scaling.original_context_length", _whole(file, "context_length"))
        return RopeScaling(kind, _real(file, "rope.scaling.factor", 1.0), context)
    raise UserError(f"{file.path} scales rotary frequencies in a way ({kind}) that cannot be read.")


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
    if settings.n_params > held:  # before so many layers are made
        file.bad(f"it describes {settings.n_params:,} parameters and holds {held:,} numbers")
    model = skeleton(settings)
    wanted = dict(model.named_parameters())
    found = {parameter_name(name): name for name in file.tensors if name != FACTORS}
    if missing := sorted(wanted.keys() - found):
        file.bad(f"it lacks {len(missing)} tensors, {missing[0]} among them")
    if unexpected := sorted(found[name] for name in found.keys() - wanted):
        raise UserError(f"{path} has tensors that llama has no place for: {', '.join(unexpected[:5])}.")
    for name, parameter in wanted.items():
        if (shape := file.tensors[found[name]].shape) != parameter.shape:
            file.bad(f"{found[name]} has the shape {shape}, not {tuple(parameter.shape)}")
    for name, old in found.items():
        weight = file.tensor(old)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = unpermute(weight, settings.n_head if "q_proj" in name else settings.n_kv_head)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(weight.to(device, dtype or torch.float32)))
    if settings.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    if model.position is not None:
        model.position.to_empty(device=device or "cpu")
    return model.eval(), file.metadata
