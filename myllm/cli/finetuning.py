"""``myllm sft``, and what is done with adapters; what all commands share that train on examples."""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from myllm.cli.models import Name
from myllm.files import UserError, expand

if TYPE_CHECKING:
    from torch import nn

    from myllm.finetuning.classify import Classify
    from myllm.finetuning.dpo import DPO
    from myllm.llm import LLM
    from myllm.training.pretrain import Pretrain

    Objective = Pretrain | Classify | DPO


def say(text: str) -> None:
    """Tell the user something beside the results."""
    print(text, file=sys.stderr, flush=True)


Data = Annotated[str, arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The options of all commands that train on examples."""

    model: Name
    """The model to begin with, as `myllm generate` takes it."""
    data: Data
    """A JSONL or CSV file of examples; see below."""
    out: Annotated[str, arg(metavar="FOLDER")] = "tuned"
    """Where everything is written; the same command again goes on there."""
    epochs: float = 3.0
    """How often each example is seen."""
    batch_size: int = 8
    """Rows of an update."""
    lr: float = 1e-4
    """Peak learning rate; adapters usually need about ten times as much as whole weights."""
    held_out: float = 0.1
    """The share of the examples that measures the result and is not trained on."""
    seed: int = 0
    """Of the split, the order and new weights."""

    def check(self) -> None:
        """Refuse numbers out of range before anything is loaded."""
        if not 0 < self.epochs < 1e9 or self.batch_size < 1 or self.seed < 0:
            raise UserError("--epochs must be more than 0, --batch-size at least 1, --seed at least 0.")
        if not 0 < self.held_out < 1:
            raise UserError(f"--held-out must lie between 0 and 1, not {self.held_out}.")

    def split(self, rows: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The examples to train on and those held out, in an order of the seed."""
        if len(rows) < 2:
            raise UserError(f"{self.data} has one example; one to train on and one to measure are needed.")
        mixed = random.Random(self.seed).sample(rows, len(rows))
        n = min(len(rows) - 1, max(1, round(self.held_out * len(rows))))
        return mixed[n:], mixed[:n]

    def fit(self, model: "nn.Module", objective: "Objective", held_out: "Objective") -> None:
        """Train, with checkpoints and a journal in the folder, and say what became of the held-out loss.

        Args:
            model: The model.
            objective: What is trained on.
            held_out: What is measured, in batches of one row.
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
        trainer.best = float("inf")  # only what is trained from here on can be the best
        say(f"{steps} updates of {loader.batch_size} of {loader.n} rows")
        trainer.fit()
        after = trainer.validate()["validation"]
        say(f"loss on held-out examples {before:.3f} before, {after:.3f} after")


@dataclass(frozen=True, kw_only=True)
class SFT(Tuning):
    """Fine-tune a model on example conversations, or on prompts with responses.

    Each line of a JSONL file is an object with "messages" (a list of objects with "role" and "content"; the
    answers are learned), or with "prompt" and "response"; a CSV file has the columns prompt and response.
    FOLDER/model then holds the model; with --lora, FOLDER/adapter holds an adapter that peft reads, too.

    Examples:
        myllm sft smollm2 --data mine.jsonl --lora 8 --lr 1e-3
        myllm chat tuned/model
    """

    lora: Annotated[int, arg(metavar="RANK")] = 0
    """Train adapters of this rank instead of the weights; 0 trains the weights."""
    template: str | None = None
    """The chat format of "messages"; by default the model's own."""
    block_size: int = 512
    """Tokens of a row; short examples share one."""
    too_long: Annotated[str, arg(metavar="raise|drop|cut")] = "raise"
    """What happens to an example that is longer than a row."""
    scheme: Annotated[str | None, arg(metavar="NAME")] = None
    """Quantize the frozen weights under --lora, such as nf4 (QLoRA)."""

    def run(self) -> int:
        """Load, show what is learned, train, save."""
        from myllm.data import examples
        from myllm.finetuning import sft

        self.check()
        if self.lora < 0:
            raise UserError(f"--lora is a rank, or 0 to train the weights, not {self.lora}.")
        if self.too_long not in ("raise", "drop", "cut"):
            raise UserError(f"--too-long is raise, drop or cut, not {self.too_long}.")
        if self.scheme and not self.lora:
            raise UserError("Quantized weights cannot be trained; add --lora 8.")
        rows = examples.read(self.data)
        if "text" in rows[0] and "label" in rows[0]:
            raise UserError(f"{self.data} has labels; use myllm classify.")
        llm = load(self.model)
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer.")
        if self.template and "messages" not in rows[0]:
            raise UserError("--template has no effect on prompts and responses; it is for messages.")
        items = [sft.encode(row, llm.tokenizer, self.template) for row in rows]
        T = min(self.block_size, llm.config.block_size)
        train, rest = self.split(items)
        options: dict[str, Any] = {"block_size": T, "too_long": self.too_long, "batch_size": 1}
        objective = sft.SFT(train, seed=self.seed, **options)
        held_out = sft.SFT(rest, shuffle=False, **options)
        print(
            f"What is learned of the first example stands in ⟦ ⟧:\n{sft.show_mask(train[0], llm.tokenizer)}"
        )
        if dropped := len(objective.dropped) + len(held_out.dropped):
            say(f"{dropped} examples are longer than {T} tokens and are left out.")
        adapt(llm, self.lora, self.scheme)
        self.fit(llm.model, objective, held_out)
        save(llm, self.out, adapter=self.lora > 0, base=self.model)
        return 0


def load(name: str) -> "LLM":
    """A model in float32, ready to be trained."""
    import torch

    from myllm.llm import LLM

    return LLM.from_pretrained(name, dtype=torch.float32)


def adapt(llm: "LLM", rank: int, scheme: str | None) -> None:
    """Quantize the weights and give them adapters, if that is wanted."""
    from myllm.finetuning.lora import apply_lora, inspect_adapter

    if scheme:
        from myllm.quantization.schemes import quantize

        quantize(llm.model, scheme)
    if rank:
        apply_lora(llm.model, rank)
        found = inspect_adapter(llm.model)
        say(f"{found.parameters:,} parameters in {len(found.layers)} layers are trained ({found.share:.2%})")


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
    """Put an adapter into the weights of its base, and write the model that results.

    Examples:
        myllm merge smollm2 tuned/adapter --out mine
    """

    model: Name
    """The base."""
    adapter: Name
    """The folder of an adapter, of myllm sft or of peft."""
    out: Annotated[str, arg(metavar="FOLDER")] = "merged"
    """Where the model is written."""

    def run(self) -> int:
        """Load, merge, save."""
        from myllm.finetuning.adapters import load_adapter
        from myllm.finetuning.lora import inspect_adapter, merge

        llm = load(self.model)
        load_adapter(llm.model, self.adapter)
        found = inspect_adapter(llm.model)
        merge(llm.model)
        llm.save_pretrained(self.out)
        largest = max(found.changes, key=lambda name: found.changes[name])
        print(
            f"{len(found.layers)} layers changed, most of all {largest}, by {found.changes[largest]:.1%}; "
            f"the model is in {self.out}."
        )
        return 0


COMMANDS = {"sft": SFT, "merge": Merge}
