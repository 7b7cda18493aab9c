"""Tiny models of every family, as their ``config.json`` describes them."""

LLAMA = {
    "vocab_size": 41,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PHI = {key: value for key, value in LLAMA.items() if key != "rms_norm_eps"} | {"hidden_size": 40}
GPT2 = {"vocab_size": 41, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}


def rope(kind, **settings):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **settings}}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=8)
LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8
)

CASES = {
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2-untied-relu": {
        "model_type": "gpt2",
        **GPT2,
        "n_inner": 20,
        "activation_function": "relu",
        "tie_word_embeddings": False,
    },
    "llama": {"model_type": "llama", **LLAMA},
    "llama-odd-heads-biases": {
        "model_type": "llama",
        **LLAMA,
        "head_dim": 10,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "llama-3": {"model_type": "llama", **LLAMA, **LLAMA3, "num_key_value_heads": 1},
    "llama-linear": {"model_type": "llama", **LLAMA, **rope("linear", factor=3.0)},
    "llama-dynamic": {
        "model_type": "llama",
        **LLAMA,
        **rope("dynamic", factor=3.0),
        "max_position_embeddings": 8,
    },
    "llama-yarn": {"model_type": "llama", **LLAMA, **YARN, "head_dim": 12},
    "mistral": {"model_type": "mistral", **LLAMA, "sliding_window": 5},
    "mistral-narrow": {
        "model_type": "mistral",
        **LLAMA,
        "hidden_size": 22,
        "head_dim": 6,
        "sliding_window": None,
    },
    "qwen2": {"model_type": "qwen2", **LLAMA, "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2",
        **LLAMA,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 0,
    },
    "qwen3": {"model_type": "qwen3", **LLAMA, "head_dim": 8},
    "qwen3-some-windows": {
        "model_type": "qwen3",
        **LLAMA,
        "head_dim": 8,
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "gemma": {"model_type": "gemma", **LLAMA, "num_key_value_heads": 1, "head_dim": 14},
    "gemma2": {
        "model_type": "gemma2",
        **LLAMA,
        "head_dim": 10,
        "sliding_window": 4,
        "query_pre_attn_scalar": 40,
        "attn_logit_softcapping": 1.0,
        "final_logit_softcapping": 3.0,
    },
    "phi": {"model_type": "phi", **PHI, "partial_rotary_factor": 0.4},
    "phi-norms": {"model_type": "phi", **PHI, "partial_rotary_factor": 0.6, "qk_layernorm": True},
    "phi3": {"model_type": "phi3", **LLAMA, "sliding_window": 6},
    "phi3-partial": {"model_type": "phi3", **LLAMA, "hidden_size": 32, "partial_rotary_factor": 0.75},
}
