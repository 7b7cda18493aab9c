"""Key-value caches: the interface that a `Transformer` uses, and three implementations of it."""

from typing import Protocol

import torch
from torch import Tensor

from myllm.config import ModelConfig


class Cache(Protocol):
    """Holds the keys and values of earlier tokens, so that each is computed once.

    A cache may keep them in any order and in any number of slots (growing, a fixed buffer, a ring, pages), as
    long as it says which position is in which slot.
    """

    def positions(self, T: int) -> Tensor:
        """The positions of all keys that `update` returns in a forward pass over T new tokens.

        Called once per forward pass, before any `update`.

        Returns:
            (S,) int64, or (B, S) where rows differ; new tokens are included, and -1 marks an empty slot.
        """
        ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return all of that layer, (B, K, S, D)."""
        ...


def newest(keys: Tensor, T: int) -> Tensor:
    """The positions of the T newest tokens, given those of all keys: the largest and the T - 1 before it.

    Args:
        keys: (S,) or (B, S) int64, as `Cache.positions` returns them.
        T: How many tokens are new.

    Returns:
        (T,) or (B, T) int64; negative where a row is padded on the left.
    """
    return keys.amax(-1, keepdim=True) + torch.arange(1 - T, 1, device=keys.device)


class KVCache:
    """Keys and values in one buffer of fixed size: a step writes the new ones and copies nothing else.

    Args:
        config: The model.
        rows: B.
        size: The most tokens in a row, padding included; by default the model's context length.
        pads: (B,) int64, by how many tokens each row is padded on the left; these slots count as empty.
        bits: 8 stores int8 numbers, with one scale for each token and head: about a quarter of float32's
            bytes, and an error of up to 1/254 of the largest magnitude in that token and head.
        device: The device of the positions: that of the model.

    Attributes:
        length: The number of tokens in each row, padding included.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int = 1,
        size: int | None = None,
        *,
        pads: Tensor | None = None,
        bits: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if bits not in (None, 8):
            raise ValueError(f"bits must be 8, or None to store numbers as they are, not {bits}.")
        self.size = config.block_size if size is None else size
        self.length, self.pads, self.bits = 0, pads, bits
        self._shape = (config.n_layer, rows, config.n_kv_head, self.size)
        self._slots = torch.arange(self.size, device=device)
        self._new = slice(0)
        self._stored: list[Tensor] = []  # keys and values, (L, B, K, size, D); if int8, each with its scales

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers; 0 before the first forward pass."""
        return sum(x.nbytes for x in self._stored)

    def positions(self, T: int) -> Tensor:
        """The positions of all keys, T new ones included: (S,), or (B, S) with padding.

        Raises:
            ValueError: More tokens than the buffer has room for.
        """
        self._new = slice(self.length, self.length + T)
        if self._new.stop > self.size:
            raise ValueError(f"{self._new.stop} tokens do not fit into a cache of {self.size}.")
        self.length += T
        slots = self._slots[: self.length]
        return slots if self.pads is None else (slots - self.pads[:, None]).clamp(min=-1)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return all of that layer, (B, K, S, D)."""
        new = self._quantize(k, v) if self.bits else (k, v)
        if not self._stored:
            self._stored = [x.new_zeros(*self._shape, x.shape[-1]) for x in new]
        for buffer, x in zip(self._stored, new, strict=True):
            buffer[layer, :, :, self._new] = x
        held = [buffer[layer, :, :, : self.length] for buffer in self._stored]
        if self.bits:
            return (held[0] * held[1]).to(k.dtype), (held[2] * held[3]).to(v.dtype)
        return held[0], held[1]

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` tokens of each row."""
        self.length = min(self.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, (N,) int64, in this order; a row may be repeated."""
        self._stored = [x[:, rows] for x in self._stored]
        self._shape = (self._shape[0], len(rows), *self._shape[2:])
        if self.pads is not None:
            self.pads = self.pads[rows]

    @staticmethod
    def _quantize(*tensors: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for x in tensors:
            scale = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) / 127
            found += [(x / scale).round().to(torch.int8), scale]
        return found


class StaticCache:
    """A buffer that is always returned whole, with its length in a tensor, so that shapes never change.

    A decoding step can therefore be compiled once and captured in a CUDA graph. Empty slots cost time: on a
    CPU, `KVCache` is faster.

    Args:
        config: The model.
        rows: B.
        size: The most tokens in a row; by default the model's context length.
        dtype: The dtype of the model.
        device: Its device.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int = 1,
        size: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.size = config.block_size if size is None else size
        shape = (config.n_layer, rows, config.n_kv_head, self.size, config.head_dim)
        # Zeros, not uninitialized memory: a masked slot has weight 0, but 0 times NaN is NaN.
        self.k, self.v = (torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")
        self.length = torch.zeros((), dtype=torch.int64, device=device)
        self._slots = torch.arange(self.size, device=device)
        self._new = self._slots[:0]

    def positions(self, T: int) -> Tensor:
        """The positions of the whole buffer, (size,), -1 where it is empty."""
        self._new = self.length + self._slots[:T]
        self.length.add_(T)
        return torch.where(self._slots < self.length, self._slots, -1)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return the whole buffers, (B, K, size, D)."""
        self.k[layer].index_copy_(2, self._new, k)
        self.v[layer].index_copy_(2, self._new, v)
        return self.k[layer], self.v[layer]


class RingCache:
    """Keeps the newest tokens in a ring buffer and, if asked to, the first tokens permanently.

    Position p is in slot p if it is one of the first `sinks`, else in slot
    ``sinks + (p - sinks) % window``. A model with this window attends to nothing else. A model without a
    window then attends to the first and the newest tokens only, as StreamingLLM does (Xiao et al., 2024); to
    compute several tokens at once in the same way, give it the mask
    ``causal & (window(…) | prefix(sinks))``.

    Args:
        config: The model.
        rows: B.
        window: How many of the newest tokens are kept.
        sinks: How many of the first tokens are kept as well.
        device: The device of the positions: that of the model.

    Attributes:
        length: The number of tokens that each row has received.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int = 1,
        *,
        window: int,
        sinks: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if window < 1 or sinks < 0:
            raise ValueError(
                f"A ring needs a window of 1 or more and 0 or more sinks, not {window}, {sinks}."
            )
        self.window, self.sinks, self.length = window, sinks, 0
        self._shape = (config.n_layer, rows, config.n_kv_head, sinks + window)
        self._at = torch.full((sinks + window,), -1, device=device)  # the position in each slot
        self._old, self._slots, self._kept = 0, self._at[:0], self._at[:0]
        self._stored: list[Tensor] = []

    def positions(self, T: int) -> Tensor:
        """The positions of the keys that `update` returns, in the order of slots; see `Cache`."""
        new = torch.arange(self.length, self.length + T, device=self._at.device)
        self._old, self.length = min(self.length, len(self._at)), self.length + T
        kept = (new < self.sinks) | (new >= self.length - self.window)  # what does not fit is not stored
        self._kept = kept.nonzero()[:, 0]
        stored = new[self._kept]
        ring = self.sinks + (stored - self.sinks) % self.window
        self._slots = stored.where(stored < self.sinks, ring)
        before = self._at[: self._old].clone()
        self._at[self._slots] = stored
        return self._at[: min(self.length, len(self._at))].clone() if T == 1 else torch.cat([before, new])

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return those at `positions`, (B, K, S, D).

        Several new tokens are returned after the stored ones, since the first of them still attend to
        what the last of them overwrite.
        """
        if not self._stored:
            self._stored = [x.new_zeros(*self._shape, x.shape[-1]) for x in (k, v)]
        found: list[Tensor] = []
        for buffer, x in zip(self._stored, (k, v), strict=True):
            held = buffer[layer]
            if x.shape[2] > 1:
                found.append(torch.cat([held[:, :, : self._old], x], dim=2))
            held[:, :, self._slots] = x[:, :, self._kept]
            if x.shape[2] == 1:
                found.append(held[:, :, : self.length])
        return found[0], found[1]
