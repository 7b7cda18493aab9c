"""A model that runs in the page with weights of 32 to 2 bits: its text, and its bits per byte."""

from __future__ import annotations

import zlib
from base64 import b85encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from .base import check_integer, check_number, check_text, source
from .page_model import Array, PageModel

FULL = 32  # bits of a number that is not quantized
SIZE = 32  # numbers in a group
GROUPS = ("tensor", "row", SIZE)


class BitsDial(PageModel):
    """Quantizes a small model in the browser and shows the effect on its text and its loss.

    Matrices are rounded as by `myllm.quantization.affine.quantize_affine` on a symmetric grid, bit for bit,
    and the model computes with the rounded numbers. The page holds the weights in float16, which must
    represent them exactly, as it does if the checkpoint was stored in half precision; so nothing is lost at
    32 bits. The weights are not part of the widget's state: on a built page they are a file of the site,
    fetched when the reader presses a button; in a notebook the kernel sends them.

    Args:
        state: See `PageModel`, as for the next four.
        merges: See there.
        n_head: See there.
        block_size: See there.
        rope_theta: See there.
        passage: Text of 40 to 1,200 characters on which the loss is measured; what lies beyond the context is
            left out. The first token is given, all others are predicted.
        rows: The loss as measured beforehand on a longer text, for the table: mappings with the keys ``bits``
            (2 to 8, or 32), ``group`` (not needed at 32 bits) and ``bits_per_byte``.
        prompt: The text that is continued, at most 200 characters.
        bits: 2 to 8, or 32, where nothing is rounded.
        group: What shares a scale: "tensor", "row", or 32 consecutive columns of a row.
        embedding: Whether the embedding table, which is also the head, is quantized as well.
        temperature: 0 (always the most likely token) to 1.5.
        seed: The seed of the text.

    Attributes:
        packed: The weights as the page reads them: compressed float16, all low bytes before all high ones.

    Raises:
        ValueError: If an argument is out of bounds, or the state is not that of such a model.
    """

    MAX_BYTES = 3_200_000  # 4 MB as text

    _css = source("layout.css", "config.css", "writer.css", "bits_dial.css")
    _esm = source(
        "layout.mjs",
        "text.mjs",
        "random.mjs",
        "controls.mjs",
        "fetch.mjs",
        "byte_pairs.mjs",
        "packed.mjs",
        "forward.mjs",
        "grid.mjs",
        "bits_dial.mjs",
    )

    passage = traitlets.Unicode().tag(sync=True)
    rows = traitlets.List(traitlets.Any()).tag(sync=True)  # [bits, group, bits per byte]
    bits = traitlets.Int().tag(sync=True)
    group = traitlets.Unicode().tag(sync=True)
    embedding = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        state: Mapping[str, Any],
        merges: Iterable[tuple[int, int]],
        *,
        n_head: int,
        block_size: int | None = None,
        rope_theta: float | None = None,
        passage: str,
        rows: Sequence[Mapping[str, Any]] = (),
        prompt: str = "To be, or not to be",
        bits: int = FULL,
        group: int | str = "row",
        embedding: bool = False,
        temperature: float = 0.8,
        seed: int = 1,
    ) -> None:
        check_text("passage", passage, 40, 1200)
        _check_bits(bits)
        super().__init__(
            state,
            merges,
            n_head=n_head,
            block_size=block_size,
            rope_theta=rope_theta,
            prompt=prompt,
            temperature=temperature,
            seed=seed,
            passage=passage,
            rows=[_row(row) for row in rows],
            bits=bits,
            group=_group(group),
            embedding=bool(embedding),
        )

    @staticmethod
    def pack(arrays: Mapping[str, Array]) -> bytes:
        """All numbers as float16: first the low byte of each, then the high one, which can be compressed."""
        if odd := [name for name, array in arrays.items() if array.ndim == 2 and array.shape[1] % SIZE]:
            raise ValueError(f"{odd[0]} must have a multiple of {SIZE} columns, the size of a group.")
        numbers = np.concatenate([array.ravel() for array in arrays.values()])
        half = numbers.astype("<f2")
        if not np.array_equal(half.astype(np.float32), numbers):
            raise ValueError(
                "The page holds float16, which does not represent these weights exactly. Give the state of a "
                "model stored in half precision, or round it first: {name: tensor.half() for …}."
            )
        return half.view(np.uint8).reshape(-1, 2).T.tobytes()

    @staticmethod
    def compress(content: bytes) -> bytes:
        """The content in the zlib format, which browsers can read."""
        return zlib.compress(content, 9)

    def text(self) -> str:
        """The packed weights in base 85, whose alphabet has no quotation marks or backslashes."""
        return b85encode(self.packed).decode()


def _check_bits(bits: Any) -> None:
    if bits != FULL or type(bits) is not int:
        check_integer("number of bits, where it is not 32,", bits, 2, 8)


def _group(group: Any) -> str:
    if group not in GROUPS:
        raise ValueError(f'The group must be "tensor", "row" or {SIZE}, not {group!r}.')
    return str(group)


def _row(row: Mapping[str, Any]) -> list[Any]:
    if not {"bits", "bits_per_byte"} <= row.keys() or ("group" not in row and row["bits"] != FULL):
        raise ValueError("A row must have the keys bits, group and bits_per_byte.")
    _check_bits(row["bits"])
    check_number("bits per byte of a row", row["bits_per_byte"], 0, 1000)
    group = "row" if row["bits"] == FULL else _group(row["group"])
    return [row["bits"], group, round(row["bits_per_byte"], 4)]
