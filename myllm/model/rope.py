"""Rotary position embedding: rotate queries and keys by their position (Su et al., 2021).

Each pair of numbers (i, i + half) of a head rotates with a frequency of its own, so a score depends only on
the distance between two positions. The four scalings change the frequencies for texts longer than those of
the training.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from myllm.config import RopeScaling


def frequencies(dim: int, theta: float = 10_000.0) -> Tensor:
    """The angle by which each pair rotates from one position to the next: ``theta ** (-2 i / dim)``.

    Args:
        dim: How many numbers of a head are rotated, an even number.
        theta: The base; a larger one makes the slow pairs slower.

    Returns:
        (dim / 2,) float64, in radians, from fast to slow.
    """
    return theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def linear(freq: Tensor, scaling: RopeScaling) -> Tensor:
    """Position interpolation: all pairs rotate `factor` times more slowly (Chen et al., 2023)."""
    return freq / scaling.factor


def llama3(freq: Tensor, scaling: RopeScaling) -> Tensor:
    """LLaMA 3.1: divide the low frequencies, keep the high ones, and interpolate in between.

    What counts is how many full rotations a pair makes in the original context.
    """
    turns = scaling.original_context * freq / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * freq + (1 - keep) * freq / scaling.factor


def yarn(freq: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """YaRN: like `llama3`, with a ramp that is linear in the index of the pair (Peng et al., 2023)."""

    def pair(turns: float) -> float:  # the (fractional) pair that makes so many rotations in the context
        return len(freq) * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(pair(scaling.beta_fast)), 0)
    high = min(math.ceil(pair(scaling.beta_slow)), 2 * len(freq) - 1)
    ramp = (torch.arange(len(freq), dtype=freq.dtype) - low) / max(high - low, 0.001)
    divide = ramp.clamp(0, 1)
    return (1 - divide) * freq + divide * freq / scaling.factor


def dynamic(dim: int, theta: float, scaling: RopeScaling, length: Tensor) -> Tensor:
    """Dynamic NTK: the base grows with the text, once that is longer than the original context.

    With ``stretch = factor * length / original_context - (factor - 1)`` the slowest pair is divided by the
    stretch, and the fastest stays as it is.

    Args:
        dim: How many numbers of a head are rotated.
        theta: The base.
        scaling: Its factor and original context.
        length: Tokens in the text, a scalar float64 tensor, so that it may be known on the device only.
    """
    stretch = (length / scaling.original_context).clamp(min=1)
    stretch = scaling.factor * stretch - (scaling.factor - 1)
    exponents = torch.arange(0, dim, 2, dtype=length.dtype, device=length.device) / dim
    return (theta * stretch ** (dim / (dim - 2))) ** -exponents


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + half) of the first numbers of each head; the rest stays as it is.

    Args:
        x: Queries or keys, (B, H, T, D).
        cos: Cosines of the angles, (B or 1, 1, T, half).
        sin: Their sines.

    Returns:
        (B, H, T, D).
    """
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class Rope(nn.Module):
    """Rotary position embedding with its scalings.

    The frequencies are a buffer on the model's device, in float64 whatever dtype the model has: angles at far
    positions need it (float32 where a device has no float64).

    With dynamic NTK the frequencies depend on how long the text is *now*, so keys that a cache holds were
    rotated by those of an earlier moment: as in `transformers`, they stay so. Up to the original context a
    cache changes nothing; beyond it, decoding with a cache differs from computing the whole text anew.

    Args:
        head_dim: D.
        theta: The base of the frequencies.
        scaling: How they are changed for long texts.
        fraction: The part of each head that is rotated.
    """

    freq: Tensor

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
        self.scale = 1.0  # YaRN sharpens the weights a little
        if scaling is not None and scaling.kind == "yarn":
            self.scale = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1
        self.register_buffer("freq", torch.empty(0), persistent=False)
        self.to(self.freq.device)  # fills it, by `_apply`

    def frequencies(self, length: int = 0) -> Tensor:
        """The frequencies, (half,) float64; with dynamic NTK those of a text of `length` tokens."""
        freq, scaling = frequencies(self.dim, self.theta), self.scaling
        if scaling is None:
            return freq
        if scaling.kind == "dynamic":
            tokens = torch.full((), length, dtype=freq.dtype, device=freq.device)
            return dynamic(self.dim, self.theta, scaling, tokens)
        if scaling.kind == "yarn":
            return yarn(freq, scaling, self.theta)
        return (linear if scaling.kind == "linear" else llama3)(freq, scaling)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to another device; a change of dtype must not round the frequencies."""
        device = fn(self.freq).device
        with torch.device("cpu"):  # on the meta device, sums would import the compiler: seconds
            freq = self.frequencies()
        exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.freq = freq.to(device, exact)
        return self

    def forward(self, positions: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The rotation of queries (B, H, T, D) and keys (B, K, T, D) at `positions`, (T,) or (B, T)."""
        freq = self.freq
        if self.scaling is not None and self.scaling.kind == "dynamic":
            freq = dynamic(self.dim, self.theta, self.scaling, positions.max().to(freq.dtype) + 1)
        angles = positions.to(freq.dtype)[..., None] * freq  # (T, half) or (B, T, half)
        angles = angles[:, None] if positions.ndim == 2 else angles  # broadcasts over the heads
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale

        def apply_rope(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            c, s = cos.to(q.dtype), sin.to(q.dtype)
            return rotate(q, c, s), rotate(k, c, s)

        return apply_rope
