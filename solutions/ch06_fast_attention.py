"""Chapter 6, Fast attention: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("06.1", "Share keys without copying them", points=6, minutes=15, difficulty=2, section="grouped")
def grouped_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Compute grouped-query attention without repeating a key or a value.

    Query head h uses key head ``h // (H / K)``. A score is a dot product divided by the square root of D; the
    softmax is taken over the allowed keys of a query; the result is the mean of their values, weighted by it.

    Args:
        q: Queries, (B, H, T, D), float32 or float64, in any memory layout.
        k: Keys, (B, K, S, D); K divides H.
        v: Values, (B, K, S, D).
        allowed: (T, S) bool, true where a query may attend to a key, the same for all texts of the batch
            and all heads.

    Returns:
        (B, H, T, D), of the dtype of ``q``. A query that may attend to nothing gets zeros. Scores may be of
        any finite size. For full points no tensor is larger than the scores, B * H * T * S numbers, or than
        the largest of the arguments; and gradients flow back to q, k and v.

    ``F.scaled_dot_product_attention`` and the functions of `myllm.model` may not be used.

    Example:
        Two query heads share one key head. The query may attend to the first key only.

        >>> q, k = torch.ones(1, 2, 1, 1), torch.zeros(1, 1, 2, 1)
        >>> v = torch.tensor([3.0, 5.0]).view(1, 1, 2, 1)
        >>> grouped_attention(q, k, v, torch.tensor([[True, False]])).flatten()
        tensor([3., 3.])
    """
    # SOLUTION
    B, H, T, D = q.shape
    _, K, S, _ = k.shape
    rows = q.reshape(B, K, H // K * T, D)  # the queries of a group, one below the other
    scores = (rows @ k.transpose(-2, -1)).view(B, H, T, S) / D**0.5
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1).masked_fill(~allowed, 0)
    return (weights.view(B, K, H // K * T, S) @ v).view(B, H, T, D)
    # END SOLUTION


@exercise("06.2", "Fix a merge", points=7, minutes=20, difficulty=3, section="online-softmax")
def merge_results(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Merge attention to two sets of keys, each given as kernels return it.

    A kernel returns, for each query, the finished result (the values averaged with the softmax of the scores)
    and the logarithm of the sum of exp(score) over the set. If a set has no keys that the query may attend
    to, its result is zeros and its logarithm is ``-inf``. This version was meant to merge two such pairs. It
    has three faults; find and fix them::

        def merge_results(a, b):
            (x, log_a), (y, log_b) = a, b
            top = torch.maximum(log_a, log_b)
            weight_a, weight_b = torch.exp(log_a - top), torch.exp(log_b - top)
            total = weight_a + weight_b
            return (weight_a * x + weight_b * y) / total, torch.log(total)

    Args:
        a: The pair of the first set: result (…, D) and logarithm (…), both float32 or both float64. Each
            index of the leading dimensions is a query; there may be no leading dimension.
        b: The pair of the second set, of the same shapes and dtype.

    Returns:
        The pair for the union of the two sets, by the same definition. If both sets are empty, it is exactly
        zeros and ``-inf``. Logarithms may be of any finite size: nothing overflows, and nothing is NaN. For
        full points the number of tensor operations does not grow with the number of queries.

    The functions of `myllm.model` may not be used.

    Example:
        Two queries. The first has one key with score 0 in each set; the second has none in either.

        >>> empty = float("-inf")
        >>> a = torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, empty])
        >>> b = torch.tensor([[5.0], [0.0]]), torch.tensor([0.0, empty])
        >>> for part in merge_results(a, b):
        ...     print(part)
        tensor([[4.],
                [0.]])
        tensor([0.6931,   -inf])
    """
    # SOLUTION
    (x, log_a), (y, log_b) = a, b
    top = torch.maximum(log_a, log_b)
    # Where both sets are empty there is nothing to correct, and -inf - -inf would be NaN.
    common = top.where(top > -torch.inf, 0)
    weight_a, weight_b = torch.exp(log_a - common), torch.exp(log_b - common)
    total = weight_a + weight_b
    total = total.where(total > 0, 1)
    return (weight_a[..., None] * x + weight_b[..., None] * y) / total[..., None], top + torch.log(total)
    # END SOLUTION


@exercise("06.3", "Write the test of a window", points=6, minutes=20, difficulty=2, section="window")
def is_window(make_mask: Callable[[int, int, int, int], Any]) -> bool:
    """Decide whether a function that makes sliding-window masks is correct.

    ``make_mask(queries, keys, offset, size)`` should return a bool tensor of shape (queries, keys). Query i
    is the token at position ``offset + i``, key j the token at position j. The entry is true where the query
    may attend to the key: to the last ``size`` positions up to and including its own, and to nothing later.

    Your function is tried on correct implementations and on faulty ones. Every faulty one shows its fault for
    some arguments with queries from 1 to 3, keys from 1 to 8, offset from 0 to 5 and size from 1 to 4.

    Args:
        make_mask: The function to test.

    Returns:
        True if it is correct. False if, for some arguments in these ranges, it returns wrong values, a wrong
        shape or dtype, or something that is not a tensor, or raises an exception.

    The functions of `myllm.model` may not be used.

    Example:
        >>> def narrow(queries, keys, offset, size):  # true for a token's own position only
        ...     return torch.arange(offset, offset + queries)[:, None] == torch.arange(keys)
        >>> is_window(narrow)
        False
    """
    # SOLUTION
    for queries, keys, offset, size in product(range(1, 4), range(1, 9), range(6), range(1, 5)):
        q, k = torch.arange(offset, offset + queries)[:, None], torch.arange(keys)
        expected = (k <= q) & (q - k < size)
        try:
            found = make_mask(queries, keys, offset, size)
        except Exception:
            return False
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != expected.shape:
            return False
        if not torch.equal(found, expected):
            return False
    return True
    # END SOLUTION


@exercise("06.4", "Bytes of a cache", points=7, minutes=20, difficulty=3, section="cost")
def kv_bytes(
    context: int, windows: list[int | None], n_kv_head: int, head_dim: int, number: int, budget: int
) -> tuple[int, int | None]:
    """Count the bytes of a KV cache, and say how long a text fits into a given amount of memory.

    A layer keeps the keys and the values of all positions, or, if it has a window, of the last positions
    only, as many as the window holds. It takes memory only for positions that exist.

    Args:
        context: The number of tokens in the text, 0 or more.
        windows: For each layer, of which there is at least one, the size of its window, 1 or more, or None
            for a layer that attends to everything.
        n_kv_head: K, the heads that have keys and values of their own; the query heads do not matter.
        head_dim: D, the numbers of a key; a value has as many.
        number: Bytes of one number, such as 2.
        budget: Bytes of memory, 0 or more.

    Returns:
        The bytes of the cache for ``context`` tokens, and the largest number of tokens whose cache takes no
        more than ``budget`` bytes; None if there is no limit. For full points, find the second
        number without trying one length after another.

    The functions of `myllm.config` and `myllm.model` may not be used.

    Example:
        One layer attends to everything and one has a window of 4. With one head of 8 numbers of 2 bytes, a
        layer keeps 32 bytes a token. Ten tokens take 10 * 32 + 4 * 32 bytes; 28 tokens would take 1,024.

        >>> kv_bytes(10, [None, 4], 1, 8, 2, 1000)
        (448, 27)
    """
    # SOLUTION
    each = 2 * n_kv_head * head_dim * number  # keys and values of one token in one layer

    def size(tokens: int) -> int:
        return each * sum(tokens if window is None else min(tokens, window) for window in windows)

    most = max((window for window in windows if window is not None), default=0)
    if None not in windows and size(most) <= budget:
        return size(context), None
    low, high = 0, most + 1  # low always fits, high never will
    while size(high) <= budget:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    return size(context), low
    # END SOLUTION


@exercise("06.5", "Choose a model to serve", points=7, minutes=25, difficulty=3, section="cost")
def choose_model(
    candidates: list[dict[str, Any]], context: int, users: int, budget: int
) -> tuple[str | None, dict[str, str]]:
    """Choose the model that serves all users within a memory budget, and say why the others were rejected.

    The rules, in this order:

    1. ``"memory"``: drop a model if its weights and the caches of all users, each with a text of ``context``
       tokens and two bytes a number, take more than ``budget`` bytes.
    2. ``"reach"``: drop a model if the first of ``context`` tokens cannot influence the last one through its
       layers.
    3. ``"loss"``: of what is left, the best model has the lowest mean loss. Drop a model if all its losses
       are higher than all losses of the best. Treat any smaller difference as noise between seeds.
    4. ``"bytes"``: of what is left, choose the model with the smallest cache; if several have the smallest,
       the first in the table. Drop the others.

    Args:
        candidates: A table, in which each row is a dict: ``name``; ``windows``, for each layer the size of
            its window or None for a layer that attends to everything; ``n_kv_head``; ``head_dim``;
            ``weights``, their bytes; and ``losses``, one for each of several seeds.
        context: Tokens of each text, 1 or more.
        users: Texts that are kept at the same time, 1 or more.
        budget: Bytes of memory.

    Returns:
        The name of the chosen model, or None if rules 1 and 2 drop all, and a dict that maps the name of
        every other model to the rule that dropped it.

    The functions of `myllm.config` and `myllm.model` may not be used; your own ``kv_bytes`` may.

    Example:
        The first cache takes 10 * 32 bytes. A window of 4 in each of two layers reaches 7 positions, not 10.

        >>> wide = {"name": "wide", "windows": [None], "n_kv_head": 1, "head_dim": 8}
        >>> near = {"name": "near", "windows": [4, 4], "n_kv_head": 1, "head_dim": 8}
        >>> rest = {"weights": 100, "losses": [2.0, 2.1]}
        >>> choose_model([wide | rest, near | rest], 10, 1, 420)
        ('wide', {'near': 'reach'})
    """
    # SOLUTION
    reasons = dict[str, str]()
    kept = list[dict[str, Any]]()

    def cache(row: dict[str, Any]) -> int:
        tokens = sum(context if window is None else min(context, window) for window in row["windows"])
        return 2 * tokens * row["n_kv_head"] * row["head_dim"] * 2

    for row in candidates:
        if row["weights"] + users * cache(row) > budget:
            reasons[row["name"]] = "memory"
        elif None not in row["windows"] and sum(window - 1 for window in row["windows"]) + 1 < context:
            reasons[row["name"]] = "reach"
        else:
            kept.append(row)
    if not kept:
        return None, reasons
    best = min(kept, key=lambda row: sum(row["losses"]) / len(row["losses"]))
    good = [row for row in kept if min(row["losses"]) <= max(best["losses"])]
    chosen = min(good, key=cache)
    reasons |= {row["name"]: "bytes" if row in good else "loss" for row in kept if row is not chosen}
    return chosen["name"], reasons
    # END SOLUTION
