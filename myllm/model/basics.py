"""What functions that call a model need: its device, its context, and a dtype precise enough for sums."""

from typing import Any

import torch
from torch import Tensor, nn


def device_of(model: Any) -> torch.device:
    """The device of a model's parameters; the CPU for a plain function."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def block_size_of(model: Any) -> int | None:
    """The context length of a model in tokens, or None if its configuration does not state one."""
    return getattr(getattr(model, "config", None), "block_size", None)


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 if its dtype is smaller: sums and exponentials in 16 bits would lose precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
