"""Chapter 16, Int4: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("16.1", "A codebook for other weights", points=6, minutes=20, difficulty=2, section="nf4-levels")
def code_book(quantile: Callable[[float], float], levels: int) -> list[float]:
    """Build the levels of a codebook for weights that follow any symmetric distribution.

    Like NF4, the codebook has an exact zero and ends at -1 and 1, and its levels are quantiles of the
    distribution, divided by the outermost one. It differs in the distribution, in the number of levels, and
    in one convention:

    - If ``levels`` is odd, as many levels are above zero as below. If it is even, the side *below* zero has
      one more. NF4 does the opposite.
    - On both sides, the outermost level leaves the same probability beyond it: the mean of
      1 / (2 * levels) and 1 / (2 * (levels - 1)). For 16 levels, this is NF4's 1 - 0.9677.
    - From zero, which has one half of the distribution on each side, to the outermost level of a side,
      the levels of this side follow each other at equal steps of *probability*.

    Args:
        quantile: The quantile function (inverse cumulative distribution function) of a distribution that is
            symmetric around 0. It takes a probability between 0 and 1, both excluded, and raises ValueError
            otherwise. Its results have rounding errors, also at 0.5.
        levels: 3 or more.

    Returns:
        As many numbers as ``levels``, in ascending order. The zero is exact: 0.0.

    The functions of `myllm.quantization` may not be used.

    Example:
        For a uniform distribution, quantiles are proportional to probabilities. Two levels are below zero,
        one is above.

        >>> code_book(lambda p: 2 * p - 1, 4)
        [-1.0, -0.5, 0.0, 1.0]
    """
    # SOLUTION
    tail = (1 / (2 * levels) + 1 / (2 * (levels - 1))) / 2
    largest = quantile(1 - tail)

    def side(count: int) -> list[float]:
        return [quantile(0.5 + (0.5 - tail) * i / count) / largest for i in range(1, count + 1)]

    below, above = levels // 2, (levels - 1) // 2
    return [*(-level for level in reversed(side(below))), 0.0, *side(above)]
    # END SOLUTION


@exercise("16.2", "One GPTQ column at a time", points=7, minutes=30, difficulty=3, section="gptq-columns")
def gptq_row(w: Tensor, hinv: Tensor, levels: Tensor) -> Tensor:
    """Round a row of weights to a codebook, column by column, while the pruned weights stay zero.

    Weights that are exactly 0 have been pruned: they are frozen. They stay 0, even if the codebook has no
    zero, and no error is pushed to them. The other columns are free. Go through them from left to right:

    1. Round the weight, as it is now, to the nearest level.
    2. Change the free columns to the right of it such that the error of the output, dᵀ H d, becomes as
       small as possible again. Here d is the difference from the original row in all columns; the columns
       that are done and the frozen ones cannot change any more.

    Args:
        w: (K,) float64. Some or all weights may be 0.
        hinv: (K, K) float64, the inverse H⁻¹ of the Hessian of all columns, frozen ones included. It is
            symmetric and positive definite: the damping has been done already.
        levels: (L,) float64, the levels of the codebook in ascending order, at any distances, already
            multiplied by the scale of this row. The tests avoid weights that have two nearest levels.

    Returns:
        (K,) float64: for each free column one of the levels, for each frozen one 0.

    The functions of `myllm.quantization` may not be used.

    Example:
        The first weight is rounded up by 0.4. The second one is frozen, and stays 0 although that is no
        level. With this Hessian, the third one makes up for all of the 0.4: it becomes 0.2 and is rounded to
        -0.5, not to 1.

        >>> hinv = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [-1.0, -1.0, 3.0]])
        >>> w, levels = torch.tensor([0.6, 0.0, 0.6]), torch.tensor([-0.5, 1.0])
        >>> gptq_row(w.double(), hinv.double(), levels.double())
        tensor([ 1.0000,  0.0000, -0.5000], dtype=torch.float64)
    """
    # SOLUTION
    free = w != 0
    hessian = torch.linalg.inv(hinv)
    inverse = torch.linalg.inv(hessian[free][:, free])  # of the free columns alone
    factor = torch.linalg.cholesky(inverse, upper=True)
    row = w[free]
    for j in range(len(row)):
        nearest = levels[(levels - row[j]).abs().argmin()]
        error = (row[j] - nearest) / factor[j, j]
        row[j + 1 :] -= error * factor[j, j + 1 :]
        row[j] = nearest
    return torch.zeros_like(w).masked_scatter(free, row)
    # END SOLUTION


@exercise("16.3", "Bits of any format", points=6, minutes=20, difficulty=2, section="two-codes")
def bits_per_weight(spec: dict[str, int], shape: tuple[int, int]) -> float:
    """Count the bits that a format spends for a weight of a matrix, with all that it stores besides codes.

    A format cuts a sequence of weights into blocks, and may combine blocks into superblocks. A sequence is
    a row of the matrix, so that each row begins a block and a superblock of its own; or, if the format is
    ``flat``, it is the whole matrix, row after row. The last block of a sequence may lack weights, and the
    last superblock may lack blocks. If the format is ``whole``, it fills both up with zeros and stores these
    like all others. Otherwise, it stores only the codes of the weights that are there and the entries of
    blocks that have a weight.

    A format is a dict of integers:

    - ``code``: the bits of a code.
    - ``block``: the weights in a block, 1 or more.
    - ``block_bits``: what each block stores besides its codes: a scale, a minimum, a zero point.
    - ``superblock``: the blocks in a superblock, or 0 if there are no superblocks.
    - ``superblock_bits``: what each superblock stores besides its blocks; 0 if there are none.
    - ``column_bits``: what is stored once for each column of the matrix, such as the index of the group to
      which act-order moves it.
    - ``flat`` and ``whole``: 1 or 0.

    Args:
        spec: A format.
        shape: (N, K), the rows and columns of the matrix, 1 or more each.

    Returns:
        All bits that are stored, divided by the number of weights of the matrix.

    The functions of `myllm.quantization` and `myllm.accounting` may not be used.

    Example:
        Q4_0 has blocks of 32 with a scale of 16 bits. In a row of 40, the second block lacks 24 weights: two
        blocks of 144 bits for 40 weights.

        >>> q4_0 = {"code": 4, "block": 32, "block_bits": 16, "superblock": 0, "superblock_bits": 0}
        >>> bits_per_weight(q4_0 | {"column_bits": 0, "flat": 0, "whole": 1}, (10, 40))
        7.2
    """
    # SOLUTION
    rows, columns = shape
    sequences, length = (1, rows * columns) if spec["flat"] else (rows, columns)
    blocks = -(-length // spec["block"])
    superblocks = -(-blocks // spec["superblock"]) if spec["superblock"] else 0
    if spec["whole"]:
        blocks = superblocks * spec["superblock"] or blocks
        length = blocks * spec["block"]
    each = length * spec["code"] + blocks * spec["block_bits"] + superblocks * spec["superblock_bits"]
    return (sequences * each + columns * spec["column_bits"]) / (rows * columns)
    # END SOLUTION


@exercise("16.4", "Choose at most 4.3 bits", points=7, minutes=30, difficulty=3, section="front")
def choose_format(
    runs: list[dict[str, Any]], limit: float, tolerance: float
) -> tuple[str | None, dict[str, str | float]]:
    """Choose a format that spends few bits and loses little, and give the evidence for each run.

    In each run, a model was quantized with one format and scored on several texts. Names and claims say
    little: an "int4" may spend five bits for a weight, a score may come from the calibration text, and a
    model whose weights were on this grid before may lose nothing. The rules, in this order:

    1. ``"grid"``: drop a run if its model came from a file with fewer than 16 bits for a weight and was
       not rotated. Such weights lie on a grid already, and to round them again may cost nothing.
    2. ``"bits"``: drop a run if it spends more than ``limit`` bits for a weight, all its layers together:
       all bits that are stored, divided by all weights.
    3. ``"calibration"``: a text that the run was calibrated on does not count. Drop the run if no text is
       left.
    4. Score what is left: by how much the bits per byte rise on the texts that count. All their bytes count
       alike, so a long text counts more than a short one. The lower, the better; a score may be negative.
    5. The best run has the lowest score. Each run whose score is at most ``tolerance`` above it is as good.
       Of those as good, choose the one that spends the fewest bits for a weight; if several do, the first in
       the table.

    Args:
        runs: A table, in which each row is a dict: ``name``; ``claimed``, the bits that the name of the
            format claims; ``file_bits``, the bits for a weight in the file that the model came from;
            ``rotated``, a bool; ``layers``, for each layer a pair of the number of weights and the bits
            that are spent for each of them, scales included; ``calibrated``, a list of names of texts,
            empty for formats that need none; and ``texts``, a dict that gives for the name of each text its
            length in bytes, the bits per byte before the model was quantized, and those after. There is at
            least one layer; there may be no runs and no texts.
        limit: The most bits for a weight; as many are allowed.
        tolerance: In bits per byte, 0 or more.

    Returns:
        The name of the chosen run, or None if rules 1 to 3 drop all; and a dict that gives for the name of
        each run the rule that dropped it, or its score, a float.

    Example:
        The second run spends 4.5 bits. On the text that it was not calibrated on, the first one loses 0.25.

        >>> run = {"name": "a", "claimed": 4, "file_bits": 32, "rotated": False, "layers": [(512, 4.25)]}
        >>> run |= {"calibrated": ["x"], "texts": {"x": (300, 2.0, 2.0), "y": (100, 2.0, 2.25)}}
        >>> choose_format([run, run | {"name": "b", "layers": [(512, 4.5)]}], 4.3, 0.01)
        ('a', {'a': 0.25, 'b': 'bits'})
    """
    # SOLUTION
    evidence, scores, spent = dict[str, str | float](), dict[str, float](), dict[str, float]()
    for run in runs:
        name = run["name"]
        weights = sum(count for count, _ in run["layers"])
        spent[name] = sum(count * bits for count, bits in run["layers"]) / weights
        texts = [text for key, text in run["texts"].items() if key not in run["calibrated"]]
        if run["file_bits"] < 16 and not run["rotated"]:
            evidence[name] = "grid"
        elif spent[name] > limit:
            evidence[name] = "bits"
        elif not texts:
            evidence[name] = "calibration"
        else:
            rise = sum(size * (after - before) for size, before, after in texts)
            evidence[name] = scores[name] = rise / sum(size for size, _, _ in texts)
    good = [name for name, score in scores.items() if score <= min(scores.values()) + tolerance]
    return min(good, key=spent.__getitem__, default=None), evidence
    # END SOLUTION


@exercise("16.5", "Cholesky says no", points=7, minutes=30, difficulty=2, section="cholesky-fails")
def prepare(w: Tensor, hessian: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """Debug the preparation of GPTQ: it fails on some Hessians, and is wrong on others without failing.

    GPTQ needs the upper triangular factor U with (H')⁻¹ = Uᵀ U, where H' is the Hessian after two repairs:

    1. A column that no input ever reached is *dead*: its entry on the diagonal of H is 0, and so are its
       row and its column. In H', its entry on the diagonal is 1, whatever the damping is, and its weights
       are set to 0.
    2. To all other entries of the diagonal, the damping is added: ``damping`` times the mean of the diagonal
       of H, taken over the columns that are not dead. If H' is not positive definite, ten times the damping
       takes the place of the damping, and so on, until `torch.linalg.cholesky` works. Twelve attempts are
       always enough.

    This version has six faults; find and fix them::

        mean = hessian.diagonal().mean()
        for _ in range(12):
            hessian.diagonal().add_(damping * mean)
            try:
                factor = torch.linalg.cholesky(hessian)
            except torch.linalg.LinAlgError:
                damping *= 10
            else:
                return w, factor, damping

    Args:
        w: (N, K) float64, the weights. They stay as they are.
        hessian: (K, K) float64, symmetric. As it is the sum of many rounded numbers, it may have negative
            eigenvalues, but the entries of its diagonal are 0 or more. At least one column is not dead. The
            Hessian stays as it is, too.
        damping: Relative to the mean of the diagonal, more than 0.

    Returns:
        The weights, (N, K); U, (K, K), with a positive diagonal; and the relative damping that was used.

    The functions of `myllm.quantization` may not be used.

    Example:
        The second column is dead. The mean of the others is 8, so 0.25 * 8 is added to each of them.

        >>> hessian = torch.diag(torch.tensor([2.0, 0.0, 14.0]).double())
        >>> w, factor, damping = prepare(torch.ones(1, 3).double(), hessian, 0.25)
        >>> w, factor.diagonal().tolist(), damping
        (tensor([[1., 0., 1.]], dtype=torch.float64), [0.5, 1.0, 0.25], 0.25)
    """
    # SOLUTION
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean()
    for _ in range(12):
        added = torch.where(dead, 1.0, damping * mean)
        try:
            lower = torch.linalg.cholesky(hessian + torch.diag(added))
        except torch.linalg.LinAlgError:
            damping *= 10
        else:
            factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
            return w.masked_fill(dead, 0.0), factor, damping
    raise ValueError(f"not positive definite with a damping of {damping}")
    # END SOLUTION
