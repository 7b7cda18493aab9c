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
_LLAMA2: dict[str, Any] = {"vocab_size": 32_000, "block_size": 4096}
_LLAMA3: dict[str, Any] = {"vocab_size": 128_256, "block_size": 131_072, "rope_theta": 500_000.0}
_LLAMA32: dict[str, Any] = {
    **_LLAMA3,
    "rope_scaling": {"kind": "llama3", "factor": 32.0, "original_context": 8192},
    "tie_embeddings": True,
}
_GEMMA: dict[str, Any] = {
    "vocab_size": 256_000,
    "block_size": 8192,
    "head_dim": 256,
    "norm_eps": 1e-6,
    "norm_offset": True,
    "activation": "gelu_tanh",
    "scale_embeddings": True,
    "tie_embeddings": True,
}
_QWEN: dict[str, Any] = {
    "vocab_size": 151_936,
    "norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_embeddings": True,
}
_SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152,
    "block_size": 8192,
    "rope_theta": 100_000.0,
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
    # https://huggingface.co/meta-llama/Llama-2-7b-hf/blob/main/config.json
    "llama-2-7b": {**_LLAMA2, "n_layer": 32, "n_head": 32, "n_embd": 4096, "intermediate_size": 11_008},
    # https://huggingface.co/meta-llama/Llama-2-13b-hf/blob/main/config.json
    "llama-2-13b": {**_LLAMA2, "n_layer": 40, "n_head": 40, "n_embd": 5120, "intermediate_size": 13_824},
    # https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json
    "llama-3-8b": {
        **_LLAMA3,
        "block_size": 8192,
        "n_layer": 32,
        "n_head": 32,
        "n_kv_head": 8,
        "n_embd": 4096,
        "intermediate_size": 14_336,
    },
    # https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json
    "llama-3.2-1b": {
        **_LLAMA32,
        "n_layer": 16,
        "n_head": 32,
        "n_kv_head": 8,
        "n_embd": 2048,
        "intermediate_size": 8192,
    },
    # https://huggingface.co/meta-llama/Llama-3.2-3B/blob/main/config.json
    "llama-3.2-3b": {
        **_LLAMA32,
        "n_layer": 28,
        "n_head": 24,
        "n_kv_head": 8,
        "n_embd": 3072,
        "intermediate_size": 8192,
    },
    # https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0/blob/main/config.json
    "tinyllama-1.1b": {
        **_LLAMA2,
        "block_size": 2048,
        "n_layer": 22,
        "n_head": 32,
        "n_kv_head": 4,
        "n_embd": 2048,
        "intermediate_size": 5632,
    },
    # https://huggingface.co/mistralai/Mistral-7B-v0.1/blob/main/config.json
    "mistral-7b": {
        **_LLAMA2,
        "block_size": 32_768,
        "n_layer": 32,
        "n_head": 32,
        "n_kv_head": 8,
        "n_embd": 4096,
        "intermediate_size": 14_336,
        "window": 4096,
    },
    # https://huggingface.co/microsoft/phi-2/blob/main/config.json
    "phi-2": {
        "vocab_size": 51_200,
        "block_size": 2048,
        "n_layer": 32,
        "n_head": 32,
        "n_embd": 2560,
        "intermediate_size": 10_240,
        "norm": "layernorm",
        "mlp": "plain",
        "activation": "gelu_tanh",
        "bias": True,
        "head_bias": True,
        "rotary_fraction": 0.4,
        "parallel_residual": True,
    },
    # https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/config.json
    "phi-3-mini": {
        "vocab_size": 32_064,
        "block_size": 4096,
        "n_layer": 32,
        "n_head": 32,
        "n_embd": 3072,
        "intermediate_size": 8192,
        "window": 2047,
    },
    # https://huggingface.co/google/gemma-2b/blob/main/config.json
    "gemma-2b": {
        **_GEMMA,
        "n_layer": 18,
        "n_head": 8,
        "n_kv_head": 1,
        "n_embd": 2048,
        "intermediate_size": 16_384,
    },
    # https://huggingface.co/google/gemma-7b/blob/main/config.json
    "gemma-7b": {**_GEMMA, "n_layer": 28, "n_head": 16, "n_embd": 3072, "intermediate_size": 24_576},
    # https://huggingface.co/google/gemma-2-2b/blob/main/config.json
    "gemma-2-2b": {
        **_GEMMA,
        "n_layer": 26,
        "n_head": 8,
        "n_kv_head": 4,
        "n_embd": 2304,
        "intermediate_size": 9216,
        "attention_softcap": 50.0,
        "logit_softcap": 30.0,
        "window": 4096,
        "full_attention_every": 2,
        "post_norms": True,
    },
    # https://huggingface.co/Qwen/Qwen2.5-0.5B/blob/main/config.json
    "qwen2.5-0.5b": {
        **_QWEN,
        "block_size": 32_768,
        "n_layer": 24,
        "n_head": 14,
        "n_kv_head": 2,
        "n_embd": 896,
        "intermediate_size": 4864,
        "qkv_bias": True,
    },
    # https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
    "qwen3-0.6b": {
        **_QWEN,
        "block_size": 40_960,
        "n_layer": 28,
        "n_head": 16,
        "n_kv_head": 8,
        "n_embd": 1024,
        "intermediate_size": 3072,
        "head_dim": 128,
        "qk_norm": True,
    },
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M/blob/main/config.json
    "smollm2-135m": {
        **_SMOLLM2,
        "n_layer": 30,
        "n_head": 9,
        "n_kv_head": 3,
        "n_embd": 576,
        "intermediate_size": 1536,
        "init_std": 1 / 24,
    },
    # https://huggingface.co/HuggingFaceTB/SmolLM2-360M/blob/main/config.json
    "smollm2-360m": {
        **_SMOLLM2,
        "n_layer": 32,
        "n_head": 15,
        "n_kv_head": 5,
        "n_embd": 960,
        "intermediate_size": 2560,
    },
    # https://huggingface.co/HuggingFaceTB/SmolLM2-1.7B/blob/main/config.json
    "smollm2-1.7b": {
        **_SMOLLM2,
        "n_layer": 24,
        "n_head": 32,
        "n_embd": 2048,
        "intermediate_size": 8192,
        "rope_theta": 130_000.0,
    },
}
