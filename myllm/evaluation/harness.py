"""The harness: tasks, what a model scores on them, and how sure that is.

A `Task` is a name, a unit, a function that asks an `LLM`, and the texts that must not have been trained on.
Three functions make the usual kinds; a kind of your own is another such function. `myllm.cli.evaluation`
lists the tasks that come with the package; `myllm.cli.lm_eval` lets EleutherAI's harness ask the same `LLM`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor

from myllm.data.corpus import Document
from myllm.evaluation.exact_match import Verdict, exact_match
from myllm.evaluation.intervals import bootstrap
from myllm.evaluation.multiple_choice import Question, multiple_choice
from myllm.evaluation.perplexity import nll
from myllm.files import UserError

#: Prompts that a model continues together, and tokens of a text that are one row of a result.
BATCH, STRETCH = 64, 256


class Row(NamedTuple):
    """One question, or one stretch of a text, and what it scores.

    Attributes:
        answers: For each sampled answer what was written, what was extracted from it, and the verdict; of a
            multiple choice, the choices with their scores, and the chosen one; of a text, none.
        score: What the answers are worth; of a text, bits.
        weight: What the question counts; of a text, bytes.
    """

    answers: list[Verdict]
    score: float
    weight: float = 1.0


class Task(NamedTuple):
    """Questions for a model.

    Attributes:
        name: Its name.
        unit: What is scored, such as "accuracy".
        ask: Asks an `LLM` every question.
        documents: The questions with their right answers; give them to `myllm.data.contamination` together
            with a training set, to see how much of the task it contains.
    """

    name: str
    unit: str
    ask: Callable[[Any], list[Row]]
    documents: list[Document]


class Result(NamedTuple):
    """What a model scores on a task.

    Attributes:
        task: The name of the task.
        unit: What was scored.
        score: The sum of the rows' scores over the sum of their weights.
        interval: Where it would lie with other questions of the same kind; see `bootstrap`.
        rows: Every question.
    """

    task: str
    unit: str
    score: float
    interval: tuple[float, float]
    rows: list[Row]


def evaluate(llm: Any, tasks: Iterable[Task], **options: Any) -> list[Result]:
    """What an `LLM` scores on tasks, one after the other.

    Args:
        llm: The model with its tokenizer.
        tasks: The tasks.
        options: Of `bootstrap`: ``level``, ``resamples``, ``seed``.

    Raises:
        UserError: A model without a tokenizer, or as the tasks.
    """
    if llm.tokenizer is None:
        raise UserError("This model came without a tokenizer, but tasks are texts; give it one.")
    results: list[Result] = []
    for task in tasks:
        rows = task.ask(llm)
        values, weights = [one.score for one in rows], [one.weight for one in rows]
        if not math.isfinite(sum(values)):
            raise UserError(f"The score on {task.name} is {sum(values)}; the weights of the model are bad.")
        interval = bootstrap(values, weights=weights, **options)
        results.append(Result(task.name, task.unit, sum(values) / sum(weights), interval, rows))
    return results


def choices(name: str, questions: Sequence[Question], **options: Any) -> Task:
    """A task: which continuation is the most probable; `options` are those of `multiple_choice`."""

    def ask(llm: Any) -> list[Row]:
        found, rows = multiple_choice(llm.model, llm.tokenizer, questions, **options), list[Row]()
        for one, i, scores in zip(questions, found.chosen, found.scores, strict=True):
            raw = ", ".join(f"{text!r} {x:.2f}" for text, x in zip(one.choices, scores, strict=True))
            verdict = Verdict(one.context, one.choices[one.answer], raw, one.choices[i], i == one.answer)
            rows.append(Row([verdict], float(verdict.correct)))
        return rows

    texts = (one.context + "".join(one.choices[one.answer :][:1]) for one in questions)
    return Task(name, "accuracy", ask, _numbered(texts))


def generation(
    name: str,
    questions: Sequence[tuple[str, str]],
    *,
    extract: Callable[[str], str] = str.strip,
    samples: int = 1,
    score: Callable[[list[Verdict]], float] = lambda answers: fmean(one.correct for one in answers),
    seed: int = 0,
    **options: Any,
) -> Task:
    """A task: written answers, compared with the right ones character by character; see `exact_match`.

    Args:
        name: The name of the task.
        questions: Prompts with their right answers.
        extract: Maps what was written to the answer in it.
        samples: Answers to each question.
        score: What the answers to a question are worth, by default the share of the right ones. With
            ``lambda answers: pass_at_k(len(answers), sum(one.correct for one in answers), 4)`` it is pass@4.
        seed: Of the samples; no two share one.
        options: Of `LLM.generate`, such as ``max_new_tokens`` and ``temperature``.
    """

    def ask(llm: Any) -> list[Row]:
        seeds = count(seed, BATCH)

        def complete(prompts: list[str]) -> list[str]:
            return llm.generate(prompts, seed=next(seeds), **options)

        asked = [one for one in questions for _ in range(samples)]
        _, found = exact_match(complete, asked, extract=extract, batch_size=BATCH)
        groups = [found[i : i + samples] for i in range(0, len(found), samples)]
        return [Row(answers, score(answers)) for answers in groups]

    return Task(name, "exact match", ask, _numbered(f"{prompt} {answer}" for prompt, answer in questions))


def reading(name: str, texts: Sequence[str]) -> Task:
    """A task: how well a model predicts texts, in bits per byte; see `score_text`.

    A row is a stretch of a text, since a text has no questions, and a few texts give no interval.
    """

    def ask(llm: Any) -> list[Row]:
        rows: list[Row] = []
        for text in texts:
            ids, losses = score_text(llm, text)
            bits, sizes = losses.double() / math.log(2), [*map(len, llm.tokenizer.token_bytes(ids))][1:]
            parts = [slice(i, i + STRETCH) for i in range(0, len(bits), STRETCH)]
            rows += [Row([], bits[part].sum().item(), sum(sizes[part])) for part in parts]
        return rows

    return Task(name, "bits per byte", ask, _numbered(texts))


def score_text(llm: Any, text: str) -> tuple[list[int], Tensor]:
    """The ids of a text, (N,), and the `nll` of each but the first, (N - 1,).

    The begin token stands before the text, or else the end token, so that all of it is scored; with neither,
    its first token is not.
    """
    first = llm.tokenizer.eos_id if llm.tokenizer.bos_id is None else llm.tokenizer.bos_id
    ids = [i for i in (first, *llm.tokenizer.encode(text)) if i is not None]
    return ids, nll(llm.model, ids)


def _numbered(texts: Iterable[str]) -> list[Document]:
    return [Document(str(i), text) for i, text in enumerate(texts)]
