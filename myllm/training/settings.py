"""The settings of a training run."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from myllm.checks import LARGEST, check
from myllm.files import UserError
from myllm.training.schedule import Kind

Precision = Literal["fp32", "bf16"]
OptimizerName = Literal["adamw", "muon"]

BOOKKEEPING = {
    *("evaluate_every", "patience", "checkpoint_every", "keep_last", "sharded"),
    *("recompute", "accumulation"),
}
"""Settings that may differ when a run is resumed; they change how, not what."""

RANGES = {
    **dict.fromkeys(("warmup", "evaluate_every", "patience", "checkpoint_every", "seed"), (0, LARGEST)),
    **dict.fromkeys(("floor", "decay", "ema"), (0, 1)),
    "betas": (0, 1 - 1e-9),
    "weight_decay": (0, 1e30),
    "clip": (1e-30, math.inf),
}
"""The smallest and the largest value of a setting, where they differ from those of `myllm.checks.USUAL`."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; "update" means one change of all weights.

    Attributes:
        steps: The number of updates.
        lr: The peak learning rate.
        optimizer: AdamW for all parameters, or Muon for the matrices inside the layers.
        weight_decay: That of matrices; embeddings, norms and biases do not decay.
        betas: Decay rates of AdamW's averages.
        eps: Added to AdamW's denominator.
        schedule: How the learning rate falls after the warm-up; see myllm.training.schedule.rate.
        warmup: Updates over which the learning rate rises.
        floor: The final learning rate as a share of the peak.
        decay: The share of all updates over which the schedule wsd falls.
        clip: The largest global norm of the gradient; inf does not clip.
        accumulation: Micro-batches whose gradients are summed for one update.
        precision: fp32; or bf16: weights are held in bfloat16, and the optimizer updates fp32 master weights.
        compile: Compile each layer.
        recompute: Keep only the inputs of the layers, and compute the rest again in the backward pass.
        ema: Decay of an exponential moving average of the weights; 0 keeps none.
        evaluate_every: Updates between validations; 0 validates at the end only.
        patience: Stop after this many validations in a row without a new best; 0 never stops early.
        checkpoint_every: Updates between checkpoints; 0 writes one at the end only.
        keep_last: Checkpoints to keep, besides the one with the best validation loss.
        sharded: Under FSDP, each process writes its own part of a checkpoint, and nothing is gathered.
        seed: Seeds PyTorch's generator when training begins.

    Raises:
        UserError: A value of another type or out of range, or settings that exclude each other.
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
        for one in fields(self):
            values = self.betas if one.name == "betas" else (getattr(self, one.name),)
            kinds = dict.fromkeys(get_args(one.type) or (one.type,))
            for value in values:
                check(one.name, value, *kinds, bounds=RANGES.get(one.name))
        if self.warmup >= self.steps:
            raise UserError(f"A warm-up of {self.warmup} updates needs more than {self.steps} in all.")
        if self.patience and not self.evaluate_every:
            raise UserError("patience counts validations; set evaluate_every, too.")
