"""What comes between two attention layers: normalization and the feed-forward network.

LayerNorm is PyTorch's own, `torch.nn.LayerNorm`.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.model.basics import upcast

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class RMSNorm(nn.Module):
    """Scale each position to a mean square of 1, then by learned weights.

    ``x / sqrt(mean(x²) + eps) * weight`` over the last dimension (Zhang and Sennrich, 2019).

    Args:
        n_embd: C.
        eps: Avoids a division by 0.
        offset: Multiply by ``1 + weight`` instead, as in Gemma.
    """

    def __init__(self, n_embd: int, *, eps: float = 1e-5, offset: bool = False) -> None:
        super().__init__()
        self.eps, self.offset = eps, float(offset)
        self.weight = nn.Parameter(torch.empty(n_embd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight so that the factor is 1."""
        nn.init.constant_(self.weight, 1 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C), computed in at least float32."""
        wide, weight = upcast(x), self.offset + self.weight if self.offset else self.weight
        return F.rms_norm(wide, weight.shape, weight.to(wide.dtype), self.eps).to(x.dtype)


class MLP(nn.Module):
    """The position-wise feed-forward network: expand, apply the activation, project back.

    Args:
        n_embd: C.
        intermediate_size: The width of the expansion.
        activation: A name in `ACTIVATIONS`; GPT-2's is ``gelu_tanh``.
        bias: Whether the two projections have a bias.
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
    """A gated feed-forward network: the activation of one projection multiplies another, elementwise.

    With SiLU it is SwiGLU, with GELU GeGLU (Shazeer, 2020).

    Args:
        n_embd: C.
        intermediate_size: The width of the expansion.
        activation: A name in `ACTIVATIONS`.
        bias: Whether the three projections have a bias.
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
