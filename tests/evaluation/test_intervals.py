"""Intervals against all resamples and the truth; pass@k and maj@k against all subsets and votes."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from myllm.evaluation.intervals import bootstrap, maj_at_k, pass_at_k
from myllm.files import UserError

# pass@k


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_the_subsets_that_hold_a_right_answer(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = [*itertools.combinations([i < c for i in range(n)], k)]
        share = Fraction(sum(map(any, subsets)), len(subsets))
        assert pass_at_k(n, c, k) == float(share), (n, c, k)


def test_pass_at_k_is_unbiased_and_the_plug_in_is_not():
    p, n, k = 0.2, 6, 4
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    found = sum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances))
    plugged = sum(chance * (1 - (1 - c / n) ** k) for c, chance in enumerate(chances))
    assert found == pytest.approx(1 - (1 - p) ** k, rel=1e-12)
    assert plugged < found - 0.05


def test_pass_at_k_neither_cancels_nor_overflows():
    assert pass_at_k(10**9, 1, 1) == 1e-9
    n, c, k = 5000, 3, 2000
    missed = math.prod(Fraction(n - c - i, n - i) for i in range(k))
    assert pass_at_k(n, c, k) == float(1 - missed)
    assert pass_at_k(20_000, 10_000, 10_001) == 1


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 0), (0, 0, 1)])
def test_pass_at_k_of_more_than_there_are_is_refused(n, c, k):
    with pytest.raises(UserError, match=rf"not n = {n}, c = {c}, k = {k}\.$"):
        pass_at_k(n, c, k)


# maj@k


def winner(answers):
    """The answer that wins a vote, by counting each in turn."""
    best = None
    for answer in answers:  # the first of equals wins, since only more votes than before win
        if answer and (best is None or answers.count(answer) > answers.count(best)):
            best = answer
    return best


def test_maj_at_k_is_every_vote_counted_by_hand():
    for n in range(1, 6):
        for answers in itertools.product(["a", "b", "c", ""], repeat=n):
            for k in range(1, n + 1):
                votes = [winner(answers[i * k : i * k + k]) for i in range(n // k)]
                for expected in ("a", "b", ""):
                    assert maj_at_k(answers, expected, k) == votes.count(expected) / len(votes)


def test_wrong_answers_that_agree_win():
    """A majority over verdicts would see two wrong against two right, or four different answers."""
    assert maj_at_k(["7", "8", "8", "7", "8"], "7", 5) == 0  # 2 right of 5
    assert maj_at_k(["7", "1", "2", "7", "3"], "7", 5) == 1  # 2 right of 5, and no wrong answer has two
    assert maj_at_k(["1", "7"], "7", 2) == 0 and maj_at_k(["7", "1"], "7", 2) == 1  # equals: the first
    assert maj_at_k(["", "", "7"], "7", 3) == 1 and maj_at_k(["", ""], "", 2) == 0
    assert maj_at_k(["7", "7", "1", "1", "7"], "7", 2) == 1 / 2  # two votes, and a rest


def test_maj_at_1_is_the_share_of_right_answers():
    answers = ["a", "b", "a", "", "a"]
    assert maj_at_k(answers, "a", 1) == 3 / 5


@pytest.mark.parametrize("k", [0, -1, 3])
def test_a_vote_of_more_than_there_are_is_refused(k):
    with pytest.raises(UserError, match=rf"from 1 to the number of answers, 2, not {k}\.$"):
        maj_at_k(["a", "b"], "a", k)


# Intervals


@pytest.mark.parametrize("weights", [(), (1, 2, 5, 1, 3)])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_an_interval_is_that_of_all_resamples(weights, level):
    """All 5⁵ of them are equally likely: their exact distribution has the two ends as its quantiles."""
    values, counts = (0.0, 3.0, 1.0, 7.0, 2.5), weights or (1,) * 5
    exact = [
        sum(values[i] for i in drawn) / sum(counts[i] for i in drawn)
        for drawn in itertools.product(range(5), repeat=5)
    ]
    ends = bootstrap(values, weights=weights, level=level, resamples=10_000)
    for end, share in zip(ends, (1, -1), strict=True):
        tail, slack = (1 - share * level) / 2, 0.015
        below, upto = np.mean(np.array(exact) < end - 1e-9), np.mean(np.array(exact) <= end + 1e-9)
        assert below - slack <= tail <= upto + slack


def test_an_interval_contains_the_truth_as_often_as_it_says():
    draw, hits, tries = random.Random(0), 0, 250
    for i in range(tries):
        values = [float(draw.random() < 0.7) for _ in range(80)]
        low, high = bootstrap(values, level=0.9, resamples=200, seed=i)
        hits += low <= 0.7 <= high
    assert 0.85 <= hits / tries <= 0.95


def test_an_interval_is_the_same_every_time_and_scales():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 0.5]
    low, high = bootstrap(values)
    assert (low, high) == bootstrap(values) == bootstrap(tuple(values), weights=[1] * 6)
    uneven = [x * x for x in range(40)]
    assert bootstrap(uneven) == bootstrap(uneven) != bootstrap(uneven, seed=1)
    assert bootstrap(values, weights=[4] * 6) == pytest.approx((low / 4, high / 4))
    assert bootstrap([3 + 2 * x for x in values]) == pytest.approx((3 + 2 * low, 3 + 2 * high))
    assert 0 <= low < sum(values) / 6 < high <= 1
    narrow, wide = bootstrap(values, level=0.5), bootstrap(values, level=0.99)
    assert wide[0] <= low <= narrow[0] <= narrow[1] <= high <= wide[1] and narrow != wide


def test_more_questions_narrow_it_by_the_root():
    few, many = (bootstrap([0.0, 1.0] * n) for n in (50, 800))
    assert 3.4 < (few[1] - few[0]) / (many[1] - many[0]) < 4.6
    assert bootstrap([1.0] * 30) == (1, 1) == bootstrap([3.0], weights=[3.0])


@pytest.mark.parametrize(
    "options",
    [
        {"values": []},
        {"level": 0},
        {"level": 1},
        {"resamples": 0},
        {"weights": [1.0]},
        {"weights": [1.0] * 3},
    ],
)
def test_an_interval_of_nothing_is_refused(options):
    with pytest.raises(UserError, match="An interval needs values"):
        bootstrap(**{"values": [1.0, 0.0], **options})
