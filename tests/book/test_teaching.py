"""The tables of the page for teachers: times from the cards, kinds from the specifications."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from myllm_book import teaching

from myllm.grading import catalogue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "teachers.md").read_text("utf-8")
PLANS = [
    yaml.safe_load(body) for body in re.findall(r"^```{syllabus}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
WRITTEN = sorted(int(path.name[:2]) for path in (ROOT / "book").glob("[0-9][0-9]-*.md"))


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("45 minutes", 45),
        ("one minute", 1),
        ("half a minute", 0.5),
        ("an hour", 60),
        ("half an hour", 30),
        ("two\nhours", 120),
        ("an hour and a half", 90),
    ],
)
def test_a_duration_is_read(words, value):
    assert teaching.minutes(words) == value


@pytest.mark.parametrize("words", ["", "soon", "many minutes", "45", "45 seconds", "minutes"])
def test_what_is_no_duration_is_refused(words):
    with pytest.raises(ValueError, match="is no duration"):
        teaching.minutes(words)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 min"), (45, "45 min"), (60, "1 h"), (135, "2 h 15 min"), (90.5, "1 h 30 min")],
)
def test_a_duration_is_said(value, words):
    assert teaching.duration(value) == words


@pytest.mark.parametrize("number", WRITTEN)
def test_a_card_says_the_minutes_of_its_exercises(number):
    card = teaching.card(number)
    own = [one for one in catalogue.exercises().values() if int(one.chapter) == number]
    assert card.exercises == sum(one.minutes for one in own)
    assert 0 < card.reading <= 60 and all(n < number for n in card.needs)


def test_a_card_without_times_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(teaching, "BOOK", tmp_path)
    monkeypatch.setattr(teaching, "page_of", lambda number: "01-x")
    for text in (
        "nothing",
        "**You need** x\n\n**Time** about 5 minutes to read.",
        "**You need** x\n\n**Time** about 5 minutes to read, a minute to look, 7 minutes for the exercises.",
        "**You need** x\n\n**Time** about soon to read, one minute to run, 7 minutes for the exercises.",
    ):
        (tmp_path / "01-x.md").write_text(text)
        with pytest.raises(ValueError, match=r"does not say how long|is no duration"):
            teaching.card(1)


def test_the_long_plan_has_every_chapter_after_what_it_needs():
    long, short = PLANS
    assert [n for week in long for n in week["chapters"]] == list(range(1, 22)) and len(long) == 12
    assert len(short) == 5 and not any(teaching.missing(long)) and any(teaching.missing(short))
    assert "also needs" not in teaching.plan_table(long) and "also needs" in teaching.plan_table(short)


def test_a_plan_adds_up():
    for plan in PLANS:
        cards = [card for week in plan for n in week["chapters"] if (card := teaching.card(n))]
        last = [cell.strip() for cell in teaching.plan_table(plan).splitlines()[-1].split("|")[1:-1]]
        reading, exercises = sum(card.reading for card in cards), sum(card.exercises for card in cards)
        assert last[1:6] == [
            "**all**",
            str(sum(len(week["chapters"]) for week in plan)),
            *map(teaching.duration, (reading, exercises, reading + exercises)),
        ]


def test_what_a_plan_leaves_out_is_named_in_its_week():
    assert teaching.missing([{"chapters": [3]}, {"chapters": [1, 2]}, {"chapters": [4]}]) == [[1, 2], [], []]
    assert teaching.missing([{"chapters": [2, 1]}]) == [[1]]
    row = teaching.plan_table([{"about": "x", "chapters": [3]}]).splitlines()[2]
    assert row.endswith("| {doc}`1 <01-first-model>`, {doc}`2 <02-data>` |")


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (None, "a YAML list of weeks"),
        ([], "a YAML list of weeks"),
        (["x"], "week 1 needs exactly about and chapters"),
        ([{"about": "x", "chapters": [1]}, {"about": "x", "chapters": []}], "week 2 needs exactly"),
        ([{"about": "x", "chapters": [22]}], "week 1: 22 is no chapter"),
        ([{"about": "x", "chapters": [0]}], "week 1: 0 is no chapter"),
        ([{"about": "x", "chapters": ["1"]}], "week 1: 1 is no chapter"),
        (
            [{"about": "x", "chapters": [1]}, {"about": "x", "chapters": [2, 1]}],
            "chapter 1 is in the plan twice",
        ),
    ],
)
def test_a_wrong_plan_is_named(plan, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        teaching.check_plan(plan)


def test_every_chapter_has_exercises_of_three_kinds():
    kinds = {}
    for one in catalogue.exercises().values():
        kinds.setdefault(one.chapter, set()).add(teaching.kind(one))
    assert all(found <= set(teaching.KINDS) for found in kinds.values())
    assert {chapter: found for chapter, found in kinds.items() if len(found) < 3} == {}
    assert set(teaching.OTHER_KINDS) <= set(catalogue.exercises())


@pytest.mark.parametrize(
    ("id", "kind"),
    [
        ("01.1", "implement"),
        ("01.2", "test"),
        ("01.3", "debug"),
        ("01.5", "choose"),
        ("02.2", "account"),
        ("02.4", "design"),
        ("06.2", "debug"),
        ("06.3", "test"),
        ("10.2", "debug"),
        ("10.4", "choose"),
    ],
)
def test_the_kind_follows_from_the_specification(id, kind):
    assert teaching.kind(catalogue.exercises()[id]) == kind


def test_the_table_has_every_exercise_with_its_facts():
    rows = [line for chapter in teaching.chapters() for line in teaching.exercise_table(chapter).splitlines()]
    for one in catalogue.exercises().values():
        [row] = [row for row in rows if f"<exercise-{one.id}>" in row]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert cells[0] == f"{{ref}}`{one.id} {one.title} <exercise-{one.id}>`" and cells[1].endswith(".")
        assert cells[3:5] == [str(one.points), str(one.minutes)] and cells[6] == f"{{ref}}`{one.section}`"
        assert cells[5] in ("gentle", "moderate", "demanding") and len(cells) == 7
    assert len(rows) == len(catalogue.exercises()) + 2 * len(teaching.chapters())
    assert Counter(row.count("``") for row in rows) == {0: len(rows)}


def test_the_sample_of_a_table_has_the_points_of_the_exercises():
    first, second = (
        sum(one.points for one in catalogue.exercises().values() if one.chapter == chapter)
        for chapter in ("01", "02")
    )
    sample = re.search(r"^learner  01  02.*?^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    assert sample.splitlines()[1].split() == ["of", str(first), str(second), str(first + second)]
    assert f"{min(one.file for one in catalogue.exercises().values())}." in sample
