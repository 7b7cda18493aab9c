"""One table of many learners, as text, CSV, an HTML page or JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from myllm.grading import Exercise
from myllm.grading.classroom import Learner

Form = Literal["text", "csv", "html", "json"]
By = Literal["chapter", "exercise"]
ENDINGS: dict[str, Form] = {
    ".txt": "text",
    ".csv": "csv",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
}
# What a spreadsheet takes for the beginning of a formula; the last four are the full-width forms.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@dataclass(frozen=True)
class Gradebook:
    """The points of some learners in some exercises.

    Attributes:
        learners: The rows, graded.
        exercises: The exercises that were requested.
        by: Whether a column is a chapter or an exercise.
        seed: The seed of the random cases.
    """

    learners: Sequence[Learner]
    exercises: Sequence[Exercise]
    by: By
    seed: int

    @property
    def columns(self) -> dict[str, int]:
        """The columns with their points."""
        points = dict[str, int]()
        for one in self.exercises:
            points[self._column(one.id)] = points.get(self._column(one.id), 0) + one.points
        return points

    @property
    def points(self) -> int:
        """The total points of all columns."""
        return sum(one.points for one in self.exercises)

    def _column(self, id: str) -> str:
        return id[:2] if self.by == "chapter" else id

    def cells(self, learner: Learner) -> dict[str, float | None]:
        """A learner's points in each column; None where nothing was started or graded."""
        cells: dict[str, float | None] = dict.fromkeys(self.columns)
        for one in learner.results:
            if one.status != "not started":
                column = self._column(one.id)
                cells[column] = _whole((cells[column] or 0) + one.earned)
        return cells

    def total(self, learner: Learner) -> float | None:
        """A learner's points; None if the folder could not be graded."""
        return _whole(sum(one.earned for one in learner.results)) if learner.results else None

    def render(self, form: Form) -> str:
        """The table in one of four formats, without a trailing newline."""
        make = {"text": self._text, "csv": self._csv, "html": self._html, "json": self._json}
        return make[form]().removesuffix("\n")

    def _share(self, learner: Learner) -> str:
        total = self.total(learner)
        return "" if total is None else f"{total / self.points:.0%}"

    def _rows(self) -> list[list[str]]:
        """The rows as they are shown: name, columns, points, share; a dash where nothing was started."""
        rows = list[list[str]]()
        for one in self.learners:
            empty = "-" if one.results else ""
            cells = [empty if value is None else f"{value:g}" for value in self.cells(one).values()]
            total = self.total(one)
            rows.append([one.name, *cells, "" if total is None else f"{total:g}", self._share(one)])
        return rows

    def _head(self) -> tuple[list[str], list[str]]:
        """The two header rows: the columns and their points."""
        names, points = list(self.columns), [str(value) for value in self.columns.values()]
        return ["learner", *names, "points", "share"], ["of", *points, str(self.points), ""]

    def _text(self) -> str:
        from rich.cells import cell_len

        table = [*self._head(), *self._rows()]
        widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
        lines = list[str]()
        for name, *cells in table:
            padded = [
                " " * (width - cell_len(cell)) + cell for cell, width in zip(cells, widths[1:], strict=True)
            ]
            lines.append("  ".join([name + " " * (widths[0] - cell_len(name)), *padded]).rstrip())
        notes = [f"{one.name}: {note}" for one in self.learners for note in one.notes]
        return "\n".join([*lines, *([""] if notes else []), *notes, "", self._closing()])

    def _closing(self) -> str:
        graded = sum(bool(one.results) for one in self.learners)
        return f"{graded} of {len(self.learners)} folders graded, with the seed {self.seed}."

    def _csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["learner", *self.columns, "points", "of", "share", "notes"])
        for one in self.learners:
            total = self.total(one)
            share = "" if total is None else f"{total / self.points:.4f}"
            cells = self.cells(one).values()
            writer.writerow(
                [harmless(one.name), *cells, total, self.points, share, harmless(" ".join(one.notes))]
            )
        return out.getvalue()

    def _html(self) -> str:
        names, points = self._head()
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in [*names, "notes"])
        below = "".join(f"<td>{escape(one)}</td>" for one in [*points, ""])
        body = "\n".join(
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f"<td>{escape(' '.join(one.notes))}</td></tr>"
            for (name, *cells), one in zip(self._rows(), self.learners, strict=True)
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Points</title>\n'
            '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
            "body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;overflow-x:auto}"
            "table{border-collapse:collapse}th,td{padding:.2em .6em;border-bottom:1px solid #8888;"
            "text-align:right}th:first-child,td:first-child,th:last-child,td:last-child{text-align:left}"
            "</style></head>\n"
            f"<body><h1>Points</h1>\n<table><thead><tr>{head}</tr>\n<tr>{below}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody></table>\n<p>{escape(self._closing())}</p></body></html>"
        )

    def _json(self) -> str:
        columns = [{"id": name, "points": points} for name, points in self.columns.items()]
        about = {"version": 1, "seed": self.seed, "by": self.by, "points": self.points, "columns": columns}
        return json.dumps({**about, "learners": [self._entry(one) for one in self.learners]}, indent=2)

    def _entry(self, one: Learner) -> dict[str, Any]:
        total = self.total(one)
        share = None if total is None else round(total / self.points, 4)
        return {
            "name": one.name,
            "earned": total,
            "share": share,
            "columns": self.cells(one),
            "notes": one.notes,
        }


def harmless(text: str) -> str:
    """The text of a cell, with an apostrophe before anything that a spreadsheet could take for a formula."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value
