"""Checks of chapter 8: a naive reference, known mistakes and checks for each exercise."""

import cmath
import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import measure

# 08.1


def naive_rms(x: Tensor, weight: Tensor, eps: float, offset: bool, /) -> Tensor:
    """Position by position, in Python's floats."""
    stretch = [w + offset for w in cast("list[float]", weight.tolist())]
    rows = list[list[float]]()
    for row in cast("list[list[float]]", x.double().reshape(-1, x.shape[-1]).tolist()):
        root = math.sqrt(math.fsum(n * n for n in row) / len(row) + eps)
        rows.append([n / root * w for n, w in zip(row, stretch, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape).to(x.dtype)


def normed(change: Callable[[Tensor, float], Tensor]) -> Function:
    """Wrong: ``change`` normalizes in another way, in float64."""

    def wrong(x: Tensor, weight: Tensor, eps: float, offset: bool = False) -> Tensor:
        return (change(x.double(), eps) * (weight.double() + float(offset))).to(x.dtype)

    return wrong


def square(x: Tensor) -> Tensor:
    """Right: the mean square."""
    return x.square().mean(-1, keepdim=True)


def layer_normed(x: Tensor, eps: float) -> Tensor:
    """Wrong: the mean subtracted first."""
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt(square(x) + eps)


def added_one(x: Tensor, weight: Tensor, eps: float, offset: bool = False) -> Tensor:
    """Wrong: 1 added to the result."""
    return naive_rms(x, weight, eps, False) + float(offset)


RMS_MISTAKES: "Mistakes[[Tensor, Tensor, float, bool]]" = {
    "the mean subtracted first": (
        normed(layer_normed),
        "That is a layer norm. Here the numbers are scaled, not moved.",
    ),
    "the length in place of the mean square": (
        normed(lambda x, eps: x / torch.sqrt(x.square().sum(-1, keepdim=True) + eps)),
        "The M in RMS is a mean: the sum of the squares is still to be divided by C.",
    ),
    "no root": (
        normed(lambda x, eps: x / (square(x) + eps)),
        "The R in RMS is a root.",
    ),
    "eps outside of the root": (
        normed(lambda x, eps: x / (torch.sqrt(square(x)) + eps)),
        "eps is added to the mean square, before the root is taken.",
    ),
    "no eps": (
        normed(lambda x, eps: x / torch.sqrt(square(x))),
        "Look for the argument `eps` in your answer.",
    ),
    "one mean square for all positions": (
        normed(lambda x, eps: x / torch.sqrt(x.square().mean() + eps)),
        "`mean` without a `dim` goes over everything. Each position has its own.",
    ),
    "the weight left out": (
        lambda x, weight, eps, offset: naive_rms(x, torch.ones_like(weight), eps, False),
        "Look for the argument `weight` in your answer.",
    ),
    "the offset left out": (
        lambda x, weight, eps, offset: naive_rms(x, weight, eps, False),
        "Look for the argument `offset` in your answer.",
    ),
    "1 + weight in every case": (
        lambda x, weight, eps, offset: naive_rms(x, weight, eps, True),
        "Only with `offset` is the factor 1 + weight.",
    ),
    "the offset added to the result": (
        added_one,
        "The offset belongs to the weight: the factor is 1 + weight.",
    ),
}


PACKAGE = "myllm.model.*"


rms_exam = Exam(
    "08.1",
    naive_rms,
    hints=(
        "Read the name backwards: square, then mean, then root. Which of these has to be a column?",
        "The section on RMSNorm takes layer normalization and leaves the mean and the bias out. Mind where "
        "numbers of 16 bits become float32: before the squares, and back after the weight.",
        "y = x in float32 or better\n"
        "y = y / the root of (the mean of y² of each position + eps)\n"
        "factor = weight in the same dtype, plus 1 with offset\n"
        "return y · factor in the dtype of x",
    ),
)


rms_exam.example(
    1,
    (torch.tensor([[1.0, 7.0], [0.0, 0.0]]), torch.tensor([1.0, 2.0]), 75.0),
    torch.tensor([[0.1, 1.4], [0.0, 0.0]]),
)


@rms_exam.oracle(1.5, mistakes=RMS_MISTAKES)
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
    """In bfloat16 the numbers are the exact ones, rounded once, at the end."""
    x, weight = (rng.normal(40, 64) * 2).bfloat16(), (rng.normal(64) / 4).bfloat16()
    for offset in (False, True):
        found = f(x, weight, 1e-5, offset)
        exact = naive_rms(x.double(), weight.double(), 1e-5, offset).bfloat16()
        same(found, exact, f"offset {offset}")
        expect(found.dtype == torch.bfloat16, f"they are {found.dtype}")
        share = float((found == exact).double().mean())
        expect(share > 0.98, f"with offset {offset} only {share:.0%} of them are; compute in float32")


@rms_exam.cost(0.5)
def positions_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of positions."""
    found = list[int]()
    for rows in (5, 200):
        x, weight = rng.normal(rows, 6), rng.normal(6)
        with measure() as count:
            f(x, weight, 1e-5)
        found.append(count.operations)
    expect(found[1] <= found[0] + 20, f"5 positions took {found[0]} operations, 200 took {found[1]}.")


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


def rounded_angles(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Wrong far out: angles in float32."""
    half = x.shape[-1] // 2
    angles = positions[:, None].float() * theta ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def mirrored(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Wrong: one sign."""
    half = x.shape[-1] // 2
    y = naive_rope(x, positions, theta).double()
    back = turned(angle=lambda p, i, D, base: -p * base ** (-2 * i / D))(x, positions, theta).double()
    return torch.cat([back[..., :half], y[..., half:]], dim=-1).to(x.dtype)


ROPE_MISTAKES: "Mistakes[[Tensor, Tensor, float]]" = {
    "neighbours as pairs": (
        turned(pair=lambda i, half: (2 * i, 2 * i + 1)),
        "Both layouts exist. Here number i goes with number i + D / 2.",
    ),
    "a turn the other way": (
        turned(angle=lambda p, i, D, theta: -p * theta ** (-2 * i / D)),
        "(1, 0) goes towards (0, 1): which of the two terms has the minus?",
    ),
    "a plus where a minus belongs": (
        mirrored,
        "A turn keeps the length of (a, b): of a cos and b sin, one is subtracted.",
    ),
    "the same angle for all pairs": (
        turned(angle=lambda p, i, D, theta: float(p)),
        "Look for `theta` and i in the angle.",
    ),
    "a base of 10,000 whatever is given": (
        turned(angle=lambda p, i, D, theta: p * 10_000 ** (-2 * i / D)),
        "Look for the argument `theta` in your answer.",
    ),
    "frequencies that fall half as fast": (
        turned(angle=lambda p, i, D, theta: p * theta ** (-i / D)),
        "The exponent is -2 i / D: it goes to almost -1.",
    ),
    "frequencies from slow to fast": (
        turned(angle=lambda p, i, D, theta: p * theta ** (-2 * (D // 2 - 1 - i) / D)),
        "Pair 0 is the fastest: it turns by 1 from position to position.",
    ),
    "frequencies that grow": (
        turned(angle=lambda p, i, D, theta: p * theta ** (2 * i / D)),
        "There is a minus in the exponent.",
    ),
    "positions counted anew": (
        turned(place=lambda p, t, h: t),
        "Look for the argument `positions` in your answer: a text may begin in the middle.",
    ),
    "the number of the head as position": (
        turned(place=lambda p, t, h: h),
        "In (B, H, T, D) the position is dimension 2. Angles of shape (T, D / 2) line up with the last two.",
    ),
}


rope_exam = Exam(
    "08.2",
    naive_rope,
    hints=(
        "Turn one point (a, b) by an angle first. Then ask: which two numbers of a head are the point, and "
        "which angle belongs to them?",
        "The section on RoPE has the turn as a formula and the frequencies as a row. A column of positions "
        "times that row gives all angles, (T, D / 2), and they line up with (B, H, T, D / 2).",
        "freq = theta to the power of -2 i / D for i = 0, 1, …, D / 2 - 1, in float64\n"
        "angles = positions as a column · freq\n"
        "a, b = the first half of each head, the second half\n"
        "return a cos - b sin and a sin + b cos, side by side",
    ),
    tolerance=1e-5,
)


rope_exam.example(
    1,
    (torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), torch.tensor([0, 2]), 10_000.0),
    torch.tensor([[[[1.0, 0.0], [-0.4161468, 0.9092974]]]]),
)


@rope_exam.oracle(2, mistakes=ROPE_MISTAKES)
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


@rope_exam.edge(
    0.5,
    mistakes={
        "angles in float32": (
            rounded_angles,
            "A float32 of 100,000 radians has hundredths at best. Compute the angles in float64, and round "
            "their cosines and sines.",
        ),
    },
)
def far_out(rng: Rng) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Positions of 100,000 and more."""
    yield rng.normal(1, 1, 4, 16), rng.integers(100_000, 1_000_000, 4), 10_000.0


@rope_exam.cost(0.5)
def tokens_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of tokens."""
    found = list[int]()
    for T in (5, 200):
        x = rng.normal(1, 2, T, 4)
        with measure() as count:
            f(x, torch.arange(T), 10_000.0)
        found.append(count.operations)
    expect(found[1] <= found[0] + 20, f"5 tokens took {found[0]} operations, 200 took {found[1]}.")


rope_exam.conduct(0.5, PACKAGE)


# 08.3


def naive_swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, /) -> Tensor:
    """Number by number; for SiLU, another writing: g / (1 + exp(-g))."""
    y = x.double()[..., None, :]
    g, u = (y * gate.double()).sum(-1), (y * up.double()).sum(-1)
    wide = g / (1 + torch.exp(-g)) * u
    return (wide[..., None, :] * down.double()).sum(-1).to(x.dtype)


def gated(join: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Wrong: ``join`` makes something else out of gate and numbers."""

    def wrong(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return join(x @ gate.T, x @ up.T) @ down.T

    return wrong


def silu(g: Tensor) -> Tensor:
    """Right: SiLU."""
    return g * torch.sigmoid(g)


def untransposed(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Wrong: weights used as (in, out)."""
    return silu(x @ gate) * (x @ up) @ down


SWIGLU_MISTAKES: "Mistakes[[Tensor, Tensor, Tensor, Tensor]]" = {
    "gate and up exchanged": (
        gated(lambda g, u: g * silu(u)),
        "Only the gate is bent.",
    ),
    "a sigmoid in place of SiLU": (
        gated(lambda g, u: torch.sigmoid(g) * u),
        "SiLU is g times its sigmoid. This is the GLU of 2016.",
    ),
    "a ReLU in place of SiLU": (gated(lambda g, u: torch.relu(g) * u), "Look at the bend."),
    "no bend": (gated(lambda g, u: g * u), "The gate is bent before it is multiplied."),
    "both projections bent": (gated(lambda g, u: silu(g) * silu(u)), "Only the gate is bent."),
    "the product bent": (
        gated(lambda g, u: silu(g * u)),
        "Bend the gate first; then multiply.",
    ),
    "a sum in place of the product": (
        gated(lambda g, u: silu(g) + u),
        "A gate multiplies: 0 lets nothing pass.",
    ),
    "nothing behind the gate": (
        gated(lambda g, u: silu(g)),
        "Look for the argument `up` in your answer.",
    ),
    "weights used as (in, out)": (
        untransposed,
        "`nn.Linear` keeps (out, in): what has to be done to a weight before `x @`?",
    ),
}


LINEAR = "torch.nn.functional.linear"


swiglu_exam = Exam(
    "08.3",
    naive_swiglu,
    hints=(
        "Write down the shapes. Two products give (…, F); what joins them, and what happens to the gate "
        "before that?",
        "The section on SwiGLU has it in one line, with layers. `nn.Linear` without a bias computes "
        "`x @ weight.T`.",
        "g = x @ gate transposed\n"
        "u = x @ up transposed\n"
        "wide = g · sigmoid(g) · u\n"
        "return wide @ down transposed",
    ),
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


@swiglu_exam.oracle(1.5, mistakes=SWIGLU_MISTAKES)
def random_networks(rng: Rng) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Narrow, square and wide networks."""
    yield rng.normal(2, 3, 4), *weights(rng, 4, 11)
    yield rng.normal(5, 3), *weights(rng, 3, 3)
    yield rng.normal(4, 6), *weights(rng, 6, 2)
    yield rng.normal(3, 2, 5, dtype=torch.float64), *weights(rng, 5, 16, torch.float64)


@swiglu_exam.edge(
    0.5,
    mistakes={
        "a sigmoid of exponentials that overflow": (
            gated(lambda g, u: g * torch.exp(g) / (1 + torch.exp(g)) * u),
            "e to the power of a large number is inf, and inf / inf is NaN. `torch.sigmoid` avoids it.",
        ),
    },
)
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
    found = list[int]()
    for rows in (6, 200):
        x, matrices = rng.normal(rows, 5), weights(rng, 5, 20)
        with measure() as count:
            f(x, *matrices)
        found.append(count.operations)
        least = 3 * 2 * rows * 5 * 20
        expect(count.flops <= least, f"{rows} positions took {count.flops} FLOPs where {least} are enough.")
    expect(found[1] <= found[0] + 20, f"6 positions took {found[0]} operations, 200 took {found[1]}.")


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
    "all frequencies divided": (
        scaled(lambda f, turns, factor, low, high: f / factor),
        "This is linear interpolation. Fast pairs keep their frequency.",
    ),
    "a step in place of the slope": (
        scaled(lambda f, turns, factor, low, high: f / factor if turns < high else f),
        "Between `low` and `high` turns the result goes from one to the other.",
    ),
    "fast and slow exchanged": (
        scaled(lambda f, turns, factor, low, high: by_turns(f, low + high - turns, factor, low, high)),
        "Pairs with *many* turns keep their frequency.",
    ),
    "a product in place of the division": (
        scaled(lambda f, turns, factor, low, high: by_turns(f, turns, 1 / factor, low, high)),
        "For longer texts the pairs turn more slowly.",
    ),
    "radians in place of turns": (
        scaled(lambda f, turns, factor, low, high: by_turns(f, turns * 2 * math.pi, factor, low, high)),
        "A full turn is 2 pi radians.",
    ),
    "a straight line in the wavelength": (
        scaled(by_wavelength),
        "The line is straight in the number of turns, not in tokens per turn.",
    ),
    "a slope without an end": (
        scaled(
            lambda f, turns, factor, low, high: f / factor + (f - f / factor) * (turns - low) / (high - low)
        ),
        "Below `low` and above `high` the result does not go on along the line.",
    ),
}


frequency_exam = Exam(
    "08.4",
    naive_frequencies,
    hints=(
        "How many turns does a pair of frequency f make within n tokens? Compute that for the three pairs of "
        "the example.",
        "The section on scaling draws the result as a share that is kept: 0 for slow pairs, 1 for fast ones, "
        "a straight line in between. `clamp` makes three cases one.",
        "turns = original_context · freq / (2 pi)\n"
        "keep = (turns - low) / (high - low), not below 0 and not above 1\n"
        "return keep · freq + (1 - keep) · freq / factor",
    ),
)


TURN = 2 * math.pi


frequency_exam.example(
    0.5,
    (torch.tensor([0.1, 0.025, 0.01], dtype=torch.float64) * TURN, 8.0, 100, 1.0, 4.0),
    torch.tensor([0.1, 0.0140625, 0.00125], dtype=torch.float64) * TURN,
)


@frequency_exam.oracle(2, mistakes=FREQUENCY_MISTAKES)
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


@frequency_exam.cost(0.5)
def pairs_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of pairs."""
    found = list[int]()
    for size in (5, 200):
        freq = torch.rand(size, dtype=torch.float64) + 0.001
        with measure() as count:
            f(freq, 8.0, 100, 1.0, 4.0)
        found.append(count.operations)
    expect(found[1] <= found[0] + 20, f"5 pairs took {found[0]} operations, 200 took {found[1]}.")


frequency_exam.conduct(0.5, PACKAGE, "transformers.*")
