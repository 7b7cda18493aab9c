"""Checks of chapter 10: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import effort

# 10.1

Step = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float, tuple[float, float], float, float, Tensor]


def naive_adamw(
    p: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    counts: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    rows: Tensor,
    /,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Number by number."""
    p, m, v, counts = (one.clone() for one in (p, m, v, counts))
    for i in range(len(p)):
        counts[i] += int(rows[i])
        for j in range(p.shape[1] if rows[i] else 0):
            g, old = grad[i, j].item(), p[i, j].item()
            averages = [m[i, j].item(), v[i, j].item()]
            averages = [
                beta * a + (1 - beta) * x for beta, a, x in zip(betas, averages, (g, g * g), strict=True)
            ]
            up, down = (a / (1 - beta ** counts[i].item()) for beta, a in zip(betas, averages, strict=True))
            p[i, j] = old - lr * up / (math.sqrt(down) + eps) - lr * decay * old
            m[i, j], v[i, j] = averages
    return p, m, v, counts


adamw_exam = Exam("10.1", naive_adamw, tolerance=1e-5)  # corrections may be in float32
adamw_exam.example(
    1,
    (
        torch.ones(2, 1),
        torch.full((2, 1), 2.0),
        torch.zeros(2, 1),
        torch.zeros(2, 1),
        torch.tensor([0, 7]),
        0.1,
        (0.9, 0.99),
        1e-8,
        0.5,
        torch.tensor([True, False]),
    ),
    (
        torch.tensor([[0.85], [1.0]]),
        torch.tensor([[0.2], [0.0]]),
        torch.tensor([[0.04], [0.0]]),
        torch.tensor([1, 7]),
    ),
)


def update(rng: Rng, n: int, d: int, dtype: torch.dtype = torch.float64) -> Step:
    """A table in which rows 0 and 2 occur and row 1 does not; row 0 has never occurred before."""
    p, grad, m, v = (rng.normal(n, d, dtype=dtype) for _ in range(4))
    counts, rows = rng.integers(1, 9, n), rng.integers(0, 2, n).bool()
    rows[:3], counts[:1] = torch.tensor([True, False, True])[:n], 0
    m, v = m * (counts > 0)[:, None], v**2 * (counts > 0)[:, None]
    return p, grad, m, v, counts, rng.uniform(0.1, 0.3), (0.8, rng.uniform(0.9, 0.95)), 0.1, 0.4, rows


@adamw_exam.oracle(2)
def random_updates(rng: Rng) -> Iterator[Step]:
    """Rows with different counts, both dtypes, an eps that shows."""
    yield update(rng, 5, 3)
    yield update(rng, 7, 2)
    yield update(rng, 4, 5, torch.float32)


@adamw_exam.edge(1)
def border_updates(rng: Rng) -> Iterator[Step]:
    """Gradients that are not finite in rows that do not occur; no row, all rows, empty tables; betas of 0."""
    p, grad, m, v, counts, *_, rows = update(rng, 6, 3)
    numbers = 0.2, (0.7, 0.9), 0.1, 0.5
    spoiled = grad.masked_fill(~rows[:, None], torch.nan)
    yield p, spoiled, m, v, counts, *numbers, rows
    yield p, grad * torch.inf, m, v, counts, *numbers, torch.zeros_like(rows)
    yield p, grad, m, v, counts, *numbers, torch.ones_like(rows)
    yield p.T.contiguous().T, grad, m, v, counts + 10**6, *numbers, rows
    yield p, grad, m, v, counts, 0.1, (0.0, 0.0), 1e-8, 0.0, rows
    yield update(rng, 0, 3)
    yield update(rng, 4, 0)


@adamw_exam.property(1)
def many_updates(f: Function, rng: Rng) -> None:
    """After several updates with other rows each time, every row is where its own updates lead."""
    p, numbers = rng.normal(5, 3, dtype=torch.float64), (0.2, (0.7, 0.9), 0.1, 0.5)
    state: Any = p, 0 * p, 0 * p, torch.zeros(5, dtype=torch.int64)
    expected = p, 0 * p, 0 * p, torch.zeros(5, dtype=torch.int64)
    for step in range(1, 7):
        grad, rows = rng.normal(5, 3, dtype=torch.float64), rng.integers(0, 2, 5).bool()
        state = f(state[0], grad, *state[1:], *numbers, rows)
        expected = naive_adamw(expected[0], grad, *expected[1:], *numbers, rows)
        same(state, expected, f"p, m, v and counts after {step} updates", 1e-5)


adamw_exam.operations(0.5, "rows", (5, 300), lambda rng, n: update(rng, n, 2))
adamw_exam.conduct(0.5, "torch.optim.AdamW", "torch.optim.Adam", "myllm.training.*")

# 10.2

Log = dict[str, Any]


def naive_diagnosis(log: Log, /) -> str:
    """By the losses wherever they tell; by the sizes of updates elsewhere."""
    guess, held_out = math.log(log["vocab_size"]), log["validation"]
    lowest, late = min(held_out), log["ratio"][len(held_out) // 2 :]
    if held_out[0] > 1.3 * guess:
        return "bad initialization"
    if not all(map(math.isfinite, held_out)) or min(late[:-1]) > 0.1:
        return "rate too high"
    if held_out != log["again"]:
        return "evaluation in train mode"
    if held_out[-1] < 0.1:
        return "unshifted labels"
    if max(held_out) > 1.15 * guess:
        return "no warm-up"
    if max(late) < 0.001 and max(log["ratio"]) < 0.001:
        return "rate too low"
    return "overfitting" if held_out[-1] > lowest + 0.2 else "healthy"


def fall(n: int, start: float, end: float) -> list[float]:
    """A curve that falls fast at first and has come down by 97 % at the end."""
    return [end + (start - end) / (1 + 32 * i / (n - 1)) for i in range(n)]


def decline(n: int, start: float, end: float) -> list[float]:
    """A curve that falls by the same factor each time."""
    return [start * (end / start) ** (i / (n - 1)) for i in range(n)]


SIZES = {"rate too high": 0.6, "rate too low": 3e-4, "bad initialization": 3e-4}


def make_log(rng: Rng, illness: str, harmless: str = "", n: int = 0) -> Log:
    """The log of a run with an illness and with something harmless."""
    n, V = n or rng.randint(18, 36), rng.choice([64, 300, 4096, 50257])
    guess = math.log(V) * rng.uniform(0.98, 1.02)
    end = guess * rng.uniform(0.4, 0.5)
    warmup = 1 if illness == "no warm-up" or harmless == "early" else rng.randint(2, 3)
    rate = [0.02 * min(1, (i + 1) / warmup) for i in range(n)]
    if harmless == "decay":
        rate = [one * min(1, (n - 1 - i) * 3 / n) for i, one in enumerate(rate)]
    size = SIZES.get(illness, 0.02) * rng.uniform(0.5, 2)
    ratio = [size * one / 0.02 * rng.uniform(0.8, 1.2) for one in rate]
    train, gap = fall(n, guess, end), rng.uniform(0.05, 0.1) * rng.choice([-1, 1])
    rise = [0.0] * n
    if illness == "unshifted labels":
        train, gap = decline(n, guess, 0.02), 0
    elif illness == "bad initialization":
        train = fall(n, guess * rng.uniform(1.7, 4), end)
    elif illness == "rate too high" and harmless == "stays":
        train = [guess * rng.uniform(0.99, 1.01) for _ in range(n)]
    elif illness == "rate too high":
        train = [guess * (1 - 0.25 * math.sin(math.pi * i / (n - 1))) for i in range(n)]
    elif illness == "no warm-up":
        train = fall(n, guess, 1.2 * end)
        few = min(3, n // 3)
        train[1 : few + 1] = [guess * rng.uniform(1.3, 1.8) for _ in range(few)]
        ratio[:few] = [rng.uniform(0.3, 0.6) for _ in range(few)]
    elif illness == "rate too low":
        train = [guess * (1 - 0.2 * i / (n - 1)) for i in range(n)]
    elif illness == "overfitting":
        train, worse = decline(n, guess, 0.03), rng.uniform(1, 4)
        rise = [max(0, end - loss) + max(0, i / (n - 1) - 0.6) * worse for i, loss in enumerate(train)]
    if harmless == "gap":
        gap = rng.uniform(0.4, 0.6)
    grown = [gap * min(1, 3 * i / (n - 1)) for i in range(n)]
    held_out = [sum(parts) + rng.uniform(-0.01, 0.01) for parts in zip(train, grown, rise, strict=True)]
    held_out = [max(0.01, one) for one in held_out]
    again, norm = [*held_out], [rng.uniform(0.3, 0.5) + 3 * one / guess for one in train]
    if illness == "evaluation in train mode":
        again = [one + rng.choice([-1, 1]) * rng.uniform(0.003, 0.03) for one in held_out]
    train = [one * rng.uniform(0.98, 1.02) for one in train]
    if harmless == "bad batch":
        i = rng.randint(n // 2, n - 2)
        train[i], norm[i] = 1.5 * guess, 40 * norm[i]
    curves = {"train": train, "validation": held_out, "again": again, "norm": norm, "ratio": ratio}
    if harmless == "NaN":
        curves = {name: one[: n // 2] + [math.nan] * (n - n // 2) for name, one in curves.items()}
    return {"vocab_size": V, **curves, "rate": rate}


log_exam = Exam("10.2", naive_diagnosis)
LOSSES = [4.2, 0.9, 0.2, 0.06, 0.03, 0.02]
log_exam.example(
    1,
    (
        {
            "vocab_size": 64,
            **dict.fromkeys(("train", "validation", "again"), LOSSES),
            "norm": [2.1, 1.5, 0.4, 0.1, 0.05, 0.04],
            "ratio": [0.01, 0.02, 0.02, 0.02, 0.016, 0.008],
            "rate": [0.05, 0.1, 0.1, 0.1, 0.08, 0.04],
        },
    ),
    "unshifted labels",
)
ILLNESSES = (
    "unshifted labels",
    "bad initialization",
    "no warm-up",
    "rate too low",
    "overfitting",
    "evaluation in train mode",
)


@log_exam.oracle(3.5)
def random_logs(rng: Rng) -> Iterator[tuple[Log]]:
    """Every illness, alone and with what is harmless."""
    for harmless in ("", "early", "decay", "gap", "bad batch"):
        yield (make_log(rng, "healthy", harmless),)
        yield (make_log(rng, "rate too high", {"": "NaN", "early": "stays"}.get(harmless, "")),)
    for illness, harmless in product(ILLNESSES, ("", "decay")):
        yield (make_log(rng, illness, harmless),)
    yield (make_log(rng, "rate too low", "early"),)


@log_exam.edge(1.5)
def short_logs(rng: Rng) -> Iterator[tuple[Log]]:
    """Six entries."""
    for illness in ("healthy", *ILLNESSES, "rate too high"):
        yield (make_log(rng, illness, n=6),)
    yield (make_log(rng, "rate too high", "NaN", n=6),)


@log_exam.property(1)
def unit_of_the_rate(f: Function, rng: Rng) -> None:
    """The size of the rate says nothing: multiplied by a number, it gives the same label."""
    for illness, factor in product(("healthy", *ILLNESSES, "rate too high"), (1e-4, 1e3)):
        log = make_log(rng, illness)
        log["rate"] = [factor * one for one in log["rate"]]
        same(f(log), illness, f"a log whose peak rate is {max(log['rate']):g}")


# 10.3

Fit = dict[str, float]


def naive_spend(flops: float, unique: float, fit: Fit, table: int, /) -> tuple[float, float, float, float]:
    """By a search for the lowest loss among all numbers of tokens that are allowed."""

    def loss(log_tokens: float) -> float:
        D = math.exp(log_tokens)
        return fit["E"] + fit["A"] / (flops / (6 * D)) ** fit["a"] + fit["B"] / D ** fit["b"]

    low, high = -20.0, math.log(4 * unique)
    for _ in range(200):
        third = (high - low) / 3
        low, high = (low + third, high) if loss(low + third) > loss(high - third) else (low, high - third)
    D = math.exp(high)
    return flops / (6 * D) + table, D, D / unique, loss(high)


spend_exam = Exam("10.3", naive_spend, tolerance=1e-4)
FIT = {"E": 1.5, "A": 1000.0, "a": 0.5, "B": 1000.0, "b": 0.5}
spend_exam.example(1, (6e14, 1e6, FIT, 1_000_000), (2.6e7, 4e6, 4.0, 2.2))


def case(rng: Rng, epochs: float) -> tuple[float, float, Fit, int]:
    """A budget whose best number of tokens, without a limit, is so many epochs."""
    fit = {"E": rng.uniform(1, 2), "A": rng.uniform(50, 100), "a": rng.uniform(0.25, 0.35)}
    fit |= {"B": rng.uniform(300, 900), "b": rng.uniform(0.4, 0.5)}
    N = 10 ** rng.uniform(5, 7)
    D = (fit["b"] * fit["B"] / (fit["a"] * fit["A"]) * N ** fit["a"]) ** (1 / fit["b"])
    return 6 * N * D, D / epochs, fit, round(N * rng.uniform(0.3, 0.9))


@spend_exam.oracle(3)
def random_budgets(rng: Rng) -> Iterator[tuple[float, float, Fit, int]]:
    """Far more text than is needed, less than one epoch, some epochs, more than four."""
    yield from (
        case(rng, rng.uniform(*epochs))
        for epochs in ((1e-4, 1e-3), (0.2, 0.8), (1.5, 2.5), (3, 3.7), (6, 9), (20, 30))
    )


@spend_exam.edge(1)
def border_budgets(rng: Rng) -> Iterator[tuple[float, float, Fit, int]]:
    """Around four epochs, no table, equal exponents, a budget of today's largest models."""
    yield from (case(rng, epochs) for epochs in (3.99, 4.01))
    flops, unique, fit, table = case(rng, 2)
    yield flops, unique, fit, 0
    yield flops, unique, fit | {"a": 0.4, "b": 0.4}, table
    large = {"E": 1.69, "A": 406.4, "a": 0.34, "B": 410.7, "b": 0.28}
    yield 3e25, 1e13, large, 10**9
    yield 3e25, 1e11, large, 10**9


@spend_exam.property(1)
def all_is_spent(f: Function, rng: Rng) -> None:
    """The FLOPs are spent, and no other choice that costs as much has a lower loss."""
    for epochs in (0.5, 2.0, 12.0):
        flops, unique, fit, table = case(rng, epochs)
        found: Any = f(flops, unique, fit, table)
        expect(hasattr(found, "__len__") and len(found) == 4, "the result is no tuple of four numbers")
        N, D = found[0] - table, found[1]
        same(6 * N * D / flops, 1.0, "the share of the FLOPs that is used", 1e-3)
        for other in (D * 0.8, min(D * 1.2, 4 * unique)):
            loss = fit["E"] + fit["A"] / (flops / 6 / other) ** fit["a"] + fit["B"] / other ** fit["b"]
            expect(found[3] <= loss + 1e-9, f"with {other:g} tokens, the loss is {loss:g}, not {found[3]:g}")


# 10.4

Runs = list[dict[str, Any]]


def naive_compare(runs: Runs, /) -> dict[str, Any]:
    """Update by update, rate by rate."""
    budget = sorted(run["flops"] * len(run["losses"]) for run in runs)[0]
    best, kept, edge = dict[str, float](), dict[str, list[float]](), list[str]()
    for name in ("adamw", "muon"):
        own = [run for run in runs if run["optimizer"] == name]
        tried = sorted({run["rate"] for run in own})
        ranked = list[tuple[float, float, list[float]]]()
        for rate in tried:
            values = list[float]()
            for run in own:
                allowed = [x for i, x in enumerate(run["losses"], 1) if i * run["flops"] <= budget]
                values += [allowed[-1]] if run["rate"] == rate else []
            if not any(math.isnan(x) or math.isinf(x) for x in values):
                ranked.append((math.fsum(values) / len(values), rate, values))
        _, best[name], kept[name] = min(ranked)
        edge += [name] if best[name] in (tried[0], tried[-1]) else []
    pairs = [*product(kept["adamw"], kept["muon"])]
    winner = "adamw" if all(a < b for a, b in pairs) else "muon" if all(b < a for a, b in pairs) else None
    means = {name: math.fsum(values) / len(values) for name, values in kept.items()}
    return {"rates": best, "difference": means["adamw"] - means["muon"], "winner": winner, "edge": edge}


compare_exam = Exam("10.4", naive_compare, tolerance=1e-6)
compare_exam.example(
    1,
    (
        [
            {"optimizer": "adamw", "rate": 0.1, "seed": 0, "flops": 10, "losses": [3.0, 2.5, 2.0]},
            {"optimizer": "muon", "rate": 0.2, "seed": 0, "flops": 14, "losses": [3.0, 2.25, 1.5]},
        ],
    ),
    {"rates": {"adamw": 0.1, "muon": 0.2}, "difference": -0.25, "winner": "adamw", "edge": ["adamw", "muon"]},
)


def race(rng: Rng, adamw: dict[float, list[float]], muon: dict[float, list[float]]) -> Runs:
    """Runs whose losses at the budget are given by rate and seed; Muon's updates cost a half more."""
    runs, unit, updates = Runs(), rng.randint(50, 99), rng.randint(4, 6)
    for name, by_rate in (("adamw", adamw), ("muon", muon)):
        count, flops = (3 * updates, 2 * unit) if name == "adamw" else (2 * updates, 3 * unit - 1)
        for rate, losses in by_rate.items():
            for seed, loss in enumerate(losses):
                before = [loss + 0.05 * (count - i) + rng.uniform(-0.01, 0.01) for i in range(1, count)]
                before[-1] -= rng.choice([0.0, 0.2])  # a run may have been better before
                after = [loss - 0.06 * i for i in range(1, rng.randint(2, 5))] if runs else []
                row = {"optimizer": name, "rate": rate, "seed": seed, "flops": flops}
                runs.append(row | {"losses": [*before, loss, *after]})
    return rng.sample(runs, len(runs))


def table(rng: Rng, ahead: float) -> Runs:
    """Both optimizers at four rates; Muon's best rate is ahead by so much."""
    low, unit = rng.uniform(2, 3), 10 ** rng.uniform(-4, -2)

    def seeds(*losses: float) -> list[float]:
        return [low + loss + rng.uniform(0, 0.01) for loss in losses]

    adamw = {
        1: seeds(0.4, 0.42, 0.5),
        2: seeds(0.0, 0.05, 0.1),
        4: seeds(-0.2, 0.45, 0.4),
        8: seeds(0.7, 0.8, 0.9),
    }
    muon = {
        4: seeds(0.3, 0.35, 0.33),
        2: seeds(0.25, 0.3, 0.35),
        8: seeds(0.0, 0.05, 0.1),
        16: seeds(0.9, 0.8, 0.9),
    }
    muon[8] = [loss - ahead for loss in muon[8]]
    diverged = {32: [math.nan, low, low - 1]}
    return race(rng, *({unit * rate: one for rate, one in rows.items()} for rows in (adamw, muon | diverged)))


@compare_exam.oracle(3)
def random_races(rng: Rng) -> Iterator[tuple[Runs]]:
    """A clear winner of either kind, and a difference within the spread; seeds that are lucky; long runs."""
    for ahead in (0.2, -0.2, 0.08, 0.03, -0.08):
        yield (table(rng, ahead),)
    unit = rng.uniform(1, 2)  # a best rate beside one that is not finite; the smallest rate
    yield (
        race(rng, {unit: [2.0, 2.1], 2 * unit: [math.inf, 1.0]}, {unit: [2.5, 2.2], 2 * unit: [2.9, 2.8]}),
    )
    yield (race(rng, {unit: [2.9], 2 * unit: [2.1], 4 * unit: [math.nan]}, {unit: [2.5], 2 * unit: [2.2]}),)


@compare_exam.edge(1)
def border_races(rng: Rng) -> Iterator[tuple[Runs]]:
    """Equal means, equal losses, one rate, a low rate that is not finite, numbers of seeds, one update."""
    yield (
        race(rng, {0.1: [math.nan, 1.0], 0.2: [2.0, 2.1]}, {0.1: [-math.inf], 0.3: [3.0, 1.0], 0.5: [4.0]}),
    )
    yield (race(rng, {0.4: [2.0, 3.0], 0.1: [2.5, 2.5], 0.2: [4.0]}, {0.1: [2.5], 0.2: [2.5, 2.5, 2.5]}),)
    yield (race(rng, {0.1: [2.0]}, {0.3: [2.0]}),)
    yield (race(rng, {0.1: [2.0, 2.1], 0.2: [2.0]}, {0.3: [2.1, 2.2], 0.1: [9.0], 0.9: [math.inf]}),)
    for run in (short := race(rng, {0.1: [2.0]}, {0.3: [1.0]})):
        run["losses"] = run["losses"][: 1 + (run["optimizer"] == "adamw")]
    yield (short,)


@compare_exam.property(1)
def order_and_unit(f: Function, rng: Rng) -> None:
    """Neither the order of the table nor the unit of the FLOPs changes the result."""
    runs = table(rng, rng.choice([0.2, 0.08]))
    factor = 10**12 + rng.randint(1, 9)
    for one in (runs, runs[::-1], [run | {"flops": factor * run["flops"]} for run in runs]):
        same(f(one), naive_compare(one), "the verdict", 1e-6)


# 10.5

Plan = tuple[int, float, int, list[tuple[int, int]]]


def naive_rate(step: int, peak: float, warmup: int, finishes: list[tuple[int, int]], /) -> float:
    """Update by update: what falls, from where, and how many updates are left."""
    rate, left, length, top = 0.0, 0, 0, 0.0
    begin = dict(finishes)
    for s in range(step + 1):
        plain = peak if s + 1 >= warmup else peak * (s + 1) / warmup
        rate = top * (left - 1) / length if left else plain
        if s in begin:
            top, length = rate, begin[s]
            left, rate = length, rate * (length - 1) / length
        left = max(0, left - 1)
    return rate


rate_exam = Exam("10.5", naive_rate)
rate_exam.example(1, (6, 1.0, 2, [(3, 4)]), 0.0)


def plan(rng: Rng) -> tuple[float, int, list[tuple[int, int]]]:
    """A warm-up, a finish, one within which another one starts and ends, and a last one."""
    warmup, first = rng.randint(5, 8), rng.randint(10, 14)
    second = first + rng.randint(12, 15)
    finishes = [(first, rng.randint(4, 6)), (second, 12), (second + 5, rng.randint(2, 4)), (second + 20, 5)]
    return rng.uniform(0.1, 2), warmup, finishes


@rate_exam.oracle(2.5)
def random_plans(rng: Rng) -> Iterator[Plan]:
    """All updates of a run with four finishes, of which one starts within another one."""
    peak, warmup, finishes = plan(rng)
    yield from ((step, peak, warmup, finishes) for step in range(finishes[-1][0] + 10))


@rate_exam.edge(1, "a warm-up that no finish interrupts")
def border_plans(rng: Rng) -> Iterator[Plan]:
    """Nothing announced, no warm-up, finishes in the warm-up, of one update, and one right after another."""
    for step in range(12):
        yield step, 0.5, 4, []
        yield step, 0.5, 0, [(0, 3), (3, 2), (8, 1)]
        yield step, 2.0, 9, [(2, 3), (6, 4)]
        yield step, 1.0, 3, [(4, 8), (5, 7), (6, 1), (7, 3)]


@rate_exam.property(1)
def the_past_stays(f: Function, rng: Rng) -> None:
    """What is announced changes no rate before its start."""
    peak, warmup, finishes = plan(rng)
    for count, (start, _) in enumerate(finishes):
        for step in (0, warmup - 1, start - 1):
            same(
                f(step, peak, warmup, finishes),
                f(step, peak, warmup, finishes[:count]),
                f"the rate of {step}",
            )
        expect(
            f(start, peak, warmup, finishes) < f(start, peak, warmup, finishes[:count]),
            f"{start} does not fall",
        )


@rate_exam.cost(0.5)
def no_walk(f: Function, rng: Rng) -> None:
    """The work does not grow with the number of the update."""
    f(5, 1.0, 2, [(3, 4)])  # what happens only once, such as an import
    small, large = (effort(f, n + 2, 1.0, 10, [(5, 3), (n, 8)]) for n in (100, 10_000))
    expect(large < small + 2000, "update 10,000 took far more work than update 100")
    same(f(10**15 + 1, 2.0, 10**15, [(10**15, 4)]), 1.0, "a rate far out")
