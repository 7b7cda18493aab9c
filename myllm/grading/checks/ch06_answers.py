"""Chapter 6: the naive references, and the wrong answers that the checks recognise."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Function, Mistakes, Rng

Triple = tuple[Tensor, Tensor, Tensor]
Windows = Sequence[int | None]
Allowed = Callable[[int, int, int, int], bool]


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


# 06.2


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


# 06.3


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


# 06.4


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
