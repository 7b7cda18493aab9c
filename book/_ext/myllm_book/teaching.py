"""For teachers: plans of weeks with the minutes of the chapters' cards, and what each exercise asks.

Both tables are made when the book is built, so that they cannot disagree with the chapters.
"""

import ast
import re
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import yaml
from docutils import nodes
from sphinx.application import Sphinx

from myllm.grading import Exercise, catalogue

from .directives import BookDirective
from .exercises import LEVELS
from .numbers import CHAPTERS, page_of
from .sources import BOOK, ROOT

KINDS = {
    "implement": "write a function from its specification",
    "test": "write a test that finds the wrong functions among many",
    "debug": "find and fix what is wrong with code or a run",
    "account": "compute bytes, operations or counts without running anything",
    "choose": "decide from measurements, and give the evidence",
    "design": "build something free within a contract",
}
# The kind of an exercise by how its specification begins, or its title; all others are to implement.
VERBS = {
    "Debug |Name what is wrong|Decide from names": "debug",
    "Test |Decide whether ": "test",
    "Design ": "design",
    "Choose |Compare ": "choose",
    "Count |Account ": "account",
}
OTHER_KINDS = {"01.1": "implement", "08.4": "account"}
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}


class Card(NamedTuple):
    """What the card of a chapter says.

    Attributes:
        reading: Minutes to read.
        exercises: Minutes for the exercises.
        needs: The chapters that it links as needed.
    """

    reading: float
    exercises: float
    needs: tuple[int, ...]


def minutes(words: str) -> float:
    """A duration in words, such as "45 minutes", "half a minute" or "two hours", in minutes.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(half )?(\w+) (minute|hour)s?( and a half)?", " ".join(words.split()))
    if not match or not (match[2].isdigit() or match[2] in NUMBERS):
        raise ValueError(f"{words!r} is no duration")
    amount = int(match[2]) if match[2].isdigit() else NUMBERS[match[2]]
    amount = amount / 2 if match[1] else amount + 0.5 * bool(match[4])
    return amount * (60 if match[3] == "hour" else 1)


def card(number: int) -> Card:
    """The card of a chapter.

    Raises:
        ValueError: its card says no times.
    """
    page = page_of(str(number))
    text = (BOOK / f"{page}.md").read_text("utf-8")
    need, _, rest = text.partition("**You need**")[2].partition("**Time**")
    stated = re.match(r"\s+about (.+?)\s+to\s+read, .+?\s+for\s+the\s+exercises", rest, re.DOTALL)
    if not stated:
        raise ValueError(f"the card of {page} does not say how long its exercises take")
    exercises = re.search(r"to\s+run,\s+(?:and\s+)?(.+?)\s+for\s+the\s+exercises", stated[0], re.DOTALL)
    if not exercises:
        raise ValueError(f"the card of {page} does not say how long it runs")
    needs = tuple(sorted({int(one) for one in re.findall(r"<(\d\d)-", need)}))
    return Card(minutes(stated[1]), minutes(exercises[1]), needs)


def duration(value: float) -> str:
    """Minutes as people say them."""
    hours, rest = divmod(round(value), 60)
    return " ".join(filter(None, [f"{hours} h" * bool(hours), f"{rest} min" * bool(rest or not hours)]))


def link(number: int) -> str:
    """A chapter as a link with its number."""
    return f"{{doc}}`{number} <{page_of(str(number))}>`"


def check_plan(plan: Any) -> list[dict[str, Any]]:
    """The weeks of a plan, or a ValueError that says what is wrong with them."""
    if not isinstance(plan, list) or not plan:
        raise ValueError("the body is a YAML list of weeks")
    for week, one in enumerate(plan, 1):
        if not isinstance(one, dict) or set(one) != {"about", "chapters"} or not one["chapters"]:
            raise ValueError(f"week {week} needs exactly about and chapters")
        if wrong := [n for n in one["chapters"] if type(n) is not int or not 1 <= n <= CHAPTERS]:
            raise ValueError(f"week {week}: {wrong[0]} is no chapter")
    twice = [n for n, times in Counter(n for one in plan for n in one["chapters"]).items() if times > 1]
    if twice:
        raise ValueError(f"chapter {twice[0]} is in the plan twice")
    return plan


def missing(plan: list[dict[str, Any]]) -> list[list[int]]:
    """For each week, the chapters that its chapters need and that the plan has not had before."""
    had, out = set[int](), list[list[int]]()
    for one in plan:
        lacking = set[int]()
        for n in one["chapters"]:
            lacking |= set(card(n).needs) - had
            had.add(n)
        out.append(sorted(lacking))
    return out


def plan_table(plan: list[dict[str, Any]]) -> str:
    """A plan as a Markdown table: weeks, chapters, times and, if anything is left out, what to look up."""
    lacking = missing(plan)
    head = ["week", "about", "chapters", "reading", "exercises", "together"]
    lines, sums = list[list[str]](), [0.0, 0.0]
    for week, (one, needed) in enumerate(zip(plan, lacking, strict=True), 1):
        cards = [*map(card, one["chapters"])]
        times = [sum(found.reading for found in cards), sum(found.exercises for found in cards)]
        sums = [a + b for a, b in zip(sums, times, strict=True)]
        shown = map(duration, (*times, sum(times)))
        lines.append([str(week), one["about"], ", ".join(map(link, one["chapters"])), *shown])
        lines[-1].append(", ".join(map(link, needed)))
    lines.append(["", "**all**", str(sum(len(one["chapters"]) for one in plan)), *map(duration, sums)])
    lines[-1] += [duration(sum(sums)), ""]
    width = len(head) + any(lacking)
    rows = [[*head, "also needs"], ["---"] * (len(head) + 1), *lines]
    return "\n".join(f"| {' | '.join(row[:width])} |" for row in rows)


@cache
def first_sentence(file: str, function: str) -> str:
    """How the specification of an answer begins."""
    tree = ast.parse((ROOT / "solutions" / file).read_text("utf-8"))
    answer = next(node for node in tree.body if isinstance(node, catalogue.ANSWER) and node.name == function)
    return (ast.get_docstring(answer) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def kind(one: Exercise) -> str:
    """What an exercise asks for, one of KINDS."""
    if one.id in OTHER_KINDS:
        return OTHER_KINDS[one.id]
    if one.title.startswith("Fix "):
        return "debug"
    asked = first_sentence(one.file, one.function)
    return next((found for verbs, found in VERBS.items() if re.match(verbs, asked)), "implement")


def exercise_table(chapter: str) -> str:
    """The exercises of a chapter as a Markdown table."""
    lines = ["| exercise | asks you to | kind | points | minutes | difficulty | section |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in (one for one in catalogue.exercises().values() if one.chapter == chapter):
        asked = first_sentence(one.file, one.function).replace("|", "\\|")
        facts = f"{kind(one)} | {one.points} | {one.minutes} | {LEVELS[one.difficulty]}"
        name = f"{{ref}}`{one.id} {one.title} <exercise-{one.id}>`"
        lines.append(f"| {name} | {asked} | {facts} | {{ref}}`{one.section}` |")
    return "\n".join(lines)


def chapters() -> list[str]:
    """The two digits of each chapter that has exercises."""
    return [*dict.fromkeys(one.chapter for one in catalogue.exercises().values())]


class Syllabus(BookDirective):
    """A plan of weeks; the times are those of the chapters' cards.

    ```{syllabus}
    - about: A first model and its data
      chapters: [1, 2]
    ```
    """

    def run(self) -> list[nodes.Node]:
        """The table."""
        for path in BOOK.glob("[0-9][0-9]-*.md"):
            self.env.note_dependency(str(path))
        try:
            plan = check_plan(yaml.safe_load("\n".join(self.content)))
            return self.markdown(plan_table(plan))
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(f"syllabus: {error}") from error


class ExerciseKinds(BookDirective):
    """What the kinds of exercises are and how many there are of each: ```` ```{exercise-kinds} ````."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """The table."""
        listed = [*catalogue.exercises().values()]
        count = Counter(map(kind, listed))
        points, times = sum(one.points for one in listed), sum(one.minutes for one in listed)
        lines = ["| kind | what it asks | exercises |", "|---|---|---|"]
        lines += [f"| {name} | {about} | {count[name]} |" for name, about in KINDS.items()]
        lines += [f"| **all** | {points} points, {duration(times)} | {len(listed)} |"]
        return self.markdown("\n".join(lines))


class ExerciseTable(BookDirective):
    """Every exercise with its facts, chapter by chapter: ```` ```{exercise-table} ````."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """A line and a table a chapter."""
        out = list[nodes.Node]()
        for chapter in chapters():
            self.env.note_dependency(str(next((ROOT / "solutions").glob(f"ch{chapter}_*.py"))))
            here = [one for one in catalogue.exercises().values() if one.chapter == chapter]
            points, times = sum(one.points for one in here), sum(one.minutes for one in here)
            told = f"{points} points, about {duration(times)}"
            out += self.markdown(f"**Chapter {{doc}}`{page_of(chapter)}`** · {told}")
            out += self.markdown(exercise_table(chapter))
        return out


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("syllabus", Syllabus)
    app.add_directive("exercise-kinds", ExerciseKinds)
    app.add_directive("exercise-table", ExerciseTable)
