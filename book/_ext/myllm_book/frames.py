"""Whole pages that a chapter shows in a frame: files of their own, so that the chapter itself stays light."""

import re
from html import unescape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

FRAME = re.compile(
    r'(<iframe )srcdoc="([^"]*)"(.*?<a )href="#" download="([^"]*)" onclick="[^"]*"', re.DOTALL
)


def move_out(body: str, outdir: Path, root: str) -> str:
    """Write each framed page to ``_static/frames``, and let frame and link point there.

    Args:
        body: The HTML of a chapter, with frames as `myllm.course.Page` writes them.
        outdir: Where the site is built.
        root: The way from the chapter's page to `outdir`.
    """

    def replace(found: re.Match[str]) -> str:
        path = outdir / "_static" / "frames" / found[4]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unescape(found[2]), encoding="utf-8")
        address = f"{root}_static/frames/{found[4]}"
        return f'{found[1]}src="{address}"{found[3]}href="{address}" download="{found[4]}"'

    return FRAME.sub(replace, body)


def move_frames(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Move the frames of one page."""
    if "<iframe srcdoc=" in (body := context.get("body", "")):
        context["body"] = move_out(body, Path(app.outdir), "../" * page.count("/"))


def setup(app: Sphinx) -> None:
    """Register the step."""
    app.connect("html-page-context", move_frames)
