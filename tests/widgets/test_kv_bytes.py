import random

import pytest
import torch

from myllm.config import ModelConfig
from myllm.widgets import KVBytes
from myllm.widgets.kv_bytes import FORMATS, MODELS

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008,
}


def settings(seed: int) -> dict:
    """A random model, with what `ModelConfig` would need to hear of its family."""
    rng = random.Random(seed)
    K, D = rng.randint(1, 12), 2 * rng.randint(4, 64)
    return {
        "family": rng.choice(["gpt2", "llama"]),
        "vocab_size": rng.randint(10, 200_000),
        "block_size": rng.randint(1, 9000),
        "n_layer": rng.randint(1, 90),
        "n_head": K * rng.randint(1, 10),
        "n_kv_head": K,
        "head_dim": D,
        "n_embd": rng.randint(8, 9000),
        "intermediate_size": rng.randint(8, 30_000),
        "window": 0,
        "tie_embeddings": rng.random() < 0.5,
    }


def model_config(values: dict) -> ModelConfig:
    rest = {name: value for name, value in values.items() if name not in ("family", "window", "name")}
    if values["family"] == "gpt2":
        rest |= {"norm": "layernorm", "mlp": "plain", "position": "learned", "bias": True}
        rest |= {"activation": "gelu_tanh"}
    return ModelConfig(**rest)


RANDOM = [settings(seed) for seed in range(60)]


def test_bytes_are_those_of_the_package(node):
    rng = random.Random(7)
    cases = [(c, rng.randint(1, 256), rng.randint(1, 131_072), rng.choice(FORMATS)) for c in RANDOM]
    found = node(
        KVBytes, "cases.map(([config, B, T, dtype]) => kvBytes(config, B, T, FORMATS[dtype]))", cases=cases
    )
    assert found == [model_config(c).kv_bytes(B, T, getattr(torch, dtype)) for c, B, T, dtype in cases]


def test_a_window_keeps_the_last_tokens(node):
    cases = [
        (config | {"window": window}, T) for config in RANDOM for window in (1, 512) for T in (1, 300, 900)
    ]
    found = node(KVBytes, "cases.map(([config, T]) => kvBytes(config, 3, T, 2))", cases=cases)
    assert found == [
        model_config(config).kv_bytes(3, min(T, config["window"]), torch.bfloat16) for config, T in cases
    ]


def test_parameters_and_operations_are_those_of_the_package(node):
    found = node(
        KVBytes, "cases.map((config, i) => [total(config), flopsPerToken(config, 97 * i + 1)])", cases=RANDOM
    )
    configs = [model_config(config) for config in RANDOM]
    assert found == [[c.n_params, c.flops_per_token(97 * i + 1)] for i, c in enumerate(configs)]


def test_presets_have_the_published_number_of_parameters(node):
    presets = node(KVBytes, "PRESETS")
    assert node(KVBytes, "Object.values(PRESETS).map(total)") == list(PUBLISHED.values())
    assert list(presets) == list(PUBLISHED) and node(KVBytes, "MODELS") == list(MODELS)
    assert node(KVBytes, "Object.keys(FORMATS)") == list(FORMATS)
    assert {name: model_config(values).n_params for name, values in presets.items()} == PUBLISHED
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        assert model_config(presets[name]) == ModelConfig.preset(name)
    assert [name for name in presets if presets[name]["window"]] == ["mistral-7b"]


@pytest.mark.parametrize("name", ["gpt2", "llama-2-7b", "smollm2-135m"])
def test_a_step_reads_every_weight_it_multiplies_with(node, name):
    """Counted in a real model: all matrices and vectors but the tables of which one row is read."""
    from myllm.model.transformer import Transformer

    config = node(KVBytes, "PRESETS")[name] | {"n_layer": 2, "n_embd": 16, "head_dim": 4, "block_size": 7}
    config |= {"vocab_size": 50, "intermediate_size": 24}
    with torch.device("meta"):
        model = Transformer(model_config(config))
    multiplied = {id(p): p.numel() for path, p in model.named_parameters() if not path.startswith("embed_")}
    multiplied[id(model.lm_head.weight)] = model.lm_head.weight.numel()
    read = node(KVBytes, "bytesRead(config, 5, 6, 2)", config=config)
    assert read == {
        "weights": 2 * sum(multiplied.values()),
        "cache": 2 * 2 * 5 * 6 * 2 * config["n_kv_head"] * 4,
    }


def test_sharings_divide_the_query_heads_and_keep_the_models_own_groups(node):
    heads = [(H, K) for H in range(1, 65) for K in range(1, H + 1) if H % K == 0]
    found = node(KVBytes, "heads.map(([n_head, n_kv_head]) => sharings({ n_head, n_kv_head }))", heads=heads)
    for (H, K), ((mha, most), (gqa, group), (mqa, one)) in zip(heads, found, strict=True):
        assert (mha, most, gqa, mqa, one) == ("MHA", H, "GQA", "MQA", 1)
        quarter = max(d for d in range(1, H + 1) if H % d == 0 and d <= max(2, H / 4))
        assert group == (K if 1 < K < H else quarter)


@pytest.mark.parametrize(
    ("name", "batch", "tokens", "sentence"),
    [
        (
            "llama-2-7b",
            1,
            4096,
            "The keys and values of 1 text of 4,096 tokens take 2.15 GB, 0.16 times as much as the "
            "weights (13.5 GB). Each generated token reads 15.4 GB, 14.0 % of it keys and values.",
        ),
        (
            "gpt2",
            64,
            2048,
            "The keys and values of 64 texts of 2,048 tokens take 4.83 GB, 19 times as much as "
            "the weights (249 MB). Each generated token reads 79.4 MB, 95.1 % of it keys and values. "
            "The model was trained for 1,024 tokens.",
        ),
        (
            "mistral-7b",
            1,
            8192,
            "The keys and values of 1 text of 8,192 tokens take 537 MB, 0.037 times as much as the "
            "weights (14.5 GB); a window keeps the last 4,096 tokens. Each generated token reads 14.8 GB, "
            "3.6 % of it keys and values.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, name, batch, tokens, sentence):
    say = "describe(PRESETS[name], batch, tokens, 2)"
    assert node(KVBytes, say, name=name, batch=batch, tokens=tokens) == sentence


def test_numbers_have_three_digits_and_a_unit_of_a_thousand(node):
    cases = [0, 7, 999, 1000, 999_499, 999_500, 13_476_831_232, 3 * 10**15, 5 * 10**18]
    assert node(KVBytes, "cases.map(inBytes)", cases=cases) == [
        *("0 bytes", "7 bytes", "999 bytes", "1 kB", "999 kB", "1 MB", "13.5 GB", "3 PB", "5,000 PB")
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "gpt-5"}, "model must be one of gpt2, .* not 'gpt-5'"),
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16, int8, not 'float8'"),
        ({"context": 0}, "context must be a whole number from 1 to 131,072, not 0"),
        ({"context": 131_073}, "context must be a whole number from 1 to 131,072"),
        ({"context": 12.0}, "context must be a whole number"),
        ({"batch": 257}, "batch must be a whole number from 1 to 256, not 257"),
        ({"batch": True}, "batch must be a whole number"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        KVBytes(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run():
    assert repr(KVBytes("gpt2", context=100)) == "KVBytes('gpt2')"
