"""Attention: each position attends to those it may, and takes a weighted mean of their values.

`naive_attention` is the definition, `attend` the one door that models go through, `prepare` what turns a mask
into the form that kernels take, and `Attention` the layer with its projections (Vaswani et al., 2017).
"""

from collections.abc import Callable
from functools import cache as remember
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.model import masks
from myllm.model.cache import Cache, newest
from myllm.model.masks import MaskFunction, build, causal

Position = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Puts positions into queries and keys: ``(q, k) -> (q, k)``."""

FLEX_TOKENS = 128
"""FlexAttention works on blocks of so many tokens; shorter texts gain nothing from it."""


class Prepared(NamedTuple):
    """A mask in the form that kernels take, made by `prepare`; `allowed_pairs` gives it as a bool tensor."""

    queries: Tensor
    """(T,) or (B, T) int64: the positions of the queries."""
    keys: Tensor
    """(S,) or (B, S) int64: the positions of the keys, -1 for an empty slot."""
    pairs: Tensor | None = None
    """Bool, (B or 1, H or 1, T, S): true where a query may attend to a key. None: to all."""
    blocks: Any = None
    """FlexAttention's ``BlockMask``, on a GPU, instead of `pairs`."""
    is_causal: bool = False
    """The plain causal mask, which every kernel knows: nothing is built."""


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
    """Turn a mask into the form that the kernels take: once a forward pass, for all layers that share it.

    On a GPU the mask of a long text becomes FlexAttention's blocks. Inside a compiled model it becomes a bool
    tensor; to have blocks there, prepare the mask outside and pass the result to the model.

    Args:
        mask: A mask function, or a bool tensor that broadcasts to (B, H, T, S).
        queries: (T,) or (B, T) int64, the positions of the queries.
        keys: (S,) or (B, S) int64, the positions of the keys, -1 for an empty slot. By default there is no
            cache, and the keys are those of the queries.
        window: Also forbid keys further back than this; see `myllm.model.masks.window`.
        batch: B.
        heads: H, of the queries.

    Raises:
        ValueError: A window for a mask that is prepared already.
    """
    if isinstance(mask, Prepared):
        if window is not None:
            raise ValueError(
                "A mask prepared for all layers cannot take the window of some; give the function."
            )
        return mask
    fixed = torch.compiler.is_compiling()  # then no number may be looked up, and no length compared
    same = keys is None or (not fixed and _same(queries, keys))
    if window is not None and same and not fixed and queries.shape[-1] <= window:
        window = None  # reaches past the beginning
    if mask is causal and same and window is None:
        return Prepared(queries, queries if keys is None else keys, is_causal=True)
    long = queries.is_cuda and queries.shape[-1] >= FLEX_TOKENS
    if long and keys is None and not fixed and not isinstance(mask, Tensor):
        return Prepared(queries, queries, blocks=_blocks(mask, len(queries), window, batch, heads))
    held = queries if keys is None else keys
    pairs = mask if isinstance(mask, Tensor) else build(mask, batch, heads, queries, held)
    if window is not None:
        pairs = pairs & build(masks.window(window), batch, heads, queries, held)
    if keys is not None:
        pairs = pairs & build(_is_held, batch, heads, queries, keys)
    if not fixed and pairs.shape[-2] == 1 and pairs.device.type == "cpu" and pairs.all():
        pairs = None  # the next token of a text attends to all there is
    return Prepared(queries, held, pairs)


def _same(queries: Tensor, keys: Tensor) -> bool:
    """Whether the keys are just those of the queries, as when a prompt meets an empty cache."""
    return queries.shape == keys.shape and queries.shape[-1] > 1 and torch.equal(queries, keys)


def _is_held(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return k >= 0


def _blocks(mask: MaskFunction, T: int, window: int | None, batch: int, heads: int) -> Any:
    """The mask as FlexAttention takes it, which skips blocks without an allowed pair (Dong et al., 2024)."""
    from torch.nn.attention.flex_attention import create_block_mask

    if window is not None:
        mask = masks.Mask(mask) & masks.window(window)
    zero = torch.zeros(1, dtype=torch.int64, device="cuda")
    rows, of_head, _, _ = build(mask, batch, heads, zero, zero).shape  # 1 where all are alike
    return create_block_mask(mask, rows if rows > 1 else None, of_head if of_head > 1 else None, T, T, "cuda")


@remember
def _flex_attention() -> Callable[..., Tensor]:
    """FlexAttention, compiled: without that it would write all T x S scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def allowed_pairs(mask: AnyMask, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
    """Any mask as a bool tensor that broadcasts to (B, H, T, S).

    Args:
        mask: A mask function, a bool tensor, or what `prepare` made.
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D).
        q_offset: For a mask function, the position of the first query among the keys.
    """
    if isinstance(mask, Tensor):
        return mask
    if not isinstance(mask, Prepared):
        queries = torch.arange(q.shape[2], device=q.device) + q_offset
        return build(mask, q.shape[0], q.shape[1], queries, torch.arange(k.shape[2], device=q.device))
    if mask.pairs is not None:
        return mask.pairs
    rule = causal if mask.is_causal else mask.blocks.mask_mod if mask.blocks else masks.full
    return build(rule, q.shape[0], q.shape[1], mask.queries, mask.keys)


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
        k: Keys, (B, K, S, D); K divides H, and H / K neighbouring heads share one.
        v: Values, (B, K, S, D).
        mask: Which pairs count; a mask function, a bool tensor that broadcasts to (B, H, T, S), or what
            `prepare` made.
        q_offset: For a mask function, the position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: Limits the scores smoothly to (-softcap, softcap) by a tanh (Gemma 2).

    Returns:
        The means (B, H, T, D) and the weights (B, H, T, S). A query that may attend to nothing gets
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
    mask: AnyMask = causal,
    q_offset: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The one door to attention: what `naive_attention` defines, by the fastest kernel there is.

    PyTorch's fused kernels know no soft cap, so with one the weights are computed as defined.

    Args:
        q: Queries, (B, H, T, D).
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        mask: Which pairs count; a mask function, a bool tensor that broadcasts to (B, H, T, S), or what
            `prepare` made. The plain causal mask is never built.
        q_offset: For a mask function, the position of the first query among the keys.
        scale: Factor on the scores, by default 1 / sqrt(D).
        softcap: Limits the scores smoothly to (-softcap, softcap).

    Returns:
        (B, H, T, D).

    Raises:
        ValueError: The number of key heads does not divide that of the query heads.
    """
    B, H, T, _ = q.shape
    if H % k.shape[1]:
        raise ValueError(f"{k.shape[1]} key heads cannot be shared evenly by {H} query heads.")
    if not isinstance(mask, Prepared):
        queries, keys = torch.arange(T, device=q.device) + q_offset, None
        if q_offset or k.shape[2] != T:
            keys = torch.arange(k.shape[2], device=q.device)
        mask = prepare(mask, queries, keys, batch=B, heads=H)
    if softcap is not None:
        return naive_attention(q, k, v, mask=mask, scale=scale, softcap=softcap)[0]
    shared = k.shape[1] != H
    if mask.blocks is not None:
        return _flex_attention()(q, k, v, block_mask=mask.blocks, scale=scale, enable_gqa=shared)
    return F.scaled_dot_product_attention(
        q, k, v, mask.pairs, is_causal=mask.is_causal, scale=scale, enable_gqa=shared
    )


class Attention(nn.Module):
    """Multi-head attention: project, split into heads, attend, concatenate, project.

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
        qk_norm: Makes a normalization of D numbers; where given, queries and keys are normalized.

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
        mask: AnyMask = causal,
        position: Position | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Let each position of `x`, (B, T, C), attend to others; returns (B, T, C).

        Args:
            x: The input of the layer.
            mask: Which pairs count, by position; a `Transformer` prepares it once for all layers.
            position: Puts positions into queries and keys, as RoPE does.
            cache: Keys and values of earlier tokens.
            layer: The number of this layer in the cache.
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
            if not isinstance(mask, Prepared):
                keys = cache.positions(T)
                mask = prepare(mask, newest(keys, T), keys, batch=B, heads=q.shape[1])
            k, v = cache.update(layer, k, v)  # (B, K, S, D)
        y = attend(q, k, v, mask=mask, scale=self.scale, softcap=self.softcap)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
