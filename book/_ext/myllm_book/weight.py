"""What a page loads: no script or sheet that it does not use, of the theme's style only what it can meet."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from .formulas import STYLE

UNUSED = (
    "thebe",
    "togglebutton",
    "togglehint",
    "toggleopen",
    "sphinx-book-theme.js",
    "pygments.css",
    "mathjax",
)
NEEDED = {
    "design-tabs": "sd-tab-set",
    "sphinx-design": "sd-",
    STYLE: 'class="katex',
    "quiz.js": 'class="quiz"',
}
SHEETS = (
    "styles/pydata-sphinx-theme.css",
    "styles/sphinx-book-theme.css",
    "sphinx-design.min.css",
    "basic.css",
)


def drop_unused(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Leave out the files that this page has no use for."""
    body = context.get("body", "")

    def used(file: Any) -> bool:
        name = f"{file} {getattr(file, 'filename', '')} {getattr(file, 'attributes', '')}".lower()
        return not any(part in name for part in UNUSED) and all(
            mark in body for part, mark in NEEDED.items() if part in name
        )

    for files in ("script_files", "css_files"):
        context[files] = [file for file in context[files] if used(file)]


def rules(css: str) -> list[str]:
    """The top-level rules of a style sheet, `@media` and the like with what is in them."""
    out, depth, start = [], 0, 0
    for match in re.finditer(r"[{}]|;", css):
        depth += {"{": 1, "}": -1, ";": 0}[match[0]]
        if depth == 0:
            out.append(css[start : match.end()])
            start = match.end()
    return out


def purge(css: str, words: set[str]) -> str:
    """A style sheet without the rules whose every selector names a class that occurs nowhere in the site."""
    kept = []
    for rule in rules(re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)):
        head, brace, body = rule.partition("{")
        if head.lstrip().startswith(("@media", "@supports", "@layer")):
            inside = purge(body[:-1], words)
            kept += [f"{head}{{{inside}}}"] if inside.strip() else []
        elif "@font-face" in head:
            continue  # the theme's are icons; ours stand in custom.css
        elif head.lstrip().startswith("@") or not brace:
            kept.append(rule)
        else:
            plain = re.sub(r":(?:not|is|where|has)\([^()]*\)", "", head)
            alive = [set(re.findall(r"\.((?:[\w-]|\\.)+)", one)) <= words for one in plain.split(",")]
            kept += [rule] if any(alive) else []
    return "".join(kept)


def slim_sheets(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the theme's style sheets with the rules that the site's pages and scripts can meet."""
    if exception or app.builder.format != "html":
        return
    site, words = Path(app.outdir), set[str]()
    sources = [*site.glob("*.html"), *site.glob("book/*.html"), *site.glob("_modules/**/*.html")]
    for path in [*sources, *site.glob("_static/*.js")]:
        words |= {
            word for word in re.findall(r"[\w-]+", path.read_text("utf-8")) if not word.startswith("fa")
        }
    for name in SHEETS:
        sheet = site / "_static" / name
        text = purge(sheet.read_text("utf-8"), words)
        sheet.write_text(re.sub(r"\n{2,}", "\n", text), "utf-8")
    for path in [*site.glob("_static/scripts/*"), *site.glob("_static/styles/*.map")]:
        path.unlink()  # the theme's scripts: page.js does what this book needs of them


def setup(app: Sphinx) -> None:
    """Register both steps."""
    app.connect("html-page-context", drop_unused, priority=950)
    app.connect("build-finished", slim_sheets)
