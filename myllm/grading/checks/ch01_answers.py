"""Chapter 1: the naive references, and the wrong answers that the checks recognise."""

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor


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
