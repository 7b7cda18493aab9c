"""What only paper needs: at the end of a printed page, what it cites, since a link leads nowhere there."""

import re
from typing import Any

from sphinx.application import Sphinx

CITED = re.compile(r'href="bibliography\.html#id\d+" title="([^"]*)"')


def add_references(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Append the works that a page cites, in the order in which it does; only print.css shows them."""
    if works := dict.fromkeys(CITED.findall(context.get("body", ""))):
        items = "".join(f"<li>{work}</li>" for work in works).replace("$", "")  # around formulas in titles
        context["body"] += f'<div class="cited"><p>What this page cites</p><ul>{items}</ul></div>'


def setup(app: Sphinx) -> None:
    """Register the step."""
    app.connect("html-page-context", add_references)
