"""Folded gains and a rotated residual stream: the same function, to the last digits of the dtype."""

import copy

import pytest
import torch
from torch import nn

from myllm import LLM, ModelConfig, Transformer
from myllm.files import UserError
from myllm.model.layers import RMSNorm
from myllm.quantization.int8 import Int8Linear
from myllm.quantization.rotation import fold_norms, rotate
from myllm.quantization.swap import replace_linears

SMALL = {"vocab_size": 61, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32, "init_std": 0.3}
CONFIGS = {
    "LLaMA": {},
    "tied": {"tie_embeddings": True},
    "grouped queries": {"n_kv_head": 2, "tie_embeddings": True, "logit_softcap": 5.0},
    "Qwen": {"qk_norm": True, "qkv_bias": True, "n_kv_head": 1},
    "Gemma": {
        "norm_offset": True,
        "scale_embeddings": True,
        "tie_embeddings": True,
        "activation": "gelu_tanh",
    },
    "biases": {"bias": True, "head_bias": True, "head_dim": 12},
    "plain": {"mlp": "plain", "position": "learned", "activation": "gelu", "bias": True},
    "parallel": {"parallel_residual": True, "rotary_fraction": 0.5, "window": 7},
    "parallel, plain": {"parallel_residual": True, "mlp": "plain"},
}


def made(dtype=torch.float64, seed=0, **settings):
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**SMALL | settings)).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter += torch.randn_like(parameter) * 0.4
    return model.eval()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_logits_stay(name, ids):
    model = made(**CONFIGS[name])
    expected = model(ids)
    assert expected.std() > 0.1
    fold_norms(model)
    assert (model(ids) - expected).abs().max() < 1e-10
    rotate(model)
    assert (model(ids) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["tied", "Gemma", "biases", "parallel"])
@torch.no_grad()
def test_the_residual_stream_turns_and_nothing_else_does(name, ids):
    model = made(**CONFIGS[name])
    turned = copy.deepcopy(model)
    Q = rotate(turned, 3)
    streams = [], []
    for one, stream in zip((model, turned), streams, strict=True):
        for block in one.layers:
            block.register_forward_hook(lambda *call, stream=stream: stream.append(call[-1]))
            block.self_attn.q_proj.register_forward_hook(lambda *call, stream=stream: stream.append(call[-1]))
        one(ids)
    for i, (before, after) in enumerate(zip(*streams, strict=True)):
        torch.testing.assert_close(after, before @ Q if i % 2 else before, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_gains_are_gone():
    for settings in ({}, {"norm_offset": True}):
        model = made(**settings)
        fold_norms(model)
        norms = [x for x in model.modules() if isinstance(x, RMSNorm)]
        assert len(norms) == 2 * 2 + 1
        assert all((norm.offset + norm.weight == 1).all() for norm in norms)
        before = copy.deepcopy(model.state_dict())
        fold_norms(model)  # again: nothing is left to do
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@torch.no_grad()
def test_a_tied_head_is_untied_and_the_table_stays():
    model = made(tie_embeddings=True)
    table = model.embed_tokens.weight.clone()
    fold_norms(model)
    assert torch.equal(model.embed_tokens.weight, table)
    assert model.lm_head.weight is not model.embed_tokens.weight and not model.config.tie_embeddings
    model.tie_weights()
    assert not torch.equal(model.lm_head.weight, table)
    again = Transformer(model.config).double()
    again.load_state_dict(model.state_dict())


@torch.no_grad()
def test_the_matrix_is_orthogonal_and_follows_the_seed():
    state = torch.random.get_rng_state()
    models = [made() for _ in range(3)]
    torch.random.set_rng_state(state)
    one, same, other = (rotate(model, seed) for model, seed in zip(models, (5, 5, 6), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.dtype == torch.float64
    torch.testing.assert_close(one @ one.T, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(one, same) and (one - other).abs().max() > 0.1
    traces = [float(rotate(made(n_layer=1), seed).trace()) for seed in range(60)]
    assert abs(sum(traces) / 60) < 0.5  # each has mean 0 and variance 1 under the uniform distribution


@torch.no_grad()
def test_course_base_stays_what_it_is():
    ids = torch.randint(0, 1024, (2, 200), generator=torch.Generator().manual_seed(0))
    model = LLM.from_pretrained("course-base", dtype=torch.float32).model
    wide = copy.deepcopy(model).double()
    single, double = model(ids), wide(ids)
    rotate(model), rotate(wide)
    assert (wide(ids) - double).abs().max() < 1e-10
    moved = (model(ids) - single).abs().max()
    assert moved < 1e-5 * single.abs().max()
    assert moved < 3 * (single - double).abs().max()  # what float32 rounds anyway


@torch.no_grad()
def test_an_outlying_column_is_spread(ids):
    model = made()
    model.embed_tokens.weight[:, 5] *= 50
    peak = lambda w: float(w.abs().max() / w.square().mean().sqrt())  # noqa: E731
    before = peak(model.embed_tokens.weight)
    rotate(model)
    assert peak(model.embed_tokens.weight) < before / 1.5


class Foreign(nn.Module):
    def __init__(self, n_embd, width):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(n_embd, width), nn.Linear(width, n_embd)

    def forward(self, x):
        return self.down_proj(self.up_proj(x))


def quantized():
    model = made(torch.float32)
    replace_linears(model, Int8Linear, lambda name, _: name.endswith("up_proj"))
    return model


REFUSED = [
    (lambda: made(norm="layernorm"), "not LayerNorm"),
    (lambda: made(post_norms=True), "not post_norms"),
    (lambda: Transformer(ModelConfig(**SMALL), mlp=Foreign), "not Foreign"),
    (quantized, "unquantized .* not Int8Linear"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_cannot_be_rotated_is_refused_and_left_alone(make, message):
    for change in (fold_norms, rotate):
        model = make()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(UserError, match=message):
            change(model)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
