"""Exact match: every answer with its verdict, whatever the size of a batch."""

import pytest

from myllm.evaluation.exact_match import Verdict, exact_match
from myllm.files import UserError

QUESTIONS = [(f"q{i}", str(i)) for i in range(7)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_and_verdicts(batch_size):
    calls = []

    def complete(prompts):
        calls.append(len(prompts))
        return [f" <{int(prompt[1]) // 2 * 2}> " for prompt in prompts]

    score, verdicts = exact_match(
        complete, QUESTIONS, extract=lambda raw: raw.strip(" <>"), batch_size=batch_size
    )
    assert score == 4 / 7 and [one.correct for one in verdicts] == [True, False] * 3 + [True]
    assert verdicts[3] == Verdict("q3", "3", " <2> ", "2", False)
    assert sum(calls) == 7 and max(calls) <= batch_size


def test_nothing_is_guessed():
    assert exact_match(lambda prompts: [" A\n"] * len(prompts), [("q", "a")])[0] == 0
    assert exact_match(lambda prompts: [" a\n"] * len(prompts), [("q", "a")])[0] == 1
    assert exact_match(lambda prompts: ["12"] * len(prompts), [("q", "1"), ("q", "2"), ("q", "")])[0] == 0
    with pytest.raises(UserError, match="7 prompts got 6"):
        exact_match(lambda prompts: ["x"] * 6, QUESTIONS)
    with pytest.raises(UserError, match="no questions"):
        exact_match(lambda prompts: [], [])
