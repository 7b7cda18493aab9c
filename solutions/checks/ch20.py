"""Checks of chapter 20: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same

PACKAGE = "myllm.finetuning.*"

# 20.1

Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, float]


def naive_advantages(
    rewards: Tensor,
    values: Tensor,
    after: Tensor,
    episode: Tensor,
    written: Tensor,
    ended: Tensor,
    discount: float,
    decay: float,
    /,
) -> tuple[Tensor, Tensor]:
    """Episode by episode, each advantage as a sum over all later errors."""
    white, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    raw: dict[tuple[int, int], float] = {}
    for b in range(len(rewards)):
        for number in {*episode[b].tolist()}:
            steps = [
                t for t in range(rewards.shape[1]) if episode[b, t].item() == number and bool(written[b, t])
            ]
            if not steps:
                continue
            told = values[b, steps].tolist()
            told.append(0.0 if ended[b, steps[-1]] else after[b, steps[-1]].item())
            paid: list[float] = rewards[b, steps].tolist()
            errors = [paid[i] + discount * told[i + 1] - told[i] for i in range(len(steps))]
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


SHOWN = (
    plain([0, 9, 1]),
    plain([0.25, 9, 0.75]),
    plain([9, 9, 9]),
    torch.tensor([[4, 4, 4]]),
    torch.tensor([[True, False, True]]),
    torch.tensor([[True, True, True]]),
    1.0,
    1.0,
)
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
    drawn = [torch.where(on > 0, rng.normal(B, T, dtype=torch.float64), hole) for on in (step, step, cut)]
    return (*drawn, numbers, step > 0, over > 0, rng.uniform(0.8, 0.95), rng.uniform(0.5, 0.9))  # type: ignore[return-value]


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
    yield (*rows[:4], empty, rows[5], rows[6], rows[7])
    for discount, decay in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        yield (*rows[:6], discount, decay)


@gae_exam.property(0.5)
def neighbours(f: Function, rng: Rng) -> None:
    """The returns of an episode do not change with the other episodes of its row."""
    for ends in (0.0, 1.0):
        rows = some_rows(rng, (1, 20), 0.7, ends)
        for number in {*rows[3][0].tolist()} - {-1}:
            own = rows[3] == number
            alone: Any = f(rows[0], rows[1], rows[2], rows[3], rows[4] & own, rows[5], rows[6], rows[7])
            both: Any = f(*rows)
            same(both[1][own], alone[1][own], f"the returns of the episode {number}")


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


def naive_diagnosis(
    noted: Tensor,
    ids: Tensor,
    written: Tensor,
    logits: dict[str, Tensor],
    stop: int,
    temperatures: list[float],
    nuclei: list[float],
    /,
) -> tuple[str, float, float]:
    """Token by token."""
    rows = [[t for t in range(ids.shape[1]) if written[r, t]] for r in range(len(ids))]
    tokens, told = ids.tolist(), noted.tolist()
    numbers = {name: x.tolist() for name, x in logits.items()}

    def apart(name: str, r: int, t: int, late: int = 0, **options: float) -> float:
        return abs(naive_score(numbers[name][r][t - late], tokens[r][t - late], **options) - told[r][t])

    def worst(name: str = "train", **options: float) -> float:
        return max(apart(name, r, t, **options) for r, row in enumerate(rows) for t in row)

    early = list[float]()
    for r, row in enumerate(rows):
        ends = [t for t in row if tokens[r][t] == stop] or [row[-1]]
        early += [apart("train", r, t) for t in row if t <= ends[0]]
    late = max(apart("train", r, t, 1) for r, row in enumerate(rows) for t in row[1:])
    found: list[tuple[str, float, float]] = [("none", 1.0, worst()), ("mask", 1.0, max(early))]
    found += [("late", 1.0, late), ("dropout", 1.0, worst("eval")), ("stale", 1.0, worst("old"))]
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
            scores = [naive_score(told[r, t].tolist(), i, **how) for i in range(V)]
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
    noted, ids, written, *rest = scene(rng)
    noted[1, written[1].long().argmax()] += rng.choice([-0.01, 0.01])
    yield noted, ids, written, *rest
    noted, ids, written, logits, *rest = scene(rng, temperature=0.7)
    cold = torch.log_softmax(logits["train"] / 1.3, -1).gather(-1, ids[..., None])[..., 0]
    noted[1] = torch.where(written[1], cold[1], noted[1])
    yield noted, ids, written, logits, *rest
    yield scene(rng, temperature=0.9)
    noted, ids, written, *rest = scene(rng)
    noted[1:] = torch.where(written & (ids == 0), 0.0, noted)[1:]
    yield noted, ids, written, *rest


@cause_exam.edge(1)
def border_scenes(rng: Rng) -> Iterator[Scene]:
    """One completion, two tokens, no settings."""
    yield (*scene(rng, R=1)[:5], [], [])
    yield (*scene(rng, temperature=1.3)[:5], [], [0.9])
    noted, ids, written, *rest = scene(rng, rng.choice(["late", "dropout", "stale"]), V=3)
    yield noted, ids, written & (written.cumsum(1) < 3), *rest
    yield scene(rng, "mask", R=2)


cause_exam.conduct(0.5, PACKAGE, "myllm.inference.*")
