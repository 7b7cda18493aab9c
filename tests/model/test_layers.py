"""RMSNorm, feed-forward networks and rotary positions against their formulas."""

import pytest
import reference
import torch
from torch.testing import assert_close

from myllm.model.layers import ACTIVATIONS, MLP, GatedMLP, RMSNorm
from myllm.model.rope import Rope

EXACT = {"atol": 1e-12, "rtol": 1e-12}


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def filled(module):
    """The module in float64 with weights that are all different."""
    with torch.no_grad():
        for number, parameter in enumerate(module.double().parameters()):
            parameter.copy_(random(*parameter.shape, seed=number + 1))
    return module, dict(module.named_parameters())


def agree(module, formula, x):
    """Equal outputs and equal gradients of the input."""
    x = x.requires_grad_()
    for out, expected in ((module(x), formula(x)),):
        assert_close(out, expected, **EXACT)
        weight = random(*out.shape, seed=9)
        assert_close(
            torch.autograd.grad((out * weight).sum(), x),
            torch.autograd.grad((expected * weight).sum(), x),
            **EXACT,
        )


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_rms_norm(offset, eps):
    norm, weights = filled(RMSNorm(7, eps=eps, offset=offset))
    agree(norm, lambda x: reference.rms_norm(x, offset + weights["weight"], eps), random(2, 3, 7) * 3 + 1)


@pytest.mark.parametrize("norm", [RMSNorm(5), RMSNorm(5, offset=True)])
def test_a_new_norm_only_normalizes(norm):
    x = random(4, 5, dtype=torch.float32) * 10
    assert_close(norm(x), x / (x**2).mean(-1, keepdim=True).sqrt(), atol=1e-5, rtol=1e-5)
    assert not norm(torch.zeros(2, 5)).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_are_computed_in_float32_at_least(dtype):
    # The squares of these numbers do not fit into float16, and eight bits are too few for their mean.
    x = (random(64, 96) * 300 + 40).to(dtype)
    out = RMSNorm(96).to(dtype)(x)
    assert out.dtype == dtype
    assert_close(out, RMSNorm(96).double()(x.double()).to(dtype), atol=0, rtol=torch.finfo(dtype).eps)
    norm = filled(RMSNorm(96))[0].float()  # weights in float32 are not rounded: only the result is
    out, exact = norm(x), norm.double()(x.double())
    assert out.dtype == dtype
    assert_close(out.double(), exact, atol=1e-7, rtol=0.51 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activations(name):
    x = torch.cat([torch.linspace(-8, 8, 161, dtype=torch.float64), random(20)])
    agree(ACTIVATIONS[name], reference.ACTIVATIONS[name], x)


def test_there_are_no_other_activations():
    assert {*ACTIVATIONS} == {*reference.ACTIVATIONS}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_feed_forward_networks(name, bias):
    bend = reference.ACTIVATIONS[name]
    plain, weights = filled(MLP(5, 9, activation=name, bias=bias))
    assert len(weights) == 2 * (1 + bias)
    agree(
        plain,
        lambda x: reference.linear(bend(reference.linear(x, weights, "up_proj")), weights, "down_proj"),
        random(2, 3, 5),
    )
    gated, more = filled(GatedMLP(5, 9, activation=name, bias=bias))
    assert len(more) == 3 * (1 + bias)
    agree(
        gated,
        lambda x: reference.linear(
            bend(reference.linear(x, more, "gate_proj")) * reference.linear(x, more, "up_proj"),
            more,
            "down_proj",
        ),
        random(2, 3, 5),
    )


def test_the_defaults_are_those_of_gpt2_and_llama():
    assert MLP(2, 3).activation is ACTIVATIONS["gelu_tanh"]
    assert GatedMLP(2, 3).activation is ACTIVATIONS["silu"]


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 3.0])
def test_rope_turns_complex_numbers(fraction, theta):
    positions = torch.tensor([[0, 1, 2, 7, 4095, 100_000]])
    q, k = random(2, 4, 6, 8), random(2, 2, 6, 8, seed=1)
    turned = Rope(8, theta=theta, fraction=fraction)(positions)(q, k)
    # angles of 10⁵ radians have lost five digits
    for one, x in zip(turned, (q, k), strict=True):
        assert_close(one, reference.rope(x, positions, theta, fraction), atol=1e-9, rtol=1e-9)
        assert torch.equal(one[:, :, 0], x[:, :, 0])


def test_rope_knows_each_row_s_positions():
    positions = torch.tensor([[0, 1, 2], [5, 3, 9]])
    q, k = random(2, 2, 3, 4), random(2, 2, 3, 4, seed=1)
    both = Rope(4)(positions)(q, k)
    for row in range(2):
        alone = Rope(4)(positions[row : row + 1])(q[row : row + 1], k[row : row + 1])
        assert_close([one[row : row + 1] for one in both], [*alone], **EXACT)


def test_scores_depend_on_the_distance_alone():
    q, k = random(1, 1, 1, 8), random(1, 1, 1, 8, seed=1)
    rope = Rope(8)

    def score(at, other):
        turned = rope(torch.tensor([[at]]))(q, k)[0], rope(torch.tensor([[other]]))(q, k)[1]
        return (turned[0] * turned[1]).sum()

    for distance in (0, 1, 17):
        assert_close(score(distance, 0), score(distance + 1000, 1000), atol=1e-9, rtol=1e-9)
    assert not torch.isclose(score(1, 0), score(0, 1))
