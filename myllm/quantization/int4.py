"""Four bits, two codes in a byte, a scale for each group of columns."""

from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.quantization.affine import Affine, Group, pack4, quantize_affine, unpack4
from myllm.quantization.layer import QuantizedLinear, few, kernel


class Int4Linear(QuantizedLinear):
    """Weights in four bits on an affine grid by groups of columns, activations as they are.

    Scales are stored in float16 and zero points in uint8, so that a weight takes 4 + 16/group bits on a
    symmetric grid and 4 + 24/group on an asymmetric one: 4.5 and 4.75 by default.

    PyTorch's kernel for few rows wants the codes in an order that depends on the machine. The first call
    makes such a copy, which takes 4 + 32/group more bits per weight and is in no checkpoint. The kernel
    rounds `x`, the scales and the products to bfloat16: the perplexity of ``course-base``, a float32 model,
    computed token by token, changed by 0.04 % (the four bits themselves change it by 1.5 %).

    Args:
        linear: The layer to quantize.
        group: How many consecutive columns share a scale; must divide K, which must be even.
        symmetric: Whether the grid is symmetric about 0; then there is no zero point.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, linear: nn.Linear, group: Group = 32, *, symmetric: bool = False) -> None:
        super().__init__(linear, group=group, symmetric=symmetric)
        self._copy: tuple[Tensor, Tensor, Tensor] | None = None
        half = torch.float16
        self.store(quantize_affine(linear.weight, 4, symmetric=symmetric, group=group, scale_dtype=half))

    def store(self, q: Affine) -> None:
        """Keep these codes, scales and zero points instead."""
        if q.codes.shape[1] % 2:
            raise UserError(f"Four-bit codes are packed in pairs; {q.codes.shape[1]} columns are odd.")
        self.register_buffer("packed", pack4(q.codes + 8 if q.zero is None else q.codes))
        self.register_buffer("scale", q.scale.to(torch.float16))
        self.register_buffer("zero", None if q.zero is None else q.zero.to(torch.uint8))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for."""
        return self._affine(slice(None)).dequantize(dtype)

    def rows(self, i: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight, (…, K) for indices (…)."""
        if len(self.scale) == 1:
            return super().rows(i, dtype)
        return self._affine(i.flatten()).dequantize(dtype).view(*i.shape, -1)

    def _affine(self, rows: Tensor | slice) -> Affine:
        zero = torch.full_like(self.scale, 8) if self.zero is None else self.zero
        return Affine(unpack4(self.packed[rows]), self.scale[rows], zero[rows])

    def fast(self, x: Tensor) -> Tensor | None:
        """``x Wᵀ`` for few rows by PyTorch's kernel; None for other groups, or N not divisible by 16."""
        size = self.in_features // self.scale.shape[1]
        supported = size in (32, 64, 128, 256) and len(self.scale) == self.out_features
        supported = supported and self.out_features % 16 == 0 and few(x)
        multiply = kernel("_weight_int4pack_mm_for_cpu") if supported else None
        if multiply is None:
            return None
        if self._copy is None or self._copy[0] is not self.packed:  # moved, loaded or stored again since
            zero, scale = 8 if self.zero is None else self.zero.float(), self.scale.float()
            grid = torch.stack((scale, scale * (8 - zero)), -1)  # w = scale · (code - 8) + scale · (8 - zero)
            codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack4(self.packed).int(), 1)
            self._copy = self.packed, codes, grid.to(torch.bfloat16).transpose(0, 1).contiguous()
        return multiply(x.to(torch.bfloat16), self._copy[1], size, self._copy[2]).to(x.dtype)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._copy = None
        super()._load_from_state_dict(*args, **options)
