"""Keys and values in a pool of blocks that many texts share (PagedAttention, Kwon et al., 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from myllm.config import ModelConfig


class Pages:
    """A pool of blocks of keys and values.

    It does not know which block belongs to which text; `view` is told.

    Args:
        config: The model.
        blocks: How many blocks there are.
        block_size: Tokens in a block.
        dtype: The dtype of the model.
        device: Its device.
    """

    def __init__(
        self,
        config: ModelConfig,
        blocks: int,
        block_size: int = 16,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.blocks, self.block_size = blocks, block_size
        shape = (config.n_layer, blocks, block_size, config.n_kv_head, config.head_dim)
        self.k, self.v = (torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")

    def view(self, tables: Sequence[Sequence[int]], lengths: Sequence[int]) -> "PagedCache":
        """The cache of some texts, for one forward pass.

        Args:
            tables: For each row, the blocks that hold its text, in order, including those for the new tokens.
            lengths: How many tokens each row already has.
        """
        return PagedCache(self, tables, lengths)


class PagedCache:
    """The rows of a batch in a pool of blocks: a `myllm.model.cache.Cache` for one forward pass."""

    def __init__(self, pages: Pages, tables: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        device, longest = pages.k.device, max(len(table) for table in tables)
        padded = [[*table, *[0] * (longest - len(table))] for table in tables]
        self._pages, self._table = pages, torch.tensor(padded, device=device)  # (B, blocks of a row)
        self._lengths = torch.tensor([*lengths], device=device)[:, None]
        self._block = self._slot = self._table

    def positions(self, T: int) -> Tensor:
        """The positions of the keys that `update` returns, (B, S); -1 is an empty slot."""
        new = self._lengths + torch.arange(T, device=self._table.device)  # (B, T)
        size = self._pages.block_size
        self._block, self._slot = self._table.gather(1, new // size), new % size
        self._lengths = self._lengths + T
        slots = torch.arange(self._table.shape[1] * size, device=self._table.device)
        return torch.where(slots < self._lengths, slots, -1)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return those of the rows, (B, K, S, D)."""
        found: list[Tensor] = []
        for pool, x in ((self._pages.k[layer], k), (self._pages.v[layer], v)):
            pool[self._block, self._slot] = x.transpose(1, 2)
            found.append(pool[self._table].flatten(1, 2).transpose(1, 2))
        return found[0], found[1]
