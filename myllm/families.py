"""Between the configuration files of Hugging Face and the fields of `myllm.config.ModelConfig`."""

from typing import Any

from myllm.files import UserError


def from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelConfig` that describe the same model as a Hugging Face ``config.json``.

    Args:
        hf: The parsed file.

    Raises:
        UserError: An unknown family, or a setting that `Transformer` does not have.
    """
    family = hf.get("model_type")
    if family != "gpt2":
        raise UserError(f"The family {family!r} is not known; known is gpt2.")
    activation = hf.get("activation_function", "gelu_new")
    if activation not in _ACTIVATIONS:
        raise UserError(f"The activation {activation!r} is not known; known are {', '.join(_ACTIVATIONS)}.")
    return {
        "vocab_size": hf["vocab_size"],
        "block_size": hf["n_positions"],
        "n_layer": hf["n_layer"],
        "n_head": hf["n_head"],
        "n_embd": hf["n_embd"],
        "intermediate_size": hf.get("n_inner"),
        "norm": "layernorm",
        "norm_eps": hf.get("layer_norm_epsilon", 1e-5),
        "mlp": "plain",
        "activation": _ACTIVATIONS[activation],
        "position": "learned",
        "bias": True,
        "tie_embeddings": hf.get("tie_word_embeddings", True),
        "init_std": hf.get("initializer_range", 0.02),
    }


_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
