"""Configurations of Hugging Face: what they say is honoured or refused, and what is written is read back."""

from dataclasses import fields

import pytest
from weights_cases import CASES, LLAMA

from myllm.config import ModelConfig, RopeScaling
from myllm.files import UserError

BASE = {"model_type": "llama", **LLAMA}


def read(**changes):
    return ModelConfig.from_hf({**BASE, **changes})


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_describes_the_same_model(name):
    config = ModelConfig.from_hf(CASES[name])
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_what_is_written_as_the_same_model(oracle, name):
    from transformers import CONFIG_MAPPING

    written = ModelConfig.from_hf(CASES[name]).to_hf()
    theirs = CONFIG_MAPPING[written.pop("model_type")](**written)
    assert ModelConfig.from_hf(theirs.to_diff_dict()) == ModelConfig.from_hf(CASES[name])


def test_the_older_and_the_newer_form_of_rope_say_the_same():
    scaling = {"factor": 4.0, "original_max_position_embeddings": 8}
    newer = read(rope_parameters={"rope_type": "yarn", "rope_theta": 50.0, **scaling})
    assert newer == read(rope_theta=50.0, rope_scaling={"rope_type": "yarn", **scaling})
    assert newer == read(rope_theta=50.0, rope_scaling={"type": "yarn", **scaling})
    assert newer.rope_theta == 50.0
    assert newer.rope_scaling == RopeScaling("yarn", 4.0, 8)
    phi = {"model_type": "phi", **LLAMA, "hidden_size": 40}
    del phi["rms_norm_eps"]
    newer = ModelConfig.from_hf({**phi, "rope_parameters": {"rope_theta": 9.0, "partial_rotary_factor": 0.4}})
    assert newer == ModelConfig.from_hf({**phi, "rope_theta": 9.0, "partial_rotary_factor": 0.4})
    assert (newer.rotary_fraction, newer.rope_theta) == (0.4, 9.0)


def test_a_scaling_makes_longer_texts_possible():
    assert read(rope_scaling={"type": "linear", "factor": 2.5}).block_size == 80
    assert read(rope_scaling={"type": "dynamic", "factor": 2.0}).rope_scaling.original_context == 32
    yarn = {"rope_type": "yarn", "factor": 4.0}
    assert read(rope_scaling=yarn).block_size == 128
    assert read(rope_scaling={**yarn, "original_max_position_embeddings": 8}).block_size == 32


def test_windows_are_read_from_every_way_to_write_them():
    def window(kind, **changes):
        config = ModelConfig.from_hf({**BASE, "model_type": kind, "num_hidden_layers": 4, **changes})
        return [config.layer_window(layer) for layer in range(4)]

    slide, full = "sliding_attention", "full_attention"
    assert window("mistral") == [4096] * 4
    assert window("mistral", sliding_window=None) == [None] * 4
    assert window("gemma2", sliding_window=3) == [3, None, 3, None]
    assert window("gemma2", layer_types=[slide, slide, slide, full], sliding_window=3) == [3, 3, 3, None]
    assert window("gemma2", layer_types=[full] * 4, sliding_window=3) == [None] * 4
    assert window("qwen2", sliding_window=3) == [None] * 4
    assert window("qwen2", sliding_window=3, use_sliding_window=True) == [None] * 4
    assert window("qwen2", sliding_window=3, use_sliding_window=True, max_window_layers=0) == [3] * 4
    assert window("phi3") == [None] * 4
    with pytest.raises(UserError, match="every n-th"):
        window("qwen2", sliding_window=3, use_sliding_window=True, max_window_layers=2)
    with pytest.raises(UserError, match="every n-th"):
        window("qwen3", sliding_window=3, use_sliding_window=True, layer_types=["chunked_attention"] * 4)


def test_gemma_means_tanh_where_it_says_gelu():
    gemma = {**BASE, "model_type": "gemma"}
    assert ModelConfig.from_hf({**gemma, "hidden_act": "gelu"}).activation == "gelu_tanh"
    assert read(hidden_act="gelu").activation == "gelu"


REFUSED = {  # a change of the configuration, and what the sentence must name
    "family": ({"model_type": "t5"}, "'t5'"),
    "family of another type": ({"model_type": ["llama"]}, "not known"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantized"),
    "longrope": ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "'longrope'"),
    "rope of phi3": (
        {"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_scaling",
    ),
    "setting of yarn": ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "'truncate'"),
    "ropes by layer": ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "not supported"),
    "factor": ({"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
    "word for a factor": ({"rope_scaling": {"type": "linear", "factor": "2"}}, "number"),
    "endless factor": ({"rope_scaling": {"type": "linear", "factor": float("inf")}}, "number"),
    "ramp of no width": (
        {"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
        "low_freq_factor < high_freq_factor",
    ),
    "ramp the wrong way": (
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 1.0, "beta_slow": 32.0}},
        "beta_slow < beta_fast",
    ),
    "small factor": ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor"),
    "rope a word": ({"rope_scaling": "linear"}, "an object"),
    "experts": ({"num_experts": 8}, "num_experts 8"),
    "partial rotation of llama": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "missing": ({"hidden_size": None}, "'hidden_size'"),
    "word": ({"hidden_size": "24"}, "whole number"),
    "fraction": ({"hidden_size": 24.5}, "whole number"),
    "negative": ({"intermediate_size": -1}, "whole number"),
    "bool": ({"tie_word_embeddings": 1}, "true or false"),
    "activation": ({"hidden_act": "swish7"}, "'swish7'"),
    "half a bias": ({"attention_bias": True}, "attention_bias"),
    "bias of qwen3": ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
    "heads": ({"num_attention_heads": 5}, "n_head 5"),
    "groups": ({"num_key_value_heads": 3}, "n_kv_head 3"),
    "layers": ({"num_hidden_layers": 10**9}, "n_layer must be a whole number from 1 to 10,000"),
    "layer types a number": ({"model_type": "gemma2", "layer_types": 5}, "a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_one_sentence(name):
    changes, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as error:
        read(**changes)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"add_cross_attention": True}],
)
def test_variants_of_gpt2_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        ModelConfig.from_hf({**CASES["gpt2"], **settings})


def test_settings_that_change_no_number_are_passed_over():
    quiet = {"attention_dropout": 0.1, "use_cache": True, "_name_or_path": "x", "transformers_version": "4.1"}
    assert read(**quiet, is_decoder=False, pruned_heads={}, id2label={"0": "x"}) == read()


@pytest.mark.parametrize(
    ("changes", "family", "lacking"),
    [
        ({"norm": "layernorm"}, "mistral", "norm"),
        ({"position": "none"}, "mistral", "position"),
        ({"post_norms": True}, "mistral", "post_norms"),
        ({"rotary_fraction": 0.5, "qk_norm": True}, "qwen3", "rotary_fraction"),
        ({"attention_scale": 0.123}, "mistral", "attention_scale"),
    ],
)
def test_a_model_of_no_family_is_not_written(changes, family, lacking):
    sizes = {"vocab_size": 9, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
    with pytest.raises(UserError, match=lacking) as error:
        ModelConfig(**sizes, **changes).to_hf()
    assert "No family of Hugging Face describes this model" in str(error.value)


def test_every_field_is_expressed_or_refused():
    """Whatever is changed, a written configuration never describes another model."""
    base = {"vocab_size": 9, "block_size": 8, "n_layer": 3, "n_head": 4, "n_embd": 16}
    changes = {
        "n_kv_head": 2, "head_dim": 8, "intermediate_size": 10, "norm": "layernorm", "norm_eps": 1e-3,
        "norm_offset": True, "mlp": "plain", "activation": "gelu", "bias": True, "qkv_bias": True,
        "head_bias": True, "position": "learned", "rope_theta": 7.0, "rotary_fraction": 0.5, "qk_norm": True,
        "rope_scaling": {"kind": "llama3", "factor": 2.0, "original_context": 4}, "attention_scale": 0.25,
        "attention_softcap": 2.0, "logit_softcap": 3.0, "window": 4, "parallel_residual": True,
        "post_norms": True, "scale_embeddings": True, "tie_embeddings": True, "init_std": 0.5,
    }  # fmt: skip
    assert {field.name for field in fields(ModelConfig) if field.compare} - base.keys() - changes.keys() == {
        "full_attention_every"
    }
    written = []
    for name, value in changes.items():
        config = ModelConfig._from_dict({**base, name: value})
        try:
            assert ModelConfig.from_hf(config.to_hf()) == config
            written.append(name)
        except UserError:
            pass
    assert {
        "n_kv_head",
        "head_dim",
        "rope_scaling",
        "qk_norm",
        "qkv_bias",
        "bias",
        "window",
        "activation",
    } <= {*written}
