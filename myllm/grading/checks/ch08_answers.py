"""Chapter 8: the naive references, and the wrong answers that the checks recognise."""

import cmath
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Function, Mistakes

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
