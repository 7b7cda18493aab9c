"""Checks of chapter 1: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.exam import UNTIDY, Exam, Function, Rng, expect, same
from myllm.grading.verdicts import VerdictExam

SCORES = "myllm.evaluation.*"

# 01.1


def naive_counts(text: str, alphabet: str) -> Tensor:
    """Look at one pair after the other."""
    rows = [[0] * len(alphabet) for _ in alphabet]
    for previous, following in pairwise(text):
        if previous in alphabet and following in alphabet:
            rows[alphabet.index(previous)][alphabet.index(following)] += 1
    return torch.tensor(rows, dtype=torch.int64)


counts = Exam("01.1", naive_counts)

counts.example(1, ("aab?bb", "ab"), torch.tensor([[1, 1], [0, 1]]))


@counts.oracle(2)
def random_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """A short text in which every mistake shows, then texts over alphabets in no particular order."""
    c, b, a = sorted(rng.sample("abcdefghij", 3))
    yield a * 3 + b + c + a + "Z" + b + a, a + b + c
    for size in (2, 3, 5, 9):
        alphabet = "".join(rng.sample("abcdefghij .!é\n", size))
        yield "".join(rng.choices(alphabet + "ZÄ語", k=rng.randint(30, 60))), alphabet


@counts.property(0.5)
def total(f: Function, rng: Rng) -> None:
    """Without gaps, the counts add up to one less than the length of the text."""
    text = "".join(rng.choices("xyz", k=rng.randint(30, 90)))
    found = f(text, "zyx")
    expect(isinstance(found, Tensor), "the result is not a tensor")
    expect(int(found.sum()) == len(text) - 1, f"{len(text)} characters gave a sum of {int(found.sum())}")


@counts.edge(
    1,
    "`bincount` and no `minlength`",
    "an empty list made a tensor of floats",
    "a text that was tidied up first",
)
def short_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """No pair, or one; capitals beside small letters; a text that is one long gap, and an untidy one."""
    yield from [("", "ab"), ("b", "ab"), ("ba", "ab"), ("aa", "a"), ("?", "ab"), ("a?b", "ab"), ("??", "ab")]
    yield "aAbBaA", "AaBb"
    yield "aAbBaABB", "Ba"
    yield UNTIDY * 2, "".join(sorted({*UNTIDY}))


@counts.edge(0.5)
def long_texts(rng: Rng) -> Iterator[tuple[str, str]]:
    """A pair more often than a small type can count."""
    yield "ab" * 2200, "ba"
    yield "a" * 70_000, "a"


# 01.2


Score = Callable[[Tensor, Tensor, int], Any]


def nats(p: Tensor, ids: Tensor) -> Tensor:
    """What each predicted character costs."""
    return -p[ids[:-1], ids[1:]].double().log()


def floats(x: Tensor) -> list[float]:
    """The numbers of a vector."""
    return cast("list[float]", x.tolist())


def both(nll: Tensor, n_bytes: float) -> tuple[float, float]:
    """Perplexity and bits per byte of these costs."""
    return math.exp(nll.mean()), float(nll.sum()) / math.log(2) / n_bytes


def by_hand(probabilities: Tensor, ids: Tensor, n_bytes: int) -> tuple[float, float]:
    """Step by step, in Python's floats."""
    table, text = cast("list[list[float]]", probabilities.tolist()), cast("list[int]", ids.tolist())
    nll = [-math.log(table[a][b]) if table[a][b] else math.inf for a, b in pairwise(text)]
    return math.exp(sum(nll) / len(nll)), sum(nll) / math.log(2) / n_bytes


def by_torch(p: Tensor, ids: Tensor, n: int) -> tuple[float, float]:
    """PyTorch's cross-entropy, in single precision."""
    mean = torch.nn.functional.cross_entropy(p.log()[ids[:-1]], ids[1:]).item()
    return math.exp(mean), mean * (len(ids) - 1) / math.log(2) / n


def averaged(p: Tensor, ids: Tensor, n: int) -> tuple[float, float]:
    """Wrong: the mean of the means of windows."""
    mean = torch.stack([window.mean() for window in torch.split(nats(p, ids), 100)]).mean()
    return both(mean.expand(len(ids) - 1), n)


def product(p: Tensor, ids: Tensor, n: int) -> tuple[float, float]:
    """Wrong: the probabilities multiplied in single precision, then the logarithm."""
    total = -p[ids[:-1], ids[1:]].prod().log()
    return both((total / (len(ids) - 1)).expand(len(ids) - 1), n)


RIGHT: dict[str, Score] = {
    "right_in_a_loop": by_hand,
    "right_with_tensors": lambda p, ids, n: both(nats(p, ids), n),
    "right_in_single_precision": lambda p, ids, n: both(nats(p, ids).float(), n),
    "right_with_cross_entropy": by_torch,
}
NUMBERS: dict[str, Score] = {
    "hopeful": lambda p, ids, n: (1.0, 0.0),
    "rows_and_columns_swapped": lambda p, ids, n: both(nats(p.T, ids), n),
    "columns_normalized_again": lambda p, ids, n: both(nats(p / p.sum(0), ids), n),
    "blind_to_the_previous": lambda p, ids, n: both(nats(p.mean(0).expand_as(p), ids), n),
    "from_the_last_to_the_first": lambda p, ids, n: both(nats(p, torch.cat([ids, ids[:1]])), n),
    "last_pair_left_out": lambda p, ids, n: both(nats(p, ids[: max(2, len(ids) - 1)]), n),
    "mean_over_n_characters": lambda p, ids, n: both(nats(p, ids) * (1 - 1 / len(ids)), n),
    "log_of_the_mean": lambda p, ids, n: (1 / float((-nats(p, ids)).exp().mean()), by_hand(p, ids, n)[1]),
    "two_to_the_nats": lambda p, ids, n: (2 ** float(nats(p, ids).mean()), by_hand(p, ids, n)[1]),
    "each_pair_once": lambda p, ids, n: both(torch.tensor([*{*floats(nats(p, ids))}]), n),
    "one_byte_a_character": lambda p, ids, n: both(nats(p, ids), len(ids) - 1),
    "one_byte_too_many": lambda p, ids, n: both(nats(p, ids), n + 1),
    "nats_per_byte": lambda p, ids, n: both(nats(p, ids), n / math.log(2)),
    "mean_of_means": averaged,
    "two_characters_only": lambda p, ids, n: both(nats(p, ids.clamp(max=1)), n),
}
RARE: dict[str, Score] = {
    "infinite_terms_as_zeros": lambda p, ids, n: both(nats(p, ids).nan_to_num(posinf=0.0), n),
    "a_little_added": lambda p, ids, n: both(nats(p + 1e-9, ids), n),
    "infinite_for_any_zero": lambda p, ids, n: both(nats(p, ids) / bool((p > 0).all()), n),
    "product_first": product,
    "fails_for_zeros": lambda p, ids, n: both(
        torch.tensor([-math.log(v) for v in floats(p[ids[:-1], ids[1:]])]), n
    ),
    "a_tensor_for_a_float": lambda p, ids, n: tuple(torch.tensor(by_hand(p, ids, n))),
    "one_number": lambda p, ids, n: by_hand(p, ids, n)[0],
    "a_list_for_a_tuple": lambda p, ids, n: [*by_hand(p, ids, n)],
    "three_numbers": lambda p, ids, n: (*by_hand(p, ids, n), 0.0),
    "changes_its_table": lambda p, ids, n: both(-p.log_()[ids[:-1], ids[1:]].double(), n),
    "changes_its_ids": lambda p, ids, n: (by_hand(p, ids, n), ids.clamp_(max=1))[0],
}


verdict = VerdictExam("01.2", RIGHT)
verdict.example(1, (verdict.suspect("hopeful", NUMBERS["hopeful"]),), False)
verdict.reject("oracle", 3, NUMBERS)
verdict.reject("edge", 2.5, RARE, "a test without impossible pairs")
verdict.conduct(0.5, SCORES)


# 01.3


def naive_smoothed(counts: Tensor, k: float, alpha: float) -> Tensor:
    """Row by row, in exact fractions."""
    rows = [[Fraction(n) for n in row] for row in cast("list[list[int]]", counts.tolist())]
    m = [sum(column, Fraction(alpha)) for column in zip(*rows, strict=True)]
    q = [one / sum(m) for one in m]
    raised = [[n + Fraction(k) * share for n, share in zip(row, q, strict=True)] for row in rows]
    shares = [[one / sum(row) for one in row] if any(row) else q for row in raised]
    return torch.tensor([[float(one) for one in row] for row in shares])


smoothing = Exam("01.3", naive_smoothed)

smoothing.example(
    1, (torch.tensor([[2, 6], [0, 0]]), 4.0, 1.0), torch.tensor([[3.2 / 12, 8.8 / 12], [0.3, 0.7]])
)


@smoothing.oracle(2)
def random_counts(rng: Rng) -> Iterator[tuple[Tensor, float, float]]:
    """Tables with zeros in every row, and without empty rows."""
    for size in (2, 3, 5, 12):
        table = rng.integers(0, 6, size, size) + torch.diag(rng.integers(1, 30, size))
        table[0, -1] += 40
        yield table, round(rng.uniform(2, 9), 2), round(rng.uniform(0.3, 3.0), 2)


@smoothing.property(1)
def toward_the_frequencies(f: Function, rng: Rng) -> None:
    """Every row sums to 1, and with a larger k it comes nearer to q, the same for all rows."""
    size = rng.randint(3, 8)
    table = rng.integers(0, 5, size, size) + torch.diag(torch.full((size,), 9))
    before = math.inf
    for k in (0.0, 0.1, 1.0, 10.0, 1000.0, 1e7):
        found = f(table, k, 0.5)
        right = isinstance(found, Tensor) and found.shape == (size, size)
        expect(right, f"the result is no tensor of shape {(size, size)}")
        same(found.double().sum(1), torch.ones(size).double(), f"sums of the rows with k = {k}", 1e-4)
        spread = float((found.double() - found.double().mean(0)).abs().max())
        expect(spread < before, f"with k = {k} the rows are not more alike than with less")
        before = spread
    m = table.sum(0) + 0.5
    q = (m / m.sum()).expand(size, size)
    same(f(table, 1e7, 0.5), q, "with k = 1e7, each row", 1e-4)


@smoothing.edge(1, "zero divided by zero", "uniform rows where nothing was counted")
def empty_rows(rng: Rng) -> Iterator[tuple[Tensor, float, float]]:
    """Rows without counts, with and without k; one character."""
    yield torch.tensor([[1, 3], [0, 0]]), 0.0, 0.5
    yield torch.tensor([[1, 3, 0], [0, 0, 0], [0, 9, 0]]), 2.5, 0.25
    yield torch.zeros(3, 3, dtype=torch.int64), 0.0, 1.0
    yield torch.tensor([[1, 0], [0, 0]]), 0.0, 0.5
    yield torch.tensor([[0]]), 0.0, 0.1
    yield torch.tensor([[7]]), 1.0, 1.0


@smoothing.edge(1)
def large_counts(rng: Rng) -> Iterator[tuple[Tensor, float, float]]:
    """Counts beyond 32 bits, and a table that is a view."""
    yield torch.tensor([[2**31 - 2, 2**31 - 2], [2**33, 3]]), 1.0, 0.5
    yield rng.integers(2**38, 2**40, 3, 3), 10.0, 1.0
    yield rng.integers(0, 9, 6, 4)[:4].T + 1, 1.5, 0.1


# 01.4


Part = dict[str, Any]


def nats_of(unit: str, value: float) -> float:
    """The nats that a value stands for."""
    if unit == "perplexity":
        return math.log(value)
    factor = {"nats": 1.0, "bits": math.log(2), "file": math.log(256)}
    if unit not in factor:
        raise ValueError("another unit")
    return value * factor[unit]


def naive_bits(parts: list[Part], /) -> float:
    """In nats, and bits at the end."""
    nats = math.fsum(nats_of(one["unit"], one["value"]) * one.get("tokens", 1) for one in parts)
    return nats / math.log(2) / sum(one["bytes"] for one in parts)


bits = Exam("01.4", naive_bits)

bits.example(
    1,
    (
        [
            {"unit": "perplexity", "value": 4.0, "tokens": 3, "bytes": 5},
            {"unit": "file", "value": 1, "bytes": 2},
        ],
    ),
    2.0,
)


def part(rng: Rng, unit: str) -> Part:
    """A text of a few hundred bytes."""
    tokens = rng.randint(40, 90)
    size = round(tokens * rng.uniform(1.2, 4))
    if unit == "file":
        return {"unit": unit, "value": rng.randint(20, 60), "bytes": size}
    value = rng.uniform(5, 30) if unit == "perplexity" else rng.uniform(1.5, 4)
    return {"unit": unit, "value": value, "tokens": tokens, "bytes": size}


@bits.oracle(2)
def random_parts(rng: Rng) -> Iterator[tuple[list[Part]]]:
    """All units at once, in every order."""
    units = ["nats", "bits", "perplexity", "file"]
    for _ in range(4):
        yield ([part(rng, unit) for unit in [*rng.sample(units, 4), rng.choice(units)]],)


@bits.property(1)
def cut_anywhere(f: Function, rng: Rng) -> None:
    """A text that is scored in two pieces has the score of the whole."""
    unit = rng.choice(["nats", "bits", "perplexity"])
    tokens, size, value = rng.randint(20, 50), rng.randint(100, 200), rng.uniform(1.5, 9)
    whole: Part = {"unit": unit, "value": value, "tokens": tokens, "bytes": size}
    n, b = rng.randint(2, tokens - 2), rng.randint(20, 60)
    pieces = [whole | {"tokens": n, "bytes": b}, whole | {"tokens": tokens - n, "bytes": size - b}]
    same(f(pieces), naive_bits([whole]), f"{n} of {tokens} tokens and {b} of {size} bytes in the first piece")


@bits.edge(1, "impossible texts left out", "any unit accepted", "units that need not be spelled exactly")
def rare_parts(rng: Rng) -> Iterator[tuple[list[Part]]]:
    """One text, an impossible one, a certain one, an enormous one; units that do not exist."""
    yield from [([part(rng, unit)],) for unit in ("nats", "bits", "perplexity", "file")]
    for unit, value in (("nats", math.inf), ("perplexity", math.inf), ("bits", 0.0), ("perplexity", 1.0)):
        yield ([part(rng, "nats"), part(rng, "bits") | {"unit": unit, "value": value}],)
    yield ([part(rng, "perplexity") | {"value": 1e300, "tokens": 10**12, "bytes": 10**13}],)
    for unit in ("bytes", "Bits", "bit", " nats", "perplexities", "files"):
        yield ([part(rng, "file"), part(rng, "bits") | {"unit": unit}],)


# 01.5


Choice = tuple[list[Part], list[str], int, int, float]


def naive_choice(
    candidates: list[Part], works: list[str], alphabet_size: int, budget: int, margin: float, /
) -> tuple[str | None, dict[str, str]]:
    """Rule by rule."""
    reasons, left = dict[str, str](), list(candidates)
    score = dict[str, float]()
    for row in candidates:
        bits, sizes = zip(*row["scores"].values(), strict=True)
        score[row["name"]] = sum(bits) / sum(sizes)

    def drop(rule: str, wrong: Callable[[Part], object]) -> None:
        reasons.update({row["name"]: rule for row in left if wrong(row)})
        left[:] = [row for row in left if not wrong(row)]

    drop("leak", lambda row: any(work in row["counted"] + row["tuned"] for work in row["scores"]))
    drop("texts", lambda row: sorted(row["scores"]) != sorted(works))
    drop("memory", lambda row: 4 * math.prod([alphabet_size] * (row["context"] + 1)) > budget)
    lowest = min((score[row["name"]] for row in left), default=0.0)
    drop("score", lambda row: score[row["name"]] - lowest > margin)
    if not left:
        return None, reasons
    first = sorted(left, key=lambda row: (row["context"], score[row["name"]]))[0]["name"]
    drop("context", lambda row: row["name"] != first)
    return first, reasons


choice = Exam("01.5", naive_choice)


def row(name: str, context: int, *bits: float, **more: Any) -> Part:
    """A model that was scored on the play, and with more bits on the poem and the tale."""
    sizes = (("play", 100), ("poem", 300), ("tale", 100))
    scores = {work: (one, size) for one, (work, size) in zip(bits, sizes, strict=False)}
    return {"name": name, "context": context, "counted": ["epic"], "tuned": ["song"], "scores": scores} | more


choice.example(
    1,
    (
        [row("one", 1, 300, counted=["sonnets"]), row("two", 2, 300, counted=["play"])],
        ["play"],
        84,
        10**6,
        0.01,
    ),
    ("one", {"two": "leak"}),
)


def table(rng: Rng, wide: bool = False) -> Choice:
    """A table in which every rule drops a model, by a byte or, if ``wide``, by half its size."""
    V, b = rng.randint(20, 40), rng.randint(230, 300)
    play, poem, best = {"counted": ["epic", "play"]}, {"tuned": ["poem"]}, row("best", 3, b, b)
    rows = [
        row("counted on play", 2, b - 100, b - 100, **play),
        row("tuned on poem", 1, b - 80, b - 80, **poem),
    ]
    rows += [row("no poem", 1, b - 100), row("a tale more", 1, *[b - 100] * 3), best]
    rows += [row("a tale for the poem", 1, scores={"play": (b - 100, 100), "tale": (b - 100, 100)})]
    rows += [row("counted on the tale", 1, *[b - 90] * 3, counted=["tale"]), row("a tale, large", 5, b, b, b)]
    rows += [row("half of it counted on play", 1, b - 90, **play)]
    rows += [row("too large", 4, b - 50, b - 50), row("larger", 5, b - 40, b - 40)]
    rows += [row("fits exactly", 3, b + 10, b - 6), row("just too far", 1, b + 6.3, b + 6.3)]
    rows += [
        row("near", 2, b + 4, b + 4),
        row("nearer", 2, b - 30, b + 36),
        row("as near", 2, b + 36, b - 30),
    ]
    rows += [row("too far", 1, b + 20, b + 20), row("blind", 0, b + 50, b + 50)]
    budget = 2 * V**5 if wide else 4 * V**4
    return rng.sample(rows, len(rows)), rng.sample(["play", "poem"], 2), V, budget, 0.03


@choice.oracle(3)
def random_tables(rng: Rng) -> Iterator[Choice]:
    """Tables in which each rule drops a model."""
    yield table(rng)
    for first, wide in (("near", True), ("as near", False)):
        rows, *rest = table(rng, wide)
        yield sorted(rows, key=lambda row: row["name"] != first), *rest  # pyright: ignore[reportReturnType]


@choice.edge(2, "a table of exactly the budget dropped")
def border_tables(rng: Rng) -> Iterator[Choice]:
    """No model left, none at all, a single one, no margin, equal scores, a budget that is just used up."""
    rows, works, V, budget, margin = table(rng)
    yield from [(rows, works, V, 0, margin), ([], works, V, budget, margin)]
    yield from [(rows[:1], works, V, 10**12, 1.0), (rows, works, V, budget - 1, margin)]
    yield from [(rows, works, V, budget, 0.0), (rows, ["poem", "play", "tale"], V, budget, margin)]
    yield [row("first", 1, 250, 250), row("again", 1, 250, 250)], works, V, budget, margin
    yield [row("impossible", 1, 250, math.inf), row("possible", 2, 450, 400)], works, V, budget, margin
    yield [row("one letter", 9, 250, 250)], works, 1, 4, margin
    yield from [([row("enormous", 9, 250, 250)], works, 85, 4 * 85**10 - more, margin) for more in (0, 1)]


@choice.property(1)
def names_do_not_matter(f: Function, rng: Rng) -> None:
    """Every model but the chosen one has a reason, and the order of the table only settles ties."""
    rows, works, V, budget, margin = table(rng)
    for one in (rows, rows[::-1]):
        args = one, works, V, budget, margin
        same(f(*args), naive_choice(*args), "the choice")
