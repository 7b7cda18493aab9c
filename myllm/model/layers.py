"""The layers between the attentions: normalization and the feed-forward network."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class LayerNorm(nn.Module):
    """Normalize each position to mean 0 and variance 1, then scale and shift by learned numbers.

    ``(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`` over the last dimension, with the biased
    variance (Ba et al., 2016).

    Args:
        n_embd: C.
        eps: Keeps the division safe where all numbers are equal.
        bias: Whether a learned shift is added.
    """

    def __init__(self, n_embd: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(n_embd))
        self.bias = nn.Parameter(torch.empty(n_embd)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the plain normalization: weights 1, bias 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Scale each position to a mean square of 1, then by learned numbers.

    ``x / sqrt(mean(x²) + eps) * weight`` over the last dimension (Zhang and Sennrich, 2019).

    Args:
        n_embd: C.
        eps: Keeps the division safe where all numbers are 0.
        offset: Whether the factor is ``1 + weight``, as Gemma stores it.
    """

    def __init__(self, n_embd: int, *, eps: float = 1e-5, offset: bool = False) -> None:
        super().__init__()
        self.eps, self.offset = eps, float(offset)
        self.weight = nn.Parameter(torch.empty(n_embd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the plain normalization, a factor of 1."""
        nn.init.constant_(self.weight, 1 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C); the mean is taken in float32 at least."""
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        y = F.rms_norm(y, self.weight.shape, eps=self.eps)
        return (y * (self.offset + self.weight)).to(x.dtype)


class MLP(nn.Module):
    """The position-wise feed-forward network: expand, apply the activation, project back.

    Args:
        n_embd: C.
        intermediate_size: The width of the expansion.
        activation: A name in `ACTIVATIONS`; GPT-2's is ``gelu_tanh``.
        bias: Whether the two projections have one.
    """

    def __init__(
        self, n_embd: int, intermediate_size: int, *, activation: str = "gelu_tanh", bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up_proj = nn.Linear(n_embd, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        return self.down_proj(self.activation(self.up_proj(x)))


class GatedMLP(nn.Module):
    """A gated feed-forward network: one projection, through the activation, multiplies the other.

    With SiLU it is SwiGLU, with GELU GeGLU (Shazeer, 2020).

    Args:
        n_embd: C.
        intermediate_size: The width of the expansion.
        activation: A name in `ACTIVATIONS`.
        bias: Whether the three projections have one.
    """

    def __init__(
        self, n_embd: int, intermediate_size: int, *, activation: str = "silu", bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_proj = nn.Linear(n_embd, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(n_embd, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
