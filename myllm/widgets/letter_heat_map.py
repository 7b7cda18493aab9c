"""Which letter follows which: a table of next-letter probabilities the reader can smooth and sample."""

from __future__ import annotations

from typing import Any

import traitlets

from .base import Widget, source

MAX_SYMBOLS = 100


class LetterHeatMap(Widget):
    """Shows the row of one letter and the whole V × V map; smooths it, and samples letters, in the page.

    Args:
        counts: (V, V) whole numbers as a nested list, array or tensor: row = letter, column = next letter.
        alphabet: The V different characters, in the order of the rows.
        smoothing: Additive smoothing α, 0 to 10, before the reader moves the slider.
        letter: The row shown first; the most frequent letter if not given.
        predict: The letter that the question asks about; ``"q"`` if it is in the alphabet, else the last.

    Raises:
        ValueError: If the arguments do not fit each other, or the state would not fit the page.
    """

    _esm = source("layout.mjs", "random.mjs", "letter_heat_map.mjs")

    counts = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)
    alphabet = traitlets.Unicode().tag(sync=True)
    alpha = traitlets.Float().tag(sync=True)
    letter = traitlets.Unicode().tag(sync=True)
    predict = traitlets.Unicode().tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)  # of the sampled letters; 0 while there are none

    def __init__(
        self,
        counts: Any,
        alphabet: str,
        smoothing: float = 0.0,
        *,
        letter: str | None = None,
        predict: str | None = None,
    ) -> None:
        rows = _rows(counts, alphabet)
        if not isinstance(smoothing, (int, float)) or not 0 <= smoothing <= 10:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"The smoothing must be a number from 0 to 10, not {smoothing!r}.")
        totals = [sum(row) for row in rows]
        letter = alphabet[totals.index(max(totals))] if letter is None else letter
        predict = ("q" if "q" in alphabet else alphabet[-1]) if predict is None else predict
        for symbol in (letter, predict):
            if symbol not in list(alphabet):
                raise ValueError(f"{symbol!r} is not a letter of the alphabet.")
        super().__init__(
            counts=rows, alphabet=alphabet, alpha=float(smoothing), letter=letter, predict=predict
        )

    def __repr__(self) -> str:
        return f"LetterHeatMap({len(self.alphabet)} symbols)"


def _rows(counts: Any, alphabet: str) -> list[list[int]]:
    """Check the table and return it as lists of whole numbers."""
    size = len(alphabet)
    if not isinstance(alphabet, str) or not 2 <= size <= MAX_SYMBOLS or len(set(alphabet)) != size:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"The alphabet must be a string of 2 to {MAX_SYMBOLS} different characters.")
    table: Any = counts.tolist() if hasattr(counts, "tolist") else counts
    try:
        rows = [[int(count) for count in row] for row in table]
        exact = rows == [list(row) for row in table]
    except (TypeError, ValueError, OverflowError):
        rows, exact = [], False
    if len(rows) != size or any(len(row) != size for row in rows):
        raise ValueError(f"The counts must be a {size} × {size} table of whole numbers, one row per letter.")
    if not exact or any(count < 0 for row in rows for count in row):
        raise ValueError("The counts must be whole numbers, none below zero.")
    return rows
