"""Who may look at whom, and what a small trained model then does: both are computed in the page."""

from __future__ import annotations

import re
from base64 import b64encode
from struct import pack
from typing import Any

import traitlets

from .base import Widget, source

MAX_TOKENS = 32
MAX_RULE = 200
KINDS = ("full", "causal", "window", "causal window", "prefix", "padding", "documents")


class MaskExplorer(Widget):
    """Draws a mask, the attention weights under it, and the letters that a copying model then writes.

    A mask is a rule of b, h, q and k in Python's notation, such as ``(k <= q) & (q - k < 3)``. The reader
    chooses one of the known kinds or writes a rule; what the page understands, `myllm.model.masks.Mask`
    understands as well.

    The model has attention layers alone, without biases: ``x = embed[ids] + positions``, then
    ``x = x + layer(x)`` for every layer, then ``head(x)``. It reads a string and a separator, and is to write
    the string again.

    Args:
        weights: Name to matrix, as from `state_dict()` of such a model: ``embed.weight`` (V, C),
            ``positions.weight`` (P, C), ``head.weight`` (V, C), and for every layer, as
            ``layers.0.q_proj.weight``, the matrices q_proj, k_proj, v_proj and o_proj. They are kept as float16.
            Without them there is the mask alone.
        alphabet: The letters of the ids 0 to V - 2; id V - 1 is the separator.
        text: The string first seen; with weights 1 to P // 2 letters of the alphabet, else 1 to 32 characters.
        n_head: Heads of every layer; needed with weights, 1 without.
        kind: The mask first seen: full, causal, window, causal window, prefix, padding or documents.
        size: Positions of the window, the prefix, the padding or the first document.
        rule: A mask of one's own, in place of `kind`.
        layer: The layer whose weights are first seen, counted from 0.
        head: The head, counted from 0.

    Raises:
        ValueError: If the arguments are out of bounds or do not fit each other.
    """

    _css = source("layout.css", "mask_explorer.css")
    _esm = source("layout.mjs", "mask_rules.mjs", "mask_explorer.mjs")

    weights = traitlets.Dict().tag(sync=True)  # empty, or the sizes and all matrices in one string
    alphabet = traitlets.Unicode().tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    heads = traitlets.Int().tag(sync=True)
    kind = traitlets.Unicode().tag(sync=True)  # one of KINDS, or "own"
    size = traitlets.Int().tag(sync=True)
    rule = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        weights: dict[str, Any] | None = None,
        *,
        alphabet: str = "abcdefghij",
        text: str = "cabbage",
        n_head: int | None = None,
        kind: str = "causal",
        size: int = 3,
        rule: str = "",
        layer: int = 0,
        head: int = 0,
    ) -> None:
        if weights is not None and n_head is None:
            raise ValueError("Say how many heads the layers have: MaskExplorer(weights, n_head=4).")
        n_head = 1 if n_head is None else n_head
        packed = _pack(weights, n_head) if weights is not None else {}
        if packed and len(set(alphabet)) != packed["tokens"] - 1:
            raise ValueError(
                f"The model has {packed['tokens']} tokens: the alphabet must be one letter fewer."
            )
        longest = packed["positions"] // 2 if packed else MAX_TOKENS
        if not 1 <= len(text) <= longest or (packed and not set(text) <= set(alphabet)):
            what = f"letters of {alphabet!r}" if packed else "characters"
            raise ValueError(f"The text must be 1 to {longest} {what}, not {text!r}.")
        if kind not in KINDS:
            raise ValueError(f"The kind must be one of {', '.join(KINDS)}, not {kind!r}.")
        if len(rule) > MAX_RULE:
            raise ValueError(f"The rule must be at most {MAX_RULE} characters.")
        _check("size", size, 1, MAX_TOKENS)
        _check("layer", layer, 0, packed["layers"] - 1 if packed else 0)
        _check("head", head, 0, n_head - 1)
        kind = "own" if rule else kind
        super().__init__(
            weights=packed, alphabet=alphabet, text=text, heads=n_head, kind=kind, size=size, rule=rule,
            layer=layer, head=head,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"MaskExplorer({self.kind}, {'with' if self.weights else 'without'} a model)"


def _pack(weights: dict[str, Any], n_head: int) -> dict[str, Any]:
    """The sizes of the model, and all its numbers as base64 of little-endian float16."""
    matrices: dict[str, list[list[float]]] = {}
    for name, matrix in weights.items():
        values = matrix.tolist() if hasattr(matrix, "tolist") else matrix
        found = re.fullmatch(
            r"(?:(embed|positions|head)|.*?\b(\d+)\.(?:.*\.)?([qkvo])_proj)(?:\.weight)?", name
        )
        if not found:
            raise ValueError(
                f"The page runs attention layers without biases alone; {name!r} is no part of them."
            )
        matrices[found[1] or f"{found[2]}{found[3]}"] = values
    layers = (len(matrices) - 3) // 4
    order = ["embed", "positions", *(f"{i}{part}" for i in range(layers) for part in "qkvo"), "head"]
    if missing := sorted({*order, "embed", "positions", "head", "0q"} ^ matrices.keys()):
        raise ValueError(f"The layers are not complete: {', '.join(missing)} lacks or is left over.")
    tokens, places, width = len(matrices["embed"]), len(matrices["positions"]), len(matrices["embed"][0])
    for name in order:
        rows = {"embed": tokens, "positions": places, "head": tokens}.get(name, width)
        if len(matrices[name]) != rows or any(len(row) != width for row in matrices[name]):
            raise ValueError(f"The matrix {name!r} must be {rows} × {width}.")
    if type(n_head) is not int or n_head < 1 or width % n_head:
        raise ValueError(f"n_head must divide the width {width}; {n_head!r} does not.")
    numbers = [number for name in order for row in matrices[name] for number in row]
    try:
        data = b64encode(pack(f"<{len(numbers)}e", *numbers)).decode()
    except (OverflowError, TypeError) as error:
        raise ValueError("The weights must be numbers that float16 can hold.") from error
    return {"tokens": tokens, "positions": places, "width": width, "layers": layers, "data": data}


def _check(name: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"The {name} must be a whole number from {least} to {most}, not {value!r}.")
