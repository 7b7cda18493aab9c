"""How well a model predicts a text: negative log-likelihood, perplexity, bits per byte.

All three come from one list of numbers, the negative log-probability that the model gave to each token that
really came next. Shannon (1951) measured English this way.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from myllm.files import UserError


@torch.no_grad()
def nll(
    model: Callable[[Tensor], Tensor],
    ids: Tensor,
    *,
    block_size: int,
    stride: int | None = None,
    batch_size: int = 16,
) -> Tensor:
    """The negative log-likelihood of each token of a text, given those before it.

    The text is read in windows of `block_size` tokens. Each token but the first is scored
    exactly once, in the first window that holds it; the last window is moved back so that
    it, too, is full.

    Args:
        model: Maps ids (B, T) int64 to logits (B, T, V).
        ids: The text, (N,) int64.
        block_size: The longest T the model is given.
        stride: How far each window moves on, by default `block_size`. Tokens scored before
            are context only: a smaller stride gives each token more context and costs more
            windows.
        batch_size: Windows a forward pass.

    Returns:
        (N - 1,) float32, in nats; entry i belongs to ``ids[i + 1]``.

    Raises:
        UserError: Fewer than two tokens, or a stride outside 1 … block_size.
    """
    stride = block_size if stride is None else stride
    if block_size < 1:
        raise UserError(f"block_size must be at least 1, not {block_size}.")
    if ids.ndim != 1 or len(ids) < 2:
        raise UserError(f"Scoring needs a row of at least two ids, not the shape {tuple(ids.shape)}.")
    if not 1 <= stride <= block_size:
        raise UserError(f"stride must lie between 1 and {block_size}, not be {stride}.")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    n = len(ids) - 1  # predictions to make
    ends = [*range(min(block_size, n), n, stride), n]
    starts = [max(0, end - block_size) for end in ends]
    done = 0  # predictions scored so far
    scores: list[Tensor] = []
    for batch in (slice(i, i + batch_size) for i in range(0, len(ends), batch_size)):
        windows = list(zip(starts[batch], ends[batch], strict=True))
        logits = model(torch.stack([ids[start:end] for start, end in windows]))  # (B, T, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for row, (start, end) in zip(logits, windows, strict=True):
            new = torch.log_softmax(row[done - start :], dim=-1)
            scores.append(-new.gather(1, ids[done + 1 : end + 1, None]).squeeze(1))
            done = end
    return torch.cat(scores).float()


def perplexity(nll: Tensor) -> float:
    """The exponential of the mean: the number of equally likely choices that are as hard.

    Args:
        nll: Negative log-likelihoods in nats, any shape.

    Raises:
        UserError: There is none.
    """
    if nll.numel() == 0:
        raise UserError("There is no score to average; score at least one token.")
    return nll.double().mean().exp().item()


def bits_per_byte(nll: Tensor, n_bytes: int) -> float:
    """The bits a perfect compressor would need for each byte of the text under this model.

    Unlike perplexity it does not depend on how the text is cut into tokens, so it compares
    any two models.

    Args:
        nll: Negative log-likelihoods in nats of all tokens of the text, any shape.
        n_bytes: The length in bytes of the text those tokens spell.

    Raises:
        UserError: `n_bytes` is not positive.
    """
    if n_bytes < 1:
        raise UserError(f"n_bytes must be the length of the text in bytes, not {n_bytes}.")
    return nll.double().sum().item() / math.log(2) / n_bytes
