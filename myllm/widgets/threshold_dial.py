"""The threshold of a spam filter: what it decides, and what its mistakes cost."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from .base import Widget, check_integer, check_number, source

MOST = 2000  # messages


class ThresholdDial(Widget):
    """Shows the confusion matrix and the cost of a spam filter for each threshold, on real logits.

    Args:
        margins: For each message the logit of spam minus that of ham, -100 to 100; at most 2,000 messages.
        labels: For each message 1 if it is spam, and 0 if it is ham.
        threshold: The least probability of spam at which a message is rejected, in per cent, 0 to 100.
        temperature: The divisor of the margins, 0.25 to 4.
        lost: The cost of a rejected ham message, 1 to 100; letting a spam message through costs 1.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "threshold_dial.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "threshold_dial.mjs")

    margins = traitlets.List(traitlets.Float()).tag(sync=True)
    labels = traitlets.List(traitlets.Int()).tag(sync=True)
    threshold = traitlets.Int().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)
    lost = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        margins: Sequence[float],
        labels: Sequence[int],
        *,
        threshold: int = 50,
        temperature: float = 1.0,
        lost: int = 10,
    ) -> None:
        if len(margins) != len(labels):
            raise ValueError(
                f"There are {len(margins)} margins and {len(labels)} labels; give one of each a mail."
            )
        check_integer("number of mails", len(margins), 1, MOST)
        for margin in margins:
            check_number("margin", margin, -100, 100)
        for label in labels:
            check_integer("label", label, 0, 1)
        check_integer("threshold", threshold, 0, 100)
        check_number("temperature", temperature, 0.25, 4)
        check_integer("cost of a lost ham", lost, 1, 100)
        super().__init__(
            margins=[round(float(margin), 3) for margin in margins],
            labels=[*labels],
            threshold=threshold,
            temperature=float(temperature),
            lost=lost,
        )

    def __repr__(self) -> str:
        return f"ThresholdDial({len(self.margins)} mails, {self.threshold})"
