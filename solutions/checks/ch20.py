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
