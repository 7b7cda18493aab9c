"""The bytes of the key-value cache, compared with those of the weights."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, check_integer, source

MODELS = ("gpt2", "llama-2-7b", "llama-2-70b", "llama-3-8b", "mistral-7b", "smollm2-135m")
FORMATS = ("float32", "bfloat16", "int8")


class KVBytes(Widget):
    """Shows the cache of a published model, whose dimensions the reader can change.

    The size is that of `myllm.config.ModelConfig.kv_bytes`; with a window only the last tokens are kept.
    Changing the heads does not change the width of the model.

    Args:
        model: The model shown first: ``gpt2``, ``llama-2-7b``, ``llama-2-70b``, ``llama-3-8b``,
            ``mistral-7b`` or ``smollm2-135m``.
        context: Tokens of each text, 1 to 131,072.
        batch: Texts that are continued together, 1 to 256.
        dtype: Format of weights and cache: ``float32``, ``bfloat16`` or ``int8``.

    Raises:
        ValueError: If an argument is not one of these.
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
        check_choice("model", model, MODELS)
        check_choice("dtype", dtype, FORMATS)
        check_integer("context", context, 1, 131_072)
        check_integer("batch", batch, 1, 256)
        super().__init__(model=model, context=context, batch=batch, dtype=dtype)

    def __repr__(self) -> str:
        return f"KVBytes({self.model!r})"
