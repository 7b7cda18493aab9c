"""Listings for a phone: each line of Python knows its indentation, a long name breaks where words meet."""

import re
from typing import Any

from sphinx.application import Sphinx

LISTING = re.compile(
    r'(<div class="highlight-(?:ipython3?|python3?) notranslate"><div class="highlight"><pre>)(.*?)(</pre>)',
    re.DOTALL,
)
WIDGET = re.compile(r'(<script type="application/vnd\.jupyter\.widget-view\+json">)')
SILENT = "This is an interactive widget, which needs JavaScript. The text continues below."
LITERAL = re.compile(r'(<span class="pre">)([^<]{14,})(</span>)')


def lines(html: str) -> str:
    """Each line of highlighted code in a span with its indentation; a colour that spans lines is repeated."""
    out, opened = [], []
    for line in html.removesuffix("\n").split("\n"):
        start = "".join(opened)
        for tag in re.findall(r"<span[^>]*>|</span>", line):
            if tag == "</span>":
                opened.pop()
            else:
                opened.append(tag)
        text = re.sub(r"<[^>]*>", "", line)
        indent = len(text) - len(text.lstrip(" "))
        style = f' style="--i:{indent}"' if indent else ""
        out.append(f'<span class="line"{style}>{start}{line}{"</span>" * len(opened)}\n</span>')
    return "".join(out)


def breaks(name: str) -> str:
    """A long name with places to break: after a dot, an underscore, a slash, a comma or a bracket."""
    return re.sub(r"([._/,(=]|::)(?=\w)", r"\1<wbr>", name)


def rewrite(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Rewrite the listings and literals of a page."""
    if body := context.get("body"):
        body = LISTING.sub(lambda match: match[1] + lines(match[2]) + match[3], body)
        body = WIDGET.sub(rf'<noscript><p class="no-widget">{SILENT}</p></noscript>\1', body)
        context["body"] = LITERAL.sub(lambda match: match[1] + breaks(match[2]) + match[3], body)


def setup(app: Sphinx) -> None:
    """Register the step."""
    app.connect("html-page-context", rewrite)
