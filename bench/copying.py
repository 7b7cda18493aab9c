"""Chapter 5's copying networks in more sizes than the page has time for: book/_results/copying.json.

    python -m bench.copying        three seeds of every case, about 9 minutes on one quiet core

The network and its task are the chapter's, with the package's attention layer in the place of the page's.
A word is of different letters; after a bar it continues from a random letter to its end.
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
BAR, LONGEST, BATCH, RATE = 26, 12, 64, 3e-3
SEEDS = 3


class Case(NamedTuple):
    """A network, what it is trained on, and after how many steps it is scored."""

    layers: int
    width: int = 32
    heads: int = 4
    positions: bool = True
    scaled: bool = True
    whole: bool = False  # every training string repeats its word from the first letter on
    steps: tuple[int, ...] = (900,)


CASES = (
    Case(2, steps=(300, 900)),
    Case(2, heads=1),
    Case(2, heads=8),
    Case(2, positions=False),
    Case(2, scaled=False, steps=(300, 900)),
    Case(2, whole=True),
    Case(1, steps=(900, 6000)),
    Case(1, width=48),
    Case(1, width=64, steps=(900, 6000)),
    Case(1, width=64, heads=16, steps=(900, 6000)),
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


def strings(batch: int, n: int, start: int) -> Tensor:
    """Random words of `n` different letters, a bar, and the word again from letter `start` on."""
    word = torch.rand(batch, BAR).argsort(dim=1)[:, :n]
    return torch.cat([word, torch.full((batch, 1), BAR), word[:, start:]], dim=1)


def batches(whole: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Words of 4 to 12 letters; what follows the first letter after the bar is predicted."""
    while True:
        n = int(torch.randint(4, LONGEST + 1, ()))
        start = int(torch.randint(n - 1, ()))
        ids = strings(BATCH, n, 0 if whole else start)
        x, y = ids[:, :-1], ids[:, 1:].clone()
        y[:, : n + 1] = -100
        yield x, y


@torch.no_grad()
def copied(model: nn.Module, n: int = 10) -> tuple[float, float]:
    """The shares of letters that are right, and of strings without a mistake, over all places to start."""
    letters: list[Tensor] = []
    whole: list[Tensor] = []
    for start in range(n - 1):
        ids = strings(500, n, start)
        right = model(ids[:, :-1])[:, n + 1 :].argmax(dim=-1) == ids[:, n + 2 :]
        letters.append(right.flatten())
        whole.append(right.all(dim=1))
    return torch.cat(letters).float().mean().item(), torch.cat(whole).float().mean().item()


def run(case: Case, seed: int) -> Iterator[dict[str, Any]]:
    """Train one network; yields a row whenever it is scored."""
    torch.manual_seed(seed)
    model = Copier(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    total = sum(p.numel() for p in model.parameters())
    losses: list[float] = []
    for step, (x, y) in enumerate(islice(batches(case.whole), max(case.steps)), start=1):
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
    atomic_write(FILE, json.dumps(content | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
