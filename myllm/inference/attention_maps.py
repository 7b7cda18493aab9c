"""The attention weights of a model on a text."""

from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.attention import Attention, naive_attention
from myllm.model.transformer import Transformer


@torch.inference_mode()
def attention_maps(model: Transformer, ids: Tensor) -> Tensor:
    """How much each position attends to each other position, in all layers and heads.

    The kernels never store the attention weights, so these are computed a second time, from the input of each
    layer, as `naive_attention` defines them.

    Args:
        model: A model whose layers have an `Attention`.
        ids: One text, (T,) int64.

    Returns:
        (L, H, T, T): layer, head, position of the query, position of the key.

    Raises:
        UserError: The model has another kind of attention.
    """
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    if len(layers) != model.config.n_layer:
        raise UserError("Attention maps need a model whose every layer has the package's own Attention.")
    maps: list[Tensor] = []

    def watch(layer: nn.Module, args: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        assert isinstance(layer, Attention)
        q, k, v = layer.project(args[0], options["position"])
        mask = options["mask"]
        _, weights = naive_attention(q, k, v, mask=mask, scale=layer.scale, softcap=layer.softcap)
        maps.append(weights[0])

    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    try:
        model(ids[None], keep=-1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)
