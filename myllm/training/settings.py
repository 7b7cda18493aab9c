"""The settings of a training run."""

from dataclasses import dataclass
from typing import Literal, get_args

from myllm.files import UserError
from myllm.training.schedule import Kind

Precision = Literal["fp32", "bf16"]
OptimizerName = Literal["adamw", "muon"]

BOOKKEEPING = {
    "evaluate_every",
    "patience",
    "checkpoint_every",
    "keep_last",
    "recompute",
    "accumulation",
    "sharded",
}
"""Settings that may differ when a run is resumed; they change how, not what."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; "update" means one change of all weights.

    Attributes:
        steps: Updates of the weights.
        lr: The peak learning rate.
        optimizer: AdamW for all parameters, or Muon for the matrices inside the layers.
        weight_decay: Of matrices; embeddings, norms and biases do not decay.
        betas: Decay rates of AdamW's averages.
        eps: Added to AdamW's denominator.
        schedule: How the learning rate falls after the warm-up; see myllm.training.schedule.rate.
        warmup: Updates over which the learning rate rises.
        floor: The last learning rate as a share of the peak.
        decay: The share of all updates over which the schedule wsd falls.
        clip: The largest norm of the gradient of all parameters together; inf does not clip.
        accumulation: Micro-batches whose gradients are summed for one update.
        precision: fp32, or bf16: weights are held in bfloat16, the optimizer updates fp32 masters.
        compile: Compile each layer.
        recompute: Keep only the inputs of the layers, and compute the rest again in the backward pass.
        ema: Decay of a moving average of the weights; 0 keeps none.
        evaluate_every: Updates between validations; 0 validates at the end only.
        patience: Stop after so many validations in a row without a new best one; 0 never stops early.
        checkpoint_every: Updates between checkpoints; 0 writes one at the end only.
        keep_last: Checkpoints to keep, besides the one with the best validation.
        sharded: Under FSDP, each process writes its own part of a checkpoint, and nothing is gathered.
        seed: Of PyTorch's generator when training begins.

    Raises:
        UserError: A value out of range, or settings that exclude each other.
    """

    steps: int
    lr: float = 1e-3
    optimizer: OptimizerName = "adamw"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    schedule: Kind = "cosine"
    warmup: int = 0
    floor: float = 0.1
    decay: float = 0.2
    clip: float = 1.0
    accumulation: int = 1
    precision: Precision = "fp32"
    compile: bool = False
    recompute: bool = False
    ema: float = 0.0
    evaluate_every: int = 0
    patience: int = 0
    checkpoint_every: int = 0
    keep_last: int = 2
    sharded: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"optimizer": OptimizerName, "schedule": Kind, "precision": Precision}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                found, known = getattr(self, name), ", ".join(get_args(kind))
                raise UserError(f"{name} must be one of {known}, not {found!r}.")
        smallest = {"steps": 1, "accumulation": 1, "keep_last": 1} | dict.fromkeys(
            ("warmup", "evaluate_every", "patience", "checkpoint_every", "weight_decay"), 0
        )
        for name, least in smallest.items():
            if not getattr(self, name) >= least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        for name in ("lr", "eps", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("floor", "decay", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, not {getattr(self, name)}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas must be at least 0 and less than 1, not {self.betas}.")
        if self.warmup >= self.steps:
            raise UserError(f"A warm-up of {self.warmup} updates needs more than {self.steps} in all.")
        if self.patience and not self.evaluate_every:
            raise UserError("patience counts validations; set evaluate_every, too.")
