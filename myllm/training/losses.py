"""Language-model losses: sums over the targets that count, and a head that never holds all logits at once."""

from typing import Any

import torch
from torch import Tensor, nn

from myllm.model.basics import upcast

CHUNK_LOGITS = 1 << 24
"""Logits held at a time by `chunked_loss`: 64 MiB in fp32."""


def cross_entropy(logits: Tensor, targets: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """The negative log-likelihood in nats, summed over all targets that are not negative.

    It is a sum, so that the caller can divide by a count over all micro-batches and processes.

    Args:
        logits: (…, V), of any floating dtype; computed in at least fp32.
        targets: (…) int64; a negative one, by convention -100, has no loss.
        z_loss: Adds ``z_loss * log(Z) ** 2`` for each target, where Z is the softmax's normalizer. It keeps
            logits from drifting (Chowdhery et al., 2022, PaLM, section 5).

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

    The logits of a whole batch, (N, V), often take more memory than the rest of the model. Here the gradient
    of each chunk of rows is computed in the forward pass and its logits are dropped; the backward pass only
    scales the stored gradients. This costs as many operations as the plain loss, and fewer where targets have
    no loss: their logits are never computed.

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
    if rows is None:
        rows = max(1, CHUNK_LOGITS // head.out_features)
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    return _Chunked.apply(rows, softcap, z_loss, targets, hidden, head.weight, head.bias)  # pyright: ignore[reportReturnType, reportUnknownVariableType]


class _Chunked(torch.autograd.Function):
    """The sum of the losses over chunks of rows, whose gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, rows: int, cap: Any, z_loss: float, targets: Tensor, *inputs: Any) -> Tensor:
        hidden, weight, bias = inputs
        needed = ctx.needs_input_grad[4:]  # frozen inputs cost nothing
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        made = zip(inputs, (hidden.dtype, total.dtype, total.dtype), needed, strict=True)
        sums: list[Any] = [torch.zeros_like(x, dtype=dtype) if need else None for x, dtype, need in made]
        for part in torch.split((targets >= 0).nonzero()[:, 0], rows):  # the other targets have no loss
            logits = upcast(nn.functional.linear(hidden[part], weight, bias))
            loss, gradient = _derived(logits, targets[part, None], cap, z_loss)
            total, gradient = total + loss, gradient.to(hidden.dtype)
            if needed[0]:
                sums[0][part] = gradient @ weight
            if needed[1]:
                sums[1] += gradient.t() @ hidden[part]
            if needed[2]:
                sums[2] += gradient.sum(dim=0)
        ctx.save_for_backward(*sums)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(x if x is None else grads[0] * x for x in ctx.saved_tensors)


def _derived(logits: Tensor, targets: Tensor, cap: float | None, z_loss: float) -> tuple[Tensor, Tensor]:
    """The loss of logits (R, V) and its gradient: the probabilities, minus 1 at the targets (R, 1)."""
    capped = logits if cap is None else cap * torch.tanh(logits / cap)
    logs = capped.log_softmax(dim=-1)
    chosen = logs.gather(-1, targets)
    log_z = capped.gather(-1, targets) - chosen
    gradient = logs.exp_()  # in place: nothing takes more memory than the logits
    if z_loss:
        gradient *= 1 + 2 * z_loss * log_z
    gradient.scatter_add_(-1, targets, -torch.ones_like(chosen))
    if cap is not None:
        gradient *= 1 - (capped / cap) ** 2
    return (z_loss * log_z**2 - chosen).sum(), gradient
