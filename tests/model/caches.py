"""Five caches, each as short as it can be, which a `Transformer` has to get along with; and the package's."""

import torch

from myllm.model.cache import KVCache, RingCache, StaticCache
from myllm.model.paged import Pages


def past(tensor, T):
    """The positions of T tokens that follow as many as a counter says."""
    return tensor + torch.arange(T)


class Growing:
    """Appends; every row has the same length."""

    def __init__(self, model, rows, size):
        self.held, self.length = {}, 0

    def positions(self, T):
        self.length += T
        return torch.arange(self.length)

    def update(self, layer, k, v):
        old_k, old_v = self.held.get(layer, (k[:, :, :0], v[:, :, :0]))
        self.held[layer] = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        return self.held[layer]


class Whole(Growing):
    """A buffer of fixed size that is handed out whole, empty slots included; its length is a tensor."""

    def __init__(self, model, rows, size):
        c = model.config
        shape = (c.n_layer, rows, c.n_kv_head, size, c.head_dim)
        weight = model.embed_tokens.weight
        self.k, self.v = (torch.full(shape, torch.nan, dtype=weight.dtype).nan_to_num(7.0) for _ in "kv")
        self.length, self.size = torch.zeros((), dtype=torch.int64), size

    def positions(self, T):
        self.slots, self.length = past(self.length, T), self.length + T
        at = torch.arange(self.size)
        return torch.where(at < self.length, at, -1)

    def update(self, layer, k, v):
        self.k[layer].index_copy_(2, self.slots, k)
        self.v[layer].index_copy_(2, self.slots, v)
        return self.k[layer], self.v[layer]


class Ring(Whole):
    """Keeps the newest tokens only, each at its position modulo the size: enough where there is a window."""

    def __init__(self, model, rows, size):
        super().__init__(model, rows, size)
        self.at = torch.full((size,), -1)

    def positions(self, T):
        new, self.length = past(self.length, T), self.length + T
        self.slots = new % self.size
        self.at[self.slots] = new
        return self.at.clone()


class Ragged(Growing):
    """Rows of different length, padded on the left: the padding is an empty slot."""

    def __init__(self, model, rows, size, pads=()):
        super().__init__(model, rows, size)
        self.pads = torch.tensor(pads or [0] * rows)

    def positions(self, T):
        return (super().positions(T) - self.pads[:, None]).clamp(min=-1)


class Paged:
    """A pool of small pages that all rows share; a table says which pages hold a row, in any order."""

    PAGE = 4

    def __init__(self, model, rows, size):
        c = model.config
        pages = -(-size // self.PAGE)
        generator = torch.Generator().manual_seed(3)
        self.table = torch.randperm(rows * pages, generator=generator).view(rows, pages)
        shape = (c.n_layer, rows * pages, self.PAGE, c.n_kv_head, c.head_dim)
        self.k, self.v = (torch.full(shape, 7.0, dtype=model.embed_tokens.weight.dtype) for _ in "kv")
        self.length = torch.zeros(rows, dtype=torch.int64)

    def positions(self, T):
        self.new = self.length[:, None] + torch.arange(T)  # (B, T)
        self.length = self.length + T
        held = torch.arange(self.table.shape[1] * self.PAGE)
        return torch.where(held < self.length[:, None], held, -1)

    def update(self, layer, k, v):
        page, at = self.table.gather(1, self.new // self.PAGE), self.new % self.PAGE
        for pool, x in ((self.k[layer], k), (self.v[layer], v)):
            pool[page, at] = x.transpose(1, 2)
        gathered = (pool[layer][self.table].flatten(1, 2).transpose(1, 2) for pool in (self.k, self.v))
        return tuple(gathered)


class PagesAlone:
    """The package's pages, a new view for each forward pass, as its engine uses them."""

    def __init__(self, model, rows, size):
        per_row = -(-size // 3)
        generator = torch.Generator().manual_seed(4)
        table = torch.randperm(rows * per_row, generator=generator).view(rows, per_row)
        self.pages = Pages(model.config, rows * per_row, 3, dtype=model.embed_tokens.weight.dtype)
        self.pages.k.fill_(7.0), self.pages.v.fill_(7.0)
        self.tables, self.length = table.tolist(), 0

    def positions(self, T):
        needed = -(-(self.length + T) // 3)
        tables = [table[:needed] for table in self.tables]
        self.view = self.pages.view(tables, [self.length] * len(tables))
        self.length += T
        return self.view.positions(T)

    def update(self, layer, k, v):
        return self.view.update(layer, k, v)


TOYS = {"growing": Growing, "whole": Whole, "ring": Ring, "ragged": Ragged, "paged": Paged}
PACKAGE = {
    "KVCache": lambda model, rows, size: KVCache(model.config, rows, size),
    "StaticCache": lambda model, rows, size: StaticCache(
        model.config, rows, size, dtype=model.embed_tokens.weight.dtype
    ),
    "RingCache": lambda model, rows, size: RingCache(
        model.config,
        rows,
        window=model.config.window if not model.config.full_attention_every and model.config.window else size,
    ),
    "Pages": PagesAlone,
}
CACHES = TOYS | PACKAGE
