"""The scoreboard's LLaMA on texts four times as long as those in training: book/_results/longer.json.

    python -m bench.longer         about 8 minutes on one quiet core

scores each case as trained, and after a short tuning with three seeds. Chapter 8 shows the file and repeats
the scores of the first rows, without tuning.
"""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.common import origin
from bench.scoreboard import BATCH, CONFIGS, load, tokens
from myllm import Transformer, load_tokenizer
from myllm.config import RopeScaling
from myllm.data.loader import WindowLoader
from myllm.files import atomic_write

FILE = Path(__file__).parents[1] / "book" / "_results" / "longer.json"
TRAINED = CONFIGS["llama"].block_size
FACTOR = 4
LENGTH = FACTOR * TRAINED
STEPS, RATE, SEEDS, FEW = 100, 5e-4, 3, 16

CASES: dict[str, dict[str, Any]] = {"none": {}, "none, window": {"window": TRAINED}}
CASES |= {
    kind: {"rope_scaling": RopeScaling(kind, factor=FACTOR, original_context=TRAINED)}
    for kind in ("linear", "llama3", "yarn")
}


def longer(case: str) -> Transformer:
    """The scoreboard's LLaMA, as trained, with the settings of a case."""
    model = Transformer(CONFIGS["llama"].replace(block_size=LENGTH, **CASES[case]))
    model.load_state_dict(load("llama").state_dict())
    return model


def rows_of(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (N, LENGTH): the text cut into rows, without what is left at the end."""
    n = (len(ids) - 1) // LENGTH * LENGTH
    return ids[:n].view(-1, LENGTH), ids[1 : n + 1].view(-1, LENGTH)


@torch.no_grad()
def score(model: Transformer, x: Tensor, y: Tensor, n_bytes: Tensor) -> list[float]:
    """Bits per byte of the targets in each quarter of the rows; `n_bytes` has the length of each token."""
    losses = [
        F.cross_entropy(model(a).transpose(1, 2), b, reduction="none").double()
        for a, b in zip(x.split(8), y.split(8), strict=True)
    ]
    bits = torch.cat(losses).view(-1, FACTOR, TRAINED).sum(dim=(0, 2)) / math.log(2)
    return (bits / n_bytes[y].view(-1, FACTOR, TRAINED).sum(dim=(0, 2))).tolist()


def tune(model: Transformer, ids: Tensor, seed: int) -> None:
    """Train on long rows, as many tokens a step as before, at about the rate with which training ended."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
    batches = WindowLoader(
        ids.numpy().astype(np.uint16), block_size=LENGTH, batch_size=BATCH // FACTOR, seed=seed
    )
    for x, y in islice(batches, STEPS):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    """Score and tune every case and write the file."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer("shakespeare")
    ids, held_out, V = tokens(tokenizer)
    n_bytes = torch.tensor([len(tokenizer.decode_bytes([i])) for i in range(V)])
    x, y = rows_of(held_out)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        model = longer(case)
        row: dict[str, Any] = {"scaling": case, "as_trained": score(model, x, y, n_bytes)}
        row["first_rows"] = score(model, x[:FEW], y[:FEW], n_bytes)
        row["tuned"] = []
        rows.append(row)
        print(json.dumps(row), flush=True)
        if "window" in CASES[case]:
            continue  # no distance is new, so there is nothing to learn
        for seed in range(SEEDS):
            tune(model := longer(case), ids, seed)
            row["tuned"].append(score(model, x, y, n_bytes))
            print(case, "seed", seed, json.dumps(row["tuned"][-1]), flush=True)
    content = {"command": "python -m bench.longer", **origin(), "trained": TRAINED, "length": LENGTH}
    content |= {"texts": len(x), "first_texts": FEW, "factor": FACTOR, "steps": STEPS}
    content |= {"tokens_per_step": BATCH * TRAINED, "rows": rows}
    atomic_write(FILE, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
