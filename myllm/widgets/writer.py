"""A model that writes in the page, token by token, and shows the probabilities of the next token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import traitlets

from .base import source
from .page_model import Array, PageModel


class Writer(PageModel):
    """Continues the reader's text with a small model, and shows the probabilities of the next token.

    Matrices are rounded to int8 with one scale for each row. The weights are not part of the widget's state:
    on a built page they are a file of the site, in a notebook the kernel sends them.

    Args:
        state: See `PageModel`, as for the next four.
        merges: See there.
        n_head: See there.
        block_size: See there.
        rope_theta: See there.
        prompt: The text first continued, at most 200 characters.
        temperature: 0 (always the most likely token) to 1.5.
        seed: The first text is sampled with the next seed.
        written: A continuation of `prompt` that is shown until the reader lets the model write.
        start: Whether the model begins to write as soon as the page is idle, and the most likely tokens are
            shown without a click.

    Attributes:
        packed: The weights as the page reads them: float32 scales and vectors, then the int8 matrices.

    Raises:
        ValueError: If an argument is out of bounds, or the state is not that of such a model.
    """

    _css = source("layout.css", "writer.css")
    _esm = source(
        "layout.mjs", "text.mjs", "random.mjs", "fetch.mjs", "byte_pairs.mjs", "forward.mjs", "writer.mjs"
    )

    written = traitlets.Unicode().tag(sync=True)
    start = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        state: Mapping[str, Any],
        merges: Iterable[tuple[int, int]],
        *,
        n_head: int,
        block_size: int | None = None,
        rope_theta: float | None = None,
        prompt: str = "To be, or not to be",
        temperature: float = 0.8,
        seed: int = 0,
        written: str = "",
        start: bool = False,
    ) -> None:
        super().__init__(
            state,
            merges,
            n_head=n_head,
            block_size=block_size,
            rope_theta=rope_theta,
            prompt=prompt,
            temperature=temperature,
            seed=seed,
            written=written,
            start=start,
        )

    @staticmethod
    def pack(arrays: Mapping[str, Array]) -> bytes:
        """The vectors and one scale for each row of a matrix as float32, then all matrices as int8."""
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
