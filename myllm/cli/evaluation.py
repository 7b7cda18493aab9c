"""``myllm evaluate``, and the tasks that come with the package."""

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import UseAppendAction, arg

from myllm.cli.models import Name, table
from myllm.files import UserError, expand, read_filled, read_text

if TYPE_CHECKING:
    from myllm.data.corpus import Document
    from myllm.evaluation import harness
    from myllm.evaluation.harness import Result, Task
    from myllm.evaluation.multiple_choice import Question
    from myllm.llm import LLM

SHIPPED = {
    "word-ops": "exact match on word-ops, with held-out words spelled",
    "next-line": "which of four lines follows, in held-out works of Shakespeare",
    "shakespeare": "bits per byte of held-out works of Shakespeare",
    "moby-dick": "bits per byte of another author",
}
"""The tasks that come with the package; they need no network."""


def shipped(*names: str) -> "list[harness.Task]":
    """Some of the tasks in `SHIPPED`, or all.

    The course's own models were trained on neither the held-out words and works nor Moby-Dick. Other
    published models were surely trained on Shakespeare and Melville: compare their bits per byte with care.

    Raises:
        UserError: There is no task of that name.
    """
    from myllm.data import corpus, wordops
    from myllm.evaluation.harness import choices, generation, reading

    if unknown := [name for name in names if name not in SHIPPED]:
        raise UserError(f"There is no task {unknown[0]!r}; take some of {', '.join(SHIPPED)}.")
    tasks: list[Task] = []
    for name in names or SHIPPED:
        if name == "word-ops":
            asked = wordops.tasks(256, held_out=True, spelled=True)
            pairs = [(one.prompt, one.answer) for one in asked]
            tasks.append(generation(name, pairs, extract=wordops.extract, max_new_tokens=32))
        elif name == "moby-dick":
            tasks.append(reading(name, [corpus.text("moby-dick")[:30_000]]))
        else:
            held_out = [one for one in corpus.load("shakespeare") if one.id in corpus.HELD_OUT]
            if name == "next-line":
                tasks.append(choices(name, next_lines(held_out, 80), per="byte"))
            else:
                tasks.append(reading(name, [one.text[:30_000] for one in held_out]))
    return tasks


def next_lines(documents: "Iterable[Document]", n: int, *, seed: int = 0) -> "list[Question]":
    """Questions of this kind: which of four lines of a document follows the eight before?

    Args:
        documents: Verse, or anything else in lines.
        n: Questions from each document.
        seed: Determines the questions.
    """
    from myllm.evaluation.multiple_choice import Question

    generator, found = random.Random(seed), list[Question]()
    for document in documents:
        lines = document.text.splitlines()
        long = [i for i in range(8, len(lines)) if min(len(lines[i - 1]), len(lines[i])) >= 30]
        for i in generator.sample(long, n):
            others = sorted({lines[j] for j in long} - {lines[i]})
            choices = [f"\n{line}" for line in (lines[i], *generator.sample(others, 3))]
            generator.shuffle(choices)
            context = "\n".join(lines[i - 8 : i])
            found.append(Question(context, choices, choices.index(f"\n{lines[i]}")))
    return found


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure what a model can do: a score for each task, with an interval over its questions.

    Without --task, --text and --questions, all tasks that come with the package are run: word-ops (exact
    match, on held-out words), next-line (multiple choice), shakespeare and moby-dick (bits per byte). Each
    line of a file of questions is an object with "prompt" and "answer", which is compared with what the model
    writes, or with "context", "choices" and "answer", the index of the right choice, from 0.

    Examples:
        myllm evaluate course-sft
        myllm evaluate smollm2 --questions sums.jsonl --chat --extract '[0-9]+' --show 5
        myllm evaluate course-base --text notes.txt --format json
    """

    model: Name
    """The model, as `myllm generate` takes it."""
    task: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME")] = ()
    """A task that comes with the package."""
    text: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FILE")] = ()
    """Measure bits per byte of this text."""
    questions: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FILE")] = ()
    """Ask the questions in this JSONL file."""
    chat: bool = False
    """Ask for written answers in the model's chat format, as a user."""
    max_new_tokens: Annotated[int | None, arg(metavar="N")] = None
    """The most tokens of an answer to a question of FILE; by default 32."""
    extract: Annotated[str | None, arg(metavar="PATTERN")] = None
    """The part of a written answer that counts: the last match of this regular expression, or its first
    group; by default all of it, trimmed."""
    train: Annotated[str | None, arg(metavar="FILE")] = None
    """Say how much of the questions and their right answers this training text contains."""
    level: float = 0.95
    """The confidence level of the intervals."""
    show: Annotated[int, arg(metavar="N")] = 0
    """Print N questions of each task: what was written, what was extracted from it, and the verdict."""
    format: Literal["text", "json"] = "text"
    """json prints everything, every question included."""

    def run(self) -> int:
        """Evaluate and print the card."""
        tasks = self.tasks()
        shares = [] if self.train is None else _contained(tasks, self.train)
        results = self.measure(tasks)
        print(self._json(results, shares) if self.format == "json" else self._card(results, shares), end="")
        return 0

    def tasks(self) -> "list[Task]":
        """The tasks that were asked for, read and checked before a model is loaded."""
        from myllm.evaluation.harness import reading

        if not 0 < self.level < 1:
            raise UserError(f"--level must lie between 0 and 1, not {self.level}.")
        length = 32 if self.max_new_tokens is None else self.max_new_tokens
        if self.show < 0 or length < 1:
            raise UserError("--show must be 0 or more, --max-new-tokens 1 or more.")
        if self.show and self.format == "json":
            raise UserError("--show has no effect with --format json, which holds every question.")
        tasks = [reading(path, [read_filled(path)]) for path in self.text]
        tasks += [_task(path, length, _extractor(self.extract)) for path in self.questions]
        written = [task for task in tasks if task.unit == "exact match"]
        if not written and (self.max_new_tokens, self.extract) != (None, None):
            what = "without --questions FILE that asks for written answers"
            raise UserError(f"--max-new-tokens and --extract have no effect {what}.")
        if self.task or not tasks:
            tasks = [*shipped(*self.task), *tasks]
        if self.chat and all(task.unit != "exact match" for task in tasks):
            raise UserError("--chat has no effect: no task asks for a written answer.")
        if self.show and all(task.unit == "bits per byte" for task in tasks):
            raise UserError("--show has no effect: no task has questions.")
        return tasks

    def measure(self, tasks: "Sequence[Task]") -> "list[Result]":
        """The scores of the model on these tasks."""
        from myllm.evaluation.harness import evaluate
        from myllm.llm import LLM

        llm = LLM.from_pretrained(self.model)
        return evaluate(_Chat(llm) if self.chat else llm, tasks, level=self.level)

    def _json(self, results: "Sequence[Result]", shares: Sequence[float]) -> str:
        found: list[dict[str, Any]] = []
        for i, one in enumerate(results):
            rows = [row._asdict() | {"answers": [x._asdict() for x in row.answers]} for row in one.rows]
            found.append(one._asdict() | {"questions": len(rows), "rows": rows})
            if shares:
                found[-1]["contained"] = shares[i]
        return json.dumps({"model": self.model, "level": self.level, "results": found}) + "\n"

    def _card(self, results: "Sequence[Result]", shares: Sequence[float]) -> str:
        from rich.markup import escape

        header = [escape(self.model), "score", f"{self.level:.0%} interval", "of", ""]
        rows: list[list[str]] = []
        for one in results:
            low, high = one.interval
            what = "stretches" if one.unit == "bits per byte" else "questions"
            interval, size = f"{low:.3f} to {high:.3f}", f"{len(one.rows):,} {what}"
            rows.append([escape(one.task), f"{one.score:.3f}", interval, size, one.unit])
        if shares:
            header.append("contained")
            rows = [[*row, f"{share:.1%}"] for row, share in zip(rows, shares, strict=True)]
        table(header, rows)
        lines: list[str] = []
        for one in results:
            for answer in (row.answers[0] for row in one.rows[: self.show] if row.answers):
                verdict = "right" if answer.correct else f"wrong, it is {answer.expected!r}"
                lines.append(f"\n{one.task}: {answer.prompt!r}\n  written    {answer.raw!r}\n")
                lines.append(f"  extracted  {answer.extracted!r}: {verdict}\n")
        return "".join(lines)


COMMANDS = {"evaluate": Evaluate}


class _Chat:
    """An `LLM` that gets each prompt as a user's message."""

    def __init__(self, llm: "LLM") -> None:
        self.model, self.tokenizer, self.llm = llm.model, llm.tokenizer, llm

    def generate(self, prompts: list[str], **options: Any) -> list[str]:
        asked = [self.llm.chat_ids([{"role": "user", "content": prompt}]) for prompt in prompts]
        return [text for text, _ in self.llm.complete(asked, **options)]


def _contained(tasks: "Iterable[Task]", path: str) -> list[float]:
    """How much of each task a training text contains: the mean over its questions."""
    from myllm.data.contamination import contamination
    from myllm.data.corpus import Document

    train = [Document(path, read_filled(path))]
    found = [contamination(train, task.documents).values() for task in tasks]
    return [sum(one) / len(one) for one in found]


def _extractor(pattern: str | None) -> Callable[[str], str]:
    """The function that extracts an answer from generated text; if nothing matches, the answer is empty."""
    if pattern is None:
        return str.strip
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--extract is no regular expression: {error}.") from error

    def extract(text: str) -> str:
        found = [*expression.finditer(text)]
        return (found[-1][min(1, expression.groups)] or "").strip() if found else ""

    return extract


def _task(path: str, max_new_tokens: int, extract: Callable[[str], str]) -> "Task":
    """The task that a file of questions defines.

    Raises:
        UserError: A line is not a question, the questions are of both kinds, or there are none.
    """
    from myllm.evaluation.harness import choices, generation
    from myllm.evaluation.multiple_choice import Question

    pairs, asked = list[tuple[str, str]](), list[Question]()
    for number, line in enumerate(read_text(expand(path)).split("\n"), 1):
        if not line.strip():
            continue
        match _object(line):
            case {"prompt": str(prompt), "answer": str(answer)} if prompt:
                pairs.append((prompt, answer))
            case {"context": str(context), "choices": [*texts], "answer": int(i)} if _fit(texts, i):
                asked.append(Question(context, texts, i))
            case _:
                kinds = '"prompt" and "answer", or "context", "choices" and "answer", a number'
                raise UserError(f"Line {number} of {path} is no question; it needs {kinds}.")
        if pairs and asked:
            raise UserError(f"Line {number} of {path} is of another kind than the first; use two files.")
    if not pairs and not asked:
        raise UserError(f"There are no questions in {path}; give one a line.")
    if asked:
        return choices(path, asked)
    return generation(path, pairs, extract=extract, max_new_tokens=max_new_tokens)


def _object(line: str) -> Mapping[str, Any] | None:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _fit(choices: Sequence[Any], answer: int) -> bool:
    return all(isinstance(choice, str) for choice in choices) and not isinstance(answer, bool)
