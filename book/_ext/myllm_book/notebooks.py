"""A clean notebook of a chapter: plain Markdown and code, for JupyterLab and Colab, without outputs."""

import hashlib
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from .markdown import plain, titles

INSTALL = """\
# In Colab, install the course first{upload}; in your own Jupyter it is already there.
import sys

if "google.colab" in sys.modules:
    {install}"""
FROM_REPOSITORY = '%pip install -q "myllm-course @ git+https://github.com/{repository}"'
FROM_WHEEL = "%pip install -q /content/myllm_course-*.whl"
UPLOAD = " (upload the wheel that `python -m build` made)"


def clean_notebook(chapter: Path, repository: str = "") -> NotebookNode:
    """The chapter as a notebook that anyone can open; `repository` is OWNER/NAME on GitHub."""
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
    install = FROM_REPOSITORY.format(repository=repository) if repository else FROM_WHEEL
    first = INSTALL.format(install=install, upload="" if repository else UPLOAD)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(first))
    for position, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{position}\n{cell.source}".encode()).hexdigest()[:12]
    return notebook


def cell_metadata(tags: list[str]) -> NotebookNode:
    """What the book hides, JupyterLab folds."""
    hidden = {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags)
    metadata = {"tags": tags} if tags else {}
    return nbformat.from_dict(metadata | ({"jupyter": {"source_hidden": True}} if hidden else {}))
