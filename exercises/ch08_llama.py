"""Chapter 8, LLaMA: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("08.1", "RMSNorm", points=5, minutes=10, difficulty=1, section="rmsnorm")
def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: bool = False) -> Tensor:
    """Scale each position to a mean square of 1, then stretch it by learned numbers.

    A position is the last dimension. PyTorch's own normalizations may not be used.

    Args:
        x: (…, C) floating point.
        weight: (C,), with the dtype of ``x``.
        eps: added to the mean square, inside the root.
        offset: False: each number of a normalized position is multiplied by ``weight``. True: by
            ``1 + weight``, as in Gemma.

    Returns:
        (…, C), with the dtype of ``x``. Numbers of 16 bits are computed in float32 and rounded once, at the
        end, after the weight. For full points the number of tensor operations does not grow with the number
        of positions or texts.

    Example:
        The mean square of 1 and 7 is 25, and 25 + 75 has the root 10.

        >>> rms_norm(torch.tensor([[1.0, 7.0], [0.0, 0.0]]), torch.tensor([1.0, 2.0]), 75.0)
        tensor([[0.1000, 1.4000],
                [0.0000, 0.0000]])
    """
    # May not be called: myllm.model.*, torch.rms_norm, torch.layer_norm, torch.native_layer_norm,
    # torch.group_norm, torch.native_group_norm, torch.nn.functional.rms_norm,
    # torch.nn.functional.layer_norm, torch.nn.functional.group_norm, torch.nn.functional.normalize.
    raise NotImplementedError


@exercise("08.2", "Rotary positions", points=6, minutes=20, difficulty=3, section="rope")
def rotate_pairs(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn the pairs of numbers of each query or key by angles that grow with its position.

    Number i of a head and number ``i + D / 2`` are a pair, a point in the plane (i is 0 to ``D / 2 - 1``).
    At position p it is turned by the angle ``p * theta ** (-2 * i / D)``, in radians, anticlockwise: a point
    (1, 0) goes towards (0, 1).

    Args:
        x: (B, H, T, D) floating point, D even.
        positions: (T,) int64, the position of each token, 0 or more.
        theta: the base, larger than 1.

    Returns:
        (B, H, T, D), with the dtype of ``x``. For full points the angles are computed in float64, so that
        they are right at position 100,000 too, and the number of tensor operations does not grow with T.

    Example:
        With one pair there is one angle, the position itself.

        >>> rotate_pairs(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), torch.tensor([0, 2]), 10_000.0)
        tensor([[[[ 1.0000,  0.0000],
                  [-0.4161,  0.9093]]]])
    """
    # May not be called: myllm.model.*.
    raise NotImplementedError


@exercise("08.3", "SwiGLU", points=4, minutes=10, difficulty=1, section="swiglu")
def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Let one projection of each position decide how much of another one passes, and narrow the result.

    The gate is bent by SiLU, ``g * sigmoid(g)``. PyTorch's own ``silu``, ``glu`` and ``linear`` may not be
    used, nor the layers that call them.

    Args:
        x: (…, C) floating point, of any size.
        gate: (F, C), as ``nn.Linear`` keeps it: row j makes number j of the gate.
        up: (F, C), for what passes the gate.
        down: (C, F), back to the width of ``x``.

    Returns:
        (…, C). There are no biases. For full points each of the three matrix products is computed once, for
        all positions together.

    Example:
        The gate is 1, of which SiLU makes about 0.7311; the number that passes is 2.

        >>> gate, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> down = torch.tensor([[1.0], [10.0]])
        >>> swiglu(torch.tensor([1.0, 2.0]), gate, up, down)
        tensor([ 1.4621, 14.6212])
    """
    # May not be called: myllm.model.*, torch.nn.functional.linear, torch.nn.functional.silu,
    # torch.nn.functional.glu.
    raise NotImplementedError


@exercise("08.4", "Scale the frequencies", points=4, minutes=15, difficulty=2, section="scaling")
def llama3_frequencies(freq: Tensor, factor: float, original_context: int, low: float, high: float) -> Tensor:
    """Slow down rotary frequencies for longer texts, as LLaMA 3.1 does.

    What counts is how many full turns a pair makes within the original context. A pair that makes ``high``
    turns or more keeps its frequency f. One that makes ``low`` turns or fewer gets ``f / factor``. In between
    the result goes in a straight line with the number of turns, from ``f / factor`` at ``low`` turns to f at
    ``high`` turns.

    Args:
        freq: (n,) float64, the frequencies in radians per position, in any order.
        factor: 1 or more.
        original_context: how many tokens the texts had in training.
        low: 0 or more.
        high: more than ``low``.

    Returns:
        (n,) float64. For full points the number of tensor operations does not grow with n.

    Example:
        In 100 tokens these pairs make 10, 2.5 and 1 turns.

        >>> freq = 2 * math.pi * torch.tensor([0.1, 0.025, 0.01], dtype=torch.float64)
        >>> llama3_frequencies(freq, 8.0, 100, 1.0, 4.0) / (2 * math.pi)
        tensor([0.1000, 0.0141, 0.0013], dtype=torch.float64)
    """
    # May not be called: myllm.model.*, transformers.*.
    raise NotImplementedError
