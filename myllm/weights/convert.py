"""Conversion between published tensors and those of a `Transformer`: names, transposes, joined matrices.

Our names are LLaMA's without the prefix ``model.``; ``families.toml`` has the parts of names that differ for
each family. Where several of our modules map to one name, the file stores their tensors as one, concatenated
along the rows.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from myllm.config import ModelConfig
from myllm.families import FAMILIES
from myllm.files import UserError
from myllm.model import transformer
from myllm.model.transformer import Transformer

#: For each family, the parts of our names that differ in its files, and their names there.
HF_NAMES = {name: family.names for name, family in FAMILIES.items()}
#: GPT-2 stores these matrices as (in, out); all other families, and `torch.nn.Linear`, as (out, in).
TRANSPOSED = re.compile(r"transformer\.h\.\d+\.(attn|mlp)\.c_\w+\.weight")
#: What old files store besides parameters: masks, positions and rotary frequencies, which are computed here.
BUFFERS = re.compile(
    r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)"
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of parameters
_HEAD = "lm_head.weight"


def hf_name(name: str, family: str) -> str:
    """The name of one of our tensors in the files of a family: ``model.norm.weight`` for ``norm.weight``.

    Args:
        name: A key of `Transformer.state_dict`.
        family: A key of `HF_NAMES`.
    """
    whole = name if name.startswith("lm_head.") else f"model.{name}"
    return ".".join(HF_NAMES[family].get(part, part) for part in whole.split("."))


def layout(config: ModelConfig, family: str) -> dict[str, dict[str, torch.Size]]:
    """For each tensor in this model's files, the names and shapes of our tensors that it consists of.

    A tied head is not a tensor of its own. Only shapes are computed; no memory is allocated.

    Raises:
        UserError: The model is too large to be stored.
    """
    if config.n_params > 1 << 60:  # PyTorch cannot count the bytes of larger tensors
        raise UserError(f"No model has {config.n_params:,} parameters; fix the configuration.")
    with torch.device("meta"):
        ours = Transformer(config.replace(n_layer=1)).state_dict()  # all layers have the same shapes
    if config.tie_embeddings:
        del ours[_HEAD]
    parts: dict[str, dict[str, torch.Size]] = {}
    for first, tensor in ours.items():
        for i in range(config.n_layer if first.startswith("layers.0.") else 1):
            name = first.replace("layers.0.", f"layers.{i}.")
            parts.setdefault(hf_name(name, family), {})[name] = tensor.shape
    return parts


def from_hf(state: Mapping[str, Tensor], config: ModelConfig, family: str) -> dict[str, Tensor]:
    """The weights of a Hugging Face model under our names.

    Args:
        state: Tensors by their names in the files. If the head is tied, the embedding may be stored under
            either name or under both.
        config: The configuration of the model.
        family: Its ``model_type``.

    Returns:
        What `Transformer.load_state_dict` expects, including the head even if it is tied. Tensors share
        memory with those of `state` unless they are transposed.

    Raises:
        UserError: Tensors are missing, unexpected, or of the wrong shape or dtype; the message names them.
    """
    held = sum(tensor.numel() for tensor in state.values())
    if config.n_params > 2 * held:  # before anything is built; if less is missing, it is named below
        sizes = f"{config.n_params:,} parameters and the weights beside it are only {held:,} numbers"
        raise UserError(f"config.json describes {sizes}; take both from the same place.")
    wanted = layout(config, family)
    state = _with_prefix({name: x for name, x in state.items() if not BUFFERS.fullmatch(name)}, family)
    head = state.pop(_HEAD, None) if config.tie_embeddings else None
    if head is not None:
        state.setdefault(hf_name("embed_tokens.weight", family), head)
    shapes = {name: _shape(name, parts) for name, parts in wanted.items()}
    check(shapes, {name: x.shape for name, x in state.items()}, f"{family} model that config.json describes")
    ours: dict[str, Tensor] = {}
    for name, parts in wanted.items():
        if state[name].dtype not in DTYPES:
            raise UserError(f"{name} is stored as {state[name].dtype}; weights must be {_list(DTYPES)}.")
        tensor = state[name].T.contiguous() if TRANSPOSED.fullmatch(name) else state[name]
        rows = torch.split(tensor, [shape[0] for shape in parts.values()])
        ours |= dict(zip(parts, rows, strict=True))
    if config.tie_embeddings:
        ours[_HEAD] = ours["embed_tokens.weight"]
        if head is not None and not torch.equal(head.to(ours[_HEAD].dtype), ours[_HEAD]):
            raise UserError(f"The file's {_HEAD} differs from the embedding to which config.json ties it.")
    return ours


def to_hf(state: Mapping[str, Tensor], config: ModelConfig, family: str) -> dict[str, Tensor]:
    """The weights of a `Transformer` under the names of a Hugging Face family: the inverse of `from_hf`.

    Args:
        state: What `Transformer.state_dict` returns.
        config: The configuration of the model.
        family: The ``model_type`` that `ModelConfig.to_hf` wrote.

    Returns:
        Contiguous tensors that share no memory with each other, without a tied head.

    Raises:
        UserError: The model's modules are not those of its configuration, because some were replaced.
    """
    wanted, result, addresses = layout(config, family), dict[str, Tensor](), set[int]()
    named = {name for parts in wanted.values() for name in parts} | {_HEAD}
    if other := named ^ state.keys():
        raise UserError(f"The model has parts of its own ({min(other)}), which no {family} model has.")
    for name, parts in wanted.items():
        pieces = [state[part] for part in parts]
        tensor = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        tensor = (tensor.T if TRANSPOSED.fullmatch(name) else tensor).contiguous()
        result[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor
        addresses.add(tensor.data_ptr())
    return result


def build(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Transformer:
    """Build a model around given weights, in eval mode; those that keep dtype and device are not copied.

    Args:
        config: The configuration of the model.
        state: What `Transformer.state_dict` of that model returns; a tied head may be missing.
        dtype: The dtype of all weights; by default that of the embedding.
        device: The device of all weights; by default that of the embedding.

    Raises:
        UserError: The dtype is not one of `DTYPES`.
    """
    table = state["embed_tokens.weight"]
    dtype, device = dtype or table.dtype, device or table.device
    if dtype not in DTYPES:
        raise UserError(f"The weights of a model cannot become {dtype}; take one of {_list(DTYPES)}.")
    tied = [_HEAD] if config.tie_embeddings else []
    ours = {name: tensor.to(device, dtype) for name, tensor in state.items() if name not in tied}
    ours |= dict.fromkeys(tied, ours["embed_tokens.weight"])
    with torch.device("meta"):  # shapes only: no memory is allocated, nothing initialized
        model = Transformer(config)
    model.load_state_dict(ours, assign=True)
    model.tie_weights()
    if (position := transformer.parts(config).position) is not None:
        with torch.device(device):
            model.position = position(config.head_dim)  # it has no weights, only buffers
    return model.eval()


def _with_prefix(state: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Add the prefix that some files, GPT-2's own among them, omit from all names but the head's."""
    prefix = hf_name("embed_tokens.weight", family).partition(".")[0] + "."
    if any(name.startswith(prefix) for name in state):
        return state
    return {name if name.startswith("lm_head.") else prefix + name: x for name, x in state.items()}


def _shape(name: str, parts: Mapping[str, torch.Size]) -> tuple[int, ...]:
    """The shape, in the file, of a tensor that consists of these parts."""
    first, *_ = parts.values()
    shape = (sum(rows for rows, *_ in parts.values()), *first[1:])
    return shape[::-1] if TRANSPOSED.fullmatch(name) else shape


def check(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], model: str) -> None:
    """Compare the names and shapes of a file's tensors with those of a model.

    Raises:
        UserError: They differ; the message says where.
    """
    differing = [name for name in wanted if name in found and tuple(wanted[name]) != tuple(found[name])]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "misshapen": [f"{x} {tuple(found[x])!s:.40} instead of {tuple(wanted[x])}" for x in differing],
    }
    if any(problems.values()):
        what = "; ".join(f"{title}: {_list(names)}" for title, names in problems.items() if names)
        raise UserError(f"These are not the weights of the {model}: {what}.")


def _list(items: Iterable[object], limit: int = 5) -> str:
    names = [*map(str, items)]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
