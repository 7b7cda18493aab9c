"""Chapter 15, Int8: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
from collections.abc import Iterable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("15.1", "Scale and zero point", points=5, minutes=15, difficulty=2, section="grid")
def grid(lo: float, hi: float, bits: int, reserve: int) -> tuple[float, int]:
    """Find the scale and the zero point of an asymmetric grid that keeps its lowest codes free.

    Numbers from ``lo`` to ``hi`` are stored in codes from 0 to 2^bits - 1. The lowest ``reserve`` codes stand
    for special values, such as "missing", so no number may get one of them. All other codes are for numbers:
    a code c means the number scale * (c - zero).

    1. Extend the range by as little as possible so that it holds the number 0.
    2. The first code for numbers means the lower end of this range, the last code the upper end (before the
       zero point is rounded). This determines the scale. If the range has no width, the scale is 1.0.
    3. There must be a code that means exactly 0, so the zero point is a whole number. Divide the distance
       from the lower end to 0 by the scale, and round it, halves to the even number. This is how many steps
       the zero point lies above the first code for numbers.

    Args:
        lo: The smallest number.
        hi: The largest number. Both may be positive, both negative, both equal. If they are not 0, their
            magnitudes lie between 1e-30 and 1e30.
        bits: 2 to 16.
        reserve: From 0 to 2^bits - 2.

    Returns:
        The scale, a float, and the zero point, an int.

    Raises:
        ValueError: lo is larger than hi, or one of them is infinite or NaN.

    The functions of `myllm.quantization` may not be used.

    Example:
        Codes 1 to 7 are for numbers and have 6 steps between them. From -1 up to 0 there are 2 steps, so the
        code 3 means 0.

        >>> grid(-1.0, 2.0, 3, 1)
        (0.5, 3)
    """
    # May not be called: myllm.quantization.*.
    raise NotImplementedError


@exercise("15.2", "Answers that depend on neighbours", points=7, minutes=30, difficulty=2, section="w8a8")
def dynamic_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Debug a linear layer in W8A8: what it returns for a row depends on the other rows of the batch.

    The weight is stored as int8 codes, with one scale for each row of the weight. The activations are
    quantized when they arrive, each vector of K numbers by itself: its largest magnitude gets the code 127 or
    -127, and the others are rounded to the nearest code. The codes are multiplied and summed exactly, as
    integers. Then the sums are scaled, and the bias is added. All floating-point arithmetic is in float32,
    and only the result is rounded to the dtype of x.

    This version has seven faults; find and fix them. Most of them earn points by themselves::

        largest = x.abs().max().clamp(min=0.01)
        step = largest / 128
        q = (x / step).to(torch.int8).clamp(-127, 127)
        sums = q @ codes.T
        return (sums + bias) * step * scale

    Args:
        x: (..., K), float32, bfloat16 or float16, with any number of dimensions before the last one; any of
            them may be 0. A vector may be all zeros, and its result is then the bias. It may also be very
            small, down to magnitudes of 1e-6, and keeps its precision.
        codes: (N, K) int8, from -127 to 127.
        scale: (N,) float32.
        bias: (N,) float32.

    Returns:
        (..., N), in the dtype of x. The tests avoid numbers within a thousandth of a step of the middle
        between two codes.

    The functions of `myllm.quantization` may not be used.

    Example:
        The steps of the two vectors are 1 and 0.01. Their sums are 127 + 2 * 40 and 127 + 2 * 64.

        >>> x = torch.tensor([[127.0, 40.2], [1.27, 0.64]])
        >>> codes, scale = torch.tensor([[1, 2]], dtype=torch.int8), torch.tensor([0.5])
        >>> dynamic_linear(x, codes, scale, torch.tensor([10.0]))
        tensor([[113.5000],
                [ 11.2750]])
    """
    # May not be called: myllm.quantization.*.
    raise NotImplementedError


@exercise("15.3", "Where the bytes go", points=6, minutes=25, difficulty=2, section="granularity")
def bytes_of(config: dict[str, Any], scheme: dict[str, Any]) -> dict[str, int]:
    """Count the bytes of a model whose linear layers are quantized, and what one decode step reads of them.

    Each layer of the model has seven linear layers without biases: queries, keys, values and the output of
    attention, and gate, up and down of the feed-forward network, where gate and up have the same shape. It
    also has two RMSNorms with a gain for each of the ``hidden`` dimensions; one more stands before the head.
    The head has the same shape as the embedding.

    - The linear layers of all layers are quantized. Each row of a weight, which belongs to one output, begins
      with a new byte; its codes are packed without gaps, so its last byte may be filled in part.
    - A scale is shared by the whole weight (``"tensor"``), by a row (``"row"``), or by a group of so many
      numbers in a row. The last group of a row may be smaller. An asymmetric grid also has a zero point of
      one byte for each scale.
    - The embedding and the gains are not quantized.
    - If the scheme quantizes the head, it is stored like a linear layer, with a scale for each row, group or
      tensor. A tied head is untied for this, and the embedding keeps its table. Otherwise, the head is stored
      as it is, and a tied one needs no bytes of its own.
    - Activations may be quantized while they pass through the model. Nothing of that is stored.

    Args:
        config: ``layers``, ``hidden``, ``heads`` (of queries), ``kv_heads``, ``head_dim``, ``ffn`` (the width
            of the feed-forward network), ``vocab_size``, and ``tied``, a bool.
        scheme: ``bits`` of a code, 2 to 8; ``group``, "tensor", "row" or an int, which need not divide the
            length of a row and may exceed it; ``symmetric``, a bool; ``head``, whether the head is quantized;
            ``number``, the bytes of a scale and of each number that is not quantized; and ``activations``,
            the bits of an activation.

    Returns:
        A dict of six ints, all in bytes: ``weights``, the codes of the linear layers without the head;
        ``scales``, their scales and zero points; ``embedding``; ``head``, all that is stored for it alone;
        ``total``, all that is stored, the gains included; and ``read``, the bytes that a decode step with one
        token reads. It reads each stored byte once, but of the embedding it reads only the row of its token,
        unless the head shares the table.

    The functions of `myllm.quantization`, `myllm.config` and `myllm.accounting` may not be used.

    Example:
        Each row of 5 codes of 4 bits takes 3 bytes. There are 2 + 1 + 1 rows of 5, and 5 of 2; 3 + 3 of 5,
        and 5 of 3. Each of these 20 rows has a scale of 2 bytes.

        >>> config = {"layers": 1, "hidden": 5, "heads": 2, "kv_heads": 1, "head_dim": 1, "ffn": 3}
        >>> scheme = {"bits": 4, "group": "row", "symmetric": True, "number": 2, "activations": 16}
        >>> bytes_of(config | {"vocab_size": 10, "tied": True}, scheme | {"head": False})
        {'weights': 45, 'scales': 40, 'embedding': 100, 'head': 0, 'total': 215, 'read': 215}
    """
    # May not be called: myllm.quantization.*, myllm.config.*, myllm.accounting.*.
    raise NotImplementedError


@exercise("15.4", "Which kernel for which batch", points=6, minutes=25, difficulty=2, section="int8-speed")
def choose_kernel(
    runs: list[dict[str, Any]], case: dict[str, Any]
) -> tuple[str | None, int | None, dict[str, str | float]]:
    """Choose a scheme for a case from measured times, say where the choice switches, and give the evidence.

    Each scheme was timed with several numbers of rows, and several times with each of them. The first time of
    each list is a warm-up and counts nowhere. The rules:

    1. ``"bytes"``: drop a scheme that needs more bytes than the case has.
    2. ``"change"``: drop a scheme that raises the perplexity by more than the case allows. A perplexity that
       falls is no reason to drop it.
    3. A pass of the model processes all tokens of all texts of the batch: batch times tokens rows. If this
       number of rows was not measured, it is padded up to the next one that was. ``"rows"``: if there is
       none, nobody knows the time, and every scheme is dropped that rules 1 and 2 have left.
    4. The fastest scheme has the smallest median of its times; the first in the table, if several have it.
       Another one is as fast unless all its times are longer than all times of the fastest. Of those that
       are as fast, choose the one with the fewest bytes; the first in the table, if several have the fewest.

    Args:
        runs: A table of one row or more. Each is a dict: ``scheme``, its name; ``bytes``; ``change``, by how
            many percent the perplexity is higher than in 32 bits; and ``ms``, a dict from a number of rows to
            a list of times, two or more. All schemes were measured with the same numbers of rows, in any
            order.
        case: A dict: ``batch``, how many texts there are; ``tokens``, how many tokens of each text pass at
            once: 1 while it is generated, and all tokens of a prompt; ``bytes`` and ``change``, the limits.

    Returns:
        Three values. The name of the chosen scheme, or None if the rules drop all. The smallest measured
        number of rows at which rule 4 chooses another scheme than at the smallest number of rows of all,
        among those that rules 1 and 2 leave; None if there is no such number. And a dict that gives for
        each scheme the rule that dropped it, or its median time in this case, a float.

    Example:
        A batch of 4 is padded up to 32 rows, where multiplying fp32 numbers is faster.

        >>> fp32 = {"scheme": "fp32", "bytes": 400, "change": 0.0, "ms": {1: [9, 4, 4], 32: [9, 5, 6]}}
        >>> int8 = {"scheme": "int8", "bytes": 104, "change": 0.1, "ms": {1: [5, 1, 2], 32: [12, 10, 11]}}
        >>> case = {"batch": 4, "tokens": 1, "bytes": 500, "change": 1.0}
        >>> choose_kernel([fp32, int8], case)
        ('fp32', 32, {'fp32': 5.5, 'int8': 10.5})
    """
    raise NotImplementedError


@exercise("15.5", "A calibration set", points=7, minutes=30, difficulty=3, section="outliers")
def calibrate(activations: Iterable[tuple[str, Tensor]], budget: int) -> float:
    """Design how to find the range of a layer's activations, from a stream of them.

    With static quantization, a layer has one fixed scale for all activations that it will ever see. It is
    computed in advance from activations on some texts: numbers beyond the bound b, below -b or above b, are
    clipped; the others are rounded to multiples of b / 127. You return the bound. Any method is right that
    keeps these rules:

    1. *Only training text*: batches from another split than ``"train"`` change nothing. Numbers measured on
       the test text would flatter the model.
    2. *Coverage*: at most 2 % of the numbers in all training batches together are clipped.
    3. *Resolution*: at least 0.1 % of them are clipped. Otherwise, a single outlier could make the steps so
       wide that all other numbers round to 0.
    4. *One pass*: the stream can be iterated over once. Each batch is written into the memory of the one
       before, so copy what you keep.
    5. *Memory*: from one batch to the next, you keep at most ``budget`` numbers, counters included. This does
       not include the present batch and what you compute from it alone.
    6. *Repeatable*: the same stream always gives the same bound.
    7. If all training numbers are 0, or there are none, the bound is 1.0.

    Args:
        activations: Pairs of the name of a split and a batch, (R, K), of any floating-point dtype and of
            any size; R may be 0. There are several texts, one after the other. They may differ in length, and
            the magnitudes of their numbers may differ by far. There are 5,000 training numbers or more that
            are not 0, or none. At most half of all training numbers are 0; other values hardly ever repeat,
            except as often as bfloat16 makes them.
        budget: 4,000 or more; the stream may have many more numbers.

    Returns:
        The bound, a float.

    The functions of `myllm.quantization` may not be used.

    Example:
        Of the numbers 1 to 10,000, from 10 to 200 must be clipped. In the second stream, there is no training
        text.

        >>> 9800 <= calibrate([("train", torch.arange(1.0, 10001.0).view(100, 100))], 4000) <= 9990
        True
        >>> calibrate([("test", torch.tensor([[3.0, -4.0]]))], 4000)
        1.0
    """
    # May not be called: myllm.quantization.*.
    raise NotImplementedError
