"""A clean notebook of a chapter: plain Markdown and code, for JupyterLab and Colab, without outputs."""

import hashlib
import os
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from myllm import __version__

from .markdown import plain, titles

INSTALL = """\
# In Colab, install the course first{upload}; in your own Jupyter it is already there.
import sys

if "google.colab" in sys.modules:
    %pip install -q '{requirement}'"""
WHEEL = f"/content/myllm_course-{__version__}-py3-none-any.whl"
UPLOAD = " (upload the wheel that `python -m build` made)"


def install_address(given: str = "", repository: str = "") -> str:
    """Where Colab gets the package: as given, by MYLLM_INSTALL, else from the repository OWNER/NAME."""
    given = given or os.environ.get("MYLLM_INSTALL", "")
    return given or (f"git+https://github.com/{repository}" if repository else "")


def requirement(address: str) -> str:
    """What pip installs: a wheel or an sdist by URL or path, or ``git+https://…``; with what chapters import.

    Raises:
        ValueError: The address has a character that ends the quotation marks, or that IPython replaces.
    """
    if found := re.search(r"['${}\x00-\x1f]", address):
        raise ValueError(f"The address of the package, {address!r}, must not contain {found[0]!r}.")
    return f"myllm-course[notebooks] @ {address}" if "://" in address else f"{address}[notebooks]"


def clean_notebook(chapter: Path, address: str = "") -> NotebookNode:
    """The chapter as a notebook that anyone can open; in Colab it installs the package from `address`.

    Without an address it installs a wheel that the reader uploads.
    """
    notebook = jupytext.read(chapter, fmt="md:myst")
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python"}
    convert = plain(chapter.stem, chapter.read_text("utf-8"))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = convert(cell.source)
        else:
            cell.metadata = cell_metadata(cell.metadata.get("tags", []))
    title = titles()[chapter.stem]
    notebook.cells[0].source = re.sub(r"^# .*", lambda match: f"# {title}", notebook.cells[0].source, count=1)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    first = INSTALL.format(requirement=requirement(address or WHEEL), upload="" if address else UPLOAD)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(first))
    for position, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{position}\n{cell.source}".encode()).hexdigest()[:12]
    return notebook


def cell_metadata(tags: list[str]) -> NotebookNode:
    """What the book hides, JupyterLab folds."""
    hidden = {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags)
    metadata = {"tags": tags} if tags else {}
    return nbformat.from_dict(metadata | ({"jupyter": {"source_hidden": True}} if hidden else {}))
