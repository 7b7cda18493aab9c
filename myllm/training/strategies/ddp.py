"""DistributedDataParallel: each process holds the whole model, and gradients are averaged over processes."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from myllm.files import UserError
from myllm.training.step import Step
from myllm.training.strategies.single import Single


class Distributed(Single):
    """The base of strategies with several processes: joins them, and sums over them.

    Args:
        precision: ``fp32`` or ``bf16``.
        timeout: Seconds after which a process that does not answer is given up on.
    """

    def __init__(self, precision: str = "fp32", timeout: float = 600.0) -> None:
        super().__init__(precision)
        if not dist.is_initialized():
            if "RANK" not in os.environ:
                raise UserError(
                    "This strategy needs several processes: start them with torchrun --nproc-per-node N."
                )
            gpu = torch.cuda.is_available()
            if gpu:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout))
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @torch.no_grad()
    def align(self, step: Step) -> None:
        """Give all ranks the weights and buffers of rank 0."""
        for x in [*step.parameters(), *step.buffers()]:
            dist.broadcast(x, 0)

    def sum(self, x: Any) -> Any:
        """The sum over all ranks of a number or a tensor."""
        total = torch.as_tensor(x, dtype=torch.float64)
        total = total.cuda() if dist.get_backend() == "nccl" else total.clone()
        dist.all_reduce(total)
        return total.cpu() if isinstance(x, Tensor) else total.item()


class DDP(Distributed):
    """Average the gradients of all processes, each of which holds the whole model."""

    def setup(self, step: Step, optimizer: Optimizer) -> nn.Module:
        """Wrap the step."""
        self.align(step)
        super().setup(step, optimizer)
        self.wrapped = DistributedDataParallel(step, gradient_as_bucket_view=True)
        return self.wrapped

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """Average only in the last backward pass; the forward pass decides this, so it must be inside."""
        return nullcontext() if last else self.wrapped.no_sync()
