"""How sure a score is, and what several answers to one question are worth: pass@k and maj@k."""

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np

from myllm.files import UserError

Numbers = Sequence[float]


def bootstrap(
    values: Numbers, *, weights: Numbers = (), level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """An interval for the mean of values, one a question: the percentile bootstrap (Efron, 1979).

    As many questions are drawn with replacement as there are, again and again; the interval holds the middle
    `level` of the means. It says how far the score may move with other questions of the same kind, nothing
    about other kinds. Where all values are equal it has no width, which is too sure of itself: after n right
    answers of n, three in n may still be wrong. To compare two models, give it the differences of their
    values, question by question.

    Args:
        values: What each question scores.
        weights: What each question counts, by default 1; the mean is the sum of values over that of weights.
        level: The share of the means inside.
        resamples: How often questions are drawn.
        seed: It determines the draws.

    Returns:
        The lower and the upper end.

    Raises:
        UserError: There are no values, not a weight for each, or a number is out of range.
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

    It is ``1 - C(n - c, k) / C(n, k)``, and unbiased; ``1 - (1 - c / n) ** k`` is too small. It is computed
    in whole numbers, which neither overflow nor cancel.

    Args:
        n: Answers to a question.
        c: How many of them are right.
        k: How many are drawn.

    Raises:
        UserError: k is more than n or less than 1, or c is no number of answers.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise UserError(f"pass@k needs 1 ≤ k ≤ n and 0 ≤ c ≤ n, not n = {n}, c = {c}, k = {k}.")
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def maj_at_k(answers: Sequence[str], expected: str, k: int) -> float:
    """How often the majority of k answers is the right one (self-consistency, Wang et al., 2023).

    The vote is over what was extracted, not over what is right: wrong answers that agree win against right
    ones that are fewer. Of equally frequent answers the one that came first wins. An empty one, from which
    nothing could be extracted, does not vote.

    Args:
        answers: The extracted answers to a question, in the order in which they were sampled.
        expected: The right answer.
        k: Answers in a vote.

    Returns:
        The share of right votes among the first k answers, the next k, and so on; a rest is left out.

    Raises:
        UserError: k is less than 1, or there are fewer answers.
    """
    if not 1 <= k <= len(answers):
        raise UserError(f"maj@k needs k from 1 to the number of answers, {len(answers)}, not {k}.")
    starts = range(0, len(answers) - k + 1, k)
    votes = [Counter(filter(None, answers[i : i + k])).most_common(1) for i in starts]
    return sum(vote[0][0] == expected for vote in votes if vote) / len(votes)
