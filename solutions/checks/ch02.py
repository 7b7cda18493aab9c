"""Checks of chapter 2: a naive reference, known mistakes and checks for each exercise."""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same, two_tensors
from myllm.grading.meters import effort, measure

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


def with_targets(ahead: Callable[[int], int]) -> Function:
    """Wrong: right windows, with targets from another place."""

    def wrong(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
        x, y = (taken(tokens, starts, block_size, by) for by in (0, ahead(block_size)))
        return x, y

    return wrong


def rolled(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Wrong: the last target is the window's first token."""
    x = taken(tokens, starts, block_size)
    return x, x.roll(-1, dims=1)


def one_short(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Wrong: ``block_size`` tokens for windows and targets together."""
    return naive_shifted(tokens, starts, block_size - 1)


def one_target(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Wrong: only the token after the window is predicted."""
    x, y = naive_shifted(tokens, starts, block_size)
    return x, y[:, -1]


PACKAGE = "myllm.data.*"


shift_exam = Exam(
    "02.1",
    naive_shifted,
    hints=(
        "Where does the last target of a window lie? Write down the places of x and those of y, for a window "
        "of three tokens that begins at place 2.",
        "The section on windows cuts them out one by one, in a loop. A tensor can be indexed by a tensor of "
        "places, (B, T), all at once: a column of starts and a row 0, 1, …, T - 1 add up to it.",
        "places = starts as a (B, 1) column + 0, 1, …, T - 1\nx = tokens at places\ny = tokens at places + 1",
    ),
)


shift_exam.example(
    1,
    (torch.arange(10, 16), torch.tensor([2, 0]), 3),
    (torch.tensor([[12, 13, 14], [10, 11, 12]]), torch.tensor([[13, 14, 15], [11, 12, 13]])),
)


@shift_exam.oracle(
    1.5,
    mistakes={
        "targets equal to the inputs": (
            with_targets(lambda block_size: 0),
            "A model that may see what it has to predict learns to copy. What comes after each token?",
        ),
        "targets one token earlier": (
            with_targets(lambda block_size: -1),
            "The model predicts what comes next: is that a place more or a place less?",
        ),
        "targets two tokens later": (
            with_targets(lambda block_size: 2),
            "Between a token and its target there is none: how often do you shift?",
        ),
        "the next block as targets": (
            with_targets(lambda block_size: block_size),
            "Each token of a window has a target of its own, the token right after it.",
        ),
        "x and y exchanged": (
            lambda tokens, starts, block_size: naive_shifted(tokens, starts, block_size)[::-1],
            "Which of the two is read, and which is predicted?",
        ),
        "the first token of a window as its last target": (
            rolled,
            "`roll` moves the token that falls out at one end in at the other. "
            "The last target lies outside of x.",
        ),
        "windows of T - 1 tokens": (
            one_short,
            "Windows and targets together need more than T tokens. How many?",
        ),
        "one target a window": (
            one_target,
            "A window of T tokens is T exercises: what follows the first, the first two, and so on.",
        ),
        "the first window in every row": (
            lambda tokens, starts, block_size: naive_shifted(
                tokens, starts[:1].expand(len(starts)), block_size
            ),
            "Each row of x has a start of its own.",
        ),
        "starts counted in windows": (
            lambda tokens, starts, block_size: naive_shifted(tokens, starts * block_size, block_size),
            "`starts` counts tokens: a window may begin anywhere.",
        ),
    },
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
    """The last window of a text, windows of one token, a window twice, no window, a view."""
    tokens = rng.integers(0, 300, 12)
    yield tokens, torch.tensor([8, 0]), 3
    yield tokens, torch.tensor([10, 10, 3]), 1
    yield tokens, torch.tensor([0]), 11
    yield tokens, torch.tensor([], dtype=torch.int64), 4
    yield rng.integers(0, 300, 40)[::2], torch.tensor([5, 1]), 6


@shift_exam.cost(0.5)
def all_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of windows."""
    tokens, found = rng.integers(0, 300, 500), list[int]()
    for rows in (5, 200):
        starts = rng.integers(0, 400, rows)
        with measure() as count:
            f(tokens, starts, 8)
        found.append(count.operations)
    expect(
        found[1] <= found[0] + 20,
        f"5 windows took {found[0]} operations, 200 took {found[1]}; index all places at once.",
    )


shift_exam.conduct(0.5, PACKAGE)


# 02.2


def naive_windows(n: int, block_size: int, stride: int) -> int:
    """List the places where a window may begin."""
    return len(range(0, n - block_size, stride))


count_exam = Exam(
    "02.2",
    naive_windows,
    hints=(
        "Where does the last window of a text begin at the latest? Draw 9 tokens and windows of 4.",
        "The section on windows counts them in a loop and by a formula. Derive the formula anew: the latest "
        "place for a start, then how many multiples of the stride there are up to it. Do not forget 0.",
        "latest = the last place at which a window and its target still fit into n tokens\n"
        "below 0: return 0\n"
        "return how often the stride fits into latest, in whole numbers, plus one for the start at 0",
    ),
)


count_exam.example(0.5, (9, 4, 2), 3)


@count_exam.oracle(
    1.5,
    mistakes={
        "no token kept for the last target": (
            lambda n, block_size, stride: naive_windows(n + 1, block_size, stride),
            "A window needs one token more than it reads.",
        ),
        "one token more than a window and its target need": (
            lambda n, block_size, stride: naive_windows(n - 1, block_size, stride),
            "May your last window end at the last token? A text of block_size + 1 tokens has a window.",
        ),
        "the window at the start left out": (
            lambda n, block_size, stride: naive_windows(n, block_size, stride) - 1,
            "A text with room for no further stride still has one window, the first.",
        ),
        "a last window that does not fit": (
            lambda n, block_size, stride: naive_windows(n + stride - 1, block_size, stride),
            "Do you round up? A window that is cut off at the end of the text does not count.",
        ),
        "a start at every token": (
            lambda n, block_size, stride: naive_windows(n, block_size, 1),
            "Look for the argument `stride` in your answer.",
        ),
        "windows that begin where the one before ends": (
            lambda n, block_size, stride: naive_windows(n, block_size, block_size),
            "Look for the argument `stride` in your answer.",
        ),
        "block_size and stride exchanged": (
            lambda n, block_size, stride: naive_windows(n, stride, block_size),
            "Which of the two is the length of a window, and which the way from one to the next?",
        ),
        "the text divided by the stride": (
            lambda n, block_size, stride: n // stride,
            "The last windows must have room to the end: from where to where may a window begin?",
        ),
    },
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
    mistakes={
        "less than no window in a short text": (
            lambda n, block_size, stride: (n - 1 - block_size) // stride + 1,
            "What does your formula give for no tokens at all?",
        ),
        "a window in a text that is too short": (
            lambda n, block_size, stride: max(0, int((n - 1 - block_size) / stride) + 1),
            "`int` and `/` round towards zero, so that a little less than no room becomes no room. "
            "Does `//` do the same?",
        ),
        "at least one window in every text": (
            lambda n, block_size, stride: max(1, naive_windows(n, block_size, stride)),
            "A text that has no room for a window and its target has none.",
        ),
    },
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


def changed(change: Callable[[Tensor, Tensor, Tensor], Rows]) -> Function:
    """Wrong: ``change`` makes something else of documents, positions and the mask of padding."""

    def wrong(lengths: list[int], block_size: int) -> Rows:
        document, position = naive_row(lengths, block_size)
        return change(document, position, document < 0)

    return wrong


def padding_as_document(lengths: list[int], block_size: int) -> Rows:
    """Wrong: what is left over becomes one more document."""
    return naive_row([*lengths, block_size - sum(lengths)], block_size)


def full_refused(lengths: list[int], block_size: int) -> Rows:
    """Wrong: a row without any padding is refused."""
    return naive_row(lengths, block_size - (sum(lengths) == block_size))


def cut_off(lengths: list[int], block_size: int) -> Rows:
    """Wrong: what does not fit is forgotten."""
    document, position = naive_row(lengths, max(block_size, sum(lengths)))
    return document[:block_size], position[:block_size]


row_exam = Exam(
    "02.3",
    naive_row,
    hints=(
        "Begin with a row that is nothing but padding, and fill the documents in. Where does each one begin?",
        "The section on packing shows both rows for a small example. `enumerate(lengths)` gives a document "
        "its number. Where one ends, the next one begins.",
        "more tokens than block_size: raise ValueError\n"
        "document = T times -1, position = T times 0, int64\n"
        "start = 0\n"
        "for each number and length:\n"
        "    document[start to start + length] = number\n"
        "    position[start to start + length] = 0, 1, …, length - 1\n"
        "    start grows by length",
    ),
)


row_exam.example(1, ([2, 0, 3], 6), (torch.tensor([0, 0, 2, 2, 2, -1]), torch.tensor([0, 1, 0, 1, 2, 0])))


@row_exam.oracle(
    2,
    mistakes={
        "positions that go on from document to document": (
            changed(lambda d, p, pad: (d, torch.arange(len(d)).masked_fill(pad, 0))),
            "A text does not begin in the middle because another one lies before it.",
        ),
        "the place in the row as position": (
            changed(lambda d, p, pad: (d, torch.arange(len(d)))),
            "A text does not begin in the middle because another one lies before it.",
        ),
        "positions from 1": (
            changed(lambda d, p, pad: (d, (p + 1).masked_fill(pad, 0))),
            "The first token of a document has position 0.",
        ),
        "documents numbered from 1": (
            changed(lambda d, p, pad: ((d + 1).masked_fill(pad, -1), p)),
            "The first document has number 0.",
        ),
        "padding that belongs to document 0": (
            changed(lambda d, p, pad: (d.clamp(min=0), p)),
            "Padding belongs to no document. With which number do you fill the row up?",
        ),
        "padding as one more document": (
            padding_as_document,
            "What is left over is no document: its number is -1 and its positions are 0.",
        ),
        "positions counted on the padding": (
            lambda lengths, block_size: (
                naive_row(lengths, block_size)[0],
                padding_as_document(lengths, block_size)[1],
            ),
            "On padding every position is 0.",
        ),
        "position -1 on padding": (
            changed(lambda d, p, pad: (d, p.masked_fill(pad, -1))),
            "Only the document is -1 on padding; a position has to be one that the model knows.",
        ),
        "rows without padding": (
            changed(lambda d, p, pad: (d[~pad], p[~pad])),
            "How long has the row to be? Fill up what is left.",
        ),
        "document and position exchanged": (
            changed(lambda d, p, pad: (p, d)),
            "Which of the two comes first?",
        ),
    },
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


@row_exam.edge(
    1,
    mistakes={
        "empty documents left out of the numbering": (
            lambda lengths, block_size: naive_row([n for n in lengths if n], block_size),
            "An empty document has no token, but the ones after it keep their numbers.",
        ),
    },
)
def empty_documents(rng: Rng) -> Iterator[tuple[list[int], int]]:
    """Empty documents at the beginning, in the middle and at the end; no documents."""
    a, b = sorted(rng.sample(range(1, 7), 2))
    yield from [
        ([0, a, b], a + b + 2),
        ([a, 0, 0, b], a + b + 1),
        ([a, b, 0], a + b + 3),
        ([], 4),
        ([0, 0], 3),
    ]


@row_exam.edge(
    1,
    mistakes={
        "a row that is exactly full refused": (
            full_refused,
            "Documents that fill the row to its last place do fit.",
        ),
        "documents cut off where the row ends": (
            cut_off,
            "Tokens must not get lost without a word: look at *Raises* in the specification.",
        ),
    },
)
def full_rows(rng: Rng) -> Iterator[tuple[list[int], int]]:
    """Rows that are exactly full, and documents that do not fit."""
    a, b = rng.randint(2, 5), rng.randint(2, 5)
    yield from [([a, b], a + b), ([a], a), ([1], 1), ([1] * a, a)]
    yield from [([a, b], a + b - 1), ([a], a - 1), ([a, b, 1], a + b)]


row_exam.conduct(0.5, PACKAGE)
