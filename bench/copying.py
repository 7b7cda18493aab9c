"""Chapter 5's copying networks in more sizes than the page has time for: book/_results/copying.json.

    python -m bench.copying        three seeds of every case, about 9 minutes on one quiet core

The network and its task are the chapter's, with the package's attention layer in the place of the page's.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common import origin
from myllm.files import atomic_write
from myllm.model.attention import Attention

FILE = Path(__file__).parents[1] / "book" / "_results" / "copying.json"
BAR, LONGEST, BATCH, RATE = 10, 12, 64, 3e-3
SEEDS = 3


class Case(NamedTuple):
    """A network, and after how many steps it is scored."""

    layers: int
    width: int = 32
    heads: int = 4
    positions: bool = True
    scaled: bool = True
    steps: tuple[int, ...] = (1200,)


CASES = (
    Case(2, steps=(300, 1200)),
    Case(1, width=48),
    Case(1, width=64),
    Case(2, scaled=False, steps=(300, 1200)),
    Case(2, positions=False),
    Case(2, heads=1),
    Case(2, heads=8),
    Case(1, steps=(1200, 6000)),
    Case(1, heads=8, steps=(1200, 6000)),
    Case(1, width=64, heads=16, steps=(1200, 6000)),
)


class Copier(nn.Module):
    """Attention layers and nothing else: the network of the chapter."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.embed = nn.Embedding(BAR + 1, case.width)
        self.positions = nn.Embedding(2 * LONGEST + 1, case.width)
        scale = None if case.scaled else 1.0
        self.layers = nn.ModuleList(
            Attention(case.width, case.heads, scale=scale) for _ in range(case.layers)
        )
        self.head = nn.Linear(case.width, BAR + 1, bias=False)
        self.knows_positions = case.positions

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T)."""
        x = self.embed(ids)
        if self.knows_positions:
            x = x + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


@torch.no_grad()
def built() -> Copier:
    """One layer that copies by construction, with a head for each length of a word.

    Letters and positions are one-hot vectors. In the head for words of n letters, a query at position p gives
    the key at p - n a large score, a bar a larger one, and the key at position n, where the bar of such a
    word is, a very low one. So the head finds the letter to copy if the word has n letters; otherwise it
    finds the bar, whose value is 0.
    """
    lengths, places, letters = range(4, LONGEST + 1), 2 * LONGEST + 1, BAR + 1
    width, size, score = 2 * letters + places, places + 1, 50.0
    model = Copier(Case(0, width=width))
    layer = Attention(width, len(lengths), head_dim=size, scale=1.0)
    model.layers = nn.ModuleList([layer])
    for p in model.parameters():
        p.zero_()
    model.embed.weight[:, :letters] = torch.eye(letters)
    model.positions.weight[:, letters : letters + places] = torch.eye(places)
    model.head.weight[:, letters + places :] = torch.eye(letters)
    at = slice(letters, letters + places)
    for h, n in enumerate(lengths):
        q, k, v = (m.weight[h * size : (h + 1) * size] for m in (layer.q_proj, layer.k_proj, layer.v_proj))
        q[:places, at] = torch.full((places - n,), score).diag(n)  # at p - n
        q[places, :letters] = score
        k[:places, at] = torch.eye(places)
        k[places, BAR], k[places, letters + n] = 2, -4
        v[:BAR, :BAR] = torch.eye(BAR)
        layer.o_proj.weight[letters + places :, h * size : h * size + letters] = torch.eye(letters)
    return model


def strings(batch: int, n: int) -> Tensor:
    """Random strings of `n` letters, a bar, and the same letters again: (B, 2n + 1)."""
    letters = torch.randint(BAR, (batch, n))
    return torch.cat([letters, torch.full((batch, 1), BAR), letters], dim=1)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Strings of 4 to 12 letters; only what follows the bar is predicted."""
    while True:
        n = int(torch.randint(4, LONGEST + 1, ()))
        ids = strings(BATCH, n)
        x, y = ids[:, :-1], ids[:, 1:].clone()
        y[:, :n] = -100
        yield x, y


@torch.no_grad()
def copied(model: nn.Module, n: int = 10) -> tuple[float, float]:
    """The share of letters that are right, and of strings without a mistake, of 2,000 strings."""
    ids = strings(2000, n)
    right = model(ids[:, :-1])[:, n:].argmax(dim=-1) == ids[:, n + 1 :]
    return right.float().mean().item(), right.all(dim=1).float().mean().item()


def run(case: Case, seed: int) -> Iterator[dict[str, Any]]:
    """Train one network; yields a row whenever it is scored."""
    torch.manual_seed(seed)
    model = Copier(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    total = sum(p.numel() for p in model.parameters())
    losses: list[float] = []
    for step, (x, y) in enumerate(islice(batches(), max(case.steps)), start=1):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step in case.steps:
            with torch.random.fork_rng():
                letters, whole = copied(model)
            row = case._asdict() | {"steps": step, "seed": seed, "parameters": total}
            yield row | {"loss": sum(losses[-100:]) / 100, "letters": letters, "strings": whole}


def main() -> None:
    """Run every case and write the file."""
    torch.set_num_threads(1)
    content: dict[str, Any] = {"command": "python -m bench.copying", **origin()}
    rows: list[dict[str, Any]] = []
    for case in CASES:
        for seed in range(SEEDS):
            for row in run(case, seed):
                rows.append(row)
                print(json.dumps(row), flush=True)
    by_hand = {n: copied(built(), n)[1] for n in range(4, LONGEST + 1)}
    print(json.dumps(by_hand), flush=True)
    atomic_write(FILE, json.dumps(content | {"rows": rows, "built": by_hand}, indent=1) + "\n")


if __name__ == "__main__":
    main()
