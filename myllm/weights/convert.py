"""Between the tensors of published models and those of a `Transformer`: names, transposes, joined matrices.

Our own names are those of LLaMA without the ``model.`` before them. A table for each family says what it
calls each part of ours; ``N`` stands for the number of a layer. Where several parts of ours have the same
name there, the file keeps them as one matrix, one below the other in the order of the table.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.weights.skeleton import skeleton

_LLAMA = {
    "embed_tokens": "model.embed_tokens",
    "layers.N.input_layernorm": "model.layers.N.input_layernorm",
    "layers.N.self_attn.q_proj": "model.layers.N.self_attn.q_proj",
    "layers.N.self_attn.k_proj": "model.layers.N.self_attn.k_proj",
    "layers.N.self_attn.v_proj": "model.layers.N.self_attn.v_proj",
    "layers.N.self_attn.o_proj": "model.layers.N.self_attn.o_proj",
    "layers.N.post_attention_layernorm": "model.layers.N.post_attention_layernorm",
    "layers.N.mlp.gate_proj": "model.layers.N.mlp.gate_proj",
    "layers.N.mlp.up_proj": "model.layers.N.mlp.up_proj",
    "layers.N.mlp.down_proj": "model.layers.N.mlp.down_proj",
    "norm": "model.norm",
    "lm_head": "lm_head",
}
NAMES: dict[str, dict[str, str]] = {
    "gpt2": {
        "embed_tokens": "transformer.wte",
        "embed_positions": "transformer.wpe",
        "layers.N.input_layernorm": "transformer.h.N.ln_1",
        "layers.N.self_attn.q_proj": "transformer.h.N.attn.c_attn",
        "layers.N.self_attn.k_proj": "transformer.h.N.attn.c_attn",
        "layers.N.self_attn.v_proj": "transformer.h.N.attn.c_attn",
        "layers.N.self_attn.o_proj": "transformer.h.N.attn.c_proj",
        "layers.N.post_attention_layernorm": "transformer.h.N.ln_2",
        "layers.N.mlp.up_proj": "transformer.h.N.mlp.c_fc",
        "layers.N.mlp.down_proj": "transformer.h.N.mlp.c_proj",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
    },
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {
        **_LLAMA,
        "layers.N.self_attn.q_norm": "model.layers.N.self_attn.q_norm",
        "layers.N.self_attn.k_norm": "model.layers.N.self_attn.k_norm",
    },
    "gemma": _LLAMA,
    "gemma2": {  # here the norm called post_attention follows the attention, and is not the next one's input
        **_LLAMA,
        "layers.N.attention_output_norm": "model.layers.N.post_attention_layernorm",
        "layers.N.post_attention_layernorm": "model.layers.N.pre_feedforward_layernorm",
        "layers.N.mlp_output_norm": "model.layers.N.post_feedforward_layernorm",
    },
    "phi": {
        **_LLAMA,
        "layers.N.self_attn.q_norm": "model.layers.N.self_attn.q_layernorm",
        "layers.N.self_attn.k_norm": "model.layers.N.self_attn.k_layernorm",
        "layers.N.self_attn.o_proj": "model.layers.N.self_attn.dense",
        "layers.N.mlp.up_proj": "model.layers.N.mlp.fc1",
        "layers.N.mlp.down_proj": "model.layers.N.mlp.fc2",
        "norm": "model.final_layernorm",
    },
    "phi3": {
        **_LLAMA,
        "layers.N.self_attn.q_proj": "model.layers.N.self_attn.qkv_proj",
        "layers.N.self_attn.k_proj": "model.layers.N.self_attn.qkv_proj",
        "layers.N.self_attn.v_proj": "model.layers.N.self_attn.qkv_proj",
        "layers.N.mlp.gate_proj": "model.layers.N.mlp.gate_up_proj",
        "layers.N.mlp.up_proj": "model.layers.N.mlp.gate_up_proj",
    },
}
TRANSPOSED = re.compile(r"transformer\.h\.\d+\.(attn|mlp)\.c_\w+\.weight")
"""GPT-2 keeps these matrices as (in, out); everybody else, and `nn.Linear`, as (out, in)."""
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""What old files hold besides weights: masks and frequencies, which are computed anew."""


class Part(NamedTuple):
    """One of our tensors."""

    name: str
    shape: torch.Size


def theirs(name: str, family: str) -> str:
    """What a family calls one of our tensors: ``norm.weight`` is ``model.norm.weight`` in LLaMA.

    Args:
        name: A key of `Transformer.state_dict`.
        family: A key of `NAMES`.
    """
    module, _, leaf = name.rpartition(".")
    number = "".join(re.findall(r"\d+", module))
    return NAMES[family][re.sub(r"\d+", "N", module)].replace("N", number) + f".{leaf}"


def layout(config: ModelConfig, family: str) -> dict[str, list[Part]]:
    """All tensors that a file of this model holds, and the parts of ours that each is made of.

    A tied head is no tensor of its own. Only shapes are computed; no memory is used.
    """
    ours = skeleton(config).state_dict()
    if config.tie_embeddings:
        del ours["lm_head.weight"]
    parts: dict[str, list[Part]] = {}
    for name, tensor in ours.items():
        parts.setdefault(theirs(name, family), []).append(Part(name, tensor.shape))
    return parts


def from_hf(state: Mapping[str, Tensor], config: ModelConfig, family: str) -> dict[str, Tensor]:
    """The weights of a Hugging Face model under our names.

    Args:
        state: Their names to tensors.
        config: The model.
        family: Its ``model_type``.

    Returns:
        What `Transformer.load_state_dict` wants, with the head even where it is tied. Tensors share memory
        with those of `state` where they need no transposing.

    Raises:
        UserError: One sentence that names the missing, unexpected and misshapen tensors.
    """
    wanted = layout(config, family)
    state = _with_prefix(
        {name: tensor for name, tensor in state.items() if not name.endswith(NO_WEIGHTS)}, family
    )
    if config.tie_embeddings and "lm_head.weight" in state:
        head, table = state.pop("lm_head.weight"), state.get(theirs("embed_tokens.weight", family))
        if table is not None and not torch.equal(head, table):
            raise UserError(
                "The file's lm_head.weight differs from the embedding to which config.json ties it."
            )
    _check({name: _shape(name, parts) for name, parts in wanted.items()}, state, family)
    ours: dict[str, Tensor] = {}
    for name, parts in wanted.items():
        tensor = state[name].T.contiguous() if TRANSPOSED.fullmatch(name) else state[name]
        rows = torch.split(tensor, [part.shape[0] for part in parts])
        ours |= {part.name: piece for part, piece in zip(parts, rows, strict=True)}
    if config.tie_embeddings:
        ours["lm_head.weight"] = ours["embed_tokens.weight"]
    return ours


def to_hf(state: Mapping[str, Tensor], config: ModelConfig, family: str) -> dict[str, Tensor]:
    """The weights of a `Transformer` under the names of a Hugging Face family: `from_hf` backwards.

    Args:
        state: What `Transformer.state_dict` returns.
        config: The model.
        family: The ``model_type`` that `ModelConfig.to_hf` chose.

    Raises:
        UserError: The model has other parts than its configuration says, because some were replaced.
    """
    wanted, result = layout(config, family), dict[str, Tensor]()
    named = {part.name for parts in wanted.values() for part in parts} | {"lm_head.weight"}
    if other := named ^ state.keys():
        raise UserError(f"The model has parts of its own ({min(other)}), which no {family} model has.")
    for name, parts in wanted.items():
        pieces = [state[part.name] for part in parts]
        tensor = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        result[name] = tensor.T if TRANSPOSED.fullmatch(name) else tensor
    return result


def _with_prefix(state: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Some files, GPT-2's own among them, leave out what stands before all names but the head's."""
    prefix, _, rest = theirs("embed_tokens.weight", family).partition(".")
    if rest not in state:
        return state
    return {name if name.startswith("lm_head.") else f"{prefix}.{name}": x for name, x in state.items()}


def _shape(name: str, parts: list[Part]) -> tuple[int, ...]:
    """The shape that the parts have one below the other, as the file keeps it."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return shape[::-1] if TRANSPOSED.fullmatch(name) else shape


def _check(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], family: str) -> None:
    found = {name: tuple(state[name].shape) for name in wanted if name in state}
    problems = [
        _some("missing", [name for name in wanted if name not in state]),
        _some("unexpected", [name for name in state if name not in wanted]),
        _some(
            "misshapen",
            [f"{name} {x} instead of {wanted[name]}" for name, x in found.items() if x != wanted[name]],
        ),
        _some(
            "no weights",
            [f"{name} ({state[name].dtype})" for name in found if not state[name].is_floating_point()],
        ),
    ]
    if any(problems):
        what = "; ".join(filter(None, problems))
        raise UserError(
            f"These are not the weights of the {family} model that config.json describes: {what}."
        )


def _some(title: str, names: Iterable[str], limit: int = 5) -> str:
    names = [*names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{title}: {', '.join(names[:limit])}{more}" if names else ""
