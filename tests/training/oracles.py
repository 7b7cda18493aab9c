"""Short oracles that tell wrong versions of `myllm.training` from the right one; see ``tests/mutants.py``."""

import contextlib
import importlib
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

NEAR = {"rtol": 1e-9, "atol": 1e-11}


def get(name):
    return importlib.import_module(f"myllm.training.{name}")


def tiny():
    return importlib.import_module("tiny")


def losses():
    m = get("losses")
    torch.manual_seed(0)
    hidden = torch.randn(9, 4).double().requires_grad_()
    targets = torch.tensor([0, 2, -100, 4, 1, -1, 3, 3, 0])
    head = nn.Linear(4, 5).double()

    def plain(softcap=None, z=0.0):
        logits = head(hidden)
        logits = logits if softcap is None else softcap * (logits / softcap).tanh()
        real = targets >= 0
        return (
            F.cross_entropy(logits[real], targets[real], reduction="sum")
            + z * (logits[real].exp().sum(-1).log() ** 2).sum()
        )

    assert_close(m.cross_entropy(head(hidden), targets, z_loss=0.3), plain(z=0.3), **NEAR)
    assert m.cross_entropy(head(hidden).bfloat16(), targets).dtype == torch.float32
    for rows in (2, 4, 9, None):
        inputs = [hidden, *head.parameters()]
        found = m.chunked_loss(hidden, targets, head, softcap=0.8, z_loss=0.1, rows=rows)
        assert_close(found, plain(0.8, 0.1), **NEAR)
        for a, b in zip(
            torch.autograd.grad(2.5 * found, inputs),
            torch.autograd.grad(2.5 * plain(0.8, 0.1), inputs),
            strict=True,
        ):
            assert_close(a, b, **NEAR)
    half = nn.Linear(4, 8, bias=False).bfloat16()
    x = torch.ones(1, 4).bfloat16().expand(1000, 4).contiguous()
    m.chunked_loss(x, torch.zeros(1000, dtype=torch.int64), half, rows=1).backward()
    exact = half.weight.detach().double().requires_grad_()
    F.cross_entropy(x.double() @ exact.T, torch.zeros(1000).long(), reduction="sum").backward()
    assert_close(half.weight.grad.double(), exact.grad, rtol=0.02, atol=0.5)


def schedule():
    rate = get("schedule").rate

    def curve(n, kind, **options):
        return torch.tensor([rate(i, n, kind, **options) for i in range(n)])

    def same(a, b):
        assert_close(a, torch.tensor(b), rtol=0, atol=1e-6)

    half = math.sqrt(0.5)
    same(curve(5, "constant", warmup=4), [0.25, 0.5, 0.75, 1.0, 1.0])
    same(curve(6, "linear", warmup=2, floor=0.2), [0.5, 1.0, 0.8, 0.6, 0.4, 0.2])
    same(curve(6, "cosine", warmup=2), [0.5, 1, 1 - 0.45 * (1 - half), 0.55, 1 - 0.45 * (1 + half), 0.1])
    same(curve(10, "wsd", warmup=2, floor=0.0, decay=0.4), [0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.0])
    assert abs(rate(20, 10, "linear", floor=0.3) - 0.3) < 1e-9


def optimizers():
    m = get("optimizer")
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(4, 3).double())
    theirs, kept = nn.Parameter(ours.detach().clone()), nn.Parameter(ours.detach().clone())
    options = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.3}
    a, b = m.AdamW([ours, kept], **options), torch.optim.AdamW([theirs], **options)
    for i in range(6):
        ours.grad = torch.randn(4, 3).double() * 10.0**-i
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
        assert_close(ours, theirs, **NEAR)
    torch.manual_seed(0)
    assert torch.equal(kept, torch.randn(4, 3).double())  # it had no gradient
    p = nn.Parameter(torch.randn(6, 4).double())
    expected, average = p.detach().clone(), torch.zeros(6, 4).double()
    muon = m.Muon([{"params": [p], "muon": True, "weight_decay": 0.1}], lr=0.02, momentum=0.9)
    for _ in range(3):
        p.grad = torch.randn(6, 4).double()
        average = 0.9 * average + 0.1 * p.grad
        x = 0.1 * p.grad + 0.9 * average
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            s = x @ x.T
            x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
        expected = expected * (1 - 0.002) - 0.004 * 6**0.5 * x
        muon.step()
        assert_close(p.detach(), expected, rtol=1e-7, atol=1e-9)
    model = tiny().transformer(tie_embeddings=False, bias=True, position="learned")
    names = {p: name for name, p in model.named_parameters()}
    groups = m.parameter_groups(model, 0.1)
    found = {names[p]: (g["weight_decay"], g["muon"]) for g in groups for p in g["params"]}
    assert len(found) == len(names)
    for name, (decay, flag) in found.items():
        matrix = name.endswith("weight") and "norm" not in name and not name.startswith("embed")
        assert decay == (0.1 if matrix else 0.0) and flag == (matrix and name != "lm_head.weight")
    made = m.make_optimizer(model, lr=0.5, weight_decay=0.3, betas=(0.1, 0.2), eps=0.7)
    assert type(made) is torch.optim.AdamW
    assert {g["weight_decay"] for g in made.param_groups} == {0.0, 0.3}
    for one in (made, m.make_optimizer(model, "muon", lr=0.5, betas=(0.1, 0.2), eps=0.7)):
        assert all((g["lr"], g["betas"], g["eps"]) == (0.5, (0.1, 0.2), 0.7) for g in one.param_groups)


def masked_batches():
    t = tiny()
    g = torch.Generator().manual_seed(0)
    x = torch.randint(t.V, (16, t.T), generator=g)
    real = torch.rand(16, t.T, generator=g) < torch.linspace(0.05, 1, 8).repeat(2)[:, None]
    return x, torch.randint(t.V, (16, t.T), generator=g).masked_fill(~real, -100)


def plain_loop(x, y, steps, clip, **options):
    """Losses, norms and weights of a loop written out."""
    t = tiny()
    model = t.transformer(torch.float64)
    decays = [p for p in model.parameters() if p.ndim == 2 and len(p) != t.V]
    rest = [p for p in model.parameters() if not any(p is q for q in decays)]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer, log = torch.optim.AdamW(groups, betas=(0.9, 0.95)), []
    weights = []
    for i, (a, b) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        for group in optimizer.param_groups:
            share = (i + 1) / 2 if i < 2 else 0.1 + 0.9 * (1 + math.cos(math.pi * (i - 1) / (steps - 2))) / 2
            group["lr"] = 1e-2 * share
        loss = F.cross_entropy(model(a).flatten(0, 1), b.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        log.append([loss.item(), norm.item(), int((b >= 0).sum())])
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return torch.tensor(log), weights


def loop():
    t = tiny()
    x, y = masked_batches()
    x, y = x.repeat(2, 1), y.repeat(2, 1)
    expected, weights = plain_loop(x, y, 4, 0.5)
    for rows in (8, 2):
        goal = t.objective()
        goal.batches = lambda model, rows=rows: iter(list(zip(x.split(rows), y.split(rows), strict=True)))
        log, one = t.run(4, goal=goal, accumulation=8 // rows, clip=0.5, warmup=2, ema=0.75)
        found = torch.tensor([[r["loss"], r["norm"], r["count"]] for r in log])
        assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert [r["step"] for r in log] == [0, 1, 2, 3]
        state = one.strategy.state_dict()
        for name, p in weights[-1].items():
            assert_close(state["model"][name], p, rtol=0, atol=1e-7)
            average = weights[0][name]
            for later in weights[1:]:
                average = 0.75 * average + 0.25 * later[name]
            assert_close(state["optimizer"][name]["average"], average, rtol=0, atol=1e-7)
    modes = []
    model = t.Dropped()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    parts = [(x[:2], y[:2]), (x[2:8], y[2:8])]
    log, one = t.run(2, model=model, validation=parts, evaluate_every=1, lr=1e-12)
    assert modes == [True, False, False] * 2
    model.eval()
    exact = F.cross_entropy(model(x[:8]).flatten(0, 1), y[:8].flatten())
    assert abs(log[-1]["validation"] - exact.item()) < 1e-5
    plain, again = t.run(3), t.run(3, recompute=True)
    assert t.equal(t.flat(plain[1]), t.flat(again[1]))
    sizes = []
    one = t.trainer(1, recompute=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        one.step(next(one.objective.batches(one.model)))
    assert sum(sizes) < 20_000, sum(sizes)


def half():
    t = tiny()
    model = t.transformer(torch.float32)
    exact = {name: p.detach().clone() for name, p in model.named_parameters()}
    one = t.trainer(30, model=model, precision="bf16", lr=1e-5, schedule="constant")
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    state = one.strategy.state_dict()["model"]
    assert all(torch.equal(state[name], p) for name, p in exact.items())
    for _ in range(30):
        one.update(one.objective.batches(model))
    state = one.strategy.state_dict()["model"]
    for name, p in model.named_parameters():
        assert (state[name] - exact[name]).abs().max() > 5e-5
        assert torch.equal(p, state[name].bfloat16())


def stops():
    t, files = tiny(), importlib.import_module("myllm.files")
    Loss = get("step").Loss
    for kind in ("loss", "gradient"):
        goal, kept = t.objective(), []
        plain = goal.loss
        calls = []

        def loss(model, batch, plain=plain, calls=calls, kind=kind):
            calls.append(1)
            total = plain(model, batch).total
            if len(calls) == 3:
                p = next(model.parameters())
                total = total + (
                    torch.tensor(math.inf) if kind == "loss" else ((p - p.detach()) ** 2).sum().sqrt()
                )
            return Loss(total, {})

        goal.loss = loss
        one = t.trainer(
            9, goal=goal, callbacks=[lambda u, _, kept=kept: kept.append(u.strategy.state_dict()["model"])]
        )
        try:
            one.fit()
            raise AssertionError
        except files.UserError as error:
            assert "in update 3" in str(error) and "'position': 16" in str(error)
        now = one.strategy.state_dict()["model"]
        assert all(torch.equal(x, kept[-1][name]) for name, x in now.items())
    goal = t.objective()
    goal.batches = lambda model: iter([(torch.zeros(2, 8).long(), torch.full((2, 8), -100))])
    try:
        t.run(1, goal=goal)
        raise AssertionError
    except files.UserError as error:
        assert "check masks" in str(error)


def early():
    t, Loss = tiny(), get("step").Loss
    folder = Path(tempfile.mkdtemp())
    try:
        values = iter([3.0, 2.0, 2.0, 2.5, 1.0])
        one = t.trainer(50, validation=[None], evaluate_every=2, patience=2, folder=folder, keep_last=1)
        one.objective.count = lambda batch: 1 if batch is None else 8 * t.T
        plain = one.objective.loss
        one.objective.loss = lambda model, batch: (
            Loss(torch.tensor(next(values)), {}) if batch is None else plain(model, batch)
        )
        one.fit()
        assert (one.done, one.best, one.best_step) == (8, 2.0, 4)
        assert [*get("checkpoint").steps(folder)] == [4, 8]
        for damaged in (False, True):  # killed before it pruned; of a damaged run all stay
            shutil.copytree(folder / "step-000008", folder / "step-000006")
            if damaged:
                (folder / "step-000008" / "rank-00000.safetensors").unlink()
            settings = {"evaluate_every": 2, "patience": 2, "keep_last": 1}
            t.trainer(50, validation=[None], folder=folder, **settings).resume()
            assert [*get("checkpoint").steps(folder)] == ([4, 6, 8] if damaged else [4, 8])
    finally:
        shutil.rmtree(folder)


def resume():
    """A crash between two checkpoints; dropout, bf16, Muon, average: everything must come back."""
    t, files = tiny(), importlib.import_module("myllm.files")
    folder = Path(tempfile.mkdtemp())

    class Stop(Exception):
        pass

    def crash(one, record):
        if one.done == 5:
            raise Stop

    try:
        for kind, settings in (
            ("dropout", {}),
            ("bf16", {"precision": "bf16"}),
            ("muon", {"optimizer": "muon", "ema": 0.9}),
        ):

            def start(where, *callbacks, kind=kind, settings=settings):
                torch.manual_seed(0)
                model = t.Dropped() if kind == "dropout" else t.transformer(torch.float32)
                torch.manual_seed(int(where == "b") + 5)
                np.random.seed(int(where == "b"))
                batch = next(t.objective(2, seed=4).loader)
                return t.trainer(
                    8,
                    model=model,
                    folder=folder / kind / where,
                    checkpoint_every=3,
                    validation=[batch],
                    evaluate_every=2,
                    callbacks=callbacks,
                    **settings,
                )

            one = start("a")
            one.fit()
            with contextlib.suppress(Stop):
                start("b", crash).fit()
            two = start("b")
            two.fit()
            assert t.equal(t.flat(one), t.flat(two)), kind
            assert (one.best, one.best_step, one.waited) == (two.best, two.best_step, two.waited)
            for p in two.model.parameters():
                assert p.dtype == (torch.bfloat16 if kind == "bf16" else torch.float32)
        for wrong in ({"lr": 0.5}, {"seed": 3}):
            try:
                t.trainer(
                    8, model=t.Dropped(), folder=folder / "dropout" / "a", checkpoint_every=3, **wrong
                ).fit()
                raise AssertionError
            except files.UserError as error:
                assert f"has {next(iter(wrong))}" in str(error)
        try:
            model = t.transformer(torch.float32, n_embd=8)
            t.trainer(8, model=model, folder=folder / "muon" / "a", optimizer="muon", ema=0.9).fit()
            raise AssertionError
        except files.UserError as error:
            assert "another model" in str(error)
    finally:
        shutil.rmtree(folder)


def checkpoints():
    m = get("checkpoint")
    import random

    folder = Path(tempfile.mkdtemp())
    single = get("strategies").make_strategy("single")
    try:
        for step in (1, 2, 3, 10):
            m.write(folder, step, {"a": {"x": torch.full((3,), step)}, "b": {"n": step}}, single)
        assert [*m.steps(folder)] == [1, 2, 3, 10]
        assert m.latest(folder)[0]["b"]["n"] == 10
        assert {path.name for path in folder.iterdir()} == {f"step-{n:06d}" for n in (1, 2, 3, 10)}
        for name in ("state.json", "rank-00000.safetensors"):
            file = folder / "step-000010" / name
            whole = file.read_bytes()
            for damaged in (
                whole[:-2],
                whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
                whole[:-9] + whole[-9:].swapcase(),
            ):
                if damaged == whole:
                    continue
                file.write_bytes(damaged)
                state, problems = m.latest(folder)
                assert state["b"]["n"] == 3 and torch.equal(state["a"]["x"], torch.full((3,), 3)), name
                assert len(problems) == 1
            file.write_bytes(
                whole.replace(b'"n": 10', b'"n": 11') if name == "state.json" else whole[:-1] + b"\7"
            )
            assert m.latest(folder)[0]["b"]["n"] == 3
            file.write_bytes(whole)
        m.prune(folder, 2, best=1)
        assert [*m.steps(folder)] == [1, 3, 10]
        np.random.seed(1)
        random.seed(2)
        np.random.randn()
        random.gauss(0, 1)
        state = m.rng_state()

        def numbers():
            return [
                *torch.rand(2).tolist(),
                *np.random.randn(3),
                np.random.rand(),
                random.gauss(0, 1),
                random.gauss(0, 1),
                random.random(),
            ]

        first = numbers()
        m.set_rng_state(state)
        assert numbers() == first
    finally:
        shutil.rmtree(folder)


def pretrain():
    t = tiny()
    packing = importlib.import_module("myllm.data.packing")
    loader = importlib.import_module("myllm.data.loader")
    goal = t.objective(2)
    x, y = next(goal.loader)
    y[0, 3:] = -100
    assert goal.count((x, y)) == 3 + t.T
    model = t.transformer(torch.float64, logit_softcap=2.0)
    z = model(x).exp().sum(-1).log()[y >= 0]
    expected = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
    found = t.objective(2, z_loss=0.5).loss(model, (x, y)).total
    assert_close(found, expected + 0.5 * (z**2).sum(), rtol=1e-8, atol=0)
    foreign = t.Dropped().eval()
    whole = F.cross_entropy(foreign(x).flatten(0, 1), y.flatten(), reduction="sum")
    assert_close(goal.loss(foreign, (x, y)).total, whole)
    documents = [t.IDS[:5], t.IDS[20:23], t.IDS[40:44], t.IDS[60:64]]
    model = t.transformer(torch.float64, position="learned")
    packed = loader.PackedLoader(packing.pack(documents, t.T), batch_size=2)
    alone = sum(
        F.cross_entropy(model(torch.tensor(d[None, :-1])).flatten(0, 1), torch.tensor(d[1:]), reduction="sum")
        for d in documents
    )
    assert_close(t.objective().loss(model, next(packed)).total, alone, rtol=1e-8, atol=0)
    goal = t.objective(2)
    goal.share(1, 2)
    rest = next(goal.batches(model))[0]
    assert torch.equal(rest, next(t.objective(4).loader)[0][2:])
    state = goal.state_dict()
    other = t.objective(2)
    other.load_state_dict(state)
    assert (
        torch.equal(next(other.loader)[0], next(t.objective(4).loader)[0][:0]) or other.loader.position == 6
    )


def settings():
    m, files = get("settings"), importlib.import_module("myllm.files")
    wrong = [{"steps": 0}, {"warmup": -1}, {"lr": math.nan}, {"clip": 0.0}, {"floor": 1.5}, {"warmup": 9}]
    wrong += [{"schedule": "cosin"}, {"optimizer": "sgd"}, {"precision": "fp16"}, {"patience": 1}]
    wrong += [{"betas": (0.9, 1.0)}, {"accumulation": 0}]
    for changes in wrong:
        try:
            m.TrainConfig(**{"steps": 9, **changes})
        except files.UserError:
            continue
        raise AssertionError(changes)


def journals():
    import json as plain
    from types import SimpleNamespace

    m = get("journal")
    folder = Path(tempfile.mkdtemp())
    one = SimpleNamespace(
        strategy=SimpleNamespace(rank=0, world=2), notes=[], config=SimpleNamespace(steps=10)
    )

    class Bad:
        def log(self, values, step):
            raise OSError

    try:
        lines = [plain.dumps({"step": i}) for i in range(4)]
        (folder / "journal.jsonl").write_text("\n".join(lines) + '\n{"st')
        journal = m.Journal(folder, quiet=True, flops_per_unit=1e6, peak_flops=5e8, sinks=[Bad()])
        for step in (2, 3):
            record = {"step": step, "loss": 1.0, "count": 300, "seconds": 2.0}
            journal(one, record)
        assert record["mfu"] == 0.15 and record["units_per_second"] == 150
        assert [line["step"] for line in m.read(folder)] == [0, 1, 2, 3] and journal.sinks == []
        one.strategy.rank = 1
        m.Journal(folder, quiet=True)(one, {"step": 0})
        assert len(m.read(folder)) == 4
    finally:
        shutil.rmtree(folder)


ORACLES = [
    losses,
    schedule,
    optimizers,
    settings,
    pretrain,
    loop,
    half,
    stops,
    early,
    resume,
    checkpoints,
    journals,
]
