"""A router for three experts on the triangle of its scores: choices, weights, and the load of many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from .base import Widget, check_integer, check_number, source

MOST_LOGIT, MOST_BIAS = 4, 0.6


def _three(name: str, values: Sequence[float], most: float) -> list[float]:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise ValueError(f"The {name} must be a list of 3 numbers.")
    for value in values:
        check_number(name, value, -most, most)
    return [float(value) for value in values]


class RouterSimplex(Widget):
    """Shows where a router sends a token, and how a bias on the choice changes the load of 90 tokens.

    The scores of three experts, softmax(logits / temperature), are a point in a triangle. Regions show which
    experts have the largest scores after the bias is added. The weights are the scores of the chosen experts
    without the bias, divided by their sum.

    Args:
        logits: The logits of the token, each from -4 to 4.
        bias: The bias of each expert, -0.6 to 0.6; added to the scores for the choice only.
        top_k: How many experts a token is sent to, 1 or 2.
        temperature: 0.25 to 4.
        tilt: The mean logits of the 90 tokens, each from -4 to 4.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "router_simplex.css")
    _esm = source("layout.mjs", "random.mjs", "controls.mjs", "router_simplex.mjs")

    logits = traitlets.List(traitlets.Float()).tag(sync=True)
    bias = traitlets.List(traitlets.Float()).tag(sync=True)
    top_k = traitlets.Int().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)
    tilt = traitlets.List(traitlets.Float()).tag(sync=True)

    def __init__(
        self,
        logits: Sequence[float] = (1.2, 0.5, -0.6),
        bias: Sequence[float] = (0, 0, 0),
        *,
        top_k: int = 1,
        temperature: float = 1.0,
        tilt: Sequence[float] = (1.0, 0.2, -0.8),
    ) -> None:
        check_integer("top_k", top_k, 1, 2)
        check_number("temperature", temperature, 0.25, 4)
        super().__init__(
            logits=_three("logits", logits, MOST_LOGIT),
            bias=_three("bias", bias, MOST_BIAS),
            top_k=top_k,
            temperature=float(temperature),
            tilt=_three("tilt", tilt, MOST_LOGIT),
        )

    def __repr__(self) -> str:
        return f"RouterSimplex({', '.join(f'{x:g}' for x in self.logits)}; top {self.top_k})"
