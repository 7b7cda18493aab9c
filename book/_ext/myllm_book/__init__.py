"""The book's own Sphinx extension: figures, quizzes, exercise cards, clean notebooks, fresh outputs."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from myllm.widgets import vocabularies

from . import (
    directives,
    formulas,
    frames,
    landing,
    listings,
    meta,
    numbers,
    plots,
    printing,
    sources,
    teaching,
    terms,
    thread,
    waiting,
    weight,
)
from .notebooks import clean_notebook, install_address


def prepare(app: Sphinx, config: Config) -> None:
    """Point MyST-NB at the book's cache, and re-read every page when what the chapters import has changed."""
    sources.open_cache()
    config.nb_execution_cache_path = str(sources.CACHE)
    config.myllm_fingerprint = sources.fingerprint()
    config.myllm_repository = config.myllm_repository or os.environ.get("MYLLM_REPOSITORY", "")
    config.myllm_install = install_address(config.myllm_install, config.myllm_repository)


def forget_source_pages(app: Sphinx) -> None:
    """Write the pages with the package's source anew: Sphinx keeps old ones, with links that lead nowhere."""
    shutil.rmtree(Path(app.outdir) / "_modules", ignore_errors=True)


def number_figures(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Number the figures of chapter 3 as 3.1, 3.2 …, of appendix C as C.1: by the file, not its place."""
    for page, kinds in env.toc_fignumbers.items():
        if chapter := numbers.number(page):
            for figures in kinds.values():
                for i, figure in enumerate(figures, 1):
                    figures[figure] = (int(chapter) if chapter.isdigit() else chapter, i)
    return []


def remove_thebe(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Keep the settings of Thebe, which this book does not use, out of the page."""
    for node in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in node.astext():
            node.parent.remove(node)


#: What themes write and checkers of accessibility refuse: a role that ARIA gave up, a label unlike its text.
REFUSED = (
    ('role="doc-biblioentry"', 'role="listitem"'),
    ('<summary aria-label="Toggle hidden content">', "<summary>"),
)


def is_chapter(page: str) -> bool:
    """Whether this page is a chapter or an appendix with cells, and so has a notebook."""
    return bool(re.fullmatch(r"book/(\d\d|[a-d])-[\w-]+", page))


def add_buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Offer the clean notebook and, where an address is configured, Colab."""
    for old, new in REFUSED:
        if old in context.get("body", ""):
            context["body"] = context["body"].replace(old, new)
    buttons = context.get("header_buttons", [])
    buttons[:] = [button for button in buttons if button.get("label") != "download-buttons"]
    if not is_chapter(page):
        return
    notebook = f"notebooks/{Path(page).name}.ipynb"
    if repository := app.config.myllm_repository:
        url = f"https://colab.research.google.com/github/{repository}/blob/gh-pages/{notebook}"
        buttons.insert(0, button(url, "Open in Colab", "fas fa-cloud", "colab-button"))
    url = context["pathto"](notebook, 1)
    buttons.insert(0, button(url, "Download the notebook", "fas fa-download", "download-notebook-button"))


def button(url: str, tooltip: str, icon: str, label: str) -> dict[str, str]:
    """A link in the page's header, as the theme describes it."""
    return {"type": "link", "url": url, "tooltip": tooltip, "text": "", "icon": icon, "label": label}


def publish_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Write a clean notebook of each chapter into the site."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for chapter in sources.chapters():
        if f"book/{chapter.stem}" in app.env.all_docs:
            try:
                notebook = clean_notebook(chapter, app.config.myllm_install)
            except ValueError as error:
                raise ExtensionError(f"The notebook of {chapter.name}: {error}") from None
            nbformat.write(notebook, folder / f"{chapter.stem}.ipynb")


def publish_vocabularies(app: Sphinx, exception: Exception | None) -> None:
    """Write the vocabularies that widgets load on demand: as scripts, which work from a disk too."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "vocabularies"
    folder.mkdir(parents=True, exist_ok=True)
    for name in vocabularies.NAMES:
        data = json.dumps(vocabularies.vocabulary(name), ensure_ascii=False, separators=(",", ":"))
        script = f"(globalThis.myllmVocabularies ??= {{}}).{name} = {data};\n"
        (folder / f"{name}.js").write_text(script, encoding="utf-8")


def skip_field(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave a named tuple's fields to the Attributes of its docstring."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_config_value("myllm_repository", "", "html", str)
    app.add_config_value("myllm_install", "", "html", str)
    app.add_config_value("myllm_fingerprint", "", "env", str)
    for part in (
        directives,
        formulas,
        frames,
        landing,
        listings,
        meta,
        numbers,
        plots,
        printing,
        teaching,
        terms,
        thread,
        waiting,
        weight,
    ):
        part.setup(app)
    app.connect("config-inited", prepare, priority=100)
    app.connect("builder-inited", forget_source_pages)
    app.connect("env-get-updated", number_figures, priority=900)
    app.connect("doctree-resolved", remove_thebe, priority=900)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("html-page-context", add_buttons, priority=900)
    app.connect("build-finished", publish_notebooks)
    app.connect("build-finished", publish_vocabularies)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
