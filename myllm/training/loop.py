"""The training loop: one for every objective, every strategy and every precision."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from myllm.files import StrPath, UserError, expand
from myllm.training import checkpoint
from myllm.training.schedule import Kind, rate
from myllm.training.optimizer import make_optimizer
from myllm.training.step import Objective, Step, Strategy
from myllm.training.strategies import Precision, make_strategy

Record = dict[str, float]
"""What a step measured: step, loss, norm, rate, seconds, units a second, metrics, and at times validation."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run.

    Raises:
        UserError: A number out of range, or settings that exclude each other.
    """

    steps: int
    """Updates of the weights."""
    lr: float = 1e-3
    """The peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all parameters, or Muon for the matrices inside the layers."""
    weight_decay: float = 0.1
    """Of matrices; embeddings, norms and biases do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's averages."""
    eps: float = 1e-8
    """Added to AdamW's denominator."""
    schedule: Kind = "cosine"
    """How the learning rate falls after the warm-up; see myllm.training.schedule.rate."""
    warmup: int = 0
    """Updates over which the learning rate rises."""
    floor: float = 0.1
    """The last learning rate as a share of the peak."""
    decay: float = 0.2
    """The share of all updates over which the schedule wsd falls."""
    clip: float = 1.0
    """The largest norm of the gradient of all parameters together; inf does not clip."""
    accumulation: int = 1
    """Micro-batches whose gradients are summed for one update."""
    precision: Precision = "fp32"
    """fp32, or bf16: weights are held in bfloat16, the optimizer updates fp32 masters."""
    compile: bool = False
    """Compile each layer."""
    recompute: bool = False
    """Keep only the inputs of the layers, and compute the rest again in the backward pass."""
    ema: float = 0.0
    """Decay of a moving average of the weights; 0 keeps none."""
    evaluate_every: int = 0
    """Updates between validations; 0 validates at the end only."""
    patience: int = 0
    """Stop after so many validations in a row without a new best one; 0 never stops early."""
    checkpoint_every: int = 0
    """Updates between checkpoints; 0 writes one at the end only."""
    keep_last: int = 2
    """Checkpoints to keep, besides the one with the best validation."""
    seed: int = 0
    """Of PyTorch's generator when training begins."""

    def __post_init__(self) -> None:
        smallest = {"steps": 1, "accumulation": 1, "keep_last": 1} | dict.fromkeys(
            ("warmup", "evaluate_every", "patience", "checkpoint_every", "weight_decay"), 0
        )
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        for name in ("lr", "eps", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("floor", "decay", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, not {getattr(self, name)}.")
        if self.warmup >= self.steps:
            raise UserError(f"A warm-up of {self.warmup} updates needs more than {self.steps} in all.")


BOOKKEEPING = {"evaluate_every", "patience", "checkpoint_every", "keep_last"}
"""Settings that may differ when a run is resumed; they change no weight."""


class Trainer:
    """Train a model on an objective.

    One update works so: take the micro-batches, add up what they count over micro-batches and processes, then
    for each of them add the gradient of its loss divided by that count, clip, update. So how a batch is split
    never changes the gradient.

    Args:
        model: Any module that the objective can call.
        objective: What is learned.
        config: The settings.
        strategy: How it is spread over processes, by name or as an object.
        validation: Batches that measure progress, the same each time; each process gives its own share.
        folder: Where checkpoints are written, and looked for when `fit` begins; None writes none.
        callbacks: Called with the trainer and the record of each update.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainConfig,
        *,
        strategy: str | Strategy = "single",
        validation: Iterable[Any] = (),
        folder: StrPath | None = None,
        callbacks: Sequence[Callable[["Trainer", Record], None]] = (),
    ) -> None:
        self.objective, self.config, self.callbacks = objective, config, callbacks
        self.folder = None if folder is None else expand(folder)
        self.validation = validation
        self.strategy = make_strategy(strategy, config.precision) if isinstance(strategy, str) else strategy
        objective.share(self.strategy.rank, self.strategy.world)
        self.model = model
        for layer in _layers(model):
            if config.recompute:
                layer.forward = partial(recompute, layer.forward, use_reentrant=False)
            if config.compile:
                layer.compile()
        self.optimizer = make_optimizer(
            model, config.optimizer, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas, eps=config.eps
        )
        self.step = self.strategy.setup(Step(model, objective), self.optimizer)
        self.done = 0  # updates so far
        self.best, self.best_step, self.waited = math.inf, None, 0
        self.notes: list[str] = []  # what went wrong on the way and was put right

    def fit(self) -> Record:
        """Train to the end, or go on where the newest checkpoint in the folder stands.

        Ctrl-C and SIGTERM end the update at hand, write a checkpoint and raise KeyboardInterrupt.

        Returns:
            The last record.

        Raises:
            UserError: A loss that is not finite, a checkpoint of another run, or a process that was lost.
        """
        torch.manual_seed(self.config.seed)
        self.resume()
        record: Record = {}
        batches = self.objective.batches(self.model)
        with _stop_signals() as received:
            while self.done < self.config.steps and not self._exhausted():
                record = self.update(batches, bool(received))
                self.done += 1
                stopping = record.pop("stopping") > 0
                last = stopping or self.done == self.config.steps
                if not stopping and (last or self._due(self.config.evaluate_every)):
                    record |= self.validate()
                for callback in self.callbacks:
                    callback(self, record)
                if last or self._exhausted() or self._due(self.config.checkpoint_every):
                    self.save()
                if stopping:
                    raise KeyboardInterrupt(f"stopped after update {self.done}; run again to go on")
        return record

    def update(self, batches: Iterator[Any], stopping: bool = False) -> Record:
        """One update of the weights."""
        c, strategy = self.config, self.strategy
        start, where = time.perf_counter(), self.objective.state_dict()
        share = rate(
            self.done, c.steps, c.schedule, warmup=c.warmup, floor=c.floor, decay=c.decay
        )
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr * share
        self.step.train()
        micro_batches = [next(batches) for _ in range(c.accumulation)]
        count = strategy.sum(sum(map(self.objective.count, micro_batches)))
        if count == 0:
            raise UserError(f"Nothing in the batch of update {self.done} has a loss; check masks and targets.")
        sums: dict[str, Any] = {"loss": 0.0}
        for i, batch in enumerate(micro_batches):
            with strategy.accumulate(last=i == len(micro_batches) - 1):
                loss = self.step(batch)
                strategy.backward(loss.total * strategy.world / count)
            for name, value in {"loss": loss.total, **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        norm = float(strategy.step(c.clip))
        sums = self._sums(sums | {"stopping": float(stopping)})
        record = {name: value / count for name, value in sums.items()}
        if not math.isfinite(record["loss"] + norm):
            raise UserError(
                f"The loss was {record['loss']} and the gradient's norm {norm} in update {self.done}, in the batch at "
                f"{where}; nothing was updated. {self._advice()}"
            )
        if c.ema:
            strategy.average(c.ema)
        seconds = time.perf_counter() - start
        return {"step": self.done, **record, "norm": norm, "rate": c.lr * share, "seconds": seconds, "count": count}

    @torch.no_grad()
    def validate(self) -> Record:
        """The mean loss over the validation batches; remembers whether it is the best so far."""
        self.step.eval()
        total, count = 0.0, 0
        for batch in self.validation:
            total += float(self.step(batch).total)
            count += self.objective.count(batch)
        total, count = self._sums({"total": total, "count": float(count)}).values()
        if count == 0:
            return {}
        loss = total / count
        if loss < self.best:
            self.best, self.best_step, self.waited = loss, self.done, 0
        else:
            self.waited += 1
        return {"validation": loss}

    @torch.no_grad()
    def call(self, function: Callable[[nn.Module], Any]) -> Any:
        """Call a function with the model, under any strategy; every process must call it."""
        self.step.eval()
        return self.step(function)

    def save(self) -> None:
        """Write a checkpoint, and delete old ones."""
        if self.folder is None:
            return
        progress = {"step": self.done, "best": self.best, "best_step": self.best_step, "waited": self.waited}
        tree = {
            **self.strategy.state_dict(),
            "config": asdict(self.config),
            "progress": progress,
            "objective": self.objective.state_dict(),
            "rng": {str(self.strategy.rank): checkpoint.rng_state()},
        }
        if self.strategy.rank:  # rank 0 writes what is the same everywhere
            tree = {"rng": tree["rng"]}
        checkpoint.write(self.folder, self.done, tree, self.strategy)
        if self.strategy.rank == 0:
            checkpoint.prune(self.folder, self.config.keep_last, self.best_step)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint in the folder, if there is one."""
        state, problems = checkpoint.latest(self.folder) if self.folder else (None, [])
        self.notes += [f"{problem} An earlier one is used." for problem in problems]
        if state is None:
            return
        for name, value in asdict(self.config).items():
            old = state["config"].get(name)
            old = tuple(old) if isinstance(old, list) else old  # pyright: ignore[reportUnknownArgumentType]
            if old != value and name not in BOOKKEEPING:
                raise UserError(
                    f"The run in {self.folder} has {name} {old}, not {value}; keep it, or train in another folder."
                )
        self.strategy.load_state_dict(state)
        self.objective.load_state_dict(state["objective"])
        progress = state["progress"]
        self.done, self.waited = progress["step"], progress["waited"]
        self.best, self.best_step = progress["best"], progress["best_step"]
        rng = state["rng"].get(str(self.strategy.rank))
        if rng is not None:
            checkpoint.set_rng_state(rng)

    def _sums(self, values: dict[str, Any]) -> dict[str, float]:
        """Several numbers, each summed over all ranks."""
        local = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
        return dict(zip(values, self.strategy.sum(local).tolist(), strict=True))

    def _due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _exhausted(self) -> bool:
        return 0 < self.config.patience <= self.waited

    def _advice(self) -> str:
        good = [*checkpoint.steps(self.folder)] if self.folder else []
        kept = f"The checkpoint after update {good[-1]} is good; t" if good else "T"
        return f"{kept}ry a lower learning rate, a longer warm-up or stronger clipping."


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model: what its module lists hold, or the whole model."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [layer for module in lists for layer in module] or [model]


@contextmanager
def _stop_signals() -> Generator[list[int]]:
    """A list of the signals received that ask this process to stop; a second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield received
        return
    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
