"""Two weights on a lattice of grid points: plain rounding, GPTQ, and the error of the output."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from .base import Widget, check_integer, check_number, source

MOST = 0.95  # of the correlation: at 1 the two inputs are the same


class GPTQLattice(Widget):
    """Compares rounding two weights to their nearest grid points with GPTQ, which corrects the second one.

    The inputs have unit variance and a given correlation r, so the mean squared error of the output is
    eᵀ H e with H = [[1, r], [r, 1]], for a change e of the weights. The grid of each weight is symmetric:
    2^bits - 1 points from -1 to 1.

    Args:
        weight: The two weights before rounding, each from -1 to 1.
        correlation: Correlation of the two inputs, -0.95 to 0.95.
        bits: Bits of each weight, 2 to 4.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "quantization.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "gptq_lattice.mjs")

    weight = traitlets.List(traitlets.Float()).tag(sync=True)
    correlation = traitlets.Float().tag(sync=True)
    bits = traitlets.Int().tag(sync=True)
    first = traitlets.Int(0).tag(sync=True)  # which weight GPTQ rounds first

    def __init__(
        self, weight: Sequence[float] = (0.46, -0.19), correlation: float = 0.8, bits: int = 3
    ) -> None:
        if not isinstance(weight, (list, tuple)) or len(weight) != 2:
            raise ValueError("The weight must be a list of 2 numbers.")
        for value in weight:
            check_number("weight", value, -1, 1)
        check_number("correlation", correlation, -MOST, MOST)
        check_integer("number of bits", bits, 2, 4)
        super().__init__(weight=[float(value) for value in weight], correlation=float(correlation), bits=bits)

    def __repr__(self) -> str:
        return f"GPTQLattice({self.correlation:g}, {self.bits})"
