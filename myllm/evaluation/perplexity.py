"""How well a model predicts a text: negative log-likelihood, perplexity, bits per byte.

All three are computed from one list of numbers: the negative log-probability that the model assigned to each
token of the text. Shannon (1951) measured English this way.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from myllm.files import UserError
from myllm.model.basics import block_size_of, device_of, upcast

#: Tokens in a forward pass, unless `nll` is given a `batch_size`: their logits take most of the memory.
WINDOW_TOKENS = 4096


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

    The text is read in windows of `block_size` tokens. Each token but the first is scored exactly once, in
    the first window that contains it. The last window is moved back so that it is full too.

    Args:
        model: Maps ids (B, T) int64 to logits (B, T, V); or an `LLM`, which has its own tokenizer.
        text: A text, or its ids (N,).
        tokenizer: Encodes a text, with the BOS token if its model expects one.
        block_size: T, the number of tokens in a window; by default the model's `block_size`.
        stride: Tokens from the start of a window to that of the next, by default `block_size`. Tokens that
            were scored before serve only as context: a smaller stride gives each token more context, but
            takes more windows.
        batch_size: Windows in a forward pass, by default as many as fit in 4,096 tokens.

    Returns:
        (N - 1,) float32, in nats; entry i belongs to token i + 1.

    Raises:
        UserError: Fewer than two tokens, a text without a tokenizer, no block size, or a number out of range.
    """
    if isinstance(text, str):
        text = _encode(text, tokenizer or getattr(model, "tokenizer", None))
    model = model if callable(model) else model.model
    if block_size is None:
        block_size = block_size_of(model)
    if block_size is None:
        raise UserError("The longest input of this model is not known; give block_size=….")
    if stride is None:
        stride = block_size
    if batch_size is None:
        batch_size = WINDOW_TOKENS // max(block_size, 1) or 1
    if min(block_size, stride, batch_size) < 1 or stride > block_size:
        numbers = f"not {block_size}, {stride} and {batch_size}"
        raise UserError(f"nll needs block_size ≥ stride ≥ 1 and batch_size ≥ 1, {numbers}.")
    ids = torch.as_tensor(text, device=device_of(model))
    if ids.ndim != 1 or len(ids) < 2:
        raise UserError(f"Scoring needs a row of at least two ids, not the shape {tuple(ids.shape)}.")
    n = len(ids) - 1  # predictions to make
    ends = [*range(min(block_size, n), n, stride), n]
    done = 0  # predictions scored so far
    scores: list[Tensor] = []
    for i in range(0, len(ends), batch_size):
        windows = [(max(0, end - block_size), end) for end in ends[i : i + batch_size]]
        logits = upcast(model(torch.stack([ids[start:end] for start, end in windows])))  # (B, T, V)
        for row, (start, end) in zip(logits, windows, strict=True):
            log_probs = torch.log_softmax(row[done - start :], dim=-1)
            scores.append(-log_probs.gather(1, ids[done + 1 : end + 1, None]).squeeze(1))
            done = end
    return torch.cat(scores).float()


def _encode(text: str, tokenizer: Any) -> list[int]:
    if tokenizer is None:
        raise UserError("A text can only be scored with its tokenizer; give tokenizer=…, or ids.")
    return tokenizer.encode(text, bos=getattr(tokenizer, "add_bos", False))


def perplexity(model: Any, text: str | Sequence[int] | Tensor | None = None, **options: Any) -> float:
    """The exponential of the mean negative log-likelihood: the equivalent number of equally likely choices.

    Args:
        model: As in `nll`; or, without a text, negative log-likelihoods in nats, of any shape.
        text: A text, or its ids (N,).
        options: Those of `nll`.

    Raises:
        UserError: As in `nll`, or there is no score to average.
    """
    losses = model if text is None else nll(model, text, **options)
    if not isinstance(losses, Tensor) or losses.numel() == 0:
        raise UserError("perplexity needs at least one score from nll, or a model and a text.")
    return losses.double().mean().exp().item()


def bits_per_byte(nll: Tensor, n_bytes: int) -> float:
    """The bits per byte of text that an ideal compressor based on this model needs.

    Unlike perplexity, it is normalized by the number of bytes, not of tokens, so models with different
    tokenizers can be compared.

    Args:
        nll: Negative log-likelihoods in nats of all tokens of the text, any shape.
        n_bytes: The length of that text in bytes.

    Raises:
        UserError: `n_bytes` is not positive.
    """
    if n_bytes < 1:
        raise UserError(f"n_bytes must be the length of the text in bytes, not {n_bytes}.")
    return nll.double().sum().item() / math.log(2) / n_bytes
