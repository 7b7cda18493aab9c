"""Checks of chapter 19: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import measure

PACKAGE = "myllm.finetuning.*"

# 19.1

Change = tuple[int, Tensor, Tensor, float]
Layer = tuple[Tensor, Tensor, Tensor, list[Change], bool, Tensor]


def naive_adapted(
    x: Tensor, weight: Tensor, bias: Tensor, changes: list[Change], root: bool, start: Tensor, /
) -> Tensor:
    """Token by token, column by column."""
    y = torch.zeros(*x.shape[:2], len(bias), dtype=x.dtype)
    for b, text in enumerate(x):
        for t, token in enumerate(text):
            y[b, t] = weight.mT @ token + bias
            for first, A, B, alpha in changes if t >= start[b] else []:
                for n, row in enumerate(B):
                    y[b, t, first + n] += alpha * len(A) ** (-0.5 if root else -1.0) * row.dot(A @ token)
    return y


adapted_exam = Exam("19.1", naive_adapted, tolerance=1e-4)
SHOWN_CHANGE = 1, torch.ones(2, 1), torch.ones(1, 2), 6.0
SHOWN = torch.ones(1, 2, 1), torch.ones(1, 2), torch.zeros(2), [SHOWN_CHANGE], False, torch.tensor([1])
adapted_exam.example(1, SHOWN, torch.tensor([[[1.0, 1.0], [1.0, 7.0]]]))


def some_layer(
    rng: Rng, B: int, T: int, K: int, spans: list[tuple[int, int]], root: bool, N: int = 0
) -> Layer:
    """A layer with changes on these spans of columns; in float64."""

    def normal(*shape: int) -> Tensor:
        return rng.normal(*shape, dtype=torch.float64)

    changes: list[Change] = []
    for number, (first, end) in enumerate(spans, 2):
        changes.append((first, normal(number, K), normal(end - first, number), rng.uniform(2, 6)))
    width = N or max(end for _, end in spans)
    return normal(B, T, K), normal(K, width), normal(width), changes, root, rng.integers(1, T, B)


@adapted_exam.oracle(1.5)
def random_layers(rng: Rng) -> Iterator[Layer]:
    """Changes of different ranks on different columns, with both scales."""
    yield some_layer(rng, 1, 4, 5, [(0, 3), (6, 9)], False)
    yield some_layer(rng, 2, 5, 8, [(4, 8)], True)
    yield some_layer(rng, 3, 4, 6, [(8, 12), (4, 8), (0, 4)], True)
    yield some_layer(rng, 2, 6, 4, [(1, 3)], False, N=7)


@adapted_exam.edge(1, "a mask that multiplies")
def broken_changes(rng: Rng) -> Iterator[Layer]:
    """Changes that have become NaN or infinite."""
    for junk in (math.nan, math.inf):
        layer = some_layer(rng, 2, 5, 4, [(0, 6), (3, 6)], False)
        _, A, B, _ = layer[3][0]
        A[0], B[0] = (junk, B[0]) if math.isnan(junk) else (A[0], junk)
        yield layer


@adapted_exam.edge(0.5, "a change that takes the place of another")
def border_layers(rng: Rng) -> Iterator[Layer]:
    """Changes on the same columns, no change, all positions, none, a rank of 1, and float32."""
    yield some_layer(rng, 2, 4, 5, [(0, 4), (2, 6)], False)
    yield some_layer(rng, 2, 4, 5, [(0, 4), (0, 4)], True)
    yield some_layer(rng, 2, 4, 5, [], False, N=3)
    x, weight, bias, changes, root, _ = some_layer(rng, 2, 4, 3, [(0, 2)], True, N=4)
    yield x, weight, bias, changes, root, torch.tensor([0, 4])
    first, A, B, _ = changes[0]
    single = [(first, A[:1].float(), B[:, :1].float(), 3.0)]
    yield x.float(), weight.float(), bias.float(), single, True, torch.tensor([2, 1])


@adapted_exam.property(0.5)
def trained(f: Function, rng: Rng) -> None:
    """Gradients reach A and B."""
    x, weight, bias, changes, root, start = some_layer(rng, 2, 4, 5, [(0, 3), (3, 6)], True)
    parts = [part.requires_grad_() for _, A, B, _ in changes for part in (A, B)]
    y: Any = f(x, weight, bias, changes, root, start)
    expect(isinstance(y, Tensor) and y.requires_grad, "the output has no gradient")
    y.square().sum().backward()
    expect(all(part.grad is not None and part.grad.any() for part in parts), "some A or B gets no gradient")


@adapted_exam.cost(0.5)
def two_thin_products(f: Function, rng: Rng) -> None:
    """A low-rank change is computed by two thin products, not as a matrix of the size of the weight."""
    layer = some_layer(rng, 1, 3, 64, [(0, 32), (32, 64), (64, 96)], False)
    with measure() as count:
        f(*layer)
    base, ranks = 2 * 3 * 64 * 96, 2 + 3 + 4
    allowed = base + 2 * 3 * ranks * (64 + 96)
    expect(count.flops <= allowed, f"{count.flops} FLOPs, where {allowed} are enough")


def texts(rng: Rng, n: int) -> Layer:
    """A layer for this many texts."""
    return some_layer(rng, n, n, 4, [(0, 3), (2, 5)], True)


adapted_exam.operations(0.5, "texts and positions", (4, 40), texts)
adapted_exam.conduct(0.5, PACKAGE)

# 19.2

Tuned = tuple[list[Tensor], list[float]]
Tuning = tuple[list[Tensor], list[Tensor], Tensor, Tensor, float, float, int]


def naive_tune(
    weights: list[Tensor],
    starts: list[Tensor],
    x: Tensor,
    y: Tensor,
    alpha: float,
    rate: float,
    steps: int,
    /,
) -> Tuned:
    """With gradients by hand: those of a layer's weight, and from them those of A and B."""
    layers, losses = len(weights), list[float]()
    A, B = [*starts], [w.new_zeros(len(w), len(a)) for w, a in zip(weights, starts, strict=True)]

    def changes() -> list[Tensor]:
        return [alpha / len(a) * (b @ a) for a, b in zip(A, B, strict=True)]

    for _ in range(steps + 1):
        merged = [w + change for w, change in zip(weights, changes(), strict=True)]
        inputs = [x]
        for w in merged[:-1]:
            inputs.append(torch.tanh(inputs[-1] @ w.T))
        error = inputs[-1] @ merged[-1].T - y
        losses.append(error.square().mean().item())
        if len(losses) > steps:
            break
        g = 2 * error / error.numel()  # the gradient of a layer's output
        for i in reversed(range(layers)):
            of_weight = alpha / len(A[i]) * (g.T @ inputs[i])
            g = g @ merged[i] * (1 - inputs[i].square())
            A[i], B[i] = A[i] - rate * B[i].T @ of_weight, B[i] - rate * of_weight @ A[i].T
    return changes(), losses


tune_exam = Exam("19.2", naive_tune, tolerance=1e-6)
ZERO, ONE = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
tune_exam.example(1, ([ZERO], [ONE], ONE, ONE, 1.0, 0.25, 1), ([ONE / 2], [1.0, 0.25]))


def stack(rng: Rng, widths: list[int], ranks: list[int], steps: int) -> Tuning:
    """Layers between these widths, adapters of these ranks."""
    pairs = [*pairwise(widths)]
    weights = [rng.normal(n, k, dtype=torch.float64) / math.sqrt(k) for k, n in pairs]
    starts = [rng.normal(r, k, dtype=torch.float64) for r, (k, _) in zip(ranks, pairs, strict=True)]
    x, y = rng.normal(7, widths[0], dtype=torch.float64), rng.normal(7, widths[-1], dtype=torch.float64)
    return weights, starts, x, y, rng.uniform(1, 2), rng.uniform(0.1, 0.2), steps


@tune_exam.oracle(3)
def random_tunings(rng: Rng) -> Iterator[Tuning]:
    """Two and three layers, different ranks, a few steps."""
    yield stack(rng, [4, 5, 3], [2, 3], 2)
    yield stack(rng, [3, 3, 3], [3, 2], 3)
    yield stack(rng, [5, 3, 4, 2], [2, 3, 2], 4)


@tune_exam.edge(1.5)
def border_tunings(rng: Rng) -> Iterator[Tuning]:
    """No step, one layer, ranks of 1, a rank above the widths."""
    yield stack(rng, [4, 5, 3], [2, 3], 0)
    yield stack(rng, [4, 6], [2], 3)
    yield stack(rng, [3, 2, 3], [1, 1], 2)
    yield stack(rng, [2, 3, 2], [5, 4], 2)


tune_exam.conduct(0.5, PACKAGE)

# 19.3

Plan = tuple[dict[str, int], dict[str, Any]]


def naive_memory(model: dict[str, int], plan: dict[str, Any], /) -> dict[str, int]:
    """A list of all tensors, each with what it takes."""
    width, hidden = model["width"], model["hidden"]
    queries, keys = model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
    full, trained, held = plan["method"] == "full", list[int](), 0
    frozen = [width] * (2 * model["layers"] + 1) + [model["vocab"] * width] * (2 - model["tied"])
    for _ in range(model["layers"]):
        for name, inputs, outputs in (
            ("q", width, queries),
            ("k", width, keys),
            ("v", width, keys),
            ("o", queries, width),
            ("gate", width, hidden),
            ("up", width, hidden),
            ("down", hidden, width),
        ):
            if plan["method"] == "qlora":
                blocks = len([*range(0, inputs, 64)]) * outputs
                held += inputs * outputs // 2 + blocks + 4 * len([*range(0, blocks, 256)])
            else:
                frozen.append(inputs * outputs)
            if not full and name in plan["ranks"]:
                r = plan["ranks"][name]
                trained += [r * inputs, outputs * r, outputs * plan["dora"]]
    trained = frozen if full else trained + [model["vocab"] * width for _ in plan["whole"]]
    count = sum(trained)
    held += 4 * count + (0 if full else 2 * sum(frozen))
    return {"trained": count, "weights": held, "gradients": 4 * count, "moments": 8 * count}


memory_exam = Exam("19.3", naive_memory)
SMALL = {"layers": 1, "width": 4, "heads": 2, "kv_heads": 2, "head_dim": 2, "hidden": 8, "vocab": 10}
FIRST_PLAN: dict[str, Any] = {"method": "lora", "ranks": {"q": 1}, "dora": 0, "whole": []}
SHOWN_BILL = {"trained": 8, "weights": 456, "gradients": 32, "moments": 64}
memory_exam.example(1, (SMALL | {"tied": 1}, FIRST_PLAN), SHOWN_BILL)
ALL_MATRICES = ["q", "k", "v", "o", "gate", "up", "down"]


def some_plan(rng: Rng, method: str, tied: int, *whole: str, dora: int = 0, blocks: int = 0) -> Plan:
    """A model with fewer heads of keys, whose rows are whole blocks only if ``blocks``."""
    heads, head_dim = rng.choice([3, 5, 6]), 64 if blocks else rng.choice([10, 14, 22])
    model = {"layers": rng.randint(2, 5), "width": 64 * blocks or 2 * rng.randint(40, 60), "heads": heads}
    model |= {"kv_heads": heads // 3 or 1, "head_dim": head_dim, "hidden": 256 if blocks else 210}
    model |= {"vocab": rng.randint(300, 900), "tied": tied}
    names = [*rng.sample(ALL_MATRICES[:4], 2), *rng.sample(ALL_MATRICES[4:], 2)]
    ranks = {name: rng.randint(2, 9) for name in names}
    return model, {"method": method, "ranks": ranks, "dora": dora, "whole": [*whole]}


@memory_exam.oracle(2)
def random_plans(rng: Rng) -> Iterator[Plan]:
    """All methods, with tied tables and without; all blocks are whole."""
    for method in ("full", "lora", "qlora"):
        for tied in (0, 1):
            yield some_plan(rng, method, tied, blocks=rng.randint(2, 5))


@memory_exam.edge(
    1, "blocks that go on in the next row", "a scale of the scales that serves several matrices"
)
def broken_blocks(rng: Rng) -> Iterator[Plan]:
    """Rows that end within a block."""
    for tied in (0, 1):
        yield some_plan(rng, "qlora", tied)


@memory_exam.edge(
    1,
    "a copy that takes the place of the table",
    "copies of tied tables that are one",
    "a magnitude for each input",
)
def copies(rng: Rng) -> Iterator[Plan]:
    """Tables that are trained as a whole, and DoRA."""
    for tied in (0, 1):
        for whole in (["head"], ["embed", "head"]):
            yield some_plan(rng, rng.choice(["lora", "qlora"]), tied, *whole, dora=1, blocks=3)


@memory_exam.edge(0.5)
def border_plans(rng: Rng) -> Iterator[Plan]:
    """No adapter, all matrices, no layer, and a full tuning that does not look at the rest of its plan."""
    model, plan = some_plan(rng, "lora", 1)
    yield model, plan | {"ranks": {}}
    yield model, plan | {"ranks": dict.fromkeys(ALL_MATRICES, 1), "dora": 1}
    yield model | {"layers": 0}, plan | {"method": "qlora", "whole": ["embed"]}
    yield model, plan | {"method": "full", "dora": 1, "whole": ["embed", "head"]}


memory_exam.conduct(0.5, PACKAGE, "myllm.accounting.*")


# 19.4

Choice = tuple[list[dict[str, Any]], int, int]
Scores = dict[tuple[int, float], list[Any]]


def naive_choice(runs: list[dict[str, Any]], seeds: int, budget: int, /) -> tuple[int, float, bool]:
    """Rank by rank and rate by rate, with fractions."""
    found: list[tuple[Fraction, int, float, list[int]]] = []
    for r in sorted({run["r"] for run in runs}):
        of_rank: list[tuple[Fraction, int, float, list[int]]] = []
        for rate in sorted({run["rate"] for run in runs if run["r"] == r}):
            plan = [run for run in runs if (run["r"], run["rate"]) == (r, rate)]
            rights = [run["right"] for run in plan]
            if len(plan) >= seeds and None not in rights and plan[0]["parameters"] <= budget:
                of_rank.append((Fraction(sum(rights), len(rights)), r, rate, rights))
        if of_rank:
            found.append(max(of_rank, key=lambda plan: (plan[0], -plan[2])))
    if not found:
        raise ValueError("no plan counts")
    best = max(found, key=lambda plan: (plan[0], -plan[1]))
    for _, r, rate, rights in found:
        if not all(mine > other for mine in best[3] for other in rights) or r == best[1]:
            tried = sorted(run["rate"] for run in runs if run["r"] == r)
            return r, rate, rate in (tried[0], tried[-1])
    raise AssertionError("the best plan is as good as itself")


choice_exam = Exam("19.4", naive_choice)


def table_of(scores: Scores) -> list[dict[str, Any]]:
    """The runs of these plans."""
    return [
        {"r": r, "rate": rate, "seed": seed, "parameters": 100 * r, "right": right}
        for (r, rate), rights in scores.items()
        for seed, right in enumerate(rights)
    ]


SHOWN_RUNS = table_of({(4, 0.001): [50, 54], (4, 0.01): [60, None], (8, 0.001): [54, 58]})
choice_exam.example(1, (SHOWN_RUNS, 2, 800), (4, 0.001, True))


def mixed(rng: Rng, scores: Scores) -> list[dict[str, Any]]:
    """These runs in any order, with more right answers and other rates."""
    more, factor = rng.randint(0, 9), rng.choice([0.5, 1, 2])
    runs = table_of(scores)
    for run in runs:
        run |= {"rate": factor * run["rate"], "right": None if run["right"] is None else run["right"] + more}
    return rng.sample(runs, len(runs))


CLOSE: Scores = {(2, 0.001): [50, 51, 52], (2, 0.01): [70, 72, 76], (2, 0.1): [40, 41, 42]}
DIVERGED: Scores = {(8, 0.001): [60, 61, 62], (8, 0.01): [75, 78, 81], (8, 0.1): [90, None, 91]}
LARGE: Scores = {(32, 0.001): [60, 61, 62], (32, 0.01): [74, 79, 83], (32, 0.0001): [20, 21, 22]}
LUCKY: Scores = {(4, 0.001): [60, 64, 95], (4, 0.003): [79, 80, 81], (4, 0.01): [30, 31, 32]}
SMALLER: Scores = {(1, 0.003): [50, 51, 52], (1, 0.01): [60, 61, 62], (1, 0.1): [10, 11, 12]}
ALONE: Scores = {(8, 0.003): [96], (8, 0.001): [97], (2, 0.003): [82, 83]}


@choice_exam.oracle(2.5)
def random_choices(rng: Rng) -> Iterator[Choice]:
    """Ranks whose runs overlap, lucky runs, runs that diverged, too few seeds, plans above the budget."""
    yield mixed(rng, CLOSE | DIVERGED | LARGE), 3, 3200
    yield mixed(rng, LUCKY | SMALLER), 3, 3200
    yield mixed(rng, LUCKY | SMALLER | ALONE), 3, 3200
    yield mixed(rng, LUCKY | SMALLER | {(16, rate): [96, 97, 98] for rate in (0.001, 0.003, 0.01)}), 3, 800
    for _ in range(2):
        scores: Scores = {
            (r, rate): [rng.randint(20, 30) + r for _ in range(rng.randint(2, 4))]
            for r in (1, 3, 9)
            for rate in rng.sample([0.001, 0.002, 0.004, 0.008], 3)
        }
        yield mixed(rng, scores), 2, 900


@choice_exam.edge(1.5, "an edge of the rates of all ranks", "an edge of the rates that count")
def edges(rng: Rng) -> Iterator[Choice]:
    """A rate at the edge of its rank alone, and one beside a rate that diverged."""
    scores: Scores = {(2, 0.01): [70, 71], (2, 0.001): [50, 51], (8, 0.01): [71, 72], (8, 0.1): [20, 21]}
    yield mixed(rng, scores), 2, 800
    yield mixed(rng, scores | {(2, 0.1): [None, None]}), 2, 800
    yield mixed(rng, scores | {(2, 0.1): [90]}), 2, 800


@choice_exam.edge(2)
def border_choices(rng: Rng) -> Iterator[Choice]:
    """Equal means, equal runs, one run, no answer right, a budget just enough, nothing that counts."""
    scores: Scores = {(4, 0.01): [50, 52], (4, 0.001): [51, 51], (4, 0.1): [49, 53], (8, 0.01): [50, 52]}
    yield mixed(rng, scores), 2, 800
    yield mixed(rng, {(2, 0.01): [48, 49], (4, 0.1): [50, 54], (8, 0.1): [49, 55]}), 2, 800
    yield mixed(rng, {(8, 0.01): [53, 54], (2, 0.01): [50, 52]}), 2, 800
    yield table_of({(2, 0.01): [0, 0], (4, 0.01): [0, 0]}), 2, 400
    yield mixed(rng, {(2, 0.01): [3], (4, 0.02): [4]}), 1, 400
    yield mixed(rng, scores), 3, 800
    yield mixed(rng, scores), 2, 399
    yield [], 1, 100


# 19.5

Adapters = dict[str, tuple[Tensor, Tensor, float]]
Requests = list[tuple[int, dict[str, float]]]
Batch = tuple[Tensor, Tensor, Adapters, Requests]


def naive_serve(x: Tensor, weight: Tensor, adapters: Adapters, requests: Requests, /) -> Tensor:
    """Request by request, with a merged weight."""
    parts: list[Tensor] = []
    for length, wanted in requests:
        merged = weight.clone()
        for name, strength in wanted.items():
            A, B, alpha = adapters[name]
            merged += strength * alpha / len(A) * (B @ A)
        parts.append(x[:length] @ merged.T)
        x = x[length:]
    return torch.cat(parts)


serve_exam = Exam("19.5", naive_serve, tolerance=1e-4)
ONLY: Adapters = {"a": (torch.ones(2, 1), torch.ones(1, 2), 4.0)}
SERVED = torch.ones(3, 1), torch.ones(1, 1), ONLY, [(2, dict[str, float]()), (1, {"a": 3.0})]
serve_exam.example(1, SERVED, torch.tensor([[1.0], [1.0], [13.0]]))


def some_batch(
    rng: Rng,
    K: int,
    N: int,
    ranks: list[int],
    counts: list[int],
    length: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Requests that want these counts of adapters."""
    names = rng.sample(["sort", "reverse", "double", "copy", "count"], len(ranks))
    adapters = {
        name: (rng.normal(r, K, dtype=dtype), rng.normal(N, r, dtype=dtype), rng.uniform(2, 9))
        for name, r in zip(names, ranks, strict=True)
    }
    requests = [
        (length or rng.randint(2, 5), {name: rng.uniform(0.3, 0.8) for name in rng.sample(names, count)})
        for count in counts
    ]
    M = sum(length for length, _ in requests)
    return rng.normal(M, K, dtype=dtype), rng.normal(N, K, dtype=dtype), adapters, requests


@serve_exam.oracle(2.5)
def random_batches(rng: Rng) -> Iterator[Batch]:
    """Requests with no adapter, with one and with several, in float32 and float64."""
    yield some_batch(rng, 4, 6, [2, 3], [1, 0, 2])
    yield some_batch(rng, 5, 3, [3, 3, 2], [0, 3, 1, 2], dtype=torch.float32)
    yield some_batch(rng, 6, 6, [2, 4, 3], [2, 1, 1, 0, 3])


@serve_exam.edge(1)
def border_batches(rng: Rng) -> Iterator[Batch]:
    """One request, one token, no adapters, nobody who wants one, strengths below 0 and of 0, ranks of 1."""
    yield some_batch(rng, 4, 3, [2, 3], [2])
    yield some_batch(rng, 4, 3, [2], [1], length=1)
    yield some_batch(rng, 4, 3, [], [0, 0])
    yield some_batch(rng, 4, 3, [2, 3], [0, 0])
    x, weight, adapters, [(n, _), *others] = some_batch(rng, 3, 5, [1, 6], [2, 1])
    yield x, weight, adapters, [(n, dict(zip(adapters, (-1.5, 0.0), strict=True))), *others]


@serve_exam.property(0.5)
def another_order(f: Function, rng: Rng) -> None:
    """With the requests in another order, the outputs come in that order."""
    x, weight, adapters, requests = some_batch(rng, 4, 5, [2, 3], [0, 2, 1, 1], length=3)
    first: Any = f(x, weight, adapters, requests)
    turned: Any = f(x.view(4, 3, 4).flip(0).reshape(12, 4), weight, adapters, requests[::-1])
    same(turned, first.view(4, 3, 5).flip(0).reshape(12, 5), "outputs", 1e-6)


@serve_exam.cost(1)
def thin_products(f: Function, rng: Rng) -> None:
    """A and B are neither multiplied with each other nor copied for each request or token."""
    M, K, N, ranks = 64, 32, 32, [8, 6, 7]
    batch = some_batch(rng, K, N, ranks, [0, 1, 2, 3] * 16, length=1)
    with measure() as count:
        f(*batch)
    allowed = 2 * M * N * K + 2 * 2 * M * (K + N) * sum(ranks)
    expect(count.flops <= allowed, f"{count.flops} FLOPs, where {allowed} are enough")
    most = len(ranks) * M * N
    expect(count.largest <= most, f"a tensor of {count.largest} numbers, where {most} are enough")


serve_exam.operations(0.5, "requests", (3, 60), lambda rng, n: some_batch(rng, 4, 5, [2, 3], [1] * n))
serve_exam.conduct(0.5, PACKAGE)
