import math

import numpy as np
import pytest
import torch

from myllm.widgets import LetterHeatMap

ALPHABET = "abcdefghijklmnopqrstuvwxyz "


def random_counts(seed: int, size: int = 27) -> torch.Tensor:
    counts = torch.randint(0, 50, (size, size), generator=torch.Generator().manual_seed(seed))
    counts[torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) < 0.4] = 0
    counts[3] = 0  # a letter that was never followed
    return counts


def mulberry32(seed: int):
    """The published generator, in whole numbers of Python."""
    while True:
        seed = (seed + 0x6D2B79F5) % 2**32
        t = (seed ^ seed >> 15) * (seed | 1) % 2**32
        t ^= (t + (t ^ t >> 7) * (t | 61)) % 2**32
        yield (t ^ t >> 14) / 2**32


@pytest.mark.parametrize("alpha", [0, 0.001, 0.1, 1, 10])
def test_probabilities_are_those_of_torch(node, alpha):
    counts = random_counts(1)
    smoothed = counts.double() + alpha
    expected = smoothed / smoothed.sum(1, keepdim=True)
    expected[expected.isnan()] = 1 / 27  # a row without any count is uniform
    table = torch.tensor(
        node(LetterHeatMap, "probabilities(counts, alpha)", counts=counts.tolist(), alpha=alpha),
        dtype=torch.float64,
    )
    torch.testing.assert_close(table, expected, rtol=1e-12, atol=1e-12)


def test_entropy_is_that_of_torch(node):
    table = torch.rand(9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    table[table < 0.3] = 0
    table[0] = 1
    table[1] = torch.eye(12, dtype=torch.float64)[4]
    table /= table.sum(1, keepdim=True)
    bits = torch.tensor(node(LetterHeatMap, "table.map(entropy)", table=table.tolist()), dtype=torch.float64)
    expected = -torch.special.xlogy(table, table).sum(1) / math.log(2)
    torch.testing.assert_close(bits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_generator_is_mulberry32(node, seed):
    drawn = node(LetterHeatMap, "Array.from({ length: 50 }, generator(seed))", seed=seed)
    expected = mulberry32(seed)
    assert drawn == [next(expected) for _ in drawn]


@pytest.mark.parametrize("alpha", [0, 0.3])
def test_sample_walks_the_table(node, alpha):
    counts = random_counts(3).tolist()
    written, table = node(
        LetterHeatMap,
        "[sample(probabilities(counts, alpha), 5, 200, 7), probabilities(counts, alpha)]",
        counts=counts,
        alpha=alpha,
    )
    random, at, expected = mulberry32(7), 5, []
    for _ in range(200):
        at = int(np.searchsorted(np.cumsum(table[at]), next(random), side="right"))
        expected.append(at)
    assert written == expected


def test_sample_follows_the_distribution(node):
    """χ² of 40,000 draws against the row, 6 degrees of freedom: 22.5 is passed once in a thousand seeds."""
    row = torch.tensor([0.4, 0.25, 0.15, 0, 0.1, 0.05, 0.04, 0.01], dtype=torch.float64)
    drawn = node(LetterHeatMap, "sample(table, 0, 40000, 11)", table=[row.tolist()] * 8)
    seen = torch.bincount(torch.tensor(drawn), minlength=8)
    assert seen[3] == 0
    wanted = 40_000 * row
    assert (((seen - wanted) ** 2 / wanted)[row > 0]).sum() < 22.5


def test_sample_never_leaves_the_table_by_rounding(node):
    assert node(
        LetterHeatMap, "sample([[0, 0.5, 0.5 - 2e-16, 0]].concat(Array(3).fill([0, 0, 0, 0.1])), 1, 99, 5)"
    )


def test_sentence_says_what_the_row_holds(node):
    row = [0.0] * 27
    row[ALPHABET.index("u")] = 0.991
    row[ALPHABET.index(" ")] = 0.009
    assert node(LetterHeatMap, "describe(row, [...alphabet], 'q')", row=row, alphabet=ALPHABET) == (
        "After ‘q’ comes ‘u’ in 99.1 % of cases; "
        "entropy 0.07 bits, as uncertain as a choice among 1.05 equally likely letters."
    )
    assert node(LetterHeatMap, "describe([0.5, 0.5], ['\\n', ' '], ' ')") == (
        "After ‘␣’ comes ‘↵’ in 50.0 % of cases; "
        "entropy 1.00 bits, as uncertain as a choice among 2.00 equally likely letters."
    )


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_counts_may_be_tensor_array_or_list(kind):
    widget = LetterHeatMap(kind([[1, 2], [3, 4]]), "ab")
    assert widget.counts == [[1, 2], [3, 4]]
    assert all(type(count) is int for row in widget.counts for count in row)


def test_first_view():
    counts = [[0, 1, 0], [0, 0, 9], [1, 0, 0]]
    assert (LetterHeatMap(counts, "pqr").letter, LetterHeatMap(counts, "pqr").predict) == ("q", "q")
    assert (LetterHeatMap(counts, "abc").letter, LetterHeatMap(counts, "abc").predict) == ("b", "c")
    chosen = LetterHeatMap(counts, "abc", 0.5, letter="a", predict="b")
    assert (chosen.letter, chosen.predict, chosen.alpha) == ("a", "b", 0.5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([[1, 2], [3, 4]], "abc"), "3 × 3 table"),
        (([[1, 2], [3]], "ab"), "2 × 2 table"),
        ((5, "ab"), "2 × 2 table"),
        (([["x", 2], [3, 4]], "ab"), "2 × 2 table"),
        (([[1.5, 2], [3, 4]], "ab"), "whole numbers"),
        (([[-1, 2], [3, 4]], "ab"), "none below zero"),
        (([[math.nan, 2], [3, 4]], "ab"), "table of whole numbers"),
        (([[1, 2], [3, 4]], "aa"), "different characters"),
        (([[1]], "a"), "different characters"),
        (([[1, 2], [3, 4]], ["a", "b"]), "must be a string"),
        (([[1, 2], [3, 4]], "ab", -0.1), "number from 0 to 10"),
        (([[1, 2], [3, 4]], "ab", math.nan), "number from 0 to 10"),
        (([[1, 2], [3, 4]], "ab", "1"), "number from 0 to 10"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        LetterHeatMap(*arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["letter", "predict"])
@pytest.mark.parametrize("value", ["z", "ab", "", 1])
def test_letters_outside_the_alphabet_are_refused(name, value):
    with pytest.raises(ValueError, match="not a letter of the alphabet"):
        LetterHeatMap([[1, 2], [3, 4]], "ab", **{name: value})


def test_text_form_is_the_same_in_every_run():
    assert repr(LetterHeatMap([[1, 2], [3, 4]], "ab")) == "LetterHeatMap(2 symbols)"
