"""Chapter 18, Instruction tuning: the exercises. Replace ``raise NotImplementedError`` with your answer."""

import math
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("18.1", "Earlier answers weigh less", points=6, minutes=20, difficulty=2, section="response-mask")
def weighted_targets(
    turns: list[tuple[str, list[int]]], headers: dict[str, list[int]], end: int, decay: float
) -> tuple[list[int], list[int], list[float]]:
    """Make the targets of a conversation in which earlier answers weigh less than later ones.

    Each turn is written as the header of its role, its tokens, and the end token. The turns of "assistant"
    are answers. An answer is learned with its end token, unless it has no tokens: an empty answer is a fault
    of the data, so neither it nor its end token is learned, and it does not count as an answer.

    The last answer has the weight 1, the answer before it the weight ``decay``, the one before that ``decay``
    squared, and so on, whatever other turns lie between them or follow. (In training, the losses are then
    multiplied by their weights, added, and divided by the sum of the weights.)

    Args:
        turns: Role and tokens of each turn, at least one.
        headers: The header of each role, which may be empty.
        end: The end token.
        decay: More than 0, at most 1.

    Returns:
        Three lists of the same length. The ids of the conversation. For each position, the next token if
        that one is learned, else -100. For each position, the weight of its target, 0.0 where it is -100.

    The functions of `myllm.finetuning` and `myllm.tokenizers` may not be used.

    Example:
        The answer is [7], with the end token 0. The user's turn follows it.

        >>> turns = [("assistant", [7]), ("user", [8])]
        >>> weighted_targets(turns, {"user": [1], "assistant": [2]}, 0, 0.5)
        ([2, 7, 0, 1, 8, 0], [7, 0, -100, -100, -100, -100], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    """
    # May not be called: myllm.finetuning.*, myllm.tokenizers.*.
    raise NotImplementedError


@exercise("18.2", "A model that never stops", points=6, minutes=25, difficulty=2, section="mask-bugs")
def collate_answers(
    examples: list[tuple[list[int], list[int]]], pad: int, longest: int
) -> tuple[Tensor, Tensor, list[int]]:
    """Debug the batches of a tuning run after which the model answers well, but hardly ever stops.

    An example consists of ids and a mask, which is 1 for the tokens that are learned. The padding is the
    token that also ends an answer, as for many models. Examples are cut to their first ``longest`` tokens.
    If then no position has a target, the example is left out of the batch.

    This version has five faults; find and fix them::

        kept = [n for n, (_, mask) in enumerate(examples) if 1 in mask]
        T = max((len(examples[n][0]) for n in kept), default=0)
        ids = torch.full((len(kept), T), pad)
        targets = torch.full((len(kept), T), -100)
        for row, n in enumerate(kept):
            tokens, mask = (torch.tensor(part[:longest]) for part in examples[n])
            ids[row, -len(tokens) :] = tokens
            targets[row, -len(tokens) : -1] = torch.where(mask[:-1] > 0, tokens[1:], -100)
        targets[targets == pad] = -100
        return ids, targets, kept

    Args:
        examples: Ids and mask of each, of equal lengths of at least 1.
        pad: The token of the padding.
        longest: 1 or more.

    Returns:
        Ids and targets, (B, T) int64, padded on the right to the longest example that remains, and the
        numbers of the examples in the batch. If none remains, both have the shape (0, 0).

    The functions of `myllm.finetuning` and `myllm.data` may not be used.

    Example:
        The end token 0 is learned, and the padding 0 is not.

        >>> ids, targets, kept = collate_answers([([5, 6, 0], [0, 1, 1]), ([5, 0], [0, 1])], 0, 9)
        >>> ids.tolist(), targets.tolist(), kept
        ([[5, 6, 0], [5, 0, 0]], [[6, 0, -100], [0, -100, -100]], [0, 1])
    """
    # May not be called: myllm.finetuning.*, myllm.data.*.
    raise NotImplementedError


@exercise("18.3", "What a packed row is worth", points=6, minutes=25, difficulty=2, section="packed-rows")
def packing_bill(rows: list[list[tuple[int, int]]], T: int, window: int) -> dict[str, int]:
    """Count what packed rows compute, and how much of it is needed.

    A row of T tokens holds examples one after the other, and padding at its end. The model has causal
    attention with a window: a token attends to itself and to the ``window - 1`` tokens before it, as far as
    there are any. A pair of attention is a token with one that it attends to.

    The result has five numbers, each for all rows together:

    - ``tokens``: the tokens that are computed, padding included.
    - ``useful``: the tokens of examples.
    - ``learned``: the targets. The first token of an example is never predicted, so without a prompt one
      token of the response is lost.
    - ``pairs``: the pairs of attention without a document mask, padding included.
    - ``needed``: the pairs of tokens of one example.

    Args:
        rows: For each row, the lengths of prompt and response of its examples. A prompt may have the length
            0, a response has at least one token.
        T: The length of a row.
        window: 1 or more.

    Returns:
        The five numbers by their names.

    Example:
        One row of 6 tokens with one example, and a padding token at its end.

        >>> packing_bill([[(2, 3)]], 6, 2)
        {'tokens': 6, 'useful': 5, 'learned': 3, 'pairs': 11, 'needed': 9}
    """
    raise NotImplementedError


@exercise("18.4", "Which checkpoint to keep", points=7, minutes=25, difficulty=2, section="exact-match-table")
def choose_checkpoint(rows: list[dict[str, Any]], template: str) -> tuple[int, float, bool]:
    """Choose a checkpoint of a tuning run by what users will see, and report it honestly.

    Each row is a measurement of one checkpoint on one set of questions:

    1. Only measurements with the template of the users, ``template``, count.
    2. The choice is made on the "validation" questions. The best checkpoint has the highest share of right
       answers; of equal ones, the earliest is the best.
    3. A share p of n questions has the half width 1.96 · sqrt(p (1 - p) / n). Keep the earliest checkpoint
       whose share is not below the best share minus the half width of the best share.
    4. Report the share of right answers of the kept checkpoint on the "test" questions.
    5. Say whether the loss would have chosen the same checkpoint: the one with the lowest loss on the
       validation questions, the earliest of equal ones.

    Args:
        rows: In any order, each with ``step``, ``template``, ``split`` ("validation" or "test"), ``loss``,
            ``right`` and ``asked``, the numbers of right answers and of questions. For each checkpoint and
            template, there is one row for each split.
        template: A template that some rows have.

    Returns:
        The step of the kept checkpoint, its share on the test questions, and whether the loss agrees.

    Example:
        80% ± 8%: the checkpoint at step 10 has 75%, and is kept. The loss is lowest at step 20.

        >>> rows = [
        ...     {"step": 10, "template": "a", "split": "validation", "loss": 0.5, "right": 75, "asked": 100},
        ...     {"step": 10, "template": "a", "split": "test", "loss": 0.5, "right": 7, "asked": 10},
        ...     {"step": 20, "template": "a", "split": "validation", "loss": 0.4, "right": 80, "asked": 100},
        ...     {"step": 20, "template": "a", "split": "test", "loss": 0.4, "right": 8, "asked": 10},
        ... ]
        >>> choose_checkpoint(rows, "a")
        (10, 0.7, False)
    """
    raise NotImplementedError


@exercise("18.5", "An evaluation to believe", points=7, minutes=30, difficulty=3, section="exact-match-table")
def evaluate(
    pieces: dict[str, list[str]], tasks: list[tuple[str, str, str]], known: set[str], stop: str, limit: int
) -> list[tuple[str, str, bool]]:
    """Design an exact-match evaluation that neither a leak nor a careless extraction can flatter.

    1. A task has an operation, a word and the right answer. Its prompt is ``"OPERATION: WORD >"``.
    2. Tasks on a word that was trained on are not asked, even if its capital letters differ. A task that
       comes again, with the same operation and the same word (here capital letters count), is asked once.
    3. The model writes pieces of text, at most ``limit`` of them. The stop string may be divided over
       several pieces. As soon as it is complete, the text ends before it.
    4. What counts as the answer is the text, without white space at its ends. If it contains ``>``, the
       answer is what follows the last one, again without white space at its ends.
    5. An answer is right if it equals the right answer exactly and the model has stopped by itself.

    Args:
        pieces: What the model would write for each prompt, if nothing stopped it: at least one piece.
        tasks: Operation, word and right answer of each.
        known: The words that were trained on.
        stop: The stop string, not empty.
        limit: 1 or more.

    Returns:
        For each task that is asked, in order: its prompt, the answer, and whether it is right.

    The functions of `myllm.evaluation` and `myllm.data` may not be used.

    Example:
        >>> pieces = {"rev: ab >": [" b", "a<", "end>"], "copy: ab >": [" ab", "b"]}
        >>> tasks = [("rev", "ab", "ba"), ("copy", "ab", "ab"), ("rev", "no", "on")]
        >>> evaluate(pieces, tasks, {"No"}, "<end>", 3)
        [('rev: ab >', 'ba', True), ('copy: ab >', 'abb', False)]
    """
    # May not be called: myllm.evaluation.*, myllm.data.*.
    raise NotImplementedError
