"""``myllm dpo`` and ``myllm rl``: learn from preferences, and from rewards given by a rule."""

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from myllm.cli.finetuning import Data, Tuning, adapt, check_run, load, save, say
from myllm.cli.models import Name
from myllm.files import UserError, expand

if TYPE_CHECKING:
    from myllm.finetuning import dpo
    from myllm.finetuning.grpo import GRPO
    from myllm.llm import LLM


@dataclass(frozen=True, kw_only=True)
class DPO(Tuning):
    """Fine-tune a model on preferences: pairs of a chosen and a rejected answer.

    Each line of a JSONL file is an object with "prompt", "chosen" and "rejected": all texts, which are
    concatenated as they are, or all lists of messages; a CSV file has these columns. The model before
    training is the reference of all methods but simpo.

    Examples:
        myllm dpo smollm2 --data pairs.jsonl --lora 8
        myllm dpo tuned/model --data pairs.jsonl --method ipo
    """

    method: Annotated[str, arg(metavar="dpo|ipo|kto|simpo")] = "dpo"
    """The loss."""
    beta: float | None = None
    """How strongly the policy is held to the reference, by default 0.1; for simpo, which has none, 2."""
    margin: float | None = None
    """The margin that simpo demands, by default 1."""
    lora: Annotated[int, arg(metavar="RANK")] = 0
    """Train adapters of this rank instead of the weights; 0 trains the weights."""
    template: str | None = None
    """The chat format of messages; by default the model's own."""
    block_size: int = 512
    """The most tokens of a prompt with its answer."""

    def run(self) -> int:
        """Load, train, save."""
        self.check()
        llm = load(self.model)
        objective, held_out = self.objectives(llm)
        note = adapt(llm, self.lora, None)
        self.fit(llm.model, objective, held_out, note=note)
        save(llm, self.out, adapter=self.lora > 0, base=self.model)
        return 0

    def objectives(self, llm: "LLM") -> "tuple[dpo.DPO, dpo.DPO]":
        """The objective, and that of the held-out examples.

        Raises:
            UserError: Pairs that the model cannot learn from, or settings of the loss out of range.
        """
        from myllm.data import examples
        from myllm.finetuning import dpo

        rows = examples.read(self.data)
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer.")
        if self.template is not None and isinstance(rows[0].get("prompt"), str):
            raise UserError("--template has no effect on texts; it is for lists of messages.")
        pairs = [dpo.encode_pair(row, llm.tokenizer, self.template) for row in rows]
        defaults = (2.0, 1.0) if self.method == "simpo" else (0.1, 0.0)
        beta, margin = (
            y if x is None else x for x, y in zip((self.beta, self.margin), defaults, strict=True)
        )
        options: dict[str, Any] = {"method": self.method, "beta": beta, "margin": margin, "batch_size": 1}
        options["block_size"] = min(self.block_size, llm.config.block_size)
        train, rest = self.split(pairs)
        if self.method == "kto" and min(len(train), len(rest)) < 2:
            raise UserError(
                "kto needs two pairs or more to train on, and two that are held out; set --held-out."
            )
        return dpo.DPO(train, seed=self.seed, **options), dpo.DPO(rest, shuffle=False, **options)


@dataclass(frozen=True, kw_only=True)
class RL:
    r"""Fine-tune a model on rewards: it writes answers, and those that are right become more likely.

    Each line of a JSONL file is an object with "prompt" and "answer"; a CSV file has these columns. An answer
    is right if it has ended and, without spaces around it, equals "answer". With --match, only what the last
    group of the regular expression matches is compared.

    Examples:
        myllm rl course-sft --data tasks.jsonl --max-new-tokens 24
        myllm rl smollm2 --data sums.jsonl --lora 8 --match '.*answer is (\d+)'
    """

    model: Name
    """The model to start from, which must already be right now and then."""
    data: Data
    """A JSONL or CSV file of prompts with their right answers."""
    out: Annotated[str, arg(metavar="FOLDER")] = "tuned"
    """Where everything is written; the same command, run again, resumes there."""
    updates: int = 100
    """Updates of the weights."""
    prompts: int = 16
    """Prompts per update."""
    group: int = 8
    """Answers per prompt, which are compared with each other."""
    tries: int = 1
    """How many times to sample prompts for an update until --prompts of them have right and wrong answers."""
    max_new_tokens: int = 64
    """The most tokens of an answer."""
    method: str = "grpo"
    """grpo, rloo, reinforce, dr-grpo, dapo, gspo or cispo."""
    temperature: float = 1.0
    """Temperature of both sampling and scoring."""
    beta: float = 0.0
    """The cost of each nat of divergence from the initial model; needs --lora."""
    lora: Annotated[int, arg(metavar="RANK")] = 0
    """Train adapters of this rank instead of the weights; 0 trains the weights."""
    lr: float = 1e-4
    """Peak learning rate."""
    match: Annotated[str | None, arg(metavar="REGEX")] = None
    """A regular expression that finds the answer in the generated text."""
    seed: int = 0
    """Seed of the order and of sampling."""

    def run(self) -> int:
        """Load, train, save."""
        from myllm.training.journal import Journal
        from myllm.training.loop import TrainConfig, Trainer

        self.check()
        llm = load(self.model)
        objective = self.objectives(llm)
        note = adapt(llm, self.lora, None)
        every = max(1, self.updates // 10)

        def tell(trainer: Trainer, record: dict[str, float]) -> None:
            if trainer.done % every == 0 or trainer.done == 1:
                right, equal = record.get("earned", record["reward"]), record["equal"]
                asked = f"; asked {record['written']:.3g} times" if "written" in record else ""
                said = f"{right:.1%} right; {equal:.0%} in groups that teach nothing{asked}"
                say(f"update {trainer.done}: {said}")

        settings = TrainConfig(
            steps=self.updates, lr=self.lr, weight_decay=0.0, checkpoint_every=every, seed=self.seed
        )
        folder = expand(self.out)
        trainer = Trainer(
            llm.model, objective, settings, folder=folder / "checkpoints", callbacks=[Journal(folder), tell]
        )
        trainer.resume()  # refuses the checkpoint of another run
        print(note, end="", file=sys.stderr, flush=True)
        trainer.fit()
        save(llm, self.out, adapter=self.lora > 0, base=self.model)
        return 0

    def check(self) -> None:
        """Refuse invalid options before anything is loaded."""
        if self.lora < 0 or self.seed < 0:
            raise UserError("--lora and --seed must be at least 0.")
        if self.beta and not self.lora:
            raise UserError("--beta compares with the model without its adapter; add --lora 8.")
        check_run(self.out, steps=self.updates, lr=self.lr, seed=self.seed)
        self.pattern()

    def objectives(self, llm: "LLM") -> "GRPO":
        """The objective.

        Raises:
            UserError: Prompts that the model cannot learn from, or settings of the loss out of range.
        """
        from myllm.data import examples
        from myllm.finetuning.grpo import GRPO
        from myllm.finetuning.reward import verify
        from myllm.finetuning.rollout import Prompt
        from myllm.inference.generate import check_room

        pattern, rows = self.pattern(), examples.read(self.data)
        if not all(isinstance(row.get(part), str) for row in rows for part in ("prompt", "answer")):
            raise UserError(f"Each example of {self.data} needs a prompt and an answer, both texts.")
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer.")
        tokenizer = llm.tokenizer
        asked = [
            Prompt(tokenizer.encode(row["prompt"], bos=tokenizer.add_bos), row["answer"]) for row in rows
        ]

        def is_right(answer: str, text: str) -> bool:
            if pattern:
                found = pattern.search(text)
                text = (found and found[pattern.groups]) or ""
            return text.strip() == answer.strip()

        objective = GRPO(
            asked,
            verify(is_right),
            tokenizer,
            method=self.method,
            prompts_per_phase=self.prompts,
            group=self.group,
            tries=self.tries,
            batch_size=self.prompts * self.group,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            beta=self.beta,
            seed=self.seed,
        )
        for prompt in asked:
            check_room(llm.model, len(prompt.ids), self.max_new_tokens)
        return objective

    def pattern(self) -> re.Pattern[str] | None:
        """The compiled regular expression of --match, if it is given."""
        if self.match is None:
            return None
        try:
            found = re.compile(self.match, re.DOTALL)
        except re.error as error:
            raise UserError(f"--match is no regular expression: {error}.") from error
        if not found.groups:
            raise UserError("--match needs a group around the answer, such as '= (.*)'.")
        return found


COMMANDS = {"dpo": DPO, "rl": RL}
