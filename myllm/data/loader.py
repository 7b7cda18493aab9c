"""Loaders: batches for training in a seeded order that can be resumed at any batch.

The items of a corpus, windows or packed rows, form one endless sequence: all of them in a random order, then
all in another order, and so on, epoch after epoch. A batch is the next few items of that sequence. So every
item occurs once per epoch, every batch is full (the last of an epoch is completed with the first items of the
next), and the state is one number: how many items have been returned.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from myllm.data.packing import Packed, targets
from myllm.files import UserError


class Tokens(Protocol):
    """A long sequence of token ids: an array, a memory map or `Shards`."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> NDArray[Any]: ...


def windows(n: int, block_size: int, stride: int | None = None) -> int:
    """The number of windows in `n` tokens.

    A window is `block_size` inputs and one more token, the last target. Each window begins `stride` tokens
    after the previous one, by default `block_size`, so that no two windows share an input.
    """
    stride = block_size if stride is None else stride
    if block_size < 1 or stride < 1:
        raise UserError(f"block_size and stride must be at least 1, not {block_size} and {stride}.")
    return max(0, (n - 1 - block_size) // stride + 1)


def shuffled(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The numbers 0 … n - 1 in the order of an epoch, (n,) int64, the same on every machine.

    NumPy guarantees the raw stream of a bit generator across versions, but not the result of `permutation`;
    so the items are sorted by n random numbers.
    """
    return np.random.PCG64([seed, epoch]).random_raw(n).argsort(kind="stable")


class Loader(Iterator[tuple[Tensor, ...]]):
    """Endless batches of items; a subclass defines what an item is.

    Args:
        n: The number of items.
        batch_size: B, the number of items in a batch of this rank.
        seed: At least 0; determines the order.
        shuffle: Whether to shuffle the items of each epoch; otherwise they come in order.
        rank, world: The rank of this process and the number of processes. Each returns its own part of the
            batches that a single process with a batch size of ``world * batch_size`` would return.

    Raises:
        UserError: There are no items, or a number is out of range.
    """

    def __init__(
        self, n: int, *, batch_size: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ):
        if n < 1:
            raise UserError("There are no items to load; give more text or a smaller block_size.")
        if batch_size < 1 or seed < 0 or not 0 <= rank < world:
            raise UserError("A loader needs batch_size ≥ 1, seed ≥ 0 and 0 ≤ rank < world.")
        self.n, self.batch_size = n, batch_size
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world = rank, world
        self.position = 0  # items returned by all ranks together
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @abstractmethod
    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """The items with these numbers, (B,) int64."""

    def __next__(self) -> tuple[Tensor, ...]:
        first = self.position + self.rank * self.batch_size
        items = [self._item(i) for i in range(first, first + self.batch_size)]
        self.position += self.world * self.batch_size
        return self.batch(np.array(items))

    def _item(self, i: int) -> int:
        """The number of the item at index `i` of the endless sequence."""
        epoch, i = divmod(i, self.n)
        if not self.shuffle:
            return i
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.n, self.seed, epoch)
        return int(self._order[i])

    def state_dict(self) -> dict[str, int]:
        """The position in the sequence and the numbers that determine its order, the same on all ranks."""
        return {"position": self.position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume where another loader stopped: the next batch is the one that it would have returned.

        Batch size, rank and world may differ: the same items follow, in different batches.

        Raises:
            UserError: The state belongs to other items or another order.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                found = f"This state belongs to a loader with {name} {state.get(name)}, not {value}"
                raise UserError(f"{found}; make the loader as it was.")
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise UserError("This state has no valid position; load another checkpoint.")
        self.position = position

    def _identity(self) -> dict[str, int]:
        """The numbers that determine the order of the items."""
        return {"n": self.n, "seed": self.seed, "shuffle": int(self.shuffle)}


class WindowLoader(Loader):
    """Batches ``(x, y)`` of windows of a long token sequence, both (B, T) int64; y is x shifted by one token.

    Args:
        tokens: The ids; only those of the current batch are copied.
        block_size: T, the number of tokens in a window.
        stride: The distance in tokens between the beginnings of two windows, by default `block_size`.
        options: Those of `Loader`: `batch_size`, `seed`, `shuffle`, `rank` and `world`.

    Raises:
        UserError: The tokens are too few for one window or not integers, or a number is out of range.
    """

    def __init__(self, tokens: Tokens, *, block_size: int, stride: int | None = None, **options: Any):
        self.tokens, self.block_size = tokens, block_size
        self.stride = block_size if stride is None else stride
        super().__init__(windows(len(tokens), block_size, stride), **options)
        first = np.asarray(tokens[:1])
        if first.ndim != 1 or first.dtype.kind not in "iu":
            raise UserError("The tokens must be one sequence of integers; encode the text first.")

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The windows with these numbers, as x and y."""
        starts = [int(i) * self.stride for i in items]
        rows = [self.tokens[start : start + self.block_size + 1] for start in starts]
        ids = torch.from_numpy(np.stack(rows).astype(np.int64))  # (B, T + 1)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def _identity(self) -> dict[str, int]:
        return super()._identity() | {"block_size": self.block_size, "stride": self.stride}


class PackedLoader(Loader):
    """Batches ``(x, y, document, position)`` of packed rows, all (B, T) int64; y is `packing.targets`.

    Args:
        rows: The result of `myllm.data.packing.pack`.
        options: Those of `Loader`: `batch_size`, `seed`, `shuffle`, `rank` and `world`.
    """

    def __init__(self, rows: Packed, **options: Any):
        self.rows = rows
        super().__init__(len(rows.ids), **options)

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """The rows with these numbers: ids, targets, document numbers, positions."""
        rows = Packed(*(part[items] for part in self.rows))
        parts = rows.ids, targets(rows), rows.document, rows.position
        return tuple(torch.from_numpy(part) for part in parts)
