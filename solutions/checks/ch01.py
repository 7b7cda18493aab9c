"""Checks of chapter 1: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from myllm.grading.compare import kind
from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import measure

# 01.1


def naive_counts(text: str, alphabet: str) -> Tensor:
    """Look at every pair in turn."""
    rows = [[0] * len(alphabet) for _ in alphabet]
    for previous, following in pairwise(text):
        rows[alphabet.index(previous)][alphabet.index(following)] += 1
    return torch.tensor(rows, dtype=torch.int64)


def sorted_counts(text: str, alphabet: str) -> Tensor:
    """Wrong: the alphabet in sorted order."""
    return naive_counts(text, "".join(sorted(alphabet)))


def seen_pairs(text: str, alphabet: str) -> Tensor:
    """Wrong: what ``counts[a, b] += 1`` gives for repeated indices, each pair once."""
    return naive_counts(text, alphabet).clamp(max=1)


def unpadded(text: str, alphabet: str) -> Tensor:
    """Wrong: ``bincount`` without ``minlength``, which ends at the last pair that occurs."""
    if alphabet[-1] * 2 not in text:
        raise RuntimeError("too few counts for the table")
    return naive_counts(text, alphabet)


# In both checks, so that the torch error is explained wherever it shows.
TOO_SMALL = {
    "`bincount` and no `minlength`": (
        unpadded,
        "Where the last character of the alphabet does not follow itself in the text, there are fewer counts "
        "than the table has cells. Say `minlength=V * V`.",
    ),
}


counts = Exam(
    "01.1",
    naive_counts,
    hints=(
        "Give every character a number. What do `ids[:-1]` and `ids[1:]` hold, side by side?",
        "The section on counting pairs fills the same table in a loop; start from that loop.",
        "number = {character: its place in alphabet}\n"
        "table = V × V zeros, int64\n"
        "for each neighbouring (a, b) in text: add 1 at table[number[a], number[b]]",
    ),
)


counts.example(1, ("aabb", "ab"), torch.tensor([[1, 1], [0, 1]]))


@counts.oracle(
    2,
    mistakes={
        "rows and columns swapped": (
            lambda text, alphabet: naive_counts(text, alphabet).T,
            "The row is the previous character, the column the next one.",
        ),
        "the alphabet sorted first": (
            sorted_counts,
            "Keep the alphabet in the order in which it is given.",
        ),
        "every pair counted once only": (
            seen_pairs,
            "With repeated indices `counts[a, b] += 1` adds only once; loop, or accumulate.",
        ),
        "the last character followed by the first": (
            lambda text, alphabet: naive_counts(text + text[:1], alphabet),
            "The last character has no next one; N characters hold N − 1 pairs.",
        ),
        "only every second pair counted": (
            lambda text, alphabet: sum(
                (naive_counts(text[i : i + 2], alphabet) for i in range(2, len(text), 2)),
                naive_counts(text[:2], alphabet),
            ),
            "Pairs overlap: each character but the ends is the next one of a pair and begins another.",
        ),
        "overlapping pairs left out": (
            lambda text, alphabet: torch.tensor([[text.count(a + b) for b in alphabet] for a in alphabet]),
            "`aaa` holds the pair `aa` twice, but `str.count` finds it once. Go through the places instead.",
        ),
        **TOO_SMALL,
    },
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


@counts.edge(1, mistakes=TOO_SMALL)
def short_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """No pair at all, or one."""
    yield from [("", "ab"), ("b", "ab"), ("ba", "ab"), ("aa", "a")]


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


def base_two(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: bits instead of nats, but the exponential of e."""
    bits = naive_score(probabilities, ids)[0] / math.log(2)
    return bits, math.exp(bits)


def bits(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: bits instead of nats; the perplexity is right."""
    mean, perplexity = naive_score(probabilities, ids)
    return mean / math.log(2), perplexity


def power_of_two(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: nats, but a power of 2."""
    mean = naive_score(probabilities, ids)[0]
    return mean, 2**mean


def summed(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: no mean at all."""
    total = sum(nats(probabilities, ids))
    return total, math.exp(total)


def summed_perplexity(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: the mean is returned, and the sum goes into the exponential."""
    values = nats(probabilities, ids)
    return sum(values) / len(values), math.exp(sum(values))


def divided_by_length(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: N instead of N - 1 predictions."""
    mean = sum(nats(probabilities, ids)) / len(ids)
    return mean, math.exp(mean)


def mean_probability(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: first the mean, then the logarithm."""
    values = [math.exp(-value) for value in nats(probabilities, ids)]
    mean = sum(values) / len(values)
    return (-math.log(mean), 1 / mean) if mean else (math.inf, math.inf)


def multiplied(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Wrong: the product of the probabilities, which underflows to 0."""
    values = nats(probabilities, ids)
    product = math.prod(math.exp(-value) for value in values)
    mean = -math.log(product) / len(values) if product else math.inf
    return mean, math.exp(mean)


def possible_only(probabilities: Tensor, ids: Tensor, *, share: bool = True) -> tuple[float, float]:
    """Wrong: impossible pairs are passed over; they may still have a ``share`` in the mean, as zeros."""
    values = nats(probabilities, ids)
    possible = [value for value in values if value < math.inf]
    mean = sum(possible) / len(values if share else possible)
    return mean, math.exp(mean)


def random_table(rng: Rng, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Probabilities whose rows sum to 1."""
    return rng.normal(size, size, dtype=torch.float64).softmax(1).to(dtype)


score = Exam(
    "01.2",
    naive_score,
    hints=(
        "Which number of the table is the probability of the second character? Of the third? The model has "
        "nothing to say about the first.",
        "The section on scoring a text has the formula. `ids[:-1]` and `ids[1:]` index all steps at once.",
        "fewer than two ids: raise ValueError\n"
        "p = probabilities[every id but the last, every id but the first]\n"
        "nll = minus the mean of ln p\n"
        "return nll and e to the power of nll, as Python floats",
    ),
    tolerance=1e-5,
)


score.example(
    1, (torch.tensor([[0.5, 0.5], [0.125, 0.875]]), torch.tensor([0, 1, 0])), (1.3862943611198906, 4.0)
)


@score.oracle(
    2,
    mistakes={
        "rows and columns swapped": (
            lambda probabilities, ids: naive_score(probabilities.T, ids),
            "Which index comes first, the previous character or the next one?",
        ),
        "the minus sign missing": (
            lambda probabilities, ids: (
                -naive_score(probabilities, ids)[0],
                1 / naive_score(probabilities, ids)[1],
            ),
            "Logarithms of probabilities are negative; what is the sign of a *negative* log-likelihood?",
        ),
        "logarithms to base 2, then e to their power": (
            base_two,
            "Nats are natural logarithms: look at which logarithm you call.",
        ),
        "bits instead of nats": (
            bits,
            "Your perplexity is right. In which unit is your first number?",
        ),
        "2 to the power of a mean in nats": (
            power_of_two,
            "Your first number is right. The exponential has to undo the logarithm that you took.",
        ),
        "the sum instead of the mean": (
            summed,
            "Look at *per predicted character* in the specification.",
        ),
        "the exponential of the sum": (
            summed_perplexity,
            "Your first number is right. The perplexity comes from that number, not from the sum.",
        ),
        "a division by the number of characters": (
            divided_by_length,
            "How many of the N characters did the model have to predict?",
        ),
        "the last character followed by the first": (
            lambda probabilities, ids: naive_score(probabilities, torch.cat([ids, ids[:1]])),
            "Nothing follows the last character; look at what your shifted ids hold at the end.",
        ),
        "the logarithm of the mean probability": (
            mean_probability,
            "Look at the order: the mean is taken over the logarithms.",
        ),
    },
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


@score.edge(
    0.5,
    mistakes={
        "infinite terms left out of the mean": (
            lambda probabilities, ids: possible_only(probabilities, ids, share=False),
            "One impossible pair makes the whole text impossible: let the logarithm of 0 have its effect.",
        ),
        "infinite terms turned into zeros": (
            possible_only,
            "One impossible pair makes the whole text impossible: let the logarithm of 0 have its effect.",
        ),
    },
)
def impossible_pairs(rng: Rng) -> Iterator[tuple[Tensor, Tensor]]:
    """Probabilities 0 and 1."""
    table = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    yield table, torch.tensor([0, 1, 0, 0])
    yield table, torch.tensor([0, 1])


@score.edge(
    0.5,
    mistakes={
        "the probabilities multiplied before the logarithm": (
            multiplied,
            "A product of thousands of probabilities is too small for a float and becomes 0. "
            "What is the logarithm of a product?",
        ),
    },
)
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


@score.cost(0.5)
def few_operations(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the length of the text."""
    table, found = random_table(rng, 4), list[int]()
    for length in (50, 500):
        with measure() as count:
            f(table, rng.integers(0, 4, length))
        found.append(count.operations)
    expect(
        found[1] <= found[0] + 20,
        f"50 characters took {found[0]} operations, 500 took {found[1]}; index all pairs at once.",
    )


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


def unseen_only(counts: Tensor, alpha: float) -> Tensor:
    """Wrong: alpha stands in for the zeros only."""
    raised = torch.where(counts == 0, alpha, counts.double())
    return (raised / raised.sum(1, keepdim=True)).float()


def empty_rows(counts: Tensor, alpha: float, fill: float) -> Tensor:
    """Wrong: another value than 1 / V in rows without any count."""
    empty = (counts.sum(1, keepdim=True) + alpha) == 0
    return torch.where(empty, fill, naive_smoothed(counts, alpha))


smoothing = Exam(
    "01.3",
    naive_smoothed,
    hints=(
        "Add first. How large is each row's sum then, and what do you get when you divide a row by its sum?",
        "The section on pairs never seen has the formula; `keepdim=True` keeps the sums as a column. "
        "Then look at rows that hold nothing but zeros.",
        "raised = counts + alpha, as floats\n"
        "totals = the sum of each row of raised, as a (V, 1) column\n"
        "where a total is above 0: raised / totals, elsewhere 1 / V\n"
        "return it as float32",
    ),
)


smoothing.example(1, (torch.tensor([[5, 1], [0, 0]]), 1.0), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))


@smoothing.oracle(
    2,
    mistakes={
        "alpha added to the counts but not to the total": (
            lambda counts, alpha: ((counts + alpha) / counts.sum(1, keepdim=True)).float(),
            "Add up one of your rows. The total has to be that of the raised counts.",
        ),
        "alpha added only once to the total": (
            lambda counts, alpha: ((counts + alpha) / (counts.sum(1, keepdim=True) + alpha)).float(),
            "How many counts of a row were raised by alpha? All of them belong to its total.",
        ),
        "each column divided by its sum": (
            lambda counts, alpha: naive_smoothed(counts.T, alpha).T,
            "Which axis is the next character? Along that one the probabilities add up to 1.",
        ),
        "column j divided by the total of row j": (
            lambda counts, alpha: ((counts + alpha) / (counts + alpha).sum(1)).float(),
            "Print the shape of the totals: a (V,) is lined up with the columns. `keepdim` changes that.",
        ),
        "the whole table divided by one total": (
            lambda counts, alpha: ((counts + alpha) / (counts + alpha).sum()).float(),
            "Each row is a distribution of its own; look at the `dim` of your sum.",
        ),
        "alpha given only to pairs that were never seen": (
            unseen_only,
            "Every pair gets alpha, also those that were seen.",
        ),
        "a softmax instead of a division": (
            lambda counts, alpha: counts.float().softmax(1),
            "Counts are no logits: no exponential is wanted. Divide each row by its sum.",
        ),
        "an alpha of 1 whatever is given": (
            lambda counts, alpha: naive_smoothed(counts, 1.0),
            "Look for the argument `alpha` in your formula.",
        ),
        "no alpha at all": (
            lambda counts, alpha: naive_smoothed(counts, 0.0),
            "Look for the argument `alpha` in your formula.",
        ),
    },
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


@smoothing.edge(
    1,
    mistakes={
        "zero divided by zero": (
            lambda counts, alpha: empty_rows(counts, alpha, math.nan),
            "With alpha = 0 a row without counts has the total 0. The specification says what it becomes.",
        ),
        "rows of zeros left as they are": (
            lambda counts, alpha: empty_rows(counts, alpha, 0.0),
            "With alpha = 0 a row without counts still has to sum to 1. The specification says how.",
        ),
    },
)
def empty_tables(rng: Rng) -> Iterator[tuple[Tensor, float]]:
    """Rows without counts, alpha 0, one character, a view."""
    yield torch.tensor([[1, 3], [0, 0]]), 0.0
    yield torch.zeros(3, 3, dtype=torch.int64), 0.0
    yield torch.zeros(2, 2, dtype=torch.int64), 0.25
    yield torch.tensor([[0]]), 0.0
    yield torch.tensor([[7]]), 0.0
    yield rng.integers(0, 9, 6, 4)[:4].T, 1.5
