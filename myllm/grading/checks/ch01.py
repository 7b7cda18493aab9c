"""Checks of chapter 1."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect


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
counts.example(1, ("abba", "ab"), torch.tensor([[0, 1], [1, 1]]))


@counts.oracle(
    2,
    mistakes={
        "rows and columns swapped": (
            lambda text, alphabet: naive_counts(text, alphabet).T,
            "The row is the previous character, the column the next one.",
        ),
        "the alphabet sorted first": (sorted_counts, "Keep the alphabet in the order in which it is given."),
        "every pair counted once only": (
            seen_pairs,
            "With repeated indices `counts[a, b] += 1` adds only once; loop, or accumulate.",
        ),
        "the last character followed by the first": (
            lambda text, alphabet: naive_counts(text + text[:1], alphabet),
            "The last character has no next one; N characters hold N − 1 pairs.",
        ),
    },
)
def random_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """Texts over alphabets in no particular order."""
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


@counts.edge(1)
def short_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """No pair at all, or one."""
    yield from [("", "ab"), ("b", "ab"), ("ba", "ab"), ("aa", "a")]
