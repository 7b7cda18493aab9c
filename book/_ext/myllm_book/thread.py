"""What runs through all chapters: the scoreboard, the source map, predictions and findings."""

import ast
import html
import json
import re
import tomllib
from functools import cache
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx

from .directives import BookDirective, raw
from .numbers import page_of
from .sources import BOOK, ROOT

KINDS = ("built", "used", "plumbing")


class Place(NamedTuple):
    """Where a definition stands in the book.

    Attributes:
        name: Module and definition below `myllm`, for example ``model.attention.attend``.
        chapter: The chapter that introduces it, ``05``, or the appendix, ``D``.
        kind: "built" or "used" in a section, or "plumbing".
        where: The label of the section; for plumbing, why it is not explained.
    """

    name: str
    chapter: str
    kind: str
    where: str


def source_map() -> list[Place]:
    """All lines of book/source-map.toml, chapter by chapter."""
    tables = tomllib.loads((BOOK / "source-map.toml").read_text("utf-8"))
    return [
        Place(name, chapter, kind, where)
        for chapter, kinds in sorted(tables.items())
        for kind, places in kinds.items()
        for name, where in places.items()
    ]


@cache
def first_lines(module: str) -> dict[str, str]:
    """What each public definition of a module is, by the first sentence of its docstring."""
    folder = ROOT.joinpath("myllm", *module.split("."))
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    kinds = ast.FunctionDef | ast.ClassDef
    found = {node.name: node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, kinds)}
    return {name: re.split(r"\.\s", (ast.get_docstring(node) or "") + " ")[0] for name, node in found.items()}


def link(name: str) -> str:
    """A definition as a MyST link to the reference."""
    return f"{{py:obj}}`{name.rpartition('.')[2]} <myllm.{name}>`"


def listed(places: list[Place]) -> str:
    """Links joined as in a sentence."""
    links = [link(place.name) for place in places]
    return ", ".join(links[:-1]) + " and " + links[-1] if len(links) > 1 else "".join(links)


def gained(chapter: str) -> str:
    """What the package gained in a chapter, as a MyST paragraph."""
    here = [place for place in source_map() if place.chapter == chapter]
    built, used, plumbing = ([place for place in here if place.kind == kind] for kind in KINDS)
    text = f"`myllm` gained {listed(built)}."
    if used:
        text += f" It also gained {listed(used)}, which you used or read about."
    if plumbing:
        text += (
            f" The {{ref}}`source map <source-map-{chapter.lower()}>` lists the remaining code, which only"
        )
        return f"{text} reads files or checks values."
    return f"{text} The {{ref}}`source map <source-map-{chapter.lower()}>` leads to every line."


class Gained(BookDirective):
    """What the package gained in a chapter: ```` ```{gained} 05 ````."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The paragraph."""
        self.env.note_dependency(str(BOOK / "source-map.toml"))
        return self.markdown(gained(self.arguments[0]))


class SourceMap(BookDirective):
    """Every public definition: its file, the section that explains it, and what kind it is."""

    def run(self) -> list[nodes.Node]:
        """A section a chapter with a table."""
        self.env.note_dependency(str(BOOK / "source-map.toml"))
        out: list[nodes.Node] = []
        places = source_map()
        for chapter in sorted({place.chapter for place in places}):
            page, kind = page_of(chapter), "Chapter" if chapter.isdigit() else "Appendix"
            label = f"source-map-{chapter.lower()}"
            section = nodes.container(ids=[label])
            standard = self.env.domains["std"]
            standard.anonlabels[label] = self.env.docname, label
            standard.labels[label] = self.env.docname, label, f"{kind.lower()} {chapter} in the source map"
            section += self.markdown(f"**{kind} {{doc}}`{page}`**")
            lines = ["| definition | file | what it is | where |", "|---|---|---|---|"]
            for place in (place for place in places if place.chapter == chapter):
                module, _, name = place.name.rpartition(".")
                parts = re.split("(`+[^`]+`+)", first_lines(module)[name].replace("\n", " "))
                what = "".join(part if part[:1] == "`" else html.escape(part) for part in parts)
                what = what.replace("|", "\\|")
                where = place.where if place.kind == "plumbing" else f"{{ref}}`{place.where}`"
                file = f"`myllm/{module.replace('.', '/')}.py`"
                lines.append(f"| {link(place.name)} | {file} | {what} | {place.kind}: {where} |")
            section += self.markdown("\n".join(lines))
            out.append(section)
        return out


def board() -> dict[str, Any]:
    """The scoreboard's file, which `python -m bench.scoreboard` writes."""
    return json.loads((BOOK / "_results" / "scoreboard.json").read_text("utf-8"))


def rows(chapter: int) -> list[dict[str, Any]]:
    """The scoreboard's rows up to a chapter."""
    return [row for row in board()["rows"] if row["chapter"] <= chapter]


class Scoreboard(BookDirective):
    """Every model so far on the same held-out text: ```` ```{scoreboard} 07 ````."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A table whose last column is a bar; the rows of this chapter are lit."""
        chapter, content = int(self.arguments[0]), board()
        self.env.note_dependency(str(BOOK / "_results" / "scoreboard.json"))
        scored, lines, digits = (
            rows(chapter),
            [],
            3 if chapter >= 15 else 2,
        )  # compressed models differ by thousandths
        longest = max(row["bits"] for row in scored)
        for row in scored:
            lit = ' class="lit"' if row["chapter"] == chapter else ""
            size = f"{row['parameters']:,}" if row["parameters"] else "none"
            bar = f'<span class="bar" style="width:{62 * row["bits"] / longest:.1f}%"></span>'
            lines.append(
                f'<tr{lit}><td>{row["chapter"]}</td><th scope="row">{html.escape(row["model"])}</th>'
                f"<td>{size}</td><td>{bar}{row['bits']:.{digits}f}</td></tr>"
            )
        names = ("chapter", "model", "parameters", "bits per byte")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        caption = f"""The scoreboard: {content["bytes"]:,} bytes of Shakespeare that no model trained in
        this book has seen, all of it scored by <code>python -m bench.scoreboard</code>. Fewer bits are
        better."""
        table = f"""<div class="scoreboard"><table><caption>{caption}</caption>
        <thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>"""
        return [raw(table)]


class Predict(BookDirective):
    """A question to answer before the next cell is run."""

    def run(self) -> list[nodes.Node]:
        """A small card."""
        box = nodes.container(classes=["predict"])
        box += raw('<p class="predict-title">Before you run it</p>')
        box += self.markdown("\n".join(self.content))
        return [box]


class Found(BookDirective):
    """What an experiment of *Change it* gave, closed."""

    def run(self) -> list[nodes.Node]:
        """A closed box."""
        body = self.markdown("\n".join(self.content))
        return [raw('<details class="found"><summary>What we found</summary>'), *body, raw("</details>")]


def setup(app: Sphinx) -> None:
    """Register the directives and their styles."""
    app.add_directive("gained", Gained)
    app.add_directive("source-map", SourceMap)
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("predict", Predict)
    app.add_directive("found", Found)
    app.add_css_file("thread.css")
