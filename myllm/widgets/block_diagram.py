"""The parts of a GPT: the inputs and outputs of each, its parameters and its operations."""

from __future__ import annotations

from typing import Any

import traitlets

from .base import Widget, check_choice, check_integer, source

MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
PARTS = ("embedding", "positions", "norm1", "attention", "add1", "norm2", "mlp", "add2", "norm", "head")
LIMITS = {"n_layer": 100, "n_head": 128, "n_embd": 16_384, "vocab_size": 300_000, "block_size": 131_072}


class BlockDiagram(Widget):
    """Draws a GPT-2 whose sizes the reader can change, with live shapes, parameters and operations.

    The totals are those of `myllm.config.ModelConfig`: `n_params` and `flops_per_token`.

    Args:
        model: The model shown first: ``gpt2``, ``gpt2-medium``, ``gpt2-large`` or ``gpt2-xl``.
        batch: Texts B, 1 to 64.
        tokens: Tokens T of each text, 1 to the model's `block_size`.
        part: The part explained first: ``embedding``, ``positions``, ``norm1``, ``attention``, ``add1``,
            ``norm2``, ``mlp``, ``add2``, ``norm`` or ``head``.
        **settings: What differs from the model: `n_layer`, `n_head`, `n_embd`, `vocab_size`, `block_size` and
            `tie_embeddings`, as in `ModelConfig`.

    Raises:
        ValueError: If an argument is not one of these, or they do not fit together.
    """

    _css = source("layout.css", "config.css")
    _esm = source("layout.mjs", "text.mjs", "config.mjs", "controls.mjs", "block_diagram.mjs")

    model = traitlets.Unicode().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)  # what differs from the model
    batch = traitlets.Int().tag(sync=True)
    tokens = traitlets.Int().tag(sync=True)
    part = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        model: str = "gpt2",
        *,
        batch: int = 4,
        tokens: int = 1024,
        part: str = "attention",
        **settings: Any,
    ) -> None:
        check_choice("model", model, MODELS)
        check_choice("part", part, PARTS)
        check_integer("batch", batch, 1, 64)
        check_integer("tokens", tokens, 1, settings.get("block_size", 1024))
        for name, value in settings.items():
            if name in LIMITS:
                check_integer(name, value, 1, LIMITS[name])
            elif name != "tie_embeddings" or type(value) is not bool:
                raise ValueError(
                    f"The settings are {', '.join(LIMITS)} and tie_embeddings, not {name}={value!r}."
                )
        if ("n_embd" in settings) != ("n_head" in settings) or settings.get("n_embd", 0) % settings.get(
            "n_head", 1
        ):
            raise ValueError("Give n_embd and n_head together; the heads must divide the width.")
        super().__init__(model=model, settings=settings, batch=batch, tokens=tokens, part=part)

    def __repr__(self) -> str:
        return f"BlockDiagram({self.model!r})"
