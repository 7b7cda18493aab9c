"""The whole model: what it may not see, what a cache may not change, how it starts."""

import itertools
import math

import pytest
import reference
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from myllm.config import ModelConfig
from myllm.model import attention as module
from myllm.model.layers import RMSNorm
from myllm.model.masks import build, causal, document, full, padding, prefix, window
from myllm.model.transformer import Transformer

SMALL = {"vocab_size": 41, "block_size": 16, "n_layer": 3, "n_head": 4, "n_embd": 16}
KINDS = {
    "gpt2": ModelConfig.preset("gpt2", **SMALL),
    "llama": ModelConfig(**SMALL, n_kv_head=2, intermediate_size=24),
    "multi-query": ModelConfig(**SMALL, n_kv_head=1, head_dim=6, qk_norm=True),
    "windows": ModelConfig(**SMALL, n_kv_head=2, window=3),
    "gemma2": ModelConfig(
        **SMALL, n_kv_head=2, norm_offset=True, activation="gelu_tanh", attention_softcap=5.0,
        window=4, full_attention_every=2, post_norms=True, scale_embeddings=True, tie_embeddings=True,
        attention_scale=0.4, logit_softcap=3.0,
    ),
    "phi": ModelConfig(
        **SMALL, norm="layernorm", mlp="plain", activation="gelu_tanh", bias=True, head_bias=True,
        rotary_fraction=0.5, parallel_residual=True,
    ),
    "no positions": ModelConfig(**SMALL, position="none", qkv_bias=True),
}  # fmt: skip
EXACT = {"atol": 1e-12, "rtol": 1e-12}


def made(config, dtype=torch.float64, seed=0):
    """A model whose weights are large enough to make every part matter, and ids for it."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(dtype), torch.randint(config.vocab_size, (2, config.block_size))


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


# What it computes


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_equals_the_naive_one(name):
    model, ids = made(KINDS[name].replace(block_size=6))
    expected, states = reference.transformer(dict(model.named_parameters()), ids, model.config)
    seen = []
    for block in model.layers:
        block.register_forward_hook(lambda m, i, out: seen.append(out))
    logits, near = model(ids), {"atol": 1e-10, "rtol": 1e-10}
    assert_close(logits, expected, **near)
    assert_close(seen, states, **near)
    weight = torch.randn_like(logits)
    slopes = torch.autograd.grad((logits * weight).sum(), [*model.parameters()])
    assert_close([*slopes], [*torch.autograd.grad((expected * weight).sum(), [*model.parameters()])], **near)


# What it sees


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_changed_future_token_changes_nothing(kind, dtype):
    model, ids = made(kind, dtype)
    before = model(ids)
    assert before.dtype == dtype and before.shape == (*ids.shape, 41)
    for changed in (1, 7, 15):
        other = ids.clone()
        other[:, changed:] = (other[:, changed:] + 1) % 41
        after = model(other)
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.equal(before[:, changed], after[:, changed])


def test_no_gradient_comes_from_the_future(kind):
    model, ids = made(kind)
    inputs = []
    model.embed_tokens.register_forward_hook(lambda m, i, out: inputs.append(out.requires_grad_()))
    logits = model(ids)
    (slopes,) = torch.autograd.grad(logits[:, 9].sum(), inputs)
    assert not slopes[:, 10:].any() and slopes[:, 9].any()


def test_a_window_ends_where_it_says():
    """Three layers that each see three back carry nothing further than six."""
    model, ids = made(KINDS["windows"])
    inputs = []
    model.embed_tokens.register_forward_hook(lambda m, i, out: inputs.append(out.requires_grad_()))
    (slopes,) = torch.autograd.grad(model(ids)[:, 12].sum(), inputs)
    reached = slopes.abs().sum(-1) > 0
    assert reached.tolist() == [[12 - 3 * 2 <= at <= 12 for at in range(16)]] * 2


@pytest.mark.parametrize("name", ["llama", "windows"])
def test_documents_in_a_row_do_not_see_each_other(name):
    model, ids = made(KINDS[name])
    cut = torch.tensor([[0] * 6 + [1] * 10, [0] * 11 + [1] * 5])
    packed = model(ids, mask=causal & document(cut))
    for row, at in enumerate((6, 11)):
        for part in (slice(0, at), slice(at, 16)):
            assert_close(packed[row, part], model(ids[row : row + 1, part])[0], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_left_padding_changes_no_row(name):
    model, ids = made(KINDS[name])
    alone = model(ids[1:, 5:])
    ids[1, :5] = 0
    keep = torch.ones_like(ids)
    keep[1, :5] = 0
    together = model(ids, mask=causal & padding(keep), positions=(keep.cumsum(1) - 1).clamp(min=0))
    assert_close(together[1:, 5:], alone, **EXACT)
    assert_close(together[:1], model(ids[:1]), **EXACT)


def test_a_prefix_sees_itself_whole():
    model, ids = made(KINDS["llama"])
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % 41
    seen = model(ids, mask=causal | prefix(5)) != model(other, mask=causal | prefix(5))
    assert seen.any(-1).all()
    unseen = model(ids, mask=causal | prefix(4)) != model(other, mask=causal | prefix(4))
    assert not unseen[:, :4].any()


def test_the_plain_causal_mask_is_never_built_and_others_once_for_each_kind_of_layer(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "build", lambda *a: calls.append(1) or build(*a))
    # Causal and window together, once for all layers; with a soft cap, the definition builds the plain mask.
    for name, expected in (("llama", 0), ("windows", 1), ("gemma2", 1 + 3)):
        model, ids = made(KINDS[name].replace(n_layer=6))
        calls.clear()
        model(ids)
        assert len(calls) == expected, name
    calls.clear()
    model(ids, mask=causal & window(2))  # some layers have a window of their own
    assert len(calls) == 2  # one without a window, one with


# The cache


@pytest.mark.parametrize("cuts", [(15,), (1, 9), (4, 5, 13), (*range(1, 16),)], ids=str)
def test_prefill_and_decode_equal_the_whole(kind, cuts):
    model, ids = made(kind)
    cache = reference.Concatenating()
    parts = [cache.step(model, ids[:, a:b]) for a, b in itertools.pairwise((0, *cuts, 16))]
    assert_close(torch.cat(parts, dim=1), model(ids), **EXACT)
    held = sum(k.nbytes + v.nbytes for k, v in cache.kept.values())
    assert held == kind.kv_bytes(2, 16, torch.float64)
    assert [*cache.kept] == [0, 1, 2]


@pytest.mark.parametrize("mask", [causal & window(5), causal | prefix(3), full])
def test_with_another_mask_the_cache_changes_nothing(mask):
    """As long as what is seen has arrived."""
    model, ids = made(KINDS["llama"])
    cache = reference.Concatenating()
    parts = [cache.step(model, ids[:, a:b], mask=mask) for a, b in ((0, 16),)]
    assert_close(parts[0], model(ids, mask=mask), **EXACT)
    if mask is not full:
        cache = reference.Concatenating()
        parts = [cache.step(model, ids[:, a:b], mask=mask) for a, b in ((0, 4), (4, 5), (5, 16))]
        assert_close(torch.cat(parts, dim=1), model(ids, mask=mask), **EXACT)


def test_padded_rows_decode_as_they_do_alone():
    model, ids = made(KINDS["windows"])
    keep = torch.ones_like(ids)
    keep[1, :5] = 0
    positions = (keep.cumsum(1) - 1).clamp(min=0)
    cache, parts = reference.Concatenating(), []
    for a, b in ((0, 8), (8, 9), (9, 16)):
        mask = causal & padding(keep[:, :b])
        parts.append(cache.step(model, ids[:, a:b], mask=mask, positions=positions[:, a:b]))
    assert_close(torch.cat(parts, dim=1)[1:, 5:], model(ids[1:, 5:]), **EXACT)


def test_too_many_tokens_are_refused():
    model, ids = made(KINDS["gpt2"])
    with pytest.raises(ValueError, match="17 tokens do not fit into a context of 16"):
        model(torch.cat([ids, ids[:, :1]], dim=1))
    cache = reference.Concatenating()
    cache.step(model, ids)
    with pytest.raises(ValueError, match="17 tokens do not fit into a context of 16"):
        model(ids[:, :1], cache=cache)


def test_only_the_logits_that_are_asked_for_are_computed():
    model, ids = made(KINDS["gemma2"])
    whole, widths = model(ids), []
    assert whole.abs().max() < 3  # the cap
    model.lm_head.register_forward_hook(lambda m, i, out: widths.append(i[0].shape[1]))
    each = torch.tensor([[3, 15], [0, 7]])
    for keep, expected in (
        (-1, whole[:, -1:]),
        (4, whole[:, 4:5]),
        (torch.tensor([2, 9, 9]), whole[:, [2, 9, 9]]),
        (each, torch.stack([whole[0, each[0]], whole[1, each[1]]])),
    ):
        widths.clear()
        assert_close(model(ids, keep=keep), expected, **EXACT)
        assert widths == [expected.shape[1]]


def test_a_head_of_ones_own_reads_the_last_hidden_states():
    model, ids = made(KINDS["llama"])
    states = model(ids, head=torch.nn.Identity())
    assert states.shape == (2, 16, 16)
    assert torch.equal(model.lm_head(states), model(ids))
    assert torch.equal(model(ids, keep=-1, head=lambda x: x.sum(-1)), states[:, -1:].sum(-1))
    assert not {"hidden", "head"} & {*dir(model)}  # nothing to call past `forward`


# How it starts


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_weights_start_as_described(config):
    torch.manual_seed(0)
    config = config.replace(
        n_embd=96, vocab_size=512, block_size=64, init_std=0.03, head_dim=24, intermediate_size=0
    )
    seen = set[str]()
    for name, parameter in Transformer(config).named_parameters():
        kind = name.split(".")[-2]
        seen.add(kind)
        if "norm" in kind:
            wanted = 0.0 if name.endswith("bias") or config.norm_offset else 1.0
            assert (parameter == wanted).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            std = 0.03 / math.sqrt(2 * 3) if kind in ("o_proj", "down_proj") else 0.03
            spread = 4 / math.sqrt(2 * parameter.numel())  # four standard errors
            assert abs(parameter.std().item() / std - 1) < spread, name
            assert abs(parameter.mean().item()) < 4 * std / math.sqrt(parameter.numel()), name
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "embed_tokens", "norm"} <= seen


def test_two_models_of_one_seed_are_equal_and_of_two_are_not():
    first, second, third = (made(KINDS["llama"], seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], third["lm_head.weight"])


@pytest.mark.parametrize("name", KINDS)
def test_the_first_loss_is_ln_v(name):
    torch.manual_seed(0)
    config = KINDS[name].replace(vocab_size=1000, n_embd=64, head_dim=16)
    ids = torch.randint(1000, (8, 16))
    loss = F.cross_entropy(Transformer(config)(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() / math.log(1000) - 1) < 0.02


def test_the_first_loss_of_gpt2_at_its_real_width_is_ln_v():
    torch.manual_seed(0)
    config = ModelConfig.preset("gpt2", n_layer=2)
    ids = torch.randint(50_257, (2, 16))
    with torch.no_grad():
        loss = F.cross_entropy(Transformer(config)(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() / math.log(50_257) - 1) < 0.02


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_one_batch_can_be_learned_by_heart(name):
    torch.manual_seed(0)
    config = KINDS[name].replace(n_layer=2, n_embd=32, logit_softcap=None)
    model, ids = Transformer(config), torch.randint(41, (4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(70):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_residual_does_not_grow_with_depth(name):
    added = {}
    for layers in (4, 48):
        torch.manual_seed(0)
        config = KINDS[name].replace(n_layer=layers, n_embd=64, intermediate_size=0, init_std=0.1)
        ends = []
        model = Transformer(config)
        model.layers[0].register_forward_pre_hook(lambda m, i, ends=ends: ends.append(i[0]))
        model.norm.register_forward_pre_hook(lambda m, i, ends=ends: ends.append(i[0]))
        with torch.no_grad():
            model(torch.randint(41, (16, 16)))
        added[layers] = (ends[1] - ends[0]).var().item() / ends[0].var().item()
    assert added[4] > 0.5  # what the layers add counts
    assert 0.6 < added[48] / added[4] < 1.6  # unscaled it would be twelve times as much


def test_the_parts_are_those_the_config_names():
    assert isinstance(Transformer(KINDS["gpt2"]).norm, torch.nn.LayerNorm)
    assert isinstance(Transformer(KINDS["llama"]).norm, RMSNorm)
    assert (
        Transformer(KINDS["llama"]).embed_positions is None
        and Transformer(KINDS["llama"]).position is not None
    )
    nothing = Transformer(KINDS["no positions"])
    assert nothing.embed_positions is None and nothing.position is None
