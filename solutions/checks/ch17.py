"""Checks of chapter 17: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same

PACKAGE = "myllm.finetuning.*"

# 17.1

Pooled = tuple[Tensor, Tensor, float]


def naive_pool(hidden: Tensor, keep: Tensor, decay: float, /) -> Tensor:
    """Text by text, from the last token."""
    rows: list[Tensor] = []
    for states, real in zip(hidden, keep, strict=True):
        total, weights, weight = torch.zeros_like(states[0]), 0.0, 1.0
        for t in reversed(range(len(states))):
            if real[t]:
                total, weights, weight = total + weight * states[t], weights + weight, weight * decay
        rows.append(total / max(weights, 1))
    return torch.stack(rows)


pool_exam = Exam("17.1", naive_pool, tolerance=1e-5)
SHOWN = torch.tensor([[[3.0], [9.0], [6.0]]]), torch.tensor([[True, False, True]]), 0.5
pool_exam.example(1, SHOWN, torch.tensor([[5.0]]))


def padded(rng: Rng, B: int, T: int, decay: float, junk: float = 0.0, holes: bool = True) -> Pooled:
    """Texts of 3 tokens or more with padding on both sides, and inside."""
    keep = torch.zeros(B, T, dtype=torch.bool)
    for row in keep:
        start = rng.randint(1, T - 7)
        row[start : rng.randint(start + 5, T - 2) + 1] = True
        if holes:
            row[start + 2 : start + 4] = False
    hidden = rng.normal(B, T, 3, dtype=rng.choice([torch.float32, torch.float64]))
    return hidden.masked_fill(~keep[..., None], junk) if junk else hidden, keep, decay


@pool_exam.oracle(2)
def random_pools(rng: Rng) -> Iterator[Pooled]:
    """Padding on both sides and inside, different decays."""
    for B, T in ((1, 8), (2, 9), (4, 16), (3, 30)):
        yield padded(rng, B, T, rng.uniform(0.4, 0.8))


@pool_exam.edge(1.5, "padding times a weight of 0", "a text without tokens that becomes NaN")
def odd_pools(rng: Rng) -> Iterator[Pooled]:
    """Padding of NaN and infinity, and a text without a real token."""
    for junk in (math.nan, math.inf):
        hidden, keep, decay = padded(rng, 3, 12, rng.uniform(0.4, 0.8), junk)
        keep[1] = False
        yield hidden, keep, decay


@pool_exam.edge(0.5)
def border_pools(rng: Rng) -> Iterator[Pooled]:
    """The last token alone, the mean, one token, long texts, and a view."""
    yield padded(rng, 3, 12, 0.0)
    yield padded(rng, 3, 12, 1.0)
    yield rng.normal(2, 1, 4), torch.ones(2, 1, dtype=torch.bool), 0.5
    yield rng.normal(1, 3000, 2), torch.ones(1, 3000, dtype=torch.bool), 0.5
    hidden, keep, decay = padded(rng, 4, 12, 0.7)
    yield hidden.mT.contiguous().mT[::2], keep[::2], decay


pool_exam.operations(0.5, "rows", (5, 200), lambda rng, n: padded(rng, n, 9, 0.5))
pool_exam.conduct(0.5, PACKAGE)

# 17.2

Batch = tuple[list[list[int]], int, bool, int]
Collated = tuple[Tensor, Tensor, Tensor, Tensor]


def naive_collate(texts: list[list[int]], pad: int, left: bool, longest: int, /) -> Collated:
    """Cell by cell."""
    cut = [text[:longest] for text in texts]
    T = max(len(text) for text in cut)
    rows: list[list[int]] = []
    positions: list[list[int]] = []
    masks: list[list[list[bool]]] = []
    last: list[int] = []
    for text in cut:
        space = T - len(text)
        before, after = (space, 0) if left else (0, space)
        rows.append([pad] * before + text + [pad] * after)
        positions.append([0] * before + [*range(len(text))] + [0] * after)
        real = range(before, before + len(text))
        masks.append([[k == q or (k < q and k in real and q in real) for k in range(T)] for q in range(T)])
        last.append(real[-1])
    return torch.tensor(rows), torch.tensor(positions), torch.tensor(masks), torch.tensor(last)


collate_exam = Exam("17.2", naive_collate)
collate_exam.example(1, ([[5, 0], [7, 8, 9]], 0, True, 9), naive_collate([[5, 0], [7, 8, 9]], 0, True, 9))


def some_texts(rng: Rng, *lengths: int, low: int = 1) -> list[list[int]]:
    """Texts of these lengths."""
    return [[rng.randint(low, 99) for _ in range(length)] for length in lengths]


@collate_exam.oracle(2)
def random_batches(rng: Rng) -> Iterator[Batch]:
    """Texts of different lengths, padded on both sides, none of them cut."""
    for left in (True, False, True, False):
        yield some_texts(rng, *rng.sample(range(2, 8), 3)), 0, left, 9


@collate_exam.edge(1.5, "padding found by its token")
def ends(rng: Rng) -> Iterator[Batch]:
    """The token of the padding begins texts, ends them, and stands inside them."""
    for left in (True, False):
        pad = rng.randint(1, 9)
        texts = [[pad, *one, pad, 11, pad] for one in some_texts(rng, 1, 4, 2, low=10)]
        yield texts, pad, left, 20


CUTS = "texts that lose their beginning", "the length of the batch before texts were cut"


@collate_exam.edge(1, *CUTS)
def cuts(rng: Rng) -> Iterator[Batch]:
    """Texts that are too long."""
    for left in (True, False):
        yield some_texts(rng, 9, 3, rng.randint(6, 8)), 0, left, rng.randint(4, 5)


@collate_exam.edge(0.5)
def border_batches(rng: Rng) -> Iterator[Batch]:
    """One text, one token, equal lengths."""
    for left in (True, False):
        yield some_texts(rng, 1), 0, left, 1
        yield some_texts(rng, 4), 7, left, 4
        yield some_texts(rng, 3, 3, 3), 0, left, 2


@collate_exam.property(0.5)
def neighbours(f: Function, rng: Rng) -> None:
    """What a text's tokens see is the same alone and beside a longer text."""
    for left in (True, False):
        text, other = some_texts(rng, 4, 7)
        found: Any = f([text, other], 0, left, 9)
        here = slice(3, 7) if left else slice(0, 4)
        alone = naive_collate([text], 0, left, 9)
        same(found[0][0, here], alone[0][0], "the ids of a text beside a longer one")
        same(found[1][0, here], alone[1][0], "the positions of a text beside a longer one")
        same(found[2][0, here, here], alone[2][0], "the mask of a text beside a longer one")
        expect(not found[2][0, here].sum() > 10, "tokens attend to padding")


collate_exam.conduct(0.5, PACKAGE, "myllm.model.masks.*")

# 17.3

Cost = tuple[dict[str, int], list[str], dict[str, int]]


def naive_cost(model: dict[str, int], trained: list[str], run: dict[str, int], /) -> dict[str, int]:
    """A list of single operations in order, each with its weights, tokens and FLOPs."""
    width, tokens = model["width"], run["texts"] * run["length"]
    q, kv = (model[key] * model["head_dim"] for key in ("heads", "kv_heads"))
    steps = [
        ("embed", model["vocab"] * width, 0, 0)
    ]  # part, weights, tokens of a matrix, FLOPs without weights
    for i in range(model["layers"]):
        steps.append((f"attention {i}", width, 0, 0))
        steps += [(f"attention {i}", width * n, tokens, 0) for n in (q, kv, kv)]
        steps.append((f"attention {i}", 0, 0, 4 * q * run["length"] ** 2 * run["texts"]))
        steps.append((f"attention {i}", width * q, tokens, 0))
        steps.append((f"mlp {i}", width, 0, 0))
        steps += [(f"mlp {i}", width * model["hidden"], tokens, 0)] * 3
    steps.append(("norm", width, 0, 0))
    steps.append(("head", width * model["classes"], run["texts"], 0))
    first = next(n for n, step in enumerate(steps) if step[0] in trained)
    found = {
        "parameters": model["classes"] if "head" in trained else 0,
        "bytes": 0,
        "forward": 0,
        "backward": 0,
    }
    for n, (part, weights, seen, core) in enumerate(steps):
        found["parameters"] += weights if part in trained else 0
        found["forward"] += (2 * weights * seen + core) * (run["epochs"] if n >= first else 1)
        gradients = int(n > first) + int(part in trained)
        found["backward"] += (2 * weights * seen * gradients + 2 * core * int(n > first)) * run["epochs"]
    found["bytes"] = 3 * 4 * found["parameters"]
    return found


cost_exam = Exam("17.3", naive_cost)
SMALL = {"layers": 0, "width": 3, "heads": 1, "kv_heads": 1, "head_dim": 3, "hidden": 5, "vocab": 9}
ROUND = {"texts": 10, "length": 4, "epochs": 2}
HEAD = {"parameters": 8, "bytes": 96, "forward": 240, "backward": 240}
cost_exam.example(1, (SMALL | {"classes": 2}, ["head"], ROUND), HEAD)


def some_cost(rng: Rng, layers: int, *trained: str) -> Cost:
    """A model, with these parts trained."""
    sizes = {"layers": layers, "width": rng.randint(20, 40), "heads": rng.randint(5, 8)}
    sizes |= {"kv_heads": rng.randint(2, 4), "head_dim": rng.randint(6, 9), "hidden": rng.randint(50, 90)}
    sizes |= {"vocab": rng.randint(200, 900), "classes": rng.randint(2, 7)}
    run = {"texts": rng.randint(5, 30), "length": rng.randint(10, 99), "epochs": rng.randint(2, 5)}
    return sizes, rng.sample(trained, len(trained)), run


@cost_exam.oracle(2)
def last_layers(rng: Rng) -> Iterator[Cost]:
    """The head with the last layer, or the last two."""
    for layers in (2, 3, 5):
        top = f"attention {layers - 1}", f"mlp {layers - 1}", "norm", "head"
        yield some_cost(rng, layers, *top)
        yield some_cost(rng, layers, *top, f"attention {layers - 2}", f"mlp {layers - 2}")


GAPS = "a backward pass of trained parts alone", "a cache of all frozen parts"


@cost_exam.edge(1.5, *GAPS)
def gaps(rng: Rng) -> Iterator[Cost]:
    """Frozen parts between trained ones."""
    yield some_cost(rng, 4, "mlp 1", "head")
    yield some_cost(rng, 4, "attention 0", "mlp 3")
    yield some_cost(rng, 3, "embed", "head")
    yield some_cost(rng, 3, "attention 1", "attention 2")


@cost_exam.edge(1)
def border_costs(rng: Rng) -> Iterator[Cost]:
    """The head alone, the norm, everything, one part of twelve layers, one epoch."""
    yield some_cost(rng, 3, "head")
    yield some_cost(rng, 3, "norm", "head")
    yield some_cost(
        rng, 2, *(f"{part} {i}" for i in range(2) for part in ("attention", "mlp")), "embed", "norm"
    )
    yield some_cost(rng, 12, f"attention {rng.randint(1, 11)}")
    yield some_cost(rng, 12, f"mlp {rng.choice((1, 10, 11))}")
    sizes, trained, run = some_cost(rng, 2, "mlp 1", "head")
    yield sizes, trained, run | {"epochs": 1}


@cost_exam.property(1)
def more_layers(f: Function, rng: Rng) -> None:
    """A model with more frozen layers at its beginning costs more forwards, and nothing more backwards."""
    sizes, _, run = some_cost(rng, 2)
    few: Any = f(sizes, ["mlp 1", "head"], run)
    many: Any = f(sizes | {"layers": 4}, ["mlp 3", "head"], run)
    for key in ("parameters", "bytes", "backward"):
        same(many[key], few[key], key)
    expect(many["forward"] > few["forward"], "two more layers cost nothing forwards")


cost_exam.conduct(0.5, PACKAGE, "myllm.accounting.*")

# 17.4

Table = tuple[list[dict[str, Any]], dict[str, int]]


def naive_thresholds(rows: list[dict[str, Any]], costs: dict[str, int], /) -> tuple[float, float, float]:
    """All pairs, mail by mail."""

    def bill(split: str, low: float, high: float) -> tuple[int, int, int, int]:
        cost = asked = lost = mails = 0
        for row in rows:
            if row["split"] != split:
                continue
            n = row["count"]
            mails += n
            if row["probability"] >= high:
                cost, lost = cost + (0 if row["spam"] else n * costs["lost"]), lost + n * (not row["spam"])
            elif row["probability"] >= low:
                cost, asked = cost + n * costs["person"], asked + n
            elif row["spam"]:
                cost += n * costs["through"]
        return cost, asked, lost, mails

    tried = [row["probability"] for row in rows if row["split"] == "validation"] + [math.inf]
    found: list[tuple[Any, ...]] = []
    for low in tried:
        found += [(*bill("validation", low, high)[:3], -high, -low) for high in tried if high >= low]
    high, low = (-x for x in min(found)[3:])
    cost, _, _, mails = bill("test", low, high)
    return low, high, float(Fraction(cost, mails))


threshold_exam = Exam("17.4", naive_thresholds)


def row(split: str, probability: float, spam: bool, count: int = 1) -> dict[str, Any]:
    """A row of the table."""
    return {"split": split, "probability": probability, "spam": spam, "count": count}


def cost(lost: int, through: int, person: int) -> dict[str, int]:
    """The costs."""
    return {"lost": lost, "through": through, "person": person}


KNOWN = [row("validation", p, p > 0.5) for p in (0.2, 0.7)]
LATER = [row("test", p, p > 0.8) for p in (0.1, 0.6, 0.75, 0.9)]
threshold_exam.example(1, (KNOWN + LATER, cost(10, 1, 2)), (0.7, 0.7, 2.5))


def noisy(
    rng: Rng, n: int, ham: int, costs: dict[str, int], splits: tuple[str, ...] = ("validation",)
) -> Table:
    """Mails whose probabilities overlap; each row of ham stands for several."""
    rows: list[dict[str, Any]] = []
    for split in (*splits, "test"):
        for i in range(n):
            spam = i % 2 == 1
            p = rng.uniform(0.0, 0.7) if not spam else rng.uniform(0.3, 1.0)
            p **= {"train": 0.3, "validation": 1, "test": 3}[split]
            rows.append(row(split, round(p, 4), spam, 1 if spam else ham))
    rng.shuffle(rows)
    return rows, costs


@threshold_exam.oracle(2)
def random_mails(rng: Rng) -> Iterator[Table]:
    """Mails of all three splits, with ham that was sampled down."""
    for n in (24, 30, 36):
        costs = cost(rng.randint(20, 30), rng.randint(8, 12), rng.randint(2, 3))
        yield noisy(rng, n, rng.randint(3, 6), costs, ("train", "validation"))
        costs = cost(rng.randint(4, 6), rng.randint(8, 12), rng.randint(2, 3))
        yield noisy(rng, n, rng.randint(2, 3), costs, ("train", "validation"))


TIES = (
    "a tie that asks a person",
    "a tie that loses more ham",
    "the lowest thresholds of a tie",
    "a threshold that is not reached",
)


@threshold_exam.edge(2, *TIES)
def ties(rng: Rng) -> Iterator[Table]:
    """Costs that are equal, and equal probabilities."""
    a, b, c = sorted(rng.sample(range(1, 100), 3))
    some = [(a / 100, False), (b / 100, True), (b / 100, False), (c / 100, True)]
    test = [row("test", p, spam) for p, spam in some]
    both = [row("validation", p, spam) for p, spam in some] + test
    for costs in (cost(2, 2, 1), cost(4, 2, 3), cost(3, 3, 5), cost(0, 0, 0), cost(0, 3, 5), cost(2, 4, 2)):
        yield both, costs


@threshold_exam.edge(1, "thresholds that are never infinite")
def border_mails(rng: Rng) -> Iterator[Table]:
    """One row, ham alone, spam alone, people who ask nothing, and people who are expensive."""
    for spam in (True, False):
        yield [row("validation", 0.5, spam), row("test", 0.5, not spam, 3)], cost(3, 2, 5)
        many = [row(split, i / 10, spam) for i in range(5) for split in ("validation", "test")]
        yield many, cost(3, 2, rng.randint(0, 4))
    yield noisy(rng, 12, 2, cost(5, 3, 0))
    yield noisy(rng, 12, 2, cost(5, 3, 900))


@threshold_exam.property(1)
def only_validation(f: Function, rng: Rng) -> None:
    """Other mails in the test change the report and no threshold."""
    for p in (0.0, 0.5, 1.0):
        rows, costs = noisy(rng, 20, 2, cost(30, 12, 2), ("train", "validation"))
        low, high, _ = naive_thresholds(rows, costs)
        other = [one for one in rows if one["split"] == "validation"] + [row("test", p, p < 0.7, 7)]
        found: Any = f(other, costs)
        same([*found[:2]], [low, high], "the thresholds with other mails in the test")


# 17.5

Mails = tuple[list[int], list[tuple[int, int]], float]


def naive_split(times: list[int], pairs: list[tuple[int, int]], share: float, /) -> list[str]:
    """All cuts; what was trained on spreads along the pairs until nothing changes."""
    best: tuple[int, list[str]] | None = None
    for cut in {*times}:
        train = {i for i, time in enumerate(times) if time <= cut}
        known, size = {*train}, 0
        while len(known) > size:
            size = len(known)
            known |= {i for pair in pairs if known & {*pair} for i in pair}
        parts = ["train" if i in train else "drop" if i in known else "test" for i in range(len(times))]
        test = parts.count("test")
        enough = Fraction(test) >= Fraction(share) * (test + len(train))
        if enough and (best is None or cut > best[0]):
            best = cut, parts
    if best is None:
        raise ValueError("no cut")
    return best[1]


split_exam = Exam("17.5", naive_split)
split_exam.example(1, ([7, 1, 9, 3, 8], [(0, 1)], 0.5), ["drop", "train", "test", "train", "test"])


def some_mails(rng: Rng, n: int, share: float, chains: int) -> Mails:
    """Mails in any order, with chains of near-duplicates whose ends are far apart in time."""
    times = rng.sample(range(1000), n)
    order = sorted(range(n), key=times.__getitem__)
    pairs: list[tuple[int, int]] = []
    for i in range(chains):
        chain = [order[i], order[-2 - 3 * i], order[-3 - 3 * i], order[-4 - 3 * i]]
        pairs += [(a, b) if rng.random() < 0.5 else (b, a) for a, b in pairwise(chain)]
    return times, rng.sample(pairs, len(pairs)), share


@split_exam.oracle(1.5)
def random_splits(rng: Rng) -> Iterator[Mails]:
    """Mails with one to three chains that cross each cut."""
    for n, chains in ((20, 1), (30, 2), (40, 3), (50, 3)):
        yield some_mails(rng, n, rng.uniform(0.2, 0.3), chains)


@split_exam.edge(1.5, "equal times on both sides", "a share that must be exceeded")
def border_splits(rng: Rng) -> Iterator[Mails]:
    """Equal times, exact shares, no pairs, and chains that never meet the train part."""
    yield [1, 2, 3, 4], [], 0.25
    yield [4, 4, 1, 2, 4, 1, 3, 3], [], rng.choice([0.2, 0.25])
    yield [1, 2, 3, 4, 5, 6, 7, 8], [(6, 7), (5, 6)], 0.25
    yield [5, 5, 5, 1, 1, 1, 1, 9], [(7, 3)], 0.375
    yield [8, 7, 6, 5, 4, 3, 2, 1], [(0, 0), (0, 1), (1, 0)], 0.5


@split_exam.edge(0.5)
def impossible_splits(rng: Rng) -> Iterator[Mails]:
    """No mails, one mail, one time, one group, a share that is too large; and one that is just reached."""
    for mails in ([], [3], [3, 3, 3]):
        yield mails, [], 0.1
    yield [1, 2, 3], [(2, 1), (1, 0)], 0.1
    yield [1, 2, 3, 4], [(0, 3)], 0.75
    yield [1, 2, 3, 4], [], 0.75


@split_exam.property(1)
def laws(f: Function, rng: Rng) -> None:
    """No group is trained on and tested, and all of the test is later."""
    for chains in (1, 3):
        times, pairs, share = some_mails(rng, 40, rng.uniform(0.2, 0.3), chains)
        parts: Any = f(times, pairs, share)
        for a, b in pairs:
            expect({parts[a], parts[b]} != {"train", "test"}, f"the pair {(a, b)} is in train and test")
        last = max(time for time, part in zip(times, parts, strict=True) if part == "train")
        early = [time for time, part in zip(times, parts, strict=True) if part == "test" and time <= last]
        expect(not early, f"train goes to {last}, and the test has {early}")


split_exam.conduct(0.5, "myllm.data.*")
