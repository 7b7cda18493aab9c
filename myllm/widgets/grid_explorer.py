"""A few numbers and the grid to which they are rounded: bits, scale and zero point, groups."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from .base import Widget, check_integer, check_number, source

FEWEST, MOST = 2, 24  # numbers
REACH = 100


class GridExplorer(Widget):
    """Rounds numbers to an affine grid that spans them, and shows the error of each and the bits needed.

    The grid is that of `myllm.quantization.affine.quantize_affine`. Each number needs the bits of its code,
    each group a scale of 32 bits and, on an asymmetric grid, a zero point of 8 bits.

    Args:
        weights: 2 to 24 numbers, each from -100 to 100; they can be dragged in the page.
        bits: Bits of a code, 2 to 8.
        symmetric: Whether the grid is symmetric about 0.
        group: How many consecutive numbers share a scale; it must divide their count. "row" means all.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "quantization.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "grid.mjs", "grid_explorer.mjs")

    weights = traitlets.List(traitlets.Float()).tag(sync=True)
    reach = traitlets.Float().tag(sync=True)  # how far from 0 a number can be dragged
    bits = traitlets.Int().tag(sync=True)
    symmetric = traitlets.Bool().tag(sync=True)
    group = traitlets.Int().tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)

    def __init__(
        self, weights: Sequence[float], bits: int = 3, *, symmetric: bool = True, group: int | str = "row"
    ) -> None:
        numbers = list(weights)
        if not FEWEST <= len(numbers) <= MOST:
            raise ValueError(f"There must be {FEWEST} to {MOST} weights, not {len(numbers)}.")
        for value in numbers:
            check_number("weight", value, -REACH, REACH)
        check_integer("number of bits", bits, 2, 8)
        size = len(numbers) if group == "row" else group
        check_integer("group", size, 1, len(numbers))
        if len(numbers) % int(size):
            raise ValueError(f"A group of {size} does not divide {len(numbers)} weights.")
        reach = 1.5 * max(abs(value) for value in numbers) or 1.0
        super().__init__(
            weights=[float(value) for value in numbers],
            reach=float(f"{reach:.2g}"),
            bits=bits,
            symmetric=bool(symmetric),
            group=int(size),
        )

    def __repr__(self) -> str:
        return f"GridExplorer({len(self.weights)}, {self.bits})"
