"""MyST to plain Markdown, so that a chapter reads well in JupyterLab, Colab and on a code host.

Every role and directive that the book uses is named here; another one raises, so nothing is left over.
"""

import base64
import html
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pybtex.database import Entry, parse_file

from . import thread
from .exercises import card, not_allowed
from .figures import light
from .numbers import number as chapter_number
from .sources import BOOK

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,}|:{3,})(?:\{(?P<name>[\w:-]+)\})?(?P<rest>.*)$")
SPAN = re.compile(r"(?:\{(?P<role>[\w:-]+)\})?(?P<ticks>`+)(?P<body>.+?)(?<!`)(?P=ticks)(?!`)", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*)\]\((?P<target>(?!\w+:)[^)\s]+)\)")
INLINE = re.compile(f"{LINK.pattern}|{SPAN.pattern}", re.DOTALL)
TARGET = re.compile(r"^\((?P<label>[^()\s]+)\)=\s*$")

ADMONITIONS = {
    "admonition",
    "attention",
    "caution",
    "danger",
    "error",
    "hint",
    "important",
    "note",
    "seealso",
}
ADMONITIONS |= {"tip", "warning", "margin", "sidebar", "topic"}
LITERAL = {"code", "literal", "kbd", "command", "file", "guilabel", "program", "samp"}
LITERAL |= {"func", "class", "meth", "mod", "attr", "data", "exc", "obj"}
DROPPED = {"bibliography", "contents", "tableofcontents", "toctree", "raw"}


@cache
def labels() -> dict[str, tuple[str, str]]:
    """Where each label of the book stands and the heading or caption it names: label → (page, text)."""
    found: dict[str, tuple[str, str]] = {}
    for page in BOOK.glob("*.md"):
        lines = page.read_text("utf-8").splitlines()
        for i, line in enumerate(lines):
            if match := TARGET.match(line.strip()):
                heading = next((text for text in lines[i + 1 : i + 4] if text.startswith("#")), "")
                found[match["label"]] = page.stem, heading.lstrip("# ").strip()
            elif match := re.match(r"\s*:?name:\s*(\S+)", line):
                found[match[1]] = page.stem, ""
    return found


@cache
def titles() -> dict[str, str]:
    """The first heading of every page of the book, a chapter's with its number."""
    found = {}
    for page in BOOK.glob("*.md"):
        heading = re.search(r"^# +(.+)$", page.read_text("utf-8"), re.MULTILINE)
        title = heading[1].strip() if heading else page.stem
        chapter = chapter_number(page.stem)
        found[page.stem] = f"{chapter} {title}" if chapter and not title.startswith(f"{chapter} ") else title
    return found


@cache
def references() -> dict[str, Entry]:
    """The bibliography by key."""
    return dict(parse_file(str(BOOK / "references.bib")).entries.items())


def citation(key: str) -> tuple[str, str, str]:
    """Authors, year and address of a reference."""
    entry = references()[key]
    names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
    names = [name.strip("{}") for name in names] or [str(entry.fields.get("title", key))]
    authors = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    doi = entry.fields.get("doi")
    return (
        authors,
        entry.fields.get("year", ""),
        f"https://doi.org/{doi}" if doi else entry.fields.get("url", ""),
    )


class Plain:
    """Turns the MyST of one page into Markdown; `page` is the file's stem, `source` its whole text."""

    def __init__(self, page: str, source: str) -> None:
        self.page, self.source = page, source
        self.position = 0  # how far in the source we are, for "above" and "below"

    def convert(self, text: str) -> str:
        """One Markdown cell."""
        return "\n".join(self.blocks(text.splitlines())).strip("\n")

    def blocks(self, lines: list[str]) -> list[str]:
        """Directives one by one, the prose between them by paragraphs."""
        out: list[str] = []
        prose: list[str] = []
        i = 0
        while i < len(lines):
            fence = FENCE.match(lines[i])
            if not fence or (fence["marks"][0] == ":" and not fence["name"]):
                prose.append(lines[i])
                i += 1
                continue
            end = i + 1
            close = re.compile(rf"^ *{fence['marks'][0]}{{{len(fence['marks'])},}} *$")
            while end < len(lines) and not close.match(lines[end]):
                end += 1
            out += [*self.prose(prose), ""]
            prose = []
            if fence["name"]:
                indent = len(fence["indent"])
                made = self.directive(
                    fence["name"], fence["rest"].strip(), [line[indent:] for line in lines[i + 1 : end]]
                )
                out += [fence["indent"] + line if line else line for line in made]
            else:
                out += lines[i : end + 1]
            i = end + 1
        out += self.prose(prose)
        return [line for i, line in enumerate(out) if line or (i and out[i - 1])]

    def prose(self, lines: list[str]) -> list[str]:
        """Text without directives: labels and comments go, roles and links become plain."""
        kept = [line for line in lines if not TARGET.match(line.strip()) and not line.startswith("% ")]
        self.position = max(
            self.source.find(next(filter(str.strip, kept), "\0"), self.position), self.position
        )
        text = re.sub(r"^\$\$ *\([\w:-]+\) *$", "$$", "\n".join(kept), flags=re.MULTILINE)
        text = INLINE.sub(self.span, text)
        return text.strip("\n").split("\n") if text.strip() else []

    def span(self, match: re.Match[str]) -> str:
        """A code span (left alone), a role, or a link between pages of the book."""
        role, body = match["role"], match["body"]
        if match["target"]:
            return self.page_link(INLINE.sub(self.span, match["text"]), match["target"])
        if role is None:
            return match[0]
        role = role.removeprefix("py:")
        titled = re.fullmatch(r"(?P<text>.+?)\s*<(?P<target>[^<>]+)>", body, re.DOTALL)
        text, target = (titled["text"], titled["target"]) if titled else ("", body)
        target = " ".join(target.split())
        if role in LITERAL:
            return f"`{text or target.removeprefix('~').removeprefix('!')}`"
        if role == "math":
            return f"${body}$"
        if role.startswith("cite"):
            return self.cite(role, body)
        if role == "doc":
            return self.link(text or titles().get(Path(target).name, target), Path(target).name, "")
        if role == "ref":
            page, heading = labels().get(target, ("", ""))
            if target.startswith("exercise-"):
                return text or f"exercise {target.removeprefix('exercise-')}"
            return self.link(text or heading or target, page, heading)
        if role in ("numref", "eq"):
            kind = "equation" if role == "eq" else "table" if "tab" in target else "figure"
            return (
                re.sub(r"%s|\{number\}", self.where(target), text)
                if text
                else f"the {kind} {self.where(target)}"
            )
        if role in ("term", "abbr"):
            return text or re.sub(r"\s*\(.*\)$", "", body)
        if role in ("sub", "sup"):
            return f"<{role}>{body}</{role}>"
        if role == "download":
            return text or target
        raise ValueError(f"{self.page}: the role {{{role}}} has no plain Markdown form in {__name__}")

    def where(self, label: str) -> str:
        """Whether a figure or equation of this page stands above or below; else the page it is in."""
        page, _ = labels().get(label, (self.page, ""))
        if page != self.page:
            return f"in {titles().get(page, page)}"
        name = re.escape(label)
        defined = re.search(rf"\({name}\)=|name: *{name}\b|^\$\$ *\({name}\)", self.source, re.MULTILINE)
        return "above" if defined and defined.start() < self.position else "below"

    def cite(self, role: str, body: str) -> str:
        """Author and year, linked where the reference has an address."""
        out = []
        for key in body.split(","):
            authors, year, url = citation(key.strip())
            shown = f"{authors} ({year})" if role.endswith(":t") else f"{authors}, {year}"
            out.append(f"[{shown}]({url})" if url else shown)
        return ", ".join(out) if role.endswith(":t") else f"({'; '.join(out)})"

    def link(self, text: str, page: str, heading: str) -> str:
        """A link into a notebook; text alone where the page has none."""
        if not re.match(r"\d\d-", page):
            return text
        file = "" if page == self.page else f"{page}.ipynb"
        anchor = "#" + re.sub(r"[`*$]", "", heading).replace(" ", "-") if heading else ""
        return f"[{text}]({file}{anchor})" if file or anchor else text

    def page_link(self, text: str, target: str) -> str:
        """A link such as `[text](03-bpe.md#label)`."""
        page, _, label = target.partition("#")
        page = Path(page).stem if page else self.page
        page, heading = labels().get(label, (page, ""))
        return self.link(text or heading or titles().get(page, page), page, heading)

    def directive(self, name: str, argument: str, body: list[str]) -> list[str]:
        """One directive as Markdown lines, set off by empty lines."""
        options, body = split_options(body)
        name = name.removeprefix("myst:")
        if name in DROPPED:
            return []
        made = self.render(name, argument, options, body)
        return ["", *made, ""]

    def render(self, name: str, argument: str, options: dict[str, Any], body: list[str]) -> list[str]:
        """The Markdown of each kind of directive."""
        if name in ADMONITIONS:
            title = self.convert_inline(argument) or name.replace("seealso", "see also").capitalize()
            return ["> " + line if line else ">" for line in [f"**{title}.**", "", *self.blocks(body)]]
        if name in ("dropdown", "toggle", "hint-dropdown"):
            return fold(self.convert_inline(argument) or "More", self.blocks(body))
        if name in ("svg", "figure", "image", "table", "list-table", "csv-table"):
            return self.picture(name, argument, options, body)
        if name == "math":
            return ["$$", *([argument] if argument else []), *body, "$$"]
        if name in ("code", "code-block", "sourcecode", "prompt"):
            return [f"```{argument}", *body, "```"]
        if name == "quiz":
            return self.quiz(yaml.safe_load("\n".join(body)))
        if name == "exercise-card":
            return exercise(argument)
        if name == "gained":
            return self.blocks(thread.gained(argument).splitlines())
        if name == "scoreboard":
            return scoreboard(int(argument))
        if name == "predict":
            return [
                "> " + line if line else ">" for line in ["**Before you run it.**", "", *self.blocks(body)]
            ]
        if name == "found":
            return fold("What we found", self.blocks(body))
        if name in ("card", "grid-item-card"):
            title = [f"**{self.convert_inline(argument)}**", ""] if argument else []
            return [*title, *self.blocks([line for line in body if line not in ("^^^", "+++")])]
        if name in ("div", "grid", "grid-item", "tab-set", "container", "compound"):
            return self.blocks(body)
        if name == "tab-item":
            return [f"**{argument}**", "", *self.blocks(body)]
        if name in ("epigraph", "pull-quote", "highlights"):
            return ["> " + line for line in self.blocks(body)]
        if name == "glossary":
            return self.blocks(body)
        raise ValueError(f"{self.page}: the directive {{{name}}} has no plain Markdown form in {__name__}")

    def convert_inline(self, text: str) -> str:
        """One line of text."""
        return " ".join(self.prose([text])) if text else ""

    def picture(self, name: str, argument: str, options: dict[str, Any], body: list[str]) -> list[str]:
        """The drawing itself and its caption: a notebook travels without files."""
        if name in ("table", "list-table", "csv-table"):
            return [*([f"*{self.convert_inline(argument)}*", ""] if argument else []), *self.blocks(body)]
        caption = " ".join(line.strip() for line in self.blocks(body) if line.strip())
        alt = " ".join(str(options.get("alt", "")).split())
        drawing = BOOK / argument
        if name == "svg" and drawing.is_file():
            lit = re.split(r"[\s,]+", str(options["lit"]).strip()) if options.get("lit") else []
            source = light(drawing.read_text("utf-8"), lit)
            data = base64.b64encode(re.sub(r"\n\s*", "\n", source).encode()).decode()
            picture = f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}" width="700">'
            return [picture, "", *([f"*Figure.* {caption}"] if caption else [])]
        told = f"**Figure** (drawn on the book's page). {caption}".rstrip()
        return ["> " + told, ">", f"> *{alt}*"] if alt else ["> " + told]

    def quiz(self, questions: list[dict[str, Any]]) -> list[str]:
        """Questions with lettered options, the answers folded."""
        out = []
        for number, one in enumerate(questions, 1):
            out += [f"**{number}.** {self.convert_inline(str(one['q']).strip())}", ""]
            letters = "abcdefgh"
            for letter, option in zip(letters, one["options"], strict=False):
                out.append(f"- ({letter}) {self.convert_inline(str(option).strip())}")
            why = self.convert_inline(" ".join(str(one["why"]).split()))
            out += ["", *fold("Answer", [f"({letters[one['answer']]}) {why}"]), ""]
        return out


def split_options(body: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of a directive, in either of MyST's two notations, and the rest of its lines."""
    if body and body[0].strip() == "---":
        end = next((i for i, line in enumerate(body[1:], 1) if line.strip() == "---"), len(body))
        return yaml.safe_load("\n".join(body[1:end])) or {}, body[end + 1 :]
    options: dict[str, Any] = {}
    for i, line in enumerate(body):
        match = re.match(r":([\w-]+):\s*(.*)$", line)
        if not match:
            return options, body[i:]
        options[match[1]] = match[2]
    return options, []


def fold(title: str, body: list[str]) -> list[str]:
    """A closed section."""
    return ["<details>", f"<summary>{title}</summary>", "", *body, "", "</details>"]


def exercise(number: str) -> list[str]:
    """An exercise card."""
    try:
        one = card(number.strip())
    except KeyError:
        raise ValueError(f"no file in solutions/ holds the exercise {number}") from None
    docstring = [f"    {line}" if line else "" for line in f'"""{one.docstring}\n"""'.splitlines()]
    head, *methods = one.signature.removesuffix(" ...").splitlines()
    out = [f"**Exercise {one.id} · {one.title}** ({one.facts})", "", "```python", head]
    terminal = f"In a terminal, after `myllm exercises start`: `myllm exercises check {one.id}`"
    out += [*docstring, *methods, "```", "", terminal, ""]
    if one.forbidden:
        out += [*fold("What may not be called", [not_allowed(one.forbidden)]), ""]
    for level, hint in enumerate(one.hints, 1):
        out += [
            *fold(f"Hint {level} of {len(one.hints)}", ["```", hint, "```"] if level == 3 else [hint]),
            "",
        ]
    return out


def scoreboard(chapter: int) -> list[str]:
    """The scoreboard up to a chapter, as a table."""
    out = ["| chapter | model | parameters | bits per byte |", "|---|---|---|---|"]
    for row in thread.rows(chapter):
        out.append(f"| {row['chapter']} | {row['model']} | {row['parameters']:,} | {row['bits']:.2f} |")
    return out


def plain(page: str, source: str) -> Callable[[str], str]:
    """A function that turns the cells of one page, given in order, into plain Markdown."""
    return Plain(page, source).convert
