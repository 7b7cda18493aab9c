"""Seven answers: the exact optimum for every β, and policies that learn from preferences beside it."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, source

METHODS = ("dpo", "ipo", "kto")


class BetaExplorer(Widget):
    """Shows ``π* ∝ π_ref exp(r / β)`` over seven answers, and trains a policy of seven logits in the page.

    The policy learns from all pairs, each as often as the reference samples it, in 400 updates of Adam.
    Preferences follow the Bradley-Terry model, or always the order of the rewards. KTO's answers are good as
    often as they win against another answer of the reference.

    Args:
        method: The loss, ``dpo``, ``ipo`` or ``kto``.

    Raises:
        ValueError: If the method is none of these.
    """

    _css = source("layout.css", "config.css", "beta_explorer.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "beta_explorer.mjs")

    method = traitlets.Unicode("dpo").tag(sync=True)
    beta = traitlets.Float(0.3).tag(sync=True)
    always = traitlets.Bool(False).tag(sync=True)  # the better answer wins every time
    shown = traitlets.Int(0).tag(sync=True)  # the update that is shown

    def __init__(self, method: str = "dpo") -> None:
        check_choice("method", method, METHODS)
        super().__init__(method=method)

    def __repr__(self) -> str:
        return f"BetaExplorer({self.method!r})"
