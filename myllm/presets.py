"""Published models as plain numbers, each with a link to its official configuration.

The keys are the fields of `myllm.config.ModelConfig`; what is left out has its default there.
"""

from typing import Any

_GPT2: dict[str, Any] = {
    "vocab_size": 50_257,
    "block_size": 1024,
    "norm": "layernorm",
    "mlp": "plain",
    "activation": "gelu_tanh",
    "position": "learned",
    "bias": True,
    "tie_embeddings": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    # https://huggingface.co/openai-community/gpt2/blob/main/config.json
    "gpt2": {**_GPT2, "n_layer": 12, "n_head": 12, "n_embd": 768},
    # https://huggingface.co/openai-community/gpt2-medium/blob/main/config.json
    "gpt2-medium": {**_GPT2, "n_layer": 24, "n_head": 16, "n_embd": 1024},
    # https://huggingface.co/openai-community/gpt2-large/blob/main/config.json
    "gpt2-large": {**_GPT2, "n_layer": 36, "n_head": 20, "n_embd": 1280},
    # https://huggingface.co/openai-community/gpt2-xl/blob/main/config.json
    "gpt2-xl": {**_GPT2, "n_layer": 48, "n_head": 25, "n_embd": 1600},
}
