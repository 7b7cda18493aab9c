"""Attention: every position asks all that it may see, and takes a weighted mean of what they offer.

`naive_attention` is the definition, `attend` the one door that models go through, `tiled_attention` the way
fast kernels compute it, and `Attention` the layer with its projections (Vaswani et al., 2017).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.model.cache import Cache
from myllm.model.masks import MaskFunction, build, causal

Position = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Puts the positions into queries and keys: ``(q, k) -> (q, k)``."""


def allowed_pairs(mask: MaskFunction | Tensor, q: Tensor, k: Tensor, q_offset: int) -> Tensor:
    """The mask as a bool tensor that broadcasts to (B, H, T, S); a tensor is passed on as it is."""
    if isinstance(mask, Tensor):
        return mask
    queries = torch.arange(q.shape[2], device=q.device) + q_offset
    return build(mask, q.shape[0], q.shape[1], queries, torch.arange(k.shape[2], device=q.device))


def naive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: MaskFunction | Tensor = causal,
    q_offset: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention as it is defined, with all T x S weights in memory.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H, and H / K neighbouring heads share one.
        v: Values, (B, K, S, D).
        mask: Which pairs count; a mask function, or a bool tensor that broadcasts to (B, H, T, S).
        q_offset: The position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: Bends the scores smoothly into (-softcap, softcap) by a tanh (Gemma 2).

    Returns:
        The means (B, H, T, D) and the weights (B, H, T, S). A query that may see nothing gets
        weights and means of 0.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    allowed = allowed_pairs(mask, q, k, q_offset)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1).masked_fill(~allowed, 0).to(v.dtype)
    return weights @ v, weights


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: MaskFunction | Tensor = causal,
    q_offset: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The one door to attention: what `naive_attention` defines, by the fastest way there is.

    The plain causal mask is never built. PyTorch's fused kernels know no soft cap, so with one
    the weights are computed as defined.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        mask: Which pairs count; a mask function, or a bool tensor that broadcasts to (B, H, T, S).
        q_offset: The position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: Bends the scores smoothly into (-softcap, softcap).

    Returns:
        (B, H, T, D).

    Raises:
        ValueError: The heads of the keys do not divide those of the queries.
    """
    T, S = q.shape[2], k.shape[2]
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{k.shape[1]} key heads cannot be shared evenly by {q.shape[1]} query heads.")
    if softcap is not None:
        return naive_attention(q, k, v, mask=mask, q_offset=q_offset, scale=scale, softcap=softcap)[0]
    plain = mask is causal and q_offset == 0 and T == S
    sees_all = mask is causal and T == 1 and q_offset == S - 1  # the next token of a running text
    allowed = None if plain or sees_all else allowed_pairs(mask, q, k, q_offset)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, allowed, is_causal=plain, scale=scale, enable_gqa=grouped)


class Partial(NamedTuple):
    """Attention to some of the keys, in a form that can be joined with attention to others."""

    values: Tensor
    """(…, T, D): the sum of exp(score - maximum) times value."""
    total: Tensor
    """(…, T, 1): the sum of exp(score - maximum)."""
    maximum: Tensor
    """(…, T, 1): the largest score."""


def merge(a: Partial, b: Partial) -> Partial:
    """Join the attention to two sets of keys: the online softmax (Milakov and Gimelshein, 2018).

    Both sums are brought to the common maximum; then they simply add up.
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

    The arithmetic of FlashAttention, as a loop one can read; tiles of the mask are built where
    they are needed and tiles without a visible pair are skipped.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        mask: Which pairs count.
        q_offset: The position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        tile: Queries and keys that are looked at together.

    Returns:
        (B, H, T, D).
    """
    B, H, T, D = q.shape
    dtype = q.dtype
    # Sums over many tiles lose small terms in 16 bits.
    q, k, v = (x.to(torch.promote_types(dtype, torch.float32)) for x in (q, k, v))
    k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))  # (B, H, S, D)
    q = q * (D**-0.5 if scale is None else scale)
    places = torch.arange(k.shape[2], device=q.device)
    lowest = torch.finfo(q.dtype).min
    rows: list[Tensor] = []
    for t in range(0, T, tile):
        q_tile = q[:, :, t : t + tile]
        queries = torch.arange(t, t + q_tile.shape[2], device=q.device) + q_offset
        empty = q_tile.new_zeros(B, H, len(queries), 1)
        running = Partial(torch.zeros_like(q_tile), empty, empty + lowest)
        for s in range(0, k.shape[2], tile):
            allowed = build(mask, B, H, queries, places[s : s + tile])
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


class Attention(nn.Module):
    """Multi-head attention: project, split into heads, attend, join, project.

    With fewer key than query heads it is grouped-query attention (Ainslie et al., 2023), with one it is
    multi-query attention (Shazeer, 2019).

    Args:
        n_embd: Width C of what comes in and goes out.
        n_head: Query heads H.
        n_kv_head: Key and value heads K, by default H; must divide it.
        head_dim: D, by default C / H.
        bias: Whether the three input projections have a bias.
        out_bias: Whether the output projection has one.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: See `attend`.
        qk_norm: Makes a normalization of D numbers; where given, queries and keys pass through one each.

    Raises:
        ValueError: The numbers do not fit together.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int | None = None,
        head_dim: int | None = None,
        *,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        qk_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        n_kv_head = n_kv_head or n_head
        if n_head % n_kv_head:
            raise ValueError(f"n_kv_head {n_kv_head} must divide n_head {n_head}.")
        if head_dim is None and n_embd % n_head:
            raise ValueError(f"n_head {n_head} must divide n_embd {n_embd}; or give head_dim.")
        self.head_dim = head_dim or n_embd // n_head
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.q_proj = nn.Linear(n_embd, n_head * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(n_embd, n_kv_head * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(n_embd, n_kv_head * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(n_head * self.head_dim, n_embd, bias=out_bias)
        self.q_norm = qk_norm(self.head_dim) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        *,
        mask: MaskFunction | Tensor = causal,
        position: Position | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Mix the positions of `x`, (B, T, C), and return (B, T, C).

        Args:
            x: What the positions carry.
            mask: Which pairs count, among all positions that the cache knows.
            position: Puts positions into queries and keys, as RoPE does.
            cache: Keys and values of earlier positions.
            layer: The layer's number, under which the cache knows it.
        """
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if position is not None:
            q, k = position(q, k)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, K, S, D)
        offset = k.shape[2] - T
        y = attend(q, k, v, mask=mask, q_offset=offset, scale=self.scale, softcap=self.softcap)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
