"""`myllm.quantization.affine` against PyTorch's own grids, properties, and cases computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from myllm.files import UserError
from myllm.quantization.affine import Affine, pack4, quantize_affine, split_groups, sqnr, unpack4

GROUPS = ["tensor", "row", 1, 4, 12]
weights = st.builds(
    lambda seed, scale: torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)) * scale,
    st.integers(0, 10_000),
    st.sampled_from([1e-30, 1e-6, 0.02, 1.0, 3e4]),
)
grids = st.fixed_dictionaries(
    {"bits": st.integers(2, 8), "symmetric": st.booleans(), "group": st.sampled_from(GROUPS)}
)


def steps(q, w):
    """The step of each number of w."""
    return q.scale.repeat_interleave(w.shape[1] // q.scale.shape[1], 1).expand_as(w)


@given(weights, grids, st.sampled_from([None, torch.float16, torch.bfloat16]))
def test_each_number_moves_by_at_most_half_a_step(w, grid, scale_dtype):
    if scale_dtype == torch.float16:
        w = w.clamp(-1e3, 1e3)  # the scales of larger numbers exceed float16
    q = quantize_affine(w, **grid, scale_dtype=scale_dtype)
    assert q.scale.dtype == (scale_dtype or torch.float32) and (q.scale > 0).all()
    error = (q.dequantize(torch.float64) - w.double()).abs()
    assert (error <= steps(q, w).double() / 2 * (1 + 1e-5)).all()
    top = 2 ** (grid["bits"] - 1) - 1 if grid["symmetric"] else 2 ** grid["bits"] - 1
    assert q.codes.max() <= top and q.codes.min() >= (-top if grid["symmetric"] else 0)
    assert q.codes.shape == w.shape and q.codes.dtype == (torch.int8 if grid["symmetric"] else torch.uint8)
    if grid["symmetric"] and scale_dtype is None:  # no finer grid of that many codes spans the range
        assert (split_groups(q.codes, grid["group"]).abs().amax(-1) == top).all()


@given(weights, grids)
def test_grid_points_stay_where_they_are(w, grid):
    """With scales of few bits the arithmetic is exact, and so are both directions."""
    q = quantize_affine(w.clamp(-1e3, 1e3), **grid, scale_dtype=torch.float16)
    points = q.dequantize()
    again = quantize_affine(points, **grid, scale_dtype=torch.float16)
    used = split_groups(q.codes, grid["group"]).long()
    top = 2 ** (grid["bits"] - 1) - 1 if grid["symmetric"] else 2 ** grid["bits"] - 1
    whole = used.abs().amax(-1) == top if grid["symmetric"] else used.amax(-1) - used.amin(-1) == top
    same = (split_groups(again.codes, grid["group"]) == used).all(-1)
    assert (same | ~whole).all() and (again.scale[whole] == q.scale[whole]).all()
    assert ((split_groups(again.dequantize() - points, grid["group"]) == 0).all(-1) | ~whole).all()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_equal_those_of_pytorch(symmetric):
    torch.manual_seed(0)
    w = torch.randn(16, 64)
    q = quantize_affine(w, 8, symmetric=symmetric)
    zeros = torch.zeros(16) if symmetric else q.zero[:, 0]
    dtype = torch.qint8 if symmetric else torch.quint8
    theirs = torch.quantize_per_channel(w, q.scale[:, 0].double(), zeros.long(), 0, dtype)
    assert torch.equal(theirs.int_repr(), q.codes)
    torch.testing.assert_close(theirs.dequantize(), q.dequantize(), rtol=1e-6, atol=0)
    q = quantize_affine(w, 8, symmetric=symmetric, group="tensor")
    zero = 0 if symmetric else int(q.zero)
    assert torch.equal(torch.quantize_per_tensor(w, float(q.scale), zero, dtype).int_repr(), q.codes)


def test_an_asymmetric_grid_is_that_of_pytorchs_observer():
    from torch.ao.quantization.observer import PerChannelMinMaxObserver

    torch.manual_seed(1)
    w = torch.randn(8, 32) + 0.7
    observer = PerChannelMinMaxObserver(0, torch.quint8, torch.per_channel_affine)
    observer(w)
    scale, zero = observer.calculate_qparams()
    q = quantize_affine(w, 8, symmetric=False)
    torch.testing.assert_close(q.scale[:, 0], scale.float(), rtol=1e-6, atol=0)
    assert torch.equal(q.zero[:, 0], zero.float())


def test_a_symmetric_grid_by_hand():
    w = torch.tensor([[-7.0, 3.5, 0.5, 1.5, 2.5, -0.5, -1.5, 0.0]])
    q = quantize_affine(w, 4)
    assert q.scale.tolist() == [[1.0]] and q.zero is None
    assert q.codes.tolist() == [[-7, 4, 0, 2, 2, 0, -2, 0]]  # halves go to the even code
    q = quantize_affine(torch.tensor([[-1.0, 0.25]]), 8)
    assert q.scale.item() == pytest.approx(1 / 127) and q.codes.tolist() == [[-127, 32]]  # never -128


def test_an_asymmetric_grid_by_hand():
    w = torch.tensor([[-1.0, 2.75, 0.0, 0.125], [1.0, 3.75, 2.0, 0.5], [-7.5, -0.25, -4.0, -1.0]])
    q = quantize_affine(w, 4, symmetric=False)
    assert q.scale.tolist() == [[0.25], [0.25], [0.5]] and q.zero.tolist() == [[4.0], [0.0], [15.0]]
    assert q.codes.tolist() == [[0, 15, 4, 4], [4, 15, 8, 2], [0, 15, 7, 13]]  # -0.5 to 0: even
    zero = quantize_affine(torch.tensor([[-3.3, 1.1, 0.0]]), 5, symmetric=False).dequantize()[0, 2]
    assert zero == 0


def test_groups_have_grids_of_their_own():
    w = torch.tensor([[7.0, 1.0, 0.7, 0.1], [0.0, 0.0, -14.0, 2.0]])
    q = quantize_affine(w, 4, group=2)
    torch.testing.assert_close(q.scale, torch.tensor([[1.0, 0.1], [1.0, 2.0]]))
    assert q.codes.tolist() == [[7, 1, 7, 1], [0, 0, -7, 1]]
    assert quantize_affine(w, 4, group="tensor").scale.tolist() == [[2.0]]
    assert quantize_affine(w, 4, group="row").scale.tolist() == [[1.0], [2.0]]
    assert quantize_affine(w, 4, group=1).scale.shape == w.shape


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_and_constants(symmetric):
    w = torch.tensor([[0.0, 0.0], [3.0, 3.0], [-3.0, -3.0]])
    q = quantize_affine(w, 8, symmetric=symmetric)
    assert q.scale[0] == 1
    torch.testing.assert_close(q.dequantize(), w, rtol=1e-6, atol=0)
    tiny = quantize_affine(torch.full((1, 4), 1e-12), 4, symmetric=symmetric, scale_dtype=torch.float16)
    assert tiny.scale.item() == 2**-24 and tiny.dequantize().abs().max() == 0  # the smallest of float16
    huge = quantize_affine(torch.tensor([[1e30, -1e30]]), 4, symmetric=symmetric, scale_dtype=torch.float16)
    assert huge.scale.item() == 65504 and huge.codes.tolist() == [[7, -7] if symmetric else [15, 0]]


def test_nan_is_not_hidden_and_the_smallest_numbers_are_zeros():
    w = torch.tensor([[1.0, math.nan], [1e-45, 0.0], [math.inf, 1.0]])
    for symmetric in (True, False):
        q = quantize_affine(w, 8, symmetric=symmetric)
        points = q.dequantize()
        assert points[0].isnan().all() and q.scale[1] == 1 and (points[1] == 0).all()
        assert points[2, 0] > 1e38


@given(st.floats(1e-7, 6e4))
def test_scales_are_rounded_up(value):
    scale = quantize_affine(
        torch.tensor([[7 * value]], dtype=torch.float64), 4, scale_dtype=torch.float16
    ).scale
    below = (scale.view(torch.int16) - 1).view(torch.float16)
    assert below.double() < value * (1 + 1e-15) and scale.double() >= value * (1 - 1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    w = torch.tensor([[0.5, -1.0, 0.25, 0.125]]).to(dtype)
    q = quantize_affine(w, 8)
    assert q.scale.dtype == torch.promote_types(dtype, torch.float32)
    assert q.dequantize(dtype).dtype == dtype and q.dequantize().dtype == torch.float32
    exact = q.codes.double() * q.scale.double()
    assert torch.equal(q.dequantize(torch.float64), exact)
    assert torch.equal(q.dequantize(torch.bfloat16), q.dequantize().bfloat16())


def test_a_transposed_weight_and_the_meta_device():
    w = torch.randn(8, 6)
    q, straight = quantize_affine(w.T, 8, group=4), quantize_affine(w.T.contiguous(), 8, group=4)
    assert q.codes.is_contiguous() and all(
        torch.equal(a, b) for a, b in zip(q[:2], straight[:2], strict=True)
    )
    for symmetric in (True, False):
        q = quantize_affine(w.to("meta"), 4, symmetric=symmetric, group=3, scale_dtype=torch.float16)
        assert q.dequantize().shape == w.shape and q.scale.shape == (8, 2)
    assert pack4(q.codes).shape == (8, 3) and unpack4(pack4(q.codes)).shape == (8, 6)


@pytest.mark.parametrize("group", [5, 0, -4, 24, "column", 2.0])
def test_a_group_that_does_not_divide_is_refused(group):
    with pytest.raises(UserError, match="divides 12, not"):
        quantize_affine(torch.ones(2, 12), group=group)


@pytest.mark.parametrize("bits", [1, 9, 0, 16])
def test_numbers_of_bits(bits):
    with pytest.raises(UserError, match=f"{bits} bits.*2 to 8"):
        quantize_affine(torch.ones(2, 12), bits)


def test_the_noise_is_that_of_a_uniform_error():
    """An error uniform over a step has the mean square step² / 12."""
    w = torch.rand(64, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    q = quantize_affine(w, 6, group="tensor")
    expected = 10 * math.log10(float(w.square().mean()) / (float(q.scale) ** 2 / 12))
    assert sqnr(w, q.dequantize()) == pytest.approx(expected, abs=0.1)
    assert sqnr(w, w) == math.inf
    assert sqnr(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5])) == pytest.approx(20)


def test_packed_codes():
    codes = torch.tensor([[1, 2, 15, 0], [0, 15, 8, 7]])
    assert pack4(codes).tolist() == [[0x21, 0x0F], [0xF0, 0x78]]  # the low nibble first
    every = torch.cartesian_prod(torch.arange(16), torch.arange(16)).view(16, 32).to(torch.uint8)
    assert pack4(every).dtype == torch.uint8 and torch.equal(unpack4(pack4(every)), every)


def test_an_affine_weight_is_its_parts():
    q = Affine(torch.tensor([[0, 3]], dtype=torch.uint8), torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    assert q.dequantize().tolist() == [[-0.5, 1.0]]
    assert q.codes.tolist() == [[0, 3]]
