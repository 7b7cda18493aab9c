"""NF4: four bits on a codebook made for normally distributed weights (QLoRA: Dettmers et al., 2023)."""

from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.quantization.affine import pack4
from myllm.quantization.layer import QuantizedLinear

SCALES_BLOCK = 256  # this many scales share a scale of their own in double quantization


def nf4_levels() -> Tensor:
    """The 16 levels of NF4, quantiles of the standard normal distribution: from -1 to 1, in float32.

    Levels at equally spaced quantiles are used equally often. Zero has to be one of them, so each side is
    spaced on its own: 7 levels below 0 and 8 above it. The outermost level of n equally probable cells would
    be the median of its cell, at the quantile 1 - 1 / (2n): 1 - 1/32 for 16 cells, 1 - 1/30 for 15. The paper
    takes the mean of the two, 1 - (1/32 + 1/30) / 2 ≈ 0.9677083, as the outermost quantile of both sides, and
    divides all levels by the largest. bitsandbytes computes with these seven digits, in float32: so do we.
    """
    outermost = round(1 - (1 / 32 + 1 / 30) / 2, 7)
    below, above = (torch.linspace(outermost, 0.5, n + 1, dtype=torch.float32)[:-1] for n in (7, 8))
    quantiles = torch.cat((1 - below.double(), torch.tensor([0.5]), above.flip(0).double()))
    special: Any = torch.special
    levels: Tensor = special.ndtri(quantiles).float()
    return levels / levels[-1]


def dynamic_levels() -> Tensor:
    """The 256 levels of bitsandbytes' 8-bit "dynamic" codebook, ascending, from -0.993 to 1 in float32.

    Each of the seven decades from 10⁻⁷ to 1 has twice as many levels as the one below it, 1 to 64 of each
    sign, evenly spaced within the decade: small numbers keep a small relative error (Dettmers, 2016).
    """
    edges = [torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32) for decade in range(7)]
    positive = torch.cat([(x[:-1] + x[1:]) / 2 * 10.0 ** (decade - 6) for decade, x in enumerate(edges)])
    return torch.cat((-positive, positive, torch.tensor([0.0, 1.0]))).sort().values


def quantize_blocks(x: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Round the numbers of `x`, block after block, to the nearest of ``levels · max |block|``.

    Args:
        x: Any shape, read as one sequence; its last block is padded with zeros.
        levels: Ascending, at most 256, in float32.
        block: How many consecutive numbers share a scale.

    Returns:
        The codes (blocks, block), uint8 indices into `levels`, and the scales (blocks,) in float32. A number
        halfway between two levels takes the lower one.
    """
    flat = x.detach().float().flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    scale = blocks.abs().amax(-1)
    # Multiplied by the reciprocal, as in bitsandbytes: a division would put other numbers exactly halfway.
    unit = blocks * (1 / scale.clamp(min=1e-38))[:, None]
    return torch.bucketize(unit, ((levels[:-1] + levels[1:]) / 2).to(x.device)).to(torch.uint8), scale


LEVELS, SCALE_LEVELS = nf4_levels(), dynamic_levels()
#: (256,): the two float32 numbers that each byte stands for, that of the high four bits first, as one int64:
#: looking up both at once takes a third of the time.
PAIRS = torch.cartesian_prod(LEVELS, LEVELS).view(torch.int64).flatten()


class NF4Linear(QuantizedLinear):
    """Weights in NF4: blocks of consecutive numbers, each with its largest magnitude as the scale.

    With double quantization the mean of all scales is subtracted, and what remains is stored in 8 bits, in
    blocks of 256 with a scale each: 4 + 8/64 + 32/(64 · 256) ≈ 4.127 bits per weight instead of 4.5. All
    stored bytes equal those of bitsandbytes, with the first number of each pair in the high four bits.

    Args:
        linear: The layer to quantize.
        block: How many consecutive numbers, row after row, share a scale; even.
        double: Whether the scales are quantized as well.
    """

    packed: Tensor
    scale: Tensor
    scale_scale: Tensor
    mean: Tensor

    def __init__(self, linear: nn.Linear, block: int = 64, double: bool = True) -> None:
        super().__init__(linear, block=block, double=double)
        if block < 2 or block % 2:
            raise UserError(f"A block of NF4 is an even number of weights, such as 64, not {block}.")
        codes, scale = quantize_blocks(linear.weight, LEVELS, block)
        self.register_buffer("packed", pack4(codes.view(-1, 2).flip(1)))
        if double:
            self.register_buffer("mean", scale.mean())
            codes, scale_scale = quantize_blocks(scale - self.mean, SCALE_LEVELS, SCALES_BLOCK)
            self.register_buffer("scale_scale", scale_scale)
            scale = codes.flatten()[: len(scale)]
        self.register_buffer("scale", scale)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for."""
        scale = self.scale
        if self.options["double"]:
            units = SCALE_LEVELS.to(scale.device)[scale.int()]
            scale = units * self.scale_scale.repeat_interleave(SCALES_BLOCK)[: len(scale)] + self.mean
        pairs = PAIRS.to(scale.device).index_select(0, self.packed.flatten().int())
        flat = pairs.view(torch.float32).view(len(scale), -1).mul_(scale[:, None]).to(dtype).flatten()
        return flat[: self.out_features * self.in_features].view(self.out_features, self.in_features)
