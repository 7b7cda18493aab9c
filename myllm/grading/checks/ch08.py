"""Checks of chapter 8."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from myllm.grading.checks import ch08_answers as answers
from myllm.grading.exam import Exam, Function, Rng, expect, measure, same

PACKAGE = "myllm.model.*"
LINEAR = "torch.nn.functional.linear"


# 08.1


rms_exam = Exam(
    "08.1",
    answers.naive_rms,
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


@rms_exam.oracle(1.5, mistakes=answers.RMS_MISTAKES)
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
        exact = answers.naive_rms(x.double(), weight.double(), 1e-5, offset).bfloat16()
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


rope_exam = Exam(
    "08.2",
    answers.naive_rope,
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


@rope_exam.oracle(2, mistakes=answers.ROPE_MISTAKES)
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
        same(one, answers.naive_rope(q, pair[0][1], 10_000.0), f"a query at position {at + apart}")
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
            answers.rounded_angles,
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


swiglu_exam = Exam(
    "08.3",
    answers.naive_swiglu,
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


@swiglu_exam.oracle(1.5, mistakes=answers.SWIGLU_MISTAKES)
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
            answers.gated(lambda g, u: g * torch.exp(g) / (1 + torch.exp(g)) * u),
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
    same(once, answers.naive_swiglu(x, gate, up, down), "three positions", tolerance=1e-4)
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


frequency_exam = Exam(
    "08.4",
    answers.naive_frequencies,
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


@frequency_exam.oracle(2, mistakes=answers.FREQUENCY_MISTAKES)
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
