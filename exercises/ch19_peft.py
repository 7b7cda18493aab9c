"""Chapter 19, Low-rank adapters: the exercises. Replace ``raise NotImplementedError`` with your answer."""

import math

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("19.1", "An adapter that starts late", points=6, minutes=25, difficulty=2, section="lora-scale")
def adapted(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    changes: list[tuple[int, Tensor, Tensor, float]],
    root: bool,
    start: Tensor,
) -> Tensor:
    """Compute a layer of GPT-2 with low-rank changes that act on some outputs, from some position on.

    GPT-2 stores a weight with a row for each *input*, so that y = x W + b. Queries, keys and values are one
    layer: they are neighbouring columns of y, and each may have changes of its own.

    A change is a tuple of ``first``, A, B and ``alpha``. A is (r, K) and B is (n, r), as in the chapter. It
    acts on n columns of y, from the column ``first`` on. Its scale is alpha / r, or alpha / sqrt(r) if
    ``root``; the ranks of the changes may differ. Changes that act on the same columns add up.

    All changes act on the text b from the position ``start[b]`` on, this one included. At the positions
    before it, the output is that of the base, so that what is cached of them serves every adapter; this
    holds even if training has made a change NaN or infinite.

    Args:
        x: (B, T, K), float32 or float64, like all other tensors except ``start``.
        weight: (K, N).
        bias: (N,).
        changes: Any number of changes, also none.
        root: Which scale all changes have.
        start: (B,) int64, from 0 to T, both included.

    Returns:
        (B, T, N). A and B are trained, so gradients must reach them.

    No loop over texts or positions, and A and B are never multiplied with each other. The functions of
    `myllm.finetuning` may not be used.

    Example:
        The change acts on the second column, and from position 1 on: 1 + 6 / 2 · (1 + 1) = 7.

        >>> x, weight, bias = torch.ones(1, 2, 1), torch.ones(1, 2), torch.zeros(2)
        >>> change = (1, torch.ones(2, 1), torch.ones(1, 2), 6.0)
        >>> adapted(x, weight, bias, [change], False, torch.tensor([1]))
        tensor([[[1., 1.],
                 [1., 7.]]])
    """
    # May not be called: myllm.finetuning.*.
    raise NotImplementedError
