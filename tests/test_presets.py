"""Presets against the published configurations, which are written down here once more, and exact sizes."""

import ast
import re
from pathlib import Path

import pytest
import torch

import myllm.presets
from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.presets import PRESETS

# Parameters, each tied one once; context, base of RoPE, epsilon of the norms.
OFFICIAL = {
    "gpt2": (124_439_808, 1024, None, 1e-5),
    "gpt2-medium": (354_823_168, 1024, None, 1e-5),
    "gpt2-large": (774_030_080, 1024, None, 1e-5),
    "gpt2-xl": (1_557_611_200, 1024, None, 1e-5),
    "llama-2-7b": (6_738_415_616, 4096, 1e4, 1e-5),
    "llama-2-13b": (13_015_864_320, 4096, 1e4, 1e-5),
    "llama-3-8b": (8_030_261_248, 8192, 5e5, 1e-5),
    "llama-3.2-1b": (1_235_814_400, 131_072, 5e5, 1e-5),
    "llama-3.2-3b": (3_212_749_824, 131_072, 5e5, 1e-5),
    "tinyllama-1.1b": (1_100_048_384, 2048, 1e4, 1e-5),
    "mistral-7b": (7_241_732_096, 32_768, 1e4, 1e-5),
    "phi-2": (2_779_683_840, 2048, 1e4, 1e-5),
    "phi-3-mini": (3_821_079_552, 4096, 1e4, 1e-5),
    "gemma-2b": (2_506_172_416, 8192, 1e4, 1e-6),
    "gemma-7b": (8_537_680_896, 8192, 1e4, 1e-6),
    "gemma-2-2b": (2_614_341_888, 8192, 1e4, 1e-6),
    "qwen2.5-0.5b": (494_032_768, 32_768, 1e6, 1e-6),
    "qwen3-0.6b": (596_049_920, 40_960, 1e6, 1e-6),
    "smollm2-135m": (134_515_008, 8192, 1e5, 1e-5),
    "smollm2-360m": (361_821_120, 8192, 1e5, 1e-5),
    "smollm2-1.7b": (1_711_376_384, 8192, 1.3e5, 1e-5),
}
SOURCE = Path(myllm.presets.__file__).with_suffix(".toml").read_text(encoding="utf-8")


def test_every_preset_is_written_down_here():
    assert [*PRESETS] == [*OFFICIAL]


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_preset_has_the_official_size(name):
    parameters, context, theta, eps = OFFICIAL[name]
    config = ModelConfig.preset(name)
    assert (config.block_size, config.norm_eps) == (context, eps)
    assert config.rope_theta == theta if config.position == "rope" else theta is None
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters == config.n_params


@pytest.mark.parametrize(("name", "layers", "heads", "width"), [
    ("gpt2", 12, 12, 768), ("gpt2-medium", 24, 16, 1024), ("gpt2-large", 36, 20, 1280),
    ("gpt2-xl", 48, 25, 1600),
])  # fmt: skip
def test_gpt2_equals_its_official_configuration(name, layers, heads, width):
    official = {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": width, "n_head": heads,
        "n_layer": layers, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
        "summary_use_proj": True, "vocab_size": 50257,
    }  # fmt: skip
    assert ModelConfig.from_hf(official) == ModelConfig.preset(name)
    assert ModelConfig.preset(name) == ModelConfig(
        vocab_size=50257, block_size=1024, n_layer=layers, n_head=heads, n_embd=width, n_kv_head=heads,
        head_dim=64, intermediate_size=4 * width, norm="layernorm", norm_eps=1e-5, mlp="plain",
        activation="gelu_tanh", bias=True, qkv_bias=True, position="learned", tie_embeddings=True,
        init_std=0.02,
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stands_under_its_link(name):
    link = r"# https://huggingface\.co/[\w.-]+/[\w.-]+/blob/[0-9a-z]+/config\.json"
    assert re.search(rf'^{link}\n\["?{re.escape(name)}"?\]\n', SOURCE, re.MULTILINE)


def test_presets_import_nothing_of_ours():
    tree = ast.parse(Path(myllm.presets.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"pathlib", "typing"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_knows_its_family(name):
    config = ModelConfig.preset(name)
    assert config.family == PRESETS[name]["family"] == config.to_hf()["model_type"]


def test_fields_can_be_changed():
    small = ModelConfig.preset("gpt2", n_layer=2, n_embd=24)
    assert (small.n_layer, small.n_embd, small.intermediate_size, small.head_dim) == (2, 24, 96, 2)
    assert ModelConfig.preset("mistral-7b", window=None).window is None
    assert ModelConfig.preset("gpt2") == ModelConfig.preset("gpt2", n_layer=12)


def test_unknown_names_and_fields_are_refused():
    with pytest.raises(UserError, match="There is no preset 'gpt3'; there are gpt2, gpt2-medium"):
        ModelConfig.preset("gpt3")
    with pytest.raises(UserError, match="has no field 'depth'"):
        ModelConfig.preset("gpt2", depth=3)
