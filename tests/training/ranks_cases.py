"""Functions that run in several processes, which import this module."""

import os
import time

import torch
from tiny import flat, objective, trainer, transformer

from myllm.training import checkpoint


def masked(batches):
    """Targets of which very different shares count from row to row, so from rank to rank."""
    for x, y in batches:
        keep = x[:, :1] % 9 > torch.arange(x.shape[1])  # the row decides, not where it stands
        yield x, y.masked_fill(~(keep | (x % 7 == 0)), -100)


def train(
    rank,
    world,
    strategy,
    steps=20,
    *,
    folder=None,
    stop=None,
    dtype="float64",
    changes=None,
    unequal=True,
    **settings,
):
    """A run on this rank's share: losses, norms, and all that was changed."""
    goal = objective(4 // world)
    if unequal:
        plain = goal.batches
        goal.batches = lambda model: masked(plain(model))
    log = []

    def callback(one, record):
        log.append([record["loss"], record["norm"], record["count"], record.get("validation", 0.0)])
        if one.done == stop:
            raise KeyboardInterrupt

    x, y = next(objective(3, seed=9).loader)
    one = trainer(
        steps,
        model=transformer(getattr(torch, dtype), **(changes or {})),
        goal=goal,
        strategy=strategy if world > 1 else "single",
        folder=folder,
        callbacks=[callback],
        validation=[(x[i : i + 1], y[i : i + 1]) for i in range(3)],  # not a multiple of two
        **{"warmup": 3, "clip": 0.5, "accumulation": 2, "evaluate_every": 10, **settings},
    )
    try:
        one.fit()
    except KeyboardInterrupt:
        return {}
    found = flat(one)
    del found["rng"]
    return {"log": torch.tensor(log, dtype=torch.float64), **found}


def raises(rank, world):
    if rank == 1:
        raise ValueError("this one is wrong")
    torch.distributed.all_reduce(torch.ones(1))


def dies(rank, world):
    if rank == 1:
        os._exit(3)
    torch.distributed.all_reduce(torch.ones(1))


def hangs(rank, world):
    if rank == 1:
        time.sleep(600)
    torch.distributed.all_reduce(torch.ones(1))


def loses(rank, world):
    """Rank 1 ends in its third update; what does the other one say?"""
    from myllm.files import UserError

    def callback(one, record):
        if one.done == 2 and rank == 1:
            os._exit(3)

    try:
        trainer(9, goal=objective(4), strategy="ddp", callbacks=[callback]).fit()
    except UserError as error:
        raise UserError(f"SAID {error}") from error


def one_is_not_finite(rank, world, strategy, kind):
    """One rank's loss or gradient is not finite: all ranks stop, and nothing was updated."""
    from myllm.files import UserError
    from myllm.training.step import Loss

    goal, kept = objective(4), []
    plain, calls = goal.loss, []

    def loss(model, batch):
        total = plain(model, batch).total
        calls.append(1)
        if len(calls) == 3 and rank == 1:
            p = next(model.parameters())
            wrong = {"loss": torch.tensor(torch.nan), "gradient": ((p - p.detach()) ** 2).sum().sqrt()}
            total = total + wrong[kind]
        return Loss(total, {})

    goal.loss = loss
    one = trainer(
        9,
        goal=goal,
        model=transformer(torch.float32),
        strategy=strategy,
        callbacks=[lambda t, _: kept.append(t.strategy.state_dict()["model"])],
    )
    try:
        one.fit()
    except UserError as error:
        after = one.strategy.state_dict()["model"]
        unchanged = all(torch.equal(x, kept[-1][name]) for name, x in after.items())
        return str(error), len(kept), unchanged
    return None


def shares(rank, world, folder):
    """What a rank gets of the data, its dropout, and the generators it restores."""
    first = next(objective(2).loader)[0]
    goal = objective(2)
    one = trainer(2, goal=goal, strategy="ddp" if world > 1 else "single", folder=folder, checkpoint_every=1)
    mine = next(goal.batches(one.model))[0]
    torch.manual_seed(0)
    noise = []
    one.callbacks = [lambda *_: noise.append(torch.rand(3))]
    goal.loader.position = 0
    one.fit()
    expected = torch.rand(3)
    torch.rand(7)
    if rank == 0:
        path = folder + "/step-000002"
        assert {*checkpoint.read(checkpoint.Path(path))["rng"]} == {str(r) for r in range(world)}
    trainer(2, strategy="ddp" if world > 1 else "single", folder=folder, goal=objective(2)).fit()
    return {"mine": mine, "first": first, "noise": noise, "restored": torch.equal(torch.rand(3), expected)}


def writes_shards(rank, world, folder):
    """Two updates under FSDP, whose checkpoints are sharded; the state as one process would hold it."""
    one = trainer(
        2,
        model=transformer(torch.float64),
        goal=objective(2),
        strategy="fsdp",
        folder=folder,
        checkpoint_every=1,
        sharded=True,
    )
    one.fit()
    return flat(one)


def gathers(rank, world):
    """Logits while this process calls alone, as often as its rank says; which layers are whole, and when."""
    one, ids = trainer(1, model=transformer(torch.float64), strategy="fsdp"), torch.arange(5)[None]
    seen = []

    def note():
        seen.append([not hasattr(layer.mlp.up_proj.weight, "to_local") for layer in one.model.layers])

    def write(model):
        note()
        for _ in range(1 + rank):
            logits = model(ids)
            note()
        return logits

    with one.strategy.gathered():
        logits = one.call(write)
    note()
    one.call(lambda model: (model(ids), note()))  # each layer is whole while it is computed, as before
    return logits, seen


def total(rank, world):
    from myllm.training.strategies import make_strategy

    one = make_strategy("ddp")
    return one.sum(rank + 1), one.sum(torch.tensor([1.0, rank])), one.rank, one.world
