"""``myllm pipeline``: from a base to a model that is fine-tuned, quantized and measured, stage by stage."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import UseAppendAction, arg

from myllm.cli.evaluation import Evaluate
from myllm.cli.export import Export
from myllm.cli.finetuning import SFT, Data, load, say
from myllm.cli.models import Name, table
from myllm.cli.policy import DPO, RL
from myllm.cli.quantization import Quantize
from myllm.cli.stages import Stage, alone, digest, files, run_stage, source
from myllm.files import UserError, atomic_write, check_place, expand, read_json, sha256

if TYPE_CHECKING:
    from myllm.evaluation.harness import Task

SCORES, CARD, PAGE = "scores.json", "card.json", "model.html"
CONVERSATIONS = {"messages"}, {"prompt", "response"}
FIELDS = {"sft": CONVERSATIONS, "dpo": [{"prompt", "chosen", "rejected"}], "rl": [{"prompt", "answer"}]}
"""What an example of a stage has: one of these sets of fields."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    r"""Make a model in one go: fine-tune a base, learn from preferences or rewards, quantize, measure.

    Each stage is a command of its own, whose other options keep their defaults: `myllm sft`, then `myllm dpo`
    or `myllm rl` if --preferences or --tasks gives examples, then `myllm quantize`. At the end a report card
    compares the base, each stage and the quantized model, as `myllm evaluate` does.

    FOLDER holds 1-sft, 2-dpo or 2-rl, and 3-quantized, each with its model; card.json; and, if `myllm export`
    can write it, model.html, a page that runs the last trained model. After any interruption, the same
    command resumes: finished work is not repeated, and the result is the same to the last bit. With other
    questions, the models are measured again; other options or examples for a stage that has begun need
    another --out.

    Examples:
        myllm pipeline course-base --sft mine.jsonl --preferences pairs.jsonl --out mine
        myllm pipeline course-base --sft mine.jsonl --tasks sums.jsonl --questions exam.jsonl --out sums
        myllm chat mine/3-quantized/model
    """

    model: Name
    """The base, as `myllm generate` takes it."""
    sft: Data
    """Examples as `myllm sft` reads them."""
    preferences: Annotated[str | None, arg(metavar="FILE")] = None
    """Pairs as `myllm dpo` reads them."""
    tasks: Annotated[str | None, arg(metavar="FILE")] = None
    """Prompts with right answers, as `myllm rl` reads them."""
    match: Annotated[str | None, arg(metavar="REGEX")] = None
    """With --tasks: a regular expression that finds the answer in the generated text."""
    scheme: Annotated[str, arg(metavar="NAME")] = "int8"
    """How the result is quantized."""
    out: Annotated[str, arg(metavar="FOLDER")] = "pipeline"
    """Where everything is written; the same command, run again, resumes there."""
    lora: Annotated[int, arg(metavar="RANK")] = 0
    """Train adapters of this rank, and merge them after each stage; 0 trains the weights."""
    epochs: float = 3.0
    """How many times each example of --sft and --preferences is seen."""
    lr: float = 1e-4
    """Peak learning rate of `myllm sft`."""
    updates: Annotated[int | None, arg(metavar="N")] = None
    """With --tasks: updates of `myllm rl`; by default 100."""
    policy_lr: Annotated[float | None, arg(metavar="X")] = None
    """With --preferences or --tasks: peak learning rate of `myllm dpo` or `myllm rl`, by default 1e-4."""
    questions: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FILE")] = ()
    """Measure on the questions in this JSONL file; by default, on the tasks that come with the package."""
    text: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FILE")] = ()
    """Measure bits per byte of this text."""
    seed: int = 0
    """Seed of all stages."""

    def run(self) -> int:
        """Run what is not finished yet, and print the card."""
        self.check_options()
        folder, stages = expand(self.out), self.stages()
        self.check(folder, stages)
        tasks, base = self.evaluation(self.model).tasks(), source(self.model)
        self.check_examples(stages)
        with alone(folder):
            found = {"base": (base, digest(base))}
            for stage in stages:
                _, before = [*found.values()][-1]
                found[stage.folder.name] = stage.model, run_stage(stage, before, self.seed)
            scores = self.measure(tasks, folder / SCORES, found)
            write_card(folder, scores)
            self.write_page(folder, stages[-2].model, f"{self.model}, {', '.join([*found][1:-1])}")
        print_card(scores)
        print(f"\nThe card is in {self.out}/{CARD}, the model in {stages[-1].model}.")
        return 0

    def stages(self) -> list[Stage]:
        """The stages in their order, each on the model of the one before."""
        from myllm.weights.gguf_writer import KINDS

        out, shared = expand(self.out), {"lora": self.lora, "seed": self.seed}
        first, last = out / "1-sft", out / "3-quantized"
        options: dict[str, Any] = {**shared, "epochs": self.epochs, "lr": self.lr}
        found = [
            Stage(first, SFT(model=self.model, data=self.sft, out=str(first), **options), first / "model")
        ]
        second = out / ("2-rl" if self.preferences is None else "2-dpo")
        options = {"lr": self.policy_lr, "updates": self.updates, "match": self.match}
        options = {name: value for name, value in options.items() if value is not None}
        options |= {**shared, "model": str(first / "model"), "out": str(second)}
        if self.preferences is not None:
            command = DPO(data=self.preferences, epochs=self.epochs, **options)
            found.append(Stage(second, command, second / "model"))
        elif self.tasks is not None:
            found.append(Stage(second, RL(data=self.tasks, **options), second / "model"))
        model = last / ("model.gguf" if self.scheme in KINDS else "model")
        quantize = Quantize(str(found[-1].model), self.scheme, str(model))
        return [*found, Stage(last, quantize, model)]

    def check_options(self) -> None:
        """Refuse options that are out of range or have no effect."""
        from myllm.quantization.schemes import SCHEMES
        from myllm.weights.gguf_writer import KINDS

        if self.preferences is not None and self.tasks is not None:
            raise UserError("Give --preferences or --tasks, not both; each is a second stage.")
        if self.tasks is None and (self.match, self.updates) != (None, None):
            raise UserError("--match and --updates have no effect without --tasks FILE.")
        if self.policy_lr is not None and self.preferences is None and self.tasks is None:
            raise UserError("--policy-lr has no effect without --preferences FILE or --tasks FILE.")
        given = [one for one in (self.lr, self.policy_lr, self.updates) if one is not None]
        if self.lora < 0 or not all(one > 0 for one in given):
            raise UserError("--lora must be at least 0, --updates at least 1, learning rates more than 0.")
        schemes = [name for name in (*SCHEMES, *KINDS) if name != "gptq"]  # which needs a calibration
        if self.scheme not in schemes:
            raise UserError(f"--scheme must be one of {', '.join(schemes)}, not {self.scheme!r}.")

    def check(self, folder: Path, stages: list[Stage]) -> None:
        """Refuse files that a later stage would refuse, and a folder that holds something else."""
        from myllm.data import examples

        if folder.exists() and not folder.is_dir():
            raise UserError(f"{self.out} is a file; choose another --out.")
        for stage in stages[:-1]:
            command = stage.command
            assert not isinstance(command, Quantize)
            kind = type(command).__name__.lower()
            rows = examples.read(command.data)
            if not all(any(one <= row.keys() for one in FIELDS[kind]) for row in rows):
                wanted = ", or ".join(" and ".join(sorted(one)) for one in FIELDS[kind])
                raise UserError(f"Each example of {command.data} needs {wanted} for myllm {kind}.")
            command.check()
        check_place(folder)
        there = {one.name for one in folder.glob("[!.]*")}
        if there and stages[0].folder.name not in there:
            raise UserError(f"{self.out} is in use and holds no pipeline; choose another --out.")
        of_others = {one.name for one in folder.glob("[0-9]-*")} - {one.folder.name for one in stages}
        if of_others:
            what = f"{self.out} holds {min(of_others)}, which this command has not"
            raise UserError(f"{what}; take the options that it was begun with, or another --out.")

    def check_examples(self, stages: list[Stage]) -> None:
        """Refuse examples that a stage could not learn from; all models have the tokenizer of the base."""
        from myllm.finetuning.lora import check_rank, linears

        llm = load(self.model)
        check_rank((layer for _, layer in linears(llm.model)), self.lora)
        for stage in stages:
            if not isinstance(stage.command, Quantize):
                stage.command.objectives(llm)

    def evaluation(self, model: str) -> Evaluate:
        """The evaluation of a model."""
        return Evaluate(model=model, questions=self.questions, text=self.text)

    def measure(self, tasks: "list[Task]", file: Path, models: dict[str, tuple[Path, str]]) -> "list[Score]":
        """The scores of each model; those measured before are read from the file."""
        known: Any = read_json(file, "scores") if file.is_file() else {}
        asked = {path: sha256(expand(path)) for path in (*self.questions, *self.text)}
        scores: list[Score] = []
        for name, (path, content) in models.items():
            key = json.dumps([content, asked])
            if key not in known:
                say(f"{name} is measured")
                results = self.evaluation(str(path)).measure(tasks)
                known[key] = [[x.task, x.unit, x.score, *x.interval] for x in results]
                atomic_write(file, json.dumps(known, indent=1) + "\n")
            scores += [Score(name, *one) for one in known[key]]
            stored = (one for one in files(path) if one.suffix in (".safetensors", ".gguf"))
            scores.append(Score(name, "weights", "bytes", sum(one.stat().st_size for one in stored)))
        return scores

    def write_page(self, folder: Path, model: Path, title: str) -> None:
        """Write the page, unless it exists already or cannot run the model."""
        if not (folder / PAGE).exists():
            try:
                Export(str(model), str(folder / PAGE), title=title, card=str(folder / CARD)).run()
            except UserError as error:
                say(f"There is no {PAGE}: {error}")


class Score(NamedTuple):
    """A line of the card; what is counted, not measured, has no interval."""

    model: str
    task: str
    unit: str
    score: float
    low: float | None = None
    high: float | None = None


def write_card(folder: Path, scores: list[Score]) -> None:
    """Write the card in the form that `myllm export` reads; if it changes, first remove the old page."""
    card: dict[str, Any] = {}
    for one in scores:
        value = one.score if one.low is None else [one.score, one.low, one.high]
        card[f"{one.task}, {one.unit}: {one.model}"] = value
    text = json.dumps(card, indent=1) + "\n"
    if not (folder / CARD).is_file() or (folder / CARD).read_text("utf-8") != text:
        (folder / PAGE).unlink(missing_ok=True)
        atomic_write(folder / CARD, text)


def print_card(scores: list[Score]) -> None:
    """Print the card: for each task, what each model scores."""
    from rich.markup import escape

    rows: list[list[str]] = []
    for task, unit in dict.fromkeys((one.task, one.unit) for one in scores):
        for one in scores:
            if (one.task, one.unit) == (task, unit):
                counted = one.low is None
                number = f"{one.score:,}" if counted else f"{one.score:.3f}"
                interval = "" if counted else f"{one.low:.3f} to {one.high:.3f}"
                rows.append([escape(task), escape(one.model), number, interval, unit])
    table(["", "model", "score", "95% interval", ""], rows)


COMMANDS = {"pipeline": Pipeline}
