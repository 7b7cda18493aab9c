"""The affine grid: numbers as small integers, ``w ≈ scale · (code − zero)``."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from myllm.files import UserError

#: What shares a scale: "tensor", "row", or a number of consecutive columns of a row.
Group = int | str


class Affine(NamedTuple):
    """A weight on an affine grid.

    Attributes:
        codes: (N, K), int8 on a symmetric grid and uint8 on an asymmetric one.
        scale: (N, G) or (1, 1), the step between neighbouring grid points.
        zero: Shaped like `scale`, the code of the number 0; None on a symmetric grid, where it is 0.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers (N, K) that the codes stand for, computed in float32 or better and then rounded."""
        wide = torch.promote_types(torch.promote_types(self.scale.dtype, dtype), torch.float32)
        (N, K), G = self.codes.shape, self.scale.shape[1]
        groups = self.codes.view(N, G, K // G).to(wide)
        if self.zero is not None:
            groups.sub_(self.zero[..., None])
        return groups.mul_(self.scale[..., None]).view(N, K).to(dtype)


def quantize_affine(
    w: Tensor,
    bits: int = 8,
    *,
    symmetric: bool = True,
    group: Group = "row",
    scale_dtype: torch.dtype | None = None,
) -> Affine:
    """Round a weight to the nearest points of the grid that its range spans; ties to an even number of steps.

    A symmetric grid has the codes -m … m with m = 2^(bits - 1) - 1 and the step max|w| / m: the code
    -2^(bits - 1) is not used, so that a number and its negative have opposite codes. An asymmetric grid has
    the codes 0 … 2^bits - 1 and spans the range of w, extended to include 0, so that 0 is a grid point (Jacob
    et al., 2018). A group of zeros has the step 1, one that contains NaN the step NaN. Before codes are
    chosen, the step is rounded up to the dtype in which it is stored, so that the range still fits: each
    number moves by at most half a step.

    Args:
        w: (N, K), any floating-point dtype.
        bits: 2 to 8.
        symmetric: Whether the grid is symmetric about 0.
        group: What shares a scale.
        scale_dtype: The dtype of the scales and zero points; by default float32, or float64 for such a w.

    Raises:
        UserError: Another number of bits, or a group that does not divide K.
    """
    if not 2 <= bits <= 8:
        raise UserError(f"{bits} bits are not supported; take 2 to 8.")
    top = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1  # the largest code, and the number of steps
    wide = torch.promote_types(w.dtype, torch.float32)
    groups = split_groups(w.detach().to(wide).contiguous(), group)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = (torch.maximum(-low, high) if symmetric else high - low) / top
    scale = _rounded_up(torch.where(scale == 0, 1, scale), scale_dtype or wide)
    steps = (groups / scale[..., None]).round_()
    if symmetric:
        return Affine(steps.clamp_(-top, top).view(w.shape).to(torch.int8), scale)
    zero = (-low / scale).round_().clamp_(0, top)
    codes = steps.add_(zero[..., None]).clamp_(0, top)
    return Affine(codes.view(w.shape).to(torch.uint8), scale, zero.to(scale.dtype))


def _rounded_up(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Positive numbers in another dtype, none smaller than before (except those that it cannot hold)."""
    nearest = scale.to(dtype)
    bits = nearest.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[nearest.itemsize])
    return (bits + (nearest.to(scale.dtype) < scale)).view(dtype).clamp(max=torch.finfo(dtype).max)


def split_groups(w: Tensor, group: Group) -> Tensor:
    """A weight (N, K) as (N, G, K / G): the numbers that share a scale are in the last dimension.

    Raises:
        UserError: The group is neither "tensor" nor "row" nor a number that divides K.
    """
    N, K = w.shape
    if group == "tensor":
        return w.reshape(1, 1, N * K)
    size = K if group == "row" else group
    if not isinstance(size, int) or size < 1 or K % size:
        raise UserError(f'A group is "tensor", "row" or a number of columns that divides {K}, not {group!r}.')
    return w.reshape(N, K // size, size)


def sqnr(w: Tensor, approximation: Tensor) -> float:
    """The signal-to-quantization-noise ratio in dB: 10 log10 of mean w² over mean squared error."""
    noise = (w.double() - approximation.double()).square().mean()
    return 10 * math.log10(float(w.double().square().mean() / noise)) if noise else math.inf


def pack4(codes: Tensor) -> Tensor:
    """Codes 0 … 15 (N, K), K even, as bytes (N, K / 2): even columns in the low four bits."""
    codes = codes.to(torch.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4


def unpack4(packed: Tensor) -> Tensor:
    """The uint8 codes (N, K) in bytes (N, K / 2): the inverse of `pack4`."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1)
