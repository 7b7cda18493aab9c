"""The loop: its gradients, its numbers, when it stops, and that a resumed run equals one without a stop."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import IDS, Dropped, T, V, equal, flat, objective, run, trainer, transformer

from myllm.data.loader import PackedLoader
from myllm.data.packing import pack
from myllm.files import UserError
from myllm.model import transformer as models
from myllm.model.masks import causal, document
from myllm.training.losses import cross_entropy
from myllm.training.optimizer import make_optimizer
from myllm.training.pretrain import Pretrain
from myllm.training.schedule import rate
from myllm.training.settings import TrainConfig
from myllm.training.step import Loss
from myllm.training.strategies import make_strategy


def losses(log):
    return torch.tensor([[record["loss"], record["norm"]] for record in log], dtype=torch.float64)


# What is computed


def test_the_loop_equals_one_written_out():
    """Twenty updates against PyTorch's cross-entropy, clipping and AdamW, one value each."""
    log, one = run(20, warmup=5, clip=0.7, weight_decay=0.2)
    model, loader = transformer(torch.float64), objective().loader
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim == 2 and len(p) != V], "weight_decay": 0.2},
            {"params": [p for p in model.parameters() if p.ndim != 2 or len(p) == V], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    for step, record in enumerate(log):
        x, y = next(loader)
        lr = 1e-2 * (
            (step + 1) / 5 if step < 5 else 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 4) / 15)) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, 0.7 / norm)
        optimizer.step()
        assert record["step"] == step and record["rate"] == pytest.approx(lr, rel=1e-12)
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert record["norm"] == pytest.approx(norm, rel=1e-5)
        assert record["count"] == 8 * T
    assert max(record["norm"] for record in log) > 0.7 > min(record["norm"] for record in log)
    for name, p in model.named_parameters():
        torch.testing.assert_close(one.model.state_dict()[name], p.detach(), rtol=0, atol=1e-6)


def masked(batches):
    """An objective whose micro-batches are given, some targets without a loss."""
    goal = objective()
    goal.batches = lambda model: iter(batches)
    return goal


def test_how_a_batch_is_split_changes_nothing():
    """Four updates of 8 × 1, 4 × 2, 2 × 4 and 1 × 8 rows, of whose targets very different shares count."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(V, (32, T), generator=generator)
    real = torch.rand(32, T, generator=generator) < torch.linspace(0.02, 1, 8).repeat(4)[:, None]
    y = torch.randint(V, (32, T), generator=generator).masked_fill(~real, -100)
    found = {}
    for rows in (8, 4, 2, 1):
        batches = list(zip(x.split(rows), y.split(rows), strict=True))
        log, one = run(4, goal=masked(batches), accumulation=8 // rows, clip=0.3)
        found[rows] = losses(log), one.model.state_dict()
        assert [record["count"] for record in log] == [int((part >= 0).sum()) for part in y.split(8)]
    for rows in (4, 2, 1):
        torch.testing.assert_close(found[rows][0], found[8][0], rtol=1e-10, atol=1e-12)
        for name, p in found[8][1].items():
            torch.testing.assert_close(found[rows][1][name], p, rtol=0, atol=1e-10)


def test_recomputed_layers_give_the_same_bits():
    plain, again = run(5), run(5, recompute=True)
    assert torch.equal(losses(plain[0]), losses(again[0])) and equal(flat(plain[1]), flat(again[1]))


def test_recomputing_saves_memory():
    def kept(**settings):
        one, sizes = trainer(1, **settings), []
        batch = next(one.objective.batches(one.model))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            one.step(batch)
        return sum(sizes)

    assert kept(recompute=True) < 0.5 * kept()


@pytest.mark.slow
@pytest.mark.skipif(" " in torch.__file__, reason="PyTorch's linker call fails where its path holds a space")
def test_compiled_layers_give_the_same_up_to_rounding():
    torch.testing.assert_close(losses(run(3)[0]), losses(run(3, compile=True)[0]), rtol=1e-10, atol=1e-12)


COMPILED = """
from tiny import trainer
from myllm.training.journal import Journal

losses = []
for compiled in (False, True):
    log = lambda _, record: losses.append(record["loss"])
    trainer(3, compile=compiled, callbacks=[Journal(quiet=not compiled), log]).fit()
print(losses[:3] == losses[3:])
"""


@pytest.mark.slow
def test_where_the_compiler_fails_training_says_so_once_and_goes_on(tmp_path):
    """A process whose C++ compiler does not exist; nothing that was compiled before may be found."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    found = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "CXX": "/no/compiler",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "True\n"
    said = found.stderr.splitlines()
    assert said[0].startswith("The layers are not compiled, because torch.compile fails on this machine (")
    assert said[0].endswith(").") and "/no/compiler" in said[0]
    assert len(said) == 4 and all(line.startswith("update ") for line in said[1:])


def test_packed_rows_equal_rows_of_one_document_each():
    """Documents share rows without seeing each other: the same loss and gradient as padded rows."""
    documents = [IDS[i : i + n] for i, n in zip((0, 10, 30, 50, 70), (8, 3, 5, 4, 4), strict=True)]
    packed = PackedLoader(pack(documents, T), batch_size=3, shuffle=False)
    assert packed.n == 3
    padded = [PackedLoader(pack([d], T), batch_size=1) for d in documents]
    goal = Pretrain(packed)
    goal.batches = lambda model: (next(one) for one in padded)
    a, b = run(1, goal=Pretrain(packed))[1], run(1, goal=goal, accumulation=5)[1]
    log_a, log_b = run(1, goal=Pretrain(packed))[0], run(1, goal=masked_packed(documents), accumulation=5)[0]
    assert log_a[0]["count"] == sum(map(len, documents)) - len(documents)
    torch.testing.assert_close(losses(log_a), losses(log_b), rtol=1e-10, atol=0)
    for name, p in a.model.state_dict().items():
        torch.testing.assert_close(b.model.state_dict()[name], p, rtol=0, atol=1e-9)


def test_rows_of_one_document_need_the_causal_mask_alone(monkeypatch):
    """It is the fastest, and exact: padding comes after what could see it."""
    seen = []
    real = models.prepare
    monkeypatch.setattr(models, "prepare", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    model = transformer(torch.float64)
    rows = PackedLoader(pack([IDS[:T], IDS[30:33]], T), batch_size=2, shuffle=False)
    ids, targets, documents, positions = next(rows)
    plain = Pretrain(rows).loss(model, (ids, targets, documents, positions)).total
    assert seen[-1].is_causal and seen[-1].pairs is None
    logits = model(ids, mask=causal & document(documents), positions=positions)
    masked = cross_entropy(logits, targets)
    assert not seen[-1].is_causal
    torch.testing.assert_close(plain, masked, rtol=1e-12, atol=0)
    trained = [*model.parameters()]
    for a, b in zip(*(torch.autograd.grad(loss, trained) for loss in (plain, masked)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    shared = PackedLoader(pack([IDS[: T - 4], IDS[30:33]], T), batch_size=1, shuffle=False)
    Pretrain(shared).loss(model, next(shared))
    assert not seen[-1].is_causal


def masked_packed(documents):
    goal = Pretrain(PackedLoader(pack(documents, T), batch_size=1))
    goal.batches = lambda model: (next(PackedLoader(pack([d], T), batch_size=1)) for d in documents)
    return goal


def test_a_foreign_model_learns_and_packed_rows_are_refused_for_it():
    log, _ = run(30, model=Dropped(), lr=3e-2)
    assert log[-1]["loss"] < log[0]["loss"] - 0.1
    with pytest.raises(UserError, match="need a Transformer"):
        run(1, model=Dropped(), goal=Pretrain(PackedLoader(pack([IDS[:20]], T), batch_size=1)))


def test_softcap_and_z_loss_reach_the_loss():
    x, y = next(objective().loader)
    model = transformer(torch.float64, logit_softcap=2.0)
    expected = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
    found = objective().loss(model, (x, y)).total
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    more = objective(z_loss=0.5).loss(model, (x, y)).total
    z = model(x).exp().sum(-1).log()
    torch.testing.assert_close(more, expected + 0.5 * (z**2).sum(), rtol=1e-9, atol=0)


def test_the_first_loss_is_ln_v_and_one_batch_can_be_learned_by_heart():
    model = transformer(torch.float32, vocab_size=1000, n_embd=64, n_layer=2)
    ids = np.random.default_rng(0).integers(0, 1000, 8 * T + 1)
    log, _ = run(
        150, model=model, goal=objective(8, ids), lr=1e-2, warmup=10, weight_decay=0.0, floor=0.1, clip=1.0
    )
    assert log[0]["loss"] == pytest.approx(math.log(1000), rel=0.02)
    assert log[-1]["loss"] < 0.01


def test_clipping_against_the_definition():
    """A gradient longer than the limit is scaled to it, a shorter one is left alone."""
    for limit in (0.01, 1e6, math.inf):
        one = trainer(1, clip=limit, weight_decay=0.0)
        batch = next(objective().batches(one.model))
        expected = torch.autograd.grad(one.step(batch).total / (8 * T), [*one.model.parameters()])
        norm = torch.cat([g.flatten() for g in expected]).norm()
        seen = {}
        old = one.optimizer.step
        one.optimizer.step = lambda old=old, one=one, seen=seen: (
            seen.update({p: p.grad.clone() for p in one.model.parameters()}),
            old(),
        )
        record = one.update(one.objective.batches(one.model))
        assert record["norm"] == pytest.approx(norm.item(), rel=1e-9)
        for p, g in zip(one.model.parameters(), expected, strict=True):
            torch.testing.assert_close(seen[p], g * min(1.0, limit / norm), rtol=1e-5, atol=1e-12)
        assert all(p.grad is None for p in one.model.parameters())


def test_the_moving_average_by_hand():
    weights = []
    one = trainer(6, ema=0.8, callbacks=[lambda t, _: weights.append(copy.deepcopy(t.model.state_dict()))])
    one.fit()
    state = one.strategy.state_dict()
    for name in dict(one.model.named_parameters()):
        average = weights[0][name]
        for later in weights[1:]:
            average = 0.8 * average + 0.2 * later[name]
        torch.testing.assert_close(state["optimizer"][name]["average"], average, rtol=1e-10, atol=1e-12)


def test_muon_is_what_trains_when_it_is_asked_for():
    log, _ = run(3, optimizer="muon")
    model = transformer(torch.float64)
    optimizer, loader = make_optimizer(model, "muon", lr=1e-2), objective().loader
    for step, record in enumerate(log):
        x, y = next(loader)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate(step, 3)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-6)


# bf16: weights in bfloat16, masters in fp32


def test_an_update_smaller_than_bfloat16_resolves_is_not_lost():
    model = transformer(torch.float32)
    one = trainer(40, model=model, precision="bf16", lr=1e-5, schedule="constant", weight_decay=0.0)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    before = one.strategy.state_dict()["model"]
    held = {name: p.detach().clone() for name, p in model.named_parameters()}
    one.update(one.objective.batches(model))
    after = one.strategy.state_dict()["model"]
    gains = "layers.0.input_layernorm.weight"  # near 1, where bfloat16's steps are 1/128
    assert torch.equal(held[gains], dict(model.named_parameters())[gains])
    assert before[gains].dtype == torch.float32 and not torch.equal(before[gains], after[gains])
    for _ in range(39):
        one.update(one.objective.batches(model))
    masters = one.strategy.state_dict()["model"]
    for name, p in model.named_parameters():
        assert torch.equal(p, masters[name].bfloat16()) and p.dtype == torch.bfloat16
        drift = (masters[name] - before[name]).abs().max()
        assert drift > 5e-5, name  # forty updates add up


def test_bf16_starts_from_exact_masters_and_learns_as_fp32_does():
    exact = transformer(torch.float32).state_dict()
    one = trainer(1, model=transformer(torch.float32), precision="bf16")
    assert all(torch.equal(x, exact[name]) for name, x in one.strategy.state_dict()["model"].items())
    a, b = (run(30, dtype=torch.float32, precision=p)[0][-1]["loss"] for p in ("fp32", "bf16"))
    assert a == pytest.approx(b, abs=0.05)


# When it stops


class Spoiled(Pretrain):
    """From some batch on, the loss or a gradient is not finite."""

    def __init__(self, kind, at=2):
        super().__init__(objective().loader)
        self.kind, self.left = kind, at

    def loss(self, model, batch):
        total = super().loss(model, batch).total
        self.left -= 1
        if self.left < 0:
            p = next(model.parameters())
            wrong = {
                "loss": torch.tensor(math.nan),
                "infinite loss": torch.tensor(math.inf),
                "gradient": ((p - p.detach()) ** 2).sum().sqrt(),  # 0, whose gradient is 0 / 0
            }
            total = total + wrong[self.kind]
        return Loss(total, {})


@pytest.mark.parametrize("kind", ["loss", "infinite loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_finite_stops_and_updates_nothing(kind, precision, tmp_path):
    kept = []
    one = trainer(
        9,
        goal=Spoiled(kind),
        folder=tmp_path,
        checkpoint_every=1,
        dtype=torch.float32,
        precision=precision,
        callbacks=[lambda t, _: kept.append(flat(t))],
    )
    with pytest.raises(UserError) as caught:
        one.fit()
    message = str(caught.value)
    assert "in update 3," in message and "'position': 16" in message and "update 2 is good" in message
    assert ("nan" in message or "inf" in message) and "\n" not in message
    assert len(kept) == 2
    found = flat(one)
    assert all(torch.equal(found[name], kept[-1][name]) for name in found if not name.startswith("objective"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000001", "step-000002"]


def test_a_batch_without_any_target_is_refused():
    x = torch.zeros(2, T, dtype=torch.int64)
    with pytest.raises(UserError, match="batch of update 1 has a loss; check masks"):
        run(2, goal=masked([(x, torch.full_like(x, -100))]))


def test_validation_is_the_mean_over_all_targets_and_does_not_train():
    x, y = next(objective(6).loader)
    y = y.masked_fill(torch.arange(6)[:, None] * torch.ones(T) > 3, -100)
    log, one = run(3, validation=iter([(x[:5], y[:5]), (x[5:], y[5:])]), evaluate_every=2, lr=1e-9)
    expected = F.cross_entropy(one.model(x).flatten(0, 1), y.flatten()).item()
    assert [record["step"] for record in log if "validation" in record] == [1, 2]
    assert log[1]["validation"] == pytest.approx(expected, rel=1e-6)
    plain = run(3, lr=1e-9)[0]
    assert torch.equal(losses(log), losses(plain))
    assert one.best == min(record["validation"] for record in log[1:])


def test_validation_turns_dropout_off_and_training_turns_it_on():
    modes = []
    model = Dropped()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    batch = next(objective().loader)
    run(2, model=model, validation=[batch], evaluate_every=1)
    assert modes == [True, False, True, False]


def test_early_stop_after_validations_without_a_new_best(tmp_path):
    values = iter([3.0, 2.0, 2.0, 2.5, 1.0])
    one = trainer(50, validation=[None], evaluate_every=2, patience=2, folder=tmp_path)
    one.objective.count = lambda batch: 1 if batch is None else 8 * T
    old = one.objective.loss
    one.objective.loss = lambda model, batch: (
        Loss(torch.tensor(next(values)), {}) if batch is None else old(model, batch)
    )
    one.fit()
    assert one.done == 8 and one.best == 2.0 and one.best_step == 4
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000004", "step-000008"]
    again = trainer(50, validation=[None], evaluate_every=2, patience=2, folder=tmp_path)
    assert again.fit() == {} and again.done == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to .*, not 0"),
        ({"accumulation": 0}, "accumulation must be a whole number from 1"),
        ({"keep_last": 0}, "keep_last must be a whole number from 1"),
        ({"warmup": -1}, "warmup must be a whole number from 0 to .*, not -1"),
        ({"weight_decay": -0.1}, "weight_decay must be a number from 0 to .*, not -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must be a number from 0"),
        ({"lr": 0.0}, "lr must be a number from 1e-30"),
        ({"lr": math.nan}, "lr must be a number .*, not nan"),
        ({"clip": 0.0}, "clip must be a number from 1e-30 to inf"),
        ({"eps": -1.0}, "eps must be a number from 1e-30"),
        ({"floor": 1.5}, "floor must be a number from 0 to 1, not 1.5"),
        ({"decay": -0.1}, "decay must be a number from 0 to 1"),
        ({"ema": 1.1}, "ema must be a number from 0 to 1"),
        ({"betas": (0.9, 1.0)}, "betas must be a number from 0 to 0.999999999, not 1.0"),
        ({"warmup": 10}, "A warm-up of 10 updates needs more than 10"),
        ({"schedule": "cosin"}, "schedule must be cosine or wsd or linear or constant, not 'cosin'"),
        ({"optimizer": "sgd"}, "optimizer must be adamw or muon, not 'sgd'"),
        ({"precision": "fp16"}, "precision must be fp32 or bf16"),
        ({"compile": 1}, "compile must be true or false, not 1"),
        ({"warmup": 2.5}, "warmup must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"patience": 1}, "set evaluate_every"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**{"steps": 10, **changes})


def test_a_trainer_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="give validation batches"):
        trainer(evaluate_every=1, patience=1)
    with pytest.raises(UserError, match="computes in bf16, the settings say fp32"):
        trainer(strategy=make_strategy("single", "bf16"))
    with pytest.raises(UserError, match="There is no strategy 'dpp'"):
        trainer(strategy="dpp")
    with pytest.raises(UserError, match="precision is fp32 or bf16"):
        make_strategy("single", "fp16")
    with pytest.raises(UserError, match="torchrun"):
        trainer(strategy="ddp")


def test_callbacks_get_trainer_and_record_and_may_call_the_model():
    seen = []

    def callback(one, record):
        seen.append((one.done, record["step"], one.call(lambda model: model(torch.zeros(1, 2).long()).shape)))

    trainer(2, callbacks=[callback]).fit()
    assert seen == [(1, 0, (1, 2, V)), (2, 1, (1, 2, V))]


def test_a_function_in_place_of_a_micro_batch_is_called_with_the_model_as_it_is_now():
    """Without a gradient, in evaluation mode, before the update that asks for it and no other."""
    seen, goal = [], objective()
    plain = run(3)

    class Writes:
        def __getattr__(self, name):
            return getattr(goal, name)

        def batches(self, model):
            for batch in goal.batches(model):
                yield lambda one: seen.append((one is model, one.training, torch.is_grad_enabled()))
                yield lambda one: seen.append(one.embed_tokens.weight.sum().item())
                yield batch

    log, one = run(3, goal=Writes())
    assert [row["loss"] for row in log] == [row["loss"] for row in plain[0]]
    assert equal(flat(one), flat(plain[1]))
    assert seen[::2] == [(True, False, False)] * 3 and len({*seen[1::2]}) == 3


# Resume


class Stop(Exception):
    """Ends a run as a crash would."""


def crash_after(n):
    def callback(one, record):
        if one.done == n:
            raise Stop

    return callback


RUNS = {
    "plain": {},
    "muon and average": {"optimizer": "muon", "ema": 0.9},
    "bf16": {"precision": "bf16", "dtype": torch.float32},
    "accumulation": {"accumulation": 2, "batch_size": 4},
    "early stop": {"evaluate_every": 2, "patience": 4, "lr": 3e-2},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_equals_one_without_a_stop(name, tmp_path):
    """Weights, optimizer, generators, position of the data, and all records, bit for bit."""

    def start(folder, log, *callbacks):
        torch.manual_seed(123)  # a new process has other random numbers
        options = dict(RUNS[name])
        if "patience" in options:
            options["validation"] = [next(objective(4, seed=5).loader)]
        torch.rand(len(log))
        model = Dropped() if name == "plain" else transformer(options.pop("dtype", torch.float64), n_layer=1)
        if name == "plain":
            torch.manual_seed(0)
            torch.nn.init.normal_(model.embed.weight)
            torch.nn.init.normal_(model.head.weight)
            torch.nn.init.zeros_(model.head.bias)
        return trainer(
            20, model=model, folder=folder, checkpoint_every=4, callbacks=[*callbacks, log_to(log)], **options
        )

    def log_to(log):
        return lambda _, record: log.append({k: v for k, v in record.items() if k != "seconds"})

    whole, pieces = [], []
    one = start(tmp_path / "a", whole)
    one.fit()
    for n in (3, 4, 6, one.done - 1, None):  # before any checkpoint, right at one, and between two
        two = start(tmp_path / "b", pieces, *([crash_after(n)] if n else []))
        if n:
            with pytest.raises(Stop):
                two.fit()
        else:
            two.fit()
    assert equal(flat(one), flat(two))
    last = {int(record["step"]): record for record in pieces}
    assert [*last.values()] == whole and (one.best, one.best_step, one.waited) == (
        two.best,
        two.best_step,
        two.waited,
    )


def test_another_configuration_is_refused_by_name(tmp_path):
    trainer(4, folder=tmp_path, betas=(0.8, 0.9)).fit()
    for changes, message in (
        ({"lr": 0.5}, r"has lr 0.01, not 0.5; keep it"),
        ({"schedule": "linear"}, "has schedule cosine, not linear"),
        ({"betas": (0.9, 0.9)}, r"has betas \[0.8, 0.9\], not \[0.9, 0.9\]"),
        ({"seed": 1}, "has seed 0, not 1"),
    ):
        with pytest.raises(UserError, match=message):
            trainer(4, folder=tmp_path, **{"betas": (0.8, 0.9), **changes}).fit()
    changed = {"evaluate_every": 3, "checkpoint_every": 1, "keep_last": 5, "recompute": True}
    assert trainer(4, folder=tmp_path, betas=(0.8, 0.9), **changed).fit() == {}


def test_another_model_and_other_data_are_refused(tmp_path):
    trainer(2, folder=tmp_path).fit()
    for changes in ({"n_embd": 8}, {"n_layer": 1}, {"tie_embeddings": False}):
        with pytest.raises(UserError, match="of another model"):
            trainer(2, model=transformer(torch.float64, **changes), folder=tmp_path).fit()
    with pytest.raises(UserError, match="loader with seed 0, not 7"):
        trainer(2, goal=objective(seed=7), folder=tmp_path).fit()
