"""``myllm pretrain`` and ``myllm speedrun``."""

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from myllm.cli.run_folder import prepare, save, say, shards_folder, training_tokens
from myllm.files import UserError, expand

if TYPE_CHECKING:
    from myllm.config import ModelConfig
    from myllm.tokenizers.base import Tokenizer
    from myllm.training.loop import Record, TrainConfig, Trainer
    from myllm.training.step import Strategy

Data = Annotated[tuple[str, ...], Positional, arg(metavar="FILE|FOLDER|CORPUS …")]
MAX_ROWS = 1 << 20
StrategyName = Literal["auto", "single", "ddp", "fsdp", "zero1", "zero2", "zero3"]


@dataclass(frozen=True)
class Run:
    """The options that both commands share."""

    data: Data
    """Text files, a folder of shards, or names of corpora; see myllm data build."""
    out: Annotated[str, arg(metavar="FOLDER")] = "run"
    """Where everything is written; the same command, run again, resumes there."""
    batch_size: int = 32
    """Rows per update, over all processes."""
    micro_batch: int = 0
    """Rows that a process computes at once; 0 means its whole share."""
    strategy: StrategyName = "auto"
    """How to use the processes that torchrun started; auto is ddp with several and single with one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 keeps weights in bfloat16, with fp32 master weights in the optimizer."""
    fast_products: bool = False
    """Use oneDNN for fp32 matrix products on a CPU, after checking that it is as exact."""
    compile: bool = False
    """Compile each layer."""
    recompute: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharded: bool = False
    """With fsdp, let each process write its own part of a checkpoint."""
    tensorboard: bool = False
    """Write values for TensorBoard into FOLDER/tensorboard."""
    seed: int = 0
    """Seed of the initial weights and the order of the data."""

    def make_strategy(self) -> "Strategy":
        """The strategy that was asked for."""
        from myllm.training.strategies import make_strategy

        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        name = ("ddp" if several else "single") if self.strategy == "auto" else self.strategy
        return make_strategy(name, self.precision)

    def run(self) -> int:
        """Prepare, train, save, in each process."""
        from myllm.training.interruptions import lost_process

        if not 1 <= self.batch_size <= MAX_ROWS or self.micro_batch < 0 or self.seed < 0:
            raise UserError(
                f"--batch-size must be between 1 and {MAX_ROWS:,}, --micro-batch and --seed at least 0."
            )
        strategy = self.make_strategy()
        with lost_process(strategy.world):
            self.work(strategy)
        return 0

    def work(self, strategy: "Strategy") -> None:
        """What a command does in each process."""
        raise NotImplementedError

    def settings(self, strategy: "Strategy", values: dict[str, Any]) -> "TrainConfig":
        """The settings of the training, made and checked before anything is written.

        Raises:
            UserError: They are out of range, or do not fit together.
        """
        from myllm.training.loop import TrainConfig, check_strategy

        rows, left = divmod(self.batch_size, strategy.world)
        micro = self.micro_batch or rows
        if left or rows % micro:
            raise UserError(
                f"{self.batch_size} rows cannot be split into {strategy.world} × {micro}; choose others."
            )
        names = {field.name for field in fields(TrainConfig)}
        mine = ("precision", "compile", "recompute", "sharded", "seed")
        values = {"accumulation": rows // micro, **values, **{name: getattr(self, name) for name in mine}}
        made = TrainConfig(**{name: value for name, value in values.items() if name in names})
        check_strategy(strategy, made)
        return made

    def train(
        self, strategy: "Strategy", config: "ModelConfig", tokenizer: "Tokenizer", settings: "TrainConfig"
    ) -> "tuple[Trainer, Record]":
        """Train on the shards in the folder, and write everything there."""
        import numpy as np
        import torch

        from myllm.data.loader import WindowLoader
        from myllm.data.shards import Shards
        from myllm.model.transformer import Transformer
        from myllm.training.journal import Journal, TensorBoard
        from myllm.training.loop import Trainer
        from myllm.training.pretrain import Pretrain
        from myllm.training.speed import allow_fast_products, peak_flops

        if self.fast_products:
            say(strategy, allow_fast_products())
        micro = self.batch_size // strategy.world // settings.accumulation
        folder, T = expand(self.out), config.block_size
        held_out = np.load(folder / "validation.npy")
        ids = training_tokens(self, Shards(shards_folder(self), tokenizer=tokenizer), len(held_out))
        torch.manual_seed(self.seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = Transformer(config).to(device)
        loader = WindowLoader(ids, block_size=T, batch_size=micro, seed=self.seed)
        objective = Pretrain(loader)
        few = min(len(held_out), 32 * T + 1)
        checks = WindowLoader(held_out[:few], block_size=min(T, few - 1), batch_size=1, shuffle=False)
        validation = [tuple(part.to(device) for part in checks.batch(np.array([i]))) for i in range(checks.n)]
        sinks = [TensorBoard(folder / "tensorboard")] if self.tensorboard and strategy.rank == 0 else []
        peak = peak_flops(dtype=torch.bfloat16 if self.precision == "bf16" else torch.float32)
        work = 3 * config.flops_per_token(T)  # the backward pass takes two of three
        journal = Journal(folder, sinks=sinks, flops_per_unit=work, peak_flops=peak)
        trainer = Trainer(
            model,
            objective,
            settings,
            strategy=strategy,
            validation=validation,
            folder=folder / "checkpoints",
            callbacks=[journal],
        )
        return trainer, trainer.fit()


@dataclass(frozen=True)
class Pretrain(Run):
    """Train a language model on texts.

    The folder then holds the tokens, the checkpoints, the journal, and under model/ what `myllm generate` and
    LLM.from_pretrained load. Ctrl-C writes a checkpoint, from which the same command resumes.

    Examples:
        myllm pretrain shakespeare --preset gpt2 --n-layer 4 --n-head 4 --n-embd 128 --steps 500
        torchrun --nproc-per-node 2 -m myllm pretrain shakespeare --steps 500 --strategy fsdp
    """

    preset: str = "gpt2"
    """The kind of model; see myllm models."""
    tokenizer: Annotated[str, arg(metavar="NAME|PATH")] = "shakespeare"
    """A tokenizer by name or file, or "bytes"."""
    n_layer: int = 4
    """Layers."""
    n_head: int = 4
    """Attention heads."""
    n_embd: int = 128
    """Width."""
    block_size: int = 128
    """Tokens of context."""
    steps: int = 1000
    """Updates."""
    lr: float = 2e-3
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon updates the matrices inside the layers, AdamW the rest."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup: int = 50
    """Updates over which the learning rate rises."""
    weight_decay: float = 0.1
    """Weight decay of the matrices."""
    clip: float = 1.0
    """The norm to which the gradient is clipped."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then saved in their place; 0 keeps none."""
    evaluate_every: int = 100
    """Updates between validations."""
    patience: int = 0
    """Stop after this many validations without a new best; 0 never stops early."""
    checkpoint_every: int = 100
    """Updates between checkpoints."""

    def work(self, strategy: "Strategy") -> None:
        """Prepare the tokens, train, save."""
        from myllm.cli.data import load
        from myllm.config import ModelConfig

        tokenizer = load(self.tokenizer)
        sizes = {"n_layer": self.n_layer, "n_head": self.n_head, "n_embd": self.n_embd}
        whole = {"n_kv_head": 0, "head_dim": 0, "intermediate_size": 0}  # derived from these sizes
        config = ModelConfig.preset(
            self.preset, vocab_size=tokenizer.vocab_size, block_size=self.block_size, **sizes, **whole
        )
        settings = self.settings(strategy, vars(self))
        prepare(self, strategy, tokenizer, block_size=self.block_size)
        trainer, record = self.train(strategy, config, tokenizer, settings)
        llm = save(trainer, tokenizer, expand(self.out) / "model")
        if llm and "validation" in record:
            nats, where = record["validation"], f"{self.out}/model"
            say(strategy, f"validation {nats:.3f} nats per token; the model is in {where}")


@dataclass(frozen=True)
class Speedrun(Run):
    """From a text to a model that writes: tokenizer, tokens, training, evaluation, samples, a report.

    One option sets the size: --depth D makes D layers of width 32 D and trains on ten tokens per parameter.

    Examples:
        myllm speedrun
        myllm speedrun my-diary.txt --depth 4 --out diary
        torchrun --nproc-per-node 2 -m myllm speedrun --depth 4
    """

    data: Data = ("shakespeare",)
    """Text files or names of corpora."""
    depth: int = 3
    """Layers; width, heads, learning rate and number of updates follow."""
    vocab_size: int = 1024
    """Size of the tokenizer that is trained on the text."""

    def work(self, strategy: "Strategy") -> None:
        """Do all of it."""
        from myllm.config import ModelConfig
        from myllm.tokenizers.pretrained import load_tokenizer

        if self.depth < 1:
            raise UserError(f"--depth must be at least 1, not {self.depth}.")
        width = 32 * self.depth
        config = ModelConfig(
            vocab_size=self.vocab_size,
            block_size=128,
            n_layer=self.depth,
            n_head=max(1, width // 32),
            n_embd=width,
            intermediate_size=3 * width,
            tie_embeddings=True,
            init_std=0.5 * width**-0.5,
        )
        steps = max(100, 10 * config.n_params // (self.batch_size * config.block_size))
        settings: dict[str, Any] = {"steps": steps, "lr": 0.48 / width, "warmup": steps // 20, "floor": 0.1}
        settings |= dict.fromkeys(("evaluate_every", "checkpoint_every"), max(1, steps // 10))
        made = self.settings(strategy, settings)
        prepare(self, strategy, vocab_size=self.vocab_size, block_size=config.block_size)
        tokenizer = load_tokenizer(expand(self.out) / "tokenizer.json")
        say(strategy, f"{config.n_params:,} parameters, {steps:,} updates of {self.batch_size} × 128 tokens")
        trainer, _ = self.train(strategy, config, tokenizer, made)
        llm = save(trainer, tokenizer, expand(self.out) / "model")
        if llm:
            from myllm.cli.report import report

            print(report(llm, self, settings))


COMMANDS = {"pretrain": Pretrain, "speedrun": Speedrun}
