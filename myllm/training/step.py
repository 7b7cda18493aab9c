"""What a training loop works with: an objective, the step that computes its loss, and a strategy to run it.

The loss is computed inside one module. A strategy wraps `Step`, not the model, so that the hooks of
DistributedDataParallel and FSDP see every forward pass; calling a method of the model around the wrapper
would silently lose gradients (DDP) or fail (FSDP).

The loop sums the objective's own unit (tokens, pairs, rows) over micro-batches and ranks first, and divides
once: accumulation, padding and ranks then give the same gradient by construction.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


class Loss(NamedTuple):
    """The result of an objective on one micro-batch."""

    total: Tensor
    """The loss summed over the objective's unit, a scalar; not a mean."""
    metrics: dict[str, Tensor]
    """Other quantities, also as sums, to be divided by the same count."""


class Objective(Protocol):
    """What is learned: batches, how much each counts, and their loss."""

    def share(self, rank: int, world: int) -> None:
        """From now on, give only this process's part; all parts together are what one process would get."""
        ...

    def batches(self, model: nn.Module) -> Iterator[Any]:
        """An endless stream of micro-batches; reinforcement learning generates them with `model`.

        A function in place of a micro-batch is called with the model while this process holds all of its
        weights; then the next micro-batch is requested.
        """
        ...

    def count(self, batch: Any) -> int:
        """How many units (tokens, pairs, rows) a micro-batch has a loss for."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        """The loss of a micro-batch; it calls `model` itself, never one of its methods."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position of `batches`, in plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from another objective's position."""
        ...


class Step(nn.Module):
    """The one module that a strategy wraps: its forward pass maps a micro-batch to its `Loss`.

    A function in place of a micro-batch is called with the model. So evaluation and sampling, too, enter
    through the wrapper, which may have to gather weights for them.

    Args:
        model: The model.
        objective: What is learned.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any) -> Any:
        """The loss of a micro-batch, or what a function of the model returns."""
        if callable(batch):
            return batch(self.model)
        return self.objective.loss(self.model, batch)


class Strategy(Protocol):
    """How a step is spread over processes.

    A loop uses it like this, with counts summed before the first backward pass::

        step = strategy.setup(Step(model, objective), optimizer)
        count = strategy.sum(sum(map(objective.count, micro_batches)))
        for i, batch in enumerate(micro_batches):
            with strategy.accumulate(last=i == len(micro_batches) - 1):
                loss = step(batch)
                strategy.backward(loss.total * strategy.world / count)
        norm = strategy.step(max_norm)

    The factor ``world`` undoes the averaging of gradients over ranks by DDP and FSDP.
    """

    rank: int
    """The number of this process, from 0."""
    world: int
    """How many processes there are."""

    def setup(self, step: Step, optimizer: Optimizer) -> nn.Module:
        """Wrap the step for this strategy; the result is called with a micro-batch."""
        ...

    def gathered(self) -> AbstractContextManager[Any]:
        """A context in which a process may call the model in the step on its own, as often as it likes."""
        ...

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """A context around forward *and* backward pass; gradients are synchronized only if it is the last.

        DDP decides in the forward pass whether the backward pass communicates.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch."""
        ...

    def step(self, max_norm: float) -> Tensor:
        """Clip by the global norm over all ranks, update, clear the gradients; return the unclipped norm."""
        ...

    def sum(self, x: Any) -> Any:
        """The sum of a number or a tensor over all ranks."""
        ...

    def average(self, decay: float) -> None:
        """Update the moving average of the weights."""
        ...

    def state_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """Weights and optimizer state, whole or as this rank holds them, for any number of ranks to load."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what any number of ranks saved."""
        ...
