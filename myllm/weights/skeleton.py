"""A model without its numbers: all shapes, no memory."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from myllm.config import ModelConfig
from myllm.model.transformer import Transformer


class _NothingDrawn(TorchFunctionMode):
    """Leaves normal draws out: to skip them PyTorch would first import for more than a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(config: ModelConfig) -> Transformer:
    """The model of a configuration on PyTorch's meta device, to be given its weights."""
    with torch.device("meta"), _NothingDrawn():
        return Transformer(config)
