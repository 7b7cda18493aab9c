"""bitsandbytes' layers behind our swap: what they compute is what ours compute."""

import copy
import sys

import pytest
import torch
from torch import nn

from myllm import LLM
from myllm.files import UserError
from myllm.quantization.bnb import BnbNF4, LLMInt8
from myllm.quantization.int8 import DynamicInt8Linear
from myllm.quantization.nf4 import NF4Linear
from myllm.quantization.swap import replace_linears


@pytest.fixture(autouse=True)
def library():
    return pytest.importorskip("bitsandbytes")


def linear(N=96, K=128, bias=True):
    torch.manual_seed(0)
    return nn.Linear(K, N, bias=bias).eval()


def test_nf4_is_ours():
    layer, x = linear(), torch.randn(3, 5, 128)
    single = BnbNF4(layer, double=False), NF4Linear(layer, double=False)
    assert torch.equal(single[0](x), single[1](x))
    assert (
        torch.equal(single[0].dequantize(), single[1].dequantize()) and single[0].nbytes == single[1].nbytes
    )
    double = BnbNF4(layer), NF4Linear(layer)
    torch.testing.assert_close(double[0](x), double[1](x), rtol=0, atol=5e-3)
    assert double[0].nbytes == double[1].nbytes - 4  # the library keeps the mean among its settings
    assert not torch.equal(double[0].dequantize(), single[0].dequantize())


def test_rows_without_whole_blocks_are_refused():
    with pytest.raises(UserError, match=r"^bitsandbytes needs rows of whole blocks of 64, not of 96 numbers"):
        BnbNF4(linear(K=96))


@pytest.mark.parametrize("bias", [True, False])
def test_llm_int8_is_our_dynamic_int8(bias):
    layer, x = linear(bias=bias), torch.randn(3, 5, 128)
    made, ours = LLMInt8(layer), DynamicInt8Linear(layer)
    y, exact = ours(x).detach(), layer(x).detach()
    torch.testing.assert_close(made(x), y, rtol=0, atol=0.01)  # it rounds to float16 first
    for one in (made(x), y):
        assert (one - exact).square().mean().sqrt() < 0.01 * exact.std()
    torch.testing.assert_close(made.dequantize(), ours.dequantize(), rtol=0, atol=1e-3)
    assert made.nbytes == ours.nbytes == 96 * 128 + 96 * 4 and made.bits_per_weight == 8.25
    alone = torch.cat([made(row[None]) for row in x.flatten(0, 1)]).view(3, 5, 96)
    torch.testing.assert_close(made(x), alone, rtol=0, atol=1e-5)


def test_outliers_are_multiplied_apart():
    layer, x = linear(), torch.randn(8, 128)
    x[2, 17] = 300.0
    apart, together = LLMInt8(layer), LLMInt8(layer, threshold=0.0)
    errors = [(made(x) - layer(x))[2].abs().max() for made in (apart, together)]
    assert errors[0] < errors[1] / 2
    assert LLMInt8(layer, threshold=400.0)(x).equal(together(x)) and apart.options == {"threshold": 6.0}


@pytest.mark.parametrize("make", [LLMInt8, BnbNF4])
def test_gradients_reach_the_input(make):
    layer, x = linear(), torch.randn(4, 128, requires_grad=True)
    made = make(layer)
    made(x).square().sum().backward()
    assert not any(p.requires_grad for name, p in made.named_parameters() if name != "bias")
    with torch.no_grad():
        expected = 2 * made(x) @ made.dequantize()
    torch.testing.assert_close(x.grad, expected, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("make", [LLMInt8, BnbNF4])
def test_the_mode_is_that_of_the_layer(make):
    layer, x = linear(), torch.randn(4, 128)
    assert not make(layer).training and make(layer.train()).training
    if make is LLMInt8:  # in training mode the library rounds no activations
        assert not torch.equal(make(layer.eval())(x), make(layer.train())(x))


@pytest.mark.parametrize("make", [LLMInt8, BnbNF4])
@torch.no_grad()
def test_a_whole_model_computes_with_them(make, caplog):
    model = LLM.from_pretrained("course-base", dtype=torch.float32).model
    ids = torch.randint(0, 1024, (2, 30), generator=torch.Generator().manual_seed(0))
    expected = model(ids)
    assert len(replace_linears(model, make)) == 28
    error = (model(ids) - expected).square().mean() / expected.square().mean()
    assert 0 < error < (1e-3 if make is LLMInt8 else 0.03)
    again = copy.deepcopy(model)
    assert torch.equal(again(ids), model(ids)) and not caplog.records
    assert make.__name__ in str(model) and "bits per weight" in str(model)


@pytest.mark.parametrize("make", [LLMInt8, BnbNF4])
def test_without_the_library_one_line_names_the_extra(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        UserError, match=r"^bitsandbytes is not installed; run pip install 'myllm-course\[quant\]'\.$"
    ):
        make(linear())
