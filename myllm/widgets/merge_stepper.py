"""Byte-pair encoding of the reader's own text, trained in the page and stepped through merge by merge."""

from __future__ import annotations

import traitlets

from .base import Widget, check_integer, check_text, source

MAX_CHARACTERS = 2_000
MAX_MERGES = 100


class MergeStepper(Widget):
    """Learns byte-level BPE merges in the page; steps forwards and backwards through them.

    The text is cut by the GPT-2 pattern; of equally frequent pairs the one with the smaller ids wins.

    Args:
        text: The text shown first; the reader can replace it. At most 2,000 characters.
        merges: How many merges the reader can step through, 1 to 100.
        step: How many of them are made at first.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _esm = source("layout.mjs", "text.mjs", "merge_stepper.mjs")

    text = traitlets.Unicode().tag(sync=True)
    merges = traitlets.Int().tag(sync=True)
    step = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        text: str = "low lower lowest, new newer newest, wide wider widest",
        merges: int = 20,
        *,
        step: int = 0,
    ) -> None:
        check_text("text", text, 1, MAX_CHARACTERS)
        check_integer("merges", merges, 1, MAX_MERGES)
        check_integer("step", step, 0, merges)
        super().__init__(text=text, merges=merges, step=step)

    def __repr__(self) -> str:
        return f"MergeStepper({len(self.text)} characters, {self.merges} merges)"
