"""The interface of a cache of keys and values, as a `Transformer` uses it."""

from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """Holds the keys and values of earlier tokens, so that each is computed once.

    A cache may keep them in any order and in any number of slots (growing, a fixed buffer, a ring, pages), as
    long as it says which position is in which slot.
    """

    def positions(self, T: int) -> Tensor:
        """The positions of all keys that `update` returns in a forward pass over T new tokens.

        Called once a pass, before any `update`.

        Returns:
            (S,) int64, or (B, S) where rows differ; it includes the new tokens; -1 marks an empty slot.
        """
        ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return all of its own, (B, K, S, D)."""
        ...


def newest(keys: Tensor, T: int) -> Tensor:
    """The positions of the T newest tokens, given the positions of all keys: the last one and those before.

    Args:
        keys: (S,) or (B, S) int64, as `Cache.positions` returns them.
        T: How many tokens are new.

    Returns:
        (T,) or (B, T) int64; negative where a row is padded on the left.
    """
    return keys.amax(-1, keepdim=True) + torch.arange(1 - T, 1, device=keys.device)
