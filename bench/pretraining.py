"""The runs of chapter 10 that take too long for its page: book/_results/pretraining.json.

    python -m bench.pretraining                     all of them, about 20 minutes on one core
    python -m bench.pretraining forecast race       some: forecast, race, ward, data

- forecast: models of four sizes, each trained on three numbers of tokens, with the recipe of course-base.
- race: AdamW and Muon at four learning rates and three seeds each.
- ward: eight runs with a mistake in them, and healthy ones beside them.
- data: the same budget spent on other texts.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bench.common import origin
from bench.scoreboard import RESULTS, texts
from myllm import ModelConfig, Transformer, load_tokenizer
from myllm.data import corpus
from myllm.data.loader import WindowLoader
from myllm.evaluation.perplexity import nll
from myllm.files import atomic_write
from myllm.model.layers import GatedMLP
from myllm.training.optimizer import make_optimizer
from myllm.training.schedule import rate

TARGET = RESULTS / "pretraining.json"
SIZES = [(48, 1, 2), (72, 1, 2), (96, 2, 4), (144, 3, 6)]  # width, layers, heads
STEPS = (120, 240, 480)
SMALL = {"vocab_size": 1024, "block_size": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
SMALL |= {"intermediate_size": 171, "tie_embeddings": True, "init_std": 0.07}
RATES = {"adamw": (1e-3, 3e-3, 1e-2, 3e-2), "muon": (3e-3, 1e-2, 3e-2, 1e-1)}
Batches = Iterator[tuple[Tensor, ...]]
Log = list[tuple[float, float, float]]


@cache
def ids(name: str = "train") -> Any:
    """The book's training text, its held-out text, or another corpus, as ids of the book's tokenizer."""
    tokenizer = load_tokenizer("shakespeare")
    if name in ("train", "held out"):
        return np.array(tokenizer.encode(texts()[name == "held out"]), dtype=np.uint16)
    return np.array(tokenizer.encode("\n".join(d.text for d in corpus.load(name))), dtype=np.uint16)


def validate(model: nn.Module, tokens: int) -> float:
    """Nats per token on the first so many predictions of the held-out text."""
    return nll(model, torch.from_numpy(ids("held out")[: tokens + 1].astype(np.int64))).mean().item()


def train(
    model: nn.Module,
    batches: Batches,
    steps: int,
    optimizer: Optimizer,
    share: Callable[[int], float],
    clip: float = 1.0,
) -> Log:
    """The loop of chapter 10; it also measures by how much an update changes the weights of the layers."""
    weights = [p for p in model.get_submodule("layers").parameters() if p.ndim == 2]
    log: Log = []
    for step, (x, y) in enumerate(islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * share(step)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        before = [p.detach().clone() for p in weights]
        optimizer.step()
        moved = sum((p.detach() - b).square().sum() for p, b in zip(weights, before, strict=True))
        size = sum(b.square().sum() for b in before)
        log.append((loss.item(), norm.item(), (moved / size).sqrt().item()))  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType, reportUnknownMemberType]
    return log


# The forecast.


def micro(width: int, layers: int, heads: int) -> ModelConfig:
    """A small course-base: the same proportions, and initial logits of the same size."""
    shape = {"n_layer": layers, "n_head": heads, "n_kv_head": heads // 2, "n_embd": width}
    shape |= {"vocab_size": 1024, "block_size": 256, "intermediate_size": width * 8 // 3}
    return ModelConfig(**shape, tie_embeddings=True, init_std=0.05 * (192 / width) ** 0.5)


def micro_runs(size: tuple[int, int, int], lengths: tuple[int, ...], seed: int = 0) -> list[dict[str, Any]]:
    """One run for each length.

    They share everything before their decay, so that part is trained once, and each branches off.
    """
    torch.manual_seed(seed)
    model = Transformer(micro(*size))
    optimizer = make_optimizer(model, "muon", lr=1e-2, weight_decay=0.1)
    batches = WindowLoader(ids(), block_size=256, batch_size=16, seed=seed)
    rows: list[dict[str, Any]] = []
    done = 0
    for steps in lengths:

        def share(step: int, start: int = 0, steps: int = steps) -> float:
            return rate(start + step, steps, "wsd", warmup=50, decay=0.4, floor=0.0)

        until = steps - round(0.4 * steps)
        train(model, batches, until - done, optimizer, partial(share, start=done))
        done = until
        branch, theirs, rest = deepcopy((model, optimizer, batches))
        train(branch, rest, steps - until, theirs, partial(share, start=until))
        n = model.config.n_params
        row = {"width": size[0], "layers": size[1], "heads": size[2], "seed": seed, "parameters": n}
        row |= {"without_embedding": n - model.embed_tokens.weight.numel(), "tokens": steps * 16 * 256}
        rows.append(row | {"steps": steps, "validation": round(validate(branch, 16_384), 4)})
        print(rows[-1], flush=True)
    return rows


def forecast() -> dict[str, Any]:
    """All micro-runs, and the smallest with two more seeds."""
    rows = [row for size in SIZES for row in micro_runs(size, STEPS)]
    seeds = [row for seed in (1, 2) for row in micro_runs(SIZES[0], STEPS[:1], seed)]
    return {"tokens_per_step": 16 * 256, "unique_tokens": len(ids()), "runs": rows, "seeds": seeds}


# The race, and other data.


def small_run(kind: Any, lr: float, seed: int, text: str = "train", steps: int = 150) -> dict[str, float]:
    """The losses of a small model: on the text for choices, on that for reports, and early in training."""
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**SMALL))
    optimizer = make_optimizer(model, kind, lr=lr, weight_decay=0.1)
    batches = WindowLoader(ids(text), block_size=64, batch_size=16, seed=seed)
    share = partial(rate, steps=steps, kind="wsd", warmup=15, decay=0.4, floor=0)
    log = train(model, batches, steps, optimizer, share)
    held_out = torch.from_numpy(ids("held out").astype(np.int64))
    found = {"choose": held_out[:8193], "report": held_out[-8193:]}  # Hamlet, The Tempest
    losses = {name: nll(model, part).mean().item() for name, part in found.items()}
    losses |= {"first": sum(loss for loss, *_ in log[30:40]) / 10}
    print(kind, lr, seed, text, losses, flush=True)
    return {name: round(loss, 4) for name, loss in losses.items()}


def seeds(*arguments: Any) -> dict[str, list[float]]:
    """Three seeds of `small_run`, by the name of the loss."""
    runs = [small_run(*arguments[:2], seed, *arguments[2:]) for seed in range(3)]
    return {name: [run[name] for run in runs] for name in runs[0]}


def race() -> dict[str, Any]:
    """Both optimizers over rates and seeds."""
    runs = [
        {"optimizer": kind, "rate": lr, **seeds(kind, lr)} for kind, rates in RATES.items() for lr in rates
    ]
    return {"model": SMALL, "steps": 150, "tokens_per_step": 16 * 64, "runs": runs}


def data() -> dict[str, Any]:
    """AdamW with its best rate on three texts; always scored on the held-out Shakespeare."""
    names = {"Shakespeare": "train", "the Bible": "kjv", "Moby-Dick": "moby-dick"}
    runs = [
        {"text": name, "tokens": len(ids(text)), **seeds("adamw", 1e-2, text)} for name, text in names.items()
    ]
    return {"rate": 1e-2, "steps": 150, "tokens_per_step": 16 * 64, "runs": runs}


# The ward.


class Dropped(GatedMLP):
    """A feed-forward network with dropout, which the package's models do not have."""

    def forward(self, x: Tensor) -> Tensor:
        """Half of the numbers become zero in training."""
        return F.dropout(super().forward(x), 0.5, self.training)


def patient(
    name: str,
    *,
    lr: float = 1e-2,
    warmup: int = 10,
    decay: float = 0.1,
    std: float = 0.07,
    shifted: bool = True,
    repeated: bool = False,
    everything: bool = False,
    dropout: bool = False,
    reference: str = "healthy",
    steps: int = 100,
) -> dict[str, Any]:
    """One run of the ward, with validations every tenth step."""
    torch.manual_seed(0)
    parts = {"mlp": partial(Dropped, activation="silu", bias=False)} if dropout else {}
    model = Transformer(ModelConfig(**(SMALL | {"init_std": std})), **parts)
    optimizer = make_optimizer(model, lr=lr, weight_decay=decay)
    if everything:
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=decay)
    loader: Batches = WindowLoader(ids(), block_size=64, batch_size=16, seed=0)
    if repeated:
        loader = iter([next(loader)] * steps)
    if not shifted:
        loader = ((x, x) for x, _ in loader)
    log: Log = []
    validation: list[float] = []
    for start in range(0, steps, 10):
        log += train(
            model,
            loader,
            10,
            optimizer,
            lambda step, start=start: rate(start + step, steps, "wsd", warmup=warmup, decay=0.4, floor=0.0),
        )
        model.train(dropout)  # with dropout: the mistake is to leave it on
        validation.append(validate(model, 4096))
        model.train()
    model.eval()
    evaluated = validate(model, 4096)
    tokenizer = load_tokenizer("shakespeare")
    torch.manual_seed(0)
    prompt = torch.tensor([tokenizer.encode("KING.\n")])
    with torch.no_grad():
        for _ in range(24):
            p = (model(prompt[:, -64:])[0, -1] / 0.8).softmax(dim=0)
            prompt = torch.cat([prompt, torch.multinomial(p, 1)[None]], dim=1)
    loss, norm, ratio = ([round(x, 5) for x in column] for column in zip(*log, strict=True))
    row = {"name": name, "reference": reference, "loss": loss, "norm": norm, "ratio": ratio}
    row |= {"evaluated": round(evaluated, 4)}
    row |= {"validation": [round(v, 4) for v in validation], "sample": tokenizer.decode(prompt[0].tolist())}
    print(
        name,
        loss[0],
        loss[-1],
        row["validation"][-1],
        norm[-1],
        ratio[50],
        repr(row["sample"][:60]),
        flush=True,
    )
    return row


def ward() -> dict[str, Any]:
    """Eight sick runs, and two healthy ones to compare them with."""
    runs = [
        patient("healthy"),
        patient("targets not shifted", shifted=False),
        patient("rate too high", lr=0.3),
        patient("rate too low", lr=1e-4),
        patient("with warm-up", lr=3e-2),
        patient("no warm-up", lr=3e-2, warmup=0, reference="with warm-up"),
        patient("one batch, repeated", repeated=True),
        patient("dropout left on", dropout=True),
        patient("decay too strong", everything=True, decay=30.0),
        patient("initial weights too large", std=1.0),
    ]
    return {"model": SMALL, "steps": 100, "tokens_per_step": 16 * 64, "runs": runs}


def main() -> None:
    """Make the parts that are named, or all, and keep the rest of the file."""
    made = {"forecast": forecast, "race": race, "ward": ward, "data": data}
    parser = argparse.ArgumentParser(description="Make parts of book/_results/pretraining.json.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(made)}; by default all")
    parts = parser.parse_args().parts
    if unknown := {*parts} - {*made}:
        parser.error(f"There is no part {min(unknown)!r}; choose from {', '.join(made)}.")
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(TARGET.read_text("utf-8")) if TARGET.exists() else {}
    for name in parts or made:
        result |= {"command": "python -m bench.pretraining", **origin(), name: made[name]()}
        atomic_write(TARGET, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
