"""GPTQ: equal to least squares column by column, and never worse than rounding on the calibration data."""

import copy
import warnings
import weakref

import pytest
import torch
from torch import nn

from myllm import LLM, ModelConfig, Transformer
from myllm.files import UserError
from myllm.model.cache import KVCache
from myllm.quantization import gptq as module
from myllm.quantization.affine import quantize_affine
from myllm.quantization.gptq import gptq, gptq_model, hessian, output_error
from myllm.quantization.int4 import Int4Linear

SMALL = {"vocab_size": 61, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32, "init_std": 0.3}


def layer(N=24, K=64, n=300, seed=0, dtype=torch.float32):
    """A weight and inputs whose columns are correlated and of different size."""
    g = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, K, generator=g) @ torch.randn(K, K, generator=g)
    return torch.randn(N, K, generator=g, dtype=dtype), (mixed * torch.rand(K, generator=g)).to(dtype)


def naive(
    w, H, *, bits=4, group=32, symmetric=False, act_order=False, damping=0.01, scale_dtype=torch.float16
):
    """The numbers that GPTQ must return: before each column, all that are left are solved for anew."""
    w, H, K = w.double(), H.double(), w.shape[1]
    H = H + damping * H.diagonal().mean() * torch.eye(K, dtype=torch.float64)
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    order = sorted(range(K), key=lambda k: -float(H[k, k])) if act_order else [*range(K)]
    now, out, grids = w.clone(), w.clone(), {}
    for at, k in enumerate(order):
        done, left = order[:at], order[at:]
        if done:  # the minimum of (out - w) H (out - w)ᵀ over the columns that are left
            push = (out - w)[:, done] @ H[done][:, left]
            now[:, left] = w[:, left] - torch.linalg.solve(H[left][:, left], push.T).T
        g = k // group
        if g not in grids:
            source = w if act_order else now
            columns = source[:, g * group : (g + 1) * group]
            q = quantize_affine(columns, bits, symmetric=symmetric, scale_dtype=scale_dtype)
            grids[g] = q.scale[:, 0].double(), 0 if q.zero is None else q.zero[:, 0].double()
        scale, zero = grids[g]
        out[:, k] = (((now[:, k] / scale).round() + zero).clamp(low, high) - zero) * scale
    return out


def test_the_hessian_is_that_of_the_outputs_error():
    _, x = layer(n=40)
    H = hessian(x)
    assert H.dtype == torch.float64 and H.shape == (64, 64)
    torch.testing.assert_close(H, 2 * x.double().T @ x.double() / 40, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hessian(iter([x[:8].view(2, 4, 64), x[8:]])), H, rtol=1e-5, atol=1e-5)
    w, near = torch.randn(3, 64, requires_grad=True, dtype=torch.float64), torch.randn(3, 64).double()
    loss = lambda w: (x.double() @ (w - near).T).square().sum(1).mean()  # noqa: E731
    second = torch.autograd.functional.hessian(loss, w.detach())
    torch.testing.assert_close(second[1, :, 1], hessian(x.double()))
    assert torch.allclose(hessian(x.bfloat16()), hessian(x.bfloat16().float()))


def test_the_output_error_is_what_it_says():
    w, x = layer()
    near = w + 0.1 * torch.randn_like(w)
    expected = (x @ (near - w).T).square().sum() / (x @ w.T).square().sum()
    assert output_error(w, near, hessian(x)) == pytest.approx(float(expected), rel=1e-4)
    assert output_error(w, w, hessian(x)) == 0


def test_inputs_are_needed_and_finite():
    for nothing in ([], torch.ones(0, 4)):
        with pytest.raises(UserError, match="needs inputs to calibrate with"):
            hessian(nothing)
    w, x = layer()
    for wrong in (torch.inf, torch.nan):
        x[3, 5] = wrong
        with pytest.raises(UserError, match="Hessian is not finite"):
            gptq(w, hessian(x))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(2, 16), (3, 64), (4, 32), (4, 8), (8, 32)])
def test_gptq_is_least_squares_column_by_column(bits, group, symmetric, act_order):
    w, x = layer(seed=bits)
    options = {"bits": bits, "group": group, "symmetric": symmetric, "act_order": act_order}
    H = hessian(x)
    for extra in ({}, {"damping": 0.3, "scale_dtype": torch.bfloat16}):
        q = gptq(w, H, **options, **extra)
        torch.testing.assert_close(
            q.dequantize(torch.float64), naive(w, H, **options, **extra), rtol=0, atol=1e-5
        )
        assert q.codes.shape == w.shape and q.scale.shape == (24, 64 // group)
        assert (q.zero is None) == symmetric and q.codes.dtype == (torch.int8 if symmetric else torch.uint8)
        rounded = quantize_affine(w, bits, symmetric=symmetric, group=group).dequantize()
        assert (q.dequantize() - w).square().sum() > (rounded - w).square().sum()  # the weights move away …
        if bits > 2 or not symmetric:  # … and the outputs come closer, on grids of more than three numbers
            assert output_error(w, q.dequantize(), H) < output_error(w, rounded, H)


def test_all_groupings_work():
    w, x = layer()
    H = hessian(x)
    by_row = gptq(w, H, group="row")
    assert torch.equal(by_row.codes, gptq(w, H, group=64).codes) and by_row.scale.shape == (24, 1)
    whole = gptq(w, H, group="tensor")
    assert whole.scale.shape == (1, 1)
    rounded = quantize_affine(w, 4, symmetric=False, group="tensor")
    assert float(whole.scale) == pytest.approx(float(rounded.scale), rel=1e-3) and whole.zero == rounded.zero
    assert output_error(w, whole.dequantize(), H) < output_error(w, rounded.dequantize(), H)
    for wrong in (0, 5, 65):
        with pytest.raises(UserError, match="divides 64"):
            gptq(w, H, group=wrong)


@pytest.mark.parametrize("act_order", [False, True])
def test_without_correlations_it_is_rounding(act_order):
    w, _ = layer(dtype=torch.float64)
    H = torch.diag(torch.rand(64, dtype=torch.float64) + 0.1)
    q = gptq(w, H, group=16, act_order=act_order, scale_dtype=torch.float64)
    rounded = quantize_affine(w, 4, symmetric=False, group=16)
    assert torch.equal(q.codes, rounded.codes) and torch.equal(q.zero.double(), rounded.zero)


def test_the_hessian_and_the_weight_stay_as_they_are():
    w, x = layer()
    H = hessian(x)
    before = w.clone(), H.clone()
    gptq(w, H, act_order=True)
    assert torch.equal(w, before[0]) and torch.equal(H, before[1])


@pytest.mark.parametrize("act_order", [False, True])
def test_a_column_without_input_is_only_rounded(act_order):
    w, x = layer()
    dead = [3, 32, 63]
    x[:, dead] = 0
    H = hessian(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q = gptq(w, H, group=64, act_order=act_order)
    kept = (((w / q.scale.double()).round() + q.zero).clamp(0, 15) - q.zero) * q.scale
    torch.testing.assert_close(q.dequantize()[:, dead], kept.float()[:, dead], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        q.dequantize(torch.float64), naive(w, H, group=64, act_order=act_order), rtol=0, atol=1e-5
    )


def test_a_singular_hessian_raises_the_damping_and_says_so():
    w, x = layer(n=5)
    x[:, 7] = 0
    with pytest.warns(UserWarning, match=r"damping of 0; it is raised to 0\.01\. More calibration") as caught:
        q = gptq(w, hessian(x), damping=0)
    assert len(caught) == 1
    assert torch.equal(q.codes, gptq(w, hessian(x), damping=0.01).codes)
    H = hessian(x) - 0.05 * hessian(x).diagonal().mean() * torch.eye(64)  # not even positive semidefinite
    with pytest.warns(UserWarning, match=r"damping of 0\.01; it is raised to 0\.1\."):
        q = gptq(w, H)
    assert torch.equal(q.codes, gptq(w, H, damping=0.1).codes)
    with pytest.warns(UserWarning, match="raised to 10"):
        gptq(w, -torch.eye(64))
    nothing = gptq(w.double(), torch.zeros(64, 64), group=16, scale_dtype=torch.float64)
    assert torch.equal(nothing.codes, quantize_affine(w.double(), 4, symmetric=False, group=16).codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_grid_is_the_one_that_is_stored(dtype, symmetric):
    w, x = layer()
    w[0] = 0
    w[1] *= 1e-7  # its scale is below float16's normal numbers
    q = gptq(w, hessian(x), symmetric=symmetric, scale_dtype=dtype)
    assert q.scale.dtype == dtype and (symmetric or q.zero.dtype == dtype)
    assert (q.scale > 0).all() and q.dequantize().isfinite().all() and not q.dequantize()[0].any()
    stored = Int4Linear(nn.Linear(64, 24, bias=False), 32, symmetric=symmetric)
    stored.store(q)
    if dtype == torch.float16:
        torch.testing.assert_close(stored.dequantize(), q.dequantize(), rtol=1e-6, atol=1e-7)


# Whole models


def made(**settings):
    torch.manual_seed(0)
    return Transformer(ModelConfig(**SMALL | settings)).eval()


def batches(n=4, T=24, vocab=61):
    g = torch.Generator().manual_seed(0)
    return [torch.randint(0, vocab, (2, T), generator=g) for _ in range(n)]


def one_by_one(model, ids, **options):
    """The same, slowly: for each layer the whole model runs anew with all layers before it quantized."""
    order = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    order += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    for i in range(len(model.layers)):
        for name in order:
            linear, seen = model.get_submodule(f"layers.{i}.{name}"), []
            handle = linear.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            model(ids)
            handle.remove()
            linear.weight.copy_(gptq(linear.weight, hessian(seen), **options).dequantize())
    return model


MODELS = [{}, {"parallel_residual": True, "tie_embeddings": True, "n_kv_head": 2}]


@pytest.mark.parametrize("settings", MODELS)
@torch.no_grad()
def test_each_layer_is_calibrated_with_the_inputs_that_it_will_have(settings):
    model, ids = made(**settings), batches()
    slow = one_by_one(copy.deepcopy(model), torch.cat(ids), group=16)
    plain = copy.deepcopy(model)
    errors = gptq_model(model, iter(ids), group=16)
    names = [name for name, x in plain.named_modules() if name.startswith("layers") and type(x) is nn.Linear]
    assert {*errors} == {*names} and len(names) == 14
    for name in names:
        quantized = model.get_submodule(name)
        assert type(quantized) is Int4Linear and quantized.options == {"group": 16, "symmetric": False}
        torch.testing.assert_close(
            quantized.dequantize(), slow.get_submodule(name).weight, rtol=1e-4, atol=1e-5
        )
    assert (model.lm_head.weight is model.embed_tokens.weight) == bool(settings)
    torch.testing.assert_close(model(ids[0]), slow(ids[0]), rtol=1e-3, atol=1e-4)
    first = model.layers[0].self_attn.q_proj, plain.layers[0].self_attn.q_proj
    x = plain.layers[0].input_layernorm(plain.embed_tokens(torch.cat(ids)))
    expected = output_error(first[1].weight, first[0].dequantize(), hessian(x))
    assert errors["layers.0.self_attn.q_proj"] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_one_input_and_one_hessian_are_kept_at_a_time(monkeypatch):
    alive, most = [], []

    def counted(inputs):
        alive.append(weakref.ref(inputs))
        most.append(sum(one() is not None for one in alive))
        H = hessian(inputs)
        alive.append(weakref.ref(H))
        return H

    monkeypatch.setattr(module, "hessian", counted)
    gptq_model(made(n_layer=3), batches(), group=16)
    assert len(most) == 4 * 3  # q, k and v share one; gate and up another
    assert max(most) <= 4  # the last input and its Hessian, the new input, and what the block still computes


@torch.no_grad()
def test_match_and_store_choose():
    model, seen = made(), {}

    def store(linear, q):
        seen[id(linear)] = linear, q
        linear.weight.copy_(q.dequantize())
        return linear

    errors = gptq_model(
        model, batches(), match=lambda name, _: name.endswith("o_proj"), store=store, bits=8, group="row"
    )
    assert [*errors] == ["layers.0.self_attn.o_proj", "layers.1.self_attn.o_proj"]
    for linear, q in seen.values():
        assert type(linear) is nn.Linear and q.scale.shape == (32, 1) and q.codes.max() > 15
    assert all(type(model.get_submodule(name)) is nn.Linear for name in errors)
    assert max(errors.values()) < 1e-3


@torch.no_grad()
def test_a_failure_leaves_the_model_as_it_was():
    model = made()
    before = copy.deepcopy(model.state_dict())
    uneven = [torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64)]
    for ids, options, message in (
        ([], {}, "needs batches of token ids"),
        (uneven, {}, "all of one length"),
        (batches(), {"bits": 5}, "at most 4 bits; pass `store`"),
        (batches(), {"group": 24}, "divides 32"),
        (batches(), {"match": lambda *_: False}, "No linear layer matches"),
    ):
        with pytest.raises(UserError, match=message):
            gptq_model(model, ids, **options)
    with pytest.raises(RuntimeError):
        gptq_model(model, batches(), store=lambda linear, q: nn.Linear(1, 1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(x._forward_hooks for x in model.modules())
    with pytest.raises(UserError, match="No linear layer matches"):
        gptq_model(model, batches(), match=lambda name, _: name == "lm_head")


@pytest.fixture(scope="module")
def course():
    """course-base, and rows of 64 tokens that it wrote."""
    model, g = LLM.from_pretrained("course-base", dtype=torch.float32).model, torch.Generator().manual_seed(0)
    ids = last = torch.randint(0, 1024, (16, 1), generator=g)
    cache = KVCache(model.config, 16)
    with torch.no_grad():
        for _ in range(63):
            last = torch.multinomial(model(last, cache=cache)[:, -1].softmax(-1), 1, generator=g)
            ids = torch.cat((ids, last), 1)
    return model, ids


@pytest.mark.parametrize(("bits", "change"), [(2, 0.06), (4, 0.002)])
@torch.no_grad()
def test_on_course_base_it_is_never_worse_than_rounding(bits, change, course):
    """On the calibration data, for every layer."""
    model, ids = copy.deepcopy(course[0]), course[1]
    plain, rounded = copy.deepcopy(model), {}
    original, hessians = module.hessian, []
    try:
        module.hessian = lambda x: hessians.append(original(x)) or hessians[-1]

        def store(linear, q):
            near = quantize_affine(linear.weight, bits, symmetric=False, group=32).dequantize()
            rounded[len(rounded)] = output_error(linear.weight, near, hessians[-1])
            return module._int4(linear, q)

        errors = gptq_model(model, [ids], store=store, bits=bits)
    finally:
        module.hessian = original
    assert len(errors) == len(rounded) == 28
    assert all(ours < theirs for ours, theirs in zip(errors.values(), rounded.values(), strict=True))
    assert sum(errors.values()) < 0.7 * sum(rounded.values())
    moved = (model(ids) - plain(ids)).square().mean() / plain(ids).square().mean()
    assert moved < change
