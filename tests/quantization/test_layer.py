"""`myllm.quantization.layer`: what all quantized layers have in common."""

import copy
import gc
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from myllm.quantization import layer
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.int8 import DynamicInt8Linear, Int8Linear
from myllm.quantization.swap import replace_linears

MAKE = {
    "int8": Int8Linear,
    "int8 by tensor": lambda linear: Int8Linear(linear, "tensor"),
    "int8 by groups": lambda linear: Int8Linear(linear, 32),
    "int8 dynamic": DynamicInt8Linear,
    "int4": Int4Linear,
    "int4 symmetric": lambda linear: Int4Linear(linear, 64, symmetric=True),
    "int4 by 16": lambda linear: Int4Linear(linear, 16),
}
ROUNDS = "int8 dynamic"  # the activations, too
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(64,), (1, 64), (3, 64), (0, 64), (2, 0, 64), (2, 70, 64), (1, 1, 1, 64)]


def made(name, dtype=torch.float32, bias=True, K=64, N=48):
    torch.manual_seed(0)
    linear = nn.Linear(K, N, bias=bias).to(dtype)
    return MAKE[name](linear), linear


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_products_are_those_of_the_dequantized_weight(name, dtype):
    q, linear = made(name, dtype)
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        y, expected = q(x), F.linear(x.double(), q.dequantize(torch.float64), linear.bias.double())
        assert y.dtype == dtype and y.shape == expected.shape
        bound = {torch.float64: 1e-13, torch.float16: 2e-3}.get(dtype, 8e-3)
        if dtype == torch.float32 and (len(x.reshape(-1, 64)) > layer.FEW_ROWS or name == "int8 by groups"):
            bound = 1e-6  # no kernel
        if y.numel():
            error = (y - expected).norm() / expected.norm()
            assert error < (0.02 if name == ROUNDS else bound), (shape, float(error))


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_the_bias_is_added_once_and_may_be_absent(name):
    (q, linear), x = made(name), torch.randn(3, 64)
    assert q.bias is linear.bias
    without, none = made(name, bias=False)
    assert none.bias is None and without.bias is None and "bias" not in without.state_dict()
    q.bias.fill_(7)
    torch.testing.assert_close(q(torch.zeros(2, 64)), torch.full((2, 48), 7.0))
    plain = q(x) - 7
    q.bias = None
    torch.testing.assert_close(q(x), plain, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in MAKE if name != ROUNDS])
@pytest.mark.parametrize("rows", [(3,), (2, 70)])
def test_gradients_are_those_of_the_dequantized_layer(name, rows):
    q, linear = made(name, torch.float64)
    x = torch.randn(*rows, 64, dtype=torch.float64, requires_grad=True)
    w = q.dequantize(torch.float64)
    seen = torch.randn(*rows, 48, dtype=torch.float64)
    theirs = torch.autograd.grad((F.linear(x, w, linear.bias) * seen).sum(), [x, linear.bias])
    ours = torch.autograd.grad((q(x) * seen).sum(), [x, q.bias])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_kernel_that_rounds_is_not_used_where_a_gradient_is_wanted(name):
    q, linear = made(name)
    x = torch.randn(2, 64)
    exact = F.linear(x, q.dequantize(), linear.bias)
    torch.testing.assert_close(q(x.clone().requires_grad_()), exact, rtol=1e-5, atol=1e-6)
    assert (q(x) - exact).abs().max() > 1e-4  # the kernel's


@pytest.mark.parametrize("name", ["int8", "int8 by groups", "int4"])
def test_the_dequantized_weight_is_not_kept_for_the_backward_pass(name):
    q, linear = made(name, K=128, N=80)
    del linear
    x = torch.randn(70, 128, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        y = q(x)
    gc.collect()
    held = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == (80, 128)]
    assert (80, 128) not in saved and not [t for t in held if t.is_floating_point()]
    y.sum().backward()


@pytest.mark.parametrize("name", MAKE)
def test_a_cast_leaves_codes_and_scales_alone(name):
    q, _ = made(name)
    before, w = {k: v.clone() for k, v in q.state_dict().items()}, q.dequantize(torch.float64)
    for cast in (q.to(torch.bfloat16), q.double(), q.half()):
        assert cast is q
        for key, tensor in q.state_dict().items():
            assert key == "bias" or (tensor.dtype == before[key].dtype and torch.equal(tensor, before[key]))
    assert q.bias.dtype == torch.float16 and torch.equal(q.dequantize(torch.float64), w)
    assert q.to("meta").dequantize().is_meta and all(t.is_meta for t in q.state_dict().values())
    empty = q.to_empty(device="cpu")
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items() if k != "bias"} == {
        k: (v.shape, v.dtype) for k, v in before.items() if k != "bias"
    }


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_a_move_that_fails_changes_nothing(name):
    """As ``.cuda()`` on a machine without a GPU."""
    (q, _), x = made(name, bias=False), torch.randn(2, 64)
    before = q(x)

    def fail(tensor):
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        q._apply(fail)
    assert torch.equal(q(x), before)


def test_a_cast_leaves_what_is_not_saved_unsaved():
    q, _ = made("int8")
    q.register_buffer("extra", torch.ones(()), persistent=False)
    assert "extra" not in q.half().state_dict() and q.extra.dtype == torch.float32 and q.extra == 1


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_a_layer_made_on_the_meta_device_holds_what_is_loaded(name):
    q, _ = made(name)
    torch.manual_seed(0)
    empty = MAKE[name](nn.Linear(64, 48, device="meta"))
    assert empty(torch.ones(3, 64, device="meta")).shape == (3, 48)
    assert empty.bits_per_weight == q.bits_per_weight and empty.options == q.options
    x = torch.randn(2, 64)
    full = copy.deepcopy(empty).to_empty(device="cpu")
    full.load_state_dict(q.state_dict())
    empty.load_state_dict(q.state_dict(), assign=True)
    assert torch.equal(full(x), q(x)) and torch.equal(empty(x), q(x))


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_weights_loaded_into_a_layer_that_has_computed_are_used(name):
    (q, _), x = made(name), torch.randn(2, 64)
    torch.manual_seed(5)
    other = MAKE[name](nn.Linear(64, 48))
    assert not torch.equal(q(x), other(x))
    q.load_state_dict(other.state_dict())
    assert torch.equal(q(x), other(x))
    clone = pickle.loads(pickle.dumps(copy.deepcopy(q)))
    assert torch.equal(clone(x), other(x)) and clone.state_dict().keys() == q.state_dict().keys()


@pytest.mark.parametrize("name", MAKE)
def test_inference_mode_and_then_training(name):
    (q, _), x = made(name), torch.randn(2, 64)
    with torch.inference_mode():
        first = q(x)
    assert torch.equal(q(x), first)
    if name != ROUNDS:
        q(x.requires_grad_()).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_rows_of_a_batch_equal_single_rows(name):
    """Bit for bit where both take the same way; within its rounding where a large batch takes another."""
    (q, _), x = made(name), torch.randn(200, 64)
    x[1] = 100 * x[1]
    single = torch.cat([q(row[None]) for row in x])
    assert (q(x) - single).norm() / single.norm() < 4e-3
    few = q(x[:7])
    if name in ("int8", "int8 by tensor", ROUNDS, "int4", "int4 symmetric"):
        assert torch.equal(few, single[:7])
        changed = torch.cat([x[:6], 1e4 * x[6:7]])
        assert torch.equal(q(changed)[:6], few[:6])


def test_what_is_counted_and_printed():
    q, _ = made("int8")
    assert q.nbytes == 48 * 64 + 48 * 4 and q.bits_per_weight == 8.5
    assert repr(q) == "Int8Linear(64, 48, bits per weight=8.500)"


@pytest.mark.parametrize("name", ["int8", "int4"])
@torch.no_grad()
def test_without_a_kernel_the_weight_is_dequantized_and_a_warning_says_so(name, monkeypatch):
    (q, linear), x = made(name), torch.randn(2, 64)

    class Old:
        """The operators of a PyTorch without these kernels."""

    monkeypatch.setattr(layer.torch.ops, "aten", Old())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        ours = [q(x) for _ in range(3)]
    torch.testing.assert_close(ours[0], F.linear(x, q.dequantize(), linear.bias), rtol=1e-5, atol=1e-6)
    assert len(found) == 1 and "lacks _weight_int" in str(found[0].message)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["int8", "int8 dynamic", "int4"])
def test_course_base_writes_the_same_tokens_in_a_batch_and_alone(name):
    from myllm import LLM

    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    replace_linears(llm.model, MAKE[name])
    prompts = [
        "To be, or",
        "ROMEO:\nWhat light",
        "Now is the",
        "Speak,",
        "My lord",
        "O Romeo,",
        "Good",
        "I",
        "Sir,",
    ]
    together = llm.generate(prompts, max_new_tokens=12)
    assert together == [llm.generate(prompt, max_new_tokens=12) for prompt in prompts]
    assert len({*together}) > 5
