"""Sections that may wait: closed on the page but for their heading; page.js opens those a link leads to."""

import re

from docutils import nodes
from sphinx.application import Sphinx

from .directives import raw

WAITS = re.compile(r"May wait\b|Optional:")


def close(doctree: nodes.document) -> None:
    """Put all of a section but its heading into a closed box, if the heading says that it may wait.

    The heading stays the section's own: its level, its place in the contents and its link are unchanged.
    """
    for section in doctree.findall(nodes.section):
        title = section.next_node(nodes.title)
        if title is not None and title.parent is section and WAITS.match(title.astext()):
            place = section.index(title)
            section.insert(place, raw('<details class="wait"><summary>'))
            section.insert(place + 2, raw("</summary>"))
            section += raw("</details>")


def close_sections(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Close the sections of one page, when it is written: what is read of a page is not changed."""
    if app.builder.format == "html":
        close(doctree)


def setup(app: Sphinx) -> None:
    """Register the step."""
    app.connect("doctree-resolved", close_sections)
