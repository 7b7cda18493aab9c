"""Attention against loops, against PyTorch's own layer, and against itself in other shapes."""

import itertools

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from myllm.model import attention as module
from myllm.model import tiled
from myllm.model.attention import Attention, attend, naive_attention
from myllm.model.masks import Mask, build, causal, full, padding, prefix, window
from myllm.model.tiled import Partial, merge, tiled_attention

KEEP = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]])
LENGTHS = torch.tensor([0, 3])
MASKS = {
    "causal": (causal, lambda b, h, q, k: k <= q),
    "full": (full, lambda b, h, q, k: True),
    "window": (causal & window(3), lambda b, h, q, k: q - 3 < k <= q),
    "prefix": (causal | prefix(LENGTHS), lambda b, h, q, k: k <= q or k < [0, 3][b]),
    "padding": (causal & padding(KEEP), lambda b, h, q, k: k <= q and bool(KEEP[b, k])),
    "head": (Mask(lambda b, h, q, k: q - k > h - 1), lambda b, h, q, k: q - k > h - 1),
    "nothing": (~full, lambda b, h, q, k: False),
}
# heads, key heads, queries, keys, head dimension, offset
SHAPES = [(4, 4, 6, 6, 8, 0), (4, 2, 5, 8, 3, 3), (6, 1, 1, 8, 5, 7), (3, 3, 4, 8, 1, 2), (4, 4, 5, 5, 4, 2)]
EXACT = {"atol": 1e-12, "rtol": 1e-12}
SINGLE = {"atol": 2e-6, "rtol": 1e-5}


def qkv(H, K, T, S, D, dtype=torch.float64, grad=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, H, T, D), (2, K, S, D), (2, K, S, D)]
    made = [torch.randn(shape, dtype=torch.float64, generator=generator) * 1.5 for shape in shapes]
    return [one.to(dtype).requires_grad_(grad) for one in made]


def rule_at(name, offset):
    return lambda b, h, t, s: MASKS[name][1](b, h, t + offset, s)


def grads(out, inputs):
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    return torch.autograd.grad((out * weight).sum(), inputs)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"scale": 0.7}, {"scale": 2.0, "softcap": 0.9}], ids=str)
def test_attention_and_its_gradients_equal_the_loops(name, shape, options):
    *sizes, offset = shape
    inputs = qkv(*sizes, grad=True)
    expected = reference.attention(*inputs, rule_at(name, offset), **options)
    slopes = [torch.zeros_like(x) for x in inputs] if name == "nothing" else grads(expected, inputs)
    kwargs = {"mask": MASKS[name][0], "q_offset": offset, **options}
    for out in (naive_attention(*inputs, **kwargs)[0], attend(*inputs, **kwargs)):
        assert_close(out, expected, **EXACT)
        assert_close([*grads(out, inputs)], [*slopes], **EXACT)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", [1, 3, 4, 64])
def test_tiled_attention_and_its_gradients_equal_the_definition(name, shape, tile):
    *sizes, offset = shape
    inputs = qkv(*sizes, grad=True)
    kwargs = {"mask": MASKS[name][0], "q_offset": offset, "scale": 0.8}
    expected, out = naive_attention(*inputs, **kwargs)[0], tiled_attention(*inputs, **kwargs, tile=tile)
    assert_close(out, expected, **EXACT)
    if name != "nothing":
        assert_close(grads(out, inputs), grads(expected, inputs), **EXACT)


@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, SINGLE), (torch.bfloat16, {"atol": 0.04, "rtol": 0.02})]
)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_smaller_dtypes(name, shape, dtype, near):
    *sizes, offset = shape
    inputs = qkv(*sizes, dtype)
    wide = [one.double() for one in inputs]
    kwargs = {"mask": MASKS[name][0], "q_offset": offset}
    expected = reference.attention(*wide, rule_at(name, offset))
    for out in (
        naive_attention(*inputs, **kwargs)[0],
        attend(*inputs, **kwargs),
        tiled_attention(*inputs, **kwargs),
    ):
        assert out.dtype == dtype
        assert_close(out.double(), expected, **near)
    capped = attend(*inputs, **kwargs, softcap=2.0)
    assert capped.dtype == dtype
    assert_close(capped.double(), reference.attention(*wide, rule_at(name, offset), softcap=2.0), **near)


@pytest.mark.parametrize("name", MASKS)
def test_a_bool_tensor_is_a_mask_too(name):
    inputs = qkv(4, 2, 5, 8, 4)
    allowed = build(MASKS[name][0], 2, 4, torch.arange(5) + 3, torch.arange(8))
    for way in (attend, lambda *a, **k: naive_attention(*a, **k)[0]):
        assert_close(way(*inputs, mask=allowed), way(*inputs, mask=MASKS[name][0], q_offset=3), **EXACT)


def test_the_weights_are_shares_of_what_a_query_sees():
    q, k, v = qkv(4, 2, 5, 8, 3)
    for name, (mask, _) in MASKS.items():
        out, weights = naive_attention(q, k, v, mask=mask, q_offset=3)
        allowed = build(mask, 2, 4, torch.arange(5) + 3, torch.arange(8)).expand_as(weights)
        assert not weights[~allowed].any() and (weights[allowed] > 0).all(), name
        assert_close(weights.sum(-1), allowed.any(-1).double(), **EXACT)
        assert_close(out, torch.einsum("bhts,bhsd->bhtd", weights, v[:, [0, 0, 1, 1]]), **EXACT)


def test_scores_of_any_size_stay_finite():
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = qkv(2, 2, 6, 6, 4, dtype, grad=True)
        for mask in (causal, padding(KEEP[:, :6]) & causal):
            kwargs = {"mask": mask, "scale": 1e4}
            outs = [
                naive_attention(q, k, v, **kwargs)[0],
                attend(q, k, v, **kwargs),
                tiled_attention(q, k, v, **kwargs),
            ]
            for out in outs:
                assert out.isfinite().all() and all(grad.isfinite().all() for grad in grads(out, (q, k, v)))


def test_key_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 key heads cannot be shared evenly by 4 query heads"):
        attend(*qkv(4, 3, 2, 2, 2))


# What is never built


def test_the_causal_mask_is_never_built(monkeypatch):
    monkeypatch.setattr(module, "build", None)
    attend(*qkv(2, 2, 5, 5, 4))
    with pytest.raises(TypeError):
        attend(*qkv(2, 2, 2, 5, 4), q_offset=3)


def test_tiles_without_a_visible_pair_are_skipped(monkeypatch):
    merged = []
    monkeypatch.setattr(tiled, "merge", lambda a, b: merged.append(1) or merge(a, b))
    tiled_attention(*qkv(1, 1, 16, 16, 2), tile=4)
    assert len(merged) == 4 + 3 + 2 + 1
    merged.clear()
    tiled_attention(*qkv(1, 1, 16, 16, 2), tile=4, mask=causal & window(1))
    assert len(merged) == 4


# The online softmax


def partial(scores, values):
    maximum = scores.max()
    powers = torch.exp(scores - maximum)
    return Partial((powers[:, None] * values).sum(0), powers.sum()[None], maximum[None])


pieces = st.lists(st.lists(st.floats(-50, 50), min_size=1, max_size=4), min_size=3, max_size=3)


@given(pieces)
def test_merge_is_associative_and_commutative_and_right(lists):
    scores = [torch.tensor(one, dtype=torch.float64) for one in lists]
    values = [torch.stack([s.sin(), s * 3, s * 0 + 1], dim=1) for s in scores]
    a, b, c = (partial(s, v) for s, v in zip(scores, values, strict=True))
    one = merge(merge(a, b), c)
    for other in (merge(a, merge(b, c)), merge(c, merge(b, a)), merge(merge(b, c), a)):
        assert_close([*one], [*other], **EXACT)
    expected = torch.softmax(torch.cat(scores), 0) @ torch.cat(values)
    assert_close(one.values / one.total, expected, **EXACT)


# The future


@pytest.mark.parametrize("way", [attend, tiled_attention, lambda *a, **k: naive_attention(*a, **k)[0]])
@pytest.mark.parametrize("mask", [causal, causal & window(3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_changed_future_changes_nothing(way, mask, dtype):
    q, k, v = qkv(4, 2, 9, 9, 8, dtype)
    for changed in range(1, 9):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, changed:] += 3
        v2[:, :, changed:] -= 7
        before, after = way(q, k, v, mask=mask), way(q, k2, v2, mask=mask)
        assert torch.equal(before[:, :, :changed], after[:, :, :changed])
        assert not torch.equal(before[:, :, changed], after[:, :, changed])


def test_a_changed_future_changes_nothing_in_the_layer():
    torch.manual_seed(0)
    layer, x = Attention(12, 3), torch.randn(2, 7, 12)
    for changed in range(1, 7):
        y = x.clone()
        y[:, changed:] += 1
        assert torch.equal(layer(x)[:, :changed], layer(y)[:, :changed])


# The layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n_embd", "n_head"), [(12, 3), (10, 1), (14, 7)])
def test_the_layer_equals_that_of_pytorch(n_embd, n_head, bias):
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(n_embd, n_head, bias=bias, batch_first=True, dtype=torch.float64)
    ours = Attention(n_embd, n_head, bias=bias, out_bias=bias).double()
    state = dict(zip(("q_proj", "k_proj", "v_proj"), theirs.in_proj_weight.chunk(3), strict=True))
    ours.load_state_dict(
        {
            **{f"{name}.weight": weight for name, weight in state.items()},
            "o_proj.weight": theirs.out_proj.weight,
            **({} if not bias else {"o_proj.bias": theirs.out_proj.bias.data.normal_()}),
            **(
                {}
                if not bias
                else {
                    f"{n}.bias": b.normal_()
                    for n, b in zip(state, theirs.in_proj_bias.data.chunk(3), strict=True)
                }
            ),
        }
    )
    x = torch.randn(2, 6, n_embd, dtype=torch.float64, requires_grad=True)
    forbidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    expected = theirs(x, x, x, attn_mask=forbidden, need_weights=False)[0]
    assert_close(ours(x), expected, **EXACT)
    assert_close(grads(ours(x), (x,)), grads(expected, (x,)), **EXACT)
    assert_close(ours(x, mask=full), theirs(x, x, x, need_weights=False)[0], **EXACT)


@pytest.mark.parametrize(("n_kv_head", "head_dim"), [(2, None), (1, 5), (4, 3)])
def test_the_layer_with_fewer_key_heads_equals_einsum(n_kv_head, head_dim):
    torch.manual_seed(0)
    layer = Attention(8, 4, n_kv_head, head_dim, bias=True, out_bias=True, scale=0.3, softcap=2.0).double()
    weights, x = dict(layer.named_parameters()), torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = (
        torch.einsum("btc,hdc->bhtd", x, weights[f"{name}_proj.weight"].reshape(heads, -1, 8))
        + weights[f"{name}_proj.bias"].reshape(1, heads, 1, -1)
        for name, heads in (("q", 4), ("k", n_kv_head), ("v", n_kv_head))
    )
    joined = reference.attention(q, k, v, lambda b, h, t, s: s <= t, scale=0.3, softcap=2.0)
    out = torch.einsum("bhtd,chd->btc", joined, weights["o_proj.weight"].reshape(8, 4, -1))
    assert_close(layer(x), out + weights["o_proj.bias"], **EXACT)


def test_queries_and_keys_are_normalized_before_they_are_turned():
    torch.manual_seed(0)
    seen, order = [], []

    class Norm(torch.nn.Module):
        def __init__(self, size):
            super().__init__()
            seen.append(size)

        def forward(self, x):
            order.append("norm")
            return x / x.norm(dim=-1, keepdim=True)

    def position(q, k):
        order.append("turn")
        assert_close(q.norm(dim=-1), torch.ones(1, 2, 3), **SINGLE)
        assert_close(k.norm(dim=-1), torch.ones(1, 1, 3), **SINGLE)
        return 2 * q, k

    layer = Attention(6, 2, 1, 4, qk_norm=Norm)
    layer(torch.randn(1, 3, 6), position=position)
    assert seen == [4, 4] and order == ["norm", "norm", "turn"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_tiles_of_16_bits_add_up_in_32(dtype):
    q, k, v = qkv(1, 1, 2, 1024, 4, dtype)
    exact = naive_attention(q.double(), k.double(), v.double(), mask=full)[0]
    out = tiled_attention(q, k, v, mask=full, tile=2)
    assert out.dtype == dtype
    assert_close(out.double(), exact, atol=1e-3, rtol=torch.finfo(dtype).eps)


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="n_kv_head 3 must divide n_head 4"):
        Attention(8, 4, 3)
    with pytest.raises(ValueError, match="n_head 3 must divide n_embd 8; or give head_dim"):
        Attention(8, 3)


@pytest.mark.parametrize("mask", [causal, causal & window(3), causal | prefix(5)])
@pytest.mark.parametrize("cuts", [(1,), (4, 5), (2, 3, 7), (*range(1, 8),)], ids=str)
def test_with_a_cache_the_layer_computes_the_same(mask, cuts):
    torch.manual_seed(0)
    layer, x, cache = (
        Attention(8, 4, 2).double(),
        torch.randn(2, 8, 8, dtype=torch.float64),
        reference.Concatenating(),
    )
    # A prefix is seen by those who come before its end only if it is there: it arrives first, whole.
    cuts = [cut for cut in cuts if cut >= 5] if mask(*map(torch.tensor, (0, 0, 0, 4))) else cuts
    parts = [layer(x[:, a:b], mask=mask, cache=cache, layer=3) for a, b in itertools.pairwise((0, *cuts, 8))]
    assert_close(torch.cat(parts, dim=1), layer(x, mask=mask), **EXACT)
    assert [*cache.kept] == [3]
