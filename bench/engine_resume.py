"""What a resumed run loses if one part of its state is not restored: book/_results/engine_resume.json.

    python -m bench.engine_resume

A small model is trained for 300 updates, on a text that lasts for exactly one pass, and stopped after 150.
Then the second half is run once for each part of the state that can be forgotten, with three seeds. In a
second run, on a text so short that the model overfits, the best checkpoint is forgotten.
"""

import json
from collections.abc import Callable
from functools import cache
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.common import origin
from bench.scoreboard import RESULTS, texts
from myllm import ModelConfig, Pretrain, TrainConfig, Trainer, Transformer, load_tokenizer
from myllm.data.loader import WindowLoader
from myllm.files import atomic_write
from myllm.training import checkpoint

SHAPE = {
    "vocab_size": 1024,
    "block_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 48,
    "intermediate_size": 128,
    "tie_embeddings": True,
    "init_std": 0.07,
}
STEPS, STOP, BATCH = 300, 150, 8
SEEDS = (0, 1, 2)


@cache
def tokens() -> tuple[np.ndarray, np.ndarray]:
    """Ids of the training text and of the held-out one."""
    tokenizer = load_tokenizer("shakespeare")
    train, held_out = (np.array(tokenizer.encode(text[:1_000_000])) for text in texts())
    return train, held_out


def make(seed: int, n: int = STEPS, **settings: Any) -> Trainer:
    """A small model with dropout, and all that trains it on the windows of `n` updates."""
    torch.manual_seed(seed)
    T = SHAPE["block_size"]
    model = Transformer(ModelConfig(**SHAPE), norm=lambda C: nn.Sequential(nn.RMSNorm(C), nn.Dropout(0.1)))
    train, held_out = tokens()
    loader = WindowLoader(train[: n * BATCH * T + 1], block_size=T, batch_size=BATCH, seed=seed)
    checks = WindowLoader(held_out, block_size=T, batch_size=64, shuffle=False)
    validation = [next(checks) for _ in range(8)]
    config = TrainConfig(**{"steps": STEPS, "lr": 5e-3, "warmup": 20, "seed": seed, **settings})
    return Trainer(model, Pretrain(loader), config, validation=validation)


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """The state of a run, as `Trainer.save` collects it."""
    return {
        **trainer.strategy.state_dict(),
        "objective": trainer.objective.state_dict(),
        "rng": checkpoint.rng_state(),
        "step": trainer.done,
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Bring a new trainer to where the state was taken."""
    trainer.strategy.load_state_dict(state)
    trainer.objective.load_state_dict(state["objective"])
    checkpoint.set_rng_state(state["rng"])
    trainer.done = state["step"]


def go_on(trainer: Trainer, updates: int) -> list[float]:
    """The losses of some updates."""
    batches, losses = trainer.objective.batches(trainer.model), []
    for _ in range(updates):
        losses.append(trainer.update(batches)["loss"])
        trainer.done += 1
    return losses


FORGET: dict[str, Callable[[Trainer], Any]] = {
    "nothing": lambda trainer: None,
    "moments": lambda trainer: trainer.optimizer.state.clear(),
    "random numbers": lambda trainer: torch.manual_seed(trainer.config.seed),
    "position in the text": lambda trainer: setattr(trainer.objective.loader, "position", 0),
    "step of the schedule": lambda trainer: setattr(trainer, "done", 0),
}


def leave_one_out(seed: int) -> dict[str, dict[str, Any]]:
    """The second half of the run, once for each part that is forgotten."""
    first = make(seed)
    torch.manual_seed(seed)
    go_on(first, STOP)
    state, found = snapshot(first), {}
    for name, forget in FORGET.items():
        trainer = make(seed)
        restore(trainer, state)
        forget(trainer)
        losses = go_on(trainer, STEPS - STOP)
        found[name] = {"losses": losses, "validation": trainer.validate()["validation"]}
        print(f"{name:22} {mean(losses[:10]):.3f} {found[name]['validation']:.4f}", flush=True)
    return found


def forgotten_best(seed: int) -> dict[str, float]:
    """Validation of the checkpoint that is kept, with the best one remembered and forgotten."""
    trainer = make(seed, n=20)  # the text is seen 15 times
    torch.manual_seed(seed)
    curve = []
    for _ in range(STEPS // 10):
        go_on(trainer, 10)
        curve.append(trainer.validate()["validation"])
    low = min(range(len(curve)), key=curve.__getitem__)
    after = min(curve[low + 1 :] or curve[-1:])
    return {"remembered": min(curve), "forgotten": after, "update": 10 * (low + 1)}


def main() -> None:
    """Run all of it and write the file."""
    torch.set_num_threads(1)
    runs = [leave_one_out(seed) for seed in SEEDS]
    rows = []
    for name in FORGET:
        jumps = [mean(run[name]["losses"][:10]) - mean(run["nothing"]["losses"][:10]) for run in runs]
        lost = [run[name]["validation"] - run["nothing"]["validation"] for run in runs]
        curve = [
            round(mean(run[name]["losses"][i] - run["nothing"]["losses"][i] for run in runs), 4)
            for i in range(STEPS - STOP)
        ]
        rows.append({"forgotten": name, "jump": jumps, "lost": lost, "curve": curve})
    whole = [run["nothing"]["validation"] for run in runs]
    content = {"command": "python -m bench.engine_resume", **origin()}
    content |= {"steps": STEPS, "stopped": STOP, "validation": whole, "rows": rows}
    content["best"] = [forgotten_best(seed) for seed in SEEDS]
    atomic_write(RESULTS / "engine_resume.json", json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["best"]))


if __name__ == "__main__":
    main()
