"""Eight bits: weights alone (W8A16), or weights and activations (W8A8)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.basics import upcast
from myllm.quantization.affine import Affine, Group, quantize_affine
from myllm.quantization.integers import integer_product
from myllm.quantization.layer import FEW_ROWS, QuantizedLinear, few, kernel


class Int8Linear(QuantizedLinear):
    """Weights in int8 on a symmetric grid, activations as they are.

    With one scale per row, or one per tensor, ``x Wᵀ = (x codesᵀ) · scale``: the product is computed on codes
    and scaled afterwards. The kernel for few rows rounds `x` and the products to bfloat16: the perplexity of
    ``course-base``, a float32 model, computed token by token, changed by less than 0.01 %.

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

    def rows(self, i: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight, (…, K) for indices (…)."""
        flat = i.flatten()
        scale = self.scale if len(self.scale) == 1 else self.scale[flat]
        return Affine(self.codes[flat], scale).dequantize(dtype).view(*i.shape, -1)

    def fast(self, x: Tensor) -> Tensor | None:
        """``x Wᵀ`` for rows (R, K), scaled afterwards; None where each group of columns has a scale."""
        if self.scale.shape[1] > 1:
            return None
        # From 9 rows on, float32 is faster. At other widths the kernel reads past the end, and may crash.
        rows = 8 if x.dtype == torch.float32 else FEW_ROWS
        multiply = kernel("_weight_int8pack_mm") if few(x, rows) and self.in_features % 32 == 0 else None
        if multiply is None:
            product = F.linear(x, self.codes.to(x.dtype))
        else:
            self.codes = _aligned(self.codes)
            ones = torch.ones(self.out_features, dtype=torch.bfloat16)
            product = multiply(_aligned(x.to(torch.bfloat16)), self.codes, ones)
        return (product * self.scale.T).to(x.dtype)


class DynamicInt8Linear(Int8Linear):
    """Weights and activations in int8, multiplied as integers; for inference only.

    Each row of `x` has a scale of its own, computed when it arrives: with one scale for the whole batch, rows
    would change each other's results. Products and sums are exact, as of integers, on every machine
    (`integer_product`). A processor with VNNI multiplies integers faster than float32, whatever the number of
    rows; on others, and on a GPU, the codes are multiplied as float32.

    Args:
        linear: The layer to quantize, with one scale per output.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.options = {}

    def fast(self, x: Tensor) -> Tensor:
        """``x Wᵀ`` for rows (R, K), both rounded to codes."""
        wide = upcast(x)  # as `quantize_affine`, whose general form takes longer than the product
        scale = (wide.abs().amax(-1, keepdim=True) / 127).clamp_(min=torch.finfo(wide.dtype).tiny)
        codes = (wide / scale).round_().to(torch.int8)
        total = integer_product(codes, self.codes).to(scale.dtype)
        return total.mul_(self.scale.T).mul_(scale).to(x.dtype)  # in this order large numbers stay finite

    def gradient(self, grad: Tensor) -> Tensor:
        """Raise an error, since there is none.

        Raises:
            UserError: Always.
        """
        raise UserError("Rounded activations have no gradient; train with Int8Linear, which keeps them.")


def _aligned(x: Tensor) -> Tensor:
    """`x`, copied if it does not begin at a multiple of 64 bytes, where the AVX-512 kernel would crash."""
    return x.clone() if x.data_ptr() % 64 else x
