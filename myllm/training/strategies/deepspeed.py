"""DeepSpeed's ZeRO: optimizer state (1), gradients (2) and weights (3) are sharded over the processes."""

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from myllm.files import UserError
from myllm.training.optimizer import Muon
from myllm.training.step import Step
from myllm.training.strategies.ddp import Distributed

MOMENTS = "exp_avg", "exp_avg_sq"


class ZeRO(Distributed):
    """A stage of ZeRO (Rajbhandari et al., 2020), run by DeepSpeed; needs the extra ``distributed``.

    Args:
        precision: ``fp32``, or ``bf16`` with fp32 master weights.
        timeout: See `Distributed`.
        stage: 1, 2 or 3.
    """

    casts = False

    def __init__(self, precision: str = "fp32", timeout: float = 600.0, stage: int = 1) -> None:
        super().__init__(precision, timeout)
        self.stage = stage

    def setup(self, step: Step, optimizer: Optimizer) -> nn.Module:
        """Hand the step and its optimizer to a DeepSpeed engine."""
        if isinstance(optimizer, Muon):
            raise UserError("Muon needs whole matrices, which ZeRO does not have; use AdamW or DDP.")
        try:
            deepspeed: Any = import_module("deepspeed")
        except ImportError as error:
            problem = "DeepSpeed is not installed; run pip install 'myllm-course[distributed]'."
            raise UserError(problem) from error
        # On a CPU it would spend a minute compiling an operator for sums, behind a lock that a killed process
        # never releases; gloo sums without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # About deprecated names that DeepSpeed still uses.
        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
        os.environ.setdefault("LOCAL_RANK", str(self.rank))  # torchrun sets it
        self.align(step)
        super().setup(step, optimizer)
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,  # required; the loop forms the batches
            "zero_optimization": {"stage": self.stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": self.precision == "bf16"},
        }
        self.engine: Any = deepspeed.initialize(
            model=step, optimizer=optimizer, config=settings, dist_init_required=False
        )[0]
        zero = self.engine.optimizer
        zero.check_grad_overflow = True  # a gradient that is not finite updates nothing
        shards = (
            zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        )
        for p in shards:  # create the optimizer's state now, so that it can be loaded
            zero.optimizer.state[p] = {key: torch.zeros_like(p) for key in MOMENTS}
            zero.optimizer.state[p]["step"] = torch.zeros((), device=p.device)
        if self.stage < 3:
            zero._lazy_init_hp_params_optimizer_state()
        return self.engine

    def accumulate(self, last: bool) -> Any:
        """Tell the engine which micro-batch ends the update."""
        self.engine.set_gradient_accumulation_boundary(last)
        return super().accumulate(last)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch, averaged over processes."""
        self.engine.backward(loss)

    def step(self, max_norm: float) -> Tensor:
        """Clip, update, clear the gradients; return the unclipped norm."""
        self.engine.optimizer.clip_grad = max_norm
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm())

    def average(self, decay: float) -> None:
        """Raise an error: the master weights belong to the engine."""
        raise UserError("A moving average of the weights (ema) is not possible with ZeRO; use DDP or FSDP.")

    def state_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """Weights and optimizer state, always whole: gathered by the engine."""
        tools = _tools()
        weights = {name: b.detach().clone() for name, b in self.buffers().items()}
        optimizer: dict[str, dict[str, Tensor]] = {}
        step = next(iter(self.engine.optimizer.optimizer.state.values()))["step"]
        for name, p in self.model.named_parameters():
            weights[name] = tools.safe_get_full_fp32_param(p).clone()
            found = {key: tools.safe_get_full_optimizer_state(p, key).clone() for key in MOMENTS}
            optimizer[name] = {"step": step.clone(), **found} if step else {}
        return {"model": weights, "optimizer": {name: state for name, state in optimizer.items() if state}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what any strategy saved; raises as `Single.load_state_dict` does."""
        tools, engine = _tools(), self.engine.optimizer
        self.load_buffers(state["model"])
        for name, p in self.model.named_parameters():
            tools.safe_set_full_fp32_param(p, state["model"][name].to(p.device))
            for key in MOMENTS if name in state["optimizer"] else ():
                tools.safe_set_full_optimizer_state(p, state["optimizer"][name][key].to(p.device), key)
        for moments in state["optimizer"].values():
            for mine in engine.optimizer.state.values():
                mine["step"].copy_(moments["step"])
        if self.stage < 3:
            engine.update_lp_params()
        else:
            for group in range(len(engine.fp16_groups)):
                engine._reassign_or_swap_out_partitioned_parameters(group)


def _tools() -> Any:
    """DeepSpeed's functions that read and write whole parameters."""
    return import_module("deepspeed.utils")
