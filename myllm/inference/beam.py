"""Beam search: the most probable continuations, found by extending several at once."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from myllm.checks import check
from myllm.files import UserError
from myllm.inference.generate import Model, check_room, last_logits
from myllm.inference.sampling import finite
from myllm.model.basics import device_of


class Hypothesis(NamedTuple):
    """A continuation that `beam_search` found.

    Attributes:
        ids: The new ids; where a stop id ended the text, it is the last of them.
        logprob: The logarithm of their probability, in nats.
        score: ``logprob / len(ids) ** length_penalty``, by which hypotheses are ranked.
    """

    ids: list[int]
    logprob: float
    score: float


@torch.inference_mode()
def beam_search(
    model: Model,
    ids: Sequence[int] | Tensor,
    *,
    width: int,
    max_new_tokens: int,
    length_penalty: float = 0.0,
    n_best: int = 1,
    stop_ids: Iterable[int] = (),
    cache: Any = None,
) -> list[Hypothesis]:
    """The highest-scoring continuations among those that a beam search of some width reaches.

    In each step every beam is extended by every token. Among the `width` most probable of these candidates,
    those that end with a stop id become hypotheses. The `width` most probable without a stop id are the next
    beams. The search ends when no beam can still enter the `n_best`: the probability of a beam never grows,
    so its score cannot exceed ``logprob / n ** length_penalty``, where n is the largest possible length if
    the penalty is positive, and the next length if it is negative.

    Args:
        model: Any function from ids (B, T) to logits (B, T, V).
        ids: The prompt, at least one id.
        width: How many beams are extended in each step.
        max_new_tokens: The most tokens in a hypothesis; one of this length need not end with a stop id.
        length_penalty: From -10 to 10. 0 ranks by log-probability, which favours short texts, 1 by its mean
            over the tokens; larger values favour long texts.
        n_best: How many hypotheses are returned, at most `width`.
        stop_ids: Ids that end a text.
        cache: An empty cache with a method ``select(rows)``, which keeps or repeats rows. Without one the
            whole text is computed again in each step.

    Returns:
        Up to `n_best` hypotheses, the best first.

    Raises:
        UserError: Options outside their range, a text that would outgrow the model's context, a cache without
            ``select``, or logits that are not finite.
    """
    check("width", width, int)
    check("n_best", n_best, int, bounds=(1, width))
    check("length_penalty", length_penalty, float, bounds=(-10, 10))
    text = torch.tensor([[int(i) for i in ids]], device=device_of(model))
    start = text.shape[1]
    check_room(model, start, max_new_tokens)
    if cache is not None and not hasattr(cache, "select"):
        raise UserError("Beam search needs a cache with a method select(rows); give such a one, or none.")
    stops = torch.tensor([*stop_ids], dtype=torch.int64, device=text.device)
    ended: list[Hypothesis] = []

    def rank(rows: Tensor, logprobs: Tensor) -> None:
        scale = max(rows.shape[1] - start, 1) ** length_penalty
        for row, logprob in zip(rows[:, start:], map(float, logprobs), strict=True):
            ended.append(Hypothesis([int(i) for i in row], logprob, logprob / scale))
        ended.sort(key=lambda one: -one.score)
        del ended[n_best:]

    total, new = torch.zeros(1, device=text.device), text
    for n in range(1, max_new_tokens + 1):
        logits = last_logits(model, text) if cache is None else last_logits(model, new, cache=cache)
        sums = total[:, None] + torch.log_softmax(finite(logits), -1)  # (beams, V)
        beams, tokens, logprobs = _most_probable(sums, width)
        over = torch.isin(tokens, stops)
        rank(torch.cat([text[beams], tokens[:, None]], dim=1)[over], logprobs[over])
        stopping = torch.isin(torch.arange(sums.shape[1], device=text.device), stops)
        beams, tokens, total = _most_probable(sums.masked_fill(stopping, -math.inf), width)
        new = tokens[:, None]
        text = torch.cat([text[beams], new], dim=1)
        if cache is not None:
            cache.select(beams)
        best_length = max_new_tokens if length_penalty > 0 else min(n + 1, max_new_tokens)
        highest = total.amax().item() / best_length**length_penalty if len(total) else -math.inf
        if highest == -math.inf or (len(ended) == n_best and highest <= ended[-1].score):
            return ended
    rank(text, total)
    return ended


def _most_probable(sums: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, columns and values of the `width` largest numbers in a table, without those that are -inf."""
    values, places = sums.flatten().topk(min(width, sums.numel()))
    places = places[values > -math.inf]
    return places // sums.shape[1], places % sums.shape[1], values[: len(places)]
