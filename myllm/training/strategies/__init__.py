"""Strategies: how a training step is spread over processes; `make_strategy` chooses one by name."""

from importlib import import_module
from typing import Any

from myllm.files import UserError
from myllm.training.settings import Precision
from myllm.training.step import Strategy

STRATEGIES: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> module, class, options
    "single": ("single", "Single", {}),
    "ddp": ("ddp", "DDP", {}),
    "fsdp": ("fsdp", "FSDP", {}),
    "zero1": ("deepspeed", "ZeRO", {"stage": 1}),
    "zero2": ("deepspeed", "ZeRO", {"stage": 2}),
    "zero3": ("deepspeed", "ZeRO", {"stage": 3}),
}


def make_strategy(name: str, precision: Precision = "fp32", **options: Any) -> Strategy:
    """A strategy by name.

    Args:
        name: ``single``; ``ddp`` (each process holds the model, gradients are averaged); ``fsdp`` (weights,
            gradients and optimizer state are sharded); ``zero1``, ``zero2``, ``zero3`` (the stages of
            DeepSpeed's ZeRO, extra ``distributed``). All but the first need processes that torchrun started.
        precision: ``fp32``; or ``bf16``: bfloat16 weights, and fp32 master weights in the optimizer.
        options: ``timeout``, in seconds, for those with several processes.

    Raises:
        UserError: No such strategy, or no processes to spread over.
    """
    if name not in STRATEGIES:
        raise UserError(f"There is no strategy {name!r}; choose one of {', '.join(STRATEGIES)}.")
    module, kind, fixed = STRATEGIES[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)(precision, **fixed, **options)
