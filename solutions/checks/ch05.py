"""Checks of chapter 5: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from myllm.grading.compare import as_expected
from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import same_operations

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# 05.1


def weights_of(row: list[float]) -> list[float]:
    """The softmax of one row, in Python's floats."""
    top = max(row)
    if top == -math.inf:
        return [0.0] * len(row)
    powers = [math.exp(score - top) for score in row]
    return [power / math.fsum(powers) for power in powers]


def naive_softmax(x: Tensor, /) -> Tensor:
    """Row by row."""
    rows = cast("list[list[float]]", x.double().reshape(-1, x.shape[-1]).tolist())
    return torch.tensor([weights_of(row) for row in rows], dtype=torch.float64).reshape(x.shape).to(x.dtype)


PACKAGE = "myllm.model.*"
SDPA = ("torch.nn.functional.scaled_dot_product_attention",)


SOFTMAX = tuple(
    f"{place}.{name}"
    for place in ("torch", "torch.Tensor", "torch.special", "torch.nn.functional")
    for name in ("softmax", "log_softmax", "logsumexp")
    if (place, name) != ("torch.nn.functional", "logsumexp")
)


softmax_exam = Exam("05.1", naive_softmax)


softmax_exam.example(
    1,
    (torch.tensor([[1000.0, 1000.0, -math.inf], [-math.inf] * 3]),),
    torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]),
)


@softmax_exam.oracle(1.5)
def random_rows(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Scores of ordinary size, of one to four dimensions; a view."""
    yield (rng.normal(5),)
    yield (rng.normal(2, 3) * 2,)
    yield (rng.normal(4, 4) * 2,)
    yield (rng.normal(2, 3, 5, 6, dtype=torch.float64) * 3,)
    yield (rng.normal(7, 5).T,)


@softmax_exam.edge(
    1,
    "powers that are too large for a float",
    "powers that are too large or all 0",
    "the largest absolute score subtracted",
    "a maximum of at least 0 subtracted",
    "the smallest score subtracted",
    "the largest score of all rows subtracted and rows of zeros",
    "the largest score of all rows subtracted",
    "the mean of each row subtracted",
)
def large_scores(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Rows far from 0, up and down; rows that spread widely; one number a row."""
    levels = torch.tensor([[0.0], [1000.0], [-1000.0], [30_000.0]])
    for dtype in DTYPES:
        yield ((levels + rng.integers(-8, 8, 4, 6) / 4).to(dtype),)
    yield (torch.tensor([[0.0, 1000.0, 0.0, 0.0], [-3e38, 3e38, 0.0, 1.0], [-1e5, -1e5, 0.0, 0.0]]),)
    yield (levels,)
    yield (rng.normal(3, 8, dtype=torch.float64) * 1000,)


@softmax_exam.edge(
    0.5,
    "-inf minus -inf in rows that are hidden throughout",
    "equal weights in rows that are hidden throughout",
    "a large negative number in place of -inf",
    "the lowest finite number in place of -inf",
)
def hidden_scores(rng: Rng) -> Iterator[tuple[Tensor]]:
    """Rows with some -inf, and with nothing else; -inf beside scores far below 0, down to the lowest."""
    for dtype in DTYPES:
        x, low = rng.normal(6, 5) * 3, torch.finfo(dtype).min
        x[1, rng.randint(0, 4)] = x[2, :4] = x[4] = x[5, 1:] = -math.inf
        yield (x.to(dtype),)
        yield (torch.tensor([[low, -math.inf, low], [low / 2, low, -math.inf]], dtype=dtype),)
    yield (torch.full((3,), -math.inf),)
    yield (torch.tensor([[-2e4, -math.inf, -2e4], [-math.inf, -3e9, -3e9], [-1e38, -math.inf, -2e38]]),)
    yield (torch.tensor([[-math.inf], [2.0]], dtype=torch.float64),)


@softmax_exam.property(0.5)
def rounded_once(f: Function, rng: Rng) -> None:
    """In float16 and bfloat16, the weights are the exact ones, rounded once, at the end."""
    for dtype in (torch.bfloat16, torch.float16):
        x = (rng.normal(40, 60) * 2).to(dtype)
        exact = naive_softmax(x.double()).to(dtype)
        found = f(x)
        same(found, exact, f"the weights in {dtype}")
        expect(found.dtype == dtype, f"the weights of {dtype} scores have the dtype {found.dtype}")
        share = float((found == exact).double().mean())
        expect(share > 0.98, f"in {dtype} only {share:.0%} are; keep float32 until after the division")


@softmax_exam.property(0.5)
def clean_gradient(f: Function, rng: Rng) -> None:
    """The gradient is that of the softmax, and 0 where nothing may be seen."""
    for dtype in DTYPES:
        scores, above = rng.normal(4, 6), rng.normal(4, 6).to(dtype)
        scores[1, 2:4] = scores[2] = -math.inf
        scores[3] += 1000
        x = scores.to(dtype).requires_grad_()
        found = f(x)
        right = isinstance(found, Tensor) and found.shape == x.shape and found.requires_grad
        expect(right, f"the result for {dtype} is no tensor of the shape of x that leads back to it")
        (slope,) = torch.autograd.grad(found, x, above.to(found.dtype))
        p = naive_softmax(x.detach().double())
        expected = (p * (above - (p * above).sum(-1, keepdim=True)) + 0).to(dtype)
        rows = ("ordinary scores", "some -inf", "nothing but -inf", "scores of about 1000")
        for row, what in enumerate(rows):
            same(slope[row], expected[row], f"a row of {dtype} with {what}")


@softmax_exam.cost(0.5)
def all_rows_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of rows."""
    for shape in ((), (2,), (1, 3)):
        same_operations(f, "rows", [(n, (rng.normal(n, *shape, 7),)) for n in (5, 200)])


softmax_exam.conduct(
    0.5,
    PACKAGE,
    *SOFTMAX,
    "torch.nn.functional.softmin",
    "torch.nn.functional.gumbel_softmax",
    "torch.sparse.softmax",
    *SDPA,
)


# 05.2


Tensors = Callable[[Tensor], Tensor]


def weighted(x: Tensor, allowed: Tensor) -> Tensor:
    """Attention of positions to each other, where queries, keys and values are the inputs."""
    return (x @ x.mT).masked_fill(~allowed, -math.inf).softmax(-1) @ x


def plus(x: Tensor, positions: slice | int, more: Tensor, rows: slice | int = slice(None)) -> Tensor:
    """`x`, with something added at some positions of some rows."""
    y = x.clone()
    y[rows, positions] += more
    return y


def square(x: Tensor) -> Tensor:
    """True for all pairs of positions."""
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)


HONEST: dict[str, Tensors] = {
    "a function that keeps its input": lambda x: x,
    "the sum of all positions so far": lambda x: x.cumsum(1),
    "causal attention": lambda x: weighted(x, square(x).tril()),
    "the position before": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
    "a constant": lambda x: torch.ones_like(x),
    "the first position everywhere, rounded": lambda x: x + (50 * x[:, :1]).round(),
    "two numbers of each position, added up": lambda x: x[..., [0, -1]].sum(-1, keepdim=True),
}
LEAKY: dict[str, Tensors] = {
    "the positions in reverse order": lambda x: x.flip(1),
    "attention without a mask": lambda x: weighted(x, square(x)),
    "attention with one position too many": lambda x: weighted(x, square(x).tril(1)),
    "the mean of all positions taken away": lambda x: x - x.mean(1, keepdim=True),
    "a leak from the last position to the first": lambda x: plus(x, 0, x[:, -1]),
    "a leak from position 2 to the first": lambda x: plus(x, 0, x[:, 2]),
    "a leak between two positions in the middle": lambda x: plus(x, 1, x[:, 2]),
    "a thousandth of the next position": lambda x: plus(x, slice(-1), x[:, 1:] / 1000),
    "a trace of the next position": lambda x: plus(x, slice(-1), (9 * x[:, 1:]).sin() * 7e-5),
    "the last number of the next position": lambda x: plus(x, slice(-1), x[:, 1:, -1:]),
    "the first number of the next position, alone": lambda x: x[..., :1].roll(-1, 1),
    "the next position, rounded": lambda x: plus(x, slice(-1), (50 * x[:, 1:]).round()),
    "the next position, in the last row of the batch": lambda x: plus(x, slice(-1), x[-1, 1:], -1),
}
MIXED: dict[str, Tensors] = {
    "the mean of the batch taken away": lambda x: x - x.mean(0),
    "a leak from row 0 to the last row": lambda x: plus(x, slice(None), x[0], -1),
    "a leak from the last row to row 0": lambda x: plus(x, slice(None), x[-1], 0),
    "a leak from row 0 to row 1": lambda x: plus(x, slice(None), x[0], 1),
}


class Suspect:
    """One of the functions above; counts its calls."""

    def __init__(self, name: str) -> None:
        self.__name__, self.calls = name, 0

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same."""
        self.calls += 1
        return (HONEST | LEAKY | MIXED)[self.__name__](x)

    def __repr__(self) -> str:
        return self.__name__


def known_leak(f: Suspect, shape: tuple[int, int, int], /) -> bool:
    """By name."""
    return f.__name__ not in HONEST


leak_exam = Exam("05.2", known_leak)
leak_exam.says_of_right = False


leak_exam.example(0.5, (Suspect("the positions in reverse order"), (1, 2, 3)), True)
leak_exam.example(0.5, (Suspect("the sum of all positions so far"), (1, 2, 3)), False)


@leak_exam.oracle(1.5)
def inside_a_row(rng: Rng) -> Iterator[tuple[Suspect, tuple[int, int, int]]]:
    """Causal functions and all kinds of leaks inside a row."""
    for name in (*HONEST, *LEAKY):
        yield Suspect(name), (rng.randint(2, 3), rng.randint(5, 7), rng.randint(2, 4))


@leak_exam.edge(1, "a batch that is taken for one row")
def between_rows(rng: Rng) -> Iterator[tuple[Suspect, tuple[int, int, int]]]:
    """Leaks from one row of the batch to another, beside some inside a row."""
    for name in (*MIXED, *HONEST, "attention without a mask", "a leak between two positions in the middle"):
        yield Suspect(name), (rng.randint(3, 4), rng.randint(3, 5), rng.randint(2, 3))


@leak_exam.edge(0.5)
def small_shapes(rng: Rng) -> Iterator[tuple[Suspect, tuple[int, int, int]]]:
    """One row, two positions, one number; a single position, which cannot leak."""
    for name in ("the positions in reverse order", "the sum of all positions so far", "a constant"):
        yield Suspect(name), (1, 2, 1)
    yield Suspect("causal attention"), (1, 1, 2)
    yield Suspect("the mean of the batch taken away"), (3, 1, 1)


@leak_exam.cost(0.5)
def few_calls(f: Function, rng: Rng) -> None:
    """`f` is called at most B * T + 1 times."""
    for name in ("causal attention", "attention without a mask"):
        suspect = Suspect(name)
        f(suspect, (3, 8, 2))
        expect(suspect.calls <= 25, f"a shape of (3, 8, 2) took {suspect.calls} calls")


leak_exam.conduct(0.5, PACKAGE)


# 05.3


Layer = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int]


def naive_layer(
    x: Tensor, past: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_head: int, /
) -> Tensor:
    """Row by row, position by position, head by head."""
    D, P = len(w_q) // n_head, past.shape[1]
    rows = list[Tensor]()
    for row in torch.cat([past, x], dim=1).double():
        for t in range(P, len(row)):
            found = list[Tensor]()
            for a, b, c in zip(*(w.double().chunk(n_head) for w in (w_q, w_k, w_v)), strict=True):
                scores = torch.stack([(a @ row[t]) @ (b @ one) for one in row[: t + 1]]) / math.sqrt(D)
                weights = torch.exp(scores - torch.logsumexp(scores, 0))
                found.append(weights @ (row[: t + 1] @ c.T))
            rows.append(w_o.double() @ torch.cat(found))
    return torch.stack(rows).view(*x.shape[:2], -1).to(x.dtype)


layer_exam = Exam("05.3", naive_layer)


def layer(
    rng: Rng, B: int, P: int, T: int, H: int, D: int, E: int, dtype: torch.dtype = torch.float32
) -> Layer:
    """Random inputs and weights."""
    C = rng.randint(5, 7)
    x, past = rng.normal(B, T, C, dtype=dtype), rng.normal(B, P, C, dtype=dtype)
    parts = [rng.normal(n, C, dtype=dtype) / 2 for n in (H * D, H * D, H * E)]
    return (x, past, *parts, rng.normal(4, H * E, dtype=dtype), H)  # pyright: ignore[reportReturnType]


layer_exam.example(
    1,
    (torch.tensor([[[3.0], [5.0]]]), torch.ones(1, 1, 1), torch.zeros(1, 1), *[torch.ones(1, 1)] * 3, 1),
    torch.tensor([[[2.0], [3.0]]]),
)


@layer_exam.oracle(2)
def random_layers(rng: Rng) -> Iterator[Layer]:
    """Two and more heads, with a past and without, values wider and narrower than queries."""
    yield layer(rng, 2, 3, 4, 2, 3, 4)
    yield layer(rng, 1, 2, 5, 3, 4, 2)
    yield layer(rng, 3, 0, 4, 2, 2, 3)


@layer_exam.edge(0.5, "a finite number in place of -inf")
def border_layers(rng: Rng) -> Iterator[Layer]:
    """One head, one new position, numbers that lie apart in memory, float64; scores far below 0."""
    yield layer(rng, 2, 3, 2, 1, 4, 3)
    yield layer(rng, 2, 4, 1, 2, 3, 2)
    yield layer(rng, 1, 0, 1, 2, 1, 1)
    x, past, *rest = layer(rng, 2, 3, 3, 2, 2, 3, torch.float64)
    yield (x.transpose(0, 1).contiguous().transpose(0, 1), past, *rest)  # pyright: ignore[reportReturnType]
    x, past, w_q, *rest = layer(rng, 2, 0, 3, 2, 2, 3, torch.float64)
    yield (1e10 * x, past, w_q, -w_q, *rest[1:])  # pyright: ignore[reportReturnType]


@layer_exam.property(1)
def pieces_of_a_text(f: Function, rng: Rng) -> None:
    """A text in two pieces, the first the past of the second, gives the same outputs as in one."""
    x, past, *rest = layer(rng, 2, 0, 7, 2, 3, 2)
    for cut in (1, 4, 6):
        found = f(x[:, cut:], x[:, :cut], *rest)
        same(found, naive_layer(x, past, *rest)[:, cut:], f"positions {cut} to 6, after a past of {cut}")  # pyright: ignore[reportArgumentType]


@layer_exam.cost(0.5)
def all_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with rows, positions or heads."""
    for what, small, large in (
        ("rows", (2, 2, 3, 2), (50, 2, 3, 2)),
        ("positions", (2, 2, 3, 2), (2, 2, 60, 2)),
        ("heads", (2, 2, 3, 2), (2, 2, 3, 40)),
    ):
        place = {"rows": 0, "positions": 2, "heads": 3}[what]
        same_operations(f, what, [(one[place], layer(rng, *one, 2, 2)) for one in (small, large)])


@layer_exam.property(0.5)
def types_and_gradients(f: Function, rng: Rng) -> None:
    """The result has the dtype of x, and the gradients of x, past and the weights are right."""
    functions: list[Function] = [f, cast("Function", naive_layer)]
    slopes = list[tuple[Tensor, ...]]()
    for dtype in (*DTYPES[2:], torch.float64):
        *leaves, n_head = layer(rng, 2, 2, 3, 2, 2, 3, dtype)
        found: list[Any] = []
        slopes.clear()
        for function in functions:
            found.append(function(*(one.requires_grad_() for one in leaves), n_head))
            right = isinstance(found[-1], Tensor) and found[-1].dtype == dtype and found[-1].requires_grad
            expect(
                right,
                f"for {dtype}, the result is not a tensor of that dtype that leads back to the arguments",
            )
            slopes.append(torch.autograd.grad(found[-1].sum(), leaves, None, allow_unused=True))
        same(found[0], found[1], f"the result in {dtype}", 0.5 if dtype.itemsize < 4 else 1e-4)
    for name, one, other in zip(("x", "past", "w_q", "w_k", "w_v", "w_o"), *slopes, strict=True):
        same(one, other, f"the gradient of {name}")


layer_exam.conduct(0.5, PACKAGE, *SDPA)


# 05.4


def naive_scale(head_dim: int, q_std: float, k_std: float) -> float:
    """Add up the variances of the products, one by one."""
    if q_std == 0 or k_std == 0:
        raise ValueError("no spread")
    return math.fsum(q_std**2 * k_std**2 for _ in range(head_dim)) ** -0.5


scale_exam = Exam("05.4", naive_scale, tolerance=1e-12)  # single precision is not enough


scale_exam.example(0.5, (64, 1.0, 2.0), 0.0625)


@scale_exam.oracle(1)
def random_scales(rng: Rng) -> Iterator[tuple[int, float, float]]:
    """Heads of many sizes, narrow and wide queries and keys."""
    for head_dim in (rng.randint(2, 9), 64, rng.randint(65, 200)):
        yield head_dim, rng.uniform(1.5, 4), rng.uniform(0.1, 0.6)
        yield head_dim, rng.uniform(0.1, 0.6), rng.uniform(3, 9)
    yield 128, 1.0, 1.0


@scale_exam.property(0.5)
def unit_variance(f: Function, rng: Rng) -> None:
    """The scores of 40,000 random queries and keys, scaled, have a variance near 1."""
    for name in ("normal", "two-valued"):
        D, q_std, k_std = rng.randint(4, 20), rng.uniform(0.2, 5), rng.uniform(0.2, 5)
        q, k = rng.normal(2, 40_000, D) if name == "normal" else 2.0 * rng.integers(0, 2, 2, 40_000, D) - 1
        factor = as_expected(f(D, q_std, k_std), 1.0)
        expect(type(factor) is float, f"got {factor!r}")
        variance = float((factor * (q_std * q * k_std * k).sum(1)).var())
        case = f"D = {D}, q_std = {q_std:.3g} and k_std = {k_std:.3g}"
        expect(abs(variance - 1) < 0.1, f"{name} numbers with {case} have one of {variance:.3g}")


@scale_exam.edge(0.5, "a factor where no factor helps", "a division by zero")
def no_spread(rng: Rng) -> Iterator[tuple[int, float, float]]:
    """Queries or keys that are all 0 or nearly; one number."""
    D = rng.randint(1, 9)
    yield from [(D, 1e-6, rng.uniform(1, 2)), (D, rng.uniform(1, 2), 2e-6), (D, 1e-6, 1e6)]
    yield from [(D, 0.0, 1.0), (D, rng.uniform(1, 2), 0.0), (D, 0.0, 0.0), (1, 1.0, 1.0), (1, 0.5, 4.0)]


scale_exam.conduct(0.5, PACKAGE)


# 05.5


NAMES = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")


def torch_layer(x: Tensor, state: Mapping[str, Tensor], n_head: int, /) -> Tensor:
    """The layer itself."""
    if {*state} not in ({*NAMES}, {*NAMES[::2]}):
        raise ValueError("other names")
    layer = nn.MultiheadAttention(
        x.shape[-1], n_head, bias=NAMES[1] in state, batch_first=True, dtype=x.dtype
    )
    layer.load_state_dict(state)
    with torch.no_grad():
        return layer(x, x, x, attn_mask=~square(x).tril(), need_weights=True)[0]


packed_exam = Exam("05.5", torch_layer)


def packed(
    rng: Rng, C: int, H: int, bias: bool, B: int = 2, T: int = 5, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor], int]:
    """Random inputs and weights, in the order in which PyTorch keeps them."""
    shapes = ((3 * C, C), (3 * C,), (C, C), (C,))
    state = {name: rng.normal(*shape, dtype=dtype) / 2 for name, shape in zip(NAMES, shapes, strict=True)}
    return rng.normal(B, T, C, dtype=dtype), state if bias else {name: state[name] for name in NAMES[::2]}, H


packed_exam.example(
    1,
    (
        torch.tensor([[[2.0], [4.0]]]),
        {NAMES[0]: torch.tensor([[0.0], [0.0], [1.0]]), NAMES[2]: torch.ones(1, 1)},
        1,
    ),
    torch.tensor([[[2.0], [3.0]]]),
)


@packed_exam.oracle(1.5)
def random_states(rng: Rng) -> Iterator[tuple[Tensor, dict[str, Tensor], int]]:
    """Layers with and without biases, of one to four heads."""
    yield packed(rng, 6, 2, bias=True)
    yield packed(rng, 8, 4, bias=True)
    yield packed(rng, 6, 3, bias=False)


@packed_exam.edge(0.5)
def small_states(rng: Rng) -> Iterator[tuple[Tensor, dict[str, Tensor], int]]:
    """One head, heads of one number, one position, float64; the names in another order."""
    yield packed(rng, 3, 1, bias=True, B=1, T=1)
    yield packed(rng, 4, 4, bias=True, dtype=torch.float64)
    x, state, H = packed(rng, 4, 2, bias=True)
    yield x, dict(reversed(state.items())), H


@packed_exam.edge(1, "any names accepted")
def other_names(rng: Rng) -> Iterator[tuple[Tensor, dict[str, Tensor], int]]:
    """One bias without the other, a name that is left over, separate projections; and a whole state."""
    x, state, H = packed(rng, 4, 2, bias=True)
    for missing in (NAMES[1], NAMES[3]):
        yield x, {name: one for name, one in state.items() if name != missing}, H
    yield x, state | {"bias_k": torch.zeros(1, 1, 4)}, H
    for names in ((0, 2, 3), (0, 1, 2), (0,)):  # four and two names, of which one is wrong
        yield x, {NAMES[n]: state[NAMES[n]] for n in names} | {"bias_v": torch.zeros(1, 1, 4)}, H
    parts = zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), state[NAMES[0]].chunk(3), strict=True)
    yield x, dict(parts) | {name: state[name] for name in NAMES[1:]}, H
    yield x, state, H


packed_exam.conduct(
    1, PACKAGE, *SDPA, "torch.nn.MultiheadAttention", "torch.nn.functional.multi_head_attention_forward"
)
