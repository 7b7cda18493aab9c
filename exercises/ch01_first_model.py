"""Chapter 1, A first model: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("01.1", "Count bigrams", points=5, minutes=10, difficulty=1, section="counting-pairs")
def bigram_counts(text: str, alphabet: str) -> Tensor:
    """Count how often each character follows each other one.

    Args:
        text: any text whose characters all stand in ``alphabet``.
        alphabet: V different characters; a character's index is its place here.

    Returns:
        (V, V) int64. Row = previous character, column = next character.

    Example:
        >>> bigram_counts("aabb", "ab")
        tensor([[1, 1],
                [0, 1]])
    """
    raise NotImplementedError


@exercise("01.2", "Score a text", points=6, minutes=15, difficulty=2, section="scoring-a-text")
def nll_and_perplexity(probabilities: Tensor, ids: Tensor) -> tuple[float, float]:
    """Say how well a table of probabilities predicts a text.

    The first character has nothing before it and is not predicted: N characters are N - 1 predictions.

    Args:
        probabilities: (V, V) float. Row = previous character, column = next character; each row sums to 1.
        ids: (N,) int64. The text, each character as its index.

    Returns:
        Two Python floats: the mean negative log-likelihood in nats per predicted character, and the
        perplexity, which is e to that power. A text with an impossible pair (probability 0) gives
        ``(inf, inf)``. For full points the number of tensor operations does not grow with N.

    Raises:
        ValueError: ``ids`` holds fewer than two characters, so there is nothing to predict.

    Example:
        Predicted are 1 after 0 (probability 0.5), then 0 after 1 (0.125): (ln 2 + ln 8) / 2 = ln 4.

        >>> table = torch.tensor([[0.5, 0.5], [0.125, 0.875]])
        >>> nll_and_perplexity(table, torch.tensor([0, 1, 0]))
        (1.3862943611198906, 4.0)
    """
    # May not be called: myllm.evaluation.*, torch.nn.functional.cross_entropy,
    # torch.nn.functional.nll_loss.
    raise NotImplementedError


@exercise("01.3", "Smooth the counts", points=5, minutes=10, difficulty=2, section="smoothing")
def smoothed(counts: Tensor, alpha: float) -> Tensor:
    """Turn counts into probabilities as if every pair had been seen ``alpha`` times more.

    Args:
        counts: (V, V) int64. Row = previous character, column = next character. It is not changed.
        alpha: 0 or more, added to each of the V * V counts.

    Returns:
        (V, V) float32. Each row sums to 1. A row that has no count even after ``alpha`` was added is uniform:
        1 / V everywhere.

    Example:
        >>> smoothed(torch.tensor([[5, 1], [0, 0]]), 1.0)
        tensor([[0.7500, 0.2500],
                [0.5000, 0.5000]])
    """
    raise NotImplementedError
