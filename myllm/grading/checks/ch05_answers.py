"""Chapter 5: the naive references, and the wrong answers that the checks recognise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Function, Mistakes

Work = Callable[[Tensor], Tensor]


# 05.1


def weights_of(row: list[float]) -> list[float]:
    """The softmax of one row, in Python's floats."""
    top = max(row)
    if top == -math.inf:
        return [0.0] * len(row)
    powers = [math.exp(score - top) for score in row]
    return [power / math.fsum(powers) for power in powers]


def naive_softmax(x: Tensor, /) -> Tensor:
    """Row by row."""
    rows = cast("list[list[float]]", x.double().reshape(-1, x.shape[-1]).tolist())
    return torch.tensor([weights_of(row) for row in rows], dtype=torch.float64).reshape(x.shape).to(x.dtype)


def divided(top: Callable[[Tensor], Tensor], total: Callable[[Tensor], Tensor]) -> Function:
    """Wrong: ``top`` is subtracted and ``total`` is what is divided by; one of them is not the row's."""

    def wrong(x: Tensor) -> Tensor:
        weights = torch.exp(x - top(x))
        return weights / total(weights)

    return wrong


def row_sum(weights: Tensor) -> Tensor:
    """Right: the sum of each row."""
    return weights.sum(-1, keepdim=True)


def nonzero_sum(weights: Tensor) -> Tensor:
    """Right: the sum of each row, and 1 where it is 0."""
    total = row_sum(weights)
    return total.where(total > 0, 1)


def row_top(x: Tensor) -> Tensor:
    """Right: the largest score of each row."""
    return x.amax(-1, keepdim=True)


def filled(value: float) -> Function:
    """Wrong: rows that see nothing get ``value`` everywhere."""

    def wrong(x: Tensor) -> Tensor:
        return naive_softmax(x).masked_fill((x == -math.inf).all(-1, keepdim=True), value)

    return wrong


SOFTMAX_MISTAKES: "Mistakes[[Tensor]]" = {
    "the sum over all numbers, not over each row": (
        divided(row_top, torch.sum),
        "Each row has to sum to 1 by itself: `sum` has a `dim`.",
    ),
    "rows along the first dimension": (
        lambda x: naive_softmax(x.movedim(0, -1)).movedim(-1, 0),
        "A row is the last dimension, whatever the number of dimensions: `dim=-1`.",
    ),
    "column j divided by the sum of row j": (
        divided(row_top, lambda weights: weights.sum(-1)),
        "Print the shape of your sums: (R,) is lined up with the columns. `keepdim=True` keeps them one.",
    ),
    "powers of 2": (
        lambda x: naive_softmax(x * math.log(2)),
        "The base is e: `torch.exp`.",
    ),
    "powers that are not divided by anything": (
        lambda x: torch.exp(x - row_top(x)),
        "Add up one of your rows.",
    ),
    "no exponential": (
        lambda x: x / row_sum(x),
        "Scores may be negative, weights may not: what makes every number positive?",
    ),
    "the logarithms of the weights": (
        lambda x: naive_softmax(x).log(),
        "These are the right weights after a logarithm; leave the last step out.",
    ),
    "the signs of the scores turned round": (
        lambda x: naive_softmax(-x),
        "The largest score gets the largest weight. What do you subtract from what?",
    ),
}


# 05.2


def naive_mask(queries: int, keys: int, offset: int, /) -> Tensor:
    """Ask for every pair."""
    rows = [[key <= offset + query for key in range(keys)] for query in range(queries)]
    return torch.tensor(rows, dtype=torch.bool).reshape(queries, keys)


def additive(queries: int, keys: int, offset: int) -> Tensor:
    """Wrong: what is added to the scores."""
    allowed = naive_mask(queries, keys, offset)
    return torch.zeros(queries, keys).masked_fill(~allowed, -math.inf)


MASK_MISTAKES: "Mistakes[[int, int, int]]" = {
    "the offset forgotten": (
        lambda queries, keys, offset: naive_mask(queries, keys, 0),
        "At which position of the text does the first query stand?",
    ),
    "the queries taken for the last tokens of the text": (
        lambda queries, keys, offset: naive_mask(queries, keys, keys - queries),
        "`keys - queries` is the offset where the queries are the end of the text. Here it is given.",
    ),
    "tokens that do not see themselves": (
        lambda queries, keys, offset: naive_mask(queries, keys, offset - 1),
        "A token sees itself too: < or <=?",
    ),
    "one token of the future seen": (
        lambda queries, keys, offset: naive_mask(queries, keys, offset + 1),
        "The last key that query i sees stands at its own position.",
    ),
    "the offset on the wrong side": (
        lambda queries, keys, offset: naive_mask(queries, keys, -offset),
        "An offset lets the queries see more keys, not fewer.",
    ),
    "True where a key is hidden": (
        lambda queries, keys, offset: ~naive_mask(queries, keys, offset),
        "Here true means that the query may see the key. Other libraries say it the other way round.",
    ),
    "the future seen and the past hidden": (
        lambda queries, keys, offset: naive_mask(queries, keys, offset - 1).logical_not(),
        "In which triangle does a key lie before the query?",
    ),
    "queries and keys exchanged": (
        lambda queries, keys, offset: naive_mask(queries, keys, offset).T,
        "A row for each query, a column for each key: (T, S).",
    ),
    "0 and -inf, to be added to the scores": (
        additive,
        "Asked for is who may see whom, as a bool tensor.",
    ),
}


# 05.3


@dataclass(frozen=True)
class Mix:
    """Something to do with heads that is causal, differs from head to head and gives each one ``width``."""

    width: int

    @property
    def __name__(self) -> str:
        return f"<(B, H, T, D) to (B, H, T, {self.width})>"

    def __call__(self, heads: Tensor) -> Tensor:
        """Weigh the numbers of a head by their place, the heads by their number; add up over positions."""
        places = torch.arange(1, heads.shape[-1] + 1, dtype=heads.dtype)
        matrix = torch.cos(places[:, None] * torch.arange(1, self.width + 1, dtype=heads.dtype))
        number = torch.arange(1, heads.shape[1] + 1, dtype=heads.dtype)[:, None, None]
        return heads.cumsum(2) @ matrix * number


@dataclass(frozen=True)
class RunningSum:
    """Adds up the numbers of each head from position to position."""

    def __call__(self, heads: Tensor) -> Tensor:
        """(B, H, T, D) to the same."""
        return heads.cumsum(dim=2)


class Seen:
    """Gives back prepared heads, and remembers what it was called with."""

    __name__ = "work"

    def __init__(self, answer: Tensor) -> None:
        self.answer, self.calls = answer, list[Tensor]()

    def __call__(self, heads: Tensor) -> Tensor:
        """Remember the heads."""
        self.calls.append(heads)
        return self.answer

    def __deepcopy__(self, memo: object) -> "Seen":
        """The grader's copy is never called."""
        return self


def cut(x: Tensor, n_head: int) -> Tensor:
    """Head by head."""
    if x.shape[-1] % n_head:
        raise ValueError("not a multiple")
    size = x.shape[-1] // n_head
    return torch.stack([x[:, :, h * size : (h + 1) * size] for h in range(n_head)], dim=1)


def naive_per_head(x: Tensor, n_head: int, work: Work, /) -> Tensor:
    """Cut the heads out one by one, and put them side by side again."""
    heads = work(cut(x, n_head))
    return torch.cat([heads[:, h] for h in range(n_head)], dim=-1)


def reshaped(x: Tensor, n_head: int) -> Tensor:
    """Wrong: the shape is right, the numbers are those of other positions."""
    B, T, C = x.shape
    return x.reshape(B, n_head, T, C // n_head)


def flat(heads: Tensor) -> Tensor:
    """Wrong: the numbers in the order in which they lie, head after head."""
    B, H, T, E = heads.shape
    return heads.reshape(B, T, H * E)


def viewed(heads: Tensor) -> Tensor:
    """Wrong where there is more than one head and position: ``view`` on a transposed tensor."""
    B, H, T, E = heads.shape
    return heads.contiguous().transpose(1, 2).view(B, T, H * E)


def interleaved(x: Tensor, n_head: int, work: Work) -> Tensor:
    """Wrong: head h has the numbers h, h + H, h + 2 H … of each position."""
    B, T, C = x.shape
    heads = work(x.reshape(B, T, C // n_head, n_head).permute(0, 3, 1, 2))
    return heads.permute(0, 2, 3, 1).reshape(B, T, -1)


def positions_as_heads(x: Tensor, n_head: int, work: Work) -> Tensor:
    """Wrong: ``work`` gets (B, T, H, D)."""
    B, T, C = x.shape
    return work(x.reshape(B, T, n_head, C // n_head)).reshape(B, T, -1)


HEAD_MISTAKES: "Mistakes[[Tensor, int, Work]]" = {
    "a view without a transpose, there and back": (
        lambda x, n_head, work: flat(work(reshaped(x, n_head))),
        "The round trip gives x back, and yet a head holds numbers of several positions. Let the last "
        "dimension become (H, D) first; then T and H change places.",
    ),
    "a split by view without a transpose": (
        lambda x, n_head, work: naive_per_head(reshaped(x, n_head).transpose(1, 2).flatten(2), n_head, work),
        "Cut (B, T, C) into (B, T, H, D) first. Only then may T and H change places.",
    ),
    "heads joined without a transpose": (
        lambda x, n_head, work: flat(work(cut(x, n_head))),
        "The split is right. What comes back is (B, H, T, E): T and H have to change places before H and "
        "E become one dimension.",
    ),
    "a `view` right after a `transpose`": (
        lambda x, n_head, work: viewed(work(cut(x, n_head))),
        "After a transpose the numbers do not lie in order any more, and `view` cannot merge dimensions. "
        "`reshape` copies where it has to.",
    ),
    "every H-th number in a head": (
        interleaved,
        "The numbers of a head lie side by side: is it (H, D) or (D, H)?",
    ),
    "heads as positions": (
        positions_as_heads,
        "`work` takes (B, H, T, D): dimension 2 is the position, dimension 1 the head.",
    ),
    "no work done": (
        lambda x, n_head, work: x,
        "`work` has to be called with the heads, and what it returns has to be joined.",
    ),
}


# 05.4


def naive_scale(head_dim: int, q_std: float, k_std: float) -> float:
    """Add up the variances of the products, one by one."""
    if q_std == 0 or k_std == 0:
        raise ValueError("no spread")
    return math.fsum(q_std**2 * k_std**2 for _ in range(head_dim)) ** -0.5
