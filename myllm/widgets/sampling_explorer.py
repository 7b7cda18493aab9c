"""Temperature and filters on real logits, in an order that can be changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from .base import Widget, check_integer, check_text, source

TEMPERATURES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
STEPS = ("temperature", "top_k", "top_p", "min_p")
MAX_ROWS = 8


def _logsumexp(numbers: Sequence[float]) -> float | None:
    """The logarithm of the sum of exponentials; None for no numbers."""
    if not numbers:
        return None
    top = max(numbers)
    return top + math.log(sum(math.exp(x - top) for x in numbers))


def _reduced(row: Mapping[str, Any], shown: int, keys: set[str]) -> dict[str, Any]:
    """A row with its most likely tokens and, for each temperature, the log of the total weight of the others.

    Raises:
        ValueError: Keys are missing, or lists differ in length.
    """
    if not isinstance(row, Mapping) or not keys <= row.keys():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"A row must have the keys {', '.join(sorted(keys))}.")
    lists = keys & {"tokens", "logits", "allowed"}
    n = len(row["logits"])
    if n < 2 or any(len(row[key]) != n for key in lists):
        raise ValueError(f"The lists {', '.join(sorted(lists))} of a row must have one length, 2 or more.")
    check_text("prompt", row["prompt"], 0, 300)
    logits = [float(x) for x in row["logits"]]
    if not all(map(math.isfinite, logits)):
        raise ValueError("The logits of a row must be finite numbers.")
    order = sorted(range(n), key=lambda i: (-logits[i], i))
    if "allowed" in keys:  # half of them the most likely ones, half the most likely allowed ones
        first = order[: shown // 2]
        more = [i for i in order[shown // 2 :] if row["allowed"][i]][: shown - len(first)]
        kept = sorted([*first, *more], key=lambda i: (-logits[i], i))
    else:
        kept = order[:shown]
    hidden = {*range(n)}.difference(kept)
    others = [logits[i] for i in sorted(hidden)]
    weight = [_logsumexp([x / T for x in others]) for T in TEMPERATURES]
    found: dict[str, Any] = {
        "prompt": row["prompt"],
        "size": n,
        "tokens": [str(row["tokens"][i]) for i in kept],
        "logits": [round(logits[i], 5) for i in kept],
        "rest": [None if w is None else round(w, 5) for w in weight],
        "next": round(max(others), 5) if others else None,
    }
    if "allowed" in keys:
        found["allowed"] = [bool(row["allowed"][i]) for i in kept]
        mass = _logsumexp([x for i, x in enumerate(logits) if row["allowed"][i]])
        if mass is None:
            raise ValueError("A grammar must allow at least one token.")
        found["mass"] = math.exp(mass - (_logsumexp(logits) or 0.0))
        found["left"] = sum(map(bool, row["allowed"]))
    return found


class SamplingExplorer(Widget):
    """Shows which tokens the temperature and the filters leave, and how their order matters.

    Args:
        rows: One to eight dictionaries of ``prompt``, ``tokens`` (all tokens of the vocabulary as text) and
            ``logits`` (those of the next token). The most likely tokens are shown; the others appear as one.
        grammar: Dictionaries of the same form with ``allowed``, which says of each token whether a grammar
            allows it after this prompt; shown in a second tab.
        shown: How many tokens of each row are kept, 4 to 400; the others act as one.

    Raises:
        ValueError: If a row lacks a key, its lists differ in length, or an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "inference.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "controls.mjs", "sampling_explorer.mjs")

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    grammar = traitlets.List(traitlets.Dict()).tag(sync=True)
    temperatures = traitlets.List(traitlets.Float(), list(TEMPERATURES)).tag(sync=True)
    tab = traitlets.Unicode("filters").tag(sync=True)
    row = traitlets.Int(0).tag(sync=True)
    prefix = traitlets.Int(0).tag(sync=True)
    order = traitlets.List(traitlets.Unicode(), list(STEPS)).tag(sync=True)
    active = traitlets.List(traitlets.Unicode(), ["temperature", "top_p"]).tag(sync=True)
    temperature = traitlets.Float(1.5).tag(sync=True)
    top_k = traitlets.Int(10).tag(sync=True)
    top_p = traitlets.Float(0.9).tag(sync=True)
    min_p = traitlets.Float(0.1).tag(sync=True)
    samples = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        grammar: Sequence[Mapping[str, Any]] = (),
        shown: int = 250,
    ) -> None:
        for name, given, least in (("rows", rows, 1), ("grammar", grammar, 0)):
            if not least <= len(given) <= MAX_ROWS:
                raise ValueError(f"There must be {least} to {MAX_ROWS} {name}, not {len(given)}.")
        check_integer("number of tokens kept", shown, 4, 400)
        keys = {"prompt", "tokens", "logits"}
        super().__init__(
            rows=[_reduced(row, shown, keys) for row in rows],
            grammar=[_reduced(row, shown, keys | {"allowed"}) for row in grammar],
        )

    def __repr__(self) -> str:
        return f"SamplingExplorer({len(self.rows)})"
