"""Configurations of Hugging Face: what they say is honoured or refused, and what is written is read back."""

import copy
import json
import random
import warnings
from dataclasses import fields

import pytest
import torch
from weights_cases import CASES, LLAMA

from myllm.config import ModelConfig, RopeScaling
from myllm.families import FAMILIES, NEUTRAL, UnknownSettingWarning
from myllm.files import UserError
from myllm.model.rope import Rope

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
    "factor": ({"rope_scaling": {"type": "linear"}}, "factor must be a number from 1"),
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
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 10,000"),
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


# Rotary frequencies, by the modules of transformers


def their_rotation(hf, length):
    """Cosines and sines of all positions that transformers computes for a configuration, each pair once."""
    from importlib import import_module

    from transformers import CONFIG_MAPPING

    kind, settings = hf["model_type"], {key: value for key, value in hf.items() if key != "model_type"}
    settings = copy.deepcopy(settings)  # it writes into the objects that it is given
    module = import_module(f"transformers.models.{kind}.modeling_{kind}")
    rotary = getattr(module, f"{kind.capitalize()}RotaryEmbedding")(CONFIG_MAPPING[kind](**settings))
    cos, sin = rotary(torch.zeros(1), torch.arange(length)[None])
    return torch.stack([cos, sin])[:, 0, :, : cos.shape[-1] // 2]


def our_rotation(config, length):
    """The same, from what becomes of a head whose pairs are all (1, 0)."""
    rope = Rope(
        config.head_dim,
        theta=config.rope_theta,
        scaling=config.rope_scaling,
        fraction=config.rotary_fraction,
    )
    half = config.rotary_dim // 2
    head = torch.zeros(1, 1, length, config.head_dim)
    head[..., :half] = 1
    rotated = rope(torch.arange(length)[None])(head, head)[0][0, 0]
    return torch.stack([rotated[:, :half], rotated[:, half : 2 * half]])


SIZES = {key: value for key, value in LLAMA.items() if key != "rms_norm_eps"} | {"hidden_size": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = [
    None,
    {},
    {"rope_theta": 33.0},
    {"rope_type": "default", "rope_theta": 50.0},
    {"type": "linear", "factor": 2.0},
    {"type": "yarn", "factor": 4.0, "beta_fast": None},
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 77.0},
    {"rope_type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 8},
    {"rope_type": "linear", "type": "yarn", "factor": 3.0},
    {**LLAMA3, "original_max_position_embeddings": 8},
    LLAMA3,
]
PLACES = [
    {"rope_scaling": scaling, "rope_parameters": parameters, "rope_theta": theta} | top
    for scaling in ROPES
    for parameters in ROPES
    for theta in (100.0, 20_000)
    for top in ({}, {"original_max_position_embeddings": 16})
]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "phi"])
def test_wherever_rope_is_described_transformers_rotates_the_same(oracle, kind):
    for place in random.Random(kind).sample(PLACES, 60):
        given = {key: value for key, value in place.items() if value is not None}
        hf = {**SIZES, "model_type": kind, **given}
        torch.testing.assert_close(
            our_rotation(ModelConfig.from_hf(hf), 80), their_rotation(hf, 80), atol=2e-5, rtol=0
        )


def test_rope_scaling_replaces_rope_parameters_and_the_top_level_context_counts():
    plain = {"rope_type": "default", "rope_theta": 5.0}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    both = read(rope_parameters=plain, rope_scaling=yarn)
    assert (both.rope_scaling, both.rope_theta) == (RopeScaling("yarn", 4.0, 8), 10_000.0)
    top = read(rope_scaling=yarn, original_max_position_embeddings=16)
    assert (top.rope_scaling, top.block_size) == (RopeScaling("yarn", 4.0, 16), 32)
    assert read(rope_scaling={}, rope_parameters=plain).rope_theta == 5.0


@pytest.mark.parametrize("block_size", [8, 16, 24, 64, 100])
@pytest.mark.parametrize("scaling", [
    RopeScaling("linear", 4.0, 16), RopeScaling("dynamic", 4.0, 16), RopeScaling("yarn", 4.0, 16),
    RopeScaling("yarn", 4.0, 16, beta_fast=20.0, beta_slow=2.0, attention_factor=1.5),
    RopeScaling("llama3", 4.0, 16), RopeScaling("llama3", 4.0, 16, 2.0, 16.0),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "phi"])
def test_a_scaled_model_of_any_context_is_written(oracle, kind, scaling, block_size):
    config = ModelConfig.from_hf({**SIZES, "model_type": kind})
    config = config.replace(rope_scaling=scaling, block_size=block_size)
    written = config.to_hf()
    assert ModelConfig.from_hf(json.loads(json.dumps(written))) == config
    torch.testing.assert_close(our_rotation(config, 80), their_rotation(written, 80), atol=2e-5, rtol=0)


# The family


def test_a_configuration_remembers_its_family():
    mistral = ModelConfig.from_hf({**BASE, "model_type": "mistral", "sliding_window": None})
    assert (mistral.family, mistral.to_hf()["model_type"]) == ("mistral", "mistral")
    assert mistral == read() and mistral.replace(family=None).to_hf()["model_type"] == "llama"
    assert mistral.replace(n_layer=1).family == "mistral"
    assert mistral.replace(qkv_bias=True).family is None
    assert mistral.replace(qkv_bias=True).to_hf()["model_type"] == "qwen2"
    assert ModelConfig.preset("phi-3-mini", window=None).family == "phi3"
    assert ModelConfig.preset("gpt2", norm="rmsnorm").family is None


def test_a_family_that_cannot_say_a_field_is_not_written():
    gemma2 = ModelConfig.from_hf(CASES["gemma2"])
    assert gemma2.replace(attention_scale=0.25).to_hf()["query_pre_attn_scalar"] == 16
    for fields_of_none in ({"attention_scale": 0.3}, {"head_dim": 16, "attention_scale": 0.25}):
        assert (
            gemma2.replace(**fields_of_none).family is None
        )  # 0.3 ** -2 is not whole; 16 means "by default"
    odd = read().replace(n_embd=22, head_dim=6)  # transformers refuses this width in LLaMA
    assert odd.family is None and odd.to_hf()["model_type"] == "mistral"
    assert ModelConfig.from_hf(CASES["gemma"]).replace(activation="gelu").family is None


@pytest.mark.parametrize("seed", range(300))
def test_what_any_family_writes_is_read_as_the_same_model(seed):
    pick = random.Random(seed)
    config = ModelConfig.from_hf(CASES[pick.choice([*CASES])])
    heads = pick.choice([1, 2, 4])
    changes = {
        "n_head": heads, "n_kv_head": pick.choice([1, heads]), "n_embd": heads * pick.choice([4, 5, 8]),
        "head_dim": pick.choice([None, 8, 20]), "activation": pick.choice(["gelu", "gelu_tanh", "relu"]),
        "n_layer": pick.randint(1, 4), "window": pick.choice([None, 3]), "block_size": pick.randint(2, 90),
        "full_attention_every": pick.choice([2, 3, 9]), "attention_scale": pick.choice([None, 0.25, 0.3]),
        "tie_embeddings": pick.random() < 0.5, "init_std": 1 / 3, "norm_eps": 1e-3, "rotary_fraction": 0.4,
        "bias": pick.random() < 0.5, "qkv_bias": pick.choice([None, True, False]), "intermediate_size": 7,
        "rope_scaling": pick.choice([None, RopeScaling("yarn", 2.0, 8), RopeScaling("dynamic", 1.5, 9)]),
    }  # fmt: skip
    for name in pick.sample([*changes], 5):
        try:
            changed = config.replace(**{name: changes[name]})
            written = changed.to_hf()
        except UserError:
            continue
        config = changed
        assert ModelConfig.from_hf(json.loads(json.dumps(written))) == config


# Settings that no table names


def quiet(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(**changes)


def test_an_unknown_value_warns_and_an_unknown_structure_is_refused():
    for value in (1, 0, 0.5, "x", True):
        with pytest.warns(
            UnknownSettingWarning, match=r"'new_feature' of the llama model .* not used: .*\.$"
        ):
            assert read(new_feature=value) == read()
    for value in ({"a": 1}, [1]):
        with pytest.raises(UserError, match="'new_feature'"):
            read(new_feature=value)
    for value in (None, False, [], {}):
        assert quiet(new_feature=value) == read()


def test_what_version_4_of_transformers_wrote_is_read_in_silence():
    """Its defaults: training of classifiers, what is returned, and how to generate."""
    old = {
        "add_cross_attention": False, "bad_words_ids": None, "chunk_size_feed_forward": 0, "do_sample": True,
        "diversity_penalty": 0.0, "early_stopping": False, "finetuning_task": None, "is_decoder": True,
        "is_encoder_decoder": False, "length_penalty": 1.0, "max_length": 20, "min_length": 0, "num_beams": 1,
        "num_beam_groups": 1, "num_labels": 1, "num_return_sequences": 1, "output_attentions": False,
        "output_hidden_states": False, "output_past": True, "predict_special_tokens": True, "n_special": 0,
        "problem_type": None, "pruned_heads": {}, "repetition_penalty": 1.0, "return_dict": True,
        "summary_first_dropout": 0.1, "suppress_tokens": [1, 2], "temperature": 0.6, "tf_legacy_loss": False,
        "tie_encoder_decoder": True, "tokenizer_class": "GPT2Tokenizer", "top_k": 50, "top_p": 0.9,
        "torchscript": True, "typical_p": 1.0, "use_bfloat16": True, "id2label": {"0": "A"},
    }  # fmt: skip
    assert quiet(**old) == read()
    assert ModelConfig.from_hf({**CASES["gpt2"], **old}) == ModelConfig.from_hf(CASES["gpt2"])


@pytest.mark.parametrize("name", CASES)
def test_everything_that_transformers_itself_writes_is_known(oracle, name):
    """Every key of its configurations, and of generation as far as it drops them from one."""
    from transformers import CONFIG_MAPPING, GenerationConfig

    settings = {**CASES[name]}
    theirs = CONFIG_MAPPING[settings.pop("model_type")](**settings).to_dict()
    generation = dict.fromkeys(GenerationConfig._get_default_generation_params(), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ModelConfig.from_hf({**generation, **theirs}) == ModelConfig.from_hf(CASES[name])


@pytest.mark.parametrize("name, value", [
    ("alibi", True), ("attention_multiplier", 0.1), ("attn_logit_softcapping", 30.0), ("clip_qkv", 8.0),
    ("embedding_multiplier", 12.0), ("final_logit_softcapping", 30.0), ("logit_scale", 0.5),
    ("logits_scaling", 8.0), ("mlp_only_layers", [0]), ("num_experts", 4), ("num_local_experts", 8),
    ("partial_rotary_factor", 0.5), ("pruned_heads", {"0": [1]}), ("query_pre_attn_scalar", 144),
    ("residual_multiplier", 0.22), ("rope_interleaved", True), ("scale_attn_by_inverse_layer_idx", True),
    ("scale_attn_weights", False), ("sliding_window", 4), ("sliding_window_pattern", 6),
    ("use_bidirectional_attention", True), ("qk_layernorm", True), ("layer_types", ["sliding_attention"] * 2),
    ("attention_bias", 1), ("attention_bias", "false"), ("rope_interleaved", 0), ("rope_interleaved", "true"),
])  # fmt: skip
def test_a_setting_that_changes_the_model_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        read(**{name: value})


def test_the_neutral_value_of_such_a_setting_is_read_in_silence():
    assert quiet(**NEUTRAL) == read()


# Odd and absurd values


NUMBERS = [0, -1, 1.5, 2**31, 2**64, 10**30, 10**4000, True, "2", [2], {"a": 2}, float("nan"), float("inf")]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: f"{value!s:.8}")
@pytest.mark.parametrize("name", CASES)
def test_every_odd_number_is_refused_in_one_sentence(name, value):
    known = FAMILIES[CASES[name]["model_type"]]
    for field, (keys, *default) in known.keys.items():
        kind = type(default[0]) if default else int
        if kind in (str, bool, dict) or (kind is float and value == 1.5):
            continue
        if kind is float and (value == 10**30 or value in (2**31, 2**64)):
            continue
        for key in keys.split():
            with pytest.raises(UserError) as error:
                ModelConfig.from_hf(
                    {**CASES[name], "use_sliding_window": True, key: value, "rope_parameters": None}
                )
            assert str(error.value).endswith(".") and "\n" not in str(error.value), field
            assert len(str(error.value)) < 200


SCALING_KEYS = {
    "yarn": ("beta_fast", "beta_slow", "attention_factor"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "linear": (),
    "dynamic": (),
}


@pytest.mark.parametrize("value", [0, -1, *NUMBERS[6:]], ids=lambda value: f"{value!s:.8}")
@pytest.mark.parametrize("kind", SCALING_KEYS)
def test_every_odd_number_of_a_scaling_is_refused_in_one_sentence(kind, value):
    context = [] if kind == "dynamic" else ["original_max_position_embeddings"]
    for key in ("factor", "rope_theta", *SCALING_KEYS[kind], *context):
        with pytest.raises(UserError) as error:
            read(rope_scaling={"type": kind, "factor": 2.0} | {key: value})
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize("value", [[], [1], "yarn", 5, True])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_list_or_value_where_an_object_is_read_is_refused(key, value):
    with pytest.raises(UserError, match=f"{key} must be an object or null"):
        read(**{key: value})


@pytest.mark.parametrize("hf", [None, [], [1], "llama", 5])
def test_a_file_without_an_object_is_refused(hf):
    with pytest.raises(UserError, match="holds no object"):
        ModelConfig.from_hf(hf)


@pytest.mark.parametrize("name", CASES)
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(name):
    """No list of layers: a loop over so many would be seen as a hang."""
    layers = "n_layer" if CASES[name]["model_type"] == "gpt2" else "num_hidden_layers"
    for number in (10_001, 10**8, 2**31 - 1, 2**64):
        with pytest.raises(UserError, match="whole number from 1 to"):
            ModelConfig.from_hf({**CASES[name], "layer_types": None, layers: number, "max_window_layers": 0})
