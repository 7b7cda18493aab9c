"""Checks of chapter 11: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import effort

TRAINING = "myllm.training.*"

# 11.1

Batch = tuple[Tensor, Tensor, Tensor]


class Small(nn.Module):
    """A table, a layer and a parameter that no loss depends on; notes its forward and backward passes."""

    def __init__(self, rng: Rng, dtype: torch.dtype = torch.float32, V: int = 5) -> None:
        super().__init__()
        self.table = nn.Parameter(rng.normal(V, 3, dtype=dtype))
        self.unused = nn.Parameter(rng.normal(2, dtype=dtype))
        self.head = nn.Parameter(rng.normal(V, 3, dtype=dtype))
        self.passes = list[str]()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        self.passes.append("forward")
        logits = torch.tanh(self.table[ids]) @ self.head.T
        if logits.requires_grad:
            logits.register_hook(self.note)
        return logits

    def note(self, slope: Tensor) -> None:
        """Note a backward pass."""
        self.passes.append("backward")


def naive_gradients(model: nn.Module, micro_batches: list[Batch], ignore: int, /) -> Any:
    """Token by token, in float64, with one backward pass."""
    dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    model.double().zero_grad()
    loss, total = torch.zeros((), dtype=torch.float64), 0.0
    for x, y, weights in micro_batches:
        logs = torch.log_softmax(model(x), -1)
        for b, t in [(b, t) for b in range(len(x)) for t in range(x.shape[1]) if y[b, t] != ignore]:
            loss = loss - weights[b, t].double() * logs[b, t, y[b, t]]
            total += float(weights[b, t])
    if total == 0:
        raise ValueError
    (loss / total).backward()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return float(loss.detach() / total), [slope.to(dtype) for slope in slopes]


def batch(rng: Rng, B: int, T: int, ignore: int, share: float = 0.3) -> Batch:
    """Ids, targets of which some do not count, and weights."""
    y = rng.integers(0, 5, B, T)
    y = torch.where(rng.integers(0, 1000, B, T) < 1000 * share, ignore, y)
    y[0, 0] = 1
    return rng.integers(0, 5, B, T), y, 0.1 + rng.normal(B, T).abs()


gradients_exam = Exam("11.1", naive_gradients, tolerance=1e-5)
TABLE = nn.Embedding.from_pretrained(torch.zeros(2, 2), freeze=False)
ONE = torch.tensor([[0, 0]]), torch.tensor([[1, -1]]), torch.tensor([[3.0, 9.0]])
TWO = torch.tensor([[1]]), torch.tensor([[0]]), torch.tensor([[1.0]])
SLOPES = torch.tensor([[0.375, -0.375], [-0.125, 0.125]])
gradients_exam.example(1, (TABLE, [ONE, TWO], -1), (math.log(2), [SLOPES]))


@gradients_exam.oracle(2.5)
def random_batches(rng: Rng) -> Iterator[tuple[nn.Module, list[Batch], int]]:
    """Micro-batches of different sizes; both dtypes; a negative number or an id that does not count."""
    for ignore, dtype in ((-100, torch.float32), (3, torch.float64), (-7, torch.float32)):
        sizes = [(2, 3), (1, 5), (3, 4)]
        yield Small(rng, dtype), [batch(rng, *size, ignore, rng.uniform(0.2, 0.6)) for size in sizes], ignore


@gradients_exam.edge(1)
def border_batches(rng: Rng) -> Iterator[tuple[nn.Module, list[Batch], int]]:
    """One micro-batch, one without a token that counts, one without weight, and nothing that counts."""
    full, (x, y, weights) = batch(rng, 2, 3, 3), batch(rng, 2, 4, 3)
    yield Small(rng), [full], 3
    yield Small(rng), [(x, 0 * y + 3, weights), full, (x, y, 0 * weights)], 3
    yield from [(Small(rng), some, 3) for some in ([(x, 0 * y + 3, weights)], [(x, y, 0 * weights)], [])]


@gradients_exam.property(0.5)
def old_gradients(f: Function, rng: Rng) -> None:
    """What `.grad` holds before the call does not count, nor does what the call before found."""
    model, batches = Small(rng), [batch(rng, 2, 3, 3) for _ in range(2)]
    for p in model.parameters():
        p.grad = rng.normal(*p.shape)
    clean = Small(rng)
    clean.load_state_dict(model.state_dict())
    for _ in range(2):
        same(f(model, batches, 3), naive_gradients(clean.float(), batches, 3), "the loss and the gradients")


@gradients_exam.property(1)
def many_micro_batches(f: Function, rng: Rng) -> None:
    """With a model in bfloat16, hundreds of micro-batches give the mean of their gradients, in float32."""
    model, one = Small(rng, torch.bfloat16), batch(rng, 1, 3, 3)
    loss, slopes = f(model, [one] * 600, 3)
    expect(all(slope.dtype == torch.float32 for slope in slopes), "a gradient is not float32")
    exact = naive_gradients(model, [one], 3)
    same(loss, exact[0], "the loss", 0.02)
    for slope, wanted in zip(slopes, exact[1], strict=True):
        error = float((slope - wanted).norm() / wanted.norm().clamp(min=1e-9))
        expect(error < 0.03, f"after 600 equal micro-batches a gradient differs by {error:.0%} of its norm")


@gradients_exam.property(0.5)
def one_at_a_time(f: Function, rng: Rng) -> None:
    """Each micro-batch goes through the model once, and backward before the next one goes forward."""
    model = Small(rng)
    f(model, [batch(rng, 2, 3, 3) for _ in range(4)], 3)
    expect(model.passes == ["forward", "backward"] * 4, f"the passes were {', '.join(model.passes)}")


gradients_exam.conduct(0.5, TRAINING)

# 11.2

Run = tuple[dict[str, Any], Tensor, int]


def naive_resume(checkpoint: dict[str, Any], data: Tensor, until: int, /) -> dict[str, Any]:
    """Number by number."""
    new = {**checkpoint}
    generator = torch.Generator()
    generator.set_state(new["generator"])
    while new["done"] < until:
        place = new["done"] % len(data)
        new["done"] += 1
        if place == 0:
            new["order"] = torch.randperm(len(data), generator=generator)
        row, chance = data[new["order"][place]], torch.rand(data.shape[1], generator=generator)
        rate = 0.005 * min(20, new["done"])
        for name in ("weights", "moment", "average"):
            new[name] = new[name].clone()
        for d in range(data.shape[1]):
            slope = new["weights"][d] - row[d] if chance[d] < 0.75 else 0.0
            new["moment"][d] = 0.9 * new["moment"][d] + slope
            new["weights"][d] -= rate * new["moment"][d]
            new["average"][d] = 0.95 * new["average"][d] + 0.05 * new["weights"][d]
    return new | {"generator": generator.get_state()}


def new_run(rng: Rng, N: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], Tensor]:
    """A run that has not begun, and its data."""
    seed, weights = rng.randint(1, 10**6), rng.normal(D, dtype=dtype)
    run = {"done": 0, "weights": weights, "moment": torch.zeros_like(weights), "average": weights.clone()}
    state = torch.Generator().manual_seed(seed).get_state()
    run |= {"order": torch.empty(0, dtype=torch.int64), "generator": state, "seed": seed}
    return run, rng.normal(N, D, dtype=dtype)


def going_on(rng: Rng, N: int, D: int, done: int, more: int, dtype: torch.dtype = torch.float32) -> Run:
    """A checkpoint after some updates, and the end of the run."""
    run, data = new_run(rng, N, D, dtype)
    return naive_resume(run, data, done), data, done + more


class HalfFixed:
    """The faulty run of the specification, with some of its faults left in."""

    LABELS: ClassVar = {
        "average": ("an average that begins at the weights again", "Take the average from the checkpoint."),
        "moment": ("moments that begin at zero again", "Take the moment from the checkpoint."),
        "seeded": ("a generator that is seeded again", "`set_state` puts the generator where it was."),
        "rate": ("a warm-up that begins again", "The rate depends on the updates of the whole run."),
        "order": ("rows from the beginning of the order", "The run was interrupted inside an epoch."),
        "epoch": (
            "an order that is sampled again at every start",
            "Only the first update of an epoch samples an order.",
        ),
    }

    def __init__(self, *faults: str) -> None:
        self.faults = faults

    def __call__(self, old: dict[str, Any], data: Tensor, until: int, /) -> dict[str, Any]:
        """The faulty result."""
        weights, faults = old["weights"], self.faults
        average = weights if "average" in faults else old["average"]
        moment = torch.zeros_like(weights) if "moment" in faults else old["moment"]
        order, generator = old["order"], torch.Generator().manual_seed(old["seed"])
        if "seeded" not in faults:
            generator.set_state(old["generator"])
        for i in range(until - old["done"]):
            step = old["done"] + i
            if (i if "epoch" in faults else step) % len(data) == 0:
                order = torch.randperm(len(data), generator=generator)
            row = data[order[(i if "order" in faults else step) % len(data)]]
            kept = torch.rand(len(weights), generator=generator) < 0.75
            moment = 0.9 * moment + kept * (weights - row)
            weights = weights - 0.1 * min(1, ((i if "rate" in faults else step) + 1) / 20) * moment
            average = 0.95 * average + 0.05 * weights
        new = {"weights": weights, "moment": moment, "average": average, "order": order}
        return old | new | {"done": max(until, old["done"]), "generator": generator.get_state()}

    @classmethod
    def all(cls) -> dict[str, tuple[Function, str]]:
        """Every choice of up to five faults, the smaller ones first."""
        chosen = [some for n in range(1, 6) for some in combinations(cls.LABELS, n)]
        told = [[*zip(*(cls.LABELS[one] for one in some), strict=True)] for some in chosen]
        return {
            " and ".join(labels): (cls(*some), " ".join(hints))
            for some, (labels, hints) in zip(chosen, told, strict=True)
        }


resume_exam = Exam("11.2", naive_resume)
OLD = {
    "done": 30,
    "weights": torch.full((3,), 3.0),
    "moment": torch.ones(3),
    "average": torch.zeros(3),
    "order": torch.tensor([0]),
    "generator": torch.Generator().manual_seed(0).get_state(),
    "seed": 0,
}
resume_exam.example(1, (OLD, torch.ones(1, 3), 31), naive_resume(OLD, torch.ones(1, 3), 31))


@resume_exam.oracle(3, mistakes=HalfFixed.all())
def interrupted(rng: Rng) -> Iterator[Run]:
    """Runs interrupted in the middle of an epoch, during the warm-up and after it."""
    yield going_on(rng, 9, 4, 13, 12)
    yield going_on(rng, 7, 5, 24, 3)
    yield going_on(rng, 8, 3, 4, 9, torch.float64)


@resume_exam.edge(
    1.5, "an order that is sampled again at every start", "a run that goes back to an earlier end"
)
def borders(rng: Rng) -> Iterator[Run]:
    """At the end of an epoch, before its last row, with one row; new, finished and overdue runs."""
    yield going_on(rng, 6, 3, 12, 7)
    yield going_on(rng, 6, 3, 11, 1)
    yield going_on(rng, 5, 3, 0, 8)
    yield going_on(rng, 5, 3, 7, 0)
    yield going_on(rng, 5, 3, 7, -3)
    yield going_on(rng, 1, 3, 3, 2)


@resume_exam.property(1)
def cut_anywhere(f: Function, rng: Rng) -> None:
    """A run that is interrupted several times ends as one that never was."""
    run, data = new_run(rng, 5, 3)
    whole = naive_resume(run, data, 27)
    for cuts in ([27], [6, 7, 27], [*sorted(rng.sample(range(1, 27), 4)), 27], [*range(28)]):
        found = run
        for cut in cuts:
            found = f(found, data, cut)
        same(found, whole, f"the run with checkpoints after {cuts}")


resume_exam.conduct(0.5, TRAINING)

# 11.3

Account = tuple[dict[str, int], int, int, float, float, bool]


def naive_account(
    config: dict[str, int], B: int, T: int, seconds: float, peak: float, recompute: bool, /
) -> dict[str, float]:
    """Product by product, and a walk through the step with what is kept at each moment."""
    L, C, inner, V, D = (config[name] for name in ("n_layer", "n_embd", "inner", "vocab_size", "head_dim"))
    H, K = config["n_head"], config["n_kv_head"]
    shapes = [(C, H * D), (C, K * D), (C, K * D), (H * D, C), (C, inner), (C, inner), (inner, C)]
    layer = sum(2 * B * T * a * b for a, b in shapes)
    layer += sum(2 * (2 * B * H * D * seen) for seen in range(1, T + 1))
    head = 2 * B * T * C * V
    vectors = [C, C, C, C, H * D, K * D, K * D, H * D, inner, inner, inner, inner]
    held, most = 0, 0
    for _ in range(L):
        held += 2 * B * T * (C if recompute else sum(vectors))
    for size in [2 * B * T * C, 2 * B * T * C, 4 * B * T * V]:
        held += size
    most = held
    if recompute:
        held -= B * T * (4 * C + 4 * V)
        most = max(most, held + 2 * B * T * (sum(vectors) - C))
    needed = 3 * (L * layer + head)
    done = needed + (L * layer if recompute else 0)
    return {"mfu": needed / (seconds * peak), "hfu": done / (seconds * peak), "bytes": most}


account_exam = Exam("11.3", naive_account)
TINY = {"n_layer": 1, "n_embd": 2, "n_head": 1, "n_kv_head": 1, "head_dim": 2, "inner": 3, "vocab_size": 5}
account_exam.example(1, (TINY, 1, 2, 1.0, 1000.0, True), {"mfu": 0.6, "hfu": 0.76, "bytes": 112})


def llama(rng: Rng, V: int) -> dict[str, int]:
    """A config whose numbers all differ."""
    K, C = rng.randint(2, 3), rng.randint(20, 40)
    sizes = {"n_layer": rng.randint(3, 6), "n_embd": C, "n_head": K * rng.randint(2, 3), "n_kv_head": K}
    return sizes | {"head_dim": rng.randint(11, 14), "inner": 3 * C - rng.randint(1, 9), "vocab_size": V}


@account_exam.oracle(3)
def random_accounts(rng: Rng) -> Iterator[Account]:
    """With and without recomputation; small and large vocabularies."""
    for V, recompute in ((rng.randint(40, 90), True), (rng.randint(900, 2000), True), (300, False)):
        yield llama(rng, V), rng.randint(2, 5), rng.randint(9, 20), rng.uniform(0.5, 2), 1e9, recompute


@account_exam.edge(1.5)
def border_accounts(rng: Rng) -> Iterator[Account]:
    """One layer, one token, numbers of a real model."""
    for recompute in (True, False):
        yield llama(rng, 30) | {"n_layer": 1}, 1, 1, 0.25, 1e8, recompute
        real = {"n_layer": 32, "n_embd": 4096, "n_head": 32, "n_kv_head": 8, "head_dim": 128}
        real |= {"inner": 14_336, "vocab_size": 128_256}
        yield real, rng.randint(1, 4), 8192 + rng.randint(0, 9), rng.uniform(2, 9), 989e12, recompute


@account_exam.property(1)
def bytes_are_exact(f: Function, rng: Rng) -> None:
    """`bytes` is an exact int, however large."""
    for recompute in (True, False):
        case = llama(rng, 99), 10**12 + rng.randint(1, 99), 101, 1e9, 1e15, recompute
        found = f(*case)["bytes"]
        expect(type(found) is int, f"`bytes` is {found!r}")
        same(found, naive_account(*case)["bytes"], "`bytes`")


account_exam.conduct(0.5, "myllm.config.*", "myllm.accounting.*", "myllm.model.*")

# 11.4

Rungs = list[dict[str, Any]]
Pairs = list[tuple[float, float]]


def naive_keep(rungs: Rungs, updates: int, /) -> tuple[list[str], dict[str, str]]:
    """Rule by rule."""

    def clear(pairs: Pairs) -> tuple[float, bool]:
        found = sorted(a - b for a, b in pairs)
        mean = math.fsum(found) / len(found)
        return mean, abs(mean) > found[-1] - found[0]

    reasons = dict[str, str]()
    for rung in rungs:
        gain, certain = clear(rung["seconds"][1:])
        verdicts = {
            "needs": rung["needs"] in reasons,
            "loss": clear(rung["losses"])[1],
            "noise": not (certain and gain > 0),
            "setup": not gain * updates > rung["setup"],
        }
        if any(verdicts.values()):
            reasons[rung["name"]] = next(rule for rule, broken in verdicts.items() if broken)
    return [rung["name"] for rung in rungs if rung["name"] not in reasons], reasons


def rung(
    name: str,
    gains: list[float],
    losses: tuple[float, ...] = (0.0, 0.0, 0.0),
    setup: float = 0.0,
    needs: str | None = None,
    drift: float = 0.0,
) -> dict[str, Any]:
    """A row, from what it gains in each pair and what it adds to each loss."""
    seconds = [(4 + drift * i, 4 + drift * i - gain) for i, gain in enumerate(gains)]
    pairs = [(2 + i % 3, 2 + i % 3 + more) for i, more in enumerate(losses)]
    return {"name": name, "needs": needs, "losses": pairs, "seconds": seconds, "setup": setup}


def ladder(rng: Rng) -> tuple[Rungs, int]:
    """A ladder on which each rule drops a rung, and each near miss stays."""
    updates, scale = 100 * rng.randint(2, 9), rng.uniform(0.5, 1.5)
    steady, pay = [scale * gain for gain in (0.0, 0.5, 0.52, 0.48)], 0.5 * scale * updates
    rows = [
        rung("clear", steady),
        rung("inside the noise", [0.3, 0.05, scale * 0.3, -0.1]),
        rung("faster in the first pair only", [4.0, 0.02, scale * -0.03, 0.02]),
        rung("slow in the first pair only", [-6.0, 0.4, 0.5, 0.45]),
        rung("clear in spite of the drift", steady, drift=0.9),
        rung("a gain below the spread", [0.0, *(scale * gain for gain in (0.5, 0.2, 0.5, 0.8, 0.5))]),
        rung("slower", [0.0, -0.5, -0.52, -0.48]),
        rung("another loss", steady, (0.02, 0.03, 0.025)),
        rung("a lower loss", steady, (-0.02, -0.03, -0.025)),
        rung("rounding of the loss", steady, (0.02, -0.01, 0.01)),
        rung("a long setup", steady, setup=1.1 * pay),
        rung("a setup that pays", steady, setup=0.9 * pay),
    ]
    rng.shuffle(rows)
    late = {"on a dropped rung": "inside the noise", "on a kept rung": "clear", "twice": "on a dropped rung"}
    return [*rows, *(rung(name, steady, needs=needs) for name, needs in late.items())], updates


keep_exam = Exam("11.4", naive_keep)
SECONDS = [(9.0, 5.0), (1.0, 0.8), (1.3, 1.1), (1.1, 0.8)]
FUSED = {"name": "fused", "needs": None, "losses": [(2.0, 2.0)], "seconds": SECONDS, "setup": 0.0}
COMPILED = FUSED | {"name": "compiled", "setup": 30.0}
keep_exam.example(1, ([FUSED, COMPILED], 100), (["fused"], {"compiled": "setup"}))


@keep_exam.oracle(3)
def random_ladders(rng: Rng) -> Iterator[tuple[Rungs, int]]:
    """Ladders on which each rule drops a rung."""
    for _ in range(3):
        yield ladder(rng)


@keep_exam.edge(1.5, "a setup that is only just earned back")
def border_ladders(rng: Rng) -> Iterator[tuple[Rungs, int]]:
    """No rung, single pairs, exact borders, and several rules at once."""
    yield [], 10
    good, gains = [0.0, 0.5], [9.0, 0.5, 1.0, 0.75]
    yield [rung(f"{setup} seconds", gains, setup=setup) for setup in (74.0, 75.0, 76.0)], 100
    yield (
        [rung("as large as the spread", [0.0, 0.25, 0.75]), rung("no gain", [8.0, 0.0]), rung("one", good)],
        9,
    )
    yield [rung(f"{losses}", good, losses) for losses in ((0.25,), (-0.5, -1.0), (0.25, 0.75), (0.0,))], 9
    wrong = rung("all wrong", [0.0, -0.5], (0.25,), 1e9)
    rows = [wrong, wrong | {"name": "even more", "needs": "all wrong"}, rung("slow", [0.0, -0.5], setup=1e9)]
    yield [*rows, rung("very different gains", [0.0, 1.0, 1.0, 1.0, 0.25], setup=90.0)], 100


keep_exam.conduct(0.5, TRAINING)

# 11.5

Plan = tuple[float, float, float, int]


def costs(step: float, save: float, mtbf: float, n: Tensor) -> Tensor:
    """The logarithm of the seconds of an update with a checkpoint after each n."""
    x = (n.double() * step + save) / mtbf
    return x + torch.log(-torch.expm1(-x)) + math.log(mtbf) - n.double().log()


def grid(total: int) -> Tensor:
    """The whole numbers from 1 to a total."""
    return torch.arange(1, total + 1)


def naive_interval(step_seconds: float, save_seconds: float, mtbf: float, total: int, /) -> int:
    """The cheapest of all."""
    if mtbf == math.inf:
        return total
    n = grid(total)
    return int(n[costs(step_seconds, save_seconds, mtbf, n).argmin()])


def decided(plan: Plan) -> bool:
    """Whether only one n is good enough, and by a margin."""
    cost = costs(*plan[:3], grid(plan[3])).sort().values
    return len(cost) == 1 or float(cost[1] - cost[0]) > 2e-3


def plans(rng: Rng, low: int, high: int, *rules: float, slow: bool = False) -> Iterator[Plan]:
    """Plans with a single good n; the square root gives about these, and fails where saves are slow.

    The mean time between failures is `low` to `high` updates.
    """
    for rule in rules:
        while True:
            step, near = rng.uniform(100, 900), rule + rng.uniform(-0.1, 0.1)
            mtbf = step * rng.uniform(low, high)
            plan = step, (near * step) ** 2 / 2 / mtbf, mtbf, rng.randint(50, 500)
            if decided(plan) and slow == (naive_interval(*plan) != round(near)):
                yield plan
                break


interval_exam = Exam("11.5", naive_interval)
interval_exam.example(1, (600.0, 60.0, 10_000.0, 1000), 2)


@interval_exam.oracle(1.5)
def quick_saves(rng: Rng) -> Iterator[Plan]:
    """Plans with a single good n, for which a save takes a small part of the time between failures."""
    yield from plans(rng, 12, 50, 1.2, 2.1, 3.0, 4.1)
    yield from plans(rng, 30, 40, 3.4)


@interval_exam.edge(2, "the square root where saves are slow", "an exponential that is too large for a float")
def slow_saves(rng: Rng) -> Iterator[Plan]:
    """Saves that take a good part of the time between failures, or many times as long."""
    yield from plans(rng, 2, 6, 3.0, 5.0, 7.0, slow=True)
    yield from [
        (step, times * 3 * step, 3 * step, 500) for step, times in ((rng.uniform(1, 9), 9), (7.0, 2e3))
    ]


@interval_exam.edge(0.5, "more updates than the run has")
def bounds(rng: Rng) -> Iterator[Plan]:
    """Machines that never fail, saves that take no time, runs shorter than the best interval."""
    step, total = rng.uniform(1, 9), rng.randint(5, 99)
    yield from [(step, 5.0, math.inf, total), (step, 0.0, 10 * step, total), (step, 5 * step, 20 * step, 1)]
    yield step, 5 * step, 40 * step, 3
    yield step, 0.01 * step, 0.3 * step, total


@interval_exam.property(0.5)
def good_enough(f: Function, rng: Rng) -> None:
    """Where a save takes at most a hundredth of the mtbf, an update takes at most a thousandth too long."""
    for _ in range(6):
        mtbf = 10 ** rng.uniform(3, 6)
        step, save, total = (
            mtbf / rng.randint(300, 3000),
            mtbf / rng.randint(100, 9000),
            rng.randint(10, 9999),
        )
        found = f(step, save, mtbf, total)
        case = f"interval({step}, {save}, {mtbf}, {total})"
        expect(type(found) is int and 1 <= found <= total, f"{case} is {found!r}")
        both = costs(step, save, mtbf, torch.tensor([found, naive_interval(step, save, mtbf, total)]))
        excess = math.expm1(float(both[0] - both[1]))
        expect(excess < 1.0001e-3, f"{case} is {found}, and an update takes {excess:.2%} too long")


@interval_exam.cost(0.5)
def no_search(f: Function, rng: Rng) -> None:
    """The work does not grow with the length of the run."""
    f(1.0, 20.0, 1e5, 100)  # what happens only once, such as an import
    small, large = (effort(f, 1.0, 20.0, 1e9, total) for total in (300, 30_000))
    expect(large < small + 50_000, "a run of 30,000 updates took far more work than one of 300")
    found = f(1.0, 20.0, 1e9, 10**12)
    expect(
        type(found) is int and 20_000 < found < 2_000_000, f"interval(1.0, 20.0, 1e9, 10**12) is {found!r}"
    )
