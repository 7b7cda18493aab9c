"""Masks: which positions each position may attend to.

A mask is a function ``(b, h, q, k) -> bool`` on index tensors: row of the batch, head, position of the query,
position of the key. Masks are combined with ``&``, ``|`` and ``~``. The form is that of PyTorch's
FlexAttention; nothing of size T x S exists until `build` is called.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(eq=False)  # compared by identity, as the compiler needs it for masks made inside a graph
class Mask:
    """A mask function that can be combined with others by ``&``, ``|`` and ``~``.

    Args:
        allows: Maps index tensors b, h, q, k, which broadcast against each other, to a bool
            tensor: true where query q may attend to key k.
    """

    allows: MaskFunction

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """True where query q of head h in row b may attend to key k."""
        return self.allows(b, h, q, k)

    def __and__(self, other: MaskFunction) -> "Mask":
        return Mask(lambda b, h, q, k: self(b, h, q, k) & other(b, h, q, k))

    def __or__(self, other: MaskFunction) -> "Mask":
        return Mask(lambda b, h, q, k: self(b, h, q, k) | other(b, h, q, k))

    def __invert__(self) -> "Mask":
        return Mask(lambda b, h, q, k: ~self(b, h, q, k))


causal = Mask(lambda b, h, q, k: k <= q)
"""No position attends to a later one."""

full = Mask(lambda b, h, q, k: k == k)
"""Every position attends to every other."""


def window(size: int) -> Mask:
    """No position attends further back than `size` positions, itself included.

    Combine it with `causal`; alone it leaves the future open.

    Args:
        size: 1 or more.

    Raises:
        ValueError: `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"A window holds at least the position itself: size must be 1 or more, not {size}.")
    return Mask(lambda b, h, q, k: q - k < size)


def prefix(length: int | Tensor) -> Mask:
    """Every position attends to the beginning.

    Combined with `causal` by ``|`` this is the mask of T5's prefix language model.

    Args:
        length: How many positions, one number or one for each row, (B,) int64.
    """
    if isinstance(length, int):
        return Mask(lambda b, h, q, k: k < length)
    return Mask(lambda b, h, q, k: k < length[b])


def padding(keep: Tensor) -> Mask:
    """No position attends to padding.

    Args:
        keep: (B, S) bool or integers, true on real tokens, as a tokenizer's `encode_batch`
            returns it.
    """
    real = keep.bool()
    return Mask(lambda b, h, q, k: real[b, k])


def document(ids: Tensor) -> Mask:
    """In a packed row, no position attends to another document.

    Args:
        ids: (B, S) integers, the number of the document that each token belongs to.
    """
    return Mask(lambda b, h, q, k: ids[b, q] == ids[b, k])


def build(mask: MaskFunction, batch: int, heads: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Evaluate a mask for given positions.

    Args:
        mask: Any function ``(b, h, q, k) -> bool``.
        batch: B.
        heads: H.
        queries: (T,) or (B, T) int64, the positions of the queries.
        keys: (S,) or (B, S) int64, the positions of the keys.

    Returns:
        Bool, (B or 1, H or 1, T, S): 1 where the mask does not depend on the row or head.

    Raises:
        ValueError: The function returns something else than a fitting bool tensor.
    """
    T, S = queries.shape[-1], keys.shape[-1]
    b = torch.arange(batch, device=keys.device).view(-1, 1, 1, 1)
    h = torch.arange(heads, device=keys.device).view(-1, 1, 1)
    q = queries if queries.ndim == 1 else queries[:, None]  # (T,) or (B, 1, T)
    allowed = mask(b, h, q[..., None], keys if keys.ndim == 1 else keys[:, None, None])
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("A mask must return a bool tensor: true where query q may attend to key k.")
    while allowed.ndim < 4:
        allowed = allowed[None]
    shape = (batch, heads, T, S)
    if allowed.ndim > 4 or any(a not in (1, n) for a, n in zip(allowed.shape, shape, strict=True)):
        raise ValueError(f"A mask's shape must broadcast to {shape}; this one returns {(*allowed.shape,)}.")
    return allowed.expand(-1, -1, T, S)


def draw(mask: MaskFunction, queries: int, keys: int | None = None, *, row: int = 0, head: int = 0) -> str:
    """Draw any mask as text: a line for each query, ``■`` where it may attend to the key, ``·`` elsewhere.

    Args:
        mask: Any function ``(b, h, q, k) -> bool``.
        queries: T.
        keys: S, by default T. The queries are the last T of these positions.
        row: Which row of the batch is drawn.
        head: Which head.
    """
    keys = queries if keys is None else keys
    looking = torch.arange(keys - queries, keys)
    allowed = build(mask, row + 1, head + 1, looking, torch.arange(keys))
    lines = allowed.expand(row + 1, head + 1, -1, -1)[row, head]
    return "\n".join(" ".join("■" if one else "·" for one in line) for line in lines)
