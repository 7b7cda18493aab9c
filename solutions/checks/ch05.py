"""Checks of chapter 5: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from myllm.grading.compare import as_expected
from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import measure, same_operations

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


PACKAGE = "myllm.model.*"


SOFTMAX = tuple(
    f"{place}.{name}"
    for place in ("torch", "torch.Tensor", "torch.special", "torch.nn.functional")
    for name in ("softmax", "log_softmax", "logsumexp")
    if (place, name) != ("torch.nn.functional", "logsumexp")
)


softmax_exam = Exam(
    "05.1",
    naive_softmax,
)


softmax_exam.example(
    1,
    (torch.tensor([[1000.0, 1000.0, -math.inf], [-math.inf] * 3]),),
    torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]),
)


@softmax_exam.oracle(
    1.5,
    "rows along the first dimension",
    "column j divided by the sum of row j",
    "the sum over all numbers, not over each row",
    "powers of 2",
    "powers that are not divided by anything",
    "no exponential",
    "the logarithms of the weights",
    "the signs of the scores turned round",
)
def random_rows(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Scores of ordinary size, of one to four dimensions; a view."""
    yield (rng.normal(5),)
    yield (rng.normal(2, 3) * 2,)
    yield (rng.normal(4, 4) * 2,)
    yield (rng.normal(2, 3, 5, 6, dtype=torch.float64) * 3,)
    yield (rng.normal(7, 5).T,)


@softmax_exam.edge(
    1,
    "powers that are too large for a float",
    "powers that are too large or all 0",
    "the largest score of all rows taken away and rows of zeros",
    "the largest score of all rows taken away",
    "the mean of each row taken away",
)
def large_scores(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Rows far from 0, up and down; rows that spread widely; one number a row."""
    levels = torch.tensor([[0.0], [1000.0], [-1000.0], [30_000.0]])
    yield (levels + rng.integers(-8, 8, 4, 6) / 4,)
    yield (torch.tensor([[0.0, 1000.0, 0.0, 0.0], [-3e38, 3e38, 0.0, 1.0], [-1e5, -1e5, 0.0, 0.0]]),)
    yield (levels,)
    yield (rng.normal(3, 8, dtype=torch.float64) * 1000,)


@softmax_exam.edge(0.5, "-inf minus -inf in rows that see nothing", "equal weights in rows that see nothing")
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


softmax_exam.operations(0.5, "rows", (5, 200), lambda rng, n: (rng.normal(n, 7),))


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


mask_exam = Exam(
    "05.2",
    naive_mask,
)


mask_exam.example(0.5, (2, 4, 1), torch.tensor([[True, True, False, False], [True, True, True, False]]))


@mask_exam.oracle(
    1.5,
    "the offset forgotten",
    "the queries taken for the last tokens of the text",
    "tokens that do not see themselves",
    "True where a key is hidden",
    "queries and keys exchanged",
    "0 and -inf, to be added to the scores",
    "one token of the future seen",
    "the offset on the wrong side",
    "the future seen and the past hidden",
)
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
    same_operations(f, "queries", [(n, (n, 300, 20)) for n in (5, 200)])
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


head_exam = Exam(
    "05.3",
    naive_per_head,
)


head_exam.example(
    1,
    (torch.tensor([[[1, 2, 3, 4], [10, 20, 30, 40]]]), 2, RunningSum()),
    torch.tensor([[[1, 2, 3, 4], [11, 22, 33, 44]]]),
)


@head_exam.oracle(
    1.5,
    "a view without a transpose, there and back",
    "a split by view without a transpose",
    "heads joined without a transpose",
    "a `view` right after a `transpose`",
    "every H-th number in a head",
    "heads as positions",
    "no work done",
)
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


@head_exam.edge(0.5, "numbers left over without a word")
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
)


scale_exam.example(0.5, (64, 1.0, 2.0), 0.0625)


@scale_exam.oracle(
    1,
    "1 / sqrt(D) for all queries and keys",
    "a division by the variance",
    "D without a root",
    "standard deviations inside the root",
    "the variances of queries and keys outside of the root",
    "the two variances added",
    "a factor that multiplies what it should divide",
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


@scale_exam.edge(0.5, "a factor where no factor helps", "a division by zero")
def no_spread(rng: Rng) -> Iterator[tuple[int, float, float]]:
    """Queries or keys that are all 0; one number."""
    D = rng.randint(1, 9)
    yield from [(D, 0.0, 1.0), (D, rng.uniform(1, 2), 0.0), (D, 0.0, 0.0), (1, 1.0, 1.0), (1, 0.5, 4.0)]


scale_exam.conduct(0.5, PACKAGE)
