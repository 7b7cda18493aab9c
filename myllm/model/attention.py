"""Attention: each position takes a weighted mean of the values at the positions that it may attend to.

`naive_attention` is the definition, and `attend`, which models call, computes the same by the fastest kernel.
`prepare` converts a mask to the form that kernels take. `Attention` is the layer with its projections
(Vaswani et al., 2017).
"""

import math
from collections.abc import Callable
from functools import cache as remember
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.model import masks
from myllm.model.basics import upcast
from myllm.model.cache import Cache, newest
from myllm.model.masks import Mask, MaskFunction, build, causal, full

#: A position embedding, applied to queries and keys: ``(q, k) -> (q, k)``.
Position = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: FlexAttention works on blocks of this many tokens; shorter texts gain nothing from it.
FLEX_TOKENS = 128


class Prepared(NamedTuple):
    """A mask in the form that kernels take, made by `prepare`; `allowed_pairs` converts it to a bool tensor.

    Attributes:
        queries: (T,) or (B, T) int64, the positions of the queries.
        keys: (S,) or (B, S) int64, the positions of the keys, -1 for an empty slot.
        pairs: Bool, (B or 1, H or 1, T, S): true where a query may attend to a key; None allows all pairs.
        blocks: FlexAttention's ``BlockMask``, used on a GPU instead of `pairs`.
        is_causal: Whether it is the plain causal mask, which every kernel implements: no tensor is built.
    """

    queries: Tensor
    keys: Tensor
    pairs: Tensor | None = None
    blocks: Any = None
    is_causal: bool = False


AnyMask = MaskFunction | Tensor | Prepared


def prepare(
    mask: AnyMask,
    queries: Tensor,
    keys: Tensor | None = None,
    *,
    window: int | None = None,
    batch: int = 1,
    heads: int = 1,
) -> Prepared:
    """Convert a mask to the form that the kernels take, once per forward pass for all layers that share it.

    On a GPU the mask of a long text becomes FlexAttention's blocks. Inside a compiled model it becomes a bool
    tensor; to have blocks there, prepare the mask outside and pass the result to the model.

    Args:
        mask: A mask function, or a bool tensor that broadcasts to (B, H, T, S).
        queries: (T,) or (B, T) int64, the positions of the queries.
        keys: (S,) or (B, S) int64, the positions of the keys, -1 for an empty slot. By default there is no
            cache, and the keys are at the positions of the queries.
        window: Also exclude keys that lie further back; see `myllm.model.masks.window`.
        batch: B.
        heads: H, of the queries.

    Raises:
        ValueError: A window for a mask that is already prepared.
    """
    if isinstance(mask, Prepared):
        if window is not None:
            raise ValueError("A window cannot be added to a prepared mask; pass the mask function instead.")
        return mask
    T = queries.shape[-1]
    tracing = torch.compiler.is_compiling()  # values are then unknown, and comparing lengths would fix them
    # A row padded by one token has the same queries and keys, -1 included, but a key at -1 is an empty slot.
    same = keys is None or (not tracing and queries.shape == keys.shape and torch.equal(queries, keys.relu()))
    if window is not None and same and not tracing and window >= T:
        window = None  # the window reaches past the beginning
    if mask is causal and same and window is None:
        return Prepared(queries, queries if keys is None else keys, is_causal=True)
    rule = full
    if window is not None:
        rule = rule & masks.window(window)
    if not isinstance(mask, Tensor):
        rule = rule & mask
        if keys is None and not tracing and queries.is_cuda and T >= FLEX_TOKENS:
            return Prepared(queries, queries, blocks=_blocks(rule, T, batch, heads))
    if keys is None:
        keys = queries
    pairs = build(rule, batch, heads, queries, keys)
    if isinstance(mask, Tensor):
        pairs = pairs & mask
    if not tracing and T == 1 and pairs.device.type == "cpu" and pairs.all():
        pairs = None  # the next token of a text attends to everything before it
    return Prepared(queries, keys, pairs)


def _blocks(rule: Mask, T: int, batch: int, heads: int) -> Any:
    """The block mask of FlexAttention, which skips blocks without an allowed pair (Dong et al., 2024)."""
    from torch.nn.attention.flex_attention import create_block_mask

    zero = torch.zeros(1, dtype=torch.int64, device="cuda")
    B, H, _, _ = build(rule, batch, heads, zero, zero).shape  # 1 where all rows or heads have the same mask
    return create_block_mask(rule, B, H, T, T, "cuda")


@remember
def _flex_attention() -> Callable[..., Tensor]:
    """FlexAttention, compiled: uncompiled, it would hold all T x S scores in memory."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def allowed_pairs(mask: AnyMask, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
    """Any mask as a bool tensor that broadcasts to (B, H, T, S).

    Args:
        mask: A mask function, a bool tensor, or the result of `prepare`.
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D).
        q_offset: For a mask function, the position of the first query among the keys.
    """
    if isinstance(mask, Tensor):
        return mask
    mask = _prepared(mask, q, k, q_offset)
    if mask.pairs is not None:
        return mask.pairs
    rule = causal if mask.is_causal else full
    if mask.blocks is not None:
        rule = mask.blocks.mask_mod
    return build(rule, q.shape[0], q.shape[1], mask.queries, mask.keys)


def _prepared(mask: AnyMask, q: Tensor, k: Tensor, q_offset: int) -> Prepared:
    """The mask as `prepare` makes it, for keys from position 0 on and queries from `q_offset` on."""
    if isinstance(mask, Prepared):
        return mask
    B, H, T, _ = q.shape
    S = k.shape[2]
    queries = torch.arange(T, device=q.device) + q_offset
    keys = torch.arange(S, device=q.device) if q_offset or S != T else None
    return prepare(mask, queries, keys, batch=B, heads=H)


def naive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: AnyMask = causal,
    q_offset: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention as it is defined, with all T x S weights in memory.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H, and H / K neighbouring query heads share a key head.
        v: Values, (B, K, S, D).
        mask: Which pairs are allowed: a mask function, a bool tensor that broadcasts to (B, H, T, S), or the
            result of `prepare`.
        q_offset: For a mask function, the position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: Limits the scores smoothly to (-softcap, softcap) by a tanh (Gemma 2).

    Returns:
        The weighted means (B, H, T, D) and the weights (B, H, T, S). Both are 0 for a query that may attend
        to nothing.
    """
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    v = v.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    scores = q @ k.transpose(-2, -1) * scale  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    allowed = allowed_pairs(mask, q, k, q_offset)
    scores = upcast(scores)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1).masked_fill(~allowed, 0).to(v.dtype)
    return weights @ v, weights


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: AnyMask = causal,
    q_offset: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention as `naive_attention` defines it, computed by the fastest kernel; all models call it.

    `torch.nn.functional.scaled_dot_product_attention` has no soft cap; with one, `naive_attention` is called.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        mask: Which pairs are allowed: a mask function, a bool tensor that broadcasts to (B, H, T, S), or the
            result of `prepare`. The plain causal mask is never built.
        q_offset: For a mask function, the position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: Limits the scores smoothly to (-softcap, softcap).

    Returns:
        (B, H, T, D).

    Raises:
        ValueError: The number of key heads does not divide the number of query heads.
    """
    H, K = q.shape[1], k.shape[1]
    if H % K:
        raise ValueError(f"{K} key heads cannot be shared evenly by {H} query heads.")
    mask = _prepared(mask, q, k, q_offset)
    if softcap is not None:
        return naive_attention(q, k, v, mask=mask, scale=scale, softcap=softcap)[0]
    if mask.blocks is not None:
        return _flex_attention()(q, k, v, block_mask=mask.blocks, scale=scale, enable_gqa=K != H)
    return F.scaled_dot_product_attention(
        q, k, v, mask.pairs, is_causal=mask.is_causal, scale=scale, enable_gqa=K != H
    )


class Attention(nn.Module):
    """Multi-head attention: project, split into heads, attend, concatenate, project.

    With fewer key heads than query heads it is grouped-query attention (Ainslie et al., 2023), with a single
    key head multi-query attention (Shazeer, 2019).

    Args:
        n_embd: C, the width of input and output.
        n_head: Query heads H.
        n_kv_head: Key and value heads K, by default H; K must divide H.
        head_dim: D, by default C / H.
        bias: Whether the three input projections have a bias.
        out_bias: Whether the output projection has one.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: See `attend`.
        qk_norm: Called with D to make the norms of queries and keys; by default there are none.

    Raises:
        ValueError: K does not divide H, or H does not divide C and `head_dim` is not given.
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
        self.scale, self.softcap = scale, softcap
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
        mask: AnyMask = causal,
        position: Position | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Self-attention among the positions of `x`.

        Args:
            x: (B, T, C).
            mask: Which pairs are allowed, by position; a `Transformer` prepares it once for all layers.
            position: Applies a position embedding, such as RoPE, to queries and keys.
            cache: Keys and values of earlier tokens.
            layer: The index of this layer in the cache.

        Returns:
            (B, T, C).
        """
        B, T, _ = x.shape
        q, k, v = self.project(x, position)
        if cache is not None:
            if not isinstance(mask, Prepared):
                keys = cache.positions(T)
                mask = prepare(mask, newest(keys, T), keys, batch=B, heads=q.shape[1])
            k, v = cache.update(layer, k, v)  # (B, K, S, D)
        y = attend(q, k, v, mask=mask, scale=self.scale, softcap=self.softcap)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))

    def project(self, x: Tensor, position: Position | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, K, T, D) of `x`, with the position embedding applied."""
        split = *x.shape[:2], -1, self.head_dim
        q = self.q_proj(x).view(split).transpose(1, 2)
        k = self.k_proj(x).view(split).transpose(1, 2)
        v = self.v_proj(x).view(split).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if position is not None:
            q, k = position(q, k)
        return q, k, v
