"""The journal of a run: a line of JSON for each update, progress on the screen, and loggers."""

import json
import sys
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TimeRemainingColumn

from myllm.files import StrPath, UserError, atomic_write, expand
from myllm.training.loop import Record, Trainer

JOURNAL = "journal.jsonl"


class Sink(Protocol):
    """The interface of a logger that also gets the values; a run of Weights & Biases has it, too."""

    def log(self, values: Record, step: int) -> None:
        """Log the values of an update."""
        ...


class TensorBoard:
    """Writes values for TensorBoard; needs the extra ``logging``.

    Args:
        folder: Where its event files go.
    """

    def __init__(self, folder: StrPath) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            problem = "TensorBoard is not installed; run pip install 'myllm-course[logging]'."
            raise UserError(problem) from error
        self.writer = SummaryWriter(str(expand(folder)))

    def log(self, values: Record, step: int) -> None:
        """Write the values of an update."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)  # pyright: ignore[reportUnknownMemberType]
        self.writer.flush()


class Journal:
    """Write what each update measured; a callback of `Trainer`.

    When a run is resumed, lines of updates that are done again are dropped, so that the file reads like that
    of an uninterrupted run. A sink that fails is dropped with a message, and training goes on.

    Args:
        folder: Where ``journal.jsonl`` is written; None writes none.
        sinks: Loggers with ``log(values, step)``, such as `TensorBoard` or what ``wandb.init()`` returns.
        quiet: Show nothing.
        flops_per_unit: Operations of the forward and backward pass for each unit that the objective counts,
            for a token ``3 * ModelConfig.flops_per_token(T)``; recomputation does not count.
        peak_flops: The most operations per second that one process could do. With both, the record has
            ``mfu``, the share of the peak that was used (Chowdhery et al., 2022, PaLM, appendix B).
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
        self.left = TimeRemainingColumn()
        self.bar = Progress(
            *("update {task.completed:,} of {task.total:,}", BarColumn(), "{task.description}", self.left),
            console=Console(stderr=True, force_jupyter=False),
            disable=quiet or not sys.stderr.isatty(),
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        """Release the terminal, however the run has ended."""
        self.bar.stop()

    def __call__(self, trainer: Trainer, record: Record) -> None:
        """Write one record."""
        if trainer.strategy.rank:
            return
        step = int(record["step"])
        record["units_per_second"] = record["count"] / record["seconds"]
        if self.flops_per_unit and self.peak_flops:
            used = record["units_per_second"] * self.flops_per_unit
            record["mfu"] = used / (self.peak_flops * trainer.strategy.world)
        if self.task is None:
            self._begin(step)
            if trainer.notes and not self.quiet:
                print(*trainer.notes, sep="\n", file=sys.stderr)
            self.task = self.bar.add_task("", total=trainer.config.steps, completed=step)
            self.bar.start()
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        for sink in [*self.sinks]:
            try:
                sink.log(record, step)
            except Exception as error:  # a logger must never stop training
                self.sinks.remove(sink)
                print(f"The logger {type(sink).__name__} failed and is dropped: {error}", file=sys.stderr)
        if not self.quiet:
            self._show(self.task, record, step + 1)

    def _begin(self, step: int) -> None:
        """Make the folder, and drop lines that are about to be written again."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read(self.path.parent) if line["step"] < step]
        atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def _show(self, task: TaskID, record: Record, done: int) -> None:
        """Show a bar on a terminal, with validations above it; elsewhere print about twenty lines per run."""
        parts = [f"loss {record['loss']:.3f}"]
        if "validation" in record:
            parts.append(f"validation {record['validation']:.3f}")
        parts.append(f"{record['units_per_second']:,.0f} a second")
        if "mfu" in record:
            parts.append(f"MFU {record['mfu']:.0%}")
        text = "  ".join(parts)
        self.bar.update(task, completed=done, description=text)
        steps = int(self.bar.tasks[0].total or 0)
        due = self.bar.disable and (done % max(1, steps // 20) == 0 or done == steps)
        if due or "validation" in record:
            left = self.left.render(self.bar.tasks[0])
            print(f"update {done:,} of {steps:,}  {text}  {left} left", file=sys.stderr, flush=True)


def read(folder: StrPath) -> list[Record]:
    """The records of a run, the oldest first; a last line that was cut off is left out."""
    path = expand(folder) / JOURNAL
    if not path.is_file():
        return []
    records: list[Record] = []
    for line in path.read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
