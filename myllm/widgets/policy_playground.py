"""A policy of 18 numbers that learns in the page from the rewards of its samples."""

from __future__ import annotations

import traitlets

from .base import Widget, check_integer, source


class PolicyPlayground(Widget):
    """Trains a table of logits, three positions of six tokens, by policy gradients on groups of completions.

    The right completion is ``ot■``. A run of 300 updates is computed anew whenever a setting changes. The
    group's mean as the baseline and the division by its standard deviation can be switched off; the
    divergence from the initial policy enters the loss as k2, with an adjustable weight. A button replaces the
    reward with one that pays a third for each ``o``.

    Args:
        seed: Determines which tokens are sampled, 0 to 2,147,483,648.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "policy_playground.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "controls.mjs", "policy_playground.mjs")

    seed = traitlets.Int().tag(sync=True)
    group = traitlets.Int(8).tag(sync=True)
    rate = traitlets.Float(0.3).tag(sync=True)
    beta = traitlets.Float(0.0).tag(sync=True)
    baseline = traitlets.Bool(True).tag(sync=True)
    scale = traitlets.Bool(True).tag(sync=True)
    planted = traitlets.Bool(False).tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)  # the update that is shown

    def __init__(self, seed: int = 0) -> None:
        check_integer("seed", seed, 0, 2**31)
        super().__init__(seed=seed)

    def __repr__(self) -> str:
        return f"PolicyPlayground({self.seed})"
