"""Attention, feed-forward network and positions written outside the package take the place of its own.

Each class below has at most 15 lines, learns, and generates under a mask that the training did not use.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from myllm.config import ModelConfig
from myllm.model.attention import Attention, allowed_pairs
from myllm.model.masks import causal, prefix, window
from myllm.model.transformer import Transformer

CONFIG = ModelConfig(vocab_size=23, block_size=24, n_layer=2, n_head=4, n_embd=32, position="none")
MASKS = {"window": causal & window(4), "prefix": causal | prefix(5)}


class Alibi(nn.Module):
    """Attention whose scores fall with the distance (Press et al., 2022)."""

    def __init__(self, n_embd, n_head, n_kv_head, head_dim):
        super().__init__()
        self.qkv, self.o_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.slopes = 2.0 ** -torch.arange(1, n_head + 1).view(-1, 1, 1)

    def forward(self, x, *, mask=causal, position=None, cache=None, layer=0):
        q, k, v = (y.unflatten(-1, (len(self.slopes), -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        k, v = (k, v) if cache is None else cache.update(layer, k, v)
        bias = self.slopes * (mask.keys - mask.queries[:, None])
        bias = bias.masked_fill(~allowed_pairs(mask, q, k), -torch.inf)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))


class Linear(nn.Module):
    """Attention with elu + 1 in place of the exponential (Katharopoulos et al., 2020)."""

    def __init__(self, n_embd, n_head, n_kv_head, head_dim):
        super().__init__()
        self.n_head = n_head
        self.qkv, self.o_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)

    def forward(self, x, *, mask=causal, position=None, cache=None, layer=0):
        q, k, v = (y.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        k, v = (k, v) if cache is None else cache.update(layer, k, v)
        weights = (F.elu(q) + 1) @ (F.elu(k) + 1).mT * allowed_pairs(mask, q, k)
        y = weights @ v / weights.sum(-1, keepdim=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class SquaredReLU(nn.Module):
    """Primer's feed-forward network (So et al., 2021)."""

    def __init__(self, n_embd, intermediate_size):
        super().__init__()
        self.up, self.down_proj = nn.Linear(n_embd, intermediate_size), nn.Linear(intermediate_size, n_embd)

    def forward(self, x):
        return self.down_proj(F.relu(self.up(x)) ** 2)


class Wave(nn.Module):
    """Positions that make queries and keys louder and softer."""

    def __init__(self, head_dim):
        super().__init__()

    def forward(self, positions):
        loud = 1 + torch.cos(positions / 3)[:, None, :, None]
        return lambda q, k: (q * loud, k * loud)


class Centred(nn.Module):
    """A norm without any weight."""

    def __init__(self, n_embd):
        super().__init__()

    def forward(self, x):
        return x / (x.std(-1, keepdim=True) + 1e-5)


class Cache:
    """Appends."""

    def __init__(self):
        self.kept, self.length = {}, 0

    def positions(self, T):
        self.length += T
        return torch.arange(self.length)

    def update(self, layer, k, v):
        old = self.kept.get(layer, (k[:, :, :0], v[:, :, :0]))
        self.kept[layer] = torch.cat([old[0], k], 2), torch.cat([old[1], v], 2)
        return self.kept[layer]


PARTS = {
    "ALiBi": {"attention": Alibi},
    "linear attention": {"attention": Linear},
    "squared ReLU": {"mlp": SquaredReLU},
    "positions": {"position": Wave},
    "norm": {"norm": Centred},
    "all": {"attention": Alibi, "mlp": SquaredReLU, "norm": Centred},
    "a function": {"attention": lambda *sizes: Attention(*sizes, bias=True, softcap=3.0)},
}


def generate(model, ids, count, **options):
    """Greedy, without a cache: the whole text goes through the model for each token."""
    for _ in range(count):
        ids = torch.cat([ids, model(ids, **options)[:, -1:].argmax(-1)], dim=1)
    return ids


def generate_cached(model, ids, count, **options):
    cache, new = Cache(), ids
    for _ in range(count):
        logits = model(new, cache=cache, **options)
        new = logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], dim=1)
    return ids


@pytest.mark.parametrize("one", [Alibi, Linear, SquaredReLU, Wave, Centred])
def test_it_is_short(one):
    lines = [line for line in inspect.getsource(one).splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 15


@pytest.mark.parametrize("name", PARTS)
def test_it_trains_and_generates_under_another_mask(name):
    torch.manual_seed(0)
    model = Transformer(CONFIG, **PARTS[name])
    for kind in PARTS[name].values():
        assert not inspect.isclass(kind) or any(isinstance(module, kind) for module in model.modules())
    ids = (torch.arange(20)[None] * torch.tensor([[1], [2], [3], [5]])) % 23
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(20):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    with torch.no_grad():
        plain = model(ids)
        for mask in MASKS.values():
            assert not torch.allclose(model(ids, mask=mask)[:, 6:], plain[:, 6:])  # the mask arrives
            told = generate(model, ids[:, :8], 10, mask=mask)
            assert told.shape == (4, 18) and torch.equal(told[:, :8], ids[:, :8])
            assert torch.equal(told, generate_cached(model, ids[:, :8], 10, mask=mask))
