"""Attention tile by tile, with a running softmax, as fast kernels compute it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from myllm.model.basics import upcast
from myllm.model.masks import MaskFunction, build, causal


class Partial(NamedTuple):
    """Attention to some of the keys, in a form that can be merged with attention to others.

    Attributes:
        values: (…, T, D), the sum of exp(score - maximum) times value.
        total: (…, T, 1), the sum of exp(score - maximum).
        maximum: (…, T, 1), the largest score.
    """

    values: Tensor
    total: Tensor
    maximum: Tensor


def merge(a: Partial, b: Partial) -> Partial:
    """Merge the attention to two sets of keys: the online softmax (Milakov and Gimelshein, 2018).

    Both sums are rescaled to the common maximum; then they can be added.
    """
    maximum = torch.maximum(a.maximum, b.maximum)
    old = torch.exp(a.maximum - maximum)
    new = torch.exp(b.maximum - maximum)
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

    The arithmetic of FlashAttention as a readable loop. Each tile of the mask is built when it is needed;
    tiles without an allowed pair are skipped.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        mask: Which pairs are allowed.
        q_offset: The position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        tile: How many queries, and how many keys, a tile has.

    Returns:
        (B, H, T, D).
    """
    B, H, T, D = q.shape
    S, dtype = k.shape[2], q.dtype
    if scale is None:
        scale = 1 / math.sqrt(D)
    q = upcast(q) * scale  # sums over many tiles lose small terms in 16 bits
    groups = H // k.shape[1]
    k = upcast(k).repeat_interleave(groups, dim=1)  # (B, H, S, D)
    v = upcast(v).repeat_interleave(groups, dim=1)  # (B, H, S, D)
    lowest = torch.finfo(q.dtype).min
    queries = torch.arange(T, device=q.device) + q_offset
    keys = torch.arange(S, device=q.device)
    rows: list[Tensor] = []
    for t in range(0, T, tile):
        q_tile, at = q[:, :, t : t + tile], queries[t : t + tile]
        empty = q_tile.new_zeros(B, H, len(at), 1)
        running = Partial(torch.zeros_like(q_tile), empty, empty + lowest)
        for s in range(0, S, tile):
            allowed = build(mask, B, H, at, keys[s : s + tile])
            if not allowed.any():
                continue
            scores = q_tile @ k[:, :, s : s + tile].transpose(-2, -1)  # (B, H, tile, tile)
            scores = scores.masked_fill(~allowed, lowest)
            maximum = scores.amax(-1, keepdim=True)
            weights = torch.exp(scores - maximum).masked_fill(~allowed, 0)
            new = Partial(weights @ v[:, :, s : s + tile], weights.sum(-1, keepdim=True), maximum)
            running = merge(running, new)
        total = running.total.where(running.total > 0, 1)  # a query that may attend to nothing gets 0
        rows.append(running.values / total)
    return torch.cat(rows, dim=2).to(dtype)
