"""A mixture of experts against a dense model that computes as much for each token: book/_results/moe.json.

    python -m bench.moe            all of it, or what is left of it
    python -m bench.moe --seed 1   the runs of one seed, kept in build/moe for the first form
    python -m bench.moe --write    the file, of the models whose runs are there

trains four models with three seeds on Shakespeare's characters: a dense one, and a mixture of 8 experts of
half its width, two for each token, without balance, with the auxiliary loss, and with the bias. The learning
rate is constant: of 0.002, 0.004 and 0.008, the best for the dense model after 200 steps. Steps are timed
apart, all models in turn. The appendix trains the first steps of two of them again and compares.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.common import origin, paired
from myllm import ModelConfig, Transformer
from myllm.data import corpus
from myllm.evaluation.perplexity import nll
from myllm.files import atomic_write
from myllm.model.moe import MoE, balance_loss, loads, update_bias

RESULTS = Path(__file__).parents[1] / "book" / "_results" / "moe.json"
PARTS = Path(__file__).parents[1] / "build" / "moe"
BLOCK, BATCH, STEPS, EVERY, FIRST, RATE, SEEDS = 64, 16, 1000, 100, 30, 2e-3, 3
EXPERTS, CHOSEN, WIDTH = 8, 2, 288
WEIGHT, BIAS_RATE = 0.01, 1e-3  # of the auxiliary loss, of the bias
SHAPE = {"block_size": BLOCK, "n_layer": 2, "n_head": 4, "n_embd": 96, "init_std": 0.06}
VARIANTS = {  # name: intermediate size, how it is balanced
    "dense": (WIDTH, None),
    "MoE, no balance": (WIDTH // CHOSEN, "none"),
    "MoE, auxiliary loss": (WIDTH // CHOSEN, "loss"),
    "MoE, bias": (WIDTH // CHOSEN, "bias"),
}


def data() -> tuple[Tensor, Tensor, int]:
    """The characters of the training text and of the held-out one, and how many different ones there are."""
    plays, held_out = corpus.split(corpus.load("shakespeare"), validation=0.1, seed=0)
    alphabet = sorted({c for play in plays + held_out for c in play.text})
    number = {c: i for i, c in enumerate(alphabet)}
    parts = (plays, held_out)
    train, val = (torch.tensor([number[c] for play in part for c in play.text]) for part in parts)
    return train, val, len(alphabet)


def make(name: str, vocab_size: int) -> Transformer:
    """A model by name."""
    width, balance = VARIANTS[name]
    config = ModelConfig(vocab_size=vocab_size, **SHAPE, intermediate_size=width, tie_embeddings=True)
    if balance is None:
        return Transformer(config)
    experts = partial(MoE, n_experts=EXPERTS, top_k=CHOSEN, select_bias=balance == "bias")
    return Transformer(config, mlp=experts)


def stepper(model: Transformer, balance: str | None, train_ids: Tensor) -> Callable[[], float]:
    """A function that makes one update, and returns the loss without the auxiliary one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def step() -> float:
        starts = torch.randint(len(train_ids) - BLOCK, (BATCH, 1))
        windows = train_ids[starts + torch.arange(BLOCK + 1)]
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        whole = loss + WEIGHT * balance_loss(model) if balance == "loss" else loss
        optimizer.zero_grad()
        whole.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if balance == "bias":
            update_bias(model, loads(model), BIAS_RATE)
        return loss.item()

    return step


@torch.no_grad()
def shares(model: Transformer, val_ids: Tensor) -> list[list[float]]:
    """Each expert's share of the assignments on held-out text, layer by layer."""
    model(val_ids[: 128 * BLOCK].view(-1, BLOCK))
    counts = loads(model).double()
    return (counts / counts.sum(dim=1, keepdim=True)).tolist()


def active(model: Transformer) -> int:
    """Weights that are multiplied for each token: all matrices, and those of the chosen experts."""
    count = 0
    for name, p in model.named_parameters():
        if p.ndim == 2 and name != "lm_head.weight":  # tied to the embedding, which is the head
            count += p.numel() * CHOSEN // EXPERTS if ".experts." in name else p.numel()
    return count


def run(name: str, seed: int, train_ids: Tensor, val_ids: Tensor, vocab_size: int) -> dict[str, Any]:
    """One run: its validation loss every few steps, its first losses, and the load at its end."""
    torch.manual_seed(seed)
    model = make(name, vocab_size)
    step, curve, first = stepper(model, VARIANTS[name][1], train_ids), [], []
    for done in range(1, STEPS + 1):
        loss = step()
        if FIRST - 10 < done <= FIRST:
            first.append(loss)
        if done % EVERY == 0 and done < STEPS:  # on less text than at the end
            curve.append(round(nll(model, val_ids[:16_384], block_size=BLOCK).mean().item(), 4))
    validation = nll(model, val_ids[:50_000], block_size=BLOCK).mean().item()
    print(f"{name:22} seed {seed}: {validation:.4f} nats", flush=True)
    result: dict[str, Any] = {"curve": curve, "validation": round(validation, 4), "first": sum(first) / 10}
    if VARIANTS[name][1]:
        result["shares"] = [[round(x, 4) for x in layer] for layer in shares(model, val_ids)]
    return result


def kept(name: str, seed: int) -> dict[str, Any]:
    """A run that is kept in a file, so that several processes can share the work."""
    file = PARTS / f"{seed} {name}.json"
    if not file.is_file():
        torch.set_num_threads(1)
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(run(name, seed, *data())))
    return json.loads(file.read_text("utf-8"))


def main() -> None:
    """Train all models, or those of one seed; then time their steps and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    names = [*VARIANTS]
    if options.seed is not None:
        for name in names:
            kept(name, options.seed)
        return
    if options.write:
        files = {name: [PARTS / f"{seed} {name}.json" for seed in range(SEEDS)] for name in names}
        names = [name for name in names if all(file.is_file() for file in files[name])]
    runs = [{name: kept(name, seed) for name in names} for seed in range(SEEDS)]
    torch.set_num_threads(1)
    train_ids, _, V = data()
    models = {name: make(name, V) for name in names}
    steps = {name: stepper(model, VARIANTS[name][1], train_ids) for name, model in models.items()}
    cpu, _ = paired({name: partial(repeat, step) for name, step in steps.items()}, rounds=7)
    rows = {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "active": active(model),
            "milliseconds": [round(1000 * seconds / 8, 2) for seconds in cpu[name]],
            "runs": [one[name] for one in runs],
        }
        for name, model in models.items()
    }
    result = {
        "command": "python -m bench.moe",
        **origin(),
        "steps": STEPS,
        "every": EVERY,
        "tokens_per_step": BATCH * BLOCK,
        "rate": RATE,
        "weight": WEIGHT,
        "bias_rate": BIAS_RATE,
        "experts": EXPERTS,
        "chosen": CHOSEN,
        "models": rows,
    }
    atomic_write(RESULTS, json.dumps(result, indent=1) + "\n")


def repeat(step: Callable[[], float]) -> None:
    """Eight updates, which are timed together."""
    for _ in range(8):
        step()


if __name__ == "__main__":
    main()
