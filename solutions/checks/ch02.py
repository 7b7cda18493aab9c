"""Checks of chapter 2: a naive reference, known mistakes and checks for each exercise."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from myllm.grading.compare import as_expected
from myllm.grading.exam import Exam, Function, Rng, expect, same, two_tensors

PACKAGE = "myllm.data.*"
HASH = hash

# 02.1

Rows = tuple[Tensor, Tensor]


def naive_scoring(tokens: Tensor, block_size: int, stride: int) -> Rows:
    """Token by token: a target counts if no window before has it."""
    text, x, y = cast("list[int]", tokens.tolist()), list[list[int]](), list[list[int]]()
    counted, start = set[int](), 0
    while len(counted) < len(text) - 1:
        start = min(start, len(text) - 1 - block_size)
        places = range(start + 1, start + 1 + block_size)
        x.append([text[place - 1] for place in places])
        y.append([-100 if place in counted else text[place] for place in places])
        counted.update(places)
        start += stride
    return torch.tensor(x), torch.tensor(y)


windows_exam = Exam("02.1", naive_scoring)

windows_exam.example(
    1,
    (torch.arange(10, 17), 3, 2),
    (
        torch.tensor([[10, 11, 12], [12, 13, 14], [13, 14, 15]]),
        torch.tensor([[11, 12, 13], [-100, 14, 15], [-100, -100, 16]]),
    ),
)


@windows_exam.oracle(2.5)
def random_windows(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Texts with a rest at the end, strides of less and of more than half a window."""
    for block_size, stride, rest in ((5, 2, 1), (7, 5, 3), (8, 3, 2), (6, 4, rng.randint(1, 3))):
        n = block_size + 1 + stride * rng.randint(2, 5) + rest
        yield rng.integers(0, 60_000, n), block_size, stride


@windows_exam.property(1)
def each_target_once(f: Function, rng: Rng) -> None:
    """In a text where each token is its own place, each but 0 is a target once, one after its input."""
    for _ in range(4):
        block_size = rng.randint(2, 9)
        n, stride = rng.randint(block_size + 1, 60), rng.randint(1, block_size)
        case = f"{n} tokens, block_size {block_size}, stride {stride}"
        rows = -(-(n - 1 - block_size) // stride) + 1
        x, y = two_tensors(f(torch.arange(n), block_size, stride), rows, block_size)
        same(y[y != -100], torch.arange(1, n), f"{case}, the targets that count")
        same(y[y != -100], x[y != -100] + 1, f"{case}, the targets and their inputs")


@windows_exam.edge(1)
def border_windows(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """No rest, one window, windows without overlap, windows of one token, a view, large ids."""
    yield from [(rng.integers(0, 300, n), 4, stride) for n in (5, 6, 9, 13) for stride in (1, 2, 4)]
    yield from [(rng.integers(0, 300, 4), 1, 1), (rng.integers(0, 300, 40)[::2], 6, 3)]
    yield rng.integers(2**39, 2**40, 9), 4, 3
    yield rng.integers(0, 300, 33_500), 500, 499  # windows that begin beyond 16 bits


windows_exam.conduct(0.5, PACKAGE)


# 02.2


def naive_plan(
    lengths: list[int], vocab_size: int, shard_tokens: int, block_size: int, batch_size: int, epochs: int
) -> tuple[list[int], int]:
    """Cut the documents into shards; the rest is a division with a remainder."""
    shards: list[list[int]] = [[]]
    for length in lengths:
        if sum(shards[-1]) >= shard_tokens:
            shards.append([])
        shards[-1].append(length)
    bytes_of_an_id = 4 if vocab_size > 65_536 else 2
    files = [128 + bytes_of_an_id * sum(shard) for shard in shards] + [136 + 8 * len(lengths)]
    windows = len(range(0, sum(lengths) - block_size, block_size))
    steps, rest = divmod(epochs * windows, batch_size)
    return files, steps + bool(rest)


plan_exam = Exam("02.2", naive_plan)

plan_exam.example(1, ([4, 2, 5], 256, 6, 3, 4, 2), ([140, 138, 160], 2))


@plan_exam.oracle(2)
def random_plans(rng: Rng) -> Iterator[tuple[list[int], int, int, int, int, int]]:
    """Small and large vocabularies, shards of several documents, batches that do not divide the windows."""
    for vocab_size in (300, 70_000, 128_000):
        T, k = rng.randint(3, 6), rng.randint(20, 30)
        lengths = [rng.randint(8, 20) for _ in range(5)]
        lengths.append(2 * k * T - sum(lengths))  # one more token would make one more window
        rng.shuffle(lengths)
        yield lengths, vocab_size, rng.randint(21, 30), T, 2, 3
        yield [*lengths, 1], vocab_size, 37, T, 7, rng.randint(2, 5)


@plan_exam.edge(1.5, "four bytes for 65,536 ids", "a shard that goes on when it is just full")
def border_plans(rng: Rng) -> Iterator[tuple[list[int], int, int, int, int, int]]:
    """Vocabularies around 65,536 ids, shards that are just full, texts around one window, no epoch."""
    yield from [([9, 3, 8], vocab_size, 12, 4, 2, 1) for vocab_size in (1, 65_535, 65_536, 65_537, 2**32)]
    yield from [([6, 6, 6], 256, limit, 4, 2, 1) for limit in (1, 5, 6, 7, 11, 12, 13, 18, 99)]
    yield from [([n], 256, 100, 4, 1, 3) for n in (1, 3, 4, 5, 8, 9)]
    yield from [([40], 256, 100, 3, 13, epochs) for epochs in (0, 1, 2)]


@plan_exam.property(1)
def as_large_as_a_corpus(f: Function, rng: Rng) -> None:
    """Trillions of tokens are counted exactly, and at once."""
    lengths = [10**15 - rng.randint(0, 999) for _ in range(40)]
    # Windows without a rest; then so many that the steps are an odd number of more than 53 bits.
    for block_size, batch_size, step, rest in ((2047, 1, 2047, 0), (1, 7, 14, 8)):
        lengths[-1] -= (sum(lengths) - rest) % step
        case = lengths, 128_000, 3 * 10**15, block_size, batch_size, 3
        same(f(*case), naive_plan(*case), f"40 documents of about 10**15 tokens, batches of {batch_size}")


plan_exam.conduct(0.5, PACKAGE)


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


@row_exam.oracle(2)
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
        ([70_000, 3], 70_009),
    ]


@row_exam.edge(1, "a row that is exactly full refused", "documents cut off where the row ends")
def full_rows(rng: Rng) -> Iterator[tuple[list[int], int]]:
    """Rows that are exactly full, and documents that do not fit."""
    a, b = rng.randint(2, 5), rng.randint(2, 5)
    yield from [([a, b], a + b), ([a], a), ([1], 1), ([1] * a, a)]
    yield from [([a, b], a + b - 1), ([a], a - 1), ([a, b, 1], a + b)]


row_exam.conduct(0.5, PACKAGE)


# 02.4


Item = tuple[int, int]


def any_order(sizes: list[int], open_files: int, seed: int, epoch: int, rank: int, world: int) -> list[Item]:
    """One of the right orders; for a single window it is the only one."""
    rng = random.Random(f"{seed}/{epoch}")
    files = rng.sample(range(len(sizes)), len(sizes))
    order = list[Item]()
    while files:
        group, files = files[:open_files], files[open_files:]
        items = [(file, place) for file in group for place in range(sizes[file])]
        order += rng.sample(items, len(items))
    return [item for i, item in enumerate(order) if i % world == rank]


order_exam = Exam("02.4", any_order)

order_exam.example(0.5, ([0, 1, 0], 2, 5, 0, 0, 1), [(1, 0)])


@order_exam.oracle(1)
def single_windows(rng: Rng) -> Iterator[tuple[list[int], int, int, int, int, int]]:
    """A single window, or none, which leaves no choice; more processes than windows."""
    yield [0] * rng.randint(1, 4), 2, rng.randint(0, 99), 1, 0, 1
    for world in (1, 2, 3):
        file = rng.randint(1, 4)
        for rank in range(world):
            yield (
                [int(i == file) for i in range(5)],
                rng.randint(1, 6),
                rng.randint(0, 99),
                world,
                rank,
                world,
            )


def items(found: Any) -> list[Item]:
    """Pairs of Python's numbers, whatever type of numbers they have."""
    return as_expected(found, [(0, 0)] * len(found))


def salted(one: Any) -> int:
    """The hash in another process, in which a text, or a tuple with a text, has another one."""
    written = repr(one)
    return HASH(f"{written} and salt") if {"'", '"'} & {*written} else HASH(one)


def whole(f: Function, sizes: list[int], open_files: int, seed: int, epoch: int) -> list[Item]:
    """The order of an epoch, in which every window comes once."""
    found = items(f(sizes, open_files, seed, epoch, 0, 1))
    case = f"sizes {sizes}, open_files {open_files}, seed {seed}, epoch {epoch}"
    same(
        sorted(found), [(file, i) for file, size in enumerate(sizes) for i in range(size)], f"{case}, sorted"
    )
    return found


def together(order: list[Item]) -> list[set[int]]:
    """The files that are open at each step."""
    files = [file for file, _ in order]
    span = {file: (files.index(file), len(files) - 1 - files[::-1].index(file)) for file in {*files}}
    return [{file for file, (first, last) in span.items() if first <= i <= last} for i in range(len(files))]


@order_exam.property(1)
def few_open(f: Function, rng: Rng) -> None:
    """Each window comes once, and at no time are more than open_files files open."""
    for open_files in (1, 2, 3, 9):
        sizes = [rng.choice([0, 1, 3, 8]) for _ in range(7)] + [4]
        most = max(map(len, together(whole(f, sizes, open_files, rng.randint(0, 99), rng.randint(0, 99)))))
        expect(most <= open_files, f"with sizes {sizes} and open_files {open_files}, {most} are open")


@order_exam.property(1)
def ranks(f: Function, rng: Rng) -> None:
    """The process `rank` of `world` gets the places rank, rank + world and so on of the order."""
    sizes, seed, world = [rng.randint(2, 9) for _ in range(5)], rng.randint(0, 99), rng.randint(2, 5)
    order = whole(f, sizes, 2, seed, 3)
    for rank in range(world):
        found = f(sizes, 2, seed, 3, rank, world)
        same(found, order[rank::world], f"sizes {sizes}, rank {rank} of {world}")


@order_exam.property(1)
def seeds_and_epochs(f: Function, rng: Rng) -> None:
    """The order depends on the arguments alone, and on the seed and the epoch in different ways."""
    few, sizes = 256, [20]
    # j * seed + k * epoch gives two of these pairs one order if j = 1 and k <= few * few, or the reverse, if
    # both are small, or if one is 1 and the other a number that is often taken.
    often = [10**5 + 3, 10**6 + 3, 2**24, 10**9 + 7, *(10**n for n in range(5, 13))]
    many = [*range(few), *(few * n for n in range(1, few + 1)), *often]
    pairs = {(0, n) for n in many} | {(1, n) for n in range(few)}
    pairs |= {(epoch, seed) for seed, epoch in pairs}
    orders = {pair: whole(f, sizes, 2, *pair) for pair in pairs}
    random.seed(rng.randint(0, 10**9))
    torch.manual_seed(rng.randint(0, 10**9))
    expect(whole(f, sizes, 2, 0, 1) == orders[0, 1], "the same arguments gave two orders")
    with patch("builtins.hash", salted):
        again = whole(f, sizes, 2, 0, 1)
    expect(again == orders[0, 1], "another process would have another order: there, `hash` of a text differs")
    for one, other in pairwise(sorted(orders, key=lambda key: orders[key])):
        case = f"seed {one[0]} in epoch {one[1]} has the order of seed {other[0]} in epoch {other[1]}"
        expect(orders[one] != orders[other], case)


@order_exam.property(1)
def mixed(f: Function, rng: Rng) -> None:
    """The windows of a file come in another order, and those of files that are open together are mixed."""
    for n, open_files in ((4, 2), (6, 3), (3, 1)):
        order = whole(f, [100] * n, open_files, rng.randint(0, 99), rng.randint(0, 99))
        for file in range(n):
            places = [place for one, place in order if one == file]
            expect(places != sorted(places), f"file {file} is read from its first window to its last")
            neighbours = sum(b == a + 1 for a, b in pairwise(places))
            expect(
                neighbours < 30, f"in file {file}, {neighbours} of 99 windows come after the one before them"
            )
        share = sum(a != b for (a, _), (b, _) in pairwise(order)) / len(order)
        expect(share > 1 / 3 or open_files == 1, f"{n} files, {open_files} open: {share:.0%} change the file")


@order_exam.property(1)
def groups_change(f: Function, rng: Rng) -> None:
    """In 60 epochs each of four files comes first, and is open together with each other one."""
    seed, first, met = rng.randint(0, 99), set[int](), set[Item]()
    for epoch in range(60):
        order = whole(f, [3] * 4, 2, seed, epoch)
        first.add(order[0][0])
        met |= {(a, b) for now in together(order) for a in now for b in now if a < b}
    expect(len(first) == 4, f"of the files 0 to 3, only {sorted(first)} came first")
    expect(met, "no two files were ever open together")
    never = [(a, b) for a in range(4) for b in range(a + 1, 4) if (a, b) not in met]
    expect(not never, f"files {' and '.join(map(str, (never or [()])[0]))} were never open together")


order_exam.conduct(0.5, PACKAGE)


# 02.5


Pairs = list[tuple[float, bool, int]]
Search = dict[str, Any]


def naive_search(
    candidates: list[Search], pairs: Pairs, n_hashes: int, max_missed: float, max_lost: float
) -> tuple[str | None, dict[str, str]]:
    """Rule by rule, each with a sum of its own."""
    reasons, left = dict[str, str](), list[Search]()

    def meet(search: Search, s: float) -> float:
        miss = 1.0
        for _ in range(search["bands"]):
            miss *= 1 - math.prod([s] * search["rows"])
        return 1 - miss

    def removed(search: Search, kind: bool) -> float:
        return sum(n * meet(search, s) for s, copy, n in pairs if copy == kind and s >= search["threshold"])

    for search in candidates:
        copies = sum(n for _, copy, n in pairs if copy)
        if search["bands"] * search["rows"] > n_hashes:
            reasons[search["name"]] = "hashes"
        elif copies and 1 - removed(search, True) / copies > max_missed:
            reasons[search["name"]] = "missed"
        elif removed(search, False) > max_lost:
            reasons[search["name"]] = "lost"
        else:
            left.append(search)
    work = [round(sum(n * meet(search, s) for s, _, n in pairs), 6) for search in left]
    chosen = left[work.index(min(work))]["name"] if left else None
    return chosen, reasons | {one["name"]: "work" for one in left if one["name"] != chosen}


search_exam = Exam("02.5", naive_search)


def search(name: str, threshold: float, bands: int, rows: int) -> Search:
    """A row of the table."""
    return {"name": name, "threshold": threshold, "bands": bands, "rows": rows}


search_exam.example(
    1,
    ([search("short", 0.5, 2, 1), search("long", 0.5, 1, 2)], [(0.5, True, 4)], 2, 0.3, 0),
    ("short", {"long": "missed"}),
)


def evidence(rng: Rng) -> tuple[list[Search], Pairs, int, float, float]:
    """A table in which each rule drops a search, and a tie that the order settles."""
    found: Pairs = [(0.95, True, rng.randint(28, 32)), (0.8, True, 20), (0.6, True, 10), (0.7, False, 5)]
    found += [(0.5, False, rng.randint(38, 45)), (0.3, False, 1000), (0.1, False, rng.randint(40, 60) * 1000)]
    searches = [
        search("too long", 0.55, 26, 5),
        search("strict", 0.9, 25, 5),
        search("long bands", 0.55, 4, 32),
        search("greedy", 0.25, 32, 4),
        search("thorough", 0.55, 32, 4),
        search("busy", 0.6, 64, 2),
        search("quick", 0.6, 25, 5),
        search("low", 0.45, 24, 5),
        search("as low", 0.48, 24, 5),
    ]
    return rng.sample(searches, len(searches)), rng.sample(found, len(found)), 128, 0.03, 35.0


@search_exam.oracle(3)
def random_evidence(rng: Rng) -> Iterator[tuple[list[Search], Pairs, int, float, float]]:
    """Tables in which each rule drops a search."""
    for _ in range(3):
        yield evidence(rng)


@search_exam.edge(1.5, "a search that needs all hashes dropped")
def border_evidence(rng: Rng) -> Iterator[tuple[list[Search], Pairs, int, float, float]]:
    """All hashes used, nothing left, nothing given, no copies, no pairs, equal texts, a single search."""
    searches, found, *_ = evidence(rng)
    yield [search("all", 0.6, 32, 4), search("less", 0.6, 31, 4)], found, 128, 0.03, 35.0
    yield from [
        (searches, found, 128, 0.0, 35.0),
        (searches, found, 0, 0.5, 35.0),
        ([], found, 128, 0.03, 35.0),
    ]
    yield from [(searches, pairs, 128, 0.03, 1e9) for pairs in ([], [(0.6, True, 4)])]
    yield searches, [(0.2, False, 100), (0.1, False, 9)], 128, 0.0, 0.0
    yield [search("equal", 1.0, 1, 9)], [(1.0, True, 3), (0.0, False, 10)], 9, 0.0, 0.0


@search_exam.property(1)
def order_of_the_table(f: Function, rng: Rng) -> None:
    """Every search but the chosen one has a reason, and the order of the table only settles ties."""
    searches, *rest = evidence(rng)
    for one in (searches, searches[::-1]):
        same(f(one, *rest), naive_search(one, *rest), "the choice")  # pyright: ignore[reportArgumentType]


search_exam.conduct(0.5, PACKAGE)
