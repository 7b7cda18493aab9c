"""`myllm.quantization.int4`: codes, packing, bits, and the copy that the kernel wants."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from myllm.files import UserError
from myllm.quantization.affine import Affine, quantize_affine, unpack4
from myllm.quantization.int4 import Int4Linear


def linear(K, N, bias=False, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(K, N, bias=bias)


@pytest.mark.parametrize("symmetric,bits", [(True, 4.5), (False, 4.75)])
def test_bits_per_weight(symmetric, bits):
    layer = linear(128, 32)
    q = Int4Linear(layer, symmetric=symmetric)
    assert q.bits_per_weight == bits
    assert Int4Linear(layer, 64, symmetric=symmetric).bits_per_weight == 4 + (bits - 4) / 2
    assert Int4Linear(layer, 128, symmetric=symmetric).bits_per_weight == 4 + (bits - 4) / 4
    assert q.nbytes < 0.16 * 128 * 32 * 4
    assert q.options == {"group": 32, "symmetric": symmetric}
    assert q.scale.dtype == torch.float16 and q.packed.shape == (32, 64) and q.packed.dtype == torch.uint8
    assert q.zero is None if symmetric else q.zero.dtype == torch.uint8


@given(
    st.integers(0, 10_000), st.booleans(), st.sampled_from([2, 8, 32, "row", "tensor"]), st.floats(1e-5, 1e3)
)
def test_each_number_moves_by_at_most_half_a_stored_step(seed, symmetric, group, size):
    layer = linear(32, 4, seed=seed)
    layer.weight.data *= size
    q = Int4Linear(layer, group, symmetric=symmetric)
    step = q.scale.double().repeat_interleave(32 // q.scale.shape[1], 1)
    error = (q.dequantize(torch.float64) - layer.weight.double()).abs()
    assert (error <= step / 2 * (1 + 1e-5)).all()
    codes = unpack4(q.packed)
    assert codes.min() >= (1 if symmetric else 0)  # -8 is not used


@torch.no_grad()
def test_by_hand():
    layer = linear(4, 1)
    layer.weight.copy_(torch.tensor([[-7.0, 3.5, 1.0, 0.5]]))
    q = Int4Linear(layer, 4, symmetric=True)
    assert q.packed.tolist() == [[(4 + 8) << 4 | 1, (0 + 8) << 4 | 9]] and q.scale.tolist() == [[1.0]]
    assert q.dequantize().tolist() == [[-7.0, 4.0, 1.0, 0.0]]
    layer.weight.copy_(torch.tensor([[-1.0, 2.75, 0.0, 0.125]]))
    q = Int4Linear(layer, 4)
    assert q.packed.tolist() == [[15 << 4, 4 << 4 | 4]] and q.zero.tolist() == [[4]]
    assert q.dequantize().tolist() == [[-1.0, 2.75, 0.0, 0.0]]


def test_codes_are_chosen_for_the_scales_that_are_stored():
    layer = linear(64, 64)
    for symmetric in (True, False):
        q = Int4Linear(layer, symmetric=symmetric)
        w, scale = layer.weight.double().view(64, 2, 32), q.scale.double()[..., None]
        zero = 8 if symmetric else q.zero.double()[..., None]
        codes = ((w / scale).round() + zero).clamp(1 if symmetric else 0, 15)
        assert torch.equal(unpack4(q.packed).double(), codes.view(64, 64))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("N", [16, 48, 64, 80])
@torch.no_grad()
def test_the_kernel_multiplies_by_the_same_weight(N, group, symmetric):
    q = Int4Linear(linear(256, N), group, symmetric=symmetric)
    for rows in (1, 3, 64):
        x = torch.randn(rows, 256)
        y = q.fast(x)
        expected = x.double() @ q.dequantize(torch.float64).T
        assert (y - expected).norm() < 6e-3 * expected.norm()
    step = q.scale.double().repeat_interleave(group, 1)[:, 7:70]
    single = q.fast(torch.eye(256)[7:70]).double().T  # the weights, one by one
    error = (single - q.dequantize(torch.float64)[:, 7:70]) / step
    assert error.abs().max() < 0.1  # scale, shift and product are rounded to bfloat16


@pytest.mark.parametrize(
    "K,N,group", [(64, 24, 32), (64, 16, 16), (96, 16, 96), (64, 16, "tensor"), (6, 4, 2)]
)
@torch.no_grad()
def test_shapes_without_a_kernel(K, N, group):
    q, x = Int4Linear(linear(K, N), group), torch.randn(2, K)
    assert q.fast(x) is None
    torch.testing.assert_close(q(x), x @ q.dequantize().T)


@torch.no_grad()
def test_which_rows_and_dtypes_are_for_the_kernel():
    q = Int4Linear(linear(64, 32))
    assert q.fast(torch.ones(64, 64)) is not None and q.fast(torch.ones(65, 64)) is None
    assert q.fast(torch.ones(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert q.fast(torch.ones(2, 64, dtype=torch.float64)) is None
    assert q.fast(torch.ones(2, 64, dtype=torch.float16)) is None
    assert q.fast(torch.ones(2, 64, device="meta")) is None
    assert q.fast(torch.ones(2, 64, requires_grad=True)) is None


@torch.no_grad()
def test_the_kernels_copy_is_no_state_and_is_made_once():
    q, x = Int4Linear(linear(64, 32)), torch.ones(1, 64)
    keys, size, nbytes = [*q.state_dict()], q.bits_per_weight, q.nbytes
    q(x)
    copy = q._copy
    q(x)
    assert q._copy is copy and copy[1].nbytes == q.packed.nbytes
    assert copy[2].nbytes == 64 * 32 // 8  # 32 / group more bits for a weight: here 1
    assert ([*q.state_dict()], q.bits_per_weight, q.nbytes) == (keys, size, nbytes)


@torch.no_grad()
def test_other_codes_can_be_stored():
    torch.manual_seed(1)
    q, x, w = Int4Linear(linear(64, 32)), torch.ones(1, 64), torch.randn(32, 64)
    q(x)
    for symmetric in (True, False):
        new = quantize_affine(w, 4, symmetric=symmetric, group=32, scale_dtype=torch.float16)
        q.store(new)
        assert torch.equal(q.dequantize(), new.dequantize())
        assert (q(x) - x @ new.dequantize().T).norm() < 5e-3 * q(x).norm()
    q.store(Affine(new.codes, new.scale.float(), new.zero.double()))
    assert q.scale.dtype == torch.float16 and torch.equal(q.dequantize(), new.dequantize())


def test_odd_widths_are_refused():
    with pytest.raises(UserError, match="in pairs; 33 columns are odd"):
        Int4Linear(linear(33, 4), "row")
    with pytest.raises(UserError, match="divides 48, not 32"):
        Int4Linear(linear(48, 4))
