"""Bootstrap intervals of scores, and scores of several answers to one question: pass@k and maj@k."""

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np

from myllm.files import UserError

Numbers = Sequence[float]


def bootstrap(
    values: Numbers, *, weights: Numbers = (), level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval for the mean of values, one per question (Efron, 1979).

    The questions are resampled with replacement, again and again; the interval holds the middle `level` of
    the means. It says how far the score may move with other questions of the same kind, but nothing about
    other kinds. If all values are equal, it has no width, which is overconfident: after n right answers of n,
    the error rate may still be 3 / n. To compare two models, pass the differences of their values, question
    by question.

    Args:
        values: The score of each question.
        weights: The weight of each question, by default 1; the mean is the sum of values over that of
            weights.
        level: The share of the means inside the interval.
        resamples: How many times the questions are drawn.
        seed: Determines the draws.

    Returns:
        The lower and the upper end.

    Raises:
        UserError: There are no values, the number of weights differs, or a number is out of range.
    """
    n = len(values)
    if n < 1 or len(weights) not in (0, n) or not 0 < level < 1 or resamples < 1:
        raise UserError("An interval needs values, a level between 0 and 1, and 1 or more resamples.")
    sums = np.array([values, weights or [1] * n], np.float64)  # (2, N)
    generator = np.random.default_rng(seed)
    drawn = [sums[:, generator.integers(n, size=n)].sum(axis=1) for _ in range(resamples)]
    low, high = np.quantile([x / w for x, w in drawn], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The probability that k of n answers, drawn without replacement, hold a right one (Chen et al., 2021).

    The estimate ``1 - C(n - c, k) / C(n, k)`` is unbiased; ``1 - (1 - c / n) ** k`` is too small. It is
    computed in integers, without overflow or cancellation.

    Args:
        n: The number of answers to a question.
        c: How many of them are right.
        k: How many are drawn.

    Raises:
        UserError: k is not between 1 and n, or c is not between 0 and n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise UserError(f"pass@k needs 1 ≤ k ≤ n and 0 ≤ c ≤ n, not n = {n}, c = {c}, k = {k}.")
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def maj_at_k(answers: Sequence[str], expected: str, k: int) -> float:
    """How often the most frequent of k answers is right (self-consistency, Wang et al., 2023).

    The vote is over extracted answers, right or wrong: wrong answers that agree outvote right ones that are
    fewer. Of equally frequent answers, the one that came first wins. An empty answer, from which nothing
    could be extracted, does not vote.

    Args:
        answers: The extracted answers to a question, in the order in which they were sampled.
        expected: The right answer.
        k: The number of answers in a vote.

    Returns:
        The share of right votes, one on the first k answers, one on the next k, …; a remainder is left out.

    Raises:
        UserError: k is less than 1, or there are fewer than k answers.
    """
    if not 1 <= k <= len(answers):
        raise UserError(f"maj@k needs k from 1 to the number of answers, {len(answers)}, not {k}.")
    starts = range(0, len(answers) - k + 1, k)
    votes = [Counter(filter(None, answers[i : i + k])).most_common(1) for i in starts]
    return sum(vote[0][0] == expected for vote in votes if vote) / len(votes)
