"""Chapter 13, Decoding: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
from codecs import getincrementaldecoder
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("13.1", "Top-p with a floor", points=6, minutes=20, difficulty=2, section="filters")
def nucleus(logits: Tensor, p: float, least: int) -> Tensor:
    """Keep the most likely tokens that have probability p together, but never fewer than a given number.

    From each row, take the most likely token, then the next one, and so on, until their probabilities add up
    to p or more; the token with which the sum reaches p is kept, too. If these are fewer than ``least``,
    go on until there are that many. Where tokens are equally likely, the one with the lower id comes first.

    Args:
        logits: (B, V), of any floating-point dtype. B may be 0, V is 1 or more. Tokens that an earlier filter
            has removed have the logit -inf; each row has a token that is not removed.
        p: More than 0, and 1 at most.
        least: 1 or more; it may be more than V.

    Returns:
        The logits in their own order, shape and dtype, and -inf for each token that is not kept. What was
        removed before stays so. Compute the probabilities in float32 or float64, whatever the dtype of the
        logits. For full points, the number of tensor operations does not grow with B.

    The functions of `myllm.inference` may not be used.

    Example:
        In the first row, 3.0 has the probability 0.64, and with 2.0 it is 0.88. In the second row, 9.0 alone
        has more than 0.8, so 2.0 is kept because of ``least``.

        >>> nucleus(torch.tensor([[1.0, 3.0, 2.0, 0.0], [9.0, 0.0, 1.0, 2.0]]), 0.8, 2)
        tensor([[-inf, 3., 2., -inf],
                [9., -inf, -inf, 2.]])
    """
    # May not be called: myllm.inference.*.
    raise NotImplementedError


@exercise("13.2", "dog dog dog", points=7, minutes=25, difficulty=2, section="penalties")
def penalize(logits: Tensor, text: Tensor, start: Tensor, pad: int, value: float, window: int) -> Tensor:
    """Debug a repetition penalty: in a batch, the model still writes "dog dog dog".

    Each row of the batch is a prompt, what was generated after it, and pads on the right up to the length of
    the longest row. The penalty makes less likely what the row has generated lately: each token that occurs
    among its last ``window`` generated tokens, once or several times, gets its logit divided by ``value`` if
    that is positive, and multiplied by ``value`` if it is negative. Neither the prompt nor the pads count.

    This version has five faults; find and fix them. Each one that you fix earns points::

        recent = text[:, -window:]
        scores = logits.gather(1, recent)
        return logits.scatter(1, recent, scores / value)

    Args:
        logits: (B, V), float32 or float64. They stay as they are.
        text: (B, N) int64, ids from 0 to V - 1. N may be 0.
        start: (B,) int64, for each row the index of its first generated token, which is the length of its
            prompt. A row may have no generated token yet.
        pad: The id of the pads, which stands for nothing else in ``text``. The model gives it a logit like
            any other id, and this logit never changes.
        value: More than 0.
        window: How many tokens the penalty remembers, 0 or more; a row may have generated fewer.

    Returns:
        The new logits, (B, V).

    The functions of `myllm.inference` may not be used.

    Example:
        The first row has generated 1 and 3, the second one only 2; the pad is 0.

        >>> text = torch.tensor([[2, 2, 1, 3], [4, 2, 0, 0]])
        >>> logits = torch.tensor([[4.0, 4.0, 4.0, -4.0, -4.0], [4.0, 4.0, 4.0, -4.0, -4.0]])
        >>> penalize(logits, text, torch.tensor([2, 1]), 0, 2.0, 8)
        tensor([[4., 2., 4., -8., -4.],
                [4., 4., 2., -4., -4.]])
    """
    # May not be called: myllm.inference.*.
    raise NotImplementedError


@exercise("13.3", "What a beam costs", points=6, minutes=20, difficulty=2, section="beam")
def beam_cost(
    config: dict[str, int], prompt: int, finished: list[int], width: int, shared: bool
) -> dict[str, int]:
    """Count what a beam search computes, what it ranks, and the most that its cache holds.

    First the prompt runs through the model, in one row. Then each step does the following:

    1. It ranks the candidates: each beam that runs, followed by each id of the vocabulary. In the first
       step, only one beam runs, which is still empty.
    2. It keeps the best of them as the new beams, so many that there are ``width`` beams together with those
       that have finished before.
    3. Those of the new beams that end with a stop id have finished. Unlike on the page, a finished beam keeps
       its place among the ``width`` beams. It runs no more, and its part of the cache is freed.
    4. The last token of each beam that still runs goes through the model, in a row of its own. The last step
       leaves out 4, because nobody needs the scores.

    The cache holds a key and a value of each token that has run through the model, for each layer and each
    key-value head. Each beam that runs has its own copy of its new tokens. The prompt is held once if it is
    ``shared``; otherwise each beam that runs has a copy of it, of which one is the original.

    Args:
        config: The sizes of the model: ``layers``, ``heads`` (of queries), ``kv_heads``, ``head_dim``,
            ``vocab_size``, and ``number``, the bytes of one number in the cache.
        prompt: The tokens of the prompt, 1 or more.
        finished: For each step, of which there is at least one, how many of its new beams have finished. At
            least one beam runs after every step but the last.
        width: The beams, 1 or more, and no more than the vocabulary has ids.
        shared: Whether the beams share the keys and values of the prompt.

    Returns:
        A dict of exact integers: ``positions``, all that run through the model, which is the sum of rows
        times positions over all passes; ``candidates``, the sum over all steps; and ``bytes``, the most that
        the cache holds after any pass, that of the prompt included.

    The functions of `myllm.config` and `myllm.accounting` may not be used.

    Example:
        A token takes 64 bytes. Three beams run after the first step and two after the second. The cache holds
        10 tokens after the prompt, then 3 * 11, then 2 * 12.

        >>> config = {"layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "vocab_size": 100, "number": 2}
        >>> beam_cost(config, 10, [0, 1, 0], 3, False)
        {'positions': 15, 'candidates': 600, 'bytes': 2112}
    """
    # May not be called: myllm.config.*, myllm.accounting.*.
    raise NotImplementedError


@exercise("13.4", "Choose the settings", points=7, minutes=30, difficulty=3, section="greedy-and-sampling")
def choose_settings(
    task: dict[str, Any], runs: list[dict[str, Any]]
) -> tuple[str | None, dict[str, str | float]]:
    """Choose the settings of a sampler for a task, from measured runs, and give the evidence for each run.

    With the same settings, a run was made with one or several seeds. With each seed, n samples were written
    for each problem, and c of them were right. At temperature 0, all samples of a problem are equal with
    every seed, so a single one says everything. The rules, in this order:

    1. ``"seeds"``: drop a run with only one seed, unless its temperature is 0.
    2. ``"samples"``: if the task allows k attempts, drop a run with fewer than k samples for each problem,
       unless its temperature is 0.
    3. ``"quality"``: if the task wants variety, drop a run if the share of its samples that are right, over
       all problems and seeds, is below ``least``.
    4. Score what is left, with each seed. The score depends on the ``kind`` of the task:

       - ``"answer"``: one answer is given, and it should be right. The score is the share of samples that are
         right, over all problems.
       - ``"attempts"``: k attempts are made, and one right one is enough. The score is the mean of
         pass@k over the problems. Pass@k is the probability that at least one of k *different* samples,
         chosen at random from the n, is right. At temperature 0, all k attempts are the same.
       - ``"variety"``: the score is the distinct-2 that was measured.

    5. The best run has the highest mean score over its seeds; if several have it, the first in the table is
       the best. Another run is as good as the best unless all
       its scores are lower than all scores of the best. Of those as good, choose the run with the lowest
       temperature; if several have the lowest, the first in the table.

    Args:
        task: A dict with ``kind``, and with it ``k`` (1 or more) for ``"attempts"`` or ``least`` for
            ``"variety"``.
        runs: A table, in which each row is a dict: ``name``; ``temperature``; ``top_p``; ``n``, 1 or more;
            ``right``, for each seed a list with c for each problem; and ``distinct2``, one for each seed.
            Each seed has the same problems, of which there is at least one.

    Returns:
        The name of the chosen run, or None if rules 1 to 3 drop all; and a dict that gives for the name of
        each run the rule that dropped it, or its mean score, a float.

    Example:
        At temperature 0, one of two problems is solved. At temperature 1, two of four samples are right for
        each problem. Of the six pairs of different samples, five have a right one.

        >>> cold = {"name": "cold", "temperature": 0, "top_p": 1.0, "n": 1, "right": [[1, 0]]}
        >>> warm = {"name": "warm", "temperature": 1, "top_p": 0.9, "n": 4, "right": [[2, 2], [2, 2]]}
        >>> runs = [cold | {"distinct2": [0.3]}, warm | {"distinct2": [0.8, 0.7]}]
        >>> choose_settings({"kind": "attempts", "k": 2}, runs)
        ('warm', {'cold': 0.5, 'warm': 0.8333333333333334})
    """
    raise NotImplementedError


@exercise("13.5", "A streamer for any tokenizer", points=7, minutes=30, difficulty=3, section="streaming")
class Streamer:
    r"""Design a class that turns the bytes of tokens into text as soon as the text is certain.

    ``push`` is called with the bytes of each new token and returns the text that can be shown now; ``end`` is
    called once, at last, and returns the rest. What they return must satisfy this contract, however the bytes
    are cut into tokens:

    - Joined, the pieces are the text of all bytes up to the first stop string in it, which is left out with
      everything behind it. The text is what ``bytes.decode("utf-8", errors="replace")`` gives for all bytes
      together.
    - Nothing is taken back: no half character is shown, and no part of a stop string.
    - Nothing is held back that is certain. A byte is held back only as long as it depends on what follows
      whether it becomes a character, or whether it is part of a stop string. In ``"ab"`` followed by the
      first byte of ``"é"``, the stop string ``"abc"`` is no longer possible, so ``"ab"`` is shown at once.

    After a stop string, ``push`` and ``end`` return an empty text. Bytes may be invalid UTF-8 (but no encoded
    surrogates, 0xED and then 0xA0 or more), and a token may have no bytes. The functions of `myllm.inference`
    and `myllm.tokenizers` may not be used.

    Args:
        stops: The stop strings, of any characters but U+FFFD. None is empty, and none contains another one.
            There may be none at all.

    Example:
        >>> streamer = Streamer(["END"])
        >>> [streamer.push(data) for data in (b"caf\xc3", b"\xa9 E", b"N.")]
        ['caf', 'é ', 'EN.']
        >>> streamer.end()
        ''
    """

    def __init__(self, stops: list[str]) -> None:
        # May not be called: myllm.inference.*, myllm.tokenizers.*.
        raise NotImplementedError

    def push(self, data: bytes) -> str:
        """Take the bytes of a token; return the text that is certain now and was not before."""
        raise NotImplementedError

    def end(self) -> str:
        """Return what is left when no more bytes follow."""
        raise NotImplementedError
