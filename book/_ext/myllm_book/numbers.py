"""The number of a chapter: in its title, with it in the sidebar, links and search, and in the map."""

import html
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from .sources import BOOK

CHAPTERS = 21


def number(page: str) -> str:
    """The number in a page's file name: ``05-attention`` is 5, ``a-one-diff`` is A; else nothing."""
    match = re.fullmatch(r"(?:book/)?(\d\d|[a-d])-[\w-]+", page)
    return match[1].lstrip("0").upper() if match else ""


def page_of(chapter: str) -> str:
    """The file name, without ending, of the page with this number; empty where it is not written."""
    name = f"{int(chapter):02}" if chapter.isdigit() else chapter.lower()
    return next((path.stem for path in BOOK.glob(f"{name}-*.md")), "")


class NumberTitle(SphinxTransform):
    """Put the number of a chapter before its title; the section's id stays as it was."""

    default_priority = 400

    def apply(self) -> None:
        """Number the first heading of the page."""
        found = number(self.env.docname)
        title = next(iter(self.document.findall(nodes.title)), None)
        if found and title is not None and not title.astext().startswith(f"{found} "):
            title.insert(0, [nodes.inline("", found, classes=["chapter-number"]), nodes.Text(" ")])


def link_map(source: str, lit: list[str]) -> str:
    """The map with a link on each block."""

    def linked(match: re.Match[str]) -> str:
        chapter, page = match[1], page_of(match[1])
        words = [word.strip() for word in re.findall(r"<text[^>]*>([^<]*)</text>", match[0])]
        here = ' aria-current="page"' if chapter in lit else ""
        kind = "Chapter" if chapter.isdigit() else "Appendix"
        label = html.escape(f"{kind} {words[0]}: {' '.join(words[1:])}")
        return f'<a href="{page}.html" data-chapter="{page}" aria-label="{label}"{here}>{match[0]}</a>'

    return re.sub(r'<g id="ch(\w+)" class="block[^"]*".*?</g>', linked, source, flags=re.DOTALL)


def map_row(chapter: str) -> str:
    """The map as one row of links, which a phone shows in its place; progress.js marks what was read."""
    items = []
    for n in range(1, CHAPTERS + 1):
        page, here = page_of(str(n)), ' aria-current="page"' if str(n) == chapter else ""
        link = f'<a href="{page}.html" data-chapter="{page}" aria-label="Chapter {n}"{here}></a>'
        items.append(f"<li>{link if page else '<span></span>'}</li>")
    told = f"Chapter {chapter} of {CHAPTERS}" if chapter.isdigit() else f"Appendix {chapter.upper()}"
    link = '<a href="index.html#fig-map">the map</a>'
    row = f"<p>{told} · {link}</p><ol>{''.join(items)}</ol>"
    return f'<nav class="map-row" aria-label="All chapters">{row}</nav>'


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_transform(NumberTitle)
