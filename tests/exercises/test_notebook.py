"""The card in a notebook: it never raises, and what a reader's page compares word for word is fixed."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from myllm import course
from myllm.grading import notebook
from myllm.grading.client import Worker
from myllm.grading.notebook import Card, assert_solved, check, is_stub


def stub(text: str, alphabet: str) -> torch.Tensor:
    """Not yet."""
    raise NotImplementedError


def right(text: str, alphabet: str) -> torch.Tensor:
    table = torch.zeros(len(alphabet), len(alphabet), dtype=torch.int64)
    for i in range(1, len(text)):
        if text[i - 1] in alphabet and text[i] in alphabet:
            table[alphabet.index(text[i - 1]), alphabet.index(text[i])] += 1
    return table


def swapped(text: str, alphabet: str) -> torch.Tensor:
    return right(text, alphabet).T


@pytest.fixture(autouse=True)
def shared(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "worker", lambda: worker)


def test_a_stub_gives_a_fixed_card_and_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "worker", None)
    card = check("01.1", stub)
    assert repr(card) == (
        "01.1 Count bigrams: not started\n"
        "Replace `raise NotImplementedError` with your answer and run the cell again."
    )
    assert card._repr_html_() == check("01.1", stub)._repr_html_()


def test_a_solved_card_is_fixed() -> None:
    cards = [check("01.1", right) for _ in range(2)]
    points = cards[0].result and cards[0].result.points
    assert repr(cards[0]) == repr(cards[1]) == f"01.1 Count bigrams: passed, {points} of {points} points"
    assert cards[0]._repr_html_() == cards[1]._repr_html_()


def test_a_wrong_answer_is_named() -> None:
    card = check("01.1", swapped, seed=3)
    assert "rows and columns swapped" in repr(card) and "--seed" not in repr(card)
    assert repr(card).endswith('The same random cases again: check("01.1", bigram_counts, seed=3)')
    assert "rows and columns swapped" in card._repr_html_()
    assert repr(course.check("01.1", swapped, seed=3)) == repr(card)


def test_a_closure_travels() -> None:
    offset = 1

    def answer(text: str, alphabet: str) -> torch.Tensor:
        return right(text, alphabet) * offset

    assert check("01.1", answer).result.status == "passed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("id", "function", "told"),
    [
        ("99.9", right, "There is no exercise '99.9'"),
        (None, right, "There is no exercise None"),
        ([], right, "There is no exercise []"),
        ("01.1", 3, "needs the function itself: check('01.1', bigram_counts)"),
        ("01.1", right("ab", "ab"), "needs the function itself"),
        ("01.1", (lambda lock: lambda text, alphabet: lock)(threading.Lock()), "could not be checked"),
    ],
)
def test_it_never_raises(id: Any, function: Any, told: str) -> None:
    card = check(id, function)
    assert isinstance(card, Card) and told in repr(card)
    assert card._repr_html_()


def test_the_card_is_safe_and_themed_html() -> None:
    def answer(text: str, alphabet: str) -> torch.Tensor:
        raise ValueError("<script>alert(1)</script>")

    page = check("01.1", answer)._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page
    colours = re.findall(r"(?:^|;|\")(?:color|background|border-left):([^;\"]+)", page)
    assert colours and all("var(--pst-color-" in value or value in ("none", "inherit") for value in colours)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise NotImplementedError", True),
        ("'''Doc.'''\n    raise NotImplementedError", True),
        ("raise NotImplementedError('later')", False),
        ("return x", False),
        ("if x: return 1\n    raise NotImplementedError", False),
        ("return NotImplementedError", False),
    ],
)
def test_what_counts_as_a_stub(body: str, expected: bool) -> None:
    space: dict[str, Any] = {}
    exec(f"def f(x=None):\n    {body}", space)
    assert is_stub(space["f"]) == expected


def test_progress_is_kept_where_exercises_were_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check("01.1", right)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".myllm").mkdir()
    (tmp_path / ".myllm/progress.json").write_text(
        '{"version": 1, "points": 0, "earned": 0, "exercises": []}'
    )
    check("01.1", right)
    kept = json.loads((tmp_path / ".myllm/progress.json").read_text())
    assert kept["exercises"][0]["status"] == "passed"


def test_under_pytest() -> None:
    assert_solved("01.1", right)
    with pytest.raises(AssertionError, match="rows and columns swapped"):
        assert_solved("01.1", swapped)
