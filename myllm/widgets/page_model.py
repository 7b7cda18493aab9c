"""A small model that runs in the page; its weights are a file of the site, or come from the kernel."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import traitlets

from .base import Widget, check_integer, check_number, check_text
from .vocabularies import merge_table

MAX_CHARACTERS = 200
MAX_TEMPERATURE = 1.5
POSITIONS = "embed_positions.weight"  # the learned ones of GPT-2
Array = np.ndarray[Any, np.dtype[Any]]


class PageModel(Widget):
    """Holds a model whose forward pass runs in the browser.

    The model has one of two forms. GPT-2: learned positions, LayerNorm, biases, the tanh form of GELU.
    LLaMA: rotary positions, RMSNorm, grouped queries, SwiGLU, no biases. In both the head is the embedding
    table and the norms' epsilon is 1e-5. A subclass says how the weights become bytes.

    Args:
        state: Name to tensor or array, the state dict of such a `myllm.model.transformer.Transformer`.
            ``lm_head.weight`` may be absent, since the head is tied.
        merges: The merges of its byte-level BPE tokenizer in order, as in ``BPE.merges``, for text that is
            split by the GPT-2 pattern. Ids after the merges are special tokens, which are never generated.
        n_head: Query heads of every layer; the number of key and value heads follows from the shapes.
        block_size: The longest context, in tokens. Needed with rotary positions; learned ones determine it.
        rope_theta: Base of the rotary frequencies, by default 10,000.
        prompt: The text to be continued, at most 200 characters.
        temperature: 0 (always the most likely token) to 1.5.
        seed: The seed of sampling.
        traits: Traits of the subclass.

    Attributes:
        n_params: The number of parameters.
        packed: The weights as the page reads them.

    Raises:
        ValueError: If an argument is out of bounds, or the state is not that of such a model.
    """

    MAX_BYTES = 2_000_000  # of the packed weights

    weights = traitlets.Unicode().tag(sync=True)  # the name under which the page fetches them
    tensors = traitlets.List(traitlets.Any()).tag(
        sync=True
    )  # [name, rows, columns or 0 for a vector], in the packed order
    heads = traitlets.Int().tag(sync=True)
    context = traitlets.Int().tag(sync=True)
    theta = traitlets.Float().tag(sync=True)  # 0 with learned positions
    merges = traitlets.Dict().tag(sync=True)
    prompt = traitlets.Unicode().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        state: Mapping[str, Any],
        merges: Iterable[tuple[int, int]],
        *,
        n_head: int,
        block_size: int | None,
        rope_theta: float | None,
        prompt: str,
        temperature: float,
        seed: int,
        **traits: Any,
    ) -> None:
        check_text("prompt", prompt, 0, MAX_CHARACTERS)
        check_integer("seed", seed, 0, 2**31)
        check_number("temperature", temperature, 0, MAX_TEMPERATURE)
        arrays = _arrays(state, n_head)
        context, theta = _positions(arrays, block_size, rope_theta)
        pairs = _pairs(merges, len(arrays["embed_tokens.weight"]))
        content = self.pack(arrays)
        self.packed = self.compress(content)
        self.n_params = sum(array.size for array in arrays.values())
        if len(self.packed) > self.MAX_BYTES:
            raise ValueError(
                f"The weights take {len(self.packed):,} bytes, and a page may fetch {self.MAX_BYTES:,}. "
                "Use a smaller model."
            )
        super().__init__(
            weights=hashlib.sha256(content).hexdigest()[:16],
            tensors=[[name, *array.shape, 0][:3] for name, array in arrays.items()],
            heads=n_head,
            context=context,
            theta=theta,
            merges=merge_table(pairs, 256),
            prompt=prompt,
            temperature=float(temperature),
            seed=seed,
            **traits,
        )
        self.on_msg(self._send_weights)

    @staticmethod
    def pack(arrays: Mapping[str, Array]) -> bytes:
        """The weights as bytes."""
        raise NotImplementedError

    @staticmethod
    def compress(content: bytes) -> bytes:
        """What is fetched in place of these bytes: here, the bytes themselves."""
        return content

    def text(self) -> str:
        """The packed weights as a string for a script, without quotation marks or backslashes."""
        return b64encode(self.packed).decode()

    def _send_weights(self, _: object, message: dict[str, Any], buffers: object) -> None:
        """Send the weights to a notebook's page that requests them."""
        if message.get("weights") == self.weights:
            self.send({"weights": self.weights}, [self.packed])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_params:,} parameters)"


def _arrays(state: Mapping[str, Any], n_head: int) -> dict[str, Array]:
    """The tensors that the page runs, as float32 in a fixed order, with their shapes checked."""
    given: dict[str, Array] = {}
    for name, value in state.items():
        given[name] = np.asarray(value.detach() if hasattr(value, "detach") else value, dtype=np.float32)
    head = given.pop("lm_head.weight", None)
    tables = ["embed_tokens.weight", *(name for name in given if name == POSITIONS)]
    if any(name not in given or given[name].ndim != 2 for name in tables):
        raise ValueError("The page needs embed_tokens.weight, and any embed_positions.weight, as matrices.")
    if head is not None and not np.array_equal(head, given["embed_tokens.weight"]):
        raise ValueError("The page runs a model whose head is the embedding table (tie_embeddings=True).")
    shapes = _shapes({name: array.shape for name, array in given.items()}, n_head)
    if wrong := sorted(given.keys() ^ shapes.keys()):
        form = "GPT-2 with learned positions" if POSITIONS in given else "LLaMA with rotary positions"
        raise ValueError(f"Missing or unexpected weights in the form of {form}: {', '.join(wrong[:5])}.")
    for name, shape in shapes.items():
        if given[name].shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, not {given[name].shape}.")
        if not np.isfinite(given[name]).all():
            raise ValueError(f"{name} holds numbers that are not finite.")
    return {name: given[name] for name in shapes}


def _shapes(given: dict[str, tuple[int, ...]], n_head: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model whose sizes are those of the given tensors."""
    V, C = given["embed_tokens.weight"]
    gpt2 = POSITIONS in given

    def rows(part: str, default: int) -> int:
        return (given.get(f"layers.0.{part}.weight") or (default,))[0]

    n_layer = max(1, sum(name.endswith(".mlp.up_proj.weight") for name in given))
    inner = rows("mlp.up_proj", 4 * C)
    queries = C if gpt2 else rows("self_attn.q_proj", C)
    check_integer("n_head", n_head, 1, queries)
    if queries % n_head:
        raise ValueError(f"n_head {n_head} must divide the width {queries} of the queries.")
    D = queries // n_head
    keys = C if gpt2 else rows("self_attn.k_proj", queries)
    if not gpt2 and (D % 2 or not keys or keys % D or n_head % (keys // D)):
        raise ValueError(
            f"Keys of width {keys} do not make heads of an even width {D} for {n_head} query heads to share."
        )
    parts = {"input_layernorm": (C,), "self_attn.q_proj": (queries, C), "self_attn.o_proj": (C, queries)}
    parts |= {f"self_attn.{letter}_proj": (keys, C) for letter in "kv"}
    parts |= {"post_attention_layernorm": (C,), "mlp.up_proj": (inner, C), "mlp.down_proj": (C, inner)}
    parts |= {} if gpt2 else {"mlp.gate_proj": (inner, C)}
    every = {f"layers.{layer}.{part}": shape for layer in range(n_layer) for part, shape in parts.items()}
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (V, C)}
    shapes |= {POSITIONS: (given[POSITIONS][0], C)} if gpt2 else {}
    for part, shape in (every | {"norm": (C,)}).items():
        shapes |= {f"{part}.weight": shape} | ({f"{part}.bias": shape[:1]} if gpt2 else {})
    return shapes


def _positions(
    arrays: Mapping[str, Array], block_size: int | None, rope_theta: float | None
) -> tuple[int, float]:
    """The longest context and the base of the rotary frequencies, 0 with learned positions."""
    if POSITIONS in arrays:
        positions = len(arrays[POSITIONS])
        if block_size not in (None, positions) or rope_theta is not None:
            raise ValueError(
                f"The model has {positions} learned positions: leave out block_size and rope_theta."
            )
        return positions, 0.0
    if block_size is None:
        raise ValueError(
            "With rotary positions the weights do not tell the longest context: give block_size."
        )
    check_integer("block_size", block_size, 2, 4096)
    theta = 10_000.0 if rope_theta is None else rope_theta
    if type(theta) not in (int, float) or not 2 <= theta <= 1e9:
        raise ValueError(f"The rope_theta must be a number from 2 to 1,000,000,000, not {theta!r}.")
    return block_size, float(theta)


def _pairs(merges: Iterable[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
    """Check that each merge joins two tokens that exist before it, and return them as pairs of ids."""
    pairs = [(int(left), int(right)) for left, right in merges]
    if any(not 0 <= min(pair) <= max(pair) < 256 + i for i, pair in enumerate(pairs)):
        raise ValueError("Each merge must join two ids that exist before it; give BPE.merges in order.")
    if 256 + len(pairs) > tokens:
        raise ValueError(f"256 bytes and {len(pairs)} merges are more than the {tokens} ids of the model.")
    return pairs
