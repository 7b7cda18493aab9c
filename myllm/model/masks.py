"""Masks: which positions each position may attend to.

A mask is a function ``(b, h, q, k) -> bool`` of index tensors: the row of the batch, the head, and the
positions of the query and the key. Masks are combined with ``&``, ``|`` and ``~``. The form is that of
PyTorch's FlexAttention; no tensor of size T x S exists until `build` is called.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(eq=False)  # compared by identity, as the compiler needs for masks created inside a graph
class Mask:
    """A mask function that can be combined with others by ``&``, ``|`` and ``~``.

    Args:
        allows: Maps index tensors b, h, q and k, which broadcast against each other, to a bool tensor: true
            where query q may attend to key k.
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


#: No position attends to a later one.
causal = Mask(lambda b, h, q, k: k <= q)

#: Every position attends to all positions except -1, which marks an empty slot of a cache.
full = Mask(lambda b, h, q, k: k >= 0)


def window(size: int) -> Mask:
    """Each position attends to at most the last `size` positions, itself included.

    Combine it with `causal`; on its own it also allows later positions.

    Raises:
        ValueError: `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"A window contains the position itself: give a size of 1 or more, not {size}.")
    return Mask(lambda b, h, q, k: q - k < size)


def prefix(length: int | Tensor) -> Mask:
    """Every position attends to the first `length` positions; a tensor, (B,) int64, sets a length per row.

    ``causal | prefix(length)`` is the mask of T5's prefix language model.
    """
    if isinstance(length, int):
        return Mask(lambda b, h, q, k: k < length)
    return Mask(lambda b, h, q, k: k < length[b])


def padding(keep: Tensor) -> Mask:
    """No position attends to padding.

    Args:
        keep: (B, S) bool or integers, true for real tokens, as a tokenizer's `encode_batch` returns it.
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
    """Evaluate a mask at given positions.

    Args:
        mask: Any function ``(b, h, q, k) -> bool``.
        batch: B.
        heads: H.
        queries: (T,) or (B, T) int64, the positions of the queries.
        keys: (S,) or (B, S) int64, the positions of the keys.

    Returns:
        Bool, (B or 1, H or 1, T, S): 1 where the mask does not depend on the row or the head.

    Raises:
        ValueError: The function does not return a bool tensor.
        RuntimeError: Its shape does not broadcast to (B, H, T, S).
    """
    T, S = queries.shape[-1], keys.shape[-1]
    b = torch.arange(batch, device=keys.device).view(-1, 1, 1, 1)
    h = torch.arange(heads, device=keys.device).view(-1, 1, 1)
    allowed = mask(b, h, queries.view(-1, 1, T, 1), keys.view(-1, 1, 1, S))
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("A mask must return a bool tensor: true where query q may attend to key k.")
    allowed.expand(batch, heads, T, S)  # raises where the shape does not fit
    return allowed.expand(-1, -1, T, S)


def draw(mask: MaskFunction, queries: int, keys: int | None = None) -> str:
    """A mask as text: a line for each query, ``■`` where it may attend to the key, ``·`` elsewhere.

    Args:
        mask: Any function ``(b, h, q, k) -> bool``; the first row and head are drawn.
        queries: T.
        keys: S, by default T. The queries are the last T of these positions.
    """
    at = torch.arange(keys or queries)
    allowed = build(mask, 1, 1, at[-queries:], at)[0, 0]
    return "\n".join(" ".join("■" if pair else "·" for pair in line) for line in allowed)
