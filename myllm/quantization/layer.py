"""The base of all quantized layers: a linear layer whose weight is stored in few bits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 16
"""Up to so many rows reading the weights takes longer than the arithmetic: a kernel on codes is faster."""


class QuantizedLinear(nn.Module):
    """A linear layer that stores its weight in few bits and computes with what the codes stand for.

    A subclass stores codes and scales as buffers, defines `dequantize`, and may define `fast`. Constructed
    from a layer on the meta device, it has buffers of the right shapes, into which saved ones are loaded.

    Args:
        linear: The layer whose weight is quantized; its bias is kept.
        options: The subclass's other arguments, which are saved with a model.
    """

    def __init__(self, linear: nn.Linear, **options: Any) -> None:
        super().__init__()
        self.in_features, self.out_features, self.options = linear.in_features, linear.out_features, options
        self.bias, self.weight_dtype = linear.bias, linear.weight.dtype

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for."""
        raise NotImplementedError

    def fast(self, x: Tensor) -> Tensor | None:
        """``x Wᵀ`` for few rows (R, K) by a kernel that reads codes, or None where there is none."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N). Gradients reach `x`, never the weight."""
        rows, y = x.flatten(0, -2), None
        if len(rows) <= FEW_ROWS and not (torch.is_grad_enabled() and x.requires_grad):
            y = self.fast(rows)
        if y is None:
            y = _Product.apply(rows, self)
        y = y.unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes stored for the weight: codes, scales and all else but the bias."""
        return sum(buffer.nbytes for buffer in self.buffers())

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each number of the weight."""
        return 8 * self.nbytes / (self.in_features * self.out_features)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.in_features}, {self.out_features}, bits per weight={self.bits_per_weight:.3f}"


class _Product(torch.autograd.Function):
    """``x Wᵀ``, dequantized again for the gradient: the full weight is not kept between the two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:  # type: ignore[override]
        ctx.layer = layer
        return F.linear(x, layer.dequantize(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.dequantize(grad.dtype), None
