"""How many bytes the keys and values of a running text take, beside those of the weights."""

from __future__ import annotations

from typing import Any

import traitlets

from .base import Widget, source

MODELS = ("gpt2", "llama-2-7b", "llama-2-70b", "llama-3-8b", "mistral-7b", "smollm2-135m")
FORMATS = ("float32", "bfloat16", "int8")


class KVBytes(Widget):
    """Counts the cache of a published model, of which the reader may change every number.

    The cache is that of `myllm.config.ModelConfig.kv_bytes`; with a window only the last tokens are kept.
    Changing heads leaves the width of the model as it is.

    Args:
        model: The model first seen: ``gpt2``, ``llama-2-7b``, ``llama-2-70b``, ``llama-3-8b``, ``mistral-7b``
            or ``smollm2-135m``.
        context: Tokens of each text, 1 to 131,072.
        batch: Texts that are continued together, 1 to 256.
        dtype: Format of weights and cache: ``float32``, ``bfloat16`` or ``int8``.

    Raises:
        ValueError: If an argument is none of these.
    """

    _css = source("layout.css", "config.css")
    _esm = source("layout.mjs", "text.mjs", "config.mjs", "controls.mjs", "kv_bytes.mjs")

    model = traitlets.Unicode().tag(sync=True)
    shape = traitlets.Dict().tag(sync=True)  # what the reader changed of the model
    context = traitlets.Int().tag(sync=True)
    batch = traitlets.Int().tag(sync=True)
    dtype = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, model: str = "llama-2-7b", *, context: int = 4096, batch: int = 1, dtype: str = "bfloat16"
    ) -> None:
        for name, value, known in (("model", model, MODELS), ("dtype", dtype, FORMATS)):
            if value not in known:
                raise ValueError(f"The {name} must be one of {', '.join(known)}, not {value!r}.")
        _check("context", context, 131_072)
        _check("batch", batch, 256)
        super().__init__(model=model, context=context, batch=batch, dtype=dtype)

    def __repr__(self) -> str:
        return f"KVBytes({self.model!r})"


def _check(name: str, value: Any, most: int) -> None:
    """Refuse what is no whole number from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"The {name} must be a whole number from 1 to {most:,}, not {value!r}.")
