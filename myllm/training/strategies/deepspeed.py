"""DeepSpeed's ZeRO: optimizer (1), gradients (2) and weights (3) are sharded over the processes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from myllm.files import UserError
from myllm.training.optimizer import Muon
from myllm.training.step import Step
from myllm.training.strategies.ddp import Distributed


class ZeRO(Distributed):
    """A stage of ZeRO (Rajbhandari et al., 2020) by the library DeepSpeed; needs the extra ``distributed``.

    Args:
        precision: ``fp32``, or ``bf16`` with fp32 masters.
        timeout: See `Distributed`.
        stage: 1, 2 or 3.
    """

    casts = False

    def __init__(self, precision: str = "fp32", timeout: float = 600.0, stage: int = 1) -> None:
        super().__init__(precision, timeout)
        self.stage = stage

    def setup(self, step: Step, optimizer: Optimizer) -> nn.Module:
        """Hand the step and its optimizer to an engine of DeepSpeed's."""
        if isinstance(optimizer, Muon):
            raise UserError("Muon needs whole matrices, which ZeRO does not have; use AdamW or DDP.")
        try:
            import deepspeed  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
        except ImportError as error:
            raise UserError(
                "DeepSpeed is not installed; run pip install 'myllm-course[distributed]'."
            ) from error
        self.align(step)
        super().setup(step, optimizer)
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,  # the loop forms batches; this number only has to be there
            "zero_optimization": {"stage": self.stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": self.precision == "bf16"},
        }
        self.engine: Any = deepspeed.initialize(  # pyright: ignore[reportUnknownMemberType]
            model=step, optimizer=optimizer, config=settings, dist_init_required=False
        )[0]
        return self.engine

    def accumulate(self, last: bool) -> Any:
        """Tell the engine which micro-batch ends the update."""
        self.engine.set_gradient_accumulation_boundary(last)
        return super().accumulate(last)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch, averaged over processes."""
        self.engine.backward(loss)

    def step(self, max_norm: float) -> Tensor:
        """Clip, update, clear; returns the norm before."""
        self.engine.optimizer.clip_grad = max_norm
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm())

    def average(self, decay: float) -> None:
        """Refused: the masters belong to the engine."""
        raise UserError("A moving average of the weights (ema) is not possible with ZeRO; use DDP or FSDP.")

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, gathered by the engine."""
        from deepspeed.utils import (  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
        )

        weights = {name: b.detach().clone() for name, b in self._buffers().items()}
        optimizer: dict[str, dict[str, Tensor]] = {}
        for name, p in self.model.named_parameters():
            weights[name] = safe_get_full_fp32_param(p).clone()
            moments = {key: safe_get_full_optimizer_state(p, key) for key in ("exp_avg", "exp_avg_sq")}
            if moments["exp_avg"] is not None:
                steps = torch.tensor(float(self.engine.global_steps))
                optimizer[name] = {"step": steps, **{key: x.clone() for key, x in moments.items()}}
        return {"model": weights, "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what any strategy saved."""
        from deepspeed.utils import (  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        for name, p in self.model.named_parameters():
            safe_set_full_fp32_param(p, state["model"][name].to(p.device))
            for key in ("exp_avg", "exp_avg_sq"):
                if name in state["optimizer"]:
                    safe_set_full_optimizer_state(p, state["optimizer"][name][key].to(p.device), key)
