"""Checks of chapter 7: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import effort, same_operations
from myllm.grading.verdicts import VerdictExam

PACKAGE = "myllm.model.*"

# 07.1

Norm = Callable[[Tensor, Tensor, Tensor | None, float], Any]


def mean(x: Tensor) -> Tensor:
    """The mean over the last dimension."""
    return x.mean(-1, keepdim=True)


def affine(y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The last step of a norm."""
    return y * weight if bias is None else y * weight + bias


def two_steps(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Right: mean, variance, then the weights, in float32 or better."""
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    y = y - mean(y)
    return affine(y * torch.rsqrt(mean(y.square()) + eps), weight, bias).to(x.dtype)


def by_projection(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Right: in float64, the mean removed by a matrix."""
    C = x.shape[-1]
    y = x.double() @ (torch.eye(C) - 1 / C).double()
    y = weight * y / ((y * y).sum(-1, keepdim=True) / C + eps).sqrt() + (0 if bias is None else bias)
    return y.to(x.dtype)


def in_rows(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Right: position by position."""
    rows = [two_steps(row, weight, bias, eps) for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(x.shape)


def by(rule: Callable[[Tensor, Tensor, float], Tensor]) -> Norm:
    """A norm that makes of a row, its variance and eps what ``rule`` says."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        y = x.float()
        return affine(rule(y, y.var(-1, correction=0, keepdim=True), eps), weight, bias).to(x.dtype)

    return norm


def over(*dims: int) -> Norm:
    """Wrong: mean and variance over other dimensions, as far as x has them; none: over all."""

    def rule(y: Tensor, _: Tensor, eps: float) -> Tensor:
        chosen = [dim for dim in dims if dim < y.dim()] or [*range(y.dim())]
        y = y - y.mean(chosen, keepdim=True)
        return y / (y.square().mean(chosen, keepdim=True) + eps).sqrt()

    return by(rule)


def centred(y: Tensor) -> Tensor:
    """A row without its mean."""
    return y - mean(y)


def in_place(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Wrong: leaves x without its mean."""
    found = two_steps(x, weight, bias, eps)
    if not x.requires_grad:
        x -= mean(x)
    return found


def low_precision(dtype: torch.dtype) -> Norm:
    """Wrong: computed in 16 bits where x has this dtype."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        if x.dtype != dtype:
            return two_steps(x, weight, bias, eps)
        y = centred(x)
        return affine(y / (mean(y.square()) + eps).sqrt(), weight, bias)

    return norm


def needs_bias(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Wrong: raises where the bias is None."""
    if bias is None:
        raise TypeError("no bias")
    return two_steps(x, weight, bias, eps)


RIGHT: dict[str, Norm] = {
    "right_in_steps": two_steps,
    "right_by_matrix": by_projection,
    "right_in_rows": in_rows,
}
FORMULA: dict[str, Norm] = {
    "variance_with_C_minus_1": by(
        lambda y, v, eps: centred(y) / (v * y.shape[-1] / (y.shape[-1] - 1) + eps).sqrt()
    ),
    "eps_outside_the_root": by(lambda y, v, eps: centred(y) / (v.sqrt() + eps)),
    "eps_as_a_minimum": by(lambda y, v, eps: centred(y) / v.clamp(min=eps).sqrt()),
    "fixed_eps": by(lambda y, v, eps: centred(y) / (v + 1e-5).sqrt()),
    "divided_by_the_variance": by(lambda y, v, eps: centred(y) / (v + eps)),
    "root_mean_square": by(lambda y, v, eps: y / (mean(y.square()) + eps).sqrt()),
    "mean_not_subtracted": by(lambda y, v, eps: y / (v + eps).sqrt()),
    "weight_left_out": lambda x, w, b, eps: two_steps(x, torch.ones_like(w), b, eps),
    "one_plus_weight": lambda x, w, b, eps: two_steps(x, 1 + w, b, eps),
    "bias_left_out": lambda x, w, b, eps: two_steps(x, w, None, eps),
    "bias_before_weight": lambda x, w, b, eps: two_steps(x, w, None if b is None else b * w, eps),
}
SHAPES: dict[str, Norm] = {
    "over_everything": over(),
    "over_all_but_the_first_dimension": over(1, 2),
    "over_the_first_dimension": over(0),
    "over_the_second_dimension": over(1),
    "fails_without_bias": needs_bias,
}
NUMBERS: dict[str, Norm] = {
    "mean_square_minus_squared_mean": by(
        lambda y, v, eps: centred(y) / (mean(y.square()) - mean(y).square() + eps).sqrt()
    ),
    "bfloat16_throughout": low_precision(torch.bfloat16),
    "float16_throughout": low_precision(torch.float16),
    "rounded_before_the_weight": lambda x, w, b, eps: affine(
        two_steps(x, torch.ones_like(w), None, eps), w, b
    ),
    "always_float32": lambda x, w, b, eps: two_steps(x, w, b, eps).float(),
    "weight_in_float16_for_float32": lambda x, w, b, eps: two_steps(
        x, w.half().to(w.dtype) if x.dtype == torch.float32 else w, b, eps
    ),
    "root_by_an_approximation_for_bfloat16": lambda x, w, b, eps: (  # every tenth number is off by a rounding
        two_steps(x.float(), 1.00055 * w.float(), None if b is None else b.float(), eps).to(x.dtype)
        if x.dtype == torch.bfloat16
        else two_steps(x, w, b, eps)
    ),
    "float16_throughout_for_one_position": lambda x, w, b, eps: (
        low_precision(torch.float16) if x.dim() == 1 else two_steps
    )(x, w, b, eps),
    "squares_clamped_for_float16": by(
        lambda y, v, eps: centred(y) / (mean(centred(y).square().clamp(max=65504)) + eps).sqrt()
    ),
    "without_a_gradient": lambda x, w, b, eps: two_steps(x.detach(), w, b, eps) + 0 * x,
    "mean_and_variance_without_a_gradient": lambda x, w, b, eps: (
        x - x.detach() + two_steps(x.detach(), w, b, eps)
    ),
    "changes_x": in_place,
    "a_list": lambda x, w, b, eps: [*two_steps(x, w, b, eps)],
}


test_exam = VerdictExam("07.1", RIGHT)
test_exam.example(0.5, (test_exam.suspect("without_a_division", by(lambda y, v, eps: centred(y))),), False)
test_exam.example(0.5, (test_exam.suspect("right_in_steps", two_steps),), True)
test_exam.reject("oracle", 1.5, FORMULA)
test_exam.reject("edge", 1, SHAPES, "a test with inputs of two dimensions", "a test that always gives a bias")
test_exam.reject(
    "edge",
    2,
    NUMBERS,
    "a test in float32 only",
    "a test with numbers around 0 only",
    "a test without gradients",
    "a test that only asks whether a gradient arrives",
    "a test that lets small errors pass",
)
test_exam.conduct(0.5, PACKAGE)

# 07.2

State = dict[str, Tensor]
FORBIDDEN = (PACKAGE, "myllm.weights.*", "transformers.*")


def naive_layer(x: Tensor, state: State, layer: int, n_head: int, /) -> Tensor:
    """Position by position and head by head, in float64."""
    w = {name: p.to(x.dtype).double() for name, p in state.items() if "masked" not in name}
    h, D = f"h.{layer}.", x.shape[-1] // n_head

    def norm(row: Tensor, name: str) -> Tensor:
        scale = torch.sqrt(row.var(-1, correction=0, keepdim=True) + 1e-5)
        return (row - row.mean(-1, keepdim=True)) / scale * w[f"{h}{name}.weight"] + w[f"{h}{name}.bias"]

    def linear(row: Tensor, name: str) -> Tensor:
        return (w[f"{h}{name}.weight"].T * row).sum(-1) + w[f"{h}{name}.bias"]

    texts = list[Tensor]()
    for text in x.double():
        qkv = [linear(norm(row, "ln_1"), "attn.c_attn").chunk(3) for row in text]
        rows = list[Tensor]()
        for t, row in enumerate(text):
            heads = list[Tensor]()
            for part in (slice(n * D, n * D + D) for n in range(n_head)):
                scores = torch.stack([qkv[t][0][part] @ qkv[s][1][part] for s in range(t + 1)])
                weights = torch.softmax(scores / math.sqrt(D), 0)
                heads.append(sum((weights[s] * qkv[s][2][part] for s in range(t + 1)), torch.zeros(D)))
            row = row + linear(torch.cat(heads), "attn.c_proj")
            up = linear(norm(row, "ln_2"), "mlp.c_fc")
            up = up * torch.sigmoid(math.sqrt(8 / math.pi) * (up + 0.044715 * up**3))
            rows.append(row + linear(up, "mlp.c_proj"))
        texts.append(torch.stack(rows))
    return torch.stack(texts).to(x.dtype)


def gpt2(
    rng: Rng, C: int, layers: int, dtype: torch.dtype = torch.float32, masks: bool = False, V: int = 0
) -> State:
    """Random weights in the layout of GPT-2's files; with V, those outside of the blocks, too."""
    state: State = {}
    for name, shape in (("wte", (V, C)), ("wpe", (9, C))) if V else ():
        state[f"{name}.weight"] = rng.normal(*shape)
    for layer in range(layers):
        for name, a, b in (
            ("attn.c_attn", C, 3 * C),
            ("attn.c_proj", C, C),
            ("mlp.c_fc", C, 4 * C),
            ("mlp.c_proj", 4 * C, C),
        ):
            state[f"h.{layer}.{name}.weight"] = rng.normal(a, b) * 1.5 / math.sqrt(a)
            state[f"h.{layer}.{name}.bias"] = rng.normal(b) / 2
        if masks:
            state[f"h.{layer}.attn.bias"] = torch.ones(9, 9).tril()[None, None]
            state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    for norm in [f"h.{layer}.ln_{n}" for layer in range(layers) for n in (1, 2)] + ["ln_f"] * bool(V):
        state |= {f"{norm}.weight": 1 + rng.normal(C) / 2, f"{norm}.bias": rng.normal(C) / 2}
    return {name: p.to(dtype) for name, p in state.items()}


def same_gradients(f: Callable[[State], Any], naive: Callable[[State], Tensor], leaves: State) -> None:
    """Fail where a gradient of ``f`` with respect to a leaf differs from that of ``naive``."""
    both = list[tuple[Tensor | None, ...]]()
    for function in (f, naive):
        given = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        found = function(given)
        leads_back = isinstance(found, Tensor) and found.requires_grad
        expect(leads_back, "the result does not lead back to the arguments")
        both.append(torch.autograd.grad(found.square().sum(), [*given.values()], allow_unused=True))
    for one, other, name in zip(*both, leaves, strict=True):
        expect(one is not None, f"no gradient reaches {name}")
        same(one, other, f"the gradient of {name}")


layer_exam = Exam("07.2", naive_layer, tolerance=1e-4)


def zeros() -> State:
    """The block of the example."""
    sizes = {"ln_1": 1, "attn.c_attn": 3, "attn.c_proj": 1, "ln_2": 1, "mlp.c_fc": 4}
    state = {f"h.0.{name}.bias": torch.zeros(n) for name, n in sizes.items()}
    state |= {f"h.0.{name}.weight": torch.zeros(1, n) for name, n in sizes.items()}
    state |= {f"h.0.ln_{n}.weight": torch.ones(1) for n in (1, 2)}
    return state | {"h.0.mlp.c_proj.weight": torch.zeros(4, 1), "h.0.mlp.c_proj.bias": torch.ones(1)}


layer_exam.example(1, (torch.tensor([[[2.0], [5.0]]]), zeros(), 0, 1), torch.tensor([[[3.0], [6.0]]]))


@layer_exam.oracle(2.5)
def random_layers(rng: Rng) -> Iterator[tuple[Tensor, State, int, int]]:
    """Blocks of two and three heads, the last of several."""
    yield rng.normal(2, 5, 6), gpt2(rng, 6, 2), 1, 2
    yield rng.normal(3, 4, 6), gpt2(rng, 6, 3), 2, 3
    yield rng.normal(1, 6, 8), gpt2(rng, 8, 2), 1, 4


@layer_exam.edge(1, "the exact GELU", "a finite number in place of -inf")
def precise_layers(rng: Rng) -> Iterator[tuple[Tensor, State, int, int]]:
    """Float64 and weights of larger size, where all digits count; scores of all sizes."""
    for C, H in ((6, 2), (9, 3)):
        yield 2 * rng.normal(2, 3, C, dtype=torch.float64), gpt2(rng, C, 1, torch.float64), 0, H
    state = gpt2(rng, 6, 1, torch.float64)
    state["h.0.attn.c_attn.weight"][:, :12] *= 1e9
    yield rng.normal(3, 6, 6, dtype=torch.float64), state, 0, 3


@layer_exam.edge(1)
def other_files(rng: Rng) -> Iterator[tuple[Tensor, State, int, int]]:
    """Files with masks, of another order, of 16 bits; block 11; one position, one head; a view."""
    yield rng.normal(2, 3, 4), gpt2(rng, 4, 2, masks=True), 1, 2
    many = gpt2(rng, 4, 12)
    yield rng.normal(1, 3, 4), dict(reversed(many.items())), 11, 2
    yield rng.normal(1, 3, 4), many, 1, 2
    for dtype in (torch.float16, torch.bfloat16):
        yield rng.normal(2, 3, 4), gpt2(rng, 4, 1, dtype), 0, 2
    yield rng.normal(1, 1, 4), gpt2(rng, 4, 1), 0, 1
    yield rng.normal(3, 2, 4).transpose(0, 1), gpt2(rng, 4, 1), 0, 4


@layer_exam.property(0.5)
def gradients_flow(f: Function, rng: Rng) -> None:
    """The gradients of x and of the weights are those of the block."""
    state = gpt2(rng, 4, 1, torch.float64)

    def run(function: Function) -> Callable[[State], Any]:
        return lambda given: function(given["x"], {name: given[name] for name in state}, 0, 2)

    leaves = {"x": rng.normal(2, 3, 4, dtype=torch.float64), **state}
    same_gradients(run(f), run(naive_layer), leaves)


@layer_exam.cost(0.5)
def all_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with rows or positions."""
    state = gpt2(rng, 4, 1)
    for what, small, large in (("rows", (2, 3), (60, 3)), ("positions", (2, 3), (2, 60))):
        sizes = [
            (max(one) if one == large else min(one), (rng.normal(*one, 4), state, 0, 2))
            for one in (small, large)
        ]
        same_operations(f, what, sizes)


layer_exam.conduct(0.5, *FORBIDDEN)

# 07.3

Model = tuple[int, int, int, int, int, bool, bool, int]


def naive_cost(
    vocab_size: int,
    block_size: int,
    n_layer: int,
    n_embd: int,
    inner: int,
    bias: bool,
    tied: bool,
    tokens: int,
    /,
) -> tuple[int, int]:
    """From two lists: the shapes of all parameters, and the products with their three sizes."""
    V, C, T = vocab_size, n_embd, tokens
    linear = [(C, C)] * 4 + [(C, inner), (inner, C)]
    shapes = [(V, C), (block_size, C), (C,), *[(C,)] * bias, *[(V, C)] * (not tied)]
    block = [*linear, *[(b,) for _, b in linear if bias], *[(C,)] * 2, *[(C,)] * 2 * bias]
    products = [(T, a, b) for a, b in linear] + [(T, C, T), (T, T, C)]
    parameters = sum(map(math.prod, shapes)) + n_layer * sum(map(math.prod, block))
    return parameters, 2 * (n_layer * sum(map(math.prod, products)) + T * C * V)


cost_exam = Exam("07.3", naive_cost)
cost_exam.example(1, (50_257, 1024, 12, 768, 3072, True, True, 1024), (124439808, 291648307200))


@cost_exam.oracle(2)
def random_models(rng: Rng) -> Iterator[Model]:
    """Models with all combinations of biases and tying; texts shorter than the table."""
    for bias in (True, False):
        for tied in (True, False):
            C, block_size = rng.randint(5, 40), rng.randint(20, 60)
            sizes = rng.randint(30, 90), block_size, rng.randint(2, 5), C, rng.randint(5 * C, 9 * C)
            yield *sizes, bias, tied, rng.randint(3, 15)


@cost_exam.edge(1)
def border_models(rng: Rng) -> Iterator[Model]:
    """No block, one of everything, and numbers beyond 64 bits."""
    yield rng.randint(5, 9), 4, 0, 3, 7, True, False, 2
    yield 1, 1, 1, 1, 1, False, True, 1
    n = 10**11 + rng.randint(1, 9)
    yield n, n, n, n, 4 * n, True, True, n - 1
    yield n, n, 3, n, n, False, False, 1


@cost_exam.cost(0.5)
def without_building(f: Function, rng: Rng) -> None:
    """The work does not grow with the model."""
    f(5, 4, 1, 2, 8, True, True, 3)  # what happens only once, such as an import
    small, large = (effort(f, n, n, n, n, n, True, False, n) for n in (10, 300))
    expect(large < small + 2000, "a model of 300 layers took far more work than one of 10")


cost_exam.conduct(0.5, PACKAGE, "myllm.config.*", "myllm.accounting.*")

# 07.4


def naive_logits(ids: Tensor, state: State, n_head: int, /) -> Tensor:
    """Text by text; the block is the naive one."""
    dtype = state["wte.weight"].dtype
    rows = list[Tensor]()
    for text in ids:
        x = torch.stack([state["wte.weight"][i] + state["wpe.weight"][t] for t, i in enumerate(text)])
        layer = 0
        while f"h.{layer}.ln_1.weight" in state:
            x = naive_layer(x[None], state, layer, n_head)[0]
            layer += 1
        x = x.double()
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)
        x = x * state["ln_f.weight"] + state["ln_f.bias"]
        head = state["lm_head.weight"] if "lm_head.weight" in state else state["wte.weight"]
        rows.append(torch.stack([(head.double() * row).sum(-1) for row in x]))
    return torch.stack(rows).to(dtype)


logits_exam = Exam("07.4", naive_logits, tolerance=1e-4)
TWO = {"wte.weight": torch.eye(2), "wpe.weight": torch.zeros(2, 2)}
NORM = {"ln_f.weight": torch.ones(2), "ln_f.bias": torch.zeros(2)}
EDGE = 0.5 / math.sqrt(0.25 + 1e-5)
logits_exam.example(
    1, (torch.tensor([[0, 1]]), TWO | NORM, 1), torch.tensor([[[EDGE, -EDGE], [-EDGE, EDGE]]])
)


def text(rng: Rng, B: int, T: int, V: int) -> Tensor:
    """Random ids."""
    return rng.integers(0, V, B, T)


def untied(rng: Rng, state: State) -> State:
    """A file with a head of its own."""
    return state | {"lm_head.weight": rng.normal(*state["wte.weight"].shape).to(state["wte.weight"].dtype)}


@logits_exam.oracle(2)
def random_models_of_text(rng: Rng) -> Iterator[tuple[Tensor, State, int]]:
    """Models of two and three blocks, tied."""
    yield text(rng, 2, 4, 7), gpt2(rng, 4, 2, V=7), 2
    yield text(rng, 1, 6, 9), gpt2(rng, 6, 3, V=9), 3
    yield text(rng, 3, 3, 5), gpt2(rng, 4, 2, V=5), 1


@logits_exam.edge(1, "a head that is always tied")
def own_heads(rng: Rng) -> Iterator[tuple[Tensor, State, int]]:
    """Heads that are not tied."""
    yield text(rng, 2, 4, 7), untied(rng, gpt2(rng, 4, 2, V=7)), 2
    yield text(rng, 1, 3, 5), untied(rng, gpt2(rng, 6, 1, torch.float64, V=5)), 3


@logits_exam.edge(1, "the blocks in the order of the alphabet", "the blocks in the order of the file")
def many_blocks(rng: Rng) -> Iterator[tuple[Tensor, State, int]]:
    """Twelve blocks, in another order; none; one; a text as long as the table; masks in the file."""
    state = gpt2(rng, 4, 12, torch.float64, V=5)
    yield text(rng, 1, 3, 5), state, 2
    yield text(rng, 1, 3, 5), dict(reversed(state.items())), 2
    yield text(rng, 2, 3, 5), gpt2(rng, 4, 0, V=5), 2
    yield text(rng, 1, 1, 9), gpt2(rng, 4, 1, V=9), 2
    yield text(rng, 1, 9, 9), gpt2(rng, 4, 1, V=9, masks=True), 2


@logits_exam.property(0.5)
def both_uses_count(f: Function, rng: Rng) -> None:
    """The gradients of all tensors are right; that of a tied table is the sum of what its two uses give."""
    tied, ids = gpt2(rng, 4, 1, torch.float64, V=5), text(rng, 2, 3, 5)
    for state in (tied, untied(rng, tied)):
        same_gradients(lambda given: f(ids, given, 2), lambda given: naive_logits(ids, given, 2), state)


logits_exam.conduct(0.5, *FORBIDDEN)
