"""The base of all quantized layers: a linear layer whose weight is stored in few bits."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Up to this many rows, reading the weight takes longer than the arithmetic, and kernels on codes are fast.
FEW_ROWS = 64


class QuantizedLinear(nn.Module):
    """A linear layer that stores its weight in few bits and computes with what the codes stand for.

    A subclass stores codes and scales as buffers, defines `dequantize`, and may define `fast`. Constructed
    from a layer on the meta device, it has buffers of the right shapes, into which saved ones are loaded.

    Args:
        linear: The layer whose weight is quantized; its bias is kept.
        options: The subclass's other arguments, which are saved with a model.
    """

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear, **options: Any) -> None:
        super().__init__()
        self.in_features, self.out_features, self.options = linear.in_features, linear.out_features, options
        self.bias, self.weight_dtype = linear.bias, linear.weight.dtype

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for."""
        raise NotImplementedError

    def rows(self, i: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight, (…, K) for indices (…), as `QuantizedEmbedding` looks them up."""
        return self.dequantize(dtype)[i]

    def fast(self, x: Tensor) -> Tensor | None:
        """``x Wᵀ`` for rows (R, K) in a faster way than with the dequantized weight, or None."""

    def product(self, x: Tensor) -> Tensor:
        """``x Wᵀ`` for rows (R, K)."""
        y = self.fast(x)
        return F.linear(x, self.dequantize(x.dtype)) if y is None else y

    def gradient(self, grad: Tensor) -> Tensor:
        """The gradient with respect to the rows (R, K), given that with respect to the products (R, N)."""
        return grad @ self.dequantize(grad.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N). Gradients reach `x` and the bias, never the weight."""
        rows, wanted = x.reshape(-1, self.in_features), x.requires_grad and torch.is_grad_enabled()
        y = cast(Tensor, _Product.apply(rows, self)) if wanted else self.product(rows)
        y = y if x.ndim == 2 else y.view(*x.shape[:-1], self.out_features)  # a view would slow LoRA's sum
        return y if self.bias is None else y + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        """What `torch.nn.Module.to` calls: buffers change their device, never their dtype.

        Casting a model to bfloat16 would otherwise round its scales, and each code would stand for another
        number. To `fn` the buffers look like bytes, which no cast touches.
        """
        moved = {
            name: old if old is None else fn(old[..., None].view(torch.uint8)).view(old.dtype)[..., 0]
            for name, old in self._buffers.items()
        }
        self._buffers = {}
        super()._apply(fn, recurse)
        self._buffers = moved
        return self

    @property
    def nbytes(self) -> int:
        """Bytes stored for the weight: codes, scales and everything else except the bias."""
        return sum(buffer.nbytes for buffer in self.buffers())

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each number of the weight."""
        return 8 * self.nbytes / (self.in_features * self.out_features)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.in_features}, {self.out_features}, bits per weight={self.bits_per_weight:.3f}"


class QuantizedEmbedding(nn.Module):
    """An embedding that shares the table of a quantized head: rows are dequantized when they are looked up.

    Args:
        head: The quantized head, whose outputs are the tokens.
        like: A tensor with the dtype and on the device of the embeddings.

    Attributes:
        weight: Empty; its dtype and device are those of the embeddings.
    """

    weight: Tensor

    def __init__(self, head: QuantizedLinear, like: Tensor) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that only the model registers it as a submodule
        self.register_buffer("weight", like.detach().new_empty(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, C)."""
        return self._head[0].rows(ids, self.weight.dtype)


class _Product(torch.autograd.Function):
    """``x Wᵀ``, dequantized again for the gradient: the full weight is not kept between the two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.layer.gradient(grad), None


def kernel(name: str) -> Callable[..., Tensor] | None:
    """A PyTorch kernel that multiplies by codes, or None and a warning if there is none."""
    found = getattr(torch.ops.aten, name, None)
    if found is None:
        warnings.warn(f"PyTorch {torch.__version__} lacks {name}: quantized layers are slower.", stacklevel=2)
    return found


def few(x: Tensor, rows: int = FEW_ROWS) -> bool:
    """Whether `x` (R, K) suits a kernel that computes in bfloat16: few rows, on the CPU, without gradient."""
    return x.is_cpu and len(x) <= rows and x.dtype in (torch.float32, torch.bfloat16) and not x.requires_grad
