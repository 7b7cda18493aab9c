"""Chapter 19, Low-rank adapters: the exercises. Replace ``raise NotImplementedError`` with your answer."""

import math

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("19.1", "An adapter that starts late", points=6, minutes=25, difficulty=2, section="lora-scale")
def adapted(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    changes: list[tuple[int, Tensor, Tensor, float]],
    root: bool,
    start: Tensor,
) -> Tensor:
    """Compute a layer of GPT-2 with low-rank changes that act on some outputs, from some position on.

    GPT-2 stores a weight with a row for each *input*, so that y = x W + b. Queries, keys and values are one
    layer: they are neighbouring columns of y, and each may have changes of its own.

    A change is a tuple of ``first``, A, B and ``alpha``. A is (r, K) and B is (n, r), as in the chapter. It
    acts on n columns of y, from the column ``first`` on. Its scale is alpha / r, or alpha / sqrt(r) if
    ``root``; the ranks of the changes may differ. Changes that act on the same columns add up.

    All changes act on the text b from the position ``start[b]`` on, this one included. At the positions
    before it, the output is that of the base, so that what is cached of them serves every adapter; this
    holds even if training has made a change NaN or infinite.

    Args:
        x: (B, T, K), float32 or float64, like all other tensors except ``start``.
        weight: (K, N).
        bias: (N,).
        changes: Any number of changes, also none.
        root: Which scale all changes have.
        start: (B,) int64, from 0 to T, both included.

    Returns:
        (B, T, N). A and B are trained, so gradients must reach them.

    No loop over texts or positions, and A and B are never multiplied with each other. The functions of
    `myllm.finetuning` may not be used.

    Example:
        The change acts on the second column, and from position 1 on: 1 + 6 / 2 · (1 + 1) = 7.

        >>> x, weight, bias = torch.ones(1, 2, 1), torch.ones(1, 2), torch.zeros(2)
        >>> change = (1, torch.ones(2, 1), torch.ones(1, 2), 6.0)
        >>> adapted(x, weight, bias, [change], False, torch.tensor([1]))
        tensor([[[1., 1.],
                 [1., 7.]]])
    """
    # SOLUTION
    base = x @ weight + bias
    change = torch.zeros_like(base)
    for first, A, B, alpha in changes:
        scale = alpha / (math.sqrt(len(A)) if root else len(A))
        change[..., first : first + len(B)] += scale * (x @ A.T @ B.T)
    late = torch.arange(x.shape[1]) >= start[:, None]  # (B, T)
    return torch.where(late[..., None], base + change, base)
    # END SOLUTION


@exercise("19.2", "A loss that stays flat", points=6, minutes=25, difficulty=2, section="flat-loss")
def tune(
    weights: list[Tensor], starts: list[Tensor], x: Tensor, y: Tensor, alpha: float, rate: float, steps: int
) -> tuple[list[Tensor], list[float]]:
    """Debug the training of adapters: its loss stays flat, and when it falls at last, it falls wrongly.

    Linear layers without biases follow each other, with tanh between them and not after the last one. Each
    layer has an adapter: A begins as the tensor in ``starts``, B as zeros, and the change of the weight is
    scale · B A, with a scale of alpha / r; the ranks of the layers may differ. The loss is the mean squared
    error over all numbers of the output. Each step is one of plain gradient descent (`torch.optim.SGD` with
    its defaults) on all of ``x``. Only A and B are trained, those of all layers.

    This version has six faults, and some of them hide others; find and fix them::

        base = [weight.clone().requires_grad_() for weight in weights]
        A = [torch.zeros_like(start) for start in starts]
        B = [torch.zeros(len(w), len(a)).to(w) for w, a in zip(weights, starts)]
        optimizer = torch.optim.SGD([*base, *A, *B], lr=rate)
        A, B = ([one.clone().requires_grad_() for one in part] for part in (A, B))
        losses = []
        for step in range(steps + 1):
            h = x
            for i, (w, a, b) in enumerate(zip(base, A, B)):
                with torch.no_grad():
                    frozen = h @ w.T
                h = frozen + alpha * (h @ a.T @ b.T)
                if i < len(base) - 1:
                    h = torch.tanh(h)
            loss = (h - y).square().mean()
            losses.append(loss.item())
            if step < steps:
                loss.backward()
                optimizer.step()
        return [(alpha * b @ a).detach() for a, b in zip(A, B)], losses

    Args:
        weights: One or more, (N, K) float64 each; the N of a layer is the K of the next.
        starts: For each layer (r, K) float64.
        x: (M, K) float64, the inputs of the first layer.
        y: (M, N) float64, what the last layer should give.
        alpha: More than 0.
        rate: The learning rate, more than 0.
        steps: 0 or more.

    Returns:
        The changes of the weights after the last step, (N, K) each, and ``steps`` + 1 losses: before the
        first step and after each step.

    All arguments stay as they are. The functions of `myllm.finetuning` may not be used.

    Example:
        The first gradient of B is -2, so B becomes 0.5, and the output 0.5 instead of 0.

        >>> zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        >>> tune([zero], [one], one, one, 1.0, 0.25, 1)
        ([tensor([[0.5000]], dtype=torch.float64)], [1.0, 0.25])
    """
    # SOLUTION
    A = [start.clone().requires_grad_() for start in starts]
    B = [w.new_zeros(len(w), len(a)).requires_grad_() for w, a in zip(weights, A, strict=True)]
    scales = [alpha / len(a) for a in A]
    optimizer = torch.optim.SGD([*A, *B], lr=rate)
    losses: list[float] = []
    for step in range(steps + 1):
        h = x
        for i, (w, a, b, scale) in enumerate(zip(weights, A, B, scales, strict=True)):
            h = h @ w.T + scale * (h @ a.T @ b.T)
            if i < len(weights) - 1:
                h = torch.tanh(h)
        loss = (h - y).square().mean()
        losses.append(loss.item())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [(scale * b @ a).detach() for a, b, scale in zip(A, B, scales, strict=True)], losses
    # END SOLUTION
