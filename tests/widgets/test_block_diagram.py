import random
import re

import pytest
import torch

from myllm.config import ModelConfig
from myllm.model.transformer import Transformer
from myllm.widgets import BlockDiagram
from myllm.widgets.block_diagram import MODELS, PARTS

MODULES = {  # the module of a real model that each part stands for
    "embedding": "embed_tokens",
    "norm1": "layers.0.input_layernorm",
    "attention": "layers.0.self_attn",
    "norm2": "layers.0.post_attention_layernorm",
    "mlp": "layers.0.mlp",
    "norm": "norm",
    "head": "lm_head",
}


def settings(seed: int) -> dict:
    rng = random.Random(seed)
    n_head = rng.randint(1, 40)
    return {
        "family": "gpt2",
        "vocab_size": rng.randint(2, 200_000),
        "block_size": rng.randint(1, 5000),
        "n_layer": rng.randint(1, 90),
        "n_head": n_head,
        "n_embd": n_head * rng.randint(1, 200),
        "tie_embeddings": rng.random() < 0.5,
    }


def model_config(values: dict) -> ModelConfig:
    gpt2 = {"norm": "layernorm", "mlp": "plain", "position": "learned", "bias": True}
    return ModelConfig(**gpt2, **{name: value for name, value in values.items() if name != "family"})


RANDOM = [settings(seed) for seed in range(60)]


def test_sums_are_those_of_the_package(node):
    found = node(
        BlockDiagram,
        """cases.map((settings, i) => {
          const each = parts(complete(settings), 3, i + 1);
          const sum = (name) => each.reduce((all, part) => all + part.times * part[name], 0);
          const whole = complete(settings);
          return [sum("parameters"), sum("flops"), total(whole), flopsPerToken(whole, i + 1)];
        })""",
        cases=RANDOM,
    )
    expected = [
        (c.n_params, c.flops_per_token(i + 1))
        for i, c in enumerate(model_config(values) for values in RANDOM)
    ]
    assert [(a, b) for a, b, _, _ in found] == [(c, d) for _, _, c, d in found] == expected


@pytest.mark.parametrize("tied", [True, False])
def test_shapes_and_parameters_are_those_of_a_real_model(node, tied):
    sizes = {"vocab_size": 50, "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}
    config = {"family": "gpt2", "tie_embeddings": tied, **sizes}
    each = {p["key"]: p for p in node(BlockDiagram, "parts(complete(config), 4, 7)", config=config)}
    assert (
        tuple(each)
        == PARTS
        == tuple(node(BlockDiagram, "[...parts(complete(config), 1, 1)].map(p => p.key)", config=config))
    )
    model = Transformer(model_config(config))
    modules = dict(model.named_modules())
    seen: dict[str, tuple[list[int], list[int]]] = {}
    for key, path in MODULES.items():
        modules[path].register_forward_hook(
            lambda _, args, out, key=key: seen.update({key: ([*args[0].shape], [*out.shape])})
        )
    inner: list[int] = []
    modules["layers.0.mlp.up_proj"].register_forward_hook(lambda _, args, out: inner.extend(out.shape))
    modules["embed_positions"].register_forward_hook(lambda _, args, out: inner.extend(out.shape))
    model(torch.zeros(4, 7, dtype=torch.int64))
    assert {key: (each[key]["from"], each[key]["to"]) for key in MODULES} == seen
    assert [1, *each["positions"]["inside"][0][1]] == inner[:3]
    assert each["mlp"]["inside"] == [["expanded, after GELU", inner[3:]]]
    for key, path in MODULES.items():
        own = sum(p.numel() for p in modules[path].parameters())
        assert each[key]["parameters"] == (0 if tied and key == "head" else own), key
    assert each["positions"]["parameters"] == model.embed_positions.weight.numel()
    assert {each[key]["times"] for key in PARTS[2:8]} == {2}


def test_shapes_inside_attention_are_those_of_the_definition(node):
    from myllm.model.attention import naive_attention

    config = {"family": "gpt2", "vocab_size": 5, "block_size": 9, "n_layer": 1, "n_head": 3, "n_embd": 12}
    inside = node(BlockDiagram, "parts(complete(config), 4, 7)[3].inside.map((row) => row[1])", config=config)
    q, k, v = torch.zeros(3, 4, 7, 12).view(3, 4, 7, 3, 4).transpose(2, 3)
    means, weights = naive_attention(q, k, v)
    joined = means.transpose(1, 2).flatten(2)
    assert inside == [[*x.shape] for x in (q, weights, means, joined)]


def value(formula: str, **numbers: int) -> int:
    """What a formula such as ``4·C² + 4·C`` comes to."""
    code = formula.replace(",", "").replace("·", "*").replace("²", "**2")
    assert re.fullmatch(r"[\dCVT*+ ]+", code)
    return eval(code, {}, numbers)


def test_formulas_come_to_the_numbers_beside_them(node):
    found = node(BlockDiagram, "cases.map((config, i) => parts(complete(config), 1, i + 1))", cases=RANDOM)
    for i, (config, each) in enumerate(zip(RANDOM, found, strict=True)):
        numbers = {"C": config["n_embd"], "V": config["vocab_size"], "T": i + 1}
        for part in each:
            assert part["parameters"] == (value(part["formula"], **numbers) if part["formula"] else 0)
            assert part["flops"] == (value(part["work"], **numbers) if "work" in part else 0)


def test_gpt2_has_the_published_number_of_parameters(node):
    counts = node(BlockDiagram, "SIZES.map((name) => total(complete(PRESETS[name])))")
    assert counts == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]
    assert node(BlockDiagram, "SIZES") == list(MODELS)
    presets = node(BlockDiagram, "SIZES.map((name) => [complete(PRESETS[name]), PRESETS[name]])")
    assert all(derived == given for derived, given in presets)


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        (
            3,
            "Attention: (4, 1024, 768) becomes (4, 1024, 768), with 2,362,368 parameters in each of 12 "
            "layers, 22.8 % of all 124,439,808. For each token it computes 7.86 million operations in "
            "each of 12 layers, 33.1 % of all.",
        ),
        (
            0,
            "Token embedding: (4, 1024) becomes (4, 1024, 768), with 38,597,376 parameters, "
            "31.0 % of all 124,439,808.",
        ),
        (4, "Add to the stream: (4, 1024, 768) becomes (4, 1024, 768), with no parameters."),
        (
            9,
            "Head: (4, 1024, 768) becomes (4, 1024, 50257), with no parameters of its own: it is the "
            "embedding table. For each token it computes 77.2 million operations, 27.1 % of all.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, at, sentence):
    say = "describe(parts(PRESETS.gpt2, 4, 1024)[at], PRESETS.gpt2, 1024)"
    assert node(BlockDiagram, say, at=at) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "llama-2-7b"}, "model must be one of gpt2, .* not 'llama-2-7b'"),
        ({"part": "softmax"}, "part must be one of embedding, .* not 'softmax'"),
        ({"batch": 65}, "batch must be a whole number from 1 to 64, not 65"),
        ({"tokens": 1025}, "tokens must be a whole number from 1 to 1,024, not 1025"),
        ({"tokens": 65, "block_size": 64}, "tokens must be a whole number from 1 to 64, not 65"),
        ({"n_layer": 0}, "n_layer must be a whole number from 1 to 100, not 0"),
        ({"dropout": 0.1}, "settings are n_layer, .* not dropout=0.1"),
        ({"tie_embeddings": 1}, "settings are n_layer, .* not tie_embeddings=1"),
        ({"n_embd": 64}, "Give n_embd and n_head together"),
        ({"n_head": 4}, "Give n_embd and n_head together"),
        ({"n_embd": 64, "n_head": 5}, "heads must divide the width"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        BlockDiagram(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_a_model_of_ones_own_and_its_text_form():
    own = BlockDiagram(tokens=8, block_size=16, n_layer=2, n_head=2, n_embd=32, tie_embeddings=False)
    assert own.settings == {
        "block_size": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "tie_embeddings": False,
    }
    assert repr(own) == "BlockDiagram('gpt2')"
