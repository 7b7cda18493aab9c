"""Checks of chapter 8: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.compare import Failure, as_expected
from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import effort, same_operations

FORBIDDEN = ("myllm.model.*", "transformers.*")


def same_gradients(
    f: Function, naive: Function, given: Callable[..., tuple[Any, ...]], **leaves: Tensor
) -> None:
    """Fail where a gradient of ``f``, called with ``given(*leaves)``, is not that of ``naive``."""
    slopes = list[tuple[Tensor | None, ...]]()
    for function in (f, naive):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves.values()]
        found: Any = function(*given(*inputs))
        results: list[Any] = [*found] if isinstance(found, tuple | list) else [found]
        leads_back = all(isinstance(one, Tensor) and one.requires_grad for one in results)
        expect(leads_back, "the result does not lead back to the arguments")
        total = sum((one.square() * torch.arange(one.numel()).view(one.shape)).sum() for one in results)
        slopes.append(torch.autograd.grad(cast("Tensor", total), inputs, allow_unused=True))
    for name, one, other in zip(leaves, *slopes, strict=True):
        same(one, other, f"the gradient of {name}")


# 08.1


def rotated(x: Tensor, positions: Tensor, theta: float, pairs: list[tuple[int, int]]) -> Tensor:
    """Number by number, in float64: pair i consists of the two numbers named; R is twice their count."""
    out = x.double().clone()
    for row, found in enumerate(cast("list[list[int]]", positions.tolist())):
        for t, place in enumerate(found):
            for i, (one, two) in enumerate(pairs):
                angle = place * theta ** (-i / len(pairs))
                a, b = x[row, :, t, one].double(), x[row, :, t, two].double()
                out[row, :, t, one] = a * math.cos(angle) - b * math.sin(angle)
                out[row, :, t, two] = a * math.sin(angle) + b * math.cos(angle)
    return out


def naive_rotation(x: Tensor, positions: Tensor, theta: float, rotary_dim: int, /) -> Tensor:
    """Number i with number i + R / 2."""
    half = rotary_dim // 2
    return rotated(x, positions, theta, [(i, i + half) for i in range(half)]).to(x.dtype)


Rotation = tuple[Tensor, Tensor, float, int]
BLURRED = "angles in float32"
# Loose enough to recognize a mistake together with this one, which `far_positions` finds.
rotation_exam = Exam("08.1", naive_rotation, tolerance=1e-4)
rotation_exam.example(
    1,
    (torch.tensor([[[[1.0, 0.0, 5.0], [1.0, 0.0, 5.0]]]]), torch.tensor([[0, 2]]), 10_000.0, 2),
    torch.tensor([[[[1.0, 0.0, 5.0], [math.cos(2), math.sin(2), 5.0]]]]),
)


def some_places(rng: Rng, B: int, T: int, most: int = 40) -> Tensor:
    """Positions that differ from text to text."""
    return rng.integers(0, most, B, T)


@rotation_exam.oracle(2)
def random_rotations(rng: Rng) -> Iterator[Rotation]:
    """Parts of heads, and positions that differ from text to text."""
    yield rng.normal(2, 2, 3, 8), some_places(rng, 2, 3), 100.0, 6
    yield rng.normal(3, 1, 4, 12), some_places(rng, 3, 4), 5000.0, 8
    yield rng.normal(2, 3, 2, 9, dtype=torch.float64), some_places(rng, 2, 2), 500_000.0, 4
    yield rng.normal(2, 2, 4, 6), some_places(rng, 2, 4), rng.uniform(20, 2000), 6


@rotation_exam.edge(0.5)
def border_rotations(rng: Rng) -> Iterator[Rotation]:
    """Nothing rotated, everything rotated, one pair, one token, a view."""
    yield rng.normal(2, 2, 3, 4), some_places(rng, 2, 3), 1000.0, 0
    yield rng.normal(1, 2, 1, 4), some_places(rng, 1, 1), 1000.0, 4
    yield rng.normal(1, 1, 3, 7), some_places(rng, 1, 3), 1000.0, 2
    yield rng.normal(2, 3, 4, 6).transpose(1, 2), some_places(rng, 2, 3), 1000.0, 4


@rotation_exam.property(0.5)
def far_positions(f: Function, rng: Rng) -> None:
    """The angles are right at positions up to a million, too."""
    x, positions = rng.normal(2, 1, 4, 12), 100_000 + some_places(rng, 2, 4, 900_000)
    found, exact = f(x, positions, 10_000.0, 10), naive_rotation(x, positions, 10_000.0, 10)
    try:
        same(found, exact, "the result", tolerance=1e-4)
    except Failure as failure:
        near = isinstance(found, Tensor) and found.shape == x.shape and (found - exact).abs().max() < 0.5
        if near:
            failure.args = (
                f"{failure}\nThis is what you get with {BLURRED}. {rotation_exam.unnamed[BLURRED][1]}",
            )
        raise


@rotation_exam.property(0.5)
def rounded_once(f: Function, rng: Rng) -> None:
    """In float16 and bfloat16, the numbers are the exact ones, rounded once, at the end."""
    for dtype in (torch.float16, torch.bfloat16):
        for start in (0, 900_000):
            x, positions = rng.normal(2, 2, 9, 8).to(dtype), start + some_places(rng, 2, 9)
            found, exact = f(x, positions, 100.0, 6), naive_rotation(x, positions, 100.0, 6)
            same(found, exact, f"the result in {dtype} at positions from {start}")
            expect(found.dtype == dtype, f"the result of {dtype} numbers has the dtype {found.dtype}")
            share = float((found == exact).double().mean())
            told = f"in {dtype} only {share:.0%} are; compute in float32, and round once, at the end"
            expect(share > 0.97, told)


@rotation_exam.property(0.5)
def gradient_rotates_back(f: Function, rng: Rng) -> None:
    """The gradient of x is that of a rotation."""
    x, positions = rng.normal(2, 2, 3, 8, dtype=torch.float64), some_places(rng, 2, 3)

    def given(x: Tensor) -> tuple[Any, ...]:
        return x, positions, 100.0, 6

    same_gradients(f, naive_rotation, given, x=x)


@rotation_exam.cost(0.5)
def all_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with texts, heads or tokens."""
    for index, what in enumerate(("texts", "heads", "tokens")):
        shapes = [[size if i == index else 2 for i in range(3)] for size in (2, 60)]
        cases = [(s[index], (rng.normal(*s, 8), some_places(rng, s[0], s[2]), 100.0, 6)) for s in shapes]
        same_operations(f, what, cases)


rotation_exam.conduct(0.5, *FORBIDDEN)

# 08.2


def naive_halves(weight: Tensor, n_head: int, rotary_dim: int, /) -> Tensor:
    """Row by row."""
    out, D = weight.clone(), len(weight) // n_head
    for head in range(n_head):
        for i in range(rotary_dim // 2):
            out[head * D + i] = weight[head * D + 2 * i]
            out[head * D + rotary_dim // 2 + i] = weight[head * D + 2 * i + 1]
    return out


halves_exam = Exam("08.2", naive_halves)
halves_exam.example(1, (torch.arange(10), 2, 4), torch.tensor([0, 2, 1, 3, 4, 5, 7, 6, 8, 9]))


@halves_exam.oracle(1.5)
def random_weights(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Weights and biases of two and three heads, rotated in part."""
    yield rng.normal(20, 3), 2, 8
    yield rng.normal(27, 4, dtype=torch.float64), 3, 6
    yield rng.normal(24), 2, 10


@halves_exam.edge(1)
def border_weights(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """One head, one pair, nothing rotated, everything rotated; integers, booleans, 16 bits; a view."""
    yield rng.normal(6, 2), 1, 6
    yield rng.normal(6, 2), 3, 2
    yield rng.normal(12, 2), 2, 0
    yield rng.integers(-100, 100, 16, 3).to(torch.int8), 2, 8
    yield rng.integers(0, 2, 16, 3).bool(), 2, 6
    yield 2**60 + rng.integers(-100, 100, 16, 3), 2, 6
    yield rng.normal(16, 3).to(torch.bfloat16), 2, 6
    yield rng.normal(3, 16).T, 2, 8


@halves_exam.property(0.5)
def gradient_goes_back(f: Function, rng: Rng) -> None:
    """The gradient of the result goes back to the rows that it came from."""

    def given(weight: Tensor) -> tuple[Any, ...]:
        return weight, 2, 6

    same_gradients(f, naive_halves, given, weight=rng.normal(16, 3, dtype=torch.float64))


@halves_exam.property(0.5)
def scores_stay(f: Function, rng: Rng) -> None:
    """Halves with the new weights give the scores that neighbours give with the old ones."""
    H, D, R, T = 2, 8, 6, 4
    x, positions = rng.normal(1, T, 5, dtype=torch.float64), torch.arange(T)[None]
    old, new = list[Tensor](), list[Tensor]()
    for _ in "qk":
        weight = rng.normal(H * D, 5, dtype=torch.float64)
        before = (x @ weight.T).view(1, T, H, D).transpose(1, 2)
        old.append(rotated(before, positions, 100.0, [(i, i + 1) for i in range(0, R, 2)]))
        found = f(weight, H, R)
        same(found, naive_halves(weight, H, R), "the weights")
        new.append(naive_rotation((x @ found.T).view(1, T, H, D).transpose(1, 2), positions, 100.0, R))
    same(new[0] @ new[1].mT, old[0] @ old[1].mT, "the scores")


halves_exam.conduct(0.5, *FORBIDDEN, "myllm.weights.*")

# 08.3

Step = tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], float, int]


def naive_step(
    q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor], theta: float, rotary_dim: int, /
) -> tuple[Tensor, Tensor, Tensor]:
    """Query by query, in float64."""
    P, T, group = past[0].shape[2], q.shape[2], q.shape[1] // k.shape[1]
    positions = torch.arange(P, P + T).repeat(len(q), 1)
    queries, new = (naive_rotation(one.double(), positions, theta, rotary_dim) for one in (q, k))
    keys, values = torch.cat([past[0].double(), new], 2), torch.cat([past[1], v], 2).double()
    out = torch.zeros(q.shape, dtype=torch.float64)
    for b, h, t in ((b, h, t) for b in range(len(q)) for h in range(q.shape[1]) for t in range(T)):
        seen = keys[b, h // group, : P + t + 1]
        weights = torch.softmax(seen @ queries[b, h, t] / math.sqrt(q.shape[-1]), 0)
        out[b, h, t] = weights @ values[b, h // group, : P + t + 1]
    return out.to(q.dtype), keys.to(q.dtype), values.to(q.dtype)


step_exam = Exam("08.3", naive_step, tolerance=1e-4)
ROW = torch.tensor([[[[1.0, 0.0]]]])
step_exam.example(
    1,
    (0 * ROW, ROW, 4 * ROW, (ROW, 2 * ROW), 10_000.0, 2),
    (
        3 * ROW,
        torch.tensor([[[[1.0, 0.0], [math.cos(1), math.sin(1)]]]]),
        torch.tensor([[[[2.0, 0.0], [4.0, 0.0]]]]),
    ),
)


def step(
    rng: Rng, B: int, H: int, K: int, P: int, T: int, D: int, R: int, dtype: torch.dtype = torch.float32
) -> Step:
    """Random arguments."""
    q, *new = (rng.normal(B, n, T, D, dtype=dtype) * 1.5 for n in (H, K, K))
    keys, values = (rng.normal(B, K, P, D, dtype=dtype) * 1.5 for _ in range(2))
    return q, new[0], new[1], (keys, values), 100.0, R


@step_exam.oracle(3)
def random_steps(rng: Rng) -> Iterator[Step]:
    """Several new tokens behind a cache; two and three heads with keys."""
    yield step(rng, 2, 4, 2, 3, 3, 6, 4)
    yield step(rng, 1, 6, 2, 5, 2, 4, 4)
    yield step(rng, 2, 6, 3, 2, 4, 8, 6)


@step_exam.edge(1, "a finite number in place of -inf")
def border_steps(rng: Rng) -> Iterator[Step]:
    """No cache, a long one, one token, one head, as many key heads as query heads, scores of all sizes."""
    yield step(rng, 2, 4, 2, 0, 4, 4, 4)
    yield step(rng, 1, 4, 2, 5, 1, 4, 2)
    yield step(rng, 1, 1, 1, 0, 1, 3, 2)
    yield step(rng, 2, 3, 3, 2, 2, 4, 0, torch.float64)
    yield step(rng, 1, 1, 1, 40_000, 2, 2, 2)
    q, k, v, (keys, values), *rest = step(rng, 2, 4, 2, 1, 6, 4, 4, torch.float64)
    yield 1e9 * q, 1e9 * k, v, (1e9 * keys, values), *rest  # pyright: ignore[reportReturnType]


@step_exam.property(1)
def pieces_of_a_text(f: Function, rng: Rng) -> None:
    """A text in pieces, each with the cache of those before, gives the results of one piece."""
    q, k, v, past, theta, R = step(rng, 2, 4, 2, 0, 7, 4, 4, torch.float64)
    whole = naive_step(q, k, v, past, theta, R)
    for cuts in ((0, 3, 7), (0, 1, 2, 6, 7)):
        cache: Any = past
        for i, j in pairwise(cuts):
            found: Any = f(q[:, :, i:j], k[:, :, i:j], v[:, :, i:j], cache, theta, R)
            same(found[0], whole[0][:, :, i:j], f"positions {i} to {j - 1}")
            cache = as_expected((found[1], found[2]), whole[1:])
        same(cache, whole[1:], "the cache at the end")


@step_exam.property(0.5)
def gradients_flow(f: Function, rng: Rng) -> None:
    """The gradients of queries, keys, values and the cache are right."""
    q, k, v, past, *rest = step(rng, 1, 4, 2, 2, 3, 4, 4, torch.float64)
    leaves = {"q": q, "k": k, "v": v, "the cached keys": past[0], "the cached values": past[1]}

    def given(q: Tensor, k: Tensor, v: Tensor, *past: Tensor) -> tuple[Any, ...]:
        return q, k, v, past, *rest

    same_gradients(f, naive_step, given, **leaves)


step_exam.conduct(0.5, *FORBIDDEN)

# 08.4

Budget = tuple[int, int, int, int, int, int, bool, int, int]


def naive_size(V: int, L: int, C: int, H: int, K: int, D: int, tied: bool, inner: int) -> int:
    """The shapes of all parameters."""
    block = [(H * D, C), (K * D, C), (K * D, C), (C, H * D), (inner, C), (inner, C), (C, inner), (C,), (C,)]
    outside = [(V, C), (C,), *[(V, C)] * (not tied)]
    return L * sum(map(math.prod, block)) + sum(map(math.prod, outside))


def naive_widest(
    vocab_size: int,
    n_layer: int,
    n_embd: int,
    n_head: int,
    n_kv_head: int,
    head_dim: int,
    tied: bool,
    multiple: int,
    budget: int,
    /,
) -> tuple[int, int] | None:
    """By bisection over the multiples."""
    model = vocab_size, n_layer, n_embd, n_head, n_kv_head, head_dim, tied
    low, high = 0, 1
    while naive_size(*model, high * multiple) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if naive_size(*model, middle * multiple) <= budget else (low, middle)
    return (low * multiple, naive_size(*model, low * multiple)) if low else None


budget_exam = Exam("08.4", naive_widest)
budget_exam.example(1, (49_152, 30, 576, 9, 3, 64, True, 256, 135_000_000), (1536, 134515008))


@budget_exam.oracle(2)
def random_budgets(rng: Rng) -> Iterator[Budget]:
    """Models with several multiples of width; tied and not."""
    for tied in (True, False, True, False):
        K, C, L, multiple = rng.randint(2, 3), rng.randint(20, 40), rng.randint(3, 6), rng.randint(5, 9)
        model = rng.randint(50, 90), L, C, K * rng.randint(2, 4), K, rng.randint(12, 19), tied
        fit = multiple * rng.randint(8, 20)
        yield *model, multiple, naive_size(*model, fit) + rng.randint(4 * L * C, 3 * L * C * (multiple - 1))


@budget_exam.edge(1, "a width of 0 in place of None")
def border_budgets(rng: Rng) -> Iterator[Budget]:
    """Budgets that fit exactly, too small ones, numbers beyond 64 bits."""
    model = 20, 2, 6, 4, 2, 3, rng.random() < 0.5
    for width in (8, 24):
        yield *model, 8, naive_size(*model, width)
        yield *model, 8, naive_size(*model, width) - 1
    yield *model, 8, naive_size(*model, 7)
    yield *model, 1, 0
    yield *model, 1, naive_size(*model, 10**20 + rng.randint(1, 99)) - 1
    n = 10**10 + rng.randint(1, 99)
    yield n, n, n, 3 * n, n, n, False, n, naive_size(n, n, n, 3 * n, n, n, False, 5 * n) + 1


@budget_exam.cost(0.5)
def no_search(f: Function, rng: Rng) -> None:
    """The work does not grow with the budget."""
    f(20, 2, 6, 4, 2, 3, True, 1, 5000)  # what happens only once, such as an import
    small, large = (effort(f, 20, 2, 6, 4, 2, 3, True, 1, budget) for budget in (5_000, 500_000))
    expect(large < small + 2000, "a budget of 500,000 took far more work than one of 5,000")


budget_exam.conduct(0.5, "myllm.config.*", "myllm.accounting.*", *FORBIDDEN)

# 08.5

Rows = list[dict[str, Any]]
Choice = tuple[str | None, dict[str, str]]


def naive_choice(rows: Rows, trained: int, needed: int, /) -> Choice:
    """Rule by rule."""
    left, reasons = [*rows], dict[str, str]()
    plain: list[float] = next(row for row in rows if row["name"] == "none")["losses"][trained]

    def drop(rule: str, names: list[str]) -> None:
        reasons.update(dict.fromkeys(names, rule))
        left[:] = [row for row in left if row["name"] not in names]

    def worse(row: dict[str, Any], length: int, than: list[float]) -> bool:
        return all(loss > other for loss in row["losses"][length] for other in than)

    drop(
        "unmeasured", [r["name"] for r in left if not all(r["losses"].get(n, []) for n in (trained, needed))]
    )
    drop("short", [r["name"] for r in left if worse(r, trained, plain)])
    if not left:
        return None, reasons
    ranked = sorted(left, key=lambda r: sum(r["losses"][needed]) / len(r["losses"][needed]))
    drop("long", [r["name"] for r in left if worse(r, needed, ranked[0]["losses"][needed])])
    chosen = left[0]["name"]
    drop("order", [r["name"] for r in left[1:]])
    return chosen, reasons


def table(rng: Rng) -> tuple[Rows, int, int]:
    """A table in which every rule drops a method."""
    trained, middle, needed = (2**k * rng.randint(5, 9) for k in (3, 6, 9))
    short, long = rng.uniform(1, 2), rng.uniform(3, 4)

    def row(name: str, at_trained: list[float], at_needed: list[float]) -> dict[str, Any]:
        losses = {trained: [short + x for x in at_trained], needed: [long + x for x in at_needed]}
        return {"name": name, "losses": {middle: [rng.random(), 9 * rng.random()]} | losses}

    rows = [
        row("none", [0.0, 0.02, 0.04], [3.0, 3.1, 3.2]),
        row("linear", [0.05, 0.06, 0.07], [-1.0, -1.1, -0.9]),
        row("dynamic", [0.03, 0.2, 0.3], [0.0, 0.1, 0.2]),  # the best mean of those that are left
        row("llama3", [0.0, 0.01, 0.5], [0.15, 0.4, 0.5]),
        row("yarn", [-0.02, 0.0, 0.01], [0.2, 0.3, 0.4]),
        row("halved", [0.0, 0.0, 0.01], [0.21, 0.22, 0.23]),
        row("lucky", [0.02, 0.02, 0.02], [-0.5, 0.9, 0.8]),
    ]
    del rows[rng.randint(3, 4)]["losses"][needed if rng.random() < 0.5 else trained]
    rows.append({"name": "unfinished", "losses": {trained: [short], needed: []}})
    rows.append({"name": "untrained", "losses": {needed: [long]}})
    return rng.sample(rows, len(rows)), trained, needed


scaling_exam = Exam("08.5", naive_choice)
scaling_exam.example(
    1,
    (
        [
            {"name": "none", "losses": {64: [1.5, 1.6], 256: [3.0, 3.1]}},
            {"name": "linear", "losses": {64: [1.7, 1.8], 256: [1.8, 1.9]}},
            {"name": "yarn", "losses": {64: [1.5, 1.7], 256: [1.9, 2.0]}},
        ],
        64,
        256,
    ),
    ("yarn", {"linear": "short", "none": "long"}),
)


@scaling_exam.oracle(2.5)
def random_tables(rng: Rng) -> Iterator[tuple[Rows, int, int]]:
    """Tables in which each rule drops a method."""
    for _ in range(6):
        yield table(rng)
    a, b = rng.uniform(1, 2), rng.uniform(3, 4)  # one bad seed of the method with the lowest median
    losses = {"none": [b + 5], "bad seed": [b - 0.5, b - 0.1, b + 4], "even": [b, b, b], "worse": [b + 1]}
    rows = [{"name": name, "losses": {8: [a], 64: some}} for name, some in losses.items()]
    yield rng.sample(rows, len(rows)), 8, 64


@scaling_exam.edge(1.5)
def border_tables(rng: Rng) -> Iterator[tuple[Rows, int, int]]:
    """Nobody measured; one method; equal losses; a length that is the trained one."""
    rows, trained, needed = table(rng)
    yield rows, trained, needed + 1
    yield [row for row in rows if row["name"] == "none"], trained, needed
    yield rows, trained, trained
    yield [row | {"losses": {trained: [2.5], needed: [2.5, 2.5]}} for row in rows], trained, needed
    yield [{"name": "none", "losses": {trained: [1.0]}}, *rows[:0]], trained, needed


@scaling_exam.property(0.5)
def everyone_has_a_reason(f: Function, rng: Rng) -> None:
    """Every method but the chosen one has a reason, and the order of the table settles the rest."""
    rows, *rest = table(rng)
    for one in (rows, rows[::-1]):
        same(f(one, *rest), naive_choice(one, *rest), "the choice")


scaling_exam.conduct(0.5, "myllm.config.*", *FORBIDDEN)
