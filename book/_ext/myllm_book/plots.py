"""Plots become part of the page: in its face and colour of text, each role in its light or dark colour."""

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from myllm.course import COLOURS

FONT = re.compile(r"font-family: ([^;\"]*);? ?")


def face(match: re.Match[str]) -> str:
    """The page's face in place of matplotlib's; a fixed width stays one."""
    return "font-family: var(--pst-font-family-monospace); " if "mono" in match[1].lower() else ""


def inline_plot(source: str, alt: str, ids: str) -> str:
    """A plot that matplotlib wrote as SVG, as part of a page; `ids` goes before every id in it."""
    source = source[source.index("<svg") :]
    drop = r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>"
    source = re.sub(drop, "", source, flags=re.DOTALL)
    source = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{ids}-", source)
    source = FONT.sub(face, source)
    for role, tone in COLOURS.items():
        colour = "currentColor" if role == "neutral" else f"var(--c-{role}, {tone})"
        source = source.replace(tone, colour)
    source = re.sub(r"\n\s*", "\n", source).replace("\n", " ")
    return source.replace("<svg", f'<svg class="plot" role="img" aria-label="{html.escape(alt)}"', 1)


class InlinePlots(SphinxTransform):
    """Put each plot of a cell into the page, before Sphinx would copy it as a file."""

    default_priority = 410

    def apply(self) -> None:
        """Replace the image nodes of SVG outputs."""
        for image in list(self.document.findall(nodes.image)):
            if not image["uri"].endswith(".svg"):
                continue
            rooted = image["uri"].startswith("/")  # then it is relative to the folder of all sources
            folder = Path(self.env.srcdir) if rooted else Path(self.env.doc2path(self.env.docname)).parent
            path = folder / image["uri"].lstrip("/")
            if path.is_file() and "jupyter_execute" in path.resolve().parts:
                unique = f"plot{self.env.new_serialno('plot')}"
                drawing = inline_plot(path.read_text("utf-8"), image.get("alt", ""), unique)
                image.replace_self(nodes.raw("", drawing, format="html"))


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_transform(InlinePlots)
