"""Checks of chapter 6: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import effort, measure

# 06.1


def naive_repeat(x: Tensor, groups: int, /) -> Tensor:
    """Head by head."""
    return torch.stack([x[:, h // groups] for h in range(x.shape[1] * groups)], dim=1)


def cut_anew(x: Tensor, groups: int) -> Tensor:
    """Wrong: the copies stand beside each position, and the rows are then cut into heads."""
    B, K, S, D = x.shape
    return x[:, :, :, None].expand(B, K, S, groups, D).reshape(B, K * groups, S, D)


REPEAT_MISTAKES: "Mistakes[[Tensor, int]]" = {
    "the heads in the order of `repeat`": (
        lambda x, groups: torch.stack([x[:, h % x.shape[1]] for h in range(x.shape[1] * groups)], dim=1),
        "That is 0, 1, 0, 1. The copies of a head stand next to each other: 0, 0, 1, 1.",
    ),
    "the copies beside each position, and cut into heads anew": (
        cut_anew,
        "The new dimension belongs right behind that of the heads, before the positions.",
    ),
    "the positions repeated": (
        lambda x, groups: torch.cat([x[:, :, s // groups, None] for s in range(x.shape[2] * groups)], dim=2),
        "Dimension 2 are the positions. Which one are the heads?",
    ),
    "the rows of the batch repeated": (
        lambda x, groups: torch.stack([x[b // groups] for b in range(x.shape[0] * groups)]),
        "Dimension 0 is the batch. Which one are the heads?",
    ),
    "the numbers of each key repeated": (
        lambda x, groups: x[..., None].expand(*x.shape, groups).flatten(-2),
        "The last dimension are the numbers of a key. Which one are the heads?",
    ),
    "the first head for everyone": (
        lambda x, groups: x[:, :1].expand(-1, x.shape[1] * groups, -1, -1).clone(),
        "Only heads of the same group share a key head.",
    ),
    "the heads as they came": (
        lambda x, groups: x.clone(),
        "There must be `groups` times as many heads as before.",
    ),
}


PACKAGE = "myllm.model.*"


COPIES = tuple(
    f"torch.{name}"
    for name in ("repeat_interleave", "Tensor.repeat_interleave", "Tensor.repeat", "tile", "Tensor.tile")
)


repeat_exam = Exam(
    "06.1",
    naive_repeat,
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


@repeat_exam.oracle(1.5, mistakes=REPEAT_MISTAKES)
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


Triple = tuple[Tensor, Tensor, Tensor]


def known(scores: Tensor, values: Tensor) -> Triple:
    """What is known of sets of keys: scores (…, S) and values (…, S, D), from the definition."""
    rows = cast("list[list[float]]", scores.double().reshape(-1, scores.shape[-1]).tolist())
    tops = [max([-math.inf, *row]) for row in rows]
    powers = [
        [math.exp(s - top) if s > -math.inf else 0.0 for s in row]
        for row, top in zip(rows, tops, strict=True)
    ]
    weights = torch.tensor(powers, dtype=torch.float64).reshape(scores.shape)
    maximum = torch.tensor(tops, dtype=torch.float64).reshape(scores.shape[:-1])
    mixed = (weights[..., None] * values.double()).sum(-2)
    return (maximum.to(scores.dtype), weights.sum(-1).to(scores.dtype), mixed.to(scores.dtype))


def draw(rng: Rng, *shape: int, size: int = 3, dtype: torch.dtype = torch.float64) -> Triple:
    """What is known of random sets of 4 keys, for as many queries as ``shape`` says."""
    return known(rng.normal(*shape, 4, dtype=dtype) * 2, rng.normal(*shape, 4, size, dtype=dtype))


def nothing(like: Triple) -> Triple:
    """What is known of empty sets."""
    return torch.full_like(like[0], -math.inf), torch.zeros_like(like[1]), torch.zeros_like(like[2])


def naive_merge(a: Triple, b: Triple, /) -> Triple:
    """Query by query, in Python's floats."""
    tops, totals, mixtures = list[float](), list[float](), list[Tensor]()
    flat = [(m.reshape(-1), t.reshape(-1), v.reshape(-1, v.shape[-1])) for m, t, v in (a, b)]
    for i in range(len(flat[0][0])):
        tops.append(max(float(m[i]) for m, _, _ in flat))
        factors = [math.exp(float(m[i]) - tops[-1]) if m[i] > -math.inf else 0.0 for m, _, _ in flat]
        totals.append(sum(f * float(t[i]) for f, (_, t, _) in zip(factors, flat, strict=True)))
        mixtures.append(
            cast("Tensor", sum(f * v[i].double() for f, (_, _, v) in zip(factors, flat, strict=True)))
        )
    values = torch.stack(mixtures) if mixtures else torch.zeros(0)
    return (
        torch.tensor(tops, dtype=torch.float64).to(a[0].dtype).reshape(a[0].shape),
        torch.tensor(totals, dtype=torch.float64).to(a[1].dtype).reshape(a[1].shape),
        values.to(a[2].dtype).reshape(a[2].shape),
    )


Factors = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def factors(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Right, but for queries that have seen nothing: both corrections."""
    return torch.exp(a - m), torch.exp(b - m)


def corrected(
    total: Factors = factors,
    values: Factors = factors,
    top: Callable[[Tensor, Tensor], Tensor] = torch.maximum,
    finish: Callable[[Triple], Triple] = lambda joined: joined,
) -> Function:
    """Wrong where one of these is: the factors of totals and of values, the maximum, a last step."""

    def wrong(a: Triple, b: Triple) -> Triple:
        m = top(a[0], b[0])
        (ta, tb), (va, vb) = total(a[0], b[0], m), values(a[0], b[0], m)
        return finish((m, ta * a[1] + tb * b[1], va[..., None] * a[2] + vb[..., None] * b[2]))

    return wrong


def uncorrected(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Wrong: no correction."""
    return torch.ones_like(a), torch.ones_like(b)


def first_only(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Wrong: as if the second set held the maximum."""
    return torch.exp(a - m), torch.ones_like(b)


def second_only(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Wrong: as if the first set held the maximum."""
    return torch.ones_like(a), torch.exp(b - m)


def upside_down(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Wrong: the sign of the exponent."""
    return torch.exp(m - a), torch.exp(m - b)


def through_zero(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Wrong: each set is brought to the maximum 0 and from there to the common one."""
    return torch.exp(a) / torch.exp(m), torch.exp(b) / torch.exp(m)


def with_floor(floor: float, keep: bool) -> Function:
    """Wrong: the maximum of an empty set becomes ``floor``; with ``keep`` only where both are empty."""

    def wrong(a: Triple, b: Triple) -> Triple:
        top, total, values = naive_merge(a, b)
        seen = total > 0
        return top.where(seen, floor), total if keep else total.where(seen, 1), values

    return wrong


MERGE_MISTAKES: "Mistakes[[Triple, Triple]]" = {
    "no correction at all": (
        corrected(uncorrected, uncorrected),
        "Each sum was taken with its own maximum. Bring both to the common one before you add.",
    ),
    "only the first set corrected": (
        corrected(first_only, first_only),
        "The larger maximum may be in either set.",
    ),
    "only the second set corrected": (
        corrected(second_only, second_only),
        "The larger maximum may be in either set.",
    ),
    "the values left as they were": (
        corrected(values=uncorrected),
        "The values are a sum of the same powers as the total, and need the same factor.",
    ),
    "the totals left as they were": (
        corrected(total=uncorrected),
        "The total is a sum of the same powers as the values, and needs the same factor.",
    ),
    "the correction upside down": (
        corrected(upside_down, upside_down),
        "A larger maximum makes each power smaller: is the factor below or above 1?",
    ),
    "the smaller maximum as the common one": (
        corrected(top=torch.minimum),
        "The maximum of both sets is the larger one.",
    ),
    "the maxima added up": (
        corrected(top=torch.add),
        "The largest score of both sets is the larger of the two.",
    ),
    "the values divided by the total": (
        corrected(finish=lambda joined: (joined[0], joined[1], joined[2] / joined[1][..., None])),
        "The triple holds sums; it is divided once, after the last merge.",
    ),
}


merge_exam = Exam(
    "06.2",
    naive_merge,
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


@merge_exam.oracle(2, mistakes=MERGE_MISTAKES)
def random_sets(rng: Rng) -> Iterator[tuple[Triple, Triple]]:
    """Sets of ordinary scores: one query, many, of float32 and float64."""
    for shape, dtype in (((), torch.float64), ((5,), torch.float32), ((2, 3), torch.float64)):
        yield draw(rng, *shape, dtype=dtype), draw(rng, *shape, dtype=dtype)
    low, high = draw(rng, 4), draw(rng, 4)
    high = high[0] + 3, high[1], high[2]
    yield low, high
    yield high, low


@merge_exam.edge(
    1,
    mistakes={
        "-inf minus -inf where nothing was seen": (
            corrected(),
            "Where both maxima are -inf, put a finite number in place of the common one before you subtract.",
        ),
        "a maximum of 0 where nothing was seen": (
            with_floor(0.0, keep=True),
            "The largest of no scores is -inf: the 0 is for your factors only, not for the result.",
        ),
        "a total of 1 where nothing was seen": (
            with_floor(-math.inf, keep=False),
            "A sum over nothing is 0. Nobody divides by it yet.",
        ),
        "a huge negative number as the maximum where nothing was seen": (
            with_floor(torch.finfo(torch.float32).min, keep=True),
            "The largest of no scores is -inf. Keep the finite number for your factors.",
        ),
    },
)
def empty_sets(rng: Rng) -> Iterator[tuple[Triple, Triple]]:
    """Nothing in the first set, in the second, in both, in some queries; no queries at all."""
    a, b = (draw(rng, 4, dtype=torch.float32) for _ in range(2))
    none = nothing(a)
    yield from [(none, b), (a, none), (none, none)]
    mixed = known(torch.full((4, 2), -math.inf), rng.normal(4, 2, 3))
    yield mixed, b
    some = tuple(torch.cat([x[:2], y[2:]]) for x, y in zip(a, none, strict=True))
    other = tuple(torch.cat([x[:1], y[1:3], x[3:]]) for x, y in zip(b, none, strict=True))
    yield (some[0], some[1], some[2]), (other[0], other[1], other[2])
    yield draw(rng, 0), draw(rng, 0)


@merge_exam.edge(
    1,
    mistakes={
        "powers too large for a float": (
            corrected(through_zero, through_zero),
            "exp(1000) is inf. Subtract the maxima first, then take the power.",
        ),
    },
)
def extreme_scores(rng: Rng) -> Iterator[tuple[Triple, Triple]]:
    """Scores of a thousand and more, up and down, near each other and far apart."""
    for level, gap in ((1000.0, 0.0), (-1000.0, 0.0), (0.0, 5000.0), (2e4, -1e4)):
        a, b = draw(rng, 3), draw(rng, 3)
        yield (a[0] + level, a[1], a[2]), (b[0] + level + gap, b[1], b[2])


@merge_exam.property(1)
def any_split(f: Function, rng: Rng) -> None:
    """However a row of keys is cut into parts, merged in any order, the softmax is that of the whole row."""
    n = rng.randint(8, 12)
    scores, values = rng.normal(3, n, dtype=torch.float64) * 3, rng.normal(3, n, 2, dtype=torch.float64)
    scores[1, : n // 2] = -math.inf
    cuts = [0, *sorted(rng.sample(range(1, n), 3)), n]
    parts = [known(scores[:, i:j], values[:, i:j]) for i, j in pairwise(cuts)]
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
        a, b = draw(rng, queries), draw(rng, queries)
        with measure() as count:
            f(a, b)
        found.append(count.operations)
    expect(
        found[1] <= found[0] + 10,
        f"2 queries took {found[0]} operations, 100 took {found[1]}; work on all of them at once.",
    )


merge_exam.conduct(0.5, PACKAGE)


# 06.3


Allowed = Callable[[int, int, int, int], bool]


def naive_window(queries: int, keys: int, offset: int, size: int, first: int, /) -> Tensor:
    """Pair by pair, from what the specification says."""
    visible = [
        {*range(max(0, q - size + 1), q + 1), *range(min(first, q + 1))}
        for q in range(offset, offset + queries)
    ]
    pairs = [[j in seen for j in range(keys)] for seen in visible]
    return torch.tensor(pairs, dtype=torch.bool).reshape(queries, keys)


def pairs(allowed: Allowed) -> Function:
    """Wrong where ``allowed(q, k, size, first)`` is."""

    def wrong(queries: int, keys: int, offset: int, size: int, first: int) -> Tensor:
        found = [[allowed(offset + i, k, size, first) for k in range(keys)] for i in range(queries)]
        return torch.tensor(found, dtype=torch.bool).reshape(queries, keys)

    return wrong


WINDOW_MISTAKES: "Mistakes[[int, int, int, int, int]]" = {
    "a window that is one too wide": (
        pairs(lambda q, k, size, first: k <= q and (q - k <= size or k < first)),
        "A window of 1 holds the token itself and nothing else.",
    ),
    "a window that is one too narrow": (
        pairs(lambda q, k, size, first: k <= q and (q - k < size - 1 or k < first)),
        "A window of 1 holds the token itself.",
    ),
    "the offset forgotten": (
        lambda queries, keys, offset, size, first: naive_window(queries, keys, 0, size, first),
        "At which position does query 0 stand?",
    ),
    "a beginning that is seen before it is written": (
        pairs(lambda q, k, size, first: (0 <= q - k < size) or k < first),
        "Among the first positions, too, nobody may see what comes after.",
    ),
    "no beginning": (
        pairs(lambda q, k, size, first: 0 <= q - k < size),
        "Look for the argument `first` in your answer.",
    ),
    "no window": (
        pairs(lambda q, k, size, first: k <= q),
        "Look for the argument `size` in your answer.",
    ),
    "the future left open": (
        pairs(lambda q, k, size, first: q - k < size or k < first),
        "A window only says how far back a token sees. What keeps it from seeing ahead?",
    ),
    "a window to both sides": (
        pairs(lambda q, k, size, first: abs(q - k) < size or (k < first and k <= q)),
        "The window ends at the token itself.",
    ),
    "only what is in the window and at the beginning at once": (
        pairs(lambda q, k, size, first: 0 <= q - k < size and k < first),
        "Either of the two is enough.",
    ),
    "one position too many at the beginning": (
        pairs(lambda q, k, size, first: k <= q and (q - k < size or k <= first)),
        "Positions count from 0: the first one alone is `first` = 1.",
    ),
    "a beginning that is counted from the first query": (
        lambda queries, keys, offset, size, first: (
            naive_window(queries, keys, offset, size, 0)
            | (torch.arange(keys) < offset + first)
            & (torch.arange(keys) >= offset)
            & (torch.arange(keys) <= torch.arange(offset, offset + queries)[:, None])
        ),
        "`first` counts from the beginning of the text, not of the queries.",
    ),
    "queries and keys exchanged": (
        lambda queries, keys, offset, size, first: naive_window(queries, keys, offset, size, first).T.clone(),
        "A row belongs to a query, a column to a key.",
    ),
    "true where nothing may be seen": (
        lambda queries, keys, offset, size, first: ~naive_window(queries, keys, offset, size, first),
        "True is for the pairs that may look.",
    ),
}


window_exam = Exam(
    "06.3",
    naive_window,
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


@window_exam.oracle(1.5, mistakes=WINDOW_MISTAKES)
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


Windows = Sequence[int | None]


Result = tuple[int, int | None]


Bytes = Callable[[int, Windows, int, int, int, int], Result]


def stepwise(context: int, windows: Windows, each: int, budget: int) -> Result:
    """Token by token: each adds ``each`` bytes in every layer whose window is not full."""

    def added(token: int) -> int:
        return each * sum(1 for window in windows if window is None or token < window)

    taken = longest = 0
    while added(longest) and taken + added(longest) <= budget:
        taken += added(longest)
        longest += 1
    return sum(map(added, range(context))), longest if added(longest) else None


def naive_bytes(
    context: int, windows: Windows, n_kv_head: int, head_dim: int, number: int, budget: int, /
) -> Result:
    """From the definition, one token after the other."""
    return stepwise(context, windows, 2 * n_kv_head * head_dim * number, budget)


def counted(layers: Callable[[Windows], Windows], each: Callable[[int, int, int], int]) -> Bytes:
    """Wrong: other layers, or other bytes for a token in a layer (from K, D and the bytes of a number)."""

    def wrong(
        context: int, windows: Windows, n_kv_head: int, head_dim: int, number: int, budget: int
    ) -> Result:
        return stepwise(context, layers(windows), each(n_kv_head, head_dim, number), budget)

    return wrong


def fitting(longest: Callable[[int, Windows, int, int], int | None], full: bool = False) -> Bytes:
    """Wrong: another longest text, from context, windows, ``each`` and budget; or with full windows."""

    def wrong(
        context: int, windows: Windows, n_kv_head: int, head_dim: int, number: int, budget: int
    ) -> Result:
        each = 2 * n_kv_head * head_dim * number
        size = stepwise(context, windows, each, 0)[0]
        if full:
            size = each * sum(context if window is None else window for window in windows)
        return size, longest(context, windows, each, budget)

    return wrong


def right_length(context: int, windows: Windows, each: int, budget: int) -> int | None:
    """Right: the longest text."""
    return stepwise(0, windows, each, budget)[1]


def one_more(context: int, windows: Windows, each: int, budget: int) -> int | None:
    """Wrong: the first length that does not fit."""
    longest = right_length(0, windows, each, budget)
    return None if longest is None else longest + 1


def windows_first(context: int, windows: Windows, each: int, budget: int) -> int | None:
    """Wrong: the windows take their full size from the first token on."""
    rest = budget - each * sum(window for window in windows if window is not None)
    if None not in windows:
        return None if rest >= 0 else 0
    return max(0, rest) // (each * windows.count(None))


def same_rate(context: int, windows: Windows, each: int, budget: int) -> int | None:
    """Wrong: every token takes what one of the given text takes on average."""
    size = stepwise(context, windows, each, 0)[0]
    return budget * context // size if size else None


def most_filled(context: int, windows: Windows, each: int, budget: int) -> int | None:
    """Wrong: where any text fits, the length that fills the last window."""
    longest = right_length(0, windows, each, budget)
    return max([0, *(w for w in windows if w is not None)]) if longest is None else longest


FACTORS = "A layer keeps, for each token, keys *and* values, of K heads with D numbers of so many bytes."


BYTES_MISTAKES: "Mistakes[[int, Windows, int, int, int, int]]" = {
    "the keys without the values": (counted(list, lambda K, D, number: K * D * number), FACTORS),
    "a single key head": (counted(list, lambda K, D, number: 2 * D * number), FACTORS),
    "a single number for each key": (counted(list, lambda K, D, number: 2 * K * number), FACTORS),
    "a single byte for each number": (counted(list, lambda K, D, number: 2 * K * D), FACTORS),
    "the first layer alone": (
        counted(lambda windows: windows[:1], lambda K, D, number: 2 * K * D * number),
        "Every layer has a cache of its own.",
    ),
    "all layers like the first": (
        counted(lambda windows: list(windows[:1]) * len(windows), lambda K, D, number: 2 * K * D * number),
        "Each layer has its own entry in `windows`.",
    ),
    "the windows forgotten": (
        counted(lambda windows: [None] * len(windows), lambda K, D, number: 2 * K * D * number),
        "A layer with a window keeps no more tokens than the window holds.",
    ),
    "the layers without a window left out": (
        counted(
            lambda windows: [w for w in windows if w is not None], lambda K, D, number: 2 * K * D * number
        ),
        "None means that the layer keeps every token.",
    ),
    "windows that are full from the start": (
        fitting(right_length, full=True),
        "A text that is shorter than the window does not fill it.",
    ),
    "windows that are full from the start in both numbers": (
        fitting(windows_first, full=True),
        "A text that is shorter than the window does not fill it, neither the one given nor the longest one.",
    ),
    "a longest text for which all windows count in full": (
        fitting(windows_first),
        "The longest text, too, may be shorter than a window. Then that window is not full.",
    ),
    "a longest text that is one token too long": (
        fitting(one_more),
        "It is the last length that fits, not the first that does not.",
    ),
    "a longest text for which windows take nothing": (
        fitting(lambda context, windows, each, budget: budget // (each * max(1, windows.count(None)))),
        "The layers with a window need their share of the memory, too.",
    ),
    "a longest text for which windows never fill up": (
        fitting(lambda context, windows, each, budget: budget // (each * max(1, len(windows)))),
        "From some length on, a layer with a window takes no more memory, and the text may grow faster.",
    ),
    "a longest text that takes as much for each token as the given one": (
        fitting(same_rate),
        "Once a window is full, a token takes less than before.",
    ),
}


BORDER_MISTAKES: "Mistakes[[int, Windows, int, int, int, int]]" = {
    "a budget that may not be used up": (
        fitting(lambda context, windows, each, budget: stepwise(0, windows, each, max(0, budget - 1))[1]),
        "A cache that takes exactly the budget fits.",
    ),
    "no limit wherever all layers have a window": (
        fitting(
            lambda context, windows, each, budget: (
                right_length(0, windows, each, budget) if None in windows else None
            )
        ),
        "There is no limit only if the memory holds all windows when they are full.",
    ),
    "the longest window where there is no limit": (
        fitting(most_filled),
        "Beyond the longest window the cache does not grow any more: a longer text fits as well.",
    ),
}


bytes_exam = Exam(
    "06.4",
    naive_bytes,
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


@bytes_exam.oracle(2, mistakes=BYTES_MISTAKES)
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
        same(found[0], naive_bytes(*case)[0], f"the bytes of kv_bytes{case}")


@bytes_exam.edge(1, mistakes=BORDER_MISTAKES)
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
