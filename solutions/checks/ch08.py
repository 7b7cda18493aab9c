"""Checks of chapter 8: a naive reference, known mistakes and checks for each exercise."""

import cmath
import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import same_operations

# 08.1


def naive_rms(x: Tensor, weight: Tensor, eps: float, offset: bool, /) -> Tensor:
    """Position by position, in Python's floats."""
    stretch = [w + offset for w in cast("list[float]", weight.tolist())]
    rows = list[list[float]]()
    for row in cast("list[list[float]]", x.double().reshape(-1, x.shape[-1]).tolist()):
        root = math.sqrt(math.fsum(n * n for n in row) / len(row) + eps)
        rows.append([n / root * w for n, w in zip(row, stretch, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape).to(x.dtype)


PACKAGE = "myllm.model.*"


rms_exam = Exam(
    "08.1",
    naive_rms,
)


rms_exam.example(
    1,
    (torch.tensor([[1.0, 7.0], [0.0, 0.0]]), torch.tensor([1.0, 2.0]), 75.0),
    torch.tensor([[0.1, 1.4], [0.0, 0.0]]),
)


@rms_exam.oracle(
    1.5,
    "the mean subtracted first",
    "the length in place of the mean square",
    "eps outside of the root",
    "the offset left out",
    "1 + weight in every case",
    "no root",
    "no eps",
    "one mean square for all positions",
    "the weight left out",
    "the offset added to the result",
)
def random_positions(rng: Rng) -> Iterator[tuple[Tensor, Tensor, float, bool]]:
    """A few positions, with an eps that is felt and one that is not, with and without offset."""
    for rows, size, eps in ((2, 3, 0.5), (4, 4, 2.0), (5, 8, 1e-5)):
        for offset in (False, True):
            yield rng.normal(rows, size) * 2 + 1, rng.normal(size), eps, offset
    yield rng.normal(2, 3, 6, dtype=torch.float64), rng.normal(6, dtype=torch.float64), 0.1, True


@rms_exam.edge(0.5)
def border_positions(rng: Rng) -> Iterator[tuple[Tensor, Tensor, float, bool]]:
    """Zeros, one number, no positions, one and four dimensions, a view."""
    weight = rng.normal(4)
    yield torch.zeros(2, 4), weight, 1e-6, False
    yield rng.normal(4), weight, 1e-6, True
    yield rng.normal(3, 1), weight[:1], 1e-5, False
    yield rng.normal(0, 4), weight, 1e-5, False
    yield rng.normal(2, 2, 3, 4), weight, 0.1, True
    yield rng.normal(4, 6).T, weight, 1e-3, False


@rms_exam.property(1)
def rounded_once(f: Function, rng: Rng) -> None:
    """In 16 bits the numbers are the exact ones, rounded once, at the end."""
    for offset, dtype in ((False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float16)):
        x, weight = (rng.normal(40, 64) * 300).to(dtype), (rng.normal(64) / 4).to(dtype)
        found = f(x, weight, 1e-5, offset)
        exact = naive_rms(x.double(), weight.double(), 1e-5, offset).to(dtype)
        same(found, exact, f"offset {offset}, {dtype}")
        expect(found.dtype == dtype, f"they are {found.dtype}")
        share = float((found == exact).double().mean())
        expect(share > 0.98, f"with offset {offset} only {share:.0%} of them are; compute in float32")


rms_exam.operations(0.5, "texts", (5, 200), lambda rng, n: (rng.normal(n, 2, 6), rng.normal(6), 1e-5))


rms_exam.conduct(
    0.5,
    PACKAGE,
    *(f"torch.{name}_norm" for name in ("rms", "layer", "native_layer", "group", "native_group")),
    *(f"torch.nn.functional.{name}" for name in ("rms_norm", "layer_norm", "group_norm", "normalize")),
)


# 08.2


def turned(
    pair: Callable[[int, int], tuple[int, int]] = lambda i, half: (i, i + half),
    angle: Callable[[int, int, int, float], float] = lambda p, i, D, theta: p * theta ** (-2 * i / D),
    place: Callable[[int, int, int], int] = lambda p, t, h: p,
) -> Function:
    """Turn by complex numbers; right unless the pairs, the angle or the position is another."""

    def turn(x: Tensor, positions: Tensor, theta: float) -> Tensor:
        H, T, D = x.shape[1:]
        result, at = x.double().clone(), cast("list[int]", positions.tolist())
        for h in range(H):
            for t in range(T):
                for i in range(D // 2):
                    one, two = pair(i, D // 2)
                    unit = cmath.rect(1, angle(place(at[t], t, h), i, D, theta))
                    a, b = x[:, h, t, one].double(), x[:, h, t, two].double()
                    result[:, h, t, one] = a * unit.real - b * unit.imag
                    result[:, h, t, two] = a * unit.imag + b * unit.real
        return result.to(x.dtype)

    return turn


def naive_rope(x: Tensor, positions: Tensor, theta: float, /) -> Tensor:
    """Pair by pair."""
    return turned()(x, positions, theta)


rope_exam = Exam(
    "08.2",
    naive_rope,
    tolerance=1e-5,
)


rope_exam.example(
    1,
    (torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), torch.tensor([0, 2]), 10_000.0),
    torch.tensor([[[[1.0, 0.0], [-0.4161468, 0.9092974]]]]),
)


@rope_exam.oracle(
    2,
    "neighbours as pairs",
    "a turn the other way",
    "frequencies that fall half as fast",
    "positions counted anew",
    "a plus where a minus belongs",
    "the same angle for all pairs",
    "a base of 10,000 whatever is given",
    "frequencies from slow to fast",
    "frequencies that grow",
    "the number of the head as position",
)
def random_turns(rng: Rng) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Positions in and out of order, several bases."""
    for H, T, D, theta in ((2, 3, 4, 100.0), (3, 4, 6, 500.0), (1, 5, 8, 50.0)):
        yield rng.normal(2, H, T, D), rng.integers(3, 20, T), theta
    yield rng.normal(1, 2, 4, 6, dtype=torch.float64), torch.arange(7, 11), 5e5


@rope_exam.property(1)
def relative_shift(f: Function, rng: Rng) -> None:
    """The score of a query and a key depends only on how far apart they are."""
    q, k = rng.normal(1, 1, 1, 8, dtype=torch.float64), rng.normal(1, 1, 1, 8, dtype=torch.float64)
    apart = rng.randint(1, 9)

    def score(at: int) -> float:
        pair = [(q, torch.tensor([at + apart])), (k, torch.tensor([at]))]
        one, two = (f(x, place, 10_000.0) for x, place in pair)
        same(one, naive_rope(q, pair[0][1], 10_000.0), f"a query at position {at + apart}")
        return float((one * two).sum())

    first = score(0)
    for at in (rng.randint(1, 50), rng.randint(1000, 5000)):
        same(score(at), first, f"a key at position {at}, {apart} before its query", tolerance=1e-6)


@rope_exam.edge(0.5)
def border_turns(rng: Rng) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Position 0, one pair, no tokens, a view."""
    yield rng.normal(1, 2, 3, 4), torch.zeros(3, dtype=torch.int64), 10_000.0
    yield rng.normal(2, 1, 3, 2), torch.tensor([5, 1, 5]), 10_000.0
    yield rng.normal(1, 2, 0, 4), torch.arange(0), 10_000.0
    yield rng.normal(2, 3, 4, 6).transpose(1, 2), torch.arange(3), 1000.0


@rope_exam.edge(0.5, "angles in float32")
def far_out(rng: Rng) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Positions of 100,000 and more."""
    yield rng.normal(1, 1, 4, 16), rng.integers(100_000, 1_000_000, 4), 10_000.0


rope_exam.operations(0.5, "tokens", (5, 200), lambda rng, T: (rng.normal(1, 2, T, 4), torch.arange(T), 1e4))


rope_exam.conduct(0.5, PACKAGE)


# 08.3


def naive_swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, /) -> Tensor:
    """Number by number; for SiLU, another writing: g / (1 + exp(-g))."""
    y = x.double()[..., None, :]
    g, u = (y * gate.double()).sum(-1), (y * up.double()).sum(-1)
    wide = g / (1 + torch.exp(-g)) * u
    return (wide[..., None, :] * down.double()).sum(-1).to(x.dtype)


LINEAR = "torch.nn.functional.linear"


swiglu_exam = Exam(
    "08.3",
    naive_swiglu,
    tolerance=1e-4,
)


swiglu_exam.example(
    0.5,
    (
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([[1.0], [10.0]]),
    ),
    torch.tensor([1.4621172, 14.621172]),
)


def weights(rng: Rng, C: int, F: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Random matrices for gate, up and down."""
    gate, up = rng.normal(2, F, C, dtype=dtype)
    return gate, up, rng.normal(C, F, dtype=dtype)


@swiglu_exam.oracle(
    1.5,
    "gate and up exchanged",
    "a sigmoid in place of SiLU",
    "a sum in place of the product",
    "weights used as (in, out)",
    "a ReLU in place of SiLU",
    "no bend",
    "both projections bent",
    "the product bent",
    "nothing behind the gate",
)
def random_networks(rng: Rng) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Narrow, square and wide networks."""
    yield rng.normal(2, 3, 4), *weights(rng, 4, 11)
    yield rng.normal(5, 3), *weights(rng, 3, 3)
    yield rng.normal(4, 6), *weights(rng, 6, 2)
    yield rng.normal(3, 2, 5, dtype=torch.float64), *weights(rng, 5, 16, torch.float64)


@swiglu_exam.edge(0.5, "a sigmoid of exponentials that overflow")
def border_networks(rng: Rng) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Large numbers, zeros, one position, no position, a view, a width of 1."""
    large = torch.tensor([[1e3, -1e3], [1e4, 1e4], [-1e6, 1e6]], dtype=torch.float64)
    yield large, *weights(rng, 2, 6, torch.float64)
    yield torch.zeros(2, 3), *weights(rng, 3, 5)
    yield rng.normal(4), *weights(rng, 4, 8)
    yield rng.normal(2, 0, 4), *weights(rng, 4, 8)
    yield rng.normal(2, 4, 3).transpose(1, 2), *weights(rng, 4, 1)


@swiglu_exam.property(0.5)
def a_closed_gate(f: Function, rng: Rng) -> None:
    """Where the gate is 0 nothing passes, and what passes grows in step with `up`."""
    x, (gate, up, down) = rng.normal(3, 4), weights(rng, 4, 9)
    once = f(x, gate, up, down)
    same(once, naive_swiglu(x, gate, up, down), "three positions", tolerance=1e-4)
    same(f(x, torch.zeros_like(gate), up, down), torch.zeros(3, 4), "a gate of zeros")
    same(f(x, gate, 2 * up, down), 2 * once, "twice the matrix `up`", tolerance=1e-4)


@swiglu_exam.cost(0.5)
def three_products(f: Function, rng: Rng) -> None:
    """The three matrix products are computed once each, for all positions together."""
    cases = [(texts, (rng.normal(texts, 2, 5), *weights(rng, 5, 20))) for texts in (3, 100)]
    for (texts, _), count in zip(cases, same_operations(f, "texts", cases), strict=True):
        rows = 2 * texts
        least = 3 * 2 * rows * 5 * 20
        expect(count.flops <= least, f"{rows} positions took {count.flops} FLOPs where {least} are enough.")


swiglu_exam.conduct(0.5, PACKAGE, LINEAR, "torch.nn.functional.silu", "torch.nn.functional.glu")


# 08.4


def scaled(result: Callable[[float, float, float, float, float], float]) -> Function:
    """Frequency by frequency; ``result`` takes it, its turns, the factor, low and high."""

    def scale(freq: Tensor, factor: float, original_context: int, low: float, high: float) -> Tensor:
        found = [
            result(f, original_context / (2 * math.pi / f), factor, low, high)
            for f in cast("list[float]", freq.tolist())
        ]
        return torch.tensor(found, dtype=torch.float64)

    return scale


def by_turns(f: float, turns: float, factor: float, low: float, high: float) -> float:
    """Right: three cases."""
    if turns >= high:
        return f
    if turns <= low:
        return f / factor
    slow = f / factor
    return slow + (f - slow) * (turns - low) / (high - low)


def naive_frequencies(
    freq: Tensor, factor: float, original_context: int, low: float, high: float, /
) -> Tensor:
    """One after the other, by three cases."""
    return scaled(by_turns)(freq, factor, original_context, low, high)


def by_wavelength(f: float, turns: float, factor: float, low: float, high: float) -> float:
    """Wrong: a straight line in the wavelength."""
    if turns >= high or turns <= low:
        return by_turns(f, turns, factor, low, high)
    keep = (1 / low - 1 / turns) / (1 / low - 1 / high)
    return keep * f + (1 - keep) * f / factor


FREQUENCY_MISTAKES: "Mistakes[[Tensor, float, int, float, float]]" = {
    "a straight line in the wavelength": (
        scaled(by_wavelength),
        "The line is straight in the number of turns, not in tokens per turn.",
    )
}


frequency_exam = Exam(
    "08.4",
    naive_frequencies,
)


TURN = 2 * math.pi


frequency_exam.example(
    0.5,
    (torch.tensor([0.1, 0.025, 0.01], dtype=torch.float64) * TURN, 8.0, 100, 1.0, 4.0),
    torch.tensor([0.1, 0.0140625, 0.00125], dtype=torch.float64) * TURN,
)


@frequency_exam.oracle(
    2,
    "all frequencies divided",
    "a step in place of the slope",
    "fast and slow exchanged",
    "radians in place of turns",
    "a slope without an end",
    "a product in place of the division",
    mistakes=FREQUENCY_MISTAKES,
)
def random_frequencies(rng: Rng) -> Iterator[tuple[Tensor, float, int, float, float]]:
    """Pairs of all three kinds: LLaMA 3.1's numbers, and others."""
    usual = 500_000.0 ** -(torch.arange(64, dtype=torch.float64) / 64)
    yield usual, 8.0, 8192, 1.0, 4.0
    for _ in range(3):
        low, context = rng.uniform(0.5, 3), rng.randint(50, 5000)
        high = low + rng.uniform(2, 9)
        turns = torch.tensor([high + 2, (low + high) / 2, low / 2, low + 0.3, high - 0.3, high * 5, low / 9])
        yield turns.double() * TURN / context, rng.uniform(2, 40), context, low, high


@frequency_exam.edge(0.5)
def border_frequencies(rng: Rng) -> Iterator[tuple[Tensor, float, int, float, float]]:
    """A factor of 1, no pair, one pair, only fast and only slow ones."""
    freq = torch.rand(5, dtype=torch.float64) + 0.01
    yield freq, 1.0, 100, 1.0, 4.0
    yield freq[:0], 8.0, 100, 1.0, 4.0
    yield freq[:1] * 0 + TURN * 0.02, 8.0, 100, 1.0, 4.0
    yield freq, 8.0, 10**6, 1.0, 4.0
    yield freq / 1e6, 8.0, 100, 1.0, 4.0


frequency_exam.operations(
    0.5,
    "pairs",
    (5, 200),
    lambda rng, n: (rng.normal(n, dtype=torch.float64).abs() + 0.001, 8.0, 100, 1.0, 4.0),
)


frequency_exam.conduct(0.5, PACKAGE, "transformers.*")
