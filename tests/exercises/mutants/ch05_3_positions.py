# exercise: 05.3
# hint: heads as positions
"""Chapter 5, Attention: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("05.1", "Stable softmax", points=6, minutes=15, difficulty=2, section="softmax")
def softmax(x: Tensor) -> Tensor:
    """Turn scores into weights: e to the power of each score, divided by the sum over its row.

    A row is the last dimension. PyTorch's own softmax and its relatives may not be used.

    Args:
        x: (…, S) floating point, S 1 or more. The scores may be of any size. ``-inf`` marks what must not
            be seen; there is no ``+inf`` and no NaN.

    Returns:
        (…, S), with the dtype of ``x``. Each row sums to 1, and where ``x`` is ``-inf`` the weight is 0. A
        row that is ``-inf`` throughout has nothing to look at: all its weights are 0. Numbers of 16 bits are
        computed in float32 and rounded once, at the end. For full points the number of tensor operations
        does not grow with the number of rows, and no gradient is NaN, whatever ``x`` holds.

    Example:
        >>> hidden = float("-inf")
        >>> softmax(torch.tensor([[1000.0, 1000.0, hidden], [hidden, hidden, hidden]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    # SOLUTION
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    # The lower bound is for rows without any score: -inf - -inf would be NaN.
    top = y.amax(-1, keepdim=True).clamp(min=torch.finfo(y.dtype).min)
    weights = torch.exp(y - top)
    total = weights.sum(-1, keepdim=True)
    return (weights / total.where(total > 0, 1)).to(x.dtype)
    # END SOLUTION


@exercise("05.2", "Causal mask with offset", points=4, minutes=10, difficulty=1, section="causal-mask")
def causal_mask(queries: int, keys: int, offset: int) -> Tensor:
    """Say which keys each query may see, where the queries are a piece out of the middle of the text.

    Key j is the token at position j. Query i is the token at position ``offset + i``. A token sees itself and
    everything before it, and nothing after it.

    Args:
        queries: T, 1 or more.
        keys: S, 1 or more; fewer than ``offset + queries`` or more are both possible.
        offset: the position of the first query, 0 or more.

    Returns:
        (T, S) bool, true where the query may see the key. For full points the number of tensor operations
        does not grow with T, and no tensor is larger than T * S.

    Example:
        >>> causal_mask(2, 4, 1)
        tensor([[ True,  True, False, False],
                [ True,  True,  True, False]])
    """
    # SOLUTION
    positions = torch.arange(offset, offset + queries)
    return torch.arange(keys) <= positions[:, None]
    # END SOLUTION


@exercise("05.3", "Split and join heads", points=5, minutes=15, difficulty=2, section="heads")
def per_head(x: Tensor, n_head: int, work: Callable[[Tensor], Tensor]) -> Tensor:
    """Split each position into heads, let a function work on all of them, and join what comes back.

    Head h has the numbers ``h * D`` up to, not including, ``(h + 1) * D`` of each position, with D = C / H.

    Args:
        x: (B, T, C).
        n_head: H.
        work: takes (B, H, T, D) and returns (B, H, T, E); E may differ from D.

    Returns:
        (B, T, H * E). In each position first all E numbers of head 0, then those of head 1, and so on. For
        full points ``work`` is called once, for all heads together.

    Raises:
        ValueError: C is not a multiple of H.

    Example:
        Two positions, two heads of two numbers. Each head adds up its numbers from position to position.

        >>> x = torch.tensor([[[1, 2, 3, 4], [10, 20, 30, 40]]])
        >>> per_head(x, 2, lambda heads: heads.cumsum(dim=2))
        tensor([[[ 1,  2,  3,  4],
                 [11, 22, 33, 44]]])
    """
    # SOLUTION
    B, T, C = x.shape
    if C % n_head:
        raise ValueError(f"{C} numbers cannot be shared evenly by {n_head} heads")
    return work(x.reshape(B, T, n_head, C // n_head)).reshape(B, T, -1)
    # END SOLUTION


@exercise("05.4", "Scale the scores", points=3, minutes=10, difficulty=2, section="scale")
def score_scale(head_dim: int, q_std: float, k_std: float) -> float:
    """Find the factor that gives random scores a variance of 1.

    A score is the dot product of a query and a key. All their numbers are drawn independently of each other,
    those of the queries with mean 0 and standard deviation ``q_std``, those of the keys with mean 0 and
    standard deviation ``k_std``.

    Args:
        head_dim: D, how many numbers a query and a key have, 1 or more.
        q_std: 0 or more.
        k_std: 0 or more.

    Returns:
        The positive factor for which ``factor * (q @ k)`` has variance 1, exactly: do not estimate it.

    Raises:
        ValueError: there is none, since a standard deviation is 0.

    Example:
        >>> score_scale(64, 1.0, 2.0)
        0.0625
    """
    # SOLUTION
    # A product of independent numbers of mean 0 has the product of their variances; D of them add up.
    if not q_std * k_std:
        raise ValueError("the scores are all 0, and no factor spreads them")
    return 1 / (head_dim**0.5 * q_std * k_std)
    # END SOLUTION
