"""Checks of chapter 2: a naive reference, known mistakes and checks for each exercise."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same, two_tensors
from myllm.grading.meters import effort

# 02.1


Rows = tuple[Tensor, Tensor]


def taken(tokens: Tensor, starts: Tensor, block_size: int, ahead: int = 0) -> Tensor:
    """The tokens ``ahead`` places after those of each window, one after the other."""
    text = cast("list[int]", tokens.tolist())
    first = cast("list[int]", starts.tolist())
    rows = [[text[start + i + ahead] for i in range(block_size)] for start in first]
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), block_size)


def naive_shifted(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Look up every token by itself."""
    return taken(tokens, starts, block_size), taken(tokens, starts, block_size, 1)


PACKAGE = "myllm.data.*"


shift_exam = Exam(
    "02.1",
    naive_shifted,
)


shift_exam.example(
    1,
    (torch.arange(10, 16), torch.tensor([2, 0]), 3),
    (torch.tensor([[12, 13, 14], [10, 11, 12]]), torch.tensor([[13, 14, 15], [11, 12, 13]])),
)


@shift_exam.oracle(
    1.5,
    "targets equal to the inputs",
    "targets one token earlier",
    "the first token of a window as its last target",
    "windows of T - 1 tokens",
    "one target a window",
    "starts counted in windows",
    "targets two tokens later",
    "the next block as targets",
    "x and y exchanged",
    "the first window in every row",
)
def random_windows(rng: Rng) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Windows in the first part of a random text."""
    for rows, block_size in ((2, 3), (4, 2), (3, 5), (6, 8)):
        last = rng.randint(10, 30)
        starts = torch.tensor(rng.sample(range(1, last), rows))
        yield rng.integers(0, 60_000, (last + 2) * block_size), starts, block_size


@shift_exam.property(0.5)
def own_places(f: Function, rng: Rng) -> None:
    """In a text where each token is its own place, x begins at the starts and y is x + 1."""
    block_size, starts = rng.randint(2, 9), rng.integers(0, 100, 5)
    x, y = two_tensors(f(torch.arange(200), starts, block_size), 5, block_size)
    same(x[:, 0], starts, "the first column of x")
    same(y, x + 1, "y")


@shift_exam.edge(1)
def border_windows(rng: Rng) -> Iterator[tuple[Tensor, Tensor, int]]:
    """The last window of a text, windows of one token, a window twice, no window, a view, large ids."""
    tokens = rng.integers(0, 300, 12)
    yield tokens, torch.tensor([8, 0]), 3
    yield tokens, torch.tensor([10, 10, 3]), 1
    yield tokens, torch.tensor([0]), 11
    yield tokens, torch.tensor([], dtype=torch.int64), 4
    yield rng.integers(0, 300, 40)[::2], torch.tensor([5, 1]), 6
    yield rng.integers(2**40, 2**41, 9), torch.tensor([2]), 4


shift_exam.operations(
    0.5, "windows", (5, 200), lambda rng, n: (rng.integers(0, 300, 500), rng.integers(0, 400, n), 8)
)


shift_exam.conduct(0.5, PACKAGE)


# 02.2


def naive_windows(n: int, block_size: int, stride: int) -> int:
    """List the places where a window may begin."""
    return len(range(0, n - block_size, stride))


count_exam = Exam(
    "02.2",
    naive_windows,
)


count_exam.example(0.5, (9, 4, 2), 3)


@count_exam.oracle(
    1.5,
    "no token kept for the last target",
    "the window at the start left out",
    "a last window that does not fit",
    "windows that begin where the one before ends",
    "one token more than a window and its target need",
    "a start at every token",
    "block_size and stride exchanged",
    "the text divided by the stride",
)
def random_counts(rng: Rng) -> Iterator[tuple[int, int, int]]:
    """Texts that fit exactly, that lack one token, and any others."""
    for block_size, stride in ((rng.randint(5, 9), rng.randint(2, 4)), (2, rng.randint(5, 9))):
        exact = block_size + 1 + rng.randint(3, 20) * stride
        yield from [
            (exact, block_size, stride),
            (exact - 1, block_size, stride),
            (exact + 1, block_size, stride),
        ]
    for size in (20, 1000):
        yield rng.randint(size, 2 * size), rng.randint(2, 10), rng.randint(2, 10)
    yield rng.randint(50, 99), 8, 8
    yield rng.randint(50, 99), 7, 1


@count_exam.property(0.5)
def the_last_one_fits(f: Function, rng: Rng) -> None:
    """The last window and its target lie in the text, and one window more would not."""
    for _ in range(5):
        n, block_size, stride = rng.randint(40, 400), rng.randint(1, 30), rng.randint(1, 30)
        found = f(n, block_size, stride)
        case = f"{n} tokens, block_size {block_size}, stride {stride}"
        expect(type(found) is int and found > 0, f"{case} gave {found!r}")
        end = (found - 1) * stride + block_size + 1
        expect(end <= n, f"{case}: window {found} needs {end} tokens")
        expect(end + stride > n, f"{case}: after {found} windows there is room for another one")


@count_exam.edge(
    0.5,
    "less than no window in a short text",
    "a window in a text that is too short",
    "at least one window in every text",
)
def short_texts(rng: Rng) -> Iterator[tuple[int, int, int]]:
    """Texts around the length of one window."""
    block_size = rng.randint(5, 9)
    for n in (0, 1, block_size - 1, block_size, block_size + 1, block_size + 2):
        yield from [(n, block_size, stride) for stride in (1, 3, block_size, 100)]
    yield from [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]


@count_exam.cost(0.5)
def at_once(f: Function, rng: Rng) -> None:
    """The work does not grow with the text, and 10**18 tokens are counted exactly."""
    f(10, 2, 1)  # what happens only once, such as an import
    small, large = (effort(f, n, 4, 1) for n in (1_000, 50_000))
    expect(
        large < small + 20_000, "50,000 tokens took far more work than 1,000; count without a loop or a list"
    )
    stride = rng.randint(2, 5)
    n = 10**18 + stride * rng.randint(0, 99) - 10**18 % stride
    for ahead in (0, 1):
        case = n + 7 + ahead, 7, stride
        same(f(*case), naive_windows(*case), f"count_windows{case}")


count_exam.conduct(0.5, PACKAGE)


# 02.3


def naive_row(lengths: list[int], block_size: int) -> Rows:
    """One token after the other, then the padding."""
    if sum(lengths) > block_size:
        raise ValueError("too long")
    tokens = [(number, i) for number, length in enumerate(lengths) for i in range(length)]
    tokens += [(-1, 0)] * (block_size - len(tokens))
    document, position = zip(*tokens, strict=True)
    return torch.tensor(document), torch.tensor(position)


row_exam = Exam(
    "02.3",
    naive_row,
)


row_exam.example(1, ([2, 0, 3], 6), (torch.tensor([0, 0, 2, 2, 2, -1]), torch.tensor([0, 1, 0, 1, 2, 0])))


@row_exam.oracle(
    2,
    "positions that go on from document to document",
    "the place in the row as position",
    "documents numbered from 1",
    "padding that belongs to document 0",
    "padding as one more document",
    "position -1 on padding",
    "positions from 1",
    "positions counted on the padding",
    "rows without padding",
    "document and position exchanged",
)
def random_rows(rng: Rng) -> Iterator[tuple[list[int], int]]:
    """Two to nine documents, some of one token, with padding after them."""
    for number in (2, 3, 5, 9):
        lengths = [rng.randint(2, 4), *rng.choices(range(1, 8), k=number - 1)]
        yield lengths, sum(lengths) + rng.randint(2, 6)


@row_exam.property(0.5)
def every_document_whole(f: Function, rng: Rng) -> None:
    """The positions of each document are 0, 1, …, length - 1, in this order; what is left is padding."""
    lengths = rng.choices(range(1, 9), k=rng.randint(2, 6))
    size = sum(lengths) + 5
    document, position = two_tensors(f(lengths, size), size)
    for number, length in enumerate(lengths):
        same(position[document == number], torch.arange(length), f"lengths {lengths}, document {number}")
    same(int((document == -1).sum()), 5, "the number of places on padding")


@row_exam.edge(1, "empty documents left out of the numbering")
def empty_documents(rng: Rng) -> Iterator[tuple[list[int], int]]:
    """Empty documents at the beginning, in the middle and at the end; no documents."""
    a, b = sorted(rng.sample(range(1, 7), 2))
    yield from [
        ([0, a, b], a + b + 2),
        ([a, 0, 0, b], a + b + 1),
        ([a, b, 0], a + b + 3),
        ([], 4),
        ([0, 0], 3),
        ([200, 1, 150], 360),
        ([1] * 300, 301),
    ]


@row_exam.edge(1, "a row that is exactly full refused", "documents cut off where the row ends")
def full_rows(rng: Rng) -> Iterator[tuple[list[int], int]]:
    """Rows that are exactly full, and documents that do not fit."""
    a, b = rng.randint(2, 5), rng.randint(2, 5)
    yield from [([a, b], a + b), ([a], a), ([1], 1), ([1] * a, a)]
    yield from [([a, b], a + b - 1), ([a], a - 1), ([a, b, 1], a + b)]


row_exam.conduct(0.5, PACKAGE)
