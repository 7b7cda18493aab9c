"""Chapter 21, Preferences: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from myllm.grading import exercise


@exercise("21.1", "Several turns", points=7, minutes=30, difficulty=3, section="sequence-log-probability")
def pair_losses(
    policy: Tensor, reference: Tensor, ids: Tensor, role: Tensor, beta: float, method: str
) -> tuple[Tensor, Tensor]:
    """Compute the losses of DPO or IPO for pairs of conversations in padded rows.

    A pair is two rows: row ``i`` holds the chosen conversation, row ``B + i`` the rejected one. The role of a
    token says who wrote it: 1 is the assistant, 0 is everybody else (the user, the system, the template),
    -1 is padding. A row may have padding at its left end, at its right end, or at both; there is none
    between. The assistant may have several turns in a row. All of them together are one answer.

    The tokens that count are those of the assistant, the end token of each turn included. An assistant token
    that is first in its row, or first after padding, is predicted by nothing and does not count.

    - The log-ratio of a token is log π - log π_ref: its log-probability, in nats, under the policy less the
      one under the reference.
    - The score of a row is the *sum* of the log-ratios of the tokens that count for "dpo", and their *mean*
      for "ipo". The mean is over all counted tokens of a row, whichever turn they belong to.
    - With d, the score of the chosen row less the score of the rejected one, the loss of a pair is
      -log σ(β d) for "dpo", where σ is the logistic function, and (d - 1 / (2 β))² for "ipo".
    - The implicit reward of a row is β times its score, for both methods.

    The gradient flows to the policy's logits alone, never to the reference's. All is computed in float32,
    whatever the dtype of the logits. The loss of DPO stays finite, however large d is.

    Args:
        policy: (2 B, T, V), float32 or bfloat16, the policy's logits as the model gives them:
            ``policy[r, t]`` predicts the token *after* position t, so ``ids[r, t + 1]``. At positions that
            predict no token that counts, they hold anything, including NaN; their gradient is 0.
        reference: (2 B, T, V), those of the reference; the same holds for them.
        ids: (2 B, T) int64, from 0 to V - 1, also at padding.
        role: (2 B, T) int64: 1, 0 or -1. One token or more counts in every row.
        beta: β, more than 0.
        method: "dpo" or "ipo".

    Returns:
        The losses, (B,) float32, and the implicit rewards, (B, 2) float32: chosen, rejected.

    No loop over rows, tokens or turns. The functions of `myllm.finetuning` may not be used.

    Example:
        The first token is the prompt. The log-ratios are log 1.5 and log 1.5, against log 1.5 and log 0.5.

        >>> ids, role = torch.tensor([[0, 1, 1], [0, 1, 0]]), torch.tensor([[0, 1, 1], [0, 1, 1]])
        >>> policy = torch.tensor([0.25, 0.75]).log().expand(2, 3, 2)
        >>> losses, rewards = pair_losses(policy, torch.zeros(2, 3, 2), ids, role, 1.0, "dpo")
        >>> [round(x, 4) for x in losses.tolist()], [round(x, 4) for x in rewards[0].tolist()]
        ([0.2877], [0.8109, -0.2877])
    """
    # May not be called: myllm.finetuning.*.
    raise NotImplementedError


@exercise("21.2", "The chosen falls", points=7, minutes=30, difficulty=3, section="falling-chosen")
def why_it_falls(
    noted: Tensor, policy: Tensor, reference: Tensor, dropout: Tensor, place: Tensor, beta: float
) -> tuple[str, float, float]:
    """Debug a run of DPO whose log says that the chosen answers lose: find out whether that is a fault.

    The run noted the implicit reward of each answer at S records: the first before the first update, when
    the policy is the reference, the last after the last update. There are B pairs. In every tensor, index 0
    of the dimension of size 2 is the chosen answer and index 1 the rejected one.

    The *right reward* of an answer at a record is β times the sum, over the tokens of the answer, of the
    policy's log-probability at that record less the reference's. The *loss* of a pair is -log σ(right
    reward of the chosen less right reward of the rejected), with the logistic function σ. All means are over
    the B pairs.

    What was noted agrees with a computation if the two are at most 1e-5 apart for *each* answer at *each*
    record. The verdict is the first of these that fits, in this order:

    1. What was noted agrees with the right reward. Then look at the run. ``"none"``: the mean right reward
       of the chosen answers at the last record is not below the one at the first. ``"normal"``: it is below,
       and the mean loss is lower at the last record than at the first. ``"worse"``: it is below, and the mean
       loss is not lower, so the run has not even learned what the loss asks for.
    2. ``"prompt"``: It agrees when the tokens of the prompt are in the sum, too, and no padding.
    3. ``"padding"``: It agrees when the padding is in the sum, too, and no prompt.
    4. ``"dropout"``: It agrees when the reference was asked in train mode: with ``dropout`` in its place.
    5. ``"moving"``: It agrees when the reference moves along with the policy: at each record but the first,
       the policy at the record before is in its place.
    6. ``"swapped"``: It agrees when the two answers of each pair are exchanged, in all pairs. They are
       exchanged in the log only; the training was right.
    7. ``"unknown"``: None of these, also where two of these faults come together.

    Args:
        noted: (S, 2, B) float64, the implicit rewards in the log; S is 2 or more.
        policy: (S, 2, B, T) float64, the log-probability of each token, in nats. Nothing is to be shifted.
        reference: (2, B, T) float64, those of the reference in evaluation mode.
        dropout: (2, B, T) float64, those of the reference in train mode, as they were drawn in this run.
        place: (2, B, T) int64: 0 at tokens of the prompt, 1 at tokens of the answer, -1 at padding, which
            has log-probabilities, too. A row may have no prompt or no padding; it has an answer.
        beta: β, more than 0.

    Returns:
        The verdict, and two changes from the first to the last record: of the chosen, and of the margin.

    The first change is the mean right reward of the chosen answers at the last record, less the one at the
    first. The margin of a pair is the right reward of its chosen answer less the one of its rejected answer;
    the second change is that of its mean. Both use right rewards, whatever was noted.

    The functions of `myllm.finetuning` may not be used.

    Example:
        Each row is a prompt of one token and an answer of one. Both answers fall, the rejected one by more.
        The log has the prompt in its sum.

        >>> reference = torch.tensor([[[-1.0, -1.0]], [[-1.0, -1.0]]], dtype=torch.float64)
        >>> later = torch.tensor([[[-1.5, -1.25]], [[-1.5, -3.0]]], dtype=torch.float64)
        >>> noted = torch.tensor([[[0.0], [0.0]], [[-0.75], [-2.5]]], dtype=torch.float64)
        >>> place = torch.tensor([[[0, 1]], [[0, 1]]])
        >>> why_it_falls(noted, torch.stack([reference, later]), reference, later, place, 1.0)
        ('prompt', -0.25, 1.75)
    """
    # May not be called: myllm.finetuning.*.
    raise NotImplementedError


@exercise("21.3", "The best by another judge", points=7, minutes=30, difficulty=2, section="best-of-n")
def best_of(
    prompts: list[list[tuple[float, float, float]]], n: int, target: float, most: int
) -> dict[str, float]:
    """Count exactly what best-of-n gains and what it costs, where the judge that picks is not the truth.

    Each prompt is given by its possible answers. An answer has a probability under the policy π_ref, a score
    from the judge, and a worth, which the judge does not know.

    Best-of-n draws n answers independently from π_ref, with replacement, and keeps the one with the highest
    *score*. If several drawn ones have the highest score, it keeps the one that was drawn first. So it is
    a policy π of its own: π(y) is the probability that y is kept. For each prompt,

    - the expected worth is the sum of π(y) · worth(y) over its answers,
    - KL(π ‖ π_ref) is the sum of π(y) · log(π(y) / π_ref(y)) in nats, where an answer with π(y) = 0 adds 0.

    All means are over prompts, each of which counts the same.

    Args:
        prompts: One prompt or more, each with one answer or more, as (probability, score, worth). The
            probabilities of a prompt are 0 or more and add up to 1. Scores are equal if `==` says so, also
            where worths differ. The order of answers has no meaning.
        n: 1 to 10,000. So the probability of a poor answer to be kept may be too small for a float: then it
            is 0.
        target: The mean expected worth that is asked for. A number of draws reaches it if its mean expected
            worth is at least ``target`` - 1e-9.
        most: The largest number of draws that is tried, 1 to 100. It has nothing to do with ``n``.

    Returns:
        A dict of six numbers, as follows.

    - ``worth``: the mean expected worth of best-of-n, and ``score``, its mean expected score.
    - ``kl``: the mean of KL(π ‖ π_ref).
    - ``bound``: log n - (n - 1) / n, in nats.
    - ``needed``: the smallest number of draws from 1 to ``most`` that reaches the target, or 0 if none does.
      The worth need not grow with the draws.
    - ``peak``: the number of draws from 1 to ``most`` with the highest mean expected worth: the smallest one
      whose mean is at least the highest - 1e-9.

    The functions of `myllm.evaluation` and `myllm.finetuning` may not be used.

    Example:
        With two draws, both are the worst answer with probability 0.25. The two best answers tie.

        >>> answers = [(0.5, 1.0, 0.0), (0.25, 2.0, 1.0), (0.25, 2.0, 0.0)]
        >>> found = best_of([answers], 2, 0.45, 8)
        >>> {name: round(x, 4) for name, x in found.items()}
        {'worth': 0.375, 'score': 1.75, 'kl': 0.1308, 'bound': 0.1931, 'needed': 4, 'peak': 8}
    """
    # May not be called: myllm.finetuning.*, myllm.evaluation.*.
    raise NotImplementedError


@exercise("21.4", "Which checkpoint", points=6, minutes=25, difficulty=2, section="checkpoint-choice")
def choose_checkpoint(
    rows: list[dict[str, Any]], samples: int, seen: list[int], limit: float, factor: float
) -> tuple[int, dict[str, Any]]:
    """Choose a checkpoint of a run on pairs: by the task, the earliest that is as good as the best.

    Each row is one checkpoint. It was asked the same validation questions, and wrote ``samples`` answers to
    each.

    1. A question that stands in the training pairs does not count: the numbers of these questions are
       ``seen``. All that follows is about the n questions that are left.
    2. The share of a question is its right answers divided by ``samples``. The score of a checkpoint is the
       mean share over the n questions.
    3. A checkpoint is refused if the upper end of its interval for the KL divergence from the reference is
       above ``limit``. The others are allowed.
    4. The top is the allowed checkpoint with the highest score; of equal ones, the earliest.
    5. An allowed checkpoint is as good as the top if m ≤ ``factor`` · s / sqrt(n). Here m is the mean, and s
       the standard deviation (with n - 1), of the n differences, question by question: the share at the top
       less the share at the checkpoint. So the top is as good as itself, with m = s = 0.
    6. Choose the earliest allowed checkpoint that is as good as the top, also where some checkpoint between
       the two is not.

    Scores are compared as exact numbers: with right answers counted, not with rounded shares. The tests have
    no m that is equal to ``factor`` · s / sqrt(n), except where both are 0. Neither the loss on held-out
    pairs nor the test questions decide anything.

    Args:
        rows: In any order, one for each checkpoint, with ``update``, its number of updates, which no two
            rows share; ``right``, a list with the number of right answers to each validation question;
            ``kl``, the lower and the upper end of the interval, in nats; ``loss``, on held-out pairs;
            ``test``, the score on the test questions. The row with ``update`` 0, from before the first
            update, is always there, and its interval is (0.0, 0.0).
        samples: 1 or more.
        seen: Indices into ``right``, in any order, possibly none. Two questions or more are left.
        limit: 0 or more. An upper end of exactly ``limit`` is allowed.
        factor: More than 0.

    Returns:
        The ``update`` of the chosen checkpoint, and a dict with the reasons, as follows.

    - ``score``: the score of the chosen one.
    - ``top``: the ``update`` of the top.
    - ``behind``: (m, ``factor`` · s / sqrt(n)) of the chosen one; (0.0, 0.0) if it is the top.
    - ``refused``: the ``update`` of each refused checkpoint, in ascending order.
    - ``by_loss``: the ``update`` with the lowest loss of all rows, refused ones too; of equal ones, the
      earliest.
    - ``cost``: the score of the chosen one less the score of the one by loss.
    - ``test``: the test score of the chosen one.

    Example:
        The last one has the lowest loss. The second one is the top, and much better than the first.

        >>> names = "update", "right", "kl", "loss", "test"
        >>> table = [(0, [0, 1, 0, 1], (0.0, 0.0), 0.69, 0.2), (20, [2, 1, 2, 2], (0.5, 0.7), 0.5, 0.6)]
        >>> table += [(40, [1, 2, 1, 1], (0.9, 1.3), 0.4, 0.7)]
        >>> update, why = choose_checkpoint([dict(zip(names, row)) for row in table], 2, [1], 1.0, 2.0)
        >>> update, why["top"], why["refused"], why["by_loss"], why["cost"]
        (20, 20, [40], 40, 0.5)
    """
    # May not be called: myllm.finetuning.*, myllm.evaluation.*.
    raise NotImplementedError


@exercise("21.5", "A firm protocol", points=8, minutes=35, difficulty=3, section="evaluation-protocol")
def score_answers(texts: list[str], ended: list[bool], expected: str, k: int) -> dict[str, Any]:
    r"""Design a protocol for n answers to one question: extract each answer, then count pass@k and maj@k.

    The question has asked for a last line such as ``Answer: 3/4``. Whatever else a model writes must not pay.

    *Extraction.* A line ends at a line feed (``"\n"``) or at the end of the text, and nowhere else. Remove
    spaces (``" "``, no other white space) from both ends of each line; lines that are then empty do not
    count. An *answer line* begins with ``Answer:``. A text has a value if all of this holds:

    1. It has ended: its end token was written.
    2. It has exactly one answer line, and this is its last line that is not empty.
    3. What follows ``Answer:`` on this line, less spaces at both ends, is a number of at most 30 characters:
       digits; or digits, ``.`` and digits; or digits, ``/`` and digits; with or without one ``-`` directly
       before it. Digits are ``0`` to ``9``; any number of them may be zeros at the front. There is nothing
       else: no ``+``, no unit, no full stop at the end.
    4. It does not divide by 0.

    The extracted answer is the value in lowest terms, as ``str`` writes a `fractions.Fraction`: ``"3/4"`` for
    ``0.75`` and ``6/8``, ``"-2"`` for ``-2.0``, ``"0"`` for ``-0``. Without a value, it is the empty text.
    An answer is right if it has a value and this is exactly the expected value. ``0.333`` is not 1/3.

    *Counting.* Draw k of the n answers without replacement; all sets of k are equally likely.

    - pass@k is the probability that one or more of the k answers are right.
    - maj@k is the expected credit of their vote. Each answer with a value votes for its value, and the value
      with the most votes wins. If m values share the most votes, each of them wins 1/m. The credit is what
      the expected value wins: 1, 1/m or 0. If no answer has a value, the credit is 0.

    Args:
        texts: n answers without their end tokens, 1 to 12 of them.
        ended: For each, whether the end token was written.
        expected: The right answer, a number as in 3 and 4, not necessarily in lowest terms.
        k: 1 to n.

    Returns:
        ``answers``, the list of the n extracted answers; ``pass``, pass@k; ``maj``, maj@k.

    No text makes the function raise an exception. The functions of `myllm.evaluation` and `myllm.finetuning`
    may not be used, nor `eval` and `exec`.

    Example:
        The first two agree on a half, the third is cut, the fourth hedges.

        >>> texts = ["x = 1/2\nAnswer: 1/2", "Answer: 0.50", "Answer: 3", "Answer: 3\nAnswer: 1/2"]
        >>> score_answers(texts, [True, True, False, True], "1/2", 2)
        {'answers': ['1/2', '1/2', '', ''], 'pass': 0.8333333333333334, 'maj': 0.8333333333333334}
    """
    # May not be called: myllm.finetuning.*, myllm.evaluation.*, builtins.eval, builtins.exec.
    raise NotImplementedError
