"""What published files call the parts of a Transformer, and how their tensors are converted."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, source

FAMILIES = ("gpt2", "llama", "qwen3", "gemma", "gemma2", "phi", "phi3", "gguf")
PARTS = (
    "embed_tokens",
    "embed_positions",
    "layers.N.input_layernorm",
    "layers.N.self_attn.q_proj",
    "layers.N.self_attn.k_proj",
    "layers.N.self_attn.v_proj",
    "layers.N.self_attn.q_norm",
    "layers.N.self_attn.k_norm",
    "layers.N.self_attn.o_proj",
    "layers.N.attention_output_norm",
    "layers.N.post_attention_layernorm",
    "layers.N.mlp.gate_proj",
    "layers.N.mlp.up_proj",
    "layers.N.mlp.down_proj",
    "layers.N.mlp_output_norm",
    "norm",
    "lm_head",
)


class KeyMap(Widget):
    """Draws lines from our tensors to those of a published file: renamed, split, transposed, or absent.

    The tables are those of `myllm.weights.convert` and `myllm.weights.gguf`, the shapes those of a published
    model of each family.

    Args:
        family: The family shown first: ``gpt2``, ``llama`` (Mistral and Qwen2 too), ``qwen3``, ``gemma``,
            ``gemma2``, ``phi``, ``phi3``, or ``gguf`` for a LLaMA in that format.
        part: The part explained first, a module of the Transformer with ``N`` for the number of a layer.

    Raises:
        ValueError: If an argument is not one of these.
    """

    _css = source("layout.css", "key_map.css")
    _esm = source("layout.mjs", "controls.mjs", "key_names.mjs", "key_map.mjs")

    family = traitlets.Unicode().tag(sync=True)
    part = traitlets.Unicode().tag(sync=True)

    def __init__(self, family: str = "gpt2", *, part: str = "layers.N.self_attn.q_proj") -> None:
        check_choice("family", family, FAMILIES)
        check_choice("part", part, PARTS)
        super().__init__(family=family, part=part)

    def __repr__(self) -> str:
        return f"KeyMap({self.family!r})"
