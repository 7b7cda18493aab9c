"""The evaluation harness: tasks, a model's scores on them, and intervals for the scores.

A `Task` is a name, a unit, a function that asks an `LLM`, and the texts that must not have been trained on.
Three functions make the usual kinds of task; a kind of your own is one more. `myllm.cli.evaluation`
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

#: The prompts in a batch, and the tokens of a text that make up one row of a result.
BATCH, STRETCH = 64, 256


class Row(NamedTuple):
    """One question, or one stretch of a text, and its score.

    Attributes:
        answers: For each sampled answer, what was written, what was extracted from it, and the verdict; for
            multiple choice, the choices with their scores, and the chosen one; for a text, none.
        score: The score of the answers; for a text, in bits.
        weight: The weight of the question; for a text, its bytes.
    """

    answers: list[Verdict]
    score: float
    weight: float = 1.0


class Task(NamedTuple):
    """Questions for a model.

    Attributes:
        name: Its name.
        unit: What is scored, such as "accuracy".
        ask: A function that asks an `LLM` every question.
        documents: The questions with their right answers; pass them to `myllm.data.contamination` together
            with a training set, to see how much of the task the training set contains.
    """

    name: str
    unit: str
    ask: Callable[[Any], list[Row]]
    documents: list[Document]


class Result(NamedTuple):
    """The score of a model on a task.

    Attributes:
        task: The name of the task.
        unit: What was scored.
        score: The sum of the rows' scores over the sum of their weights.
        interval: Where the score would lie with other questions of the same kind; see `bootstrap`.
        rows: One row for each question, or for each stretch of a text.
    """

    task: str
    unit: str
    score: float
    interval: tuple[float, float]
    rows: list[Row]


def evaluate(llm: Any, tasks: Iterable[Task], **options: Any) -> list[Result]:
    """Score an `LLM` on tasks, one after the other.

    Args:
        llm: The model with its tokenizer.
        tasks: The tasks.
        options: Options of `bootstrap`: ``level``, ``resamples``, ``seed``.

    Raises:
        UserError: The model has no tokenizer, a score is not finite, or a task raises one.
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
    """A task that asks for the most probable continuation; `options` are those of `multiple_choice`."""

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
    """A task whose written answers are compared with the right ones; see `exact_match`.

    Args:
        name: The name of the task.
        questions: Pairs of a prompt and its right answer.
        extract: Maps what was written to the answer in it.
        samples: The number of answers to each question.
        score: Maps the answers to a question to its score, by default the share of right ones. With
            ``lambda answers: pass_at_k(len(answers), sum(one.correct for one in answers), 4)`` it is pass@4.
        seed: The seed of the first sample; each sample has a seed of its own.
        options: Options of `LLM.generate`, such as ``max_new_tokens`` and ``temperature``.
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
    """A task that measures how well a model predicts texts, in bits per byte; see `score_text`.

    A row is a stretch of a text, since texts have no questions, and a few texts are too few for an interval.
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

    The BOS token, or else the EOS token, precedes the text, so that all of it is scored; with neither, its
    first token is not scored.
    """
    first = llm.tokenizer.eos_id if llm.tokenizer.bos_id is None else llm.tokenizer.bos_id
    ids = [i for i in (first, *llm.tokenizer.encode(text)) if i is not None]
    return ids, nll(llm.model, ids)


def _numbered(texts: Iterable[str]) -> list[Document]:
    return [Document(str(i), text) for i, text in enumerate(texts)]
