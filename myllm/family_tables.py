"""The families of Hugging Face models that `myllm.families` reads and writes, as tables."""

from typing import Any, Literal, NamedTuple

Values = dict[str, Any]
Keys = dict[str, tuple[str, Any]]
TANH = "gelu_pytorch_tanh"


class Family(NamedTuple):
    """How one family writes its configuration."""

    architecture: str
    """The class of the transformers library that reads it."""
    fixed: Values
    """Fields that have the same value in all its models."""
    keys: Keys
    """Field to the setting that holds it, and the value that counts where the file has none; ``...`` where it
    must have one. Two settings, with a blank between them, must agree."""
    only: Values
    """Settings and the one value that can be expressed."""
    windows: Literal["", "all", "alternating", "late"] = ""
    """Which layers have a window: none, all, every other one, or those after the first few."""


_BASE: Keys = {
    "vocab_size": ("vocab_size", ...),
    "block_size": ("max_position_embeddings", ...),
    "n_layer": ("num_hidden_layers", ...),
    "n_head": ("num_attention_heads", ...),
    "n_kv_head": ("num_key_value_heads", None),
    "n_embd": ("hidden_size", ...),
    "intermediate_size": ("intermediate_size", ...),
    "activation": ("hidden_act", "silu"),
    "rope_theta": ("rope_theta", 10_000.0),
    "tie_embeddings": ("tie_word_embeddings", False),
    "init_std": ("initializer_range", 0.02),
}
_LLAMA: Keys = _BASE | {
    "head_dim": ("head_dim", None),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "rope_scaling": ("rope_scaling", None),
}
_WINDOW: Keys = _LLAMA | {"window": ("sliding_window", 4096)}
_GEMMA: Keys = _LLAMA | {
    "n_kv_head": ("num_key_value_heads", ...),
    "head_dim": ("head_dim", 256),
    "activation": ("hidden_act", "gelu_pytorch_tanh"),
    "tie_embeddings": ("tie_word_embeddings", True),
}
_GEMMA2: Keys = _GEMMA | {
    "activation": ("hidden_activation", "gelu_pytorch_tanh"),
    "window": ("sliding_window", 4096),
    "attention_scale": ("query_pre_attn_scalar", 256),
    "attention_softcap": ("attn_logit_softcapping", 50.0),
    "logit_softcap": ("final_logit_softcapping", 30.0),
}
_PHI: Keys = _BASE | {
    "norm_eps": ("layer_norm_eps", 1e-5),
    "activation": ("hidden_act", "gelu_new"),
    "rope_scaling": ("rope_scaling", None),
    "rotary_fraction": ("partial_rotary_factor", 0.5),
    "qk_norm": ("qk_layernorm", False),
}
_PHI3: Keys = _BASE | {
    "norm_eps": ("rms_norm_eps", 1e-5),
    "rotary_fraction": ("partial_rotary_factor", 1.0),
    "window": ("sliding_window", None),
}
_GPT2: Keys = {
    "vocab_size": ("vocab_size", ...),
    "block_size": ("n_positions", ...),
    "n_layer": ("n_layer", ...),
    "n_head": ("n_head", ...),
    "n_embd": ("n_embd", ...),
    "intermediate_size": ("n_inner", None),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
    "activation": ("activation_function", "gelu_new"),
    "tie_embeddings": ("tie_word_embeddings", True),
    "init_std": ("initializer_range", 0.02),
}
_NEW: Values = {"norm": "rmsnorm", "mlp": "gated", "position": "rope"}
_OLD: Values = {"norm": "layernorm", "mlp": "plain", "bias": True}
_OFFSET: Values = _NEW | {"norm_offset": True, "scale_embeddings": True}
_NO_BIAS: Values = {"attention_bias": False}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        _OLD | {"position": "learned"},
        _GPT2,
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    ),
    "llama": Family("LlamaForCausalLM", _NEW, _LLAMA | {"bias": ("mlp_bias attention_bias", False)}, {}),
    "mistral": Family("MistralForCausalLM", _NEW, _WINDOW, {}, "all"),
    "qwen2": Family("Qwen2ForCausalLM", _NEW | {"qkv_bias": True}, _WINDOW, {}, "late"),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _NEW | {"qk_norm": True},
        _WINDOW | {"head_dim": ("head_dim", 128)},
        _NO_BIAS,
        "late",
    ),
    "gemma": Family("GemmaForCausalLM", _OFFSET, _GEMMA, _NO_BIAS | {"hidden_activation": TANH}),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _OFFSET | {"post_norms": True},
        _GEMMA2,
        _NO_BIAS | {"hidden_act": TANH},
        "alternating",
    ),
    "phi": Family(
        "PhiForCausalLM",
        _OLD | {"position": "rope", "head_bias": True, "parallel_residual": True},
        _PHI,
        {},
    ),
    "phi3": Family("Phi3ForCausalLM", _NEW, _PHI3, {}, "all"),
}
