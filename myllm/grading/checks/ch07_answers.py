"""Chapter 7: the naive references, and the wrong answers that the checks recognise."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from myllm.grading.exam import Exam, Function, Mistakes

Bend = Callable[[Tensor], Tensor]


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


def normed(change: Callable[[Tensor, float], Tensor]) -> Function:
    """Wrong: ``change`` normalizes in another way, in float64."""

    def wrong(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        y = change(x.double(), eps) * weight.double()
        return (y if bias is None else y + bias.double()).to(x.dtype)

    return wrong


def centred(x: Tensor, dim: int = -1) -> Tensor:
    """Right: the distance of each number from the mean."""
    return x - x.mean(dim, keepdim=True)


def variance(x: Tensor, dim: int = -1) -> Tensor:
    """Right: the mean squared distance from the mean."""
    return centred(x, dim).square().mean(dim, keepdim=True)


def narrow(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Wrong for 16 bits: every step rounded."""
    y = centred(x) / torch.sqrt(variance(x) + eps) * weight
    return y if bias is None else y + bias


def cancelled(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Wrong far from 0: the mean square minus the squared mean."""
    mean = x.mean(-1, keepdim=True)
    spread = torch.sqrt(x.square().mean(-1, keepdim=True) - mean.square() + eps)
    y = (x - mean) / spread * weight
    return y if bias is None else y + bias


NORM_MISTAKES: "Mistakes[[Tensor, Tensor, Tensor | None, float]]" = {
    "the variance divided by C - 1": (
        normed(lambda x, eps: centred(x) / torch.sqrt(x.var(-1, keepdim=True) + eps)),
        "`var` and `std` estimate the variance of a larger whole unless you say `correction=0`. Here it is "
        "that of the C numbers themselves.",
    ),
    "eps outside of the root": (
        normed(lambda x, eps: centred(x) / (torch.sqrt(variance(x)) + eps)),
        "eps is added to the variance, before the root is taken.",
    ),
    "no eps": (
        normed(lambda x, eps: centred(x) / torch.sqrt(variance(x))),
        "Look for the argument `eps` in your answer.",
    ),
    "an eps of 1e-5 whatever is given": (
        normed(lambda x, eps: centred(x) / torch.sqrt(variance(x) + 1e-5)),
        "Look for the argument `eps` in your answer.",
    ),
    "a division by the variance": (
        normed(lambda x, eps: centred(x) / (variance(x) + eps)),
        "Divided by its variance, a number does not get variance 1. A root is missing.",
    ),
    "the mean left where it is": (
        normed(lambda x, eps: x / torch.sqrt(variance(x) + eps)),
        "You divide by the right number. Which one do you subtract first?",
    ),
    "the root of the mean square": (
        normed(lambda x, eps: x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)),
        "This is the RMSNorm of the next chapter. Here the mean is subtracted first.",
    ),
    "each column normalized, not each position": (
        normed(lambda x, eps: centred(x, 0) / torch.sqrt(variance(x, 0) + eps)),
        "Each position is normalized by its own numbers: `dim=-1`.",
    ),
    "one mean and one variance for all positions": (
        normed(lambda x, eps: (x - x.mean()) / torch.sqrt((x - x.mean()).square().mean() + eps)),
        "`mean` without a `dim` goes over everything. Each position has its own.",
    ),
    "the weight left out": (
        lambda x, weight, bias, eps: naive_norm(x, torch.ones_like(weight), bias, eps),
        "Look for the argument `weight` in your answer.",
    ),
    "the bias left out": (
        lambda x, weight, bias, eps: naive_norm(x, weight, None, eps),
        "Look for the argument `bias` in your answer.",
    ),
    "the bias added before the weight": (
        lambda x, weight, bias, eps: naive_norm(x, weight, None if bias is None else bias * weight, eps),
        "First multiply, then add.",
    ),
    "a factor of 1 + weight": (
        lambda x, weight, bias, eps: naive_norm(x, 1 + weight, bias, eps),
        "The weight is the factor itself.",
    ),
}


# 07.2


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


def untransposed(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
    """Wrong: weights used as (in, out)."""
    return tanh_form()(x @ up + up_bias) @ down + down_bias


def exponentials(h: Tensor) -> Tensor:
    """Wrong for large numbers: a tanh of exponentials, inf / inf."""
    a = math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)
    return h / 2 * (1 + (torch.exp(a) - torch.exp(-a)) / (torch.exp(a) + torch.exp(-a)))


NETWORK_MISTAKES: "Mistakes[[Tensor, Tensor, Tensor, Tensor, Tensor]]" = {
    "the exact GELU, by the error function": (
        bent(lambda h: h / 2 * (1 + torch.erf(h / math.sqrt(2)))),
        "GPT-2 was trained with the approximation by a tanh. The difference is small, but it is there.",
    ),
    "a sigmoid of 1.702 h": (
        bent(lambda h: h * torch.sigmoid(1.702 * h)),
        "This is another approximation of the GELU, and a coarser one.",
    ),
    "a ReLU": (bent(torch.relu), "Look at the bend in the specification."),
    "no bend": (
        bent(lambda h: h),
        "Two matrices in a row are one matrix. What happens between them?",
    ),
    "the bend after the second matrix": (
        bent(lambda h: h, tanh_form()),
        "The wide numbers are bent, before they are narrowed.",
    ),
    "a second bend at the end": (
        bent(tanh_form(), tanh_form()),
        "Nothing bends the result: it is added to the residual stream as it is.",
    ),
    "2 / pi without a root": (bent(tanh_form(root=2 / math.pi)), "Look for the root in the formula."),
    "the cube left out": (bent(tanh_form(cubic=0.0)), "The tanh takes h + 0.044715 h³."),
    "a square in place of the cube": (bent(tanh_form(power=2)), "The tanh takes h + 0.044715 h³."),
    "the root multiplied with h only": (
        bent(tanh_form(cubic=0.044715 / math.sqrt(2 / math.pi))),
        "Look at the brackets: sqrt(2 / pi) multiplies the cube too.",
    ),
    "a GELU twice as large": (bent(tanh_form(outer=1.0)), "For large h the GELU is h. Where is the half?"),
    "the tanh without the factor h": (
        bent(lambda h: tanh_form()(h) / h),
        "You computed how much of h passes. Multiply it by h.",
    ),
    "the first bias left out": (
        lambda x, up, up_bias, down, down_bias: naive_feed_forward(
            x, up, torch.zeros_like(up_bias), down, down_bias
        ),
        "Look for the argument `up_bias` in your answer.",
    ),
    "the second bias left out": (
        lambda x, up, up_bias, down, down_bias: naive_feed_forward(
            x, up, up_bias, down, torch.zeros_like(down_bias)
        ),
        "Look for the argument `down_bias` in your answer.",
    ),
    "weights used as (in, out)": (
        untransposed,
        "`nn.Linear` keeps (out, in): row j makes number j. What has to be done to a weight before `x @`?",
    ),
}


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


def off(by: Callable[[int, int, int, int], int]) -> Callable[[int, int, int, int], int]:
    """Wrong: so many more, given V, positions, layers and C."""

    def wrong(V: int, positions: int, layers: int, C: int) -> int:
        return naive_parameters(V, positions, layers, C) + by(V, positions, layers, C)

    return wrong


COUNT_MISTAKES: "Mistakes[[int, int, int, int]]" = {
    "a head of its own": (
        off(lambda V, positions, layers, C: V * C),
        "The head has the same weight as the token embedding: it is counted once.",
    ),
    "a bias in the head": (
        off(lambda V, positions, layers, C: V),
        "The head has no bias.",
    ),
    "no embedding of positions": (
        off(lambda V, positions, layers, C: -positions * C),
        "Each position has a row of C numbers, too.",
    ),
    "linear layers without biases": (
        off(lambda V, positions, layers, C: -9 * layers * C),
        "A linear layer from a to b has a * b weights and b biases.",
    ),
    "attention without biases": (
        off(lambda V, positions, layers, C: -4 * layers * C),
        "A linear layer from a to b has a * b weights and b biases; so have the four of attention.",
    ),
    "a feed-forward network without biases": (
        off(lambda V, positions, layers, C: -5 * layers * C),
        "A linear layer from a to b has a * b weights and b biases. How many has the one from C to 4 C?",
    ),
    "a bias of C numbers after the widening": (
        off(lambda V, positions, layers, C: -3 * layers * C),
        "A linear layer has a bias for each number that comes *out*. How many come out of the wide one?",
    ),
    "layer norms without biases": (
        off(lambda V, positions, layers, C: -(2 * layers + 1) * C),
        "A layer norm has a weight and a bias, C numbers each.",
    ),
    "one layer norm in a block": (
        off(lambda V, positions, layers, C: -2 * layers * C),
        "There is a norm before attention and one before the feed-forward network.",
    ),
    "no layer norm after the last block": (
        off(lambda V, positions, layers, C: -2 * C),
        "One more norm stands between the last block and the head.",
    ),
    "no layer norms": (
        off(lambda V, positions, layers, C: -2 * (2 * layers + 1) * C),
        "Layer norms have parameters: a weight and a bias of C numbers each.",
    ),
    "no output projection": (
        off(lambda V, positions, layers, C: -layers * (C * C + C)),
        "After the heads are joined, attention has one more linear layer. There are four in all.",
    ),
    "one projection for queries, keys and values together": (
        off(lambda V, positions, layers, C: -2 * layers * (C * C + C)),
        "Queries, keys and values have a projection from C to C each.",
    ),
    "the causal masks counted": (
        off(lambda V, positions, layers, C: layers * positions * positions),
        "A mask is not trained: it is no parameter.",
    ),
}


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
