"""What attention asks of a cache of keys and values."""

from typing import Protocol

from torch import Tensor


class Cache(Protocol):
    """Remembers the keys and values of earlier positions, so that each is computed once."""

    @property
    def length(self) -> int:
        """How many positions it held before the forward pass that is running."""
        ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return all there are, (B, K, S, D)."""
        ...
