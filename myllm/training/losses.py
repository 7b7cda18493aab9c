"""Language-model losses: sums over the targets that count, and a head that never holds all logits at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from myllm.model.basics import upcast

CHUNK_LOGITS = 1 << 24
"""Logits held at a time by `chunked_loss`: 64 MB in fp32."""


def cross_entropy(logits: Tensor, targets: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """The negative log-likelihood in nats, summed over all targets that are not negative.

    It is a sum, so that the caller can divide by a count over all micro-batches and processes.

    Args:
        logits: (…, V), of any floating dtype; computed in at least fp32.
        targets: (…) int64; a negative one, by convention -100, has no loss.
        z_loss: Adds ``z_loss * log(Z) ** 2`` for each target, where Z normalizes the softmax. It keeps logits
            from drifting (Chowdhery et al., 2022, PaLM, section 5).

    Returns:
        A scalar in at least fp32.
    """
    logits = upcast(logits)
    log_z = logits.logsumexp(dim=-1)
    chosen = logits.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    losses = log_z - chosen
    if z_loss:
        losses = losses + z_loss * log_z**2
    return torch.where(targets >= 0, losses, 0.0).sum()


def chunked_loss(
    hidden: Tensor,
    targets: Tensor,
    head: nn.Linear,
    *,
    softcap: float | None = None,
    z_loss: float = 0.0,
    rows: int | None = None,
) -> Tensor:
    """`cross_entropy` of the logits ``head(hidden)``, which are computed a few rows at a time.

    All logits of a batch, (N, V), often take more memory than the rest of the model. Here each chunk of rows
    computes its gradient in the forward pass and drops its logits; the backward pass only scales what is
    there. So it costs as many operations as the plain loss.

    Args:
        hidden: (…, C).
        targets: (…) int64, as in `cross_entropy`.
        head: The output layer, C to V.
        softcap: Logits become ``softcap * tanh(logits / softcap)``.
        z_loss: As in `cross_entropy`.
        rows: Rows in a chunk, by default as many as have 2²⁴ logits.

    Returns:
        A scalar in at least fp32. It cannot be differentiated twice.
    """

    def loss(hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        logits = upcast(nn.functional.linear(hidden, weight, bias))
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return cross_entropy(logits, targets, z_loss=z_loss)

    if rows is None:
        rows = max(1, CHUNK_LOGITS // head.out_features)
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    weights = [head.weight] if head.bias is None else [head.weight, head.bias]  # pyright: ignore[reportUnnecessaryComparison]
    return _Chunked.apply(loss, rows, targets, hidden, *weights)  # pyright: ignore[reportReturnType, reportUnknownVariableType]


class _Chunked(torch.autograd.Function):
    """The sum of a function over chunks of rows, whose gradient is computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, loss: Callable[..., Tensor], rows: int, targets: Tensor, hidden: Tensor, *weights: Tensor
    ) -> Tensor:
        inputs = [hidden, *weights]
        needed = [i for i, need in enumerate(ctx.needs_input_grad[3:]) if need]  # frozen ones cost nothing
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        gradients = {i: torch.zeros_like(inputs[i], dtype=total.dtype if i else None) for i in needed}
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            held = [x.detach().requires_grad_(i in needed) for i, x in enumerate([hidden[part], *weights])]
            with torch.set_grad_enabled(bool(needed)):
                value = loss(held[0], targets[part], *held[1:])
            total += value.detach()
            for i, gradient in zip(needed, _gradients(value, [held[i] for i in needed]), strict=True):
                gradients[i][part if i == 0 else slice(None)] += gradient
        ctx.gradients, ctx.dtypes = gradients, [x.dtype for x in inputs]
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = {i: (grads[0] * g).to(ctx.dtypes[i]) for i, g in ctx.gradients.items()}
        return None, None, None, *(scaled.get(i) for i in range(len(ctx.dtypes)))


def _gradients(value: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs) if inputs else ()
