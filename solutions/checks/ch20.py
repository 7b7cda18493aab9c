"""Checks of chapter 20: a naive reference, known mistakes and checks for each exercise."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same

PACKAGE = "myllm.finetuning.*"

# 20.1

Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, float]


def naive_advantages(*rows: Any) -> tuple[Tensor, Tensor]:
    """Episode by episode, each advantage as a sum over all later errors."""
    rewards, values, after, episode, written, ended, discount, decay = rows
    white, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    raw: dict[tuple[int, int], float] = {}
    for b in range(len(rewards)):
        for number in episode[b].unique():
            steps = [t for t in range(rewards.shape[1]) if written[b, t] and episode[b, t] == number]
            told: list[float] = values[b, steps].tolist()
            told += [0.0 if ended[b, t] else after[b, t].item() for t in steps[-1:]]
            errors = [rewards[b, t].item() + discount * told[i + 1] - told[i] for i, t in enumerate(steps)]
            for i, t in enumerate(steps):
                raw[b, t] = sum((discount * decay) ** k * error for k, error in enumerate(errors[i:]))
                returns[b, t] = raw[b, t] + told[i]
    mean = math.fsum(raw.values()) / len(raw)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in raw.values()) / len(raw))
    for place, x in raw.items():
        white[place] = (x - mean) / (deviation + 1e-8)
    return white, returns


gae_exam = Exam("20.1", naive_advantages, tolerance=1e-6)


def plain(numbers: list[float]) -> Tensor:
    """One row, float64."""
    return torch.tensor([numbers], dtype=torch.float64)


NUMBER, STEP = torch.tensor([[4, 4, 4]]), torch.tensor([[True, False, True]])
SHOWN = plain([0, 9, 1]), plain([0.25, 9, 0.75]), plain([9, 9, 9]), NUMBER, STEP, NUMBER > 0, 1.0, 1.0
gae_exam.example(1, SHOWN, (plain([1, 0, -1]), plain([1, 0, 1])))


def some_rows(rng: Rng, shape: tuple[int, int], share: float, ends: float, hole: float = 9.0) -> Rows:
    """Rows of episodes of 3 to 6 tokens with padding between them; what nobody may read is a hole.

    A share of the tokens is written, and a share of the episodes has ended.
    """
    B, T = shape
    numbers, over, step, cut = (torch.zeros(B, T, dtype=torch.int64) for _ in range(4))
    for b in range(B):
        free, t = rng.sample(range(50), T), 0
        numbers[b] = -1
        while t < T:
            size, end = rng.randint(3, 6), rng.random() < ends
            own = range(t, min(t + size, T))
            numbers[b, t : t + size] = free.pop()
            over[b, t : t + size] = end
            steps = [i for i in own if rng.random() < share] or [own[0]]
            step[b, steps] = 1
            cut[b, steps[-1]] = not end
            t += size + rng.randint(0, 1)
    a, b, c = (torch.where(on > 0, rng.normal(B, T, dtype=torch.float64), hole) for on in (step, step, cut))
    return a, b, c, numbers, step > 0, over > 0, rng.uniform(0.8, 0.95), rng.uniform(0.5, 0.9)


@gae_exam.oracle(2)
def random_rows(rng: Rng) -> Iterator[Rows]:
    """Rows of two to four episodes, cut and ended ones, with given tokens between the steps."""
    for B in (2, 3, 4):
        yield some_rows(rng, (B, 24), 0.6, 0.5)


@gae_exam.edge(1, "given tokens times 0")
def holes(rng: Rng) -> Iterator[Rows]:
    """NaN and infinity wherever nobody may read."""
    yield some_rows(rng, (2, 18), 0.6, 0.5, math.nan)
    yield some_rows(rng, (2, 18), 0.6, 0.5, math.inf)


@gae_exam.edge(1, "a value expected after the end", "a cut that counts as an end")
def one_kind(rng: Rng) -> Iterator[Rows]:
    """All tokens are written; all episodes have ended, or all were cut."""
    yield some_rows(rng, (2, 20), 1.0, 1.0)
    yield some_rows(rng, (2, 20), 1.0, 0.0)


@gae_exam.edge(0.5)
def border_rows(rng: Rng) -> Iterator[Rows]:
    """One token, one step in a row, rows without a step, discount and decay of 0 and 1."""
    yield (*SHOWN[:4], torch.tensor([[False, False, True]]), SHOWN[5], 0.9, 0.9)
    yield some_rows(rng, (1, 1), 1.0, rng.choice([0.0, 1.0]))
    rows = some_rows(rng, (3, 15), 0.5, 0.5)
    empty = rows[4] & torch.tensor([[True], [False], [True]])
    yield (*rows[:4], empty, *rows[5:])
    for discount, decay in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        yield (*rows[:6], discount, decay)


@gae_exam.property(0.5)
def neighbours(f: Function, rng: Rng) -> None:
    """The returns of an episode do not change with the other episodes of its row."""
    for ends in (0.0, 1.0):
        rows = some_rows(rng, (1, 20), 0.7, ends)
        for number in {int(one) for one in rows[3][0]} - {-1}:
            own = torch.eq(rows[3], number)
            alone: Any = f(*rows[:4], rows[4] & own, *rows[5:])
            same(f(*rows)[1][own], alone[1][own], f"the returns of the episode {number}")


gae_exam.operations(0.5, "rows", (3, 60), lambda rng, n: some_rows(rng, (n, 12), 0.6, 0.5))
gae_exam.conduct(0.5, PACKAGE)

# 20.2

Scene = tuple[Tensor, Tensor, Tensor, dict[str, Tensor], int, list[float], list[float]]


def naive_score(logits: list[float], token: int, temperature: float = 1.0, p: float = 1.0) -> float:
    """The log-probability of one token."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    total, kept = sum(weights), list[int]()
    for i in sorted(range(len(weights)), key=lambda i: -weights[i]):
        if p == 1 or sum(weights[j] for j in kept) < p * total:
            kept.append(i)
    return math.log(weights[token] / sum(weights[j] for j in kept)) if token in kept else -math.inf


def naive_diagnosis(*scene: Any) -> tuple[str, float, float]:
    """Token by token."""
    noted, ids, written, logits, stop, temperatures, nuclei = scene
    rows = [[t for t in range(ids.shape[1]) if written[r, t]] for r in range(len(ids))]
    told: list[list[float]] = noted.tolist()

    def apart(name: str, r: int, t: int, late: int, how: dict[str, float]) -> float:
        token = int(ids[r, t - late])
        return abs(naive_score(logits[name][r, t - late].tolist(), token, **how) - told[r][t])

    def worst(name: str = "train", **how: float) -> float:
        return max(apart(name, r, t, 0, how) for r, row in enumerate(rows) for t in row)

    early, late = list[float](), list[float]()
    for r, row in enumerate(rows):
        ends = [t for t in row if ids[r, t] == stop] or [row[-1]]
        early += [apart("train", r, t, 0, {}) for t in row if t <= ends[0]]
        late += [apart("train", r, t, 1, {}) for t in row[1:]]
    found: list[tuple[str, float, float]] = [("none", 1.0, worst()), ("mask", 1.0, max(early))]
    found += [("late", 1.0, max(late)), ("dropout", 1.0, worst("eval")), ("stale", 1.0, worst("old"))]
    found += [("temperature", x, worst(temperature=x)) for x in temperatures]
    found += [("top-p", x, worst(p=x)) for x in nuclei]
    cause, setting = next(((name, x) for name, x, far in found if far <= 1e-5), ("unknown", 1.0))
    return cause, setting, worst()


cause_exam = Exam("20.2", naive_diagnosis, tolerance=1e-6)
QUARTER = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]], dtype=torch.float64).log()
THREE = {"train": QUARTER, "eval": QUARTER, "old": -QUARTER}
DRAWN = plain([0.9, 0.9]).log(), torch.tensor([[1, 1]]), torch.tensor([[True, True]])
cause_exam.example(1, (*DRAWN, THREE, 5, [0.5, 0.7], [0.9]), naive_diagnosis(*DRAWN, THREE, 5, [0.5], []))


def scene(rng: Rng, cause: str = "none", R: int = 3, V: int = 6, **how: float) -> Scene:
    """Completions with one fault; all but the first have their end token at last, or before it for a mask.

    How tokens were drawn: at a ``temperature``, or from a nucleus of ``p``.
    """
    T, stop = 12, 0
    train, old, drop = (rng.normal(R, T, V, dtype=torch.float64) * 1.5 for _ in range(3))
    logits = {"train": train, "eval": train + drop * (cause == "dropout"), "old": old}
    told = logits[{"dropout": "eval", "stale": "old"}.get(cause, "train")]
    ids, written = rng.integers(1, V, R, T), torch.zeros(R, T, dtype=torch.bool)
    noted = torch.full((R, T), math.nan, dtype=torch.float64)
    for r in range(R):
        first, size = rng.randint(2, 4), rng.randint(4, 6)
        own = range(first, first + size)
        written[r, own] = True
        ids[r, [0, first - 1, first + size]] = stop  # in the prompt, and in the padding
        if r > 0:
            ids[r, own[-3 if cause == "mask" else -1]] = stop
        for t in own:
            scores = [naive_score([x.item() for x in told[r, t]], i, **how) for i in range(V)]
            if scores[int(ids[r, t])] == -math.inf:
                ids[r, t] = rng.choice([i for i in range(V) if scores[i] > -math.inf])
            noted[r, t] = scores[int(ids[r, t])] + rng.uniform(-2e-6, 2e-6)
        if cause == "mask" and r > 0:
            noted[r, own[-2:]] = 0.0
        if cause == "late":
            noted[r, own] = noted[r, own].roll(1)
    return noted, ids, written, logits, stop, [0.7, 1.3], [0.5, 0.8]


@cause_exam.oracle(3)
def random_scenes(rng: Rng) -> Iterator[Scene]:
    """Each cause once or twice, and none."""
    for cause in ("none", "mask", "late", "dropout", "stale"):
        yield scene(rng, cause)
    for temperature in (0.7, 1.3):
        yield scene(rng, temperature=temperature)
    for p in (0.5, 0.8):
        yield scene(rng, p=p)


OTHERS = "a temperature for each completion", "an end token that is not compared"


@cause_exam.edge(1.5, *OTHERS)
def other_causes(rng: Rng) -> Iterator[Scene]:
    """Causes that have no name: one token, two temperatures, another temperature, the end token not noted."""
    for _ in range(2):
        one = scene(rng)
        one[0][1, one[2][1].long().argmax()] += rng.choice([-0.01, 0.01])
        yield one
    two = scene(rng, temperature=0.7)
    warm = torch.log_softmax(two[3]["train"] / 1.3, -1).gather(-1, two[1][..., None])[..., 0]
    yield torch.where(torch.arange(3)[:, None] == 1, warm, two[0]), *two[1:]
    yield scene(rng, temperature=0.9)
    end = scene(rng)
    yield torch.where((end[1] == 0) & (torch.arange(3)[:, None] > 0), 0.0, end[0]), *end[1:]


@cause_exam.edge(1)
def border_scenes(rng: Rng) -> Iterator[Scene]:
    """One completion, two tokens, no settings."""
    yield (*scene(rng, R=1)[:5], [], [])
    yield (*scene(rng, temperature=1.3)[:5], [], [0.9])
    few = scene(rng, rng.choice(["late", "dropout", "stale"]), V=3)
    yield (*few[:2], few[2] & (few[2].cumsum(1) < 3), *few[3:])
    yield scene(rng, "mask", R=2)


cause_exam.conduct(0.5, PACKAGE, "myllm.inference.*")

# 20.3

Row = dict[str, Any]
Seeds = tuple[list[Row], str, int, float]


def naive_method(rows: list[Row], base: str, budget: int, factor: float, /) -> tuple[Any, ...]:
    """Every run is looked for in the table; means are fractions."""
    methods = sorted({one["method"] for one in rows})

    def runs(method: str) -> dict[int, Row]:
        found: dict[int, Row] = {}
        for one in sorted(rows, key=lambda one: -one["completions"]):
            if one["method"] == method and one["completions"] <= budget:
                found.setdefault(one["seed"], one)
        return found

    better: list[tuple[Any, str, tuple[float, float]]] = []
    rewards: list[tuple[Any, str]] = []
    for method in methods:
        mine, theirs = runs(method), runs(base)
        if mine:
            rewards.append((-sum(Fraction(one["reward"]) for one in mine.values()) / len(mine), method))
        pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
        apart = [Fraction(a["right"], a["asked"]) - Fraction(b["right"], b["asked"]) for a, b in pairs]
        if method == base or len(apart) < 2:
            continue
        m, n = sum(apart) / len(apart), len(apart)
        half = factor * math.sqrt(sum((d - m) ** 2 for d in apart) / (n - 1) / n)
        if m > half:
            better.append((-m, method, (float(m) - half, float(m) + half)))
    found = min(better, default=(0, base, (0.0, 0.0)))
    return found[1], found[2], min(rewards)[1]


method_exam = Exam("20.3", naive_method, tolerance=1e-9)


def row(name: str, seed: int, right: int, reward: float = 0.5, n: int = 1000, asked: int = 128) -> Row:
    """A measurement after n completions."""
    told = {"completions": n, "reward": reward, "right": right, "asked": asked}
    return {"method": name, "seed": seed} | told


SHORT = [row("a", 1, 1, 0.9, 90, 8), row("a", 2, 2, 0.8, 90, 8), row("b", 1, 8, 0.1, 95, 8)]
LATER = [row("b", 1, 3, 0.6, 80, 8), row("b", 2, 6, 0.7, 90, 8)]
method_exam.example(1, (SHORT + LATER, "a", 90, 1.0), ("b", (0.25, 0.5), "a"))


def some_runs(rng: Rng, moves: dict[str, list[int]], rewards: dict[str, float]) -> Seeds:
    """Three measurements of each run: too early, on time, and too late; seeds lie far apart.

    A method's moves are its right answers less those of the base at the same seed.
    """
    rows: list[Row] = []
    seeds = rng.sample(range(100), 4)
    levels = rng.sample([60, 75, 90, 105], 4)
    for method, more in moves.items():
        for seed, level, step in zip(seeds, levels, more, strict=False):
            right = level + step
            rows.append(row(method, seed, right, rewards[method] + rng.uniform(0.0, 0.01)))
            rows.append(row(method, seed, right + rng.randint(1, 9), 0.3, rng.randint(400, 900)))
            rows.append(row(method, seed, 120, 0.99, rng.randint(1001, 1500)))
    rng.shuffle(rows)
    return rows, "grpo", 1000, rng.uniform(2.5, 3.0)


@method_exam.oracle(2)
def random_methods(rng: Rng) -> Iterator[Seeds]:
    """A steady small gain, a larger one, one that is larger still and of one seed, and a high reward."""
    for _ in range(3):
        steady = [rng.randint(3, 4) for _ in range(4)]
        moves = {"grpo": [0] * 4, "cispo": steady, "dapo": [15, 1, 14, 2], "rloo": [40, -5, 3, 1]}
        rewards = {"grpo": 0.5, "cispo": 0.4, "dapo": 0.3, "rloo": 0.6}
        yield some_runs(rng, moves, rewards)
        moves |= {"dapo": [12, 4, 9, 3], "gspo": [-9, -12, -14, -3]}
        yield some_runs(rng, moves, rewards | {"gspo": rng.uniform(0.7, 0.9)})


@method_exam.edge(1, "a method compared by a single seed", "seeds that the base does not have")
def lonely_seeds(rng: Rng) -> Iterator[Seeds]:
    """Methods with one seed, with other seeds than the base, and with one that they share."""
    more = [row("grpo", seed, right) for seed, right in ((1, 40), (2, 50), (3, 60))]
    yield [*more, row("dapo", 1, 90), row("cispo", 9, 99, 0.9)], "grpo", 1000, 2.0
    steady = [row("rloo", seed, right) for seed, right in ((1, 45), (2, 56))]
    far = [row("dapo", seed, right, 0.7) for seed, right in ((1, 44), (2, 54), (8, 100))]
    far += [row("gspo", seed, right) for seed, right in ((7, 80), (8, 81), (9, 82))]
    yield [*more, *steady, *far], "grpo", 1000, rng.uniform(2.0, 3.0)


@method_exam.edge(1, "a budget that must not be reached", "names in reverse")
def equal_methods(rng: Rng) -> Iterator[Seeds]:
    """Equal means, equal rewards, budgets that are just reached."""
    rows = [row("grpo", seed, right) for seed, right in ((1, 32), (2, 64), (3, 48))]
    rows += [row("dapo", seed, right) for seed, right in ((3, 58), (1, 40), (2, 70))]
    rows += [row("cispo", seed, right) for seed, right in ((1, 42), (2, 72), (3, 54))]
    yield rows, "grpo", 1000, 2.0
    early = [one | {"completions": 999, "right": one["right"] // 2} for one in rows]
    yield rows + early, "grpo", rng.choice([999, 1000]), 2.0
    yield rng.sample(rows + early, 18), "grpo", 1000, 1.5


@method_exam.edge(1)
def border_methods(rng: Rng) -> Iterator[Seeds]:
    """The base alone, none that is better, differences that are all equal, another base."""
    yield [row("a", 1, 3)], "a", 1000, 2.0
    one = some_runs(rng, {"grpo": [0] * 4, "dapo": [40, -5, 3, 1]}, {"grpo": 0.3, "dapo": 0.5})
    yield one
    yield one[0], "dapo", *one[2:]
    even = {"grpo": [0] * 4, "dapo": [2] * 4, "gspo": [0] * 4}
    yield some_runs(rng, even, {"grpo": 0.3, "dapo": 0.2, "gspo": 0.1})


# 20.4

Bill = tuple[dict[str, Any], list[float]]


def naive_bill(plan: dict[str, Any], shares: list[float], /) -> dict[str, float]:
    """Prompt by prompt and completion by completion; silent groups by all their outcomes."""
    ppo, n, extra = plan["method"] == "ppo", plan["policy"], plan["adapter"]
    critic, judge = (plan["value"] if ppo else 0), plan["reward"]
    found = dict.fromkeys(("bytes", "write", "score", "update"), 0) | {"silent": 0.0}
    found["bytes"] = 16 * critic + 2 * judge + (16 * extra + 2 * n if extra else 16 * n)
    if plan["beta"] > 0 and extra == 0:
        found["bytes"] += 2 * n
    for p in shares:
        found["write"] += plan["prompt"] * 2 * (n + extra)
        for _ in range(plan["group"]):
            found["write"] += (plan["length"] - 1) * 2 * (n + extra)
            for size in (n if plan["beta"] > 0 else 0, critic, judge):
                found["score"] += (plan["prompt"] + plan["length"]) * 2 * size
            once = 2 * (n + extra) + 2 * (n + extra) + 2 * (extra if extra else n) + 6 * critic
            found["update"] += (plan["prompt"] + plan["length"]) * once * plan["epochs"]
        right = wrong = 1.0
        for _ in range(plan["group"]):
            right, wrong = right * p, wrong * (1 - p)
        found["silent"] += 0.0 if ppo else plan["group"] * (right + wrong)
    return found


bill_exam = Exam("20.4", naive_bill, tolerance=1e-9)
TINY = {"policy": 10, "adapter": 0, "value": 10, "reward": 5, "beta": 0.0, "group": 2, "prompt": 3}
COSTS = {"bytes": 170, "write": 180, "score": 140, "update": 840, "silent": 1.0}
bill_exam.example(1, (TINY | {"length": 4, "method": "grpo", "epochs": 1}, [0.5]), COSTS)


def some_plan(rng: Rng, method: str, adapter: bool, beta: float, prompts: int = 4, **more: int) -> Bill:
    """A phase."""
    policy = rng.randint(500, 900)
    plan: dict[str, Any] = {"method": method, "policy": policy, "adapter": adapter * rng.randint(10, 40)}
    plan |= {"value": rng.randint(200, 400), "reward": rng.randint(100, 180), "beta": beta}
    plan |= {"group": rng.randint(3, 6), "prompt": rng.randint(20, 50), "length": rng.randint(60, 90)}
    return plan | {"epochs": rng.randint(2, 4)} | more, [rng.uniform(0.02, 0.98) for _ in range(prompts)]


@bill_exam.oracle(2.5)
def random_bills(rng: Rng) -> Iterator[Bill]:
    """PPO and GRPO, with and without an adapter, with and without a reference."""
    for method in ("ppo", "grpo"):
        for adapter in (False, True):
            for beta in (0.0, rng.uniform(0.01, 0.1)):
                yield some_plan(rng, method, adapter, beta)


@bill_exam.edge(1.5, "the mean of the shares")
def uneven_prompts(rng: Rng) -> Iterator[Bill]:
    """Prompts that are always solved, never solved, and solved now and then."""
    for shares in ([0.0, 1.0], [0.0, 0.5, 1.0], [1.0, 0.9, 0.2, 0.0]):
        plan, _ = some_plan(rng, "grpo", False, 0.1)
        yield plan, rng.sample(shares, len(shares))


@bill_exam.edge(1)
def border_bills(rng: Rng) -> Iterator[Bill]:
    """A group of one, a verifier, one token, one epoch, one prompt."""
    for method in ("ppo", "grpo"):
        yield some_plan(rng, method, False, 0.0, 1, group=1, epochs=1, reward=0)
        yield some_plan(rng, method, True, 0.1, 2, group=1, length=1, prompt=1)
        yield some_plan(rng, method, False, 0.1, 3, reward=0)


@bill_exam.property(0.5)
def free_reference(f: Function, rng: Rng) -> None:
    """With an adapter, a reference costs no memory, and computation only where completions are scored."""
    plan, shares = some_plan(rng, rng.choice(["ppo", "grpo"]), True, 0.0)
    without, found = f(plan, shares), f(plan | {"beta": 0.05}, shares)
    for key in ("bytes", "write", "update", "silent"):
        same(found[key], without[key], key)
    expect(found["score"] > without["score"], "a reference that scores nothing")


bill_exam.conduct(0.5, PACKAGE, "myllm.accounting.*")

# 20.5

Game = tuple[list[int], int, str, bool]
OPEN, CLOSE = "<answer>", "</answer>"


def naive_value(answer: str) -> Fraction | None:
    """The value of an expression; its grammar is checked by crossing out one operator after the other."""
    form = re.sub(r"[0-9]+", "n", answer).replace(" ", "")
    while (shorter := re.sub(r"n[-+*/]n|\(n\)", "n", form, count=1)) != form:
        form = shorter
    if form != "n" or any(str(int(one)) != one for one in re.findall("[0-9]+", answer)):
        return None
    try:
        return eval(re.sub(r"([0-9]+)", r"F(\1)", answer.strip()), {"F": Fraction})
    except ZeroDivisionError:
        return None


def naive_verified(numbers: list[int], target: int, text: str, ended: bool, /) -> float:
    """Split at the tags."""
    parts = re.split(f"({OPEN}|{CLOSE})", text)
    if not ended or parts[1::2] != [OPEN, CLOSE] or parts[4].strip() != "":
        return 0.0
    answer = parts[2]
    if len(answer) > 100 or not {*answer} <= {*"0123456789+-*/() "}:
        return 0.0
    used = sorted(int(one) for one in re.findall("[0-9]+", answer))
    return 1.0 if naive_value(answer) == target and used == sorted(numbers) else 0.0


verifier_exam = Exam("20.5", naive_verified)
FAMOUS = "8 / (3 - 8 / 3)"
verifier_exam.example(0.5, ([3, 3, 8, 8], 24, f"I try this: {OPEN}{FAMOUS}{CLOSE}", True), 1.0)
verifier_exam.example(0.5, ([3, 3, 8, 8], 24, f"{OPEN}3 * 8{CLOSE}", True), 0.0)


def tagged(answer: str, before: str = "", after: str = "") -> str:
    """A completion."""
    return f"{before}{OPEN}{answer}{CLOSE}{after}"


def expression(rng: Rng, numbers: list[int]) -> str:
    """A random expression of these numbers, in this order, with and without parentheses and spaces."""
    if len(numbers) == 1:
        return str(numbers[0]) if rng.random() < 0.8 else f"( {numbers[0]})"
    cut = rng.randint(1, len(numbers) - 1)
    space = rng.choice(["", " "])
    both = space + rng.choice("+-*/") + space
    found = expression(rng, numbers[:cut]) + both + expression(rng, numbers[cut:])
    return found if rng.random() < 0.6 else f"({found})"


def some_game(rng: Rng, n: int, most: int = 20) -> tuple[list[int], int, str]:
    """Numbers, a target that they reach, and an expression of them."""
    while True:
        numbers = [rng.randint(1, most) for _ in range(n)]
        answer = expression(rng, numbers)
        value = naive_value(answer)
        if value is not None and value.denominator == 1:
            return rng.sample(numbers, n), int(value), answer


@verifier_exam.oracle(1)
def random_answers(rng: Rng) -> Iterator[Game]:
    """Right answers of one to six numbers, wrong targets, white space, work before the answer."""
    for n in (1, 2, 3, 4, 6):
        numbers, target, answer = some_game(rng, n)
        yield numbers, target, tagged(answer, "12 - (", rng.choice(["", "\n", " \t"])), True
        yield numbers, target + rng.choice([-1, 1]), tagged(answer), True
    for answer, target in (("2+3*4", 14), ("2+3*4", 20), ("4*2-3", 5), ("2-3-4", -5), ("2-3-4", 3)):
        yield [int(one) for one in re.findall("[0-9]", answer)], target, tagged(f" {answer} "), True


FORMAT = "an answer that has not ended", "one of several answers that is right", "words after the answer"


@verifier_exam.edge(1.5, *FORMAT, "tags in the wrong order")
def formats(rng: Rng) -> Iterator[Game]:
    """Right expressions in completions of which one pays."""
    numbers, target, answer = some_game(rng, 3)
    right, wrong = tagged(answer), tagged("1")
    yield numbers, target, right, False
    texts = [wrong + right, right + wrong, right + right, OPEN + right, right + CLOSE, CLOSE + right, ""]
    texts += [answer, OPEN + answer, answer + CLOSE, CLOSE + answer + OPEN, right.upper(), right + " \n"]
    for text in [*texts, *(right + after for after in (".", "\n\nor not", "</think>"))]:
        yield numbers, target, text, True


NUMBERS = "numbers that are left out", "numbers used more than once", "digits with spaces between"


@verifier_exam.edge(1, *NUMBERS)
def other_numbers(rng: Rng) -> Iterator[Game]:
    """Numbers that are missing, too many, glued, written with zeros, and digits that are no ASCII."""
    a, b = rng.sample(range(2, 9), 2)
    c = 10 * a + b
    tried = [([a, b, 7], a * b, f"{a}*{b}"), ([a, b], c, f"{a}{b}"), ([c], c, f"{a} {b}")]
    tried += [([a, b], a * b + a, f"{a}*{b}+{a}"), ([a, a, b], a + b, f"{a}+{b}"), ([0, a], a, f"0+{a}")]
    tried += [([0, a], a, f"00+{a}")]
    tried += [([a, b], 2 * b, f"{a}+{b}+{b}-{a}"), ([10 * c, 0], 10 * c, f"{10 * c} - 0")]
    for answer in (f"0{a}+{b}", f"{a}+00{b}", f"{a}.0+{b}", f"{a}_+{b}", f"{a}+{chr(0x660 + b)}"):
        tried.append(([a, b], a + b, answer))
    yield from ((numbers, target, tagged(answer), True) for numbers, target, answer in tried)


VALUES = "values that are nearly the target", "values that are rounded", "quotients without a rest"


@verifier_exam.edge(1, *VALUES, "signs before numbers")
def values(rng: Rng) -> Iterator[Game]:
    """Exact fractions, values near the target, divisions by 0, signs, operators of Python, no operators."""
    a, b = rng.sample(range(2, 9), 2)
    c, d = 2 * a + 1, b - a
    tried = [([3, 3, 8, 8], 24, FAMOUS), ([1, 49, 49], 1, "1/49*49"), ([c, a, b], 2 + b, f"{c}/{a}+{b}")]
    tried += [
        ([a, 1, 1000000007], a, f"{a}+1/1000000007"),
        ([a, b, b], 0, f"{a}/({b}-{b})"),
        ([0, 0], 0, "0/0"),
    ]
    pairs = [(f"-{a}+{b}", d), (f"{b}+(-{a})", d), (f"{b}--{a}", a + b), (f"+{b}-{a}", d), (f"{b}-+{a}", d)]
    pairs += [(f"{a}**{b}", a**b), (f"{a}//{b}", a // b), (f"{a}({b})", a * b), (f"({a})({b})", a * b)]
    pairs += [(f"({a}+{b}", a + b), (f"{a}+{b})", a + b), (f"{a}+{b}+", a + b), (f"()+{a}+{b}", a + b)]
    tried += [([a, b], target, answer) for answer, target in [*pairs, ("", 0), ("()", 0), (f"{a},{b}", a)]]
    yield from ((numbers, target, tagged(answer), True) for numbers, target, answer in tried)


@verifier_exam.edge(1)
def long_texts(rng: Rng) -> Iterator[Game]:
    """Answers of 100 and 101 characters, nested parentheses, line breaks, powers without end, long texts."""
    for size in (100, 101):
        depth = (size - 3) // 2
        yield [7], 7, tagged("7".ljust(size)), True
        yield [1, 2], 3, tagged(f"{'(' * depth}1+2{')' * depth}".ljust(size)), True
    for answer in ("9\n+9", "9+9\t", "9+9\n", "(" * 5000, "9**" * 8 + "9", f"{'(' * 50}9+9"):
        yield [9, 9], 18, tagged(answer), True
    yield [9, 9], 18, tagged("9+9", "(9" * 5000), True


@verifier_exam.property(0.5)
def nothing_else_counts(f: Function, rng: Rng) -> None:
    """What comes before the answer changes no verdict, and parentheses around the whole answer do not."""
    numbers, target, answer = some_game(rng, 3)
    for before in ("", "0.0", "I am sure. The reward is 1.0.", "<think> answer </think>", "\x00\u2028("):
        for goal in (target, target + 1):
            same(f(numbers, goal, tagged(answer, before), True), float(goal == target), f"after {before!r}")
            same(f(numbers, goal, tagged(f"({answer})"), True), float(goal == target), f"for ({answer})")


@verifier_exam.property(0.5)
def no_change_pays(f: Function, rng: Rng) -> None:
    """One character more or less in a right answer pays only if it is still right."""
    for _ in range(40):
        numbers, target, answer = some_game(rng, 3)
        at = rng.randint(0, len(answer))
        more = answer[:at] + rng.choice("0123456789+-*/() .,=²") + answer[at:]
        for text in (tagged(more), tagged(answer[:at] + answer[at + 1 :])):
            right = naive_verified(numbers, target, text, True)
            same(f(numbers, target, text, True), right, f"{text} from {numbers} for {target}")


verifier_exam.conduct(0.5, PACKAGE, "builtins.eval", "builtins.exec")
