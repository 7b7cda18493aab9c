"""A GPT that writes in the page, token by token, and shows the probabilities of the next token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import traitlets

from .base import Widget, check_integer, check_text, source
from .vocabularies import merge_table

MAX_CHARACTERS = 200
MAX_TEMPERATURE = 1.5
MAX_BYTES = 2_000_000  # of the weights, which the page fetches when they are needed
Array = np.ndarray[Any, np.dtype[Any]]


class Writer(Widget):
    """Continues the reader's text with a small GPT-2 whose forward pass runs in the browser.

    The model has learned positions, LayerNorm, biases, the tanh form of GELU, and a head that is the
    embedding table. Matrices are rounded to int8 with one scale for each row. The weights are not part of
    the widget's state: on a built page they are a file of the site, in a notebook the kernel sends them.

    Args:
        state: Name to tensor or array, the state dict of such a `myllm.model.transformer.Transformer`.
            ``lm_head.weight`` may be absent, since the head is tied.
        merges: The merges of its byte-level BPE tokenizer in order, as in ``BPE.merges``, for text that is
            split by the GPT-2 pattern. Ids behind the merges are special tokens, which are never written.
        n_head: Heads of every layer.
        prompt: The text first continued, at most 200 characters.
        temperature: 0 (always the most likely token) to 1.5.
        seed: The first text is sampled with the next seed.
        written: A continuation of `prompt` that is shown until the reader lets the model write.
        start: Whether the model begins to write as soon as the page is idle, and the most likely tokens are
            shown without a click.

    Attributes:
        n_params: Numbers in all tensors.
        packed: The weights as the page reads them: float32 scales and vectors, then the int8 matrices.

    Raises:
        ValueError: If an argument is out of bounds, or the state is not that of such a model.
    """

    _css = source("layout.css", "writer.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "fetch.mjs", "byte_pairs.mjs", "writer.mjs")

    weights = traitlets.Unicode().tag(sync=True)  # the name under which the page fetches them
    tensors = traitlets.List(traitlets.Any()).tag(
        sync=True
    )  # [name, rows, columns or 0 for a vector], in the packed order
    heads = traitlets.Int().tag(sync=True)
    merges = traitlets.Dict().tag(sync=True)
    prompt = traitlets.Unicode().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    written = traitlets.Unicode().tag(sync=True)
    start = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        state: Mapping[str, Any],
        merges: Iterable[tuple[int, int]],
        *,
        n_head: int,
        prompt: str = "To be, or not to be",
        temperature: float = 0.8,
        seed: int = 0,
        written: str = "",
        start: bool = False,
    ) -> None:
        check_text("prompt", prompt, 0, MAX_CHARACTERS)
        check_integer("seed", seed, 0, 2**31)
        if not 0 <= temperature <= MAX_TEMPERATURE:
            raise ValueError(f"The temperature must be from 0 to {MAX_TEMPERATURE}, not {temperature!r}.")
        arrays = _arrays(state)
        tokens, width = arrays["embed_tokens.weight"].shape
        check_integer("n_head", n_head, 1, width)
        if width % n_head:
            raise ValueError(f"n_head {n_head} must divide the width {width}.")
        pairs = _pairs(merges, tokens)
        self.packed = pack(arrays)
        self.n_params = sum(array.size for array in arrays.values())
        if len(self.packed) > MAX_BYTES:
            raise ValueError(
                f"The weights take {len(self.packed):,} bytes, and a page may fetch {MAX_BYTES:,}. "
                "Use a smaller model."
            )
        super().__init__(
            weights=hashlib.sha256(self.packed).hexdigest()[:16],
            tensors=[[name, *array.shape, 0][:3] for name, array in arrays.items()],
            heads=n_head,
            merges=merge_table(pairs, 256),
            prompt=prompt,
            temperature=float(temperature),
            seed=seed,
            written=written,
            start=start,
        )
        self.on_msg(self._send_weights)

    def _send_weights(self, _: object, message: dict[str, Any], buffers: object) -> None:
        """Send the weights to a notebook's page that requests them."""
        if message.get("weights") == self.weights:
            self.send({"weights": self.weights}, [self.packed])

    def __repr__(self) -> str:
        return f"Writer({self.n_params:,} parameters)"


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Weights in bytes: the vectors and one scale for each row of a matrix, then all matrices as int8."""
    floats: list[Array] = []
    integers: list[Array] = []
    for array in arrays.values():
        if array.ndim == 1:
            floats.append(array)
            continue
        scales = np.abs(array).max(axis=1) / 127
        scales[scales == 0] = 1  # a row of zeros
        floats.append(scales)
        integers.append(np.rint(array / scales[:, None]).astype(np.int8))
    return b"".join([*(a.astype("<f4").tobytes() for a in floats), *(a.tobytes() for a in integers)])


def _arrays(state: Mapping[str, Any]) -> dict[str, Array]:
    """The tensors that the page runs, as float32 in a fixed order; their shapes have been checked."""
    given: dict[str, Array] = {}
    for name, value in state.items():
        given[name] = np.asarray(value.detach() if hasattr(value, "detach") else value, dtype=np.float32)
    head = given.pop("lm_head.weight", None)
    tables = [given.get(f"{name}.weight") for name in ("embed_tokens", "embed_positions")]
    if any(table is None or table.ndim != 2 for table in tables):
        raise ValueError("The page runs a GPT with learned positions: embed_tokens and embed_positions.")
    (V, C), (P, _) = (table.shape for table in tables if table is not None)
    if head is not None and not np.array_equal(head, given["embed_tokens.weight"]):
        raise ValueError("The page runs a model whose head is the embedding table (tie_embeddings=True).")
    up = given.get("layers.0.mlp.up_proj.weight")
    n_layer = sum(name.endswith(".mlp.up_proj.weight") for name in given)
    shapes = _shapes(V, P, C, len(up) if up is not None else 4 * C, max(1, n_layer))
    if wrong := sorted(given.keys() ^ shapes.keys()):
        raise ValueError(f"Missing or unexpected weights: {', '.join(wrong[:5])}.")
    for name, shape in shapes.items():
        if given[name].shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, not {given[name].shape}.")
        if not np.isfinite(given[name]).all():
            raise ValueError(f"{name} holds numbers that are not finite.")
    return {name: given[name] for name in shapes}


def _shapes(V: int, P: int, C: int, inner: int, n_layer: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model with a vocabulary of V and P positions."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (V, C), "embed_positions.weight": (P, C)}
    parts: dict[str, tuple[int, ...]] = {"input_layernorm": (C,)}
    parts |= {f"self_attn.{letter}_proj": (C, C) for letter in "qkvo"}
    parts |= {"post_attention_layernorm": (C,), "mlp.up_proj": (inner, C), "mlp.down_proj": (C, inner)}
    every = {f"layers.{layer}.{part}": shape for layer in range(n_layer) for part, shape in parts.items()}
    for part, shape in (every | {"norm": (C,)}).items():
        shapes |= {f"{part}.weight": shape, f"{part}.bias": shape[:1]}
    return shapes


def _pairs(merges: Iterable[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
    """Check that each merge joins two tokens that exist before it, and return them as pairs of ids."""
    pairs = [(int(left), int(right)) for left, right in merges]
    if any(not 0 <= min(pair) <= max(pair) < 256 + i for i, pair in enumerate(pairs)):
        raise ValueError("Each merge must join two ids that exist before it; give BPE.merges in order.")
    if 256 + len(pairs) > tokens:
        raise ValueError(f"256 bytes and {len(pairs)} merges are more than the {tokens} ids of the model.")
    return pairs
