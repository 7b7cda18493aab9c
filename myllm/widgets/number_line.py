"""The numbers of a floating-point format near 1, and sums that move on them, or do not."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, check_integer, check_number, source

FORMATS = ("bf16", "fp16", "fp32", "e4m3")


class NumberLine(Widget):
    """Adds a small step to 1 many times: with plain rounding, with an fp32 master, with stochastic rounding.

    Each sum is formed in fp32 and then rounded to the format: to the nearest number, a tie to the even one,
    or, stochastically, to one of the two neighbours, with a probability that grows with its proximity.

    Args:
        step: What is added each time, 10⁻⁸ to 0.25.
        adds: The number of additions, 1 to 500.
        format: ``bf16``, ``fp16``, ``fp32`` or ``e4m3`` (fp8 with 4 bits of exponent and 3 of fraction).
        seed: Seed of the stochastic rounding, from 0.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "training.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "controls.mjs", "number_line.mjs")

    step = traitlets.Float().tag(sync=True)
    adds = traitlets.Int().tag(sync=True)
    format = traitlets.Unicode().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    done = traitlets.Int(0).tag(sync=True)

    def __init__(self, step: float = 6e-4, adds: int = 100, *, format: str = "bf16", seed: int = 1) -> None:
        check_number("step", step, 1e-8, 0.25)
        check_integer("number of additions", adds, 1, 500)
        check_choice("format", format, FORMATS)
        check_integer("seed", seed, 0, 2**31)
        super().__init__(step=float(step), adds=adds, format=format, seed=seed)

    def __repr__(self) -> str:
        return f"NumberLine({self.step:g}, {self.adds})"
