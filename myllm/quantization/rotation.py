"""Rotating the residual stream: another basis, the same function, and weights without outlier columns.

RMSNorm without a gain commutes with every orthogonal matrix, so a rotation of the residual stream can be
folded into the weights that read and write it (QuaRot: Ashkboos et al., 2024).
"""

from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.attention import Attention
from myllm.model.layers import MLP, GatedMLP, RMSNorm
from myllm.model.transformer import Block, Transformer


@torch.no_grad()
def fold_norms(model: Transformer) -> None:
    """Multiply the gain of each RMSNorm into the linear layers that read its output, in place.

    The logits stay the same, and all gains become 1. The last norm's gain belongs to the head alone: a head
    that shares the embedding's table gets a copy of its own, and the configuration records that.

    Raises:
        UserError: The model has a LayerNorm, a norm after attention or feed-forward network, or parts other
            than those of `Transformer` itself.
    """
    reads, _ = _stream(model)
    if model.lm_head.weight is model.embed_tokens.weight:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config = model.config.replace(tie_embeddings=False)
    for norm, linear in reads:
        linear.weight.copy_(linear.weight.double() * (norm.offset + norm.weight.double()))
    for norm, _ in reads:  # afterwards, since several layers read a norm
        norm.reset_parameters()


@torch.no_grad()
def rotate(model: Transformer, seed: int = 0) -> Tensor:
    """Rotate the residual stream by a random orthogonal matrix Q, folded into the weights in place.

    Gains are folded first, by `fold_norms`. The vector x of a position becomes x Q, everywhere between the
    embedding and the head. Products are computed in float64 and rounded to the dtype of the weights; to that
    precision the logits stay the same.

    Args:
        model: Its norms must be RMSNorm.
        seed: The seed of Q.

    Returns:
        Q (C, C) in float64, uniformly distributed over the orthogonal matrices.

    Raises:
        UserError: As `fold_norms`.
    """
    fold_norms(model)
    reads, writers = _stream(model)
    square = torch.empty(model.config.n_embd, model.config.n_embd, dtype=torch.float64)
    nn.init.orthogonal_(square, generator=torch.Generator().manual_seed(seed))
    Q = square.to(model.embed_tokens.weight.device)
    tables = [table for table in (model.embed_tokens, model.embed_positions) if table is not None]
    for module in tables + [linear for _, linear in reads]:
        module.weight.copy_(module.weight.double() @ Q)
    for writer in writers:
        writer.weight.copy_(Q.T @ writer.weight.double())
        if writer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            writer.bias.copy_(writer.bias.double() @ Q)
    return Q


def _stream(model: Transformer) -> tuple[list[tuple[Any, nn.Linear]], list[nn.Linear]]:
    """The layers that read the residual stream, each with its norm, and those that write to it."""
    exact = {nn.ModuleList, Block, Attention, MLP, GatedMLP, RMSNorm, nn.Linear, nn.Identity}
    others = {
        type(x).__name__ for x in (*model.layers.modules(), model.norm, model.lm_head) if type(x) not in exact
    }
    if others or model.config.post_norms:
        names = ", ".join(sorted(others)) or "post_norms"
        raise UserError(f"Only RMSNorm in front of unquantized layers commutes with a rotation, not {names}.")
    reads: list[tuple[Any, nn.Linear]] = [(model.norm, model.lm_head)]
    writers: list[nn.Linear] = []
    blocks: Any = model.layers
    for block in blocks:
        attention, mlp = block.self_attn, block.mlp
        reads += [(block.input_layernorm, x) for x in (attention.q_proj, attention.k_proj, attention.v_proj)]
        norm = block.post_attention_layernorm or block.input_layernorm
        reads += [(norm, x) for x in mlp.children() if x is not mlp.down_proj]
        writers += [attention.o_proj, mlp.down_proj]
    return reads, writers
