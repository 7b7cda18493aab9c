"""Exact match: what a model answered, what was extracted from it, and the verdict, side by side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from myllm.files import UserError


class Verdict(NamedTuple):
    """One answer.

    Attributes:
        prompt: What was asked.
        expected: The right answer.
        raw: What the model wrote.
        extracted: The part of `raw` that counts as the answer.
        correct: Whether `extracted` equals `expected`.
    """

    prompt: str
    expected: str
    raw: str
    extracted: str
    correct: bool


def exact_match(
    complete: Callable[[list[str]], Sequence[str]],
    questions: Sequence[tuple[str, str]],
    *,
    extract: Callable[[str], str] = str.strip,
    batch_size: int = 64,
) -> tuple[float, list[Verdict]]:
    """Ask questions and compare the answers with the right ones, character by character.

    Args:
        complete: Maps prompts to what the model writes after each, such as `LLM.generate` with its options.
        questions: Pairs of a prompt and its right answer.
        extract: Maps what was written to the answer in it.
        batch_size: Prompts per call of `complete`.

    Returns:
        The share of right answers, and every answer with its verdict.

    Raises:
        UserError: There are no questions, or `complete` returns the wrong number of texts.
    """
    if not questions:
        raise UserError("There are no questions; give at least one.")
    found: list[Verdict] = []
    for start in range(0, len(questions), batch_size):
        part = questions[start : start + batch_size]
        written = complete([prompt for prompt, _ in part])
        if len(written) != len(part):
            raise UserError(f"{len(part)} prompts got {len(written)} answers; return one for each.")
        for (prompt, expected), raw in zip(part, written, strict=True):
            answer = extract(raw)
            found.append(Verdict(prompt, expected, raw, answer, answer == expected))
    return sum(one.correct for one in found) / len(found), found
