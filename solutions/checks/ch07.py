"""Checks of chapter 7: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from myllm.grading.compare import Failure
from myllm.grading.exam import Check, Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import effort, same_operations

# 07.1


def naive_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, /) -> Tensor:
    """Position by position, in Python's floats."""
    stretch = cast("list[float]", weight.tolist())
    shift = [0.0] * len(stretch) if bias is None else cast("list[float]", bias.tolist())
    rows = list[list[float]]()
    for row in cast("list[list[float]]", x.double().reshape(-1, x.shape[-1]).tolist()):
        mean = math.fsum(row) / len(row)
        spread = math.sqrt(math.fsum((n - mean) ** 2 for n in row) / len(row) + eps)
        rows.append([(n - mean) / spread * w + b for n, w, b in zip(row, stretch, shift, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape).to(x.dtype)


PACKAGE = "myllm.model.*"


NormArguments = tuple[Tensor, Tensor, Tensor | None, float]


norm_exam = Exam(
    "07.1",
    naive_norm,
)


norm_exam.example(
    1,
    (torch.tensor([[0.0, 2.0], [5.0, 5.0]]), torch.tensor([1.0, 10.0]), torch.tensor([0.0, 1.0]), 3.0),
    torch.tensor([[-0.5, 6.0], [0.0, 1.0]]),
)


def scales(rng: Rng, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random weights and biases."""
    return (1 + rng.normal(size) / 2).to(dtype), rng.normal(size).to(dtype)


@norm_exam.oracle(
    1.5,
    "the variance divided by C - 1",
    "eps outside of the root",
    "an eps of 1e-5 whatever is given",
    "a division by the variance",
    "the root of the mean square",
    "each column normalized, not each position",
    "a factor of 1 + weight",
    "no eps",
    "the mean left where it is",
    "one mean and one variance for all positions",
    "the weight left out",
    "the bias left out",
    "the bias added before the weight",
)
def random_positions(rng: Rng) -> Iterator[NormArguments]:
    """A few positions, with an eps that is felt and one that is not."""
    for rows, size, eps in ((2, 3, 0.5), (3, 4, 2.0), (4, 4, 0.25), (5, 8, 1e-5)):
        yield rng.normal(rows, size) * 2 + 3, *scales(rng, size), eps
    yield rng.normal(3, 6, dtype=torch.float64) - 1, *scales(rng, 6, torch.float64), 0.1


@norm_exam.edge(0.5, "zero divided by zero")
def border_positions(rng: Rng) -> Iterator[NormArguments]:
    """Equal numbers, one number, no bias, no positions, one to four dimensions, a view."""
    weight, bias = scales(rng, 4)
    yield torch.full((2, 4), 7.0), weight, bias, 1e-5
    yield torch.zeros(4), weight, None, 1e-6
    yield rng.normal(3, 1), weight[:1], bias[:1], 1e-5
    yield rng.normal(2, 3, 4), weight, None, 1e-5
    yield rng.normal(2, 2, 3, 4), weight, bias, 0.1
    yield rng.normal(0, 4), weight, bias, 1e-5
    yield rng.normal(4, 6).T, weight, bias, 1e-3


@norm_exam.edge(0.5, "the mean of the squares minus the square of the mean")
def far_from_zero(rng: Rng) -> Iterator[NormArguments]:
    """Whole numbers that lie close together and far from 0."""
    for level in (3000, -3000):
        yield level + rng.integers(-10, 11, 6, 32).float(), *scales(rng, 32), 1e-5


@norm_exam.edge(1, "bfloat16 in every step")
def sixteen_bits(rng: Rng) -> Iterator[NormArguments]:
    """Numbers in bfloat16 or float16, not around 0."""
    for size, dtype in ((24, torch.bfloat16), (50, torch.bfloat16), (40, torch.float16)):
        weight, bias = scales(rng, size, dtype)
        yield (rng.normal(6, size) * 2 + 100).to(dtype), weight, bias, 1e-5
    large = rng.normal(6, 40) * 300  # squared, these are too large for float16
    yield large.half(), *scales(rng, 40, torch.float16), 1e-5


@norm_exam.property(0.5)
def mean_and_variance(f: Function, rng: Rng) -> None:
    """With weights of 1, no bias and a tiny eps, each position has mean 0 and variance 1."""
    size = rng.randint(5, 40)
    found = f(rng.normal(20, size) * rng.uniform(1, 9) + rng.uniform(-9, 9), torch.ones(size), None, 1e-12)
    expect(isinstance(found, Tensor) and found.shape == (20, size), "the shape is not that of x")
    same(found.double().mean(1), torch.zeros(20).double(), "the means", tolerance=1e-5)
    same(found.double().var(1, correction=0), torch.ones(20).double(), "the variances", tolerance=1e-4)


norm_exam.operations(0.5, "texts", (5, 200), lambda rng, n: (rng.normal(n, 2, 6), *scales(rng, 6), 1e-5))


norm_exam.conduct(
    0.5,
    PACKAGE,
    *(
        f"torch.{name}_norm"
        for name in ("layer", "native_layer", "rms", "group", "native_group", "batch", "instance")
    ),
    *(f"torch.nn.functional.{name}_norm" for name in ("layer", "rms", "group", "batch", "instance")),
)


# 07.2


Bend = Callable[[Tensor], Tensor]


def tanh_form(
    outer: float = 0.5, root: float = math.sqrt(2 / math.pi), cubic: float = 0.044715, power: int = 3
) -> Bend:
    """GELU's tanh form, right unless a number is changed."""
    return lambda h: outer * h * (1 + torch.tanh(root * (h + cubic * h**power)))


def naive_feed_forward(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, down_weight: Tensor, down_bias: Tensor, /
) -> Tensor:
    """Number by number; for the GELU, another writing of tanh: (1 + tanh(a)) / 2 = sigmoid(2 a)."""
    h = (x.double()[..., None, :] * up_weight.double()).sum(-1) + up_bias.double()
    h = h * torch.sigmoid(math.sqrt(8 / math.pi) * (h + 0.044715 * h * h * h))
    return ((h[..., None, :] * down_weight.double()).sum(-1) + down_bias.double()).to(x.dtype)


def bent(bend: Bend, last: Bend = lambda y: y) -> Function:
    """Wrong: the right products with another bend, and ``last`` for the result."""

    def wrong(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        return last(bend(x @ up.T + up_bias) @ down.T + down_bias)

    return wrong


NETWORK_MISTAKES: "Mistakes[[Tensor, Tensor, Tensor, Tensor, Tensor]]" = {
    "the cube left out": (bent(tanh_form(cubic=0.0)), "The tanh takes h + 0.044715 h³."),
    "the tanh without the factor h": (
        bent(lambda h: tanh_form()(h) / h),
        "You computed how much of h passes. Multiply it by h.",
    ),
}


network_exam = Exam(
    "07.2",
    naive_feed_forward,
)


network_exam.example(
    1,
    (
        torch.tensor([3.0, 1.0]),
        torch.tensor([[1.0, -1.0]]),
        torch.tensor([0.0]),
        torch.tensor([[1.0], [10.0]]),
        torch.tensor([0.0, 1.0]),
    ),
    torch.tensor([1.9545977, 20.545977]),
)


def weights(rng: Rng, C: int, F: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Random weights and biases for both layers."""
    return tuple(rng.normal(*shape, dtype=dtype) for shape in ((F, C), (F,), (C, F), (C,)))


@network_exam.oracle(
    2,
    "the exact GELU, by the error function",
    "2 / pi without a root",
    "a square in place of the cube",
    "the root multiplied with h only",
    "a GELU twice as large",
    "the first bias left out",
    "weights used as (in, out)",
    "a sigmoid of 1.702 h",
    "a ReLU",
    "no bend",
    "the bend after the second matrix",
    "a second bend at the end",
    "the second bias left out",
    mistakes=NETWORK_MISTAKES,
)
def random_networks(rng: Rng) -> Iterator[tuple[Tensor, ...]]:
    """Narrow, square and wide networks."""
    yield rng.normal(2, 3, 4) / 2, *weights(rng, 4, 16)
    yield rng.normal(5, 3), *weights(rng, 3, 3)
    yield rng.normal(4, 6), *weights(rng, 6, 2)
    yield rng.normal(3, 2, 5, dtype=torch.float64), *weights(rng, 5, 20, torch.float64)


@network_exam.edge(0.5, "a tanh of exponentials that overflow")
def border_networks(rng: Rng) -> Iterator[tuple[Tensor, ...]]:
    """Large numbers, zeros, one position, no position, a view, a width of 1."""
    large = torch.tensor([[100.0, -100.0], [1e4, 1e4], [-1e6, 1e6]], dtype=torch.float64)
    yield large, *weights(rng, 2, 6, torch.float64)
    yield torch.zeros(2, 3), *weights(rng, 3, 5)
    yield rng.normal(4), *weights(rng, 4, 8)
    yield rng.normal(2, 0, 4), *weights(rng, 4, 8)
    yield rng.normal(2, 4, 3).transpose(1, 2), *weights(rng, 4, 1)


@network_exam.property(0.5)
def each_position_alone(f: Function, rng: Rng) -> None:
    """A position's result does not depend on any other position."""
    x, arguments = rng.normal(7, 4), weights(rng, 4, 10)
    whole, changed = f(x, *arguments), rng.randint(0, 6)
    same(whole, naive_feed_forward(x, *arguments), "seven positions")
    other = x.clone()
    other[changed] += 5
    keep = torch.arange(7) != changed
    same(f(other, *arguments)[keep], whole[keep], f"the others, after a change of position {changed}")


@network_exam.cost(0.5)
def two_products(f: Function, rng: Rng) -> None:
    """The two matrix products are computed once each, for all positions together."""
    cases = [(texts, (rng.normal(texts, 2, 5), *weights(rng, 5, 20))) for texts in (3, 100)]
    for (texts, _), count in zip(cases, same_operations(f, "texts", cases), strict=True):
        rows = 2 * texts
        least = 2 * 2 * rows * 5 * 20
        expect(count.flops <= least, f"{rows} positions took {count.flops} FLOPs where {least} are enough.")


network_exam.conduct(0.5, PACKAGE, "torch.nn.functional.gelu", "torch.nn.functional.linear")


# 07.3


def naive_parameters(vocab_size: int, block_size: int, n_layer: int, n_embd: int, /) -> int:
    """Add up the sizes of all tensors, as GPT-2's file names them."""
    C = n_embd
    block = {
        "ln_1": [(C,), (C,)],
        "attn.c_attn": [(C, 3 * C), (3 * C,)],
        "attn.c_proj": [(C, C), (C,)],
        "ln_2": [(C,), (C,)],
        "mlp.c_fc": [(C, 4 * C), (4 * C,)],
        "mlp.c_proj": [(4 * C, C), (C,)],
    }
    inside = sum(math.prod(shape) for shapes in block.values() for shape in shapes)
    outside = {"wte": (vocab_size, C), "wpe": (block_size, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    return sum(map(math.prod, outside.values())) + n_layer * inside


count_exam = Exam(
    "07.3",
    naive_parameters,
)


count_exam.example(0.5, (50_257, 1024, 12, 768), 124_439_808)


@count_exam.oracle(
    1.5,
    "a head of its own",
    "no embedding of positions",
    "linear layers without biases",
    "a bias of C numbers after the widening",
    "no layer norm after the last block",
    "no output projection",
    "the causal masks counted",
    "a bias in the head",
    "attention without biases",
    "a feed-forward network without biases",
    "layer norms without biases",
    "one layer norm in a block",
    "no layer norms",
    "one projection for queries, keys and values together",
)
def random_models(rng: Rng) -> Iterator[tuple[int, int, int, int]]:
    """GPT-2's larger sizes, and models of no particular size."""
    yield from [(50_257, 1024, layers, C) for layers, C in ((24, 1024), (36, 1280), (48, 1600))]
    for _ in range(3):
        yield rng.randint(100, 9999), rng.randint(11, 99), rng.randint(2, 9), rng.randint(20, 99)


@count_exam.property(0.5)
def one_more(f: Function, rng: Rng) -> None:
    """A layer, a token and a position more always add 12 C² + 13 C, C and C parameters."""
    V, positions, layers, C = (rng.randint(low, 60) for low in (10, 5, 1, 2))
    model = (V, positions, layers, C)
    before = f(*model)
    expect(type(before) is int, f"gpt2_parameters{model} gave {before!r}")
    for place, what, more in ((2, "layer", 12 * C * C + 13 * C), (0, "token", C), (1, "position", C)):
        larger = tuple(n + (i == place) for i, n in enumerate(model))
        same(f(*larger), before + more, f"one {what} more than {model}")


@count_exam.edge(0.5)
def border_models(rng: Rng) -> Iterator[tuple[int, int, int, int]]:
    """No layers, a width of 1, and more parameters than a float can count."""
    yield from [(7, 3, 0, 4), (1, 1, 0, 1), (5, 2, 3, 1), (2, 9, 1, 6)]
    yield rng.randint(10**9, 10**10), 10**6 + 1, 3, 10**8 + rng.randint(1, 99)


@count_exam.cost(0.5)
def not_built(f: Function, rng: Rng) -> None:
    """The work does not grow with the model."""
    f(10, 5, 1, 4)  # what happens only once, such as an import
    small, large = effort(f, 20, 10, 2, 4), effort(f, 20_000, 500, 100, 32)
    expect(large < small + 20_000, "a larger model took far more work; calculate, do not build or count up.")


count_exam.conduct(0.5, PACKAGE, "myllm.config.*", "transformers.*")


# 07.4


def naive_tie(embedding: nn.Embedding, head: nn.Linear, /) -> None:
    """By the dictionary in which a module keeps its parameters."""
    if [*head.weight.shape] != [*embedding.weight.shape]:
        raise ValueError("different shapes")
    head._parameters["weight"] = embedding._parameters["weight"]  # pyright: ignore[reportPrivateUsage]


def observed(tie: Function) -> Callable[[nn.Embedding, nn.Linear], dict[str, Any]]:
    """What can be seen of a pair once it has been tied: sizes, numbers, gradients, one step of training."""

    def look(embedding: nn.Embedding, head: nn.Linear) -> dict[str, Any]:
        tie(embedding, head)
        parameters = list(nn.ModuleList([embedding, head]).parameters())
        found: dict[str, Any] = {
            "numbers in parameters()": sum(one.numel() for one in parameters),
            "embedding": embedding.weight.detach().clone(),
            "head": head.weight.detach().clone(),
        }
        rows = embedding(torch.arange(embedding.num_embeddings - 1))
        head(rows).square().mean().backward()
        found["gradient of the head"] = head.weight.grad
        torch.optim.SGD(parameters, lr=0.5).step()
        found["embedding after a step"] = embedding.weight.detach().clone()
        found["head after a step"] = head.weight.detach().clone()
        return found

    look.__name__ = getattr(tie, "__name__", "tie")
    return look


class TieExam(Exam[[nn.Embedding, nn.Linear]]):
    """An exam on a function that returns nothing: compared is what became of its arguments."""

    def _compare(self, f: Function, cases: list[tuple[Any, ...]], mistakes: Mistakes[...]) -> None:
        looked = {label: (observed(wrong), hint) for label, (wrong, hint) in mistakes.items()}
        super()._compare(observed(f), cases, looked)


def head_kept(embedding: nn.Embedding, head: nn.Linear) -> None:
    """Wrong: the head's table stays, and the embedding's is lost."""
    if head.weight.shape != embedding.weight.shape:
        raise ValueError("different shapes")
    embedding.weight = head.weight


def numbers_copied(embedding: nn.Embedding, head: nn.Linear) -> None:
    """Wrong: two parameters that start out equal."""
    if head.weight.shape != embedding.weight.shape:
        raise ValueError("different shapes")
    head.weight = nn.Parameter(embedding.weight.detach().clone())


def memory_shared(embedding: nn.Embedding, head: nn.Linear) -> None:
    """Wrong: two parameters in the same memory."""
    if head.weight.shape != embedding.weight.shape:
        raise ValueError("different shapes")
    head.weight = nn.Parameter(embedding.weight.detach())


def bias_lost(embedding: nn.Embedding, head: nn.Linear) -> None:
    """Wrong: the head has no bias any more."""
    naive_tie(embedding, head)
    head.bias = cast("Any", None)


def unasked(embedding: nn.Embedding, head: nn.Linear) -> None:
    """Wrong: whatever the shapes."""
    head.weight = embedding.weight


tie_exam = TieExam(
    "07.4",
    observed(naive_tie),
)


def pair(rng: Rng, V: int, C: int, bias: bool = False) -> tuple[nn.Embedding, nn.Linear]:
    """An embedding and a head with random tables."""
    embedding, head = nn.Embedding(V, C), nn.Linear(C, V, bias=bias)
    with torch.no_grad():
        for parameter in (*embedding.parameters(), *head.parameters()):
            parameter.copy_(rng.normal(*parameter.shape))
    return embedding, head


def shown(f: Function, rng: Rng) -> None:
    """Count as the specification does."""
    embedding, head = pair(rng, 5, 2)
    f(embedding, head)
    count = sum(one.numel() for one in nn.ModuleList([embedding, head]).parameters())
    same(count, 10, "the numbers in parameters()")


tie_exam.examples.append(((nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)), None))


tie_exam.checks.append(Check("example", 0.5, shown))


@tie_exam.oracle(
    1.5,
    mistakes={
        "the numbers copied": (
            numbers_copied,
            "Two tables with the same numbers are still two: their first step takes them apart. The head "
            "needs the very parameter of the embedding.",
        ),
        "two parameters in the same memory": (
            memory_shared,
            "A new `nn.Parameter` and an assignment to `.data` share the numbers, not the gradient: the "
            "optimizer sees two parameters and moves the same numbers twice. Assign the parameter itself.",
        ),
        "the head's table in the embedding": (
            head_kept,
            "They are tied, but the wrong way round: the embedding's numbers are the ones to keep.",
        ),
        "nothing tied": (
            lambda embedding, head: None,
            "An assignment to a name inside your function changes nothing outside. Assign to an attribute of "
            "the head.",
        ),
        "the bias of the head thrown away": (
            bias_lost,
            "Only the weight is shared; a bias stays.",
        ),
    },
)
def random_pairs(rng: Rng) -> Iterator[tuple[nn.Embedding, nn.Linear]]:
    """Small and larger tables, one of them square, one head with a bias."""
    for V, C in ((5, 3), (4, 4), (9, 2)):
        yield pair(rng, V, C)
    yield pair(rng, 6, 3, bias=True)


@tie_exam.property(0.5)
def gradients_add_up(f: Function, rng: Rng) -> None:
    """The one gradient is the sum of what the two uses give, and both uses move together."""
    embedding, head = pair(rng, 6, 3)
    table, ids = embedding.weight.detach().clone(), rng.integers(0, 6, 4)
    f(embedding, head)
    for one in (embedding.weight, head.weight):
        trained = isinstance(one, nn.Parameter) and one.shape == (6, 3) and one.requires_grad
        expect(trained, "one of the weights is no parameter of shape (6, 3) that can be trained")
    first, last = table.clone().requires_grad_(), table.clone().requires_grad_()
    for rows, by in ((embedding(ids), head.weight), (first[ids], last)):
        (rows @ by.T).logsumexp(-1).sum().backward()
    assert first.grad is not None and last.grad is not None
    same(embedding.weight.grad, first.grad + last.grad, "the gradient")
    optimizer = torch.optim.AdamW([*{*embedding.parameters(), *head.parameters()}], lr=0.1)
    optimizer.step()
    same(head.weight.detach(), embedding.weight.detach(), "the head after a step")


@tie_exam.edge(
    0.5,
    mistakes={
        "tables of any shape tied": (
            unasked,
            "Look at *Raises* in the specification.",
        ),
    },
)
def different_shapes(rng: Rng) -> Iterator[tuple[nn.Embedding, nn.Linear]]:
    """Too few tokens, another width, rows and columns exchanged."""
    yield pair(rng, 5, 3)[0], pair(rng, 4, 3)[1]
    yield pair(rng, 5, 3)[0], pair(rng, 5, 2)[1]
    yield pair(rng, 5, 3)[0], pair(rng, 3, 5)[1]


@tie_exam.property(0.25)
def refused_whole(f: Function, rng: Rng) -> None:
    """Where the shapes differ, both tables stay as they were."""
    (embedding, _), (_, head) = pair(rng, 5, 3), pair(rng, 3, 5)
    before = embedding.weight, head.weight
    tables = [one.detach().clone() for one in before]
    try:
        f(embedding, head)
    except Failure as failure:
        if not isinstance(failure.cause, ValueError):
            raise
    expect(embedding.weight is before[0] and head.weight is before[1], "one of them is another parameter")
    same([one.detach() for one in before], tables, "the tables")


@tie_exam.edge(0.25)
def tied_already(rng: Rng) -> Iterator[tuple[nn.Embedding, nn.Linear]]:
    """A pair that is tied already stays as it is."""
    embedding, head = pair(rng, 5, 2)
    naive_tie(embedding, head)
    yield embedding, head


tie_exam.conduct(0.5, PACKAGE)
