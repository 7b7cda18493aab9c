"""Chapter 2, Data: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("02.1", "Shifted targets", points=5, minutes=10, difficulty=1, section="windows")
def shifted(tokens: Tensor, starts: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Cut windows out of a row of tokens: what the model reads, and what it has to predict.

    Args:
        tokens: (N,) int64. The text.
        starts: (B,) int64. Where each window begins, in any order; B may be 0.
        block_size: T, the length of a window, 1 or more.

    Returns:
        ``(x, y)``, both (B, T) int64. Row b of x holds the T tokens from ``starts[b]`` on; y holds for each
        of them the token that comes next in the text. Every window and its last target lie in the text. For
        full points the number of tensor operations does not grow with B.

    Example:
        >>> tokens = torch.tensor([10, 11, 12, 13, 14, 15])
        >>> x, y = shifted(tokens, torch.tensor([2, 0]), 3)
        >>> x
        tensor([[12, 13, 14],
                [10, 11, 12]])
        >>> y
        tensor([[13, 14, 15],
                [11, 12, 13]])
    """
    # May not be called: myllm.data.*.
    raise NotImplementedError


@exercise("02.2", "Count the windows", points=4, minutes=10, difficulty=2, section="windows")
def count_windows(n: int, block_size: int, stride: int) -> int:
    """Say how many windows a text has.

    A window is ``block_size`` tokens together with the one that follows them, the last target; all of these
    lie in the text. The first window begins at the first token, each other one ``stride`` tokens after the
    one before it.

    Args:
        n: the number of tokens in the text, 0 or more.
        block_size: the tokens that a window reads, 1 or more.
        stride: how far one window begins after the one before, 1 or more; it may exceed ``block_size``.

    Returns:
        The number of windows; 0 where not even one fits. For full points, calculate it without going through
        the text, and exactly, also for 10**18 tokens.

    Example:
        Of the tokens 0 to 8, windows of 4 that begin at 0, 2 and 4 have the last targets 4, 6 and 8. A window
        that begins at 6 would need the tokens up to 10.

        >>> count_windows(9, 4, 2)
        3
    """
    # May not be called: myllm.data.*.
    raise NotImplementedError


@exercise("02.3", "Documents in a row", points=6, minutes=15, difficulty=2, section="packing")
def documents_and_positions(lengths: list[int], block_size: int) -> tuple[Tensor, Tensor]:
    """Say for each place of a packed row which document its token belongs to, and where in that document.

    The documents lie in the row one after the other, in the order given; what is left at the end is padding.

    Args:
        lengths: the number of tokens of each document; possibly none. A document may be empty.
        block_size: T, the length of the row, 1 or more.

    Returns:
        ``(document, position)``, both (T,) int64. Documents are numbered from 0 in the order of ``lengths``;
        an empty one takes no room, but keeps its number. Positions begin at 0 in each document. On padding
        the document is -1 and the position 0.

    Raises:
        ValueError: the documents together are longer than the row.

    Example:
        Document 0 has two tokens, document 1 none, document 2 three; one place is left.

        >>> document, position = documents_and_positions([2, 0, 3], 6)
        >>> document
        tensor([ 0,  0,  2,  2,  2, -1])
        >>> position
        tensor([0, 1, 0, 1, 2, 0])
    """
    # May not be called: myllm.data.*.
    raise NotImplementedError
