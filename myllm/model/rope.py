"""Rotary position embedding: rotate queries and keys by their position (Su et al., 2021).

Each pair of dimensions (i, i + half) of a head rotates at its own frequency, so that positions enter a score
only by their distance. Four scalings change the frequencies for texts longer than those seen in training.
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
        dim: How many dimensions of a head are rotated; even.
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

    Whether a frequency is low or high depends on how many rotations its pair makes in the original context.
    """
    rotations = scaling.original_context * freq / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((rotations - low) / (high - low)).clamp(0, 1)
    return keep * freq + (1 - keep) * freq / scaling.factor


def yarn(freq: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """YaRN: like `llama3`, but the interpolation is linear in the index of the pair (Peng et al., 2023)."""
    half = len(freq)

    def pair(rotations: float) -> float:
        """The (fractional) index of the pair that makes this many rotations in the original context."""
        return half * math.log(scaling.original_context / (rotations * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(pair(scaling.beta_fast)), 0)
    high = min(math.ceil(pair(scaling.beta_slow)), 2 * half - 1)
    ramp = (torch.arange(half, dtype=freq.dtype) - low) / max(high - low, 0.001)
    divide = ramp.clamp(0, 1)
    return (1 - divide) * freq + divide * freq / scaling.factor


def dynamic(freq: Tensor, scaling: RopeScaling, length: Tensor) -> Tensor:
    """Dynamic NTK: a larger base once the text is longer than the original context.

    The slowest pair is divided by ``factor * length / original_context - (factor - 1)``, the fastest stays as
    it is, and those in between follow a geometric sequence.

    Args:
        freq: The frequencies at the original base, (half,).
        scaling: Holds the factor and the original context.
        length: The number of tokens, a scalar tensor, so that it need not leave the device.
    """
    stretch = scaling.factor * length.to(freq.dtype) / scaling.original_context - (scaling.factor - 1)
    exponents = torch.linspace(0, 1, len(freq), dtype=freq.dtype, device=freq.device)
    return freq / stretch.clamp(min=1) ** exponents


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + half) of the first dimensions of each head; the others are unchanged.

    Args:
        x: Queries or keys, (B, H, T, D).
        cos: Cosines of the angles, (B or 1, 1, T, half).
        sin: Their sines.

    Returns:
        (B, H, T, D).
    """
    half = cos.shape[-1]
    a, b, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class Rope(nn.Module):
    """Rotary position embedding with its scalings.

    The frequencies are a buffer on the model's device, in float64 whatever the model's dtype, since angles at
    large positions need it (float32 where a device has no float64).

    With dynamic NTK the frequencies depend on the length of the text so far. Keys in a cache keep the
    rotation that they had when they were stored, as in `transformers`: up to the original context a cache
    changes nothing; beyond it, decoding with a cache differs from computing the whole text again.

    Args:
        head_dim: D.
        theta: The base of the frequencies.
        scaling: How they are changed for long texts.
        fraction: The fraction of each head that is rotated.
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
        self.dim = int(head_dim * fraction)
        self.theta, self.scaling = theta, scaling
        self.scale = 1.0
        if scaling is not None and scaling.kind == "yarn":  # larger queries and keys: sharper weights
            self.scale = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1
        self.register_buffer("freq", torch.empty(0), persistent=False)
        self.to(self.freq.device)  # computes the frequencies; see `_apply`

    def frequencies(self, length: int = 0) -> Tensor:
        """The frequencies, (half,) float64; with dynamic NTK those for a text of `length` tokens."""
        freq, scaling = frequencies(self.dim, self.theta), self.scaling
        if scaling is None:
            return freq
        if scaling.kind == "dynamic":
            return dynamic(freq, scaling, torch.tensor(length))
        if scaling.kind == "yarn":
            return yarn(freq, scaling, self.theta)
        return linear(freq, scaling) if scaling.kind == "linear" else llama3(freq, scaling)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to another device; a change of its dtype must not round the frequencies."""
        device = fn(self.freq).device
        with torch.device("cpu"):  # on the meta device, arithmetic imports the compiler, for seconds
            freq = self.frequencies()
        exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.freq = freq.to(device, exact)
        return self

    def forward(self, positions: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The rotation of queries (B, H, T, D) and keys (B, K, T, D) at `positions`, (T,) or (B, T)."""
        freq = self.freq
        if self.scaling is not None and self.scaling.kind == "dynamic":
            freq = dynamic(freq, self.scaling, positions.max() + 1)
        angles = (positions[..., None] * freq).unsqueeze(-3)  # (B or 1, 1, T, half)
        cos = angles.cos() * self.scale
        sin = angles.sin() * self.scale

        def apply_rope(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            c, s = cos.to(q.dtype), sin.to(q.dtype)
            return rotate(q, c, s), rotate(k, c, s)

        return apply_rope
