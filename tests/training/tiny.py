"""A tiny model, its data, and runs of the trainer that several files of tests use."""

import numpy as np
import torch
from torch import nn

from myllm.config import ModelConfig
from myllm.data.loader import WindowLoader
from myllm.model.transformer import Transformer
from myllm.training.loop import Trainer
from myllm.training.pretrain import Pretrain
from myllm.training.settings import TrainConfig

V, T = 31, 8
IDS = np.random.default_rng(0).integers(0, V, 2000)
SIZES = {"vocab_size": V, "block_size": T, "n_layer": 2, "n_head": 2, "n_embd": 16}


def transformer(dtype=torch.float32, seed=0, **changes):
    torch.manual_seed(seed)
    return Transformer(ModelConfig(**{**SIZES, "tie_embeddings": True, **changes})).to(dtype)


def objective(batch_size=8, ids=IDS, seed=0, block_size=T, **options):
    return Pretrain(WindowLoader(ids, block_size=block_size, batch_size=batch_size, seed=seed), **options)


def trainer(
    steps=4,
    *,
    model=None,
    goal=None,
    batch_size=8,
    dtype=torch.float64,
    strategy="single",
    folder=None,
    callbacks=(),
    validation=(),
    **settings,
):
    return Trainer(
        transformer(dtype) if model is None else model,
        objective(batch_size) if goal is None else goal,
        TrainConfig(steps=steps, **{"lr": 1e-2, **settings}),
        strategy=strategy,
        folder=folder,
        validation=validation,
        callbacks=callbacks,
    )


def run(*arguments, **options):
    """Train; the records of all updates and the trainer."""
    log = []
    one = trainer(*arguments, callbacks=[lambda _, record: log.append(record)], **options)
    one.fit()
    return log, one


def flat(one):
    """All that a run has changed, by name: weights, optimizer, position of the data, generators."""
    state = one.strategy.state_dict()
    found = dict(state["model"])
    for name, moments in state["optimizer"].items():
        found |= {f"{name}.{key}": value for key, value in moments.items()}
    for key, value in one.objective.state_dict().items():
        found[f"objective.{key}"] = torch.tensor(value)
    return found | {"rng": torch.get_rng_state()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Dropped(nn.Module):
    """A foreign model of ten lines, (B, T) to (B, T, V), with dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, 8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, V)

    def forward(self, ids):
        return self.head(self.drop(self.embed(ids)).cumsum(1))
