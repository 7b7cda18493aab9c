"""Rotating the residual stream: another basis, the same function, and weights without outlying columns.

RMSNorm without a gain commutes with every orthogonal matrix, so that a rotation of the residual stream can be
folded into the weights that read and write it (QuaRot: Ashkboos et al., 2024).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.attention import Attention
from myllm.model.layers import MLP, GatedMLP, RMSNorm
from myllm.model.transformer import Transformer


class _Stream(NamedTuple):
    """What touches the residual stream: each norm with the linear layers that read it, and the writers."""

    norms: list[tuple[RMSNorm, list[nn.Linear]]]
    writers: list[nn.Linear]


@torch.no_grad()
def fold_norms(model: Transformer) -> None:
    """Multiply the gain of each RMSNorm into the linear layers that read its output, in place.

    The logits stay the same, and all gains become 1. The last norm's gain belongs to the head alone: a head
    that shares the embedding's table gets a copy of its own, and the configuration says so from then on.

    Raises:
        UserError: The model has a LayerNorm, a norm behind attention or feed-forward network, or parts other
            than those of `Transformer` itself.
    """
    norms, _ = _stream(model)
    if model.lm_head.weight is model.embed_tokens.weight:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config = model.config.replace(tie_embeddings=False)
    for norm, readers in norms:
        for linear in readers:
            linear.weight.copy_(linear.weight.double() * (norm.offset + norm.weight.double()))
    for norm, _ in norms:  # not earlier: with parallel residuals two entries share a norm
        norm.reset_parameters()


@torch.no_grad()
def rotate(model: Transformer, seed: int = 0) -> Tensor:
    """Rotate the residual stream by a random orthogonal matrix Q, folded into the weights in place.

    Gains are folded first, by `fold_norms`. The vector x of a position is then x Q, everywhere between the
    embedding and the head. Products are computed in float64 and rounded to the dtype of the weights; to that
    precision the logits stay the same.

    Args:
        model: Its norms are RMSNorm.
        seed: The seed of Q.

    Returns:
        Q (C, C) in float64, uniformly distributed over the orthogonal matrices.

    Raises:
        UserError: As `fold_norms`.
    """
    fold_norms(model)
    norms, writers = _stream(model)
    square = torch.empty(model.config.n_embd, model.config.n_embd, dtype=torch.float64)
    Q = nn.init.orthogonal_(square, generator=torch.Generator().manual_seed(seed))
    Q = Q.to(model.embed_tokens.weight.device)
    tables = [table for table in (model.embed_tokens, model.embed_positions) if table is not None]
    for module in tables + [linear for _, readers in norms for linear in readers]:
        module.weight.copy_(module.weight.double() @ Q)
    for writer in writers:
        writer.weight.copy_(Q.T @ writer.weight.double())
        if writer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            writer.bias.copy_(writer.bias.double() @ Q)
    return Q


def _stream(model: Transformer) -> _Stream:
    stream = _Stream([], [])
    for block in model.layers:
        attention, mlp = getattr(block, "self_attn", None), getattr(block, "mlp", None)
        if not isinstance(attention, Attention) or not isinstance(mlp, MLP | GatedMLP):
            raise UserError(
                "A rotation needs the attention and the feed-forward network of Transformer itself."
            )
        expansions = [mlp.up_proj] if isinstance(mlp, MLP) else [mlp.gate_proj, mlp.up_proj]
        first: Any = block.input_layernorm
        stream.norms.append((first, [attention.q_proj, attention.k_proj, attention.v_proj]))
        stream.norms.append((block.post_attention_layernorm or first, expansions))
        stream.writers.extend([attention.o_proj, mlp.down_proj])
    stream.norms.append((model.norm, [model.lm_head]))
    linears = stream.writers + [linear for _, readers in stream.norms for linear in readers]
    if model.config.post_norms or not all(isinstance(norm, RMSNorm) for norm, _ in stream.norms):
        raise UserError(
            "A rotation commutes with RMSNorm before a layer, not with LayerNorm or a norm behind one."
        )
    if not all(type(linear) is nn.Linear for linear in linears):
        raise UserError("A rotation is folded into the weights before they are quantized, not after.")
    return stream
