"""How well a model predicts a text: negative log-likelihood, perplexity, bits per byte.

All three are computed from one list of numbers: the negative log-probability that the model gave to each
token that actually came next. Shannon (1951) measured English this way.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from myllm.files import UserError

WINDOW_TOKENS = 4096
"""Tokens in a forward pass, unless `nll` is told otherwise: their logits are what needs memory."""


@torch.no_grad()
def nll(
    model: Any,
    text: str | Sequence[int] | Tensor,
    *,
    tokenizer: Any = None,
    block_size: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """The negative log-likelihood of each token of a text, given those before it.

    The text is read in windows of `block_size` tokens. Each token but the first is scored
    exactly once, in the first window that holds it; the last window is moved back so that
    it is full, too.

    Args:
        model: Maps ids (B, T) int64 to logits (B, T, V); or an `LLM`, which brings its tokenizer.
        text: A text, or its ids (N,).
        tokenizer: Encodes a text, with the begin token where its model wants one.
        block_size: The longest T the model is given; by default its configuration's.
        stride: By how many tokens each window starts after the last, by default `block_size`. Tokens scored
            before are context only: a smaller stride gives each token more context and costs more
            windows.
        batch_size: Windows in a forward pass, by default as many as 4,096 tokens hold.

    Returns:
        (N - 1,) float32, in nats; entry i belongs to token i + 1.

    Raises:
        UserError: Fewer than two tokens, a text without a tokenizer, no block size, or a number out of range.
    """
    if isinstance(text, str):
        text = _encode(text, tokenizer or getattr(model, "tokenizer", None))
    model = model if callable(model) else model.model
    if block_size is None:
        block_size = _block_size(model)
    ids = torch.as_tensor(text, device=_device(model))
    batch_size = max(1, WINDOW_TOKENS // max(block_size, 1)) if batch_size is None else batch_size
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


def _encode(text: str, tokenizer: Any) -> list[int]:
    if tokenizer is None:
        raise UserError("A text can only be scored with its tokenizer; give tokenizer=…, or ids.")
    return tokenizer.encode(text, bos=getattr(tokenizer, "add_bos", False))


def _block_size(model: Any) -> int:
    longest = getattr(getattr(model, "config", None), "block_size", None)
    if longest is None:
        raise UserError("This model does not say how many tokens it takes at once; give block_size=….")
    return longest


def _device(model: Any) -> torch.device | None:
    """Where the parameters are; a plain function takes ids wherever they are."""
    first = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    return None if first is None else first.device


def perplexity(model: Any, text: str | Sequence[int] | Tensor | None = None, **options: Any) -> float:
    """The exponential of the mean negative log-likelihood: how many equally likely choices are as hard.

    Args:
        model: What `nll` takes; or, without a text, negative log-likelihoods in nats, of any shape.
        text: A text, or its ids (N,).
        options: Those of `nll`.

    Raises:
        UserError: As `nll`, or there is no score to average.
    """
    losses = model if text is None else nll(model, text, **options)
    if not isinstance(losses, Tensor):
        raise UserError("perplexity needs the scores that nll returned, or a model and a text.")
    if losses.numel() == 0:
        raise UserError("There is no score to average; score at least one token.")
    return losses.double().mean().exp().item()


def bits_per_byte(nll: Tensor, n_bytes: int) -> float:
    """The bits that an ideal compressor based on this model needs for each byte of the text.

    Unlike perplexity it does not depend on how the text is cut into tokens, so that any two models can be
    compared.

    Args:
        nll: Negative log-likelihoods in nats of all tokens of the text, any shape.
        n_bytes: The length in bytes of the text those tokens spell.

    Raises:
        UserError: `n_bytes` is not positive.
    """
    if n_bytes < 1:
        raise UserError(f"n_bytes must be the length of the text in bytes, not {n_bytes}.")
    return nll.double().sum().item() / math.log(2) / n_bytes
