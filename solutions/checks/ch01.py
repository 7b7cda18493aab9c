"""Checks of chapter 1: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from myllm.grading.compare import kind
from myllm.grading.exam import Exam, Function, Rng, expect, same

# 01.1


def naive_counts(text: str, alphabet: str) -> Tensor:
    """Look at every pair in turn."""
    rows = [[0] * len(alphabet) for _ in alphabet]
    for previous, following in pairwise(text):
        rows[alphabet.index(previous)][alphabet.index(following)] += 1
    return torch.tensor(rows, dtype=torch.int64)


# In both checks, so that the torch error is explained wherever it shows.
counts = Exam(
    "01.1",
    naive_counts,
)


counts.example(1, ("aabb", "ab"), torch.tensor([[1, 1], [0, 1]]))


@counts.oracle(
    2,
    "rows and columns swapped",
    "every pair counted once only",
    "only every second pair counted",
    "overlapping pairs left out",
    "`bincount` and no `minlength`",
    "the alphabet sorted first",
    "the last character followed by the first",
)
def random_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """A short text in which every mistake shows, then texts over alphabets in no particular order."""
    c, b, a = sorted(rng.sample("abcdefghij", 3))
    yield a * 3 + b + c + a + b, a + b + c
    for size in (2, 3, 5, 9):
        alphabet = "".join(rng.sample("abcdefghij .!é\n", size))
        yield "".join(rng.choices(alphabet, k=rng.randint(20, 60))), alphabet


@counts.property(1)
def total(f: Function, rng: Rng) -> None:
    """The counts add up to one less than the length of the text."""
    text = "".join(rng.choices("xyz", k=rng.randint(30, 90)))
    found = f(text, "zyx")
    expect(isinstance(found, Tensor), "the result is not a tensor")
    expect(int(found.sum()) == len(text) - 1, f"{len(text)} characters gave a sum of {int(found.sum())}")


@counts.edge(1, "`bincount` and no `minlength`")
def short_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """No pair at all, or one; capitals beside small letters; more pairs than a small type can count."""
    yield from [("", "ab"), ("b", "ab"), ("ba", "ab"), ("aa", "a")]
    yield "aAbBaA", "AaBb"
    yield "ab" * 2200, "ba"


# 01.2


def nats(probabilities: Tensor, ids: Tensor) -> list[float]:
    """The negative log-likelihood of each predicted character, one after the other."""
    table, text = cast("list[list[float]]", probabilities.tolist()), cast("list[int]", ids.tolist())
    if len(text) < 2:
        raise ValueError("nothing to predict")
    return [-math.log(table[a][b]) if table[a][b] else math.inf for a, b in pairwise(text)]


def naive_score(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Average by hand."""
    values = nats(probabilities, ids)
    mean = sum(values) / len(values)
    return mean, math.exp(mean)


def random_table(rng: Rng, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Probabilities whose rows sum to 1."""
    return rng.normal(size, size, dtype=torch.float64).softmax(1).to(dtype)


score = Exam(
    "01.2",
    naive_score,
    tolerance=1e-5,
)


score.example(
    1, (torch.tensor([[0.5, 0.5], [0.125, 0.875]]), torch.tensor([0, 1, 0])), (1.3862943611198906, 4.0)
)


@score.oracle(
    2,
    "rows and columns swapped",
    "logarithms to base 2, then e to their power",
    "2 to the power of a mean in nats",
    "the sum instead of the mean",
    "a division by the number of characters",
    "the minus sign missing",
    "bits instead of nats",
    "the exponential of the sum",
    "the last character followed by the first",
    "the logarithm of the mean probability",
)
def random_scores(rng: Rng) -> Iterator[tuple[Tensor, Tensor]]:
    """Short texts under random tables, from small to large."""
    yield torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([0, 0, 1, 0, 0, 1])
    yield random_table(rng, 3), rng.integers(0, 3, 10)
    yield random_table(rng, 5, torch.float64), rng.integers(0, 5, 25)
    yield random_table(rng, 9), rng.integers(0, 9, 12)


@score.property(0.5)
def uniform(f: Function, rng: Rng) -> None:
    """When all V characters are equally likely, the perplexity is V and the mean is ln V."""
    size = rng.randint(2, 40)
    got = f(torch.full((size, size), 1 / size), rng.integers(0, size, rng.randint(5, 50)))
    same(got, (math.log(size), float(size)), f"V = {size}", tolerance=1e-5)


@score.edge(0.5, "infinite terms left out of the mean", "infinite terms turned into zeros")
def impossible_pairs(rng: Rng) -> Iterator[tuple[Tensor, Tensor]]:
    """Probabilities 0 and 1."""
    table = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    yield table, torch.tensor([0, 1, 0, 0])
    yield table, torch.tensor([0, 1])


@score.edge(0.5, "the probabilities multiplied before the logarithm")
def long_text(rng: Rng) -> Iterator[tuple[Tensor, Tensor]]:
    """A text so long that its probability is no float any more."""
    yield random_table(rng, 6), rng.integers(0, 6, 3000)


@score.edge(0.5)
def short_texts_scored(rng: Rng) -> Iterator[tuple[Tensor, Tensor]]:
    """One prediction, possible or not, or none; and a table that is a view."""
    table = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    yield table, torch.tensor([1, 0])
    yield torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([0, 0])
    yield table, torch.tensor([1])
    yield table, torch.tensor([], dtype=torch.int64)
    yield random_table(rng, 3).T.softmax(0).T, rng.integers(0, 3, 20)[::2]


score.operations(0.5, "characters", (50, 500), lambda rng, n: (random_table(rng, 4), rng.integers(0, 4, n)))


score.conduct(0.5, "myllm.evaluation.*", "torch.nn.functional.cross_entropy", "torch.nn.functional.nll_loss")


# 01.3


def naive_smoothed(counts: Tensor, alpha: float) -> Tensor:
    """Row by row, number by number."""
    table = list[list[float]]()
    for row in cast("list[list[int]]", counts.tolist()):
        raised = [count + alpha for count in row]
        total = sum(raised)
        table.append([value / total for value in raised] if total else [1 / len(row)] * len(row))
    return torch.tensor(table, dtype=torch.float32)


smoothing = Exam(
    "01.3",
    naive_smoothed,
)


smoothing.example(1, (torch.tensor([[5, 1], [0, 0]]), 1.0), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))


@smoothing.oracle(
    2,
    "alpha added to the counts but not to the total",
    "each column divided by its sum",
    "column j divided by the total of row j",
    "alpha given only to pairs that were never seen",
    "a softmax instead of a division",
    "alpha added only once to the total",
    "the whole table divided by one total",
    "an alpha of 1 whatever is given",
    "no alpha at all",
)
def random_counts(rng: Rng) -> Iterator[tuple[Tensor, float]]:
    """Tables with zeros in every row, and without empty rows."""
    yield torch.tensor([[rng.randint(3, 9), 0], [rng.randint(1, 2), rng.randint(10, 20)]]), 0.5
    for size in (3, 5, 12):
        counts = rng.integers(0, 6, size, size) + torch.diag(rng.integers(1, 30, size))
        yield counts, round(rng.uniform(0.1, 3.0), 2)
    yield rng.integers(1, 10**7, 4, 4), 2.0


@smoothing.property(1)
def toward_uniform(f: Function, rng: Rng) -> None:
    """Every row sums to 1, and a larger alpha brings every row nearer to 1 / V."""
    size = rng.randint(3, 8)
    counts = rng.integers(0, 5, size, size) + torch.diag(torch.full((size,), 9))
    before = torch.full((size,), 1.0)
    for alpha in (0.0, 0.1, 1.0, 10.0, 1000.0):
        found = f(counts, alpha)
        right = isinstance(found, Tensor) and found.shape == (size, size)
        expect(right, f"expected {kind(counts.float())}, got {kind(found)}")
        sums = found.double().sum(1)
        worst = int((sums - 1).abs().nan_to_num(math.inf).argmax())
        expect(
            abs(float(sums[worst]) - 1) < 1e-4,
            f"with alpha = {alpha} row {worst} sums to {float(sums[worst]):.4g}",
        )
        distance = (found.double() - 1 / size).abs().amax(1)
        expect((distance < before).all(), f"with alpha = {alpha} some row is not nearer than with less")
        before = distance


@smoothing.edge(1, "zero divided by zero", "rows of zeros left as they are")
def empty_tables(rng: Rng) -> Iterator[tuple[Tensor, float]]:
    """Rows without counts, alpha 0, one character, a view."""
    yield torch.tensor([[1, 3], [0, 0]]), 0.0
    yield torch.zeros(3, 3, dtype=torch.int64), 0.0
    yield torch.zeros(2, 2, dtype=torch.int64), 0.25
    yield torch.tensor([[0]]), 0.0
    yield torch.tensor([[7]]), 0.0
    yield rng.integers(0, 9, 6, 4)[:4].T, 1.5
    yield torch.tensor([[2**31 - 2, 2**31 - 2], [2**33, 3]]), 1.0
