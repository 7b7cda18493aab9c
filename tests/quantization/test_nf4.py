"""NF4: bitsandbytes' tables, bytes and numbers, and the properties of any codebook."""

import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from myllm.files import UserError
from myllm.quantization.nf4 import (
    LEVELS,
    SCALE_LEVELS,
    NF4Linear,
    dynamic_levels,
    nf4_levels,
    quantize_blocks,
)

SHAPES = [(128, 192), (40, 36), (7, 10), (3, 5), (300, 576)]


def linear(shape, *, seed=0, scale=0.02, bias=False):
    torch.manual_seed(seed)
    made = nn.Linear(shape[1], shape[0], bias=bias)
    made.weight.data = torch.randn(shape) * scale
    return made


def test_the_levels_are_quantiles_of_the_normal_distribution():
    levels = nf4_levels()
    assert levels.dtype == torch.float32 and levels.shape == (16,)
    assert levels[0] == -1 and levels[7] == 0 and levels[15] == 1
    normal = NormalDist()
    outermost = normal.inv_cdf(1 - (1 / 32 + 1 / 30) / 2)
    mass = [normal.cdf(level * outermost) for level in levels.tolist()]
    for side in (mass[:8], mass[7:]):  # equally probable steps on either side of 0
        steps = [b - a for a, b in pairwise(side)]
        assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-5)


def test_the_levels_are_those_of_bitsandbytes():
    bnb = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(nf4_levels(), bnb.get_4bit_type("nf4", "cpu"))
    assert torch.equal(dynamic_levels(), bnb.create_dynamic_map())


def test_the_dynamic_levels_have_seven_decades():
    levels = dynamic_levels()
    assert len(levels.unique()) == 256 and levels[-1] == 1 and 0 in levels
    assert torch.equal(levels, levels.sort().values)
    for exponent in range(7):
        high = 10.0 ** (exponent - 6)
        for sign in (1, -1):
            count = ((sign * levels > high / 10) & (sign * levels < high)).sum()
            assert count == 2**exponent
    assert set((-levels[levels < 0]).tolist()) == set(levels[(levels > 0) & (levels < 1)].tolist())


def dequantized(bnb, packed, state):
    """By the library's general kernel: with AVX-512, its own misreads blocks that go on in the next row."""
    scale = state.absmax
    if state.nested:
        scale = bnb.dequantize_blockwise(scale, state.state2) + state.offset
    general = torch.ops.bitsandbytes.dequantize_4bit.default._op_dk
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    return general(key, packed, scale, state.blocksize, "nf4", state.shape, state.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "block"), [*((shape, 64) for shape in SHAPES), ((40, 36), 32), ((7, 10), 128)]
)
def test_bytes_and_scales_are_those_of_bitsandbytes(shape, block, dtype):
    bnb = pytest.importorskip("bitsandbytes.functional")
    layer = linear(shape).to(dtype)
    layer.weight.data[0] = 0
    ours = NF4Linear(layer, block, double=False)
    theirs, state = bnb.quantize_4bit(layer.weight.data, blocksize=block, quant_type="nf4")
    numbers = layer.weight.numel()
    kept = numbers // 2  # of an odd number the last byte is half padding
    assert torch.equal(ours.packed[:kept], theirs[:kept]) and torch.equal(ours.scale, state.absmax)
    assert ours.packed.numel() == math.ceil(numbers / block) * block // 2
    for wanted in (torch.float32, torch.bfloat16, torch.float16):
        state.dtype = wanted
        assert torch.equal(ours.dequantize(wanted), dequantized(bnb, theirs, state))


def test_numbers_halfway_between_two_levels_go_where_bitsandbytes_puts_them():
    bnb = pytest.importorskip("bitsandbytes.functional")
    layer, middle = linear((512, 64)), (LEVELS[1:] + LEVELS[:-1]) / 2
    scale = torch.rand(512, 1) + 0.01
    layer.weight.data = middle[torch.randint(0, 15, (512, 64))] * scale
    layer.weight.data[:, :1] = scale
    theirs, _ = bnb.quantize_4bit(layer.weight.data, quant_type="nf4")
    assert torch.equal(NF4Linear(layer).packed, theirs)


def reference(x):
    """bitsandbytes' 8-bit codes by its reference; its kernel for CPUs is not exact between two levels."""
    import bitsandbytes.functional as bnb

    op, key = (
        torch.ops.bitsandbytes.quantize_blockwise.default,
        torch._C.DispatchKey.CompositeExplicitAutograd,
    )
    return op._op_dk(key, x, bnb.create_dynamic_map(), 256)


@pytest.mark.parametrize("shape", SHAPES)
def test_double_quantization_is_that_of_bitsandbytes(shape):
    bnb = pytest.importorskip("bitsandbytes.functional")
    layer = linear(shape, seed=1)
    ours = NF4Linear(layer)
    theirs, state = bnb.quantize_4bit(layer.weight.data, compress_statistics=True, quant_type="nf4")
    kept = layer.weight.numel() // 2
    assert torch.equal(ours.packed[:kept], theirs[:kept])
    assert torch.equal(ours.mean, state.offset) and torch.equal(ours.scale_scale, state.state2.absmax)
    _, plain = bnb.quantize_4bit(layer.weight.data, quant_type="nf4")
    codes, _ = reference(plain.absmax - plain.absmax.mean())
    assert torch.equal(ours.scale, codes)
    near = (ours.scale.int() - state.absmax.int()).abs()
    assert (near > 0).float().mean() < 0.01 or len(near) < 300  # its kernel for CPUs, sometimes a level away
    state.absmax = codes
    assert torch.equal(ours.dequantize(), dequantized(bnb, theirs, state))
    ours.scale = torch.randint(0, 256, ours.scale.shape, dtype=torch.uint8)  # all codes
    state.absmax = ours.scale
    assert torch.equal(ours.dequantize(), dequantized(bnb, theirs, state))


@given(
    st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 40), st.integers(2, 256), st.floats(1e-6, 1e6)
)
def test_each_number_takes_the_nearest_level(seed, n, block, levels, size):
    torch.manual_seed(seed)
    book = torch.rand(levels).mul(2).sub(1).unique()
    x = torch.randn(n) * size
    codes, scale = quantize_blocks(x, book, block)
    assert codes.shape == (math.ceil(n / block), block) and scale.shape == codes.shape[:1]
    padded = F.pad(x, (0, codes.numel() - n)).view(codes.shape)
    assert torch.equal(scale, padded.abs().amax(1))
    error = (book[codes.int()] * scale[:, None] - padded).abs()
    best = (book * scale[:, None, None] - padded[..., None]).abs().amin(-1)
    assert (error <= best + 1e-6 * scale[:, None]).all()


def test_halfway_takes_the_lower_level_and_zero_stays_zero():
    book = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    codes, scale = quantize_blocks(torch.tensor([1.0, 0.75, 0.25, -0.5, 0.0, 0.0, 0.0, 0.0]), book, 4)
    assert codes.tolist() == [[3, 2, 1, 0], [1, 1, 1, 1]] and scale.tolist() == [1, 0]
    zeros = linear((4, 64), scale=0)
    for double in (False, True):
        assert not NF4Linear(zeros, double=double).dequantize().any()


def test_nf4_numbers_survive():
    """What is on the grid already stays there: the scale of a block is its largest magnitude."""
    layer = linear((16, 64))
    layer.weight.data = LEVELS[torch.randint(0, 16, (16, 64))]
    layer.weight.data[:, 0] = 1
    layer.weight.data *= torch.rand(16, 1) + 0.5
    once = NF4Linear(layer, double=False).dequantize()
    assert torch.equal(once, layer.weight)


def test_bits_are_counted_to_the_last_one():
    layer = linear((256, 1024))
    assert NF4Linear(layer, double=False).bits_per_weight == 4 + 32 / 64
    assert NF4Linear(layer, 128, double=False).bits_per_weight == 4 + 32 / 128
    double = NF4Linear(layer)
    assert double.bits_per_weight == 4 + 8 / 64 + 32 / (64 * 256) + 32 / 256 / 1024  # and the mean
    assert round(4 + 8 / 64 + 32 / (64 * 256), 3) == 4.127
    assert double.nbytes == 256 * 1024 // 2 + 4096 + 16 * 4 + 4


def test_double_quantization_costs_little():
    layer = linear((512, 512))
    single, double = (NF4Linear(layer, double=one).dequantize() for one in (False, True))
    errors = [(made - layer.weight).square().mean() for made in (single, double)]
    assert errors[0] < errors[1] < 1.02 * errors[0]


def test_the_layer_computes_with_the_weight_it_stands_for_and_hands_gradients_on():
    layer = linear((24, 64), bias=True)
    layer.bias.data.normal_()
    made, x = NF4Linear(layer), torch.randn(2, 9, 64, requires_grad=True)
    y = made(x)
    assert torch.equal(y, F.linear(x.flatten(0, 1), made.dequantize()).view(2, 9, 24) + layer.bias)
    y.square().sum().backward()
    expected = (2 * y.detach()) @ made.dequantize()
    torch.testing.assert_close(x.grad, expected)
    assert [*dict(made.named_parameters())] == ["bias"]
    close = made(x[:, :1].detach())
    torch.testing.assert_close(close, y[:, :1].detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("double", [True, False])
def test_saved_buffers_load_into_a_layer_without_memory(double):
    made = NF4Linear(linear((40, 36)), double=double)
    with torch.device("meta"):
        empty = NF4Linear(nn.Linear(36, 40, bias=False), double=double)
    assert all(buffer.is_meta for buffer in empty.buffers())
    empty.load_state_dict(made.state_dict(), assign=True)
    assert torch.equal(empty.dequantize(), made.dequantize())
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in made.state_dict().items()
    }


@pytest.mark.parametrize("block", [0, -2, 3, 1])
def test_blocks_come_in_pairs(block):
    with pytest.raises(UserError, match="an even number of weights"):
        NF4Linear(linear((4, 64)), block)


def test_the_tables_are_what_the_functions_return():
    assert torch.equal(LEVELS, nf4_levels()) and torch.equal(SCALE_LEVELS, dynamic_levels())
