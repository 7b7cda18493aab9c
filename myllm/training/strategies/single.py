"""Training in one process; the other strategies override what differs for them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from myllm.files import UserError
from myllm.training.step import Step


class Single:
    """Train in this process alone.

    With ``bf16`` the model's weights are held in bfloat16, so that no product casts them again. The optimizer
    updates master weights in fp32, since an update by less than 1/256 of a bfloat16 weight may be lost in
    rounding; each step ends by copying the master weights into the model.

    Args:
        precision: ``fp32`` or ``bf16``.
    """

    rank, world = 0, 1
    casts = True  # whether `bf16` is done here; some libraries do it themselves
    shards = False  # whether a process can save its own part of the state

    def __init__(self, precision: str = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise UserError(f"The precision is fp32 or bf16, not {precision!r}.")
        self.precision = precision

    def setup(self, step: Step, optimizer: Optimizer) -> nn.Module:
        """Remember what is trained, and return the step, which the loop calls."""
        self.model, self.optimizer = step.model, optimizer
        self.masters: dict[nn.Parameter, nn.Parameter] = {
            p: p for group in optimizer.param_groups for p in group["params"]
        }
        if self.precision == "bf16" and self.casts:
            self.masters = {p: nn.Parameter(p.detach().clone().float()) for p in self.masters}
            for p in step.model.parameters():
                p.data = p.data.bfloat16()
            for group in optimizer.param_groups:
                group["params"] = [self.masters[p] for p in group["params"]]
        return step

    def gathered(self) -> AbstractContextManager[Any]:
        """A context in which a process may call the model on its own; here it always may."""
        return nullcontext()

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """A context for forward and backward pass; one process has nothing to synchronize."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch."""
        loss.backward()

    @torch.no_grad()
    def step(self, max_norm: float) -> Tensor:
        """Clip by the global norm, update, clear the gradients; return the unclipped norm.

        A gradient that is not finite updates nothing.
        """
        for p, master in self.masters.items():
            if master is not p and p.grad is not None:
                master.grad, p.grad = p.grad.float(), None
        norm = self.clip(max_norm)
        if norm.isfinite():
            self.optimizer.step()
            self.copy_masters()
        self.optimizer.zero_grad()
        return norm

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients to a global norm of at most `max_norm`; return the unclipped norm."""
        return nn.utils.clip_grad_norm_(self.masters.values(), max_norm)

    def copy_masters(self) -> None:
        """Round the master weights into the model's weights, where the two are separate."""
        for p, master in self.masters.items():
            if master is not p:
                p.copy_(master)

    def sum(self, x: Any) -> Any:
        """The sum over all ranks of a number or a tensor."""
        return x

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Update the moving average of the weights, which is kept beside the optimizer's state."""
        for p in self.masters.values():
            state = self.optimizer.state.get(p)
            if state:  # a parameter that was never updated is its own average
                state.setdefault("average", p.detach().clone()).lerp_(p, 1 - decay)

    def whole(self, x: Tensor) -> Tensor:
        """The whole of a tensor that may be sharded."""
        return x

    def part(self, x: Tensor, like: Tensor) -> Tensor:
        """What this process keeps of a whole tensor that is sharded as `like` is."""
        return x.to(like.device, copy=True)

    def state_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """Weights and optimizer state by parameter name, in the precision of the master weights.

        Args:
            whole: Whether to gather what is sharded; otherwise it stays sharded, as DTensors.
        """
        gather = self.whole if whole else torch.nn.Identity()
        weights: dict[str, Tensor] = {name: b.detach().clone() for name, b in self.buffers().items()}
        optimizer: dict[str, dict[str, Tensor]] = {}
        for name, p in self.model.named_parameters():
            master = self.masters.get(p, p)
            weights[name] = gather(master.detach()).clone()
            state = self.optimizer.state.get(master, {})
            optimizer[name] = {key: gather(torch.as_tensor(x)).clone() for key, x in state.items()}
        return {"model": weights, "optimizer": {name: state for name, state in optimizer.items() if state}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what any strategy with any number of ranks saved.

        Raises:
            UserError: The state belongs to another model.
        """
        weights = state["model"]
        self.load_buffers(weights)
        for name, p in self.model.named_parameters():
            master = self.masters.get(p, p)
            master.copy_(self.part(weights[name], master))
            moments = state["optimizer"].get(name, {})
            if moments:
                self.optimizer.state[master] = {
                    key: self.part(x, master) if x.ndim else x.to(master.device, copy=True)
                    for key, x in moments.items()
                }
        self.copy_masters()

    def load_buffers(self, weights: Mapping[str, Tensor]) -> None:
        """Load the buffers from a state's weights, which must be those of this model."""
        parameters, buffers = dict(self.model.named_parameters()), self.buffers()
        shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in parameters.items()}
        found = {name: tuple(x.shape) for name, x in weights.items() if name not in buffers}
        if shapes != found or not buffers.keys() <= weights.keys():
            raise UserError("This checkpoint is of another model; train the model that it was made with.")
        for name, b in buffers.items():
            b.copy_(weights[name])

    def buffers(self) -> dict[str, Tensor]:
        """The buffers that a state dict holds."""
        saved = self.model.state_dict()
        return {name: b for name, b in self.model.named_buffers() if name in saved}
