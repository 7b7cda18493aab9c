"""Checks of chapter 5: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from myllm.grading.compare import as_expected
from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import measure

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


PACKAGE = "myllm.model.*"


SOFTMAX = tuple(
    f"{place}.{name}"
    for place in ("torch", "torch.Tensor", "torch.special", "torch.nn.functional")
    for name in ("softmax", "log_softmax", "logsumexp")
    if (place, name) != ("torch.nn.functional", "logsumexp")
)


TOO_LARGE = "`exp(1000)` is inf, and inf / inf is NaN. What may be taken away from all scores of a row?"


OWN_MAXIMUM = "In a row far below the others every power becomes 0: each row needs its own maximum."


softmax_exam = Exam(
    "05.1",
    naive_softmax,
    hints=(
        "What does a row's softmax become when you add 5 to all its scores? Use that: which number may be "
        "taken away from all scores of a row, so that none of the powers is too large for a float?",
        "The section on softmax takes the largest score of each row away first. Two cases are left: in a row "
        "of nothing but -inf this gives -inf - -inf, and numbers of 16 bits have to become float32 before "
        "and their own dtype again after. Mend the numbers before they are NaN: a `where` that hides a NaN "
        "afterwards does not hide it from the gradient.",
        "y = x in float32 or better\n"
        "top = the largest number of each row, as a (…, 1) column, but at least the lowest finite float\n"
        "weights = e to the power of (y - top)\n"
        "total = the sum of each row, as a column; where it is 0, 1 in its place\n"
        "return weights / total in the dtype of x",
    ),
)


softmax_exam.example(
    1,
    (torch.tensor([[1000.0, 1000.0, -math.inf], [-math.inf] * 3]),),
    torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]),
)


@softmax_exam.oracle(1.5, mistakes=SOFTMAX_MISTAKES)
def random_rows(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Scores of ordinary size, of one to four dimensions; a view."""
    yield (rng.normal(5),)
    yield (rng.normal(2, 3) * 2,)
    yield (rng.normal(4, 4) * 2,)
    yield (rng.normal(2, 3, 5, 6, dtype=torch.float64) * 3,)
    yield (rng.normal(7, 5).T,)


@softmax_exam.edge(
    1,
    mistakes={
        "powers that are too large for a float": (
            divided(lambda x: torch.zeros(()), row_sum),
            TOO_LARGE,
        ),
        "powers that are too large or all 0": (
            divided(lambda x: torch.zeros(()), nonzero_sum),
            TOO_LARGE,
        ),
        "the largest score of all rows taken away": (
            divided(torch.amax, row_sum),
            OWN_MAXIMUM,
        ),
        "the largest score of all rows taken away and rows of zeros": (
            divided(torch.amax, nonzero_sum),
            OWN_MAXIMUM,
        ),
        "the mean of each row taken away": (
            divided(lambda x: x.mean(-1, keepdim=True), row_sum),
            "The mean helps where a whole row is large, but not with one large score among small ones.",
        ),
    },
)
def large_scores(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Rows far from 0, up and down; rows that spread widely; one number a row."""
    levels = torch.tensor([[0.0], [1000.0], [-1000.0], [30_000.0]])
    yield (levels + rng.integers(-8, 8, 4, 6) / 4,)
    yield (torch.tensor([[0.0, 1000.0, 0.0, 0.0], [-3e38, 3e38, 0.0, 1.0], [-1e5, -1e5, 0.0, 0.0]]),)
    yield (levels,)
    yield (rng.normal(3, 8, dtype=torch.float64) * 1000,)


@softmax_exam.edge(
    0.5,
    mistakes={
        "-inf minus -inf in rows that see nothing": (
            filled(math.nan),
            "There the largest score is -inf itself. Bound it from below before you take it away, and look "
            "at the sum that you divide by.",
        ),
        "equal weights in rows that see nothing": (
            lambda x: filled(1 / x.shape[-1])(x),
            "Who may see nothing must not see everything: a row of nothing but -inf becomes a row of zeros.",
        ),
    },
)
def hidden_scores(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Rows with some -inf, and with nothing else; no rows."""
    x = rng.normal(6, 5) * 3
    x[1, rng.randint(0, 4)] = x[2, :4] = x[4] = x[5, 1:] = -math.inf
    yield (x,)
    yield (torch.full((3,), -math.inf),)
    yield (rng.normal(0, 4),)
    yield (torch.tensor([[-math.inf], [2.0]], dtype=torch.float64),)


@softmax_exam.property(0.5)
def rounded_once(f: Function, rng: Rng) -> None:
    """In bfloat16 the weights are the exact ones, rounded once, at the end."""
    x = (rng.normal(40, 60) * 2).bfloat16()
    found, exact = f(x), naive_softmax(x.double())
    same(found, exact.bfloat16(), "the weights")
    expect(found.dtype == torch.bfloat16, f"they are {found.dtype}")
    share = float((found == exact.bfloat16()).double().mean())
    expect(share > 0.98, f"only {share:.0%} of the numbers are; compute in float32")


@softmax_exam.property(0.5)
def clean_gradient(f: Function, rng: Rng) -> None:
    """The gradient is that of the softmax, and 0 where nothing may be seen."""
    scores, above = rng.normal(4, 6), rng.normal(4, 6)
    scores[1, 2:4] = scores[2] = -math.inf
    scores[3] += 1000
    x = scores.requires_grad_()
    found = f(x)
    right = isinstance(found, Tensor) and found.shape == x.shape and found.requires_grad
    expect(right, "the result is no tensor of the shape of x that leads back to it")
    found.backward(above)
    p = naive_softmax(x.detach())
    expected = p * (above - (p * above).sum(-1, keepdim=True))
    for row, what in enumerate(("ordinary scores", "some -inf", "nothing but -inf", "scores of about 1000")):
        same((x.grad if x.grad is not None else torch.zeros(0))[row], expected[row], f"a row with {what}")


@softmax_exam.cost(0.5)
def rows_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of rows."""
    found = list[int]()
    for rows in (5, 200):
        x = rng.normal(rows, 7)
        with measure() as count:
            f(x)
        found.append(count.operations)
    expect(found[1] <= found[0] + 20, f"5 rows took {found[0]} operations, 200 took {found[1]}.")


softmax_exam.conduct(
    0.5,
    PACKAGE,
    *SOFTMAX,
    "torch.nn.functional.softmin",
    "torch.nn.functional.gumbel_softmax",
    "torch.sparse.softmax",
    "torch.nn.functional.scaled_dot_product_attention",
)


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


mask_exam = Exam(
    "05.2",
    naive_mask,
    hints=(
        "Write down the position of each query and of each key. Which of the two numbers has to be the "
        "smaller one?",
        "The section on the causal mask compares a column of positions with a row of positions. With an "
        "offset only the numbers in the column change.",
        "column = offset, offset + 1, …, offset + T - 1, as (T, 1)\nrow = 0, 1, …, S - 1\n"
        "return row <= column",
    ),
)


mask_exam.example(0.5, (2, 4, 1), torch.tensor([[True, True, False, False], [True, True, True, False]]))


@mask_exam.oracle(1.5, mistakes=MASK_MISTAKES)
def random_masks(rng: Rng) -> Iterator[tuple[int, int, int]]:
    """Pieces from the beginning, the middle and the end of a text, and a whole text."""
    T = rng.randint(2, 4)
    yield T, T + rng.randint(3, 6), 2
    yield 3, 9, rng.randint(2, 3)
    yield T, T + 5, 5
    yield T + 3, T + 1, 1
    yield 5, 5, 0


@mask_exam.edge(0.5)
def single_queries(rng: Rng) -> Iterator[tuple[int, int, int]]:
    """One query at the end, at the beginning, beyond the keys; one key."""
    S = rng.randint(4, 9)
    yield from [(1, S, S - 1), (1, S, 0), (1, S, S + 3), (2, S, S), (4, 1, 0), (1, 1, 0), (S, 1, 2)]


@mask_exam.property(0.5)
def pieces_of_a_whole(f: Function, rng: Rng) -> None:
    """Rows of the mask of a whole text, cut into pieces, are the masks of these pieces."""
    size = rng.randint(6, 12)
    whole, start = f(size, size, 0), 0
    same(whole, naive_mask(size, size, 0), "the whole text")
    while start < size:
        piece = min(rng.randint(1, 4), size - start)
        same(f(piece, size, start), whole[start : start + piece], f"{piece} queries from position {start}")
        start += piece


@mask_exam.cost(0.5)
def no_more_than_needed(f: Function, rng: Rng) -> None:
    """The mask is made at once, and of the size that was asked for."""
    found = list[int]()
    for queries in (5, 200):
        with measure() as count:
            f(queries, 300, 20)
        found.append(count.operations)
    expect(found[1] <= found[0] + 20, f"5 queries took {found[0]} operations, 200 took {found[1]}.")
    with measure() as count:
        f(1, 1000, 999)
    expect(count.largest <= 1000, f"a mask of 1 by 1000 needed a tensor of {count.largest} numbers.")


mask_exam.conduct(0.5, PACKAGE)


# 05.3


Work = Callable[[Tensor], Tensor]


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


head_exam = Exam(
    "05.3",
    naive_per_head,
    hints=(
        "Take one position with 4 numbers and 2 heads: which numbers belong to head 0? Now take two "
        "positions, one after the other in memory: do the numbers of head 0 still lie side by side?",
        "The section on heads splits in two steps: first the last dimension becomes two, then two dimensions "
        "change places. The way back takes the same two steps in the opposite order. A `view` alone gives "
        "the right shape too, but with the numbers of other positions.",
        "C is not a multiple of H: raise ValueError\n"
        "split: (B, T, C) reshaped to (B, T, H, D), then dimensions 1 and 2 change places\n"
        "heads = work(that)                                # (B, H, T, E)\n"
        "join: dimensions 1 and 2 change places again, then reshape to (B, T, H * E)",
    ),
)


head_exam.example(
    1,
    (torch.tensor([[[1, 2, 3, 4], [10, 20, 30, 40]]]), 2, RunningSum()),
    torch.tensor([[[1, 2, 3, 4], [11, 22, 33, 44]]]),
)


@head_exam.oracle(1.5, mistakes=HEAD_MISTAKES)
def random_heads(rng: Rng) -> Iterator[tuple[Tensor, int, Work]]:
    """Two to four heads, the same width before and after; the last one of a single position."""
    for B, T, H, D in ((1, 2, 2, 2), (2, 5, 3, 4), (3, 4, 4, 2), (2, 3, 2, 6), (2, 1, 2, 3)):
        yield rng.normal(B, T, H * D), H, Mix(D)


@head_exam.property(1)
def heads_as_specified(f: Function, rng: Rng) -> None:
    """`work` sees the right heads, and what it returns is joined whatever its width."""
    B, T, H, D, E = 2, rng.randint(3, 5), rng.randint(2, 4), rng.randint(2, 5), rng.randint(6, 8)
    x, heads = rng.normal(B, T, H * D), rng.normal(B, H, T, E)
    work = Seen(heads)
    joined = f(x, H, work)
    expect(work.calls, "it was not called")
    same(work.calls[0], cut(x, H), "what `work` was called with")
    same(joined, torch.cat([*heads.unbind(1)], dim=-1), f"heads {tuple(heads.shape)}, joined")


@head_exam.edge(0.5)
def border_heads(rng: Rng) -> Iterator[tuple[Tensor, int, Work]]:
    """One head, heads of one number, no texts, a view, another width, float64."""
    yield rng.normal(2, 4, 6), 1, Mix(6)
    yield rng.normal(2, 4, 6), 6, Mix(1)
    yield rng.normal(0, 4, 6), 2, Mix(3)
    yield rng.normal(5, 2, 6).transpose(0, 1), 3, Mix(5)
    yield rng.normal(2, 6, 3).transpose(1, 2), 2, Mix(1)
    yield rng.normal(1, 3, 4, dtype=torch.float64), 2, Mix(2)


@head_exam.edge(
    0.5,
    mistakes={
        "numbers left over without a word": (
            lambda x, n_head, work: naive_per_head(x[..., : x.shape[-1] // n_head * n_head], n_head, work),
            "Look at *Raises* in the specification.",
        ),
    },
)
def uneven_heads(rng: Rng) -> Iterator[tuple[Tensor, int, Work]]:
    """Numbers that the heads cannot share evenly."""
    yield rng.normal(2, 3, 7), 2, Mix(3)
    yield rng.normal(2, 2, 3), 6, Mix(1)


@head_exam.cost(0.25)
def called_once(f: Function, rng: Rng) -> None:
    """`work` is called once, for all heads together."""
    work = Seen(rng.normal(2, 8, 3, 2))
    f(rng.normal(2, 3, 16), 8, work)
    expect(len(work.calls) == 1, f"8 heads took {len(work.calls)} calls.")


head_exam.conduct(0.25, PACKAGE)


# 05.4


def naive_scale(head_dim: int, q_std: float, k_std: float) -> float:
    """Add up the variances of the products, one by one."""
    if q_std == 0 or k_std == 0:
        raise ValueError("no spread")
    return math.fsum(q_std**2 * k_std**2 for _ in range(head_dim)) ** -0.5


scale_exam = Exam(
    "05.4",
    naive_scale,
    hints=(
        "What is the variance of one product of a number of the query and one of the key? And of a sum of D "
        "independent products?",
        "The section on the scale derives 1 / sqrt(D) for standard deviations of 1. Go through it again with "
        "others. A factor c multiplies a variance by c².",
        "a standard deviation is 0: raise ValueError\n"
        "variance of one product = q_std² · k_std²\n"
        "variance of a score = D times that\n"
        "return 1 / the root of the variance of a score",
    ),
)


scale_exam.example(0.5, (64, 1.0, 2.0), 0.0625)


@scale_exam.oracle(
    1,
    mistakes={
        "1 / sqrt(D) for all queries and keys": (
            lambda head_dim, q_std, k_std: head_dim**-0.5,
            "This is right for standard deviations of 1. Here they are given.",
        ),
        "a division by the variance": (
            lambda head_dim, q_std, k_std: 1 / (head_dim * q_std**2 * k_std**2),
            "A factor c multiplies a variance by c²: divide by the standard deviation of the scores.",
        ),
        "D without a root": (
            lambda head_dim, q_std, k_std: 1 / (head_dim * q_std * k_std),
            "Variances add up, standard deviations do not: how does that of a sum grow with D?",
        ),
        "the variances of queries and keys outside of the root": (
            lambda head_dim, q_std, k_std: 1 / (head_dim**0.5 * q_std**2 * k_std**2),
            "The root belongs to the whole variance of a score, not only to D.",
        ),
        "standard deviations inside the root": (
            lambda head_dim, q_std, k_std: 1 / (head_dim * q_std * k_std) ** 0.5,
            "Inside the root stands a variance, and a variance is a standard deviation squared.",
        ),
        "the two variances added": (
            lambda head_dim, q_std, k_std: 1 / (head_dim * (q_std**2 + k_std**2)) ** 0.5,
            "Variances add up in a sum. What does a product of independent numbers do?",
        ),
        "a factor that multiplies what it should divide": (
            lambda head_dim, q_std, k_std: head_dim**0.5 * q_std * k_std,
            "This is the standard deviation of the scores. Which factor brings it to 1?",
        ),
    },
)
def random_scales(rng: Rng) -> Iterator[tuple[int, float, float]]:
    """Heads of many sizes, narrow and wide queries and keys."""
    for head_dim in (rng.randint(2, 9), 64, rng.randint(65, 200)):
        yield head_dim, rng.uniform(1.5, 4), rng.uniform(0.1, 0.6)
        yield head_dim, rng.uniform(0.1, 0.6), rng.uniform(3, 9)
    yield 128, 1.0, 1.0


@scale_exam.property(0.5)
def unit_variance(f: Function, rng: Rng) -> None:
    """The scores of 40,000 random queries and keys, scaled, have a variance near 1."""
    for name in ("normal", "two-valued"):
        D, q_std, k_std = rng.randint(4, 20), rng.uniform(0.2, 5), rng.uniform(0.2, 5)
        q, k = rng.normal(2, 40_000, D) if name == "normal" else 2.0 * rng.integers(0, 2, 2, 40_000, D) - 1
        factor = as_expected(f(D, q_std, k_std), 1.0)
        expect(type(factor) is float, f"got {factor!r}")
        variance = float((factor * (q_std * q * k_std * k).sum(1)).var())
        case = f"D = {D}, q_std = {q_std:.3g} and k_std = {k_std:.3g}"
        expect(abs(variance - 1) < 0.1, f"{name} numbers with {case} have one of {variance:.3g}")


@scale_exam.edge(
    0.5,
    mistakes={
        "a factor where no factor helps": (
            lambda head_dim, q_std, k_std: naive_scale(head_dim, q_std, k_std) if q_std * k_std else math.inf,
            "Look at *Raises* in the specification.",
        ),
        "a division by zero": (
            lambda head_dim, q_std, k_std: 1 / (head_dim**0.5 * q_std * k_std),
            "Look at *Raises*: say in words what is wrong, before you divide.",
        ),
    },
)
def no_spread(rng: Rng) -> Iterator[tuple[int, float, float]]:
    """Queries or keys that are all 0; one number."""
    D = rng.randint(1, 9)
    yield from [(D, 0.0, 1.0), (D, rng.uniform(1, 2), 0.0), (D, 0.0, 0.0), (1, 1.0, 1.0), (1, 0.5, 4.0)]


scale_exam.conduct(0.5, PACKAGE)
