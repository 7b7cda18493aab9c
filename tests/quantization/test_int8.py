"""`myllm.quantization.int8`: codes and products that can be computed in another way."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from myllm.files import UserError
from myllm.quantization import integers
from myllm.quantization.int8 import DynamicInt8Linear, Int8Linear
from myllm.quantization.integers import integer_product


def linear(K, N, bias=False, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(K, N, bias=bias)


@torch.no_grad()
def test_the_scale_of_a_row_is_applied_to_its_output():
    layer = linear(2, 2)
    layer.weight.copy_(torch.tensor([[127.0, -2.0], [-2.54, 0.01]]))
    q = Int8Linear(layer)
    assert q.codes.tolist() == [[127, -2], [-127, 0]]
    torch.testing.assert_close(q.scale, torch.tensor([[1.0], [0.02]]))
    y = q(torch.tensor([[1.0, 2.0]] * 9))
    torch.testing.assert_close(y, torch.tensor([[123.0, -2.54]] * 9))


@pytest.mark.parametrize("group", ["row", "tensor"])
@pytest.mark.parametrize("K,N", [(33, 5), (65, 20), (7, 1), (1, 3), (40, 6), (96, 7), (576, 10)])
@torch.no_grad()
def test_any_width_and_number_of_outputs(K, N, group):
    """PyTorch's kernel crashes at some odd widths: those must not reach it."""
    q = Int8Linear(linear(K, N), group)
    for rows in (1, 2, 5, 30):
        for dtype, bound in ((torch.float32, 5e-3), (torch.bfloat16, 1e-2)):
            x = torch.randn(rows, K).to(dtype)
            expected = x.double() @ q.dequantize(torch.float64).T
            assert (q(x) - expected).norm() <= bound * expected.norm()


@torch.no_grad()
def test_codes_and_rows_may_begin_at_any_byte(monkeypatch):
    """PyTorch's kernel crashes on some where the processor has AVX-512: it must be given aligned ones."""

    def moved(x, shift):
        space = torch.zeros(x.nbytes + 128, dtype=torch.uint8)
        first = -space.data_ptr() % 64 + shift
        return space[first : first + x.nbytes].view(x.dtype).view(x.shape).copy_(x)

    def careful(x, codes, ones):
        assert x.data_ptr() % 64 == 0 == codes.data_ptr() % 64
        return torch.ops.aten._weight_int8pack_mm(x, codes, ones)

    monkeypatch.setattr("myllm.quantization.int8.kernel", lambda name: careful)
    q, x = Int8Linear(linear(64, 32)), torch.randn(5, 64)
    expected, rounded, codes = q(x), q(x.bfloat16()), q.codes.clone()
    for shift in (2, 8, 56):
        q.codes = moved(codes, shift)
        assert torch.equal(q(x), expected) and torch.equal(q.codes, codes)
        assert torch.equal(q(moved(x.bfloat16(), shift)), rounded)


@torch.no_grad()
def test_the_kernel_rounds_to_bfloat16_and_no_more():
    q, x = Int8Linear(linear(64, 48)), torch.randn(4, 64)
    codes = x.bfloat16().double() @ q.codes.double().T
    expected = codes.to(torch.bfloat16).double() * q.scale.double().T
    torch.testing.assert_close(q(x).double(), expected, rtol=2**-7, atol=1e-7)
    assert (q(x).double() - expected).abs().median() < 1e-7
    many = torch.randn(9, 64)
    assert (q(many) - many @ q.dequantize().T).abs().max() < 1e-5  # float32 from nine rows on


def test_bits_per_weight():
    layer = linear(64, 48)
    assert Int8Linear(layer).bits_per_weight == 8 + 32 / 64
    assert Int8Linear(layer, 16).bits_per_weight == 8 + 32 / 16
    assert Int8Linear(layer, "tensor").bits_per_weight == 8 + 32 / (64 * 48)
    assert Int8Linear(layer, 16).options == {"group": 16} and DynamicInt8Linear(layer).options == {}
    assert DynamicInt8Linear(linear(576, 64)).bits_per_weight < 0.27 * 32


def dynamic_oracle(x, w):
    """W8A8 in NumPy's integers."""
    (x, w), float_ = (x.numpy(), w.numpy()), x.numpy().dtype.type
    scales = [np.abs(m).max(1, keepdims=True) / float_(127) for m in (x, w)]
    scales = [np.where(s == 0, float_(1), s) for s in scales]
    x, w = (np.rint(m / s).astype(np.int64) for m, s in zip((x, w), scales, strict=True))
    assert abs(x).max() <= 127 and abs(w).max() <= 127
    return (x @ w.T).astype(float_) * scales[1].T * scales[0]


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", [1, 3, 64, 1023, 1024, 1025, 5000])
@torch.no_grad()
def test_dynamic_products_are_those_of_integers(K, dtype, instructions, monkeypatch):
    """Every bit, with and without a processor's own products: sums of products of codes are never rounded."""
    if not instructions:
        monkeypatch.setattr("myllm.quantization.integers.FAST", False)
    layer = linear(K, 6).to(dtype)
    layer.weight[0] = 1 - torch.rand(K) / 8  # sums near the largest, far beyond 24 bits
    q = DynamicInt8Linear(layer)
    x = torch.randn(5, K).to(dtype)
    x[0], x[1] = 3 - torch.rand(K) / 4, 0.0
    expected = torch.from_numpy(dynamic_oracle(x, layer.weight)).to(dtype)
    assert torch.equal(q(x), expected)
    assert (q(x)[1] == 0).all() and q(x)[0, 0] > 2.5 * K


@pytest.mark.parametrize("instructions", [True, False])
def test_sums_of_codes_are_exact_to_the_last(instructions, monkeypatch):
    """At the ends of the range too, of any length, and where the codes begin at an odd byte."""
    if not instructions:
        monkeypatch.setattr("myllm.quantization.integers.FAST", False)
    rng = np.random.default_rng(0)
    for R, K, N in itertools.product((1, 2, 17), (1, 2, 31, 64, 1040, 2500), (1, 3, 16)):
        a, b = (rng.integers(-128, 128, (n, K)).astype(np.int8) for n in (R, N))
        a[0], b[-1] = -128, 127
        expected = a.astype(np.int64) @ b.T.astype(np.int64)
        buffer = torch.empty(b.nbytes + 1, dtype=torch.int8)
        odd = buffer[1:].view(b.shape).copy_(torch.from_numpy(b))
        found = integer_product(torch.from_numpy(a), odd)
        assert found.dtype == torch.int32 and np.array_equal(found.numpy(), expected)


def test_one_column_never_reaches_the_processor_s_product(monkeypatch):
    """It reads the stride of that column, which is arbitrary (PyTorch's issue 195066)."""
    monkeypatch.setattr("myllm.quantization.integers.FAST", True)
    monkeypatch.setattr(torch.ops.aten, "_int_mm", lambda a, b: pytest.fail("it did"))
    column = torch.tensor([[-128], [127], [3]], dtype=torch.int8)
    assert integer_product(column[:2], column).tolist() == [[16384, -16256, -384], [-16256, 16129, 381]]


def test_the_processor_s_product_gets_the_strides_of_new_tensors(monkeypatch):
    """It trusts them, also that of a single row, which is arbitrary."""
    product = torch.ops.aten._int_mm if integers.FAST else lambda a, b: a.int() @ b.int()

    def strict(a, b):
        assert a.stride() == (a.shape[1], 1) and b.stride() == (1, b.shape[0])
        return product(a, b)

    monkeypatch.setattr("myllm.quantization.integers.FAST", True)
    monkeypatch.setattr(torch.ops.aten, "_int_mm", strict)
    row, column = torch.arange(-64, 64).to(torch.int8), torch.tensor([[127], [-128]], dtype=torch.int8)
    for a in (row.as_strided((1, 128), (0, 1)), row.expand(3, 128), row.view(2, 64).repeat(2, 2)[:, ::2].T):
        for b in (column.expand(2, a.shape[1]), column.expand(2, a.shape[1])[:1]):
            assert torch.equal(integer_product(a, b).double(), a.double() @ b.double().T)


def test_a_processor_whose_sums_saturate_does_not_multiply_codes(monkeypatch):
    """Without VNNI, unsigned bytes are multiplied by signed ones, and pairs of products added in 16 bits.

    So 128 is added to one side, and subtracted from the result (PyTorch's issue 136746).
    """

    def saturating(a, b):
        pairs = (a.int() + 128)[:, :, None] * b.int()
        sums = (pairs[:, ::2] + pairs[:, 1::2]).clamp(-(2**15), 2**15 - 1).sum(1, dtype=torch.int32)
        return sums - 128 * b.int().sum(0)

    probe = integers.fast_integers
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(torch.ops.aten, "_int_mm", lambda a, b: a.int() @ b.int())
    assert probe()
    monkeypatch.setattr(torch.ops.aten, "_int_mm", saturating)
    assert not probe()
    monkeypatch.setattr(torch.ops.aten, "_int_mm", lambda a, b: a.int() @ b.int())
    with monkeypatch.context() as without:
        without.setattr(torch.ops, "aten", SimpleNamespace())
        assert not probe()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not probe()


def test_rows_that_32_bits_cannot_sum_are_refused():
    longest = torch.full((1, 2**17 - 1), -128, dtype=torch.int8)
    assert integer_product(longest, longest).item() == 128**2 * (2**17 - 1)
    with pytest.raises(
        UserError, match=r"131,072 products of codes may not fit into 32 bits; at most 131,071"
    ):
        integer_product(longest[:, :1].expand(1, 2**17), longest[:, :1].expand(1, 2**17))


def test_surroundings_do_not_change_products(monkeypatch):
    """Autocast would round sums to 16 bits, and a default device holds no numbers."""
    a = torch.randint(-128, 128, (3, 200), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    expected = (a.double() @ a.double().T).int()
    with torch.device("meta"):
        assert integers.fast_integers() == integers.FAST
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
        monkeypatch.setattr(torch.ops.aten, "_int_mm", lambda a, b: (a.double() @ b.double()).int())
        assert integers.fast_integers()
    monkeypatch.setattr("myllm.quantization.integers.FAST", False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(integer_product(a, a), expected)


@torch.no_grad()
def test_numbers_near_the_ends_of_their_range():
    layer = linear(64, 16)
    q, x = DynamicInt8Linear(layer), torch.rand(2, 64) + 1
    for factor in (1e-34, 1e36):
        near = (x.double() * factor) @ layer.weight.double().T
        assert ((q(x * factor).double() - near).abs() <= 0.05 * near.abs().max()).all()
    q = DynamicInt8Linear(linear(64, 16).double())
    assert (q(x.double() * 1e-60) / q(x.double()) - 1e-60).abs().max() < 1e-70


@torch.no_grad()
def test_a_neighbour_never_changes_a_row():
    q, x = DynamicInt8Linear(linear(64, 16)), torch.randn(2, 3, 64)
    y = q(x)
    x[1, 2] = 1e6
    assert torch.equal(q(x)[0], y[0]) and torch.equal(q(x)[1, :2], y[1, :2])
    x[1, 0] = torch.nan
    assert torch.equal(q(x)[0], y[0]) and q(x)[1, 0].isnan().all()
    for rows in (1, 2, 100):
        assert torch.equal(q(x[:1, :1].expand(rows, 1, 64))[-1], y[:1, 0])


def test_rounded_activations_have_no_gradient():
    q = DynamicInt8Linear(linear(64, 16, bias=True))
    x = torch.randn(2, 64, requires_grad=True)
    y = q(x)  # a forward pass outside of no_grad is no mistake
    with pytest.raises(UserError, match="no gradient; train with Int8Linear"):
        y.sum().backward()
    q(x.detach()).sum().backward()
    assert q.bias.grad is not None
