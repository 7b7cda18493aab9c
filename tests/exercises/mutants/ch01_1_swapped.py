# exercise: 01.1
# hint: rows and columns swapped
"""Chapter 1, A first model: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

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
        >>> bigram_counts("abba", "ab")
        tensor([[0, 1],
                [1, 1]])
    """
    # SOLUTION
    index = {character: i for i, character in enumerate(alphabet)}
    ids = torch.tensor([index[character] for character in text], dtype=torch.int64)
    counts = torch.zeros(len(alphabet), len(alphabet), dtype=torch.int64)
    if len(ids) > 1:
        ones = torch.ones(len(ids) - 1, dtype=torch.int64)
        counts.index_put_((ids[1:], ids[:-1]), ones, accumulate=True)
    return counts
    # END SOLUTION
