"""A draft proposes, the model accepts or rejects: two distributions, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from .base import Widget, check_integer, check_number, source

P = (0.4, 0.3, 0.15, 0.1, 0.05)
Q = (0.1, 0.3, 0.2, 0.2, 0.2)


def _distribution(name: str, given: Sequence[float]) -> list[float]:
    if not isinstance(given, (list, tuple)) or not 2 <= len(given) <= 8:
        raise ValueError(f"The distribution {name} must be a list of 2 to 8 numbers.")
    for value in given:
        check_number(f"probability in {name}", value, 0, 1)
    if abs(sum(given) - 1) > 1e-3:
        raise ValueError(f"The probabilities of {name} must have the sum 1, not {sum(given):g}.")
    return [value / sum(given) for value in given]


class AcceptReject(Widget):
    """Shows how speculative decoding keeps the model's distribution, whatever the draft proposes.

    Args:
        p: The model's distribution, over two to eight tokens.
        q: The draft's distribution over the same tokens; it can be changed in the page.
        k: How many tokens are proposed per pass, 1 to 16.

    Raises:
        ValueError: If a distribution does not sum to 1, lengths differ, or k lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "inference.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "controls.mjs", "accept_reject.mjs")

    p = traitlets.List(traitlets.Float()).tag(sync=True)
    weights = traitlets.List(traitlets.Float()).tag(sync=True)  # of q, before they are normalized
    k = traitlets.Int().tag(sync=True)
    draws = traitlets.Int(0).tag(sync=True)

    def __init__(self, q: Sequence[float] = Q, p: Sequence[float] = P, k: int = 4) -> None:
        p, q = _distribution("p", p), _distribution("q", q)
        if len(p) != len(q):
            raise ValueError(f"p and q must be over the same tokens, not {len(p)} and {len(q)}.")
        check_integer("number of proposals", k, 1, 16)
        super().__init__(p=p, weights=[round(100 * value) / 100 for value in q], k=k)

    def __repr__(self) -> str:
        return f"AcceptReject({len(self.p)})"
