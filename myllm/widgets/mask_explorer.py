"""Which positions attend to which, and what a small trained model then writes; computed in the page."""

from __future__ import annotations

import re
from base64 import b64encode
from struct import error as StructError
from struct import pack
from typing import Any

import traitlets

from .base import Widget, check_choice, check_integer, check_text, source

MAX_TOKENS = 32
MAX_HEADS = 16
MAX_RULE = 200
KINDS = ("causal", "causal window", "prefix", "padding", "documents", "window", "full")


class MaskExplorer(Widget):
    """Draws a mask, the attention weights under it, and the letters that a copying model then writes.

    A mask is a rule of b, h, q and k in Python's notation, such as ``(k <= q) & (q - k < 3)``. The reader
    chooses one of the known kinds or writes a rule; what the page understands, `myllm.model.masks.Mask`
    understands as well.

    The model has only attention layers, without biases: ``x = embed[ids] + positions``, then
    ``x = x + layer(x)`` for every layer, then ``head(x)``. It reads a string and a separator, and should then
    write the string again, or continue it after the letters that are given.

    Args:
        weights: Name to matrix, as from `state_dict()` of such a model: ``embed.weight`` (V, C),
            ``positions.weight`` (P, C), ``head.weight`` (V, C), and q_proj, k_proj, v_proj and o_proj of
            every layer, as ``layers.0.q_proj.weight``, (C, C). They are kept as float16. Without them
            only the mask is shown.
        n_head: Heads of every layer; needed with weights, 1 without.
        alphabet: The letters of the ids 0 to V - 2; id V - 1 is the separator.
        text: The string shown first: with weights 1 to P // 2 letters of the alphabet, else any 1 to 32
            characters.
        given: How many letters of the copy the model is given; it then writes the others. With weights only.
        kind: The mask shown first: causal, causal window, prefix, padding, documents, window or full.
        size: Positions of the window, the prefix, the padding or the first document.
        rule: A custom mask, instead of a kind.
        layer: The layer whose weights are shown first, counted from 1.
        head: The head, counted from 0, as h is in rules.

    Raises:
        ValueError: If the arguments are out of bounds or do not fit each other.
    """

    _css = source("layout.css", "mask_explorer.css")
    _esm = source("layout.mjs", "mask_rules.mjs", "mask_explorer.mjs")

    weights = traitlets.Dict().tag(sync=True)  # empty, or the sizes and all matrices in one string
    alphabet = traitlets.Unicode().tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    given = traitlets.Int().tag(sync=True)
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
        n_head: int | None = None,
        alphabet: str = "abcdefghij",
        text: str = "facade",
        given: int = 0,
        kind: str = "causal",
        size: int | None = None,
        rule: str = "",
        layer: int = 1,
        head: int = 0,
    ) -> None:
        if weights is not None and n_head is None:
            raise ValueError("Pass the number of heads: MaskExplorer(weights, n_head=4).")
        n_head = 1 if n_head is None else n_head
        check_integer("n_head", n_head, 1, MAX_HEADS)
        packed = {} if weights is None else _pack(weights, n_head)
        letters = packed["tokens"] - 1 if packed else len(alphabet)
        if not len(alphabet) == len(set(alphabet)) == letters:
            raise ValueError(
                f"The alphabet must be {letters} different letters, one for each id but the last."
            )
        longest = packed["positions"] // 2 if packed else MAX_TOKENS
        if not 1 <= len(text) <= longest or (packed and not set(text) <= set(alphabet)):
            what = f"letters of {alphabet!r}" if packed else "characters"
            raise ValueError(f"The text must be 1 to {longest} {what}, not {text!r}.")
        check_integer("given", given, 0, longest - 1 if packed else 0)
        check_choice("kind", kind, KINDS)
        if size is not None and (rule or kind in ("causal", "full")):
            raise ValueError(
                "Only a named mask with a number takes a size: a window, prefix, padding or documents."
            )
        size = 3 if size is None else size
        check_text("rule", rule, 0, MAX_RULE)
        check_integer("size", size, 1, longest * 2 if packed else len(text))
        check_integer("layer", layer, 1, packed["layers"] if packed else 1)
        check_integer("head", head, 0, n_head - 1)
        kind = "own" if rule else kind
        super().__init__(
            weights=packed, alphabet=alphabet, text=text, heads=n_head, kind=kind, size=size, rule=rule,
            layer=layer, head=head, given=given,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"MaskExplorer({self.kind}, {'with' if self.weights else 'without'} a model)"


def _pack(weights: dict[str, Any], n_head: int) -> dict[str, Any]:
    """The sizes of the model, and all its numbers as base64 of little-endian float16."""
    matrices: dict[str, Any] = {}
    for name, matrix in weights.items():
        found = re.fullmatch(
            r"(embed|positions|head)\.weight|(?:.+\.)?(\d+)\.(?:.+\.)?([qkvo])_proj\.weight", name
        )
        if not found:
            raise ValueError(f"The page runs only attention layers without biases; it cannot use {name!r}.")
        place = found[1] or f"{found[2]}.{found[3]}_proj"
        matrices[place] = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    layers = max(1, -(-(len(matrices) - 3) // 4))
    parts = [f"{layer}.{part}_proj" for layer in range(layers) for part in "qkvo"]
    order = ["embed", "positions", *parts, "head"]
    if wrong := sorted(matrices.keys() ^ set(order)):
        raise ValueError(f"Missing or unexpected weights: {', '.join(wrong)}.")
    try:
        tokens, places, width = len(matrices["embed"]), len(matrices["positions"]), len(matrices["embed"][0])
        for name in order:
            rows = {"embed": tokens, "positions": places, "head": tokens}.get(name, width)
            if [len(row) for row in matrices[name]] != [width] * rows:
                raise ValueError(f"The matrix {name} must be {rows} × {width}.")
        numbers = [number for name in order for row in matrices[name] for number in row]
        data = b64encode(pack(f"<{len(numbers)}e", *numbers)).decode()
    except (OverflowError, StructError, TypeError, IndexError) as error:
        raise ValueError("The weights must be matrices of numbers that float16 can hold.") from error
    if width % n_head:
        raise ValueError(f"n_head {n_head} must divide the width {width}.")
    return {"tokens": tokens, "positions": places, "width": width, "layers": layers, "data": data}
