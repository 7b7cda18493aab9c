"""Every preset against the official configuration, as published, and against its number of parameters."""

import pytest
import torch

from myllm.config import ModelConfig
from myllm.presets import PRESETS

LLAMA_3_2 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama(kind, V, context, layers, heads, groups, width, inner, eps=1e-5, theta=10000.0, tied=False, **more):
    """What all official files but GPT-2's have in common."""
    return {
        "model_type": kind,
        "vocab_size": V,
        "max_position_embeddings": context,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "hidden_size": width,
        "intermediate_size": inner,
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "tie_word_embeddings": tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        **more,
    }


def gpt2(layers, heads, width):
    return {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024,
        "n_embd": width,
        "n_head": heads,
        "n_layer": layers,
        "n_positions": 1024,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    }


def gemma(layers, heads, groups, width, inner, kind="gemma", **more):
    common = {"head_dim": 256, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}
    common |= {"attention_bias": False, "attention_dropout": 0.0, **more}
    return llama(kind, 256000, 8192, layers, heads, groups, width, inner, eps=1e-6, tied=True, **common)


GEMMA_2 = {"hidden_act": "gelu_pytorch_tanh", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA_2 |= {"query_pre_attn_scalar": 256, "sliding_window": 4096, "cache_implementation": "hybrid"}
PHI_2 = {
    "partial_rotary_factor": 0.4,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new",
    "qk_layernorm": False,
}
QWEN = {"use_sliding_window": False, "hidden_act": "silu", "bos_token_id": 151643}
SMOLLM2 = {"is_llama_config": True, "rope_interleaved": False, "pretraining_tp": 1, "rope_scaling": None}

OFFICIAL = {  # the published configuration, and how many parameters the model has
    "gpt2": (gpt2(12, 12, 768), 124_439_808),
    "gpt2-medium": (gpt2(24, 16, 1024), 354_823_168),
    "gpt2-large": (gpt2(36, 20, 1280), 774_030_080),
    "gpt2-xl": (gpt2(48, 25, 1600), 1_557_611_200),
    "llama-2-7b": (llama("llama", 32000, 4096, 32, 32, 32, 4096, 11008), 6_738_415_616),
    "llama-2-13b": (llama("llama", 32000, 4096, 40, 40, 40, 5120, 13824), 13_015_864_320),
    "llama-3-8b": (llama("llama", 128256, 8192, 32, 32, 8, 4096, 14336, theta=500000.0), 8_030_261_248),
    "llama-3.2-1b": (
        llama(
            "llama",
            128256,
            131072,
            16,
            32,
            8,
            2048,
            8192,
            1e-5,
            5e5,
            True,
            rope_scaling=LLAMA_3_2,
            head_dim=64,
        ),
        1_235_814_400,
    ),
    "llama-3.2-3b": (
        llama(
            "llama",
            128256,
            131072,
            28,
            24,
            8,
            3072,
            8192,
            1e-5,
            5e5,
            True,
            rope_scaling=LLAMA_3_2,
            head_dim=128,
        ),
        3_212_749_824,
    ),
    "tinyllama-1.1b": (llama("llama", 32000, 2048, 22, 32, 4, 2048, 5632), 1_100_048_384),
    "mistral-7b": (
        llama("mistral", 32000, 32768, 32, 32, 8, 4096, 14336, sliding_window=4096),
        7_241_732_096,
    ),
    "phi-2": (
        {k: v for k, v in llama("phi", 51200, 2048, 32, 32, 32, 2560, 10240).items() if k != "rms_norm_eps"}
        | PHI_2,
        2_779_683_840,
    ),
    "phi-3-mini": (
        llama(
            "phi3",
            32064,
            4096,
            32,
            32,
            32,
            3072,
            8192,
            sliding_window=2047,
            original_max_position_embeddings=4096,
        ),
        3_821_079_552,
    ),
    "gemma-2b": (gemma(18, 8, 1, 2048, 16384), 2_506_172_416),
    "gemma-7b": (gemma(28, 16, 16, 3072, 24576), 8_537_680_896),
    "gemma-2-2b": (gemma(26, 8, 4, 2304, 9216, "gemma2", **GEMMA_2), 2_614_341_888),
    "qwen2.5-0.5b": (
        llama("qwen2", 151936, 32768, 24, 14, 2, 896, 4864, 1e-6, 1e6, True, sliding_window=32768, **QWEN)
        | {"max_window_layers": 24},
        494_032_768,
    ),
    "qwen3-0.6b": (
        llama("qwen3", 151936, 40960, 28, 16, 8, 1024, 3072, 1e-6, 1e6, True, sliding_window=None, **QWEN)
        | {"head_dim": 128, "attention_bias": False, "max_window_layers": 28},
        596_049_920,
    ),
    "smollm2-135m": (
        llama("llama", 49152, 8192, 30, 9, 3, 576, 1536, 1e-5, 100000, True, **SMOLLM2)
        | {"initializer_range": 0.041666666666666664},
        134_515_008,
    ),
    "smollm2-360m": (
        llama("llama", 49152, 8192, 32, 15, 5, 960, 2560, 1e-5, 100000, True, **SMOLLM2),
        361_821_120,
    ),
    "smollm2-1.7b": (
        llama("llama", 49152, 8192, 24, 32, 32, 2048, 8192, 1e-5, 130000, True, **SMOLLM2),
        1_711_376_384,
    ),
}


def test_every_preset_is_compared():
    assert OFFICIAL.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_preset_is_the_official_configuration(name):
    official, parameters = OFFICIAL[name]
    assert ModelConfig.preset(name) == ModelConfig.from_hf(official)
    assert ModelConfig.preset(name).n_params == parameters


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_preset_comes_back_from_its_own_file(name):
    config = ModelConfig.preset(name)
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name not in ("gpt2-large", "gpt2-xl")])
def test_transformers_counts_as_many_parameters(name):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    official, parameters = OFFICIAL[name]
    # A layer more counts the layers exactly; all of them would only take longer.
    layers = "n_layer" if official["model_type"] == "gpt2" else "num_hidden_layers"
    counts = []
    for n in (1, 2):
        settings = {**official, layers: n}
        with torch.device("meta"):
            config = CONFIG_MAPPING[settings.pop("model_type")](**settings)
            counts.append(sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()))
    assert counts[0] + (official[layers] - 1) * (counts[1] - counts[0]) == parameters
