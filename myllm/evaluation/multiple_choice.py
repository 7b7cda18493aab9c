"""Multiple choice without generation: the answer to which the model assigns the highest probability."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from myllm.files import UserError
from myllm.model.basics import block_size_of, device_of, upcast
from myllm.tokenizers.base import Tokenizer


class Question(NamedTuple):
    """A question: its context, the possible continuations, and which of them is right.

    Attributes:
        context: The text before the choices, such as "The capital of France is".
        choices: The possible continuations, each with its leading space, such as " Paris" and " Rome".
            A space at the end of the context counts as part of each choice.
        answer: The index of the right choice.
    """

    context: str
    choices: Sequence[str]
    answer: int


class Result(NamedTuple):
    """The answers of a model.

    Attributes:
        accuracy: The share of the questions answered correctly.
        chosen: For each question, the index of the choice with the highest score; the first one on a tie.
        scores: For each question, the score of each choice, in nats (per token or byte, if `per` says so).
    """

    accuracy: float
    chosen: list[int]
    scores: list[list[float]]


def multiple_choice(
    model: Callable[[Tensor], Tensor],
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    per: Literal["choice", "token", "byte"] = "choice",
    batch_size: int = 16,
) -> Result:
    """Answer questions with the most probable choices.

    Args:
        model: Maps ids (B, T) int64 to logits (B, T, V); it must be causal.
        tokenizer: Its tokenizer.
        questions: The questions.
        per: "choice" compares the log-probabilities of whole choices, which favours short ones; "token"
            and "byte" divide them by the length.
        batch_size: Choices in a forward pass; it does not affect the scores.

    Raises:
        UserError: A question without choices, an empty choice, an answer that is not among the choices,
            nothing before the first token, or a text that is longer than the model's context.
    """
    if per not in ("choice", "token", "byte"):
        raise UserError(f"per must be choice, token or byte, not {per!r}.")
    if not questions:
        raise UserError("There is no question; give at least one.")
    rows: list[tuple[list[int], int]] = []
    lengths: list[int] = []
    for question in questions:
        for choice in _choices(question):
            ids, start = row(tokenizer, question.context, choice)
            rows.append((ids, start))
            lengths.append({"choice": 1, "token": len(ids) - start, "byte": len(choice.encode())}[per])
    sums = log_probabilities(model, rows, batch_size=batch_size)
    each = iter([total / length for total, length in zip(sums, lengths, strict=True)])
    scores = [[next(each) for _ in question.choices] for question in questions]
    if any(score != score for one in scores for score in one):  # NaN
        raise UserError("The model's scores are not numbers; its weights are bad.")
    chosen = [one.index(max(one)) for one in scores]
    right = sum(i == question.answer for i, question in zip(chosen, questions, strict=True))
    return Result(right / len(questions), chosen, scores)


def log_probabilities(
    model: Callable[[Tensor], Tensor], rows: Sequence[tuple[list[int], int]], *, batch_size: int = 16
) -> list[float]:
    """The log-probability of the end of each row, given its beginning, in nats; see `likelihoods`."""
    return [total for total, _ in likelihoods(model, rows, batch_size=batch_size)]


@torch.inference_mode()
def likelihoods(
    model: Callable[[Tensor], Tensor], rows: Sequence[tuple[list[int], int]], *, batch_size: int = 16
) -> list[tuple[float, bool]]:
    """The log-probability of the end of each row, given its beginning, and whether greedy decoding writes it.

    Rows are padded on the right; no token of a causal model attends to that padding.

    Args:
        model: Maps ids (B, T) int64 to logits (B, T, V).
        rows: The ids of each row, and the index of the first that is scored, 1 or more.
        batch_size: Rows in a forward pass.

    Returns:
        For each row, the sum, in nats, and whether every scored token is the most likely one at its position.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    limit = block_size_of(model)
    longest = max((len(ids) for ids, _ in rows), default=0)
    if limit is not None and longest - 1 > limit:
        raise UserError(f"A question of {longest} tokens does not fit into a context of {limit}; shorten it.")
    device = device_of(model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # similar lengths need little padding
    found = [(0.0, True)] * len(rows)
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        inputs = [torch.tensor(rows[i][0][:-1], device=device) for i in batch]  # the last predicts nothing
        logits = model(pad_sequence(inputs, batch_first=True))  # (B, T, V)
        for i, scores in zip(batch, logits, strict=True):
            ids, start = rows[i]
            log_probs = torch.log_softmax(upcast(scores[start - 1 : len(ids) - 1]), dim=-1)
            target = torch.tensor(ids[start:], device=device)
            greedy = torch.equal(log_probs.argmax(-1), target)
            found[i] = log_probs.gather(1, target[:, None]).sum().item(), greedy
    return found


def _choices(question: Question) -> Sequence[str]:
    if not question.choices or not all(question.choices):
        raise UserError(f"The question {question.context!r:.40} lacks choices, or has an empty one; fix it.")
    if not 0 <= question.answer < len(question.choices):
        raise UserError(f"The answer to {question.context!r:.40} is {question.answer}, which is no choice.")
    return question.choices


def row(tokenizer: Tokenizer, context: str, choice: str) -> tuple[list[int], int]:
    """The ids of context and choice, and where the choice begins: where they first differ from the context's.

    White space at the end of the context belongs to the choice, because tokenizers join it to the next word.
    All choices are then scored after the same context.
    """
    stripped = context.rstrip()
    bos = tokenizer.add_bos or (not stripped and tokenizer.bos_id is not None)
    before, ids = (tokenizer.encode(text, bos=bos) for text in (stripped, context + choice))
    start = 0
    while start < min(len(before), len(ids)) and before[start] == ids[start]:
        start += 1
    if start == 0:
        raise UserError(f"Nothing stands before the choice {choice!r:.40}; give the question a context.")
    return ids, start
