"""Rotary position embedding: turn queries and keys by their position (Su et al., 2021).

Each pair of numbers (i, i + half) of a head turns with a frequency of its own, so a score depends only on how
far apart two positions are. The four scalings change the frequencies for texts longer than those the model
was trained on.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from myllm.config import RopeScaling


def frequencies(dim: int, theta: float = 10_000.0) -> Tensor:
    """The turn of each pair from one position to the next: ``theta ** (-2 i / dim)``.

    Args:
        dim: How many numbers of a head turn, an even number.
        theta: The base; a larger one turns the slow pairs more slowly.

    Returns:
        (dim / 2,) float64, in radians, from fast to slow.
    """
    return theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def linear(freq: Tensor, scaling: RopeScaling) -> Tensor:
    """Position interpolation: all pairs turn `factor` times more slowly (Chen et al., 2023)."""
    return freq / scaling.factor


def llama3(freq: Tensor, scaling: RopeScaling) -> Tensor:
    """LLaMA 3.1: divide the slow frequencies, keep the fast ones, and go smoothly from one to the other.

    What counts is how many turns a pair makes in the original context.
    """
    turns = scaling.original_context * freq / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * freq + (1 - keep) * freq / scaling.factor


def yarn(freq: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """YaRN: like `llama3`, with a ramp that is linear in the number of the pair (Peng et al., 2023)."""

    def pair(turns: float) -> float:  # the pair, not always a whole one, that turns so often
        return len(freq) * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(pair(scaling.beta_fast)), 0)
    high = min(math.ceil(pair(scaling.beta_slow)), 2 * len(freq) - 1)
    ramp = (torch.arange(len(freq), dtype=freq.dtype) - low) / max(high - low, 0.001)
    divide = ramp.clamp(0, 1)
    return (1 - divide) * freq + divide * freq / scaling.factor


def dynamic(dim: int, theta: float, scaling: RopeScaling, length: int) -> Tensor:
    """Dynamic NTK: the base grows with the text, once that is longer than the original context.

    With ``stretch = factor * length / original_context - (factor - 1)`` the slowest pair is divided by the
    stretch, and the fastest stays as it is.
    """
    stretch = max(length / scaling.original_context, 1)
    stretch = scaling.factor * stretch - (scaling.factor - 1)
    return frequencies(dim, theta * stretch ** (dim / (dim - 2)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of the first numbers of each head; the rest stays as it is.

    Args:
        x: Queries or keys, (B, H, T, D).
        cos: Of the angles, (B or 1, 1, T, half).
        sin: The same of the sine.

    Returns:
        (B, H, T, D).
    """
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class Rope(nn.Module):
    """Rotary position embedding with its scalings.

    Args:
        head_dim: D.
        theta: The base of the frequencies.
        scaling: How they are changed for long texts.
        fraction: The part of each head that turns.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        theta: float = 10_000.0,
        scaling: RopeScaling | None = None,
        fraction: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim, self.theta, self.scaling = int(head_dim * fraction), theta, scaling

    def frequencies(self, length: int) -> Tensor:
        """The frequencies in a text of `length` tokens, (half,) float64."""
        freq, scaling = frequencies(self.dim, self.theta), self.scaling
        if scaling is None:
            return freq
        if scaling.kind == "dynamic":
            return dynamic(self.dim, self.theta, scaling, length)
        if scaling.kind == "yarn":
            return yarn(freq, scaling, self.theta)
        return (linear if scaling.kind == "linear" else llama3)(freq, scaling)

    def forward(self, positions: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The turning of queries (B, H, T, D) and keys (B, K, T, D) at `positions`, (B or 1, T)."""
        dynamic_length = self.scaling is not None and self.scaling.kind == "dynamic"
        freq = self.frequencies(int(positions.max()) + 1 if dynamic_length else 0)
        exact = torch.float32 if positions.device.type == "mps" else torch.float64  # MPS has no float64
        freq = freq.to(positions.device, exact)
        angles = positions[:, None, :, None].to(exact) * freq  # (B or 1, 1, T, half)
        grow = 1.0  # YaRN sharpens the weights a little
        if self.scaling is not None and self.scaling.kind == "yarn":
            grow = self.scaling.attention_factor or 0.1 * math.log(self.scaling.factor) + 1
        cos, sin = angles.cos() * grow, angles.sin() * grow

        def turn(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            c, s = cos.to(q.dtype), sin.to(q.dtype)
            return rotate(q, c, s), rotate(k, c, s)

        return turn
