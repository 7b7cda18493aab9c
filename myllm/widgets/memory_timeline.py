"""The bytes alive during one training step: parameters, optimizer, gradients, activations, logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from .base import Widget, check_integer, check_text, source

SIZES = ("parameters", "gradients", "optimizer", "logits")
MAX_CONFIGS = 12
MAX_LAYERS = 200
MAX_BYTES = 10**15


def _check_bytes(name: str, layers: Sequence[int]) -> None:
    if not isinstance(layers, (list, tuple)) or not 1 <= len(layers) <= MAX_LAYERS:
        raise ValueError(f"The {name} must be a list of 1 to {MAX_LAYERS} numbers of bytes.")
    for layer, size in enumerate(layers):
        check_integer(f"bytes of {name}[{layer}]", size, 0, MAX_BYTES)


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as plain JSON, or a ValueError that says what is wrong with it."""
    needed = {"name", "layers", *SIZES}
    if not isinstance(config, Mapping) or not needed <= config.keys() <= needed | {"inputs"}:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"A configuration must have the keys {', '.join(sorted(needed))}, and may have inputs."
        )
    check_text("name", config["name"], 1, 60)
    for name in SIZES:
        check_integer(f"bytes of {name}", config[name], 0, MAX_BYTES)
    lists = {name: config[name] for name in ("layers", "inputs") if name in config}
    for name, sizes in lists.items():
        _check_bytes(name, sizes)
    if len({len(sizes) for sizes in lists.values()}) > 1:
        raise ValueError("The inputs must be as many as the layers.")
    return {**config, **{name: list(sizes) for name, sizes in lists.items()}}


class MemoryTimeline(Widget):
    """Draws the memory of one training step, with or without recomputation, in micro-batches.

    The model of a step: parameters and optimizer are always in memory. Activations grow in the forward pass
    and shrink in the backward pass; with recomputation a layer keeps only its input, and all its activations
    exist only during its own backward pass. Logits, and what the loss keeps, exist between the two passes.
    Gradients arrive in equal shares, layer by layer, in the first micro-batch, and are freed after the
    update. A micro-batch is an equal part of the batch. What a layer needs only while it runs is left out.

    Args:
        configs: One to twelve configurations. Each is a dictionary of ``name``, the bytes of ``parameters``,
            ``gradients`` and ``optimizer``, ``layers`` (for each layer the bytes of activations that the
            forward pass of a whole batch keeps for the backward pass, including its input) and ``logits``
            (the bytes of the logits and of what the loss keeps, for a whole batch). ``inputs`` is optional:
            for each layer the bytes of its input; without it, a sixteenth of the activations, as in GPT-2.
        recompute: Whether the layers initially recompute their activations.
        micro_batches: Initial number of micro-batches, 1 to 32.

    Raises:
        ValueError: If a configuration lacks a key or an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "training.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "memory_timeline.mjs")

    configs = traitlets.List(traitlets.Dict()).tag(sync=True)
    config = traitlets.Int(0).tag(sync=True)
    recompute = traitlets.Bool().tag(sync=True)
    micro_batches = traitlets.Int().tag(sync=True)
    moment = traitlets.Int(-1).tag(sync=True)  # -1: the peak

    def __init__(
        self, configs: Sequence[Mapping[str, Any]], *, recompute: bool = False, micro_batches: int = 1
    ) -> None:
        if not 1 <= len(configs) <= MAX_CONFIGS:
            raise ValueError(f"There must be 1 to {MAX_CONFIGS} configurations, not {len(configs)}.")
        check_integer("number of micro-batches", micro_batches, 1, 32)
        super().__init__(
            configs=[_checked(config) for config in configs],
            recompute=bool(recompute),
            micro_batches=micro_batches,
        )

    def __repr__(self) -> str:
        return f"MemoryTimeline({len(self.configs)})"
