"""Each kind of rotary position against the transformers library: frequencies, and queries once turned."""

import pytest
import torch
from transformers import LlamaConfig, PhiConfig
from transformers.models.llama import modeling_llama as llama
from transformers.models.phi import modeling_phi as phi

from myllm.config import RopeScaling
from myllm.model.rope import Rope


def case(head_dim, theta, original, kind="default", *, fraction=1.0, **settings):
    """Our scaling and their settings: the names inside are the same."""
    scaling = None if kind == "default" else RopeScaling(kind, original_context=original, **settings)
    return head_dim, fraction, theta, original, scaling, {"rope_type": kind, **settings}


CASES = {
    "default": case(64, 1e4, 2048),
    "large base": case(128, 5e5, 8192),
    "odd half": case(10, 1e4, 512),
    "partial": case(80, 1e4, 2048, fraction=0.4),
    "partial, odd half": case(24, 1e4, 64, fraction=0.75),
    "linear": case(64, 1e4, 2048, "linear", factor=2.5),
    "dynamic": case(64, 1e4, 2048, "dynamic", factor=4.0),
    "partial, dynamic": case(80, 1e4, 256, "dynamic", factor=2.0, fraction=0.4),
    "llama3": case(64, 5e5, 8192, "llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0),
    "llama3, other": case(32, 1e4, 512, "llama3", factor=8.0, low_freq_factor=2.0, high_freq_factor=16.0),
    "yarn": case(128, 1e6, 32768, "yarn", factor=4.0),
    "yarn, other": case(
        64, 1e4, 4096, "yarn", factor=16.0, beta_fast=20.0, beta_slow=2.0, attention_factor=1.5
    ),
    "partial, yarn": case(80, 1e4, 1024, "yarn", factor=8.0, fraction=0.5),
}


def oracle(name):
    """The library's module that turns positions into cosines and sines, made anew."""
    head_dim, fraction, theta, original, _, settings = CASES[name]
    settings = {**settings, "rope_theta": theta}
    if settings["rope_type"] in ("llama3", "yarn"):
        settings["original_max_position_embeddings"] = original
    sizes = {"hidden_size": 2 * head_dim, "num_attention_heads": 2, "max_position_embeddings": original}
    if fraction == 1:
        return llama.LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=settings))
    settings["partial_rotary_factor"] = fraction
    return phi.PhiRotaryEmbedding(PhiConfig(**sizes, rope_parameters=settings))


def ours(name):
    head_dim, fraction, theta, _, scaling, _ = CASES[name]
    return Rope(head_dim, theta=theta, scaling=scaling, fraction=fraction)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("times", [0.5, 1, 1.5, 4])
def test_frequencies_are_those_of_transformers(name, times):
    length = int(CASES[name][3] * times)
    theirs = oracle(name)
    theirs(torch.zeros(1), torch.arange(length)[None])  # those of dynamic scaling depend on the text
    mine = ours(name).frequencies(length)
    assert mine.dtype == torch.float64
    torch.testing.assert_close(mine, theirs.inv_freq.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_queries_and_keys_are_turned_as_in_transformers(name):
    head_dim, fraction, _, original, _, _ = CASES[name]
    generator = torch.Generator().manual_seed(0)
    positions = torch.tensor([[0, 1, 2, original // 2, original - 1, original, 3 * original]])
    q = torch.randn(1, 3, 7, head_dim, generator=generator)
    k = torch.randn(1, 2, 7, head_dim, generator=generator)
    cos, sin = oracle(name)(q, positions)
    dim = int(head_dim * fraction)
    expected = llama.apply_rotary_pos_emb(q[..., :dim], k[..., :dim], cos, sin)
    # Their angles are float32: an angle of 10,000 is known to 0.001, in each of both frequency and product.
    loose = 3e-7 * (10 + positions[0, :, None] * ours(name).frequencies(3 * original + 1).repeat(2))
    for mine, theirs, x in zip(ours(name)(positions)(q, k), expected, (q, k), strict=True):
        assert ((mine[..., :dim] - theirs).abs() <= loose * x.abs().max()).all()
        assert torch.equal(mine[..., dim:], x[..., dim:])


@pytest.mark.parametrize("name", CASES)
def test_position_0_turns_nothing_and_scores_depend_on_distances_alone(name):
    head_dim, _, _, original, scaling, _ = CASES[name]
    q, k = torch.randn(2, 1, 1, 1, head_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rope = ours(name)

    def score(a, b, last=2 * original):  # the last position fixes the length of the text
        both = rope(torch.tensor([[a, b, last]]))(q.expand(1, 1, 3, -1), k.expand(1, 1, 3, -1))
        return (both[0][0, 0, 0] @ both[1][0, 0, 1]).item()

    grow = (
        1.0
        if scaling is None or scaling.kind != "yarn"
        else (rope(torch.tensor([[0]]))(q, q)[0] / q)[0, 0, 0, 0]
    )
    turned = rope(torch.tensor([[0]]))(q, k)[0][..., : rope.dim]
    torch.testing.assert_close(turned, q[..., : rope.dim] * grow)
    assert score(7, 3) == pytest.approx(score(original, original - 4), abs=1e-9)
    assert abs(score(7, 3) - score(3, 7)) > 1e-3
    assert abs(score(7, 3) - score(7, 6)) > 1e-3
