"""Chapter 1, A first model: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("01.1", "Count bigrams", points=5, minutes=15, difficulty=1, section="counting-pairs")
def bigram_counts(text: str, alphabet: str) -> Tensor:
    """Count how often each character follows each character, in a text with unknown characters.

    A character that is not in ``alphabet`` leaves a gap: no pair that contains it is counted, and its two
    neighbours do not become a pair.

    Args:
        text: Any text. It may be empty, and a pair may occur in it thousands of times.
        alphabet: V distinct characters, with V at least 1, in any order; a character's index is its position
            here. Capital and small letters are different characters.

    Returns:
        (V, V) int64. Row = previous character, column = next character.

    Example:
        The pairs are ``aa``, ``ab`` and, after the gap, ``bb``.

        >>> bigram_counts("aab?bb", "ab")
        tensor([[1, 1],
                [0, 1]])
    """
    raise NotImplementedError


@exercise("01.2", "Test a score", points=7, minutes=25, difficulty=3, section="scoring-a-text")
def is_right(score: Callable[[Tensor, Tensor, int], Any]) -> bool:
    """Decide whether a function that scores texts is correct, by calling it.

    ``score(probabilities, ids, n_bytes)`` should return a tuple of two floats: the perplexity of a text and
    its bits per byte. ``probabilities`` is (V, V) float32, row = previous character, column = next character,
    and each row sums to 1. ``ids`` is (N,) int64, with N at least 2. The first character is not predicted,
    and ``n_bytes`` is the number of bytes of all the others. If the table gives some pair of the text the
    probability 0, both numbers are infinite.

    Your answer is a test, and it is graded as one: it must accept every correct function and reject every
    incorrect one. A correct function has a relative error of less than 0.00001. Every wrong one shows its
    fault for some table with V from 2 to 5, some text of at most 1,000 characters and some ``n_bytes`` from
    N - 1 to 4 * (N - 1): it returns numbers that are off by more than one percent, returns something other
    than a tuple of two floats, raises an exception, or changes its arguments.

    Args:
        score: The function to test.

    Returns:
        True if it is right, False if it is wrong.

    Example:
        >>> def hopeful(probabilities, ids, n_bytes):
        ...     return 1.0, 0.0
        >>> is_right(hopeful)
        False
    """
    # May not be called: myllm.evaluation.*.
    raise NotImplementedError


@exercise("01.3", "Fix the smoothing", points=6, minutes=20, difficulty=2, section="smoothing")
def smoothed(counts: Tensor, k: float, alpha: float) -> Tensor:
    """Debug a smoothing function whose extra counts follow the frequencies: its rows do not sum to 1.

    Additive smoothing gives each pair of a row equally many extra counts. Here a row gets ``k`` extra counts
    in all, shared among the next characters in proportion to how often each follows any character: with
    m[b] = the sum of column b, plus alpha, the share of b is q[b] = m[b] / (the sum of m). Then P[a, b] is
    counts[a, b] + k * q[b], divided by the sum of this over b. This version has six mistakes::

        m = counts.sum(dim=1) + alpha
        q = m / counts.sum()
        return (counts + k * q[:, None]) / counts.sum(dim=1)

    Args:
        counts: (V, V) int64, V 1 or more. Row = previous character, column = next character; no count exceeds
            2**40. It is not changed.
        k: 0 or more, the extra counts of each row.
        alpha: More than 0, added to the sum of each column.

    Returns:
        (V, V) float32. Each row sums to 1. A row without any counts is equal to q, even if ``k`` is 0.

    Example:
        The columns sum to 2 and 6; adding alpha gives 3 and 7, so q is 0.3 and 0.7. The first row becomes
        (2 + 1.2) / 12 and (6 + 2.8) / 12.

        >>> smoothed(torch.tensor([[2, 6], [0, 0]]), 4.0, 1.0)
        tensor([[0.2667, 0.7333],
                [0.3000, 0.7000]])
    """
    raise NotImplementedError


@exercise("01.4", "One score for many texts", points=5, minutes=10, difficulty=1, section="scoring-a-text")
def total_bits(parts: list[dict[str, Any]]) -> float:
    """Compute the bits per byte of several texts together, each scored in its own unit.

    A dict describes each text. ``bytes`` is the length of the predicted text and ``tokens`` the number of
    predicted tokens, both 1 or more; ``value`` is a number in the unit that ``unit`` names:

    - ``"nats"`` or ``"bits"``: the mean negative log-likelihood of a predicted token;
    - ``"perplexity"``: the perplexity per predicted token;
    - ``"file"``: the size in bytes of the text after compression; such a dict has no ``tokens``.

    Args:
        parts: The dicts, at least one. A value in nats or bits, or a perplexity, may be infinite. A
            perplexity is at least 1, every other value at least 0.

    Returns:
        The bits that all texts cost, divided by the bytes of all texts: a Python float, infinite if a text
        has probability zero.

    Raises:
        ValueError: A unit is not one of the four.

    Example:
        Three tokens of perplexity 4 cost 6 bits; a file of one byte has 8.

        >>> poem = {"unit": "perplexity", "value": 4.0, "tokens": 3, "bytes": 5}
        >>> total_bits([poem, {"unit": "file", "value": 1, "bytes": 2}])
        2.0
    """
    raise NotImplementedError


@exercise("01.5", "Choose a context", points=7, minutes=20, difficulty=2, section="smoothing")
def choose_context(
    candidates: list[dict[str, Any]], works: list[str], alphabet_size: int, budget: int, margin: float
) -> tuple[str | None, dict[str, str]]:
    """Choose among count tables by their scores on held-out text, and say why the others were rejected.

    A model with a context of c characters is a table with a number for each run of c characters and each next
    character; the bigram model has c = 1. A number takes 4 bytes. The rules, in this order:

    1. ``"leak"``: drop a model if some work that it was scored on was used to count its table or to choose
       its alpha.
    2. ``"texts"``: drop a model if it was not scored on exactly the works that all are compared on.
    3. ``"memory"``: drop a model if its table takes more than ``budget`` bytes.
    4. ``"score"``: of what is left, the best model has the fewest bits per byte on all works together. Drop a
       model if its score is more than ``margin`` bits per byte above the best.
    5. ``"context"``: of what is left, choose the model with the shortest context. If several have it, choose
       the one with the fewest bits per byte, and if these are equal too, the first. Drop the others.

    Args:
        candidates: A table, in which each row is a dict: ``name``; ``context``, c, 0 or more; ``counted`` and
            ``tuned``, lists of the works that were used to count its table and to choose its alpha; and
            ``scores``, a dict that maps each work that the model was scored on to a pair: the bits that the
            whole work costs, which may be infinite, and its bytes.
        works: The works that all are compared on, in any order.
        alphabet_size: V, the number of characters in the alphabet.
        budget: Bytes of memory.
        margin: 0 or more, bits per byte.

    Returns:
        The name of the chosen model, or None if rules 1 to 3 drop all, and a dict that maps the name of
        every other model to the rule that dropped it.

    Example:
        >>> one = {"name": "one", "context": 1, "counted": ["macbeth"], "tuned": []}
        >>> two = {"name": "two", "context": 2, "counted": ["hamlet"], "tuned": []}
        >>> scores = {"hamlet": (300.0, 100)}
        >>> choose_context([one | {"scores": scores}, two | {"scores": scores}], ["hamlet"], 84, 10**6, 0.01)
        ('one', {'two': 'leak'})
    """
    raise NotImplementedError
