"""Checks of chapter 6: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import effort, same_operations

# 06.1


def naive_repeat(x: Tensor, groups: int, /) -> Tensor:
    """Head by head."""
    return torch.stack([x[:, h // groups] for h in range(x.shape[1] * groups)], dim=1)


PACKAGE = "myllm.model.*"


COPIES = tuple(
    f"torch.{name}"
    for name in ("repeat_interleave", "Tensor.repeat_interleave", "Tensor.repeat", "tile", "Tensor.tile")
)


repeat_exam = Exam(
    "06.1",
    naive_repeat,
)


repeat_exam.example(
    0.5,
    (torch.tensor([10, 20]).view(1, 2, 1, 1), 2),
    torch.tensor([10, 10, 20, 20]).view(1, 4, 1, 1),
)


@repeat_exam.oracle(
    1.5,
    "the heads in the order of `repeat`",
    "the copies beside each position, and cut into heads anew",
    "the positions repeated",
    "the first head for everyone",
    "the rows of the batch repeated",
    "the numbers of each key repeated",
    "the heads as they came",
)
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
    for count, K in zip(
        same_operations(f, "heads", [(K, (rng.normal(1, K, 3, 2), 5)) for K in (2, 40)]), (2, 40), strict=True
    ):
        expect(count.largest <= 30 * K, f"one tensor had {count.largest} numbers, the result has {30 * K}")


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


def factors(a: Tensor, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Right, but for queries that have seen nothing: both corrections."""
    return torch.exp(a - m), torch.exp(b - m)


def with_floor(floor: float, keep: bool) -> Function:
    """Wrong: the maximum of an empty set becomes ``floor``; with ``keep`` only where both are empty."""

    def wrong(a: Triple, b: Triple) -> Triple:
        top, total, values = naive_merge(a, b)
        seen = total > 0
        return top.where(seen, floor), total if keep else total.where(seen, 1), values

    return wrong


merge_exam = Exam(
    "06.2",
    naive_merge,
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


@merge_exam.oracle(
    2,
    "no correction at all",
    "only the first set corrected",
    "the values left as they were",
    "the correction upside down",
    "the values divided by the total",
    "only the second set corrected",
    "the totals left as they were",
    "the smaller maximum as the common one",
    "the maxima added up",
)
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
    "-inf minus -inf where nothing was seen",
    "a maximum of 0 where nothing was seen",
    "a total of 1 where nothing was seen",
    mistakes={
        "a huge negative number as the maximum where nothing was seen": (
            with_floor(torch.finfo(torch.float32).min, keep=True),
            "The largest of no scores is -inf. Keep the finite number for your factors.",
        )
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


@merge_exam.edge(1, "powers too large for a float")
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


merge_exam.operations(0.5, "queries", (2, 100), lambda rng, n: (draw(rng, n), draw(rng, n)))


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


window_exam = Exam(
    "06.3",
    naive_window,
)


window_exam.example(
    1,
    (2, 5, 3, 2, 1),
    torch.tensor([[True, False, True, True, False], [True, False, False, True, True]]),
)


@window_exam.oracle(
    1.5,
    "a window that is one too wide",
    "the offset forgotten",
    "a beginning that is seen before it is written",
    "no beginning",
    "the future left open",
    "only what is in the window and at the beginning at once",
    "a window that is one too narrow",
    "no window",
    "a window to both sides",
    "one position too many at the beginning",
    "a beginning that is counted from the first query",
    "queries and keys exchanged",
    "true where nothing may be seen",
)
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


window_exam.operations(0.5, "queries", (3, 90), lambda rng, n: (n, n + 4, 4, 8, 2))


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
    "a single key head": (counted(list, lambda K, D, number: 2 * D * number), FACTORS),
    "a single byte for each number": (counted(list, lambda K, D, number: 2 * K * D), FACTORS),
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
    "the longest window where there is no limit": (
        fitting(most_filled),
        "Beyond the longest window the cache does not grow any more: a longer text fits as well.",
    )
}


bytes_exam = Exam(
    "06.4",
    naive_bytes,
)


bytes_exam.example(1, (10, [None, 4], 1, 8, 2, 1000), (448, 27))


@bytes_exam.oracle(
    2,
    "the keys without the values",
    "all layers like the first",
    "the windows forgotten",
    "a longest text that is one token too long",
    "a longest text for which windows take nothing",
    "a single number for each key",
    "the first layer alone",
    "the layers without a window left out",
    mistakes=BYTES_MISTAKES,
)
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


@bytes_exam.edge(
    1,
    "a budget that may not be used up",
    "no limit wherever all layers have a window",
    mistakes=BORDER_MISTAKES,
)
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
