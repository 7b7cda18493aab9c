"""Attention tile by tile, with a running softmax: how fast kernels compute it."""

from typing import NamedTuple

import torch
from torch import Tensor

from myllm.model.masks import MaskFunction, build, causal


class Partial(NamedTuple):
    """Attention to some of the keys, in a form that can be merged with attention to others."""

    values: Tensor
    """(…, T, D): the sum of exp(score - maximum) times value."""
    total: Tensor
    """(…, T, 1): the sum of exp(score - maximum)."""
    maximum: Tensor
    """(…, T, 1): the largest score."""


def merge(a: Partial, b: Partial) -> Partial:
    """Merge the attention to two sets of keys: the online softmax (Milakov and Gimelshein, 2018).

    Both sums are rescaled to the common maximum; then they add up.
    """
    maximum = torch.maximum(a.maximum, b.maximum)
    old, new = torch.exp(a.maximum - maximum), torch.exp(b.maximum - maximum)
    return Partial(old * a.values + new * b.values, old * a.total + new * b.total, maximum)


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: MaskFunction = causal,
    q_offset: int = 0,
    scale: float | None = None,
    tile: int = 64,
) -> Tensor:
    """Attention without the T x S weights: tile by tile, with a running softmax (Dao et al., 2022).

    The arithmetic of FlashAttention as a readable loop; tiles of the mask are built where they are needed,
    and tiles without an allowed pair are skipped.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        mask: Which pairs count.
        q_offset: The position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        tile: Queries and keys in a tile.

    Returns:
        (B, H, T, D).
    """
    B, H, T, D = q.shape
    dtype = q.dtype
    # Sums over many tiles lose small terms in 16 bits.
    q, k, v = (x.to(torch.promote_types(dtype, torch.float32)) for x in (q, k, v))
    k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))  # (B, H, S, D)
    q = q * (D**-0.5 if scale is None else scale)
    keys = torch.arange(k.shape[2], device=q.device)
    lowest = torch.finfo(q.dtype).min
    rows: list[Tensor] = []
    for t in range(0, T, tile):
        q_tile = q[:, :, t : t + tile]
        queries = torch.arange(t, t + q_tile.shape[2], device=q.device) + q_offset
        empty = q_tile.new_zeros(B, H, len(queries), 1)
        running = Partial(torch.zeros_like(q_tile), empty, empty + lowest)
        for s in range(0, k.shape[2], tile):
            allowed = build(mask, B, H, queries, keys[s : s + tile])
            if not allowed.any():
                continue
            scores = q_tile @ k[:, :, s : s + tile].transpose(-2, -1)  # (B, H, tile, tile)
            scores = scores.masked_fill(~allowed, lowest)
            maximum = scores.amax(-1, keepdim=True)
            weights = torch.exp(scores - maximum).masked_fill(~allowed, 0)
            new = Partial(weights @ v[:, :, s : s + tile], weights.sum(-1, keepdim=True), maximum)
            running = merge(running, new)
        rows.append(running.values / running.total.where(running.total > 0, 1))
    return torch.cat(rows, dim=2).to(dtype)
