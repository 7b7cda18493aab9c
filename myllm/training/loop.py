"""The training loop: one for every objective, every strategy and every precision."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute  # pyright: ignore[reportUnknownVariableType]

from myllm.files import StrPath, UserError, expand
from myllm.training import checkpoint
from myllm.training.interruptions import lost_process, stop_signals
from myllm.training.optimizer import make_optimizer
from myllm.training.schedule import rate
from myllm.training.settings import BOOKKEEPING, TrainConfig
from myllm.training.speed import compile_problem
from myllm.training.step import Objective, Step, Strategy
from myllm.training.strategies import make_strategy

Record = dict[str, float]
"""What an update measured: step, loss, norm, rate, seconds, count, metrics, and at times validation."""


class Trainer:
    """Train a model on an objective.

    One update: take the micro-batches, sum their counts over micro-batches and processes, accumulate the
    gradients of each micro-batch's loss divided by that sum, clip, update. So the gradient does not depend on
    how a batch is split.

    Args:
        model: Any module that the objective can call.
        objective: What is learned.
        config: The settings.
        strategy: How training is spread over processes, by name or as an object.
        validation: Batches that measure progress, the same on all processes, which share the work.
        folder: Where checkpoints are written, and looked for when `fit` begins; None writes none.
        callbacks: Called with the trainer and the record of each update; one that is a context manager is
            entered while `fit` runs.

    Raises:
        UserError: A strategy that does not fit the settings, or patience without validation batches.
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
        self.validation = [*validation]
        if config.patience and not self.validation:
            raise UserError("patience counts validations; give validation batches.")
        self.strategy = make_strategy(strategy, config.precision) if isinstance(strategy, str) else strategy
        check_strategy(self.strategy, config)
        objective.share(self.strategy.rank, self.strategy.world)
        self.model = model
        problem = compile_problem(next(model.parameters()).device) if config.compile else ""
        self.notes = [problem] if problem else []  # what went wrong and was worked around
        for layer in _layers(model):
            if config.recompute:
                layer.forward = partial(recompute, layer.forward, use_reentrant=False)
            if config.compile and not problem:
                layer.compile()
        options = {name: getattr(config, name) for name in ("lr", "weight_decay", "betas", "eps")}
        self.optimizer = make_optimizer(model, config.optimizer, **options)
        self.step = self.strategy.setup(Step(model, objective), self.optimizer)
        self.done = 0  # updates so far
        self.best, self.best_step, self.waited = math.inf, None, 0

    def fit(self) -> Record:
        """Train to the end, resuming from the newest checkpoint in the folder if there is one.

        On Ctrl-C or SIGTERM, finish the current update, write a checkpoint and raise KeyboardInterrupt.

        Returns:
            The last record.

        Raises:
            UserError: A loss that is not finite, a checkpoint of another run, or a process that was lost.
        """
        torch.manual_seed(self.config.seed + self.strategy.rank)  # each process draws its own dropout
        record: Record = {}
        with lost_process(self.strategy.world), stop_signals() as received, ExitStack() as stack:
            for callback in self.callbacks:
                if isinstance(callback, AbstractContextManager):
                    stack.enter_context(callback)  # pyright: ignore[reportUnknownArgumentType]
            self.resume()
            batches = self.objective.batches(self.model)
            while self.done < self.config.steps and not self._exhausted():
                record = self.update(batches, received)
                self.done += 1
                stopping = record.pop("stopping") > 0
                last = self.done == self.config.steps
                if last or self._due(self.config.evaluate_every):
                    record |= self.validate()
                for callback in self.callbacks:
                    callback(self, record)
                best = self.best_step == self.done
                if stopping or last or best or self._exhausted() or self._due(self.config.checkpoint_every):
                    self.save()
                if stopping and not last:
                    raise KeyboardInterrupt(f"stopped after update {self.done}; run again to go on")
        return record

    def update(self, batches: Iterator[Any], signals: Sequence[int] = ()) -> Record:
        """Make one update of the weights; all ranks learn whether any has received a signal to stop."""
        c, strategy = self.config, self.strategy
        start = time.perf_counter()
        where = checkpoint.flatten(self.objective.state_dict())[0]  # without tensors
        share = rate(self.done, c.steps, c.schedule, warmup=c.warmup, floor=c.floor, decay=c.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr * share
        micro_batches = [self._next(batches) for _ in range(c.accumulation)]
        self.step.train()
        count = strategy.sum(sum(map(self.objective.count, micro_batches)))
        if count == 0:
            raise UserError(
                f"Nothing in the batch of update {self.done + 1} has a loss; check masks and targets."
            )
        sums: dict[str, Any] = {"loss": 0.0}
        for i, batch in enumerate(micro_batches):
            with strategy.accumulate(last=i == len(micro_batches) - 1):
                loss = self.step(batch)
                strategy.backward(loss.total * strategy.world / count)
            for name, value in {"loss": loss.total, **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        sums = self._sums(sums | {"stopping": len(signals)})
        record = {name: value / count for name, value in sums.items()}
        # All ranks know the same loss, so either all update or none does.
        norm = float(strategy.step(c.clip)) if math.isfinite(record["loss"]) else math.nan
        if not math.isfinite(norm):
            found = f"The loss was {record['loss']} and the gradient's norm {norm}"
            raise UserError(
                f"{found} in update {self.done + 1}, whose batch begins at {where}; nothing was updated. "
                + self._advice()
            )
        if c.ema:
            strategy.average(c.ema)
        record |= {"norm": norm, "rate": c.lr * share, "seconds": time.perf_counter() - start, "count": count}
        return {"step": self.done, **record}

    @torch.no_grad()
    def validate(self) -> Record:
        """The mean loss over the validation batches; remembers whether it is the best so far."""
        self.step.eval()
        total, count, batches = 0.0, 0, self.validation
        for first in range(0, len(batches), self.strategy.world):
            i = first + self.strategy.rank
            batch = batches[min(i, len(batches) - 1)]  # all ranks call the model equally often, as FSDP needs
            loss = float(self.step(batch).total)
            if i < len(batches):
                total += loss
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
        """Write a checkpoint, and delete old ones; every process must call it."""
        if self.folder is None:
            return
        progress = {"step": self.done, "best": self.best, "best_step": self.best_step, "waited": self.waited}
        tree = {
            **self.strategy.state_dict(whole=not self.config.sharded),
            "config": asdict(self.config),
            "progress": progress,
            "objective": self.objective.state_dict(),
            "rng": {str(self.strategy.rank): checkpoint.rng_state()},
        }
        checkpoint.write(self.folder, self.done, tree, self.strategy)
        if self.strategy.rank == 0:
            checkpoint.prune(self.folder, self.config.keep_last, self.best_step)

    def resume(self) -> None:
        """Resume from the newest intact checkpoint in the folder, if there is one."""
        state, problems = checkpoint.latest(self.folder) if self.folder else (None, [])
        self.notes += [f"{problem} An earlier one is used." for problem in problems]
        if state is None:
            return
        settings = json.loads(json.dumps(asdict(self.config)))  # as the checkpoint holds them
        for name, value in settings.items():
            if (old := state["config"].get(name)) != value and name not in BOOKKEEPING:
                found = f"The run in {self.folder} has {name} {old}, not {value}"
                raise UserError(f"{found}; keep it, or train in another folder.")
        self.strategy.load_state_dict(state)
        self.objective.load_state_dict(state["objective"])
        progress = state["progress"]
        self.done, self.waited = progress["step"], progress["waited"]
        self.best, self.best_step = progress["best"], progress["best_step"]
        if (rng := state["rng"].get(str(self.strategy.rank))) is not None:
            checkpoint.set_rng_state(rng)
        if self.folder and self.strategy.rank == 0 and not problems:  # a run may be killed before it prunes
            checkpoint.prune(self.folder, self.config.keep_last, self.best_step)

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next micro-batch; functions in its place are called with the model first."""
        while callable(batch := next(batches)):
            with self.strategy.gathered():
                self.call(batch)
        return batch

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


def check_strategy(strategy: Strategy, config: TrainConfig) -> None:
    """Raise an error for settings that a strategy does not support.

    Raises:
        UserError: The strategy has another precision, or cannot write the sharded checkpoints asked for.
    """
    precision = getattr(strategy, "precision", config.precision)
    if precision != config.precision:
        raise UserError(f"The strategy computes in {precision}, the settings say {config.precision}.")
    if config.sharded and not getattr(strategy, "shards", False):
        raise UserError("Only fsdp can write sharded checkpoints; use it, or leave out sharded.")


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model: what its module lists hold, or the whole model."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [layer for module in lists for layer in module] or [model]
