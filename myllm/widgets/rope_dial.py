"""Rotary positions: the angles of a query and a key, and the wavelength of each pair of a head."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, check_integer, check_number, source

SCALINGS = ("none", "linear", "llama3", "yarn")
MAX_POSITION = 100


class RopeDial(Widget):
    """Rotates one pair of a query and a key, and shows the wavelengths of all pairs under a scaling.

    The frequencies are those of `myllm.model.rope`; settings not given here have the defaults of
    `myllm.config.RopeScaling`.

    Args:
        head_dim: The dimensions that are rotated, an even number from 4 to 256.
        theta: Base of the frequencies, at least 2.
        pair: The pair shown first, from 0.
        query: Position m of the query, 0 to 100.
        key: Position n of the key, 0 to 100.
        scaling: ``none``, ``linear``, ``llama3`` or ``yarn``.
        factor: The factor by which the context is to be extended, 1 to 64.
        original_context: Length of the longest training text, at least 16 tokens.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css")
    _esm = source("layout.mjs", "text.mjs", "config.mjs", "controls.mjs", "rope_dial.mjs")

    head_dim = traitlets.Int().tag(sync=True)
    theta = traitlets.Float().tag(sync=True)
    pair = traitlets.Int().tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    key = traitlets.Int().tag(sync=True)
    shift = traitlets.Int(0).tag(sync=True)
    scaling = traitlets.Unicode().tag(sync=True)
    factor = traitlets.Float().tag(sync=True)
    original_context = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        head_dim: int = 64,
        theta: float = 10_000.0,
        *,
        pair: int = 4,
        query: int = 12,
        key: int = 5,
        scaling: str = "none",
        factor: float = 8.0,
        original_context: int = 2048,
    ) -> None:
        if type(head_dim) is not int or head_dim % 2 or not 4 <= head_dim <= 256:
            raise ValueError(f"The head_dim must be an even number from 4 to 256, not {head_dim!r}.")
        check_choice("scaling", scaling, SCALINGS)
        check_number("theta", theta, 2, 1_000_000_000)
        check_number("factor", factor, 1, 64)
        check_integer("pair", pair, 0, head_dim // 2 - 1)
        check_integer("query", query, 0, MAX_POSITION)
        check_integer("key", key, 0, MAX_POSITION)
        check_integer("original_context", original_context, 16, 10_000_000)
        super().__init__(
            head_dim=head_dim,
            theta=float(theta),
            pair=pair,
            query=query,
            key=key,
            scaling=scaling,
            factor=float(factor),
            original_context=original_context,
        )

    def __repr__(self) -> str:
        return f"RopeDial({self.head_dim}, {self.theta:g})"
