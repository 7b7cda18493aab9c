"""Fully sharded data parallel (FSDP2): weights, gradients and optimizer state are sharded."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from myllm.files import UserError
from myllm.training.optimizer import Muon
from myllm.training.step import Step
from myllm.training.strategies.ddp import Distributed


class FSDP(Distributed):
    """Shard all parameters over the processes; each layer is gathered when it is computed.

    With ``bf16`` a layer is gathered and computed in bfloat16; the shards, which the optimizer updates, stay
    in fp32 and are the master weights.
    """

    casts, shards = False, True

    def setup(self, step: Step, optimizer: Optimizer) -> nn.Module:
        """Shard each layer, and everything else as one group, so that tied weights stay tied."""
        if isinstance(optimizer, Muon):
            raise UserError("Muon needs whole matrices, which FSDP does not have; use AdamW or DDP.")
        self.align(step)
        names = {p: name for name, p in step.named_parameters()}
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        options: dict[str, Any] = {"mp_policy": half} if self.precision == "bf16" else {}
        for module in reversed([*step.modules()]):  # inner lists before the layers that hold them
            for layer in module if isinstance(module, nn.ModuleList) else ():
                fully_shard(layer, **options)
        fully_shard(step, **options)
        sharded = dict(step.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [sharded[names[p]] for p in group["params"]]
        self.wrapped = cast(FSDPModule, step)
        return super().setup(step, optimizer)

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Gather the weights of all layers, so that no call waits for another process."""
        layers = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for layer in layers:
            layer.set_reshard_after_forward(False, recurse=False)
            layer.unshard()
        try:
            yield
        finally:
            for layer in layers:
                layer.set_reshard_after_forward(layer is not self.wrapped, recurse=False)  # as it was
                layer.reshard()

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """Reduce gradients only in the last backward pass."""
        self.wrapped.set_requires_gradient_sync(last)
        return nullcontext()

    def clip(self, max_norm: float) -> Tensor:
        """Clip by the norm over the shards of all processes."""
        norm = super().clip(max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def whole(self, x: Tensor) -> Tensor:
        """Gather a sharded tensor; every process must call it."""
        return x.full_tensor() if isinstance(x, DTensor) else x

    def part(self, x: Tensor, like: Tensor) -> Tensor:
        """The shard of this process."""
        if isinstance(like, DTensor):
            return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)
        return super().part(x, like)
