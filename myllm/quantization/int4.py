"""Four bits, two codes in a byte, a scale for each group of columns."""

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.quantization.affine import Affine, pack4, quantize_affine, unpack4
from myllm.quantization.layer import QuantizedLinear


class Int4Linear(QuantizedLinear):
    """Weights in four bits on an affine grid by groups of columns, activations as they are.

    Scales and zero points are stored in float16 and uint8; the codes are chosen for the rounded scales.

    Args:
        linear: The layer to quantize.
        group: How many consecutive columns share a scale; it divides K.
        symmetric: Whether the grid is symmetric about 0; then there is no zero point.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, linear: nn.Linear, group: int = 32, *, symmetric: bool = False) -> None:
        super().__init__(linear, group=group, symmetric=symmetric)
        self.store(quantize_affine(linear.weight, 4, symmetric=symmetric, group=group))

    def store(self, q: Affine) -> None:
        """Keep these codes, scales and zero points instead."""
        if q.codes.shape[1] % 2:
            raise UserError(f"Four-bit codes are packed in pairs; {q.codes.shape[1]} columns are odd.")
        codes = q.codes if q.zero is not None else q.codes + 8
        self.register_buffer("packed", pack4(codes))
        self.register_buffer("scale", q.scale)
        self.register_buffer("zero", None if q.zero is None else q.zero.to(torch.uint8))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for."""
        zero = torch.full_like(self.scale, 8) if self.zero is None else self.zero.to(self.scale.dtype)
        return Affine(unpack4(self.packed), self.scale, zero).dequantize(dtype)
