"""The attention weights of a model on a text."""

from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.attention import Attention, naive_attention
from myllm.model.transformer import Transformer


@torch.inference_mode()
def attention_maps(model: Transformer, ids: Tensor) -> Tensor:
    """How much each position attends to each, in all layers and heads.

    The model runs as always; the attention weights, which its kernels never store, are computed beside it
    from the input of each layer, as `naive_attention` defines them.

    Args:
        model: One whose layers have an `Attention`.
        ids: One text, (T,) int64.

    Returns:
        (L, H, T, T): layer, head, position of the query, position of the key.

    Raises:
        UserError: Another kind of attention.
    """
    layers: list[Attention] = [module for module in model.modules() if isinstance(module, Attention)]
    if len(layers) != model.config.n_layer:
        raise UserError("Attention maps need a model whose every layer has the package's own Attention.")
    maps: list[Tensor] = []

    def watch(module: nn.Module, args: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        assert isinstance(module, Attention)
        (x,), B, T = args, *args[0].shape[:2]
        q, k = (f(x).view(B, T, -1, module.head_dim).transpose(1, 2) for f in (module.q_proj, module.k_proj))
        if module.q_norm is not None and module.k_norm is not None:
            q, k = module.q_norm(q), module.k_norm(k)
        if options["position"] is not None:
            q, k = options["position"](q, k)
        mask, scale, softcap = options["mask"], module.scale, module.softcap
        maps.append(naive_attention(q, k, k, mask=mask, scale=scale, softcap=softcap)[1][0])

    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    try:
        model(ids[None], keep=-1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)
