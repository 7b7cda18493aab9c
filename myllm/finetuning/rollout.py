"""Rollouts: completions sampled from a policy, with the log-probability of each token."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.inference.generate import check_room, decode, new_cache
from myllm.inference.sampling import finite
from myllm.model.basics import device_of, upcast
from myllm.model.transformer import Transformer


class Prompt(NamedTuple):
    """A prompt for a policy.

    Attributes:
        ids: The tokens of the prompt, at least one.
        item: What the reward needs to know of the prompt, such as the task with its right answer.
    """

    ids: Sequence[int]
    item: Any


class Completion(NamedTuple):
    """A completion sampled from a policy.

    Attributes:
        ids: The tokens, including the end token if it was sampled.
        log_probs: The log-probability of each, in nats, under the distribution from which it was sampled.
        ended: Whether it ended with the end token rather than at the length limit.
        text: The text without the end token.
    """

    ids: list[int]
    log_probs: list[float]
    ended: bool
    text: str = ""


Reward = Callable[[Sequence[Any], Sequence[Completion]], Sequence[float]]
"""Maps the items of prompts and the completion of each prompt to one number per completion."""


class _Recorder:
    """A sampler that inverts the cumulative distribution function and records each log-probability.

    Unlike those of `Sampler`, its samples do not depend on the machine or on how rows are batched.
    """

    def __init__(self, uniforms: Tensor, temperature: float) -> None:
        self.uniforms, self.temperature = uniforms, temperature
        self.log_probs: list[Tensor] = []

    def __call__(self, logits: Tensor, text: Tensor, start: int) -> Tensor:
        logs = torch.log_softmax(finite(logits) / self.temperature, -1)  # (B, V)
        below = logs.double().exp().cumsum(-1)
        u = self.uniforms[:, text.shape[1] - start, None]
        ids = (below <= u * below[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
        self.log_probs.append(logs.gather(-1, ids[:, None])[:, 0])
        return ids


def sample(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    uniforms: Tensor,
    *,
    stop_id: int,
    temperature: float = 1.0,
) -> list[Completion]:
    """Complete prompts in one batch, sampling from ``softmax(logits / temperature)`` without any filter.

    Filters such as top-p are left out on purpose: the distribution that is scored in training must be the one
    that was sampled from.

    Args:
        model: A `Transformer` or, if all rows have the same length, any module that maps ids to logits.
        rows: The prompts.
        uniforms: (B, N) float64 in [0, 1), which determine the tokens; N is the most tokens in a completion.
        stop_id: The end token.
        temperature: Above 0.
    """
    B, N = uniforms.shape
    width, device = max(map(len, rows)), device_of(model)
    for row in rows:
        check_room(model, len(row), N)
    ids = torch.tensor([[0] * (width - len(row)) + [*row] for row in rows], device=device)
    padding = torch.tensor([width - len(row) for row in rows], device=device)
    pads = padding if padding.any() else None
    cache = new_cache(model, B, width + N, pads)
    recorder = _Recorder(uniforms.to(device), temperature)
    written, open_rows = list[Tensor](), torch.ones(B, dtype=torch.bool, device=device)
    padded = {} if cache is not None else {"pads": pads}
    for chosen in decode(model, ids, steps=N, sampler=recorder, cache=cache, **padded):
        written.append(chosen)
        open_rows &= chosen != stop_id
        if not open_rows.any():
            break
    found = list[Completion]()
    texts, log_probs = (torch.stack(each, 1).cpu().numpy() for each in (written, recorder.log_probs))
    for row, logs in zip(texts, log_probs, strict=True):
        ids = [int(i) for i in row]
        end = ids.index(stop_id) + 1 if stop_id in ids else N
        found.append(Completion(ids[:end], [float(x) for x in logs[:end]], stop_id in ids))
    return found


def states_before(model: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
    """The final hidden states (N, C) from which the tokens in a mask are predicted.

    Args:
        model: The model.
        ids: (B, T) int64, padded on the right.
        mask: (B, T) bool, true for N tokens, none of them in the first column.
    """
    hidden = model(ids[:, :-1], head=nn.Identity())  # (B, T - 1, C)
    return hidden[mask[:, 1:]]


def logits_of(model: Transformer, states: Tensor) -> Tensor:
    """The logits (N, V) of hidden states (N, C), as the model computes them, in at least float32."""
    logits, cap = upcast(model.lm_head(states)), model.config.logit_softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def token_log_probs(model: nn.Module, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-probabilities of the tokens in a mask, (B, T), and 0 elsewhere.

    Args:
        model: A `Transformer`, which computes logits for these tokens only, or any model that maps ids (B, T)
            to logits (B, T, V).
        ids: (B, T) int64, padded on the right, so that a causal model does not attend to the padding.
        mask: (B, T) bool, false in the first column, which nothing predicts.
        temperature: The logits are divided by it.
    """
    if isinstance(model, Transformer):
        return spread(log_probs_of(model, states_before(model, ids, mask), ids[mask], temperature), mask)
    logits = upcast(model(ids[:, :-1])[mask[:, 1:]])
    return spread(-F.cross_entropy(logits / temperature, ids[mask], reduction="none"), mask)


def log_probs_of(model: Transformer, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The log-probabilities (N,) of the tokens that follow hidden states (N, C)."""
    logits = logits_of(model, states)
    logits = logits if temperature == 1 else logits / temperature  # a division by 1 takes time, too
    return -F.cross_entropy(logits, targets, reduction="none")


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values (N,) placed where a mask (B, T) is true, and 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
