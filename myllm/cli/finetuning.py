"""``myllm sft`` and ``myllm merge``, and what all commands that train on examples share."""

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from myllm.cli.models import Name
from myllm.files import UserError, check_place, expand, new_folder

if TYPE_CHECKING:
    from torch import nn

    from myllm.finetuning import sft
    from myllm.finetuning.classify import Classify
    from myllm.finetuning.dpo import DPO
    from myllm.llm import LLM
    from myllm.training.pretrain import Pretrain

    Objective = Pretrain | Classify | DPO


def say(text: str) -> None:
    """Print a message to standard error, apart from the results."""
    print(text, file=sys.stderr, flush=True)


Data = Annotated[str, arg(metavar="FILE")]
_MODELS = {"model", "adapter", "classifier.safetensors"}
MADE = _MODELS | {"checkpoints", "journal.jsonl", "stage.json", "classes.json"}
"""What the folder of a run may contain; nothing is written into one that contains anything else."""


def check_run(out: str, *, lr: float, seed: int, steps: int = 1) -> None:
    """Refuse settings of `TrainConfig` that are out of range, and a folder that holds anything but a run.

    Raises:
        UserError: A setting is out of range, or the folder is in use.
    """
    from myllm.training.settings import TrainConfig

    TrainConfig(steps=steps, lr=lr, seed=seed)
    folder = expand(out)
    check_place(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{out} is a file; choose another --out.")
    others = {one.name for one in folder.glob("[!.]*")} - MADE
    if others:
        raise UserError(f"{out} is in use, it holds {min(others)}; choose another --out.")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The options of all commands that train on examples."""

    model: Name
    """The model to start from, as `myllm generate` takes it."""
    data: Data
    """A JSONL or CSV file of examples; see above."""
    out: Annotated[str, arg(metavar="FOLDER")] = "tuned"
    """Where everything is written; the same command, run again, resumes there."""
    epochs: float = 3.0
    """How many times each example is seen."""
    batch_size: int = 8
    """Rows per update."""
    lr: float = 1e-4
    """Peak learning rate; adapters usually need about ten times that of the full weights."""
    held_out: float = 0.1
    """The share of the examples that is held out to measure the result."""
    seed: int = 0
    """Seed of the split, the order and any new weights."""

    def check(self) -> None:
        """Refuse invalid options before anything is loaded."""
        if not 0 < self.epochs < 1e9 or self.batch_size < 1 or self.seed < 0:
            raise UserError("--epochs must be more than 0, --batch-size at least 1, --seed at least 0.")
        if not 0 < self.held_out < 1:
            raise UserError(f"--held-out must lie between 0 and 1, not {self.held_out}.")
        check_run(self.out, lr=self.lr, seed=self.seed)

    def split(self, rows: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The examples to train on and those held out, in an order that the seed determines."""
        if len(rows) < 2:
            raise UserError(f"{self.data} has one example; one to train on and one to measure are needed.")
        mixed = random.Random(self.seed).sample(rows, len(rows))
        n = min(len(rows) - 1, max(1, round(self.held_out * len(rows))))
        return mixed[n:], mixed[:n]

    def fit(
        self, model: "nn.Module", objective: "Objective", held_out: "Objective", *, note: str, shown: str = ""
    ) -> None:
        """Train, with checkpoints and a journal in the folder, and print the held-out loss before and after.

        Args:
            model: The model.
            objective: The examples to train on.
            held_out: The held-out examples, in batches of one row.
            note: Printed to standard error before the first update, once all options are known to be valid.
            shown: Printed to standard output at that point.
        """
        from myllm.training.journal import Journal
        from myllm.training.loop import TrainConfig, Trainer

        loader, folder, batches = objective.loader, expand(self.out), held_out.batches(model)
        loader.batch_size = min(self.batch_size, loader.n)
        steps = max(1, round(self.epochs * loader.n / loader.batch_size))
        settings = TrainConfig(
            steps=steps,
            lr=self.lr,
            weight_decay=0.0,
            warmup=min(steps // 10, steps - 1),
            evaluate_every=max(1, steps // 5),
            checkpoint_every=max(1, steps // 5),
            seed=self.seed,
        )
        trainer = Trainer(
            model,
            objective,
            settings,
            validation=[next(batches) for _ in range(held_out.loader.n)],
            folder=folder / "checkpoints",
            callbacks=[Journal(folder)],
        )
        before = trainer.validate()["validation"]
        if not math.isfinite(before):
            raise UserError(f"The held-out loss is {before}; the weights of {self.model} are bad.")
        trainer.best = float("inf")  # only what is trained from here on can be the best
        trainer.resume()  # refuses the checkpoint of another run
        print(shown, end="", flush=True)
        few = steps < 20 and loader.batch_size > 1 and not trainer.done
        advice = "; these are few: --batch-size 1 makes more of them for the same work" if few else ""
        say(f"{note}{steps} updates of {loader.batch_size} of {loader.n} rows{advice}")
        trainer.fit()
        after = trainer.validate()["validation"]
        say(f"loss on held-out examples {before:.3f} before, {after:.3f} after")


@dataclass(frozen=True, kw_only=True)
class SFT(Tuning):
    """Fine-tune a model on example conversations, or on prompts with responses.

    Each line of a JSONL file is an object with "messages" (a list of objects with "role" and "content"; the
    answers are learned), or with "prompt" and "response"; a CSV file has the columns prompt and response.
    FOLDER/model then holds the model; with --lora, FOLDER/adapter holds an adapter, which peft can read, too.

    Examples:
        myllm sft smollm2 --data mine.jsonl --lora 8 --lr 1e-3
        myllm chat tuned/model
    """

    lora: Annotated[int, arg(metavar="RANK")] = 0
    """Train adapters of this rank instead of the weights; 0 trains the weights."""
    template: str | None = None
    """The chat format of "messages"; by default the model's own."""
    block_size: int = 512
    """Tokens per row; short examples share rows."""
    too_long: Annotated[str, arg(metavar="raise|drop|cut")] = "raise"
    """What to do with an example that is longer than a row."""
    scheme: Annotated[str | None, arg(metavar="NAME")] = None
    """Quantize the frozen weights under --lora, such as nf4 (QLoRA)."""

    def run(self) -> int:
        """Load, show what is learned, train, save."""
        self.check()
        llm = load(self.model)
        objective, held_out, shown = self.objectives(llm)
        note = adapt(llm, self.lora, self.scheme)
        if dropped := len(objective.dropped) + len(held_out.dropped):
            note += f"{dropped} examples are longer than a row and are left out.\n"
        self.fit(llm.model, objective, held_out, note=note, shown=shown)
        save(llm, self.out, adapter=self.lora > 0, base=self.model)
        return 0

    def check(self) -> None:
        """Refuse invalid options before anything is loaded."""
        super().check()
        if self.lora < 0:
            raise UserError(f"--lora is a rank, or 0 to train the weights, not {self.lora}.")
        if self.too_long not in ("raise", "drop", "cut"):
            raise UserError(f"--too-long is raise, drop or cut, not {self.too_long}.")
        if self.block_size < 2:
            raise UserError(f"--block-size must be at least 2, not {self.block_size}.")
        if self.scheme is not None and not self.lora:
            raise UserError("Quantized weights cannot be trained; add --lora 8.")

    def objectives(self, llm: "LLM") -> "tuple[sft.SFT, sft.SFT, str]":
        """The objective, that of the held-out examples, and the first example with its learned parts marked.

        Raises:
            UserError: Examples that the model cannot learn from.
        """
        from myllm.data import examples
        from myllm.finetuning import sft

        rows = examples.read(self.data)
        if "text" in rows[0] and "label" in rows[0]:
            raise UserError(f"{self.data} has labels; use myllm classify.")
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer.")
        if self.template is not None and "messages" not in rows[0]:
            raise UserError("--template has no effect on prompts and responses; it is for messages.")
        items = [sft.encode(row, llm.tokenizer, self.template) for row in rows]
        T = min(self.block_size, llm.config.block_size)
        train, rest = self.split(items)
        options: dict[str, Any] = {"block_size": T, "too_long": self.too_long, "batch_size": 1}
        objective = sft.SFT(train, seed=self.seed, **options)
        held_out = sft.SFT(rest, shuffle=False, **options)
        shown = sft.show_mask(train[0], llm.tokenizer)
        return objective, held_out, f"What is learned of the first example stands in ⟦ ⟧:\n{shown}\n"


def load(name: str) -> "LLM":
    """A model in float32, ready to be trained."""
    import torch

    from myllm.llm import LLM

    return LLM.from_pretrained(name, dtype=torch.float32)


def adapt(llm: "LLM", rank: int, scheme: str | None) -> str:
    """Quantize the weights and add adapters, if requested, and return a line that says what is trained."""
    from myllm.finetuning.lora import apply_lora, inspect_adapter
    from myllm.quantization.store import quantized_layers

    if scheme is not None:
        from myllm.quantization.schemes import quantize

        quantize(llm.model, scheme)
    if not rank:
        if quantized_layers(llm.model):
            raise UserError("Quantized weights cannot be trained; add --lora 8.")
        return ""
    apply_lora(llm.model, rank)
    found = inspect_adapter(llm.model)
    return f"{found.parameters:,} parameters in {len(found.layers)} layers are trained ({found.share:.2%})\n"


def save(llm: "LLM", out: str, *, adapter: bool, base: str) -> None:
    """Write the model, or its adapter."""
    from myllm.finetuning.adapters import save_adapter

    folder = expand(out)
    if adapter:
        save_adapter(llm.model, folder / "adapter", base=base)
        print(f"The adapter is in {out}/adapter; myllm merge {base} {out}/adapter makes a model of both.")
    else:
        llm.save_pretrained(folder / "model")
        print(f"The model is in {out}/model.")


@dataclass(frozen=True)
class Merge:
    """Merge an adapter into the weights of its base, and write the resulting model.

    Examples:
        myllm merge smollm2 tuned/adapter --out mine
    """

    model: Name
    """The base."""
    adapter: Name
    """The folder of an adapter, written by myllm sft or by peft."""
    out: Annotated[str, arg(metavar="FOLDER")] = "merged"
    """Where the model is written."""

    def run(self) -> int:
        """Load, merge, save."""
        from myllm.finetuning.adapters import load_adapter
        from myllm.finetuning.lora import inspect_adapter, merge

        folder = new_folder(self.out)
        llm = load(self.model)
        load_adapter(llm.model, self.adapter)
        found = inspect_adapter(llm.model)
        merge(llm.model)
        llm.save_pretrained(folder)
        largest = max(found.changes, key=lambda name: found.changes[name])
        print(
            f"{len(found.layers)} layers changed, most of all {largest}, by {found.changes[largest]:.1%}; "
            f"the model is in {self.out}."
        )
        return 0


COMMANDS = {"sft": SFT, "merge": Merge}
