"""Eight bits: weights alone (W8A16), or weights and activations (W8A8)."""

import torch
from torch import Tensor, nn

from myllm.quantization.affine import Affine, Group, quantize_affine
from myllm.quantization.layer import QuantizedLinear


class Int8Linear(QuantizedLinear):
    """Weights in int8 on a symmetric grid, activations as they are.

    With one scale per row, or one in all, ``x Wᵀ = (x codesᵀ) · scale``: the product is computed on codes and
    scaled afterwards. The kernel for few rows rounds `x` and the products to bfloat16.

    Args:
        linear: The layer to quantize.
        group: What shares a scale; see `quantize_affine`.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, group: Group = "row") -> None:
        super().__init__(linear, group=group)
        codes, scale, _ = quantize_affine(linear.weight, 8, group=group)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for."""
        return Affine(self.codes, self.scale).dequantize(dtype)

    def fast(self, x: Tensor) -> Tensor | None:
        """``x Wᵀ`` for few rows (R, K), or None: by groups of columns, or not on the CPU."""
        if self.scale.shape[1] > 1 or x.device.type != "cpu":
            return None
        ones = torch.ones(self.out_features, dtype=torch.bfloat16)
        product = torch._weight_int8pack_mm(x.to(torch.bfloat16), self.codes, ones)  # pyright: ignore
        return (product * self.scale.T).to(x.dtype)


class DynamicInt8Linear(Int8Linear):
    """Weights and activations in int8, multiplied as integers; for inference only.

    Each row of `x` has a scale of its own, computed when it arrives: a scale of the whole batch would let
    the rows of a batch change each other's results.

    Args:
        linear: The layer to quantize, with one scale per output.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.options = {}

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N)."""
        codes, scale, _ = quantize_affine(x.flatten(0, -2), 8)
        product = torch._int_mm(codes, self.codes.T)  # pyright: ignore
        y = (product * scale * self.scale.T).to(x.dtype).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias
