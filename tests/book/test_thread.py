"""What every chapter keeps to: linked chapters, honest minutes, fair quizzes, plain English, true scores."""

import json
import math
import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jupytext
import pytest
import torch
import yaml

from bench import scoreboard
from myllm import LLM
from myllm.data import downloads
from myllm.evaluation.perplexity import nll

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]-*.md"))
PAGES = [*sorted(BOOK.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BOARD = json.loads((BOOK / "_results" / "scoreboard.json").read_text("utf-8"))

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


LITERAL = {"{code-cell}", "{quiz}", "{eval-rst}", "{proofs}", "{chapter-cards}"}


def prose(text: str, *, quiz: bool = False) -> str:
    """A page without code, the quiz (unless asked for), options and labels; what directives hold stays."""
    literal = LITERAL - {"{quiz}"} if quiz else LITERAL
    kept, skipped, inside = [], "", re.sub(r"\A---.*?^---$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in inside.splitlines():
        fence = re.match(r"(`{3,})\s*(\S*)", line.strip())
        if skipped:
            skipped = "" if line.strip() == skipped else skipped
        elif fence and (fence[2] in literal or (fence[2] and not fence[2].startswith("{"))):
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


def number_of(page: str) -> str:
    """The number of the chapter or the letter of the appendix that a page is; "" for another page."""
    match = re.match(r"(?:/?book/)?(?:(\d\d)|([a-d]))-[a-z0-9-]+(?:\.md)?$", page)
    return (match[1] or match[2]).lstrip("0").upper() if match else ""


@cache
def labels() -> dict[str, str]:
    """The page of every label, by its name."""
    return {
        label: path.stem
        for path in BOOK.glob("*.md")
        for label in re.findall(r"^\(([\w-]+)\)=$", path.read_text("utf-8"), re.MULTILINE)
    }


LINK = re.compile(r"{(doc|ref)}`([^`]*)`|!?\[([^\]]*)\]\(([^)\s]*)\)")
ORDER = r"\b(?:next|previous|preceding|following) chapters?\b"


def mentions(text: str) -> list[str]:
    """What is wrong with the mentions of chapters in a page's prose.

    A chapter is named by a link with its number: "chapter 5", "5", "5 Attention". A link into a section
    may say anything but another number; the row of a table says the number in its first cell.
    """
    plain = LINK.sub("", text)
    faults = re.findall(
        r"[Cc]hapters?\s+(?:(?:and|to|or|,)\s*)*\d+", plain
    )  # what is left of "chapters 5 and 6", too
    faults += re.findall(ORDER, " ".join(text.split()), re.IGNORECASE)
    for link in LINK.finditer(text):
        role, inside, said, address = link.groups()
        if role:
            said, _, address = inside.removesuffix(">").rpartition("<")
        said, (page, _, anchor) = " ".join(said.split()), address.partition("#")
        number = number_of(page)
        section = bool(anchor) or not number
        number = number or number_of(labels().get(page or anchor, ""))
        spoken = re.search(r"[Cc]hapter (\d+)|[Aa]ppendix ([A-D])\b", said)
        begins = re.match(r"(?:(?:[Cc]hapter|[Aa]ppendix) )?(\d+(?![\w-])|[A-D](?=[,:]|$))", said)
        row = text[text.rfind("\n", 0, link.start()) + 1 : link.start()]
        if spoken:
            wrong = number not in spoken.groups()
        elif begins and not section:
            wrong = number != begins[1]
        else:
            wrong = bool(number and said) and not section and not row.startswith(f"| {number} |")
        if wrong:
            faults.append(link[0])
    return faults


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_mention_of_a_chapter_is_a_link_with_its_number(path):
    if path.name != "source-map.md":
        assert mentions(prose(path.read_text("utf-8"), quiz=True)) == []


@pytest.mark.parametrize(
    "text",
    [
        "see chapter 5",
        "see the next chapter",
        "as in\nthe previous\nchapter",
        "{doc}`attention <05-attention>`",
        "{doc}`6 <05-attention>`",
        "{doc}`chapter 6 <05-attention>`",
        "{doc}`chapter\n6 <05-attention>`",
        "{doc}`appendix C <a-one-diff>`",
        "{doc}`chapter 5 <notation>`",
        "[chapter 9](05-attention)",
        "[9](book/05-attention.md)",
        "[attention](05-attention.md)",
        "[chapter 9](05-attention.md#causal-mask)",
        "[chapter 9](causal-mask)",
        "{ref}`chapter 9 <causal-mask>`",
        "| 9 | {doc}`Attention <05-attention>` |",
        "chapters {doc}`5 <05-attention>` and {doc}`7 <06-fast-attention>`",
    ],
)
def test_a_wrong_mention_is_seen(text):
    assert mentions(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "a later chapter, in the chapter, earlier chapters",
        "{doc}`05-attention`",
        "{doc}`5 <05-attention>`, {doc}`5 Attention <05-attention>`, {doc}`appendix A <a-one-diff>`",
        "{doc}`chapter 5 <05-attention>`, {doc}`Chapter\n5 <05-attention>`",
        "{doc}`table <chapters>`, {ref}`the mask <causal-mask>`, {ref}`chapter 5: the mask <causal-mask>`",
        "[5, Attention](book/05-attention.md), [5](05-attention.md), [the mask](05-attention.md#causal-mask)",
        "| 5 | {doc}`Attention <05-attention>` |",
        "| 1 | {doc}`A first language model <01-first-model>` | {doc}`A, one diff <a-one-diff>`",
        "![The map](book/figures/map.svg), [PyTorch 2](https://pytorch.org/05-attention)",
    ],
)
def test_a_right_mention_is_none(text):
    assert mentions(text) == []


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
# Not the words for attention, feed-forward blocks and derivatives; "with the remover" is Shakespeare's.
PRIVATE = [
    r"\bbends?\b(?! with the remover)",
    r"\bwiden\w*|\bnarrows\b(?! the gap)|\bnarrow(?:ed|ing)? (?:it|them|back)\b",
    r"\b(?:quer(?:y|ies)|positions?|heads?) asks?\b|\basks? (?:the|all|every|each) keys?\b",
    r"\b(?:gradients?|derivatives?) by\b(?! (?:its|it|the root|an?|hand)\b)",
]
# A token is sampled; a picture may be drawn.
PICTURE = (
    r"(?:as (?:clock|hands?|dots|a line|the hand)|in detail|on|its picture|masks|a (?:line|picture|plot))"
)
DRAW = rf"(?<!close to be )\bdr(?:aws?|awn|awing|ew)\b(?!, they show| counted| {PICTURE}\b)"
FIELD = re.compile("|".join([QUAINT, *PRIVATE, DRAW]), re.IGNORECASE)


def said(path: Path) -> str:
    """What a reader reads of a page, with its quiz, comments and descriptions, of a drawing or a widget."""
    text = path.read_text("utf-8")
    if path.suffix == ".svg":
        parts = [one.text or "" for one in ElementTree.fromstring(text).iter() if "style" not in one.tag]
    elif path.suffix == ".mjs":
        literals = re.findall(r"\"[^\"\n]*\"|`[^`]*`", re.sub(r"(?<!:)//.*", "", text))
        parts = [re.sub(r"\$\{.*?\}|`", "…", one) for one in literals if " " in one]
    else:
        cells = [c.source for c in jupytext.reads(text, fmt="md:myst").cells if c.cell_type == "code"]
        parts = [prose(text, quiz=True), *re.findall(r"^ *:?(?:alt|caption): (.*)", text, re.MULTILINE)]
        parts += re.findall(r"(?:^|\s)#\s(.*)", "\n".join(cells), re.MULTILINE)
    return " ".join(" ".join(re.sub(r"`[^`\n]*`", "…", part) for part in parts).split())


READ = [
    *PAGES,
    *sorted((BOOK / "figures").glob("*.svg")),
    *sorted((ROOT / "myllm" / "widgets").glob("*.mjs")),
]


@pytest.mark.parametrize("path", READ, ids=lambda path: path.name)
def test_pages_drawings_and_widgets_use_the_terms_of_the_field(path):
    assert FIELD.findall(said(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "how to mend it",
        "only so is it",
        "we reckon",
        "the network widens, bends and narrows it",
        "widening the vector",
        "narrowed back to C",
        "the gradient by the weights",
        "the derivative by $x$",
        "each position asks which",
        "the query asks the keys",
        "draw a token",
        "draw one of them",
        "draws from the distribution",
        "numbers drawn at random",
    ],
)
def test_a_private_word_is_seen(text):
    assert FIELD.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "recommended, the amendment, a narrow model, narrow the gap",
        "divides the gradient by its size, and the average of the gradient by the root of it",
        "how you ask for an answer, so the question asks",
        "drawn as clock hands, drawn in detail, too close to be drawn, draws masks as grids",
    ],
)
def test_a_common_word_is_none(text):
    assert not FIELD.search(text)


@pytest.mark.parametrize("folder", ["myllm", "solutions"])
def test_the_code_uses_the_terms_of_the_field(folder):
    found = {}
    for path in (path for kind in ("py", "toml", "mjs") for path in (ROOT / folder).rglob(f"*.{kind}")):
        if hits := re.findall(QUAINT, path.read_text("utf-8"), re.IGNORECASE):
            found[path.relative_to(ROOT).as_posix()] = hits
    assert found == {}


# The scoreboard.

ROWS = {
    "nothing known: all characters equal": 1,
    "single characters, counted": 1,
    "bigrams of characters, counted": 1,
    "bigrams of 1,024 tokens, counted": 3,
    "GPT, 4 times over the text": 7,
    "LLaMA, 4 times over the text": 8,
    "SmolLM2-135M, not trained here": 9,
    "course-base, 4 times over the text": 10,
    "course-base in 8 bits": 15,
    "course-base in 4 bits, by GPTQ": 16,
}
ABSENT = downloads.find("smollm2") is None and os.environ.get("MYLLM_REAL") != "required"


def row_of(name: str) -> dict[str, Any]:
    """The row of a model."""
    [row] = [row for row in BOARD["rows"] if row["model"] == name]
    return row


def test_the_scoreboard_has_these_rows_in_the_order_of_the_chapters():
    assert [(row["model"], row["chapter"]) for row in BOARD["rows"]] == list(ROWS.items())
    assert all(set(row) == {"chapter", "model", "bits", "parameters"} for row in BOARD["rows"])


def test_counted_rows_of_the_scoreboard_are_what_they_say():
    counted = list(scoreboard.counted())
    assert [row["model"] for row in counted] == list(ROWS)[:4]
    for row in counted:
        assert row_of(row["model"]) == pytest.approx(row)
    assert (BOARD["bytes"], BOARD["xz"]) == (scoreboard.n_bytes(), pytest.approx(scoreboard.xz(), abs=1e-3))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "score", "within"),
    [
        ("GPT, 4 times over the text", lambda: scoreboard.trained("gpt"), 1e-3),
        ("LLaMA, 4 times over the text", lambda: scoreboard.trained("llama"), 1e-3),
        ("course-base in 8 bits", lambda: scoreboard.quantized("int8"), 2e-4),  # 4e-4 below course-base
        ("course-base in 4 bits, by GPTQ", lambda: scoreboard.quantized("gptq"), 1e-3),
    ],
)
def test_trained_rows_of_the_scoreboard_are_what_their_weights_score(name, score, within):
    """The row of course-base itself is proved where that model is."""
    bits, parameters = score()
    assert row_of(name)["bits"] == pytest.approx(bits, abs=within)
    assert row_of(name)["parameters"] == parameters


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(ABSENT, reason="run `myllm download smollm2` first")
def test_the_row_of_smollm2_is_what_passages_from_all_over_the_text_score():
    """All of it would take too long: twelve passages, scored as the row is, with their spread as the band."""
    llm = LLM.from_pretrained("smollm2")
    ids = llm.tokenizer.encode(scoreboard.texts()[1])
    bits, sizes = [], []
    for start in range(0, len(ids) - 1024, len(ids) // 12):
        scores = nll(llm, torch.tensor(ids[start : start + 1025]))[512:]
        bits.append(scores.sum().item() / math.log(2))
        sizes.append(len(llm.tokenizer.decode_bytes(ids[start + 513 : start + 1025])))
    mean = sum(bits) / sum(sizes)
    rests = [a - mean * b for a, b in zip(bits, sizes, strict=True)]
    error = math.sqrt(sum(rest**2 for rest in rests) * len(rests) / (len(rests) - 1)) / sum(sizes)
    row = row_of("SmolLM2-135M, not trained here")
    assert len(rests) >= 12 and 0 < error < 0.06
    assert row["bits"] == pytest.approx(mean, abs=3 * error)
    assert row["parameters"] == llm.config.n_params


def test_the_scoreboard_stands_where_a_row_is_added():
    adds = {row["chapter"] for row in BOARD["rows"]}
    for path in CHAPTERS:
        drawn = re.findall(r"^```{scoreboard} (\d+)$", path.read_text("utf-8"), re.MULTILINE)
        assert [int(number) for number in drawn] == (
            [int(path.stem[:2])] if int(path.stem[:2]) in adds else []
        )
