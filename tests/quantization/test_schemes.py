"""All schemes behind one function: every option acts or raises, and an error changes nothing."""

import pytest
import torch
from quantization_cases import IDS, C, F, L, V, tiny
from torch import nn

import myllm
from myllm import Transformer
from myllm.files import UserError
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.int8 import DynamicInt8Linear, Int8Linear
from myllm.quantization.nf4 import NF4Linear
from myllm.quantization.schemes import SCHEMES, footprint, on_meta, quantize

PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES = [(C, C)] * 4 + [(F, C)] * 2 + [(C, F)]  # of the linear layers of one block
LINEAR, REST = sum(N * K for N, K in SHAPES) * L, V * C + (2 * L + 1) * C


def linears(model):
    return {name: module for name, module in model.named_modules() if type(module) is nn.Linear}


@pytest.mark.parametrize(
    ("scheme", "kind", "options", "bits"),
    [  # the bits of a weight: those of its code, and its share of the scale and the zero point
        ("int8", Int8Linear, {}, lambda K: 8 + 32 / K),
        ("int8", Int8Linear, {"group": 16}, lambda K: 8 + 32 / 16),
        ("int8-dynamic", DynamicInt8Linear, {}, lambda K: 8 + 32 / K),
    ],
)
def test_layers_and_bytes_of_each_scheme(scheme, kind, options, bits):
    model, plain = tiny(), tiny()
    assert footprint(model) == 4 * (LINEAR + REST)
    assert quantize(model, scheme, **options) is model
    assert {*linears(model)} == {"lm_head"} and model.lm_head.weight is model.embed_tokens.weight
    found = {name: module for name, module in model.named_modules() if type(module) is kind}
    assert [*found] == [name for name in linears(plain) if name != "lm_head"] and len(found) == 7 * L
    assert footprint(model) == 4 * REST + sum(L * N * K * bits(K) / 8 for N, K in SHAPES)
    assert footprint(model) == 4 * REST + sum(module.nbytes for module in found.values())
    for name, layer in linears(plain).items():
        if name in found:  # each layer holds its own weight
            assert (found[name].dequantize() - layer.weight).abs().max() < layer.weight.abs().max() / 100
    assert 0 < (model(IDS) - plain(IDS)).abs().max() < 0.3


def test_four_bits_and_its_options():
    sizes = {}
    for options in ({}, {"group": 16}, {"symmetric": True}):
        model = quantize(tiny(), "int4", **options)
        layer = model.layers[1].mlp.down_proj
        assert type(layer) is Int4Linear and layer.scale.shape == (C, F // options.get("group", 32))
        assert (layer.zero is None) == ("symmetric" in options)
        sizes[(*options,)] = footprint(model)
    assert sizes["symmetric",] < sizes[()] < sizes["group",] < footprint(quantize(tiny(), "int8"))


@pytest.mark.parametrize(("options", "bits"), [({}, 4.127), ({"block": 32}, 4.254), ({"double": False}, 4.5)])
def test_nf4_and_its_options(options, bits):
    model = quantize(tiny(n_embd=256, intermediate_size=1024), "nf4", **options)
    layer = model.layers[1].mlp.down_proj
    assert type(layer) is NF4Linear and layer.options == {"block": 64, "double": True} | options
    assert layer.bits_per_weight == pytest.approx(bits, abs=5e-4)


def test_gptq_uses_its_calibration_and_its_options():
    seen, other = [IDS], [IDS.flip(0, 1)]
    first, second = (quantize(tiny(), "gptq", calibration=ids) for ids in (seen, other))
    rounded = quantize(tiny(), "int4")
    layer = "layers.1.mlp.down_proj.packed"
    assert not torch.equal(first.state_dict()[layer], second.state_dict()[layer])
    assert not torch.equal(first.state_dict()[layer], rounded.state_dict()[layer])
    plain = tiny()(IDS)
    assert (first(IDS) - plain).square().mean() < (rounded(IDS) - plain).square().mean()
    part = quantize(
        tiny(),
        "gptq",
        calibration=(ids for ids in seen),
        match=lambda name, linear: "mlp" in name,
        group=16,
        symmetric=True,
    )
    assert len(linears(part)) == 4 * L + 1 and part.layers[0].mlp.up_proj.zero is None
    assert part.layers[0].mlp.up_proj.scale.shape == (F, C // 16)


@pytest.mark.parametrize("scheme,like", [("llm.int8", "int8-dynamic"), ("bnb-nf4", "nf4")])
@torch.no_grad()
def test_the_layers_of_bitsandbytes(scheme, like):
    pytest.importorskip("bitsandbytes")
    model, expected, ours = (tiny(n_embd=64, intermediate_size=192) for _ in range(3))
    model, ours = quantize(model, scheme), quantize(ours, like)
    assert {*linears(model)} == {"lm_head"}
    near, far = ((model(IDS) - other(IDS)).abs().mean() for other in (ours, expected))
    assert 0 < near < 0.05 and far < (0.06 if like == "int8-dynamic" else 0.6)
    assert footprint(model) < 0.6 * footprint(expected)


def test_only_matching_layers():
    model = quantize(tiny(), "int8", match=lambda name, linear: name.endswith(PARTS[4:]))
    assert {name.rpartition(".")[2] for name in linears(model)} == {*PARTS[:4], "lm_head"}
    wide = quantize(tiny(), "int8", match=lambda name, linear: linear.in_features == F)
    assert len(linears(wide)) == 6 * L + 1 and type(wide.layers[0].mlp.down_proj) is Int8Linear
    with pytest.warns(UserWarning, match="copy of its own"):
        headed = quantize(tiny(), "int8", match=lambda name, linear: name == "lm_head")
    assert not headed.config.tie_embeddings and footprint(headed) == 4 * (LINEAR + REST) + V * C + 4 * V


def test_tied_weights_count_once_and_float16_half():
    assert footprint(tiny(tie=False)) - footprint(tiny()) == 4 * V * C
    assert footprint(tiny(dtype=torch.float16)) == 2 * (LINEAR + REST)
    assert footprint(nn.Linear(3, 5)) == 4 * (15 + 5)
    with torch.device("meta"):
        assert footprint(Transformer(tiny().config)) == 4 * (LINEAR + REST)


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        (
            "int5",
            {},
            r"no scheme 'int5'; take one of int8, int8-dynamic, int4, nf4, gptq, llm\.int8, bnb-nf4",
        ),
        ("int8", {"bits": 4}, "Int8Linear has no option 'bits'; it has group"),
        ("int8-dynamic", {"group": 32}, "has no option 'group'; it has none"),
        ("int8", {"linear": 1}, "has no option 'linear'"),
        ("int8", {"group": True}, "group of Int8Linear cannot be True"),
        ("int8", {"group": "rows"}, "not 'rows'"),
        ("int8", {"group": 0}, "not 0"),
        ("int4", {"group": 12.0}, "not 12.0"),
        ("int4", {"symmetric": 1}, "symmetric of Int4Linear cannot be 1"),
        ("int8", {"calibration": [IDS]}, "uses no calibration"),
        ("int8", {"match": lambda name, linear: False}, "No linear layer matches"),
        ("gptq", {}, "give calibration"),
        ("gptq", {"calibration": []}, "give calibration"),
        ("gptq", {"calibration": [IDS], "nonsense": 1}, "has no option 'nonsense'"),
    ],
)
def test_mistakes_are_one_sentence_and_change_nothing(scheme, options, message):
    model, plain = tiny(), tiny()
    with pytest.raises(UserError, match=message) as raised:
        quantize(model, scheme, **options)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)
    assert linears(model).keys() == linears(plain).keys()
    assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))


def test_a_group_that_fits_the_first_layers_alone_changes_nothing():
    """64 divides no width of 32 or 96, 32 divides both; 96 fits the last layer of each block alone."""
    model = tiny()
    with pytest.raises(UserError, match="divides 32, not 96"):
        quantize(model, "int8", group=96)
    several = tiny()
    with pytest.raises(UserError, match="divides 96, not 64"):
        several.layers[0].self_attn.q_proj = nn.Linear(64, C, bias=False)
        quantize(several, "int8", group=64, match=lambda name, linear: linear.in_features != C)
    assert len(linears(model)) == len(linears(several)) == 7 * L + 1


def test_what_is_no_transformer_or_quantized_already_is_refused():
    with pytest.raises(UserError, match=r"give llm\.model"):
        quantize(myllm.LLM(tiny()), "int8")
    with pytest.raises(UserError, match="No linear layer matches; the model has 1 of them"):
        quantize(quantize(tiny(), "int8"), "int4")


def test_the_public_name_and_the_table():
    assert myllm.quantize is quantize
    assert [*SCHEMES] == ["int8", "int8-dynamic", "int4", "nf4", "gptq", "llm.int8", "bnb-nf4"]


@pytest.mark.parametrize("options", [{}, {"group": 16}])
def test_layers_on_meta_are_shared_only_by_those_alike(options):
    """Whatever was asked before: in dtype, sizes and bias."""
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        for bias in (True, False):
            linear = nn.Linear(32, 64, bias, dtype=dtype)
            found, expected = on_meta(Int8Linear, linear, options), Int8Linear(linear, **options)
            assert found is on_meta(Int8Linear, nn.Linear(32, 64, bias, dtype=dtype), options)
            assert found.weight_dtype == dtype and (found.bias is None) != bias
            for (name, x), (_, y) in zip(found.named_buffers(), expected.named_buffers(), strict=True):
                assert (x.shape, x.dtype) == (y.shape, y.dtype), name
