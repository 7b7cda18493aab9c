import math
from fractions import Fraction

import pytest
import torch

from myllm.widgets import AllReduce
from myllm.widgets.all_reduce import ALGORITHMS

RANKS = range(2, 9)
CASES = [(kind, n) for kind in ALGORITHMS for n in RANKS]
PLAYED = """cases.map(([kind, n]) => {
  const steps = schedule(kind, n);
  return steps.map((_, i) => play(n, steps.slice(0, i + 1)));
})"""


def test_every_algorithm_ends_with_the_sum_on_every_rank(node):
    begun = node(AllReduce, "cases.map(([kind, n]) => vectors(n))", cases=CASES)
    for (_, n), before, states in zip(CASES, begun, node(AllReduce, PLAYED, cases=CASES), strict=True):
        start = torch.tensor(before)
        assert start.shape == (n, n * math.ceil(8 / n))
        torch.testing.assert_close(torch.tensor(states[-1]["values"]), start.sum(0).expand_as(start))
        for state in states:  # each number is the sum of those it is said to contain, none of them twice
            for at, column in enumerate(zip(*state["origins"], strict=True)):
                for rank, owners in enumerate(column):
                    assert 0 < owners < 2**n
                    parts = [start[r, at].item() for r in range(n) if owners >> r & 1]
                    assert state["values"][rank][at] == sum(parts)


def test_numbers_sent_are_the_known_ones(node):
    steps_and_sent = "cases.map(([kind, n]) => [schedule(kind, n).length, sent(n, schedule(kind, n))])"
    found = node(AllReduce, steps_and_sent, cases=CASES)
    for (kind, n), (steps, sent) in zip(CASES, found, strict=True):
        size, levels = n * math.ceil(8 / n), math.ceil(math.log2(n))
        shares = [Fraction(numbers, size) for numbers in sent]
        assert steps == (2 * levels if kind == "tree" else 2 * (n - 1))
        if kind == "ring":
            assert shares == [Fraction(2 * (n - 1), n)] * n
        else:  # each other rank sends its vector once, and receives the sum once
            assert sum(shares) == 2 * (n - 1)
            assert shares[0] == (n - 1 if kind == "naive" else levels)


def test_reduce_scatter_leaves_one_whole_chunk_on_each_rank(node):
    for n, states in zip(RANKS, node(AllReduce, PLAYED, cases=[("ring", n) for n in RANKS]), strict=True):
        complete = (torch.tensor(states[n - 2]["origins"]) == 2**n - 1).view(n, n, -1)
        assert torch.equal(complete.all(2), torch.eye(n, dtype=torch.bool).roll(1, 1))
        assert torch.equal(complete.any(2), complete.all(2))


def test_a_rank_sends_and_receives_one_message_a_step(node):
    found = node(AllReduce, "cases.map(([kind, n]) => schedule(kind, n))", cases=CASES)
    for message in (step["messages"] for steps in found for step in steps):
        for end in ("from", "to"):
            assert len({one[end] for one in message}) == len(message)


def test_time_is_latency_and_the_longest_message_of_each_step(node):
    cases = [(kind, n, bytes_, 3e-5, 7e9) for kind, n in CASES for bytes_ in (0, 2000, 3e9)]
    found = node(
        AllReduce,
        "cases.map(([kind, n, bytes, alpha, beta]) => seconds(n, schedule(kind, n), bytes, alpha, beta))",
        cases=cases,
    )
    for (kind, n, bytes_, alpha, beta), time in zip(cases, found, strict=True):
        steps = 2 * math.ceil(math.log2(n)) if kind == "tree" else 2 * (n - 1)
        longest = bytes_ / (n if kind == "ring" else 1)
        assert time == pytest.approx(steps * (alpha + longest / beta), rel=1e-12)


def test_zero_shards_the_state_of_mixed_precision(node):
    """The published example: 7.5 billion parameters on 64 ranks take 120, 31.4, 16.6 and 1.9 GB."""
    expression = "[0, 1, 2, 3].map((stage) => zero(stage, count, n))"
    rows = node(AllReduce, expression, count=7_500_000_000, n=64)
    held = [row["weights"] + row["gradients"] + row["optimizer"] for row in rows]
    assert [round(bytes_ / 1e9, 1) for bytes_ in held] == [120.0, 31.4, 16.6, 1.9]
    gradients = Fraction(63, 64) * 2 * 7_500_000_000  # bytes of one reduce-scatter, or of one all-gather
    assert [row["sends"] for row in rows] == [2 * gradients] * 3 + [3 * gradients]
    uneven = node(AllReduce, expression, count=10, n=4)
    assert [row["optimizer"] for row in uneven] == [120, 36, 36, 36]  # the fullest rank has 3 of 10
    assert [row["gradients"] for row in uneven] == [20, 20, 6, 6]
    assert [row["weights"] for row in uneven] == [20, 20, 20, 6]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "Ring, before step 1 of 6: each rank has its own numbers. In all, the busiest rank sends 1.5 S = "
            "3 GB in 120 ms (naive 480 ms, tree 320 ms).",
        ),
        (
            {"step": 3, "parameters": 1000},
            "Ring, step 3 of 6 (reduce-scatter): each rank sends 2 numbers to the next, which adds them. In "
            "all, the busiest rank sends 1.5 S = 3 kB in 60.1 µs (naive 60.5 µs, tree 40.3 µs).",
        ),
        (
            {"algorithm": "naive", "ranks": 2, "step": 2},
            "Naive, step 2 of 2 (broadcast): rank 0 sends all 8 numbers to rank 1, which keeps them. Every "
            "rank has the whole sum. In all, the busiest rank sends 1 S = 2 GB in 160 ms (ring 80 ms, tree "
            "160 ms).",
        ),
        (
            {"algorithm": "tree", "ranks": 7, "step": 1},
            "Tree, step 1 of 6 (reduce): ranks 1, 3 and 5 send all 14 numbers to ranks 0, 2 and 4, which add "
            "them. In all, the busiest rank sends 3 S = 6 GB in 480 ms (naive 960 ms, ring 137 ms).",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, changes, sentence):
    state = {"ranks": 4, "algorithm": "ring", "step": 0, "parameters": 10**9, "latency": 10, "bandwidth": 25}
    assert node(AllReduce, "describe(state)", state=state | changes) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"ranks": 1}, "number of ranks must be a whole number from 2 to 8, not 1"),
        ({"ranks": 4.0}, "number of ranks must be a whole number"),
        ({"algorithm": "star"}, "algorithm must be one of naive, ring, tree, not 'star'"),
        ({"parameters": 0}, "number of parameters must be a whole number from 1 to 1,000,000,000,000"),
        ({"latency": -1}, "latency must be a number from 0 to 1,000,000, not -1"),
        ({"bandwidth": 0}, "bandwidth must be a number from 0.001 to 10,000, not 0"),
        ({"bandwidth": math.nan}, "bandwidth must be a number"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        AllReduce(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run(node):
    assert repr(AllReduce()) == "AllReduce(4)"
    assert node(AllReduce, "Object.keys(NAMES)") == list(ALGORITHMS)
