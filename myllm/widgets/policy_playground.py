"""A policy of 18 numbers that learns in the page from the rewards of what it writes."""

from __future__ import annotations

import traitlets

from .base import Widget, check_integer, source


class PolicyPlayground(Widget):
    """Trains a table of logits, three places of six tokens, by policy gradients on groups of completions.

    The right completion is ``ot■``. A run of 300 updates is computed anew whenever a setting changes. The
    group's mean as the baseline and the division by its standard deviation can be switched off; the weight of
    the divergence from the first policy is that of k2 in the loss. A button replaces the reward by one that
    pays a third for each ``o``.

    Args:
        seed: Decides which tokens are drawn, 0 to 2,147,483,648.

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
    shown = traitlets.Int(0).tag(sync=True)  # the update that is looked at

    def __init__(self, seed: int = 0) -> None:
        check_integer("seed", seed, 0, 2**31)
        super().__init__(seed=seed)

    def __repr__(self) -> str:
        return f"PolicyPlayground({self.seed})"
