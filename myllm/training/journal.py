"""The journal of a run: a line of JSON for each update, progress on the screen, and loggers."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from myllm.files import StrPath, UserError, atomic_write, expand
from myllm.training.loop import Record, Trainer

JOURNAL = "journal.jsonl"


class Sink(Protocol):
    """Where values also go: the interface of a logger."""

    def log(self, values: Record, step: int) -> None:
        """Take the values of an update."""
        ...


class TensorBoard:
    """Values for TensorBoard; needs the extra ``logging``.

    Args:
        folder: Where its event files go.
    """

    def __init__(self, folder: StrPath) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "TensorBoard is not installed; run pip install 'myllm-course[logging]'."
            ) from error
        self.writer = SummaryWriter(str(expand(folder)))

    def log(self, values: Record, step: int) -> None:
        """Write the values of an update."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)  # pyright: ignore[reportUnknownMemberType]
        self.writer.flush()


def wandb(**options: Any) -> Sink:
    """A run of Weights & Biases, or of a library with the same ``init`` and ``log``; needs ``wandb``.

    Args:
        options: Those of ``wandb.init``.
    """
    try:
        import wandb as library  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("Weights & Biases is not installed; run pip install wandb.") from error
    return library.init(**options)  # pyright: ignore[reportUnknownVariableType]


class Journal:
    """Write what each update measured; a callback of `Trainer`.

    When a run is resumed, lines of updates that are done again are dropped, so that the file reads like that
    of a run without a stop. A sink that fails is dropped with one line; training goes on.

    Args:
        folder: Where ``journal.jsonl`` is written; None writes none.
        sinks: Loggers with ``log(values, step)``.
        quiet: Show nothing.
        flops_per_unit: Operations of forward and backward pass for each unit that the objective counts, for
            a token ``3 * ModelConfig.flops_per_token(T)``; recomputed ones do not count.
        peak_flops: Operations a second that the machine could do at best; with both, the record has ``mfu``,
            the share of the peak that was used (Chowdhery et al., 2022, PaLM, appendix B).
    """

    def __init__(
        self,
        folder: StrPath | None = None,
        *,
        sinks: Sequence[Sink] = (),
        quiet: bool = False,
        flops_per_unit: float = 0.0,
        peak_flops: float = 0.0,
    ) -> None:
        self.path = None if folder is None else expand(folder) / JOURNAL
        self.sinks, self.quiet = [*sinks], quiet
        self.flops_per_unit, self.peak_flops = flops_per_unit, peak_flops
        self.begun, self.shown = time.perf_counter(), 0.0
        self.first: int | None = None

    def __call__(self, trainer: Trainer, record: Record) -> None:
        """Write one record."""
        if trainer.strategy.rank:
            return
        step = int(record["step"])
        record["units_per_second"] = record["count"] / record["seconds"]
        if self.flops_per_unit and self.peak_flops:
            used = record["units_per_second"] * self.flops_per_unit
            record["mfu"] = used / (self.peak_flops * trainer.strategy.world)
        if self.first is None:
            self.first = step
            self._begin(step)
            if trainer.notes and not self.quiet:
                print(*trainer.notes, sep="\n", file=sys.stderr)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        for sink in [*self.sinks]:
            try:
                sink.log(record, step)
            except Exception as error:  # a logger must never stop training
                self.sinks.remove(sink)
                print(f"The logger {type(sink).__name__} failed and is dropped: {error}", file=sys.stderr)
        self._show(trainer, record, step)

    def _begin(self, step: int) -> None:
        """Make the folder, and drop lines that are about to be written again."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(self.path) if line["step"] < step]
        atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def _show(self, trainer: Trainer, record: Record, step: int) -> None:
        """A line that is written over on a terminal; elsewhere about twenty lines a run."""
        steps, now = trainer.config.steps, time.perf_counter()
        terminal, last = sys.stderr.isatty(), step + 1 == steps
        due = now - self.shown > 0.2 if terminal else (step + 1) % max(1, steps // 20) == 0
        if self.quiet or not (due or last or "validation" in record):
            return
        self.shown = now
        left = (now - self.begun) / (step + 1 - (self.first or 0)) * (steps - step - 1)
        parts = [f"update {step + 1:,} of {steps:,}", f"loss {record['loss']:.3f}"]
        if "validation" in record:
            parts.append(f"validation {record['validation']:.3f}")
        parts.append(f"{record['units_per_second']:,.0f} a second")
        if "mfu" in record:
            parts.append(f"MFU {record['mfu']:.0%}")
        parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        end = "\n" if not terminal or last or "validation" in record else ""
        print(("\r\033[K" if terminal else "") + "  ".join(parts), end=end, file=sys.stderr, flush=True)


def read(folder: StrPath) -> list[Record]:
    """The records of a run, the oldest first."""
    return _lines(expand(folder) / JOURNAL)


def _lines(path: Path) -> list[Record]:
    """The records in a file; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    records: list[Record] = []
    for line in path.read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
