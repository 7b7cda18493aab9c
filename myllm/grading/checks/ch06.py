"""Checks of chapter 6."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from myllm.grading.checks import ch06_answers as answers
from myllm.grading.checks.ch02_answers import effort
from myllm.grading.checks.ch06_answers import Triple, Windows
from myllm.grading.exam import Exam, Function, Rng, expect, measure, same

PACKAGE = "myllm.model.*"
COPIES = tuple(
    f"torch.{name}"
    for name in ("repeat_interleave", "Tensor.repeat_interleave", "Tensor.repeat", "tile", "Tensor.tile")
)


# 06.1


repeat_exam = Exam(
    "06.1",
    answers.naive_repeat,
    hints=(
        "With K = 2 and groups = 2, which head of x is head 0 of the result, which 1, 2, 3?",
        "The section on heads that share repeats each key head as often as its group is large, and says in "
        "which order. A view can do the same: give x a new dimension of size 1 right behind that of the "
        "heads, and `expand` it.",
        "x as (B, K, 1, S, D)\nexpand the 1 to groups\nreshape to (B, K * groups, S, D)",
    ),
)
repeat_exam.example(
    0.5,
    (torch.tensor([10, 20]).view(1, 2, 1, 1), 2),
    torch.tensor([10, 10, 20, 20]).view(1, 4, 1, 1),
)


@repeat_exam.oracle(1.5, mistakes=answers.REPEAT_MISTAKES)
def random_heads(rng: Rng) -> Iterator[tuple[Tensor, int]]:
    """Two to four heads, groups of two to four."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        K, groups, S, D = (rng.randint(2, 4) for _ in range(4))
        yield rng.normal(2, K, S, D, dtype=dtype), groups
    yield rng.integers(0, 99, 3, 2, 5, 1), 3


@repeat_exam.edge(0.5)
def border_heads(rng: Rng) -> Iterator[tuple[Tensor, int]]:
    """A single head, groups of one, no positions, no rows; heads that lie between the positions in memory."""
    yield rng.normal(2, 1, 3, 4), 4
    yield rng.normal(2, 3, 3, 4), 1
    yield rng.normal(2, 3, 0, 4), 2
    yield rng.normal(0, 3, 2, 4), 2
    yield rng.normal(2, 5, 3, 4).transpose(1, 2), 2


@repeat_exam.property(0.5)
def gradients_add_up(f: Function, rng: Rng) -> None:
    """The gradient of a key head is the sum of those of its copies."""
    x, pull = rng.normal(2, 3, 4, 2).requires_grad_(), rng.normal(2, 6, 4, 2)
    found = f(x, 2)
    expect(isinstance(found, Tensor) and found.requires_grad, "the result does not lead back to x")
    same(found.shape, pull.shape, "the shape of the result")
    (gradient,) = torch.autograd.grad(found, x, pull)
    same(gradient, pull[:, 0::2] + pull[:, 1::2], "the gradient")


@repeat_exam.cost(0.5)
def one_copy(f: Function, rng: Rng) -> None:
    """The number of operations does not grow with the heads, and no tensor is larger than the result."""
    found = list[int]()
    for K in (2, 40):
        x = rng.normal(1, K, 3, 2)
        with measure() as count:
            f(x, 5)
        found.append(count.operations)
        expect(
            count.largest <= 5 * x.numel(),
            f"one tensor had {count.largest} numbers, the result has {5 * x.numel()}",
        )
    expect(
        found[1] <= found[0] + 10,
        f"2 heads took {found[0]} operations, 40 took {found[1]}; expand all heads at once.",
    )


repeat_exam.conduct(0.5, PACKAGE, *COPIES)


# 06.2


merge_exam = Exam(
    "06.2",
    answers.naive_merge,
    hints=(
        "exp(s - 3) is to become exp(s - 5). By which number do you multiply it?",
        "The section on the softmax that can be interrupted joins two halves by three formulas. They hold "
        "here, too; what is new are sets in which nothing was seen. Which difference is then -inf - -inf, "
        "and which maximum would do no harm in its place?",
        "maximum = the larger of the two\n"
        "common = maximum, but 0 where it is -inf\n"
        "one factor for each set: exp(its maximum - common)\n"
        "total = factor * total, added up; values the same, with the factor as a (…, 1) column\n"
        "return maximum, total, values",
    ),
)
merge_exam.example(
    1,
    (
        (torch.tensor([2.0, -math.inf]), torch.tensor([1.0, 0.0]), torch.tensor([[3.0], [0.0]])),
        (torch.tensor([0.0, -math.inf]), torch.tensor([1.0, 0.0]), torch.tensor([[5.0], [0.0]])),
    ),
    (
        torch.tensor([2.0, -math.inf]),
        torch.tensor([1 + math.exp(-2), 0.0]),
        torch.tensor([[3 + 5 * math.exp(-2)], [0.0]]),
    ),
)


@merge_exam.oracle(2, mistakes=answers.MERGE_MISTAKES)
def random_sets(rng: Rng) -> Iterator[tuple[Triple, Triple]]:
    """Sets of ordinary scores: one query, many, of float32 and float64."""
    for shape, dtype in (((), torch.float64), ((5,), torch.float32), ((2, 3), torch.float64)):
        yield answers.draw(rng, *shape, dtype=dtype), answers.draw(rng, *shape, dtype=dtype)
    low, high = answers.draw(rng, 4), answers.draw(rng, 4)
    high = high[0] + 3, high[1], high[2]
    yield low, high
    yield high, low


@merge_exam.edge(
    1,
    mistakes={
        "-inf minus -inf where nothing was seen": (
            answers.corrected(),
            "Where both maxima are -inf, put a finite number in place of the common one before you subtract.",
        ),
        "a maximum of 0 where nothing was seen": (
            answers.with_floor(0.0, keep=True),
            "The largest of no scores is -inf: the 0 is for your factors only, not for the result.",
        ),
        "a total of 1 where nothing was seen": (
            answers.with_floor(-math.inf, keep=False),
            "A sum over nothing is 0. Nobody divides by it yet.",
        ),
        "a huge negative number as the maximum where nothing was seen": (
            answers.with_floor(torch.finfo(torch.float32).min, keep=True),
            "The largest of no scores is -inf. Keep the finite number for your factors.",
        ),
    },
)
def empty_sets(rng: Rng) -> Iterator[tuple[Triple, Triple]]:
    """Nothing in the first set, in the second, in both, in some queries; no queries at all."""
    a, b = (answers.draw(rng, 4, dtype=torch.float32) for _ in range(2))
    none = answers.nothing(a)
    yield from [(none, b), (a, none), (none, none)]
    mixed = answers.known(torch.full((4, 2), -math.inf), rng.normal(4, 2, 3))
    yield mixed, b
    some = tuple(torch.cat([x[:2], y[2:]]) for x, y in zip(a, none, strict=True))
    other = tuple(torch.cat([x[:1], y[1:3], x[3:]]) for x, y in zip(b, none, strict=True))
    yield (some[0], some[1], some[2]), (other[0], other[1], other[2])
    yield answers.draw(rng, 0), answers.draw(rng, 0)


@merge_exam.edge(
    1,
    mistakes={
        "powers too large for a float": (
            answers.corrected(answers.through_zero, answers.through_zero),
            "exp(1000) is inf. Subtract the maxima first, then take the power.",
        ),
    },
)
def extreme_scores(rng: Rng) -> Iterator[tuple[Triple, Triple]]:
    """Scores of a thousand and more, up and down, near each other and far apart."""
    for level, gap in ((1000.0, 0.0), (-1000.0, 0.0), (0.0, 5000.0), (2e4, -1e4)):
        a, b = answers.draw(rng, 3), answers.draw(rng, 3)
        yield (a[0] + level, a[1], a[2]), (b[0] + level + gap, b[1], b[2])


@merge_exam.property(1)
def any_split(f: Function, rng: Rng) -> None:
    """However a row of keys is cut into parts, merged in any order, the softmax is that of the whole row."""
    n = rng.randint(8, 12)
    scores, values = rng.normal(3, n, dtype=torch.float64) * 3, rng.normal(3, n, 2, dtype=torch.float64)
    scores[1, : n // 2] = -math.inf
    cuts = [0, *sorted(rng.sample(range(1, n), 3)), n]
    parts = [answers.known(scores[:, i:j], values[:, i:j]) for i, j in pairwise(cuts)]
    rng.shuffle(parts)
    left = f(f(f(parts[0], parts[1]), parts[2]), parts[3])
    tree = f(f(parts[0], parts[1]), f(parts[2], parts[3]))
    wanted = (torch.softmax(scores, dim=-1)[..., None] * values).sum(-2)
    for order, found in (("one after the other", left), ("in pairs", tree)):
        triple = cast("tuple[object, ...]", found if isinstance(found, tuple) else ())
        shapes = [tuple(x.shape) for x in triple if isinstance(x, Tensor)]
        expect(shapes == [(3,), (3,), (3, 2)], f"the result has tensors of the shapes {shapes}")
        same(found[2] / found[1][..., None], wanted, f"values / total, merged {order}")
        same(found[0], scores.amax(-1), f"the maximum, merged {order}")


@merge_exam.cost(0.5)
def all_queries(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of queries."""
    found = list[int]()
    for queries in (2, 100):
        a, b = answers.draw(rng, queries), answers.draw(rng, queries)
        with measure() as count:
            f(a, b)
        found.append(count.operations)
    expect(
        found[1] <= found[0] + 10,
        f"2 queries took {found[0]} operations, 100 took {found[1]}; work on all of them at once.",
    )


merge_exam.conduct(0.5, PACKAGE)


# 06.3


window_exam = Exam(
    "06.3",
    answers.naive_window,
    hints=(
        "Write down the position q of each query and the position k of each key. What must hold between q, k "
        "and `size`, and what between k and `first`?",
        "The section on the sliding window draws both masks: rules on q and k, joined by `&` and `|`. "
        "A column of query positions compared with a row of key positions gives the whole table.",
        "q = offset, offset + 1, … as a (T, 1) column\n"
        "k = 0, 1, … as a row\n"
        "return k is not after q, and (q - k is less than size, or k is less than first)",
    ),
)
window_exam.example(
    1,
    (2, 5, 3, 2, 1),
    torch.tensor([[True, False, True, True, False], [True, False, False, True, True]]),
)


@window_exam.oracle(1.5, mistakes=answers.WINDOW_MISTAKES)
def random_pieces(rng: Rng) -> Iterator[tuple[int, int, int, int, int]]:
    """Queries in the middle of a text, at its end and at its start."""
    offset = rng.randint(6, 9)
    yield 4, offset + 6, offset, rng.randint(2, 3), rng.randint(1, 2)
    queries, size = rng.randint(3, 6), rng.randint(2, 4)
    yield queries, queries + 8, 8, size, 2
    yield 6, 9, 0, 2, 4
    yield 5, 12, rng.randint(1, 3), 3, rng.randint(5, 7)


@window_exam.property(0.5)
def counts(f: Function, rng: Rng) -> None:
    """A token at position q sees its window, and of the first positions those that lie before it."""
    size, first, keys = rng.randint(1, 6), rng.randint(0, 5), 30
    q = torch.arange(keys)
    before = (q + 1 - size).clamp(min=0)  # how many positions lie before the window
    found = f(keys, keys, 0, size, first)
    expect(isinstance(found, Tensor) and found.shape == (keys, keys), "the result is not (T, S)")
    same(found.sum(-1), q + 1 - before + before.clamp(max=first), "the visible positions of each token")


@window_exam.edge(1)
def border_pieces(rng: Rng) -> Iterator[tuple[int, int, int, int, int]]:
    """One query at the end of its keys, no beginning, windows of 1 and of everything, no queries, no keys."""
    offset = rng.randint(5, 9)
    yield 1, offset + 1, offset, 3, 1
    yield from [(4, 4, 0, 1, 0), (4, 6, 2, 99, 0), (3, 5, 2, 1, 99)]
    yield from [(3, 4, 20, 2, 1), (0, 4, 2, 2, 1), (3, 0, 0, 2, 1), (1, 1, 0, 1, 0)]


@window_exam.cost(0.5)
def one_table(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of queries."""
    found = list[int]()
    for queries in (3, 90):
        with measure() as count:
            f(queries, queries + 4, 4, 8, 2)
        found.append(count.operations)
    expect(
        found[1] <= found[0] + 10,
        f"3 queries took {found[0]} operations, 90 took {found[1]}; compare a column with a row.",
    )


window_exam.conduct(0.5, PACKAGE)


# 06.4


bytes_exam = Exam(
    "06.4",
    answers.naive_bytes,
    hints=(
        "How many tokens does one layer keep: with no window, and with a window that is longer or shorter "
        "than the text? Write that as one expression of the length.",
        "The section on what attention costs has the formula for layers without a window; here each layer "
        "keeps its own number of tokens. The bytes never shrink when the text grows. So double a length "
        "until it does not fit any more, and then halve the interval between one that fits and one that does "
        "not. Think of the case first in which every length fits.",
        "size(n) = 2 * K * D * number * (the sum over layers of n, or of the smaller of n and the window)\n"
        "if all layers have a window and size(longest window) fits: the second number is None\n"
        "low = 0; high = a length that does not fit, found by doubling\n"
        "until high = low + 1: the middle of both becomes low if it fits, else high\n"
        "return size(context), low",
    ),
)
bytes_exam.example(1, (10, [None, 4], 1, 8, 2, 1000), (448, 27))


@bytes_exam.oracle(2, mistakes=answers.BYTES_MISTAKES)
def random_caches(rng: Rng) -> Iterator[tuple[int, Windows, int, int, int, int]]:
    """Layers with and without windows, texts shorter and longer than those, and only windows."""
    for _ in range(2):
        K, D, number = rng.randint(2, 4), rng.randint(3, 8), rng.choice([2, 4])
        short, long = rng.randint(5, 9), rng.randint(20, 30)
        each, windows = 2 * K * D * number, [long, None, short, None]
        yield rng.randint(2, 4), windows, K, D, number, each * rng.randint(45, 60) + 1
        yield rng.randint(40, 60), windows, K, D, number, each * rng.randint(150, 400) + 1
        yield rng.randint(10, 18), [None, long, short], K, D, number, each * rng.randint(5, 12) + 1
        yield 12, [long, short], K, D, number, each * (short + long - rng.randint(2, 5))


@bytes_exam.property(1.5)
def bytes_alone(f: Function, rng: Rng) -> None:
    """The first number of the result is what the cache of `context` tokens takes."""
    for _ in range(5):
        windows = [rng.choice([None, rng.randint(1, 40)]) for _ in range(rng.randint(1, 6))]
        case = rng.randint(0, 50), windows, rng.randint(1, 5), rng.randint(1, 9), rng.choice([1, 2, 4]), 5000
        found = f(*case)
        expect(isinstance(found, tuple) and len(found) == 2, "the result is no pair of numbers")  # pyright: ignore[reportUnknownArgumentType]
        same(found[0], answers.naive_bytes(*case)[0], f"the bytes of kv_bytes{case}")


@bytes_exam.edge(1, mistakes=answers.BORDER_MISTAKES)
def border_caches(rng: Rng) -> Iterator[tuple[int, Windows, int, int, int, int]]:
    """Budgets that fit exactly, no text, no memory, windows that fit and that do not."""
    K, D, w = rng.randint(1, 4), rng.randint(2, 8), rng.randint(3, 9)
    each = 4 * K * D
    for budget in (each * 2 * w - 1, each * 2 * w, each * (w + 20), each * 20 + each - 1):
        yield w, [w, None], K, D, 2, budget
    yield from [(w, [w, w + 2], K, D, 2, each * (2 * w + 2) - less) for less in (0, 1, each)]
    yield from [(0, [None, w], K, D, 2, 0), (5, [w], K, D, 2, 0), (3, [None], K, D, 2, each * 7)]
    yield 10 * w, [1, 1, 1], K, D, 2, each * 3


@bytes_exam.cost(1)
def no_search(f: Function, rng: Rng) -> None:
    """The work hardly grows with the length of the text or with the budget."""
    f(10, [None], 1, 1, 1, 10)  # what happens only once, such as an import
    windows: Windows = [None, rng.randint(50, 99)]
    small, large = (effort(f, n, windows, 2, 4, 2, 32 * n) for n in (300, 3_000))
    expect(large < small + 10_000, "a text of 3,000 tokens took far more work than one of 300")
    n = 10**15 + rng.randint(0, 99)
    same(
        f(n, [None] * 3, 2, 4, 2, 96 * n + 95),
        (96 * n, n),
        f"kv_bytes({n}, [None] * 3, 2, 4, 2, {96 * n + 95})",
    )


bytes_exam.conduct(0.5, PACKAGE, "myllm.config.*")
