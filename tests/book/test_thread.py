"""What every chapter keeps to: linked chapters, honest minutes, fair quizzes, plain English, true scores."""

import json
import math
import re
from pathlib import Path

import jupytext
import pytest
import yaml

from bench import scoreboard

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]-*.md"))
PAGES = [*sorted(BOOK.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BOARD = json.loads((BOOK / "_results" / "scoreboard.json").read_text("utf-8"))

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


LITERAL = {"{code-cell}", "{quiz}", "{eval-rst}", "{proofs}", "{chapter-cards}"}


def prose(text: str) -> str:
    """A page without code, the quiz, directives' options and labels; what directives hold stays."""
    kept, skipped, inside = [], "", re.sub(r"\A---.*?^---$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in inside.splitlines():
        fence = re.match(r"(`{3,})\s*(\S*)", line.strip())
        if skipped:
            skipped = "" if line.strip() == skipped else skipped
        elif fence and (fence[2] in LITERAL or (fence[2] and not fence[2].startswith("{"))):
            skipped = fence[1]
        elif not fence and not re.match(r"\s*:\w+:|\([\w-]+\)=$", line):
            kept.append(line)
    return "\n".join(kept)


def without_exercises(text: str) -> str:
    """A chapter without its exercises and its quiz."""
    return re.sub(r"^## (?:Exercises|Quiz)$.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)


def minutes(text: str) -> int:
    """200 words and 12 lines of code a minute, rounded up to the next 5."""
    text = without_exercises(text)
    cells = jupytext.reads(text, fmt="md:myst").cells
    code = [line for c in cells if c.cell_type == "code" for line in c.source.splitlines() if line.strip()]
    return 5 * math.ceil((len(prose(text).split()) / 200 + len(code) / 12) / 5)


@each_chapter
def test_the_minutes_on_the_card_are_those_of_the_formula(path):
    text = path.read_text("utf-8")
    stated = re.search(r"\*\*Time\*\* about (?:an hour|(\d+) minutes) to read", text)
    assert int(stated[1] or 60) == minutes(text) <= 60


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_formula_is_torn_into_a_list(path):
    """A line that a wrap makes begin with + ends the paragraph, and with it a formula; lists use -."""
    assert re.findall(r"^ *\+ .*", prose(path.read_text("utf-8")), re.MULTILINE) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_mention_of_a_chapter_is_a_link_with_its_number(path):
    if path.suffix != ".md" or path.parent != BOOK or path.stem == "source-map":
        return
    text = prose(path.read_text("utf-8"))
    linked = re.sub(r"{(?:doc|ref)}`[^`]*`|\[[^\]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert re.findall(r"[Cc]hapters?\s+\d+", linked) == []
    for number, target in re.findall(r"{doc}`[^`<]*?[Cc]hapter\s+(\d+)\s*<([^>]*)>`", text):
        assert target.startswith(f"{int(number):02}-")


@each_chapter
def test_the_quiz_does_not_give_its_answers_away(path):
    [block] = re.findall(r"^```{quiz}\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    questions = yaml.safe_load(block)
    lengths = [[len(str(option)) for option in question["options"]] for question in questions]
    longest = [n for n, q in zip(lengths, questions, strict=True) if n[q["answer"]] == max(n)]
    assert len(questions) >= 3
    assert len(longest) <= len(questions) / 2
    assert len({q["answer"] for q in questions}) >= min(3, len(questions))


QUAINT = r"\b(?:mend\w*|reckon\w*|only so|nought|whilst|therein|thereof|hitherto)\b"
ATTENTION = r"\b(?:bends?|narrows? it|queries ask|position asks|asks the keys)\b"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_pages_use_the_terms_of_the_field(path):
    found = re.findall(f"{QUAINT}|{ATTENTION}", prose(path.read_text("utf-8")), re.IGNORECASE)
    assert found == []


@pytest.mark.parametrize("folder", ["myllm", "solutions"])
def test_the_code_uses_the_terms_of_the_field(folder):
    found = {}
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.toml")]:
        if hits := re.findall(QUAINT, path.read_text("utf-8"), re.IGNORECASE):
            found[path.relative_to(ROOT).as_posix()] = hits
    assert found == {}


# The scoreboard.


def test_counted_rows_of_the_scoreboard_are_what_they_say():
    written = {row["model"]: row for row in BOARD["rows"]}
    for row in scoreboard.counted():
        assert written[row["model"]] == pytest.approx(row)
    assert BOARD["bytes"] == scoreboard.n_bytes()


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_trained_rows_of_the_scoreboard_are_what_their_weights_score(name):
    bits, parameters = scoreboard.trained(name)
    [row] = [row for row in BOARD["rows"] if row["model"].lower().startswith(name)]
    assert row["bits"] == pytest.approx(bits, abs=1e-3)
    assert row["parameters"] == parameters


def test_the_scoreboard_stands_where_a_row_is_added():
    adds = {row["chapter"] for row in BOARD["rows"]}
    for path in CHAPTERS:
        drawn = re.findall(r"^```{scoreboard} (\d+)$", path.read_text("utf-8"), re.MULTILINE)
        assert [int(number) for number in drawn] == (
            [int(path.stem[:2])] if int(path.stem[:2]) in adds else []
        )
