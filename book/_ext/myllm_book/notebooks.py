"""A clean notebook of a chapter: plain Markdown and code, for JupyterLab and Colab, without outputs."""

import hashlib
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

INSTALL = """\
# In Colab, install the course first; in your own Jupyter it is already there.
import sys

if "google.colab" in sys.modules:
    {install}"""
FROM_REPOSITORY = '%pip install -q "myllm-course @ git+https://github.com/{repository}"'
FROM_WHEEL = "%pip install -q /content/myllm_course-*.whl  # upload the wheel that `python -m build` made"


def clean_notebook(chapter: Path, repository: str = "") -> NotebookNode:
    """The chapter as a notebook that anyone can open; `repository` is OWNER/NAME on GitHub."""
    notebook = jupytext.read(chapter, fmt="md:myst")
    notebook.metadata.pop("jupytext", None)
    install = FROM_REPOSITORY.format(repository=repository) if repository else FROM_WHEEL
    notebook.cells.insert(0, nbformat.v4.new_code_cell(INSTALL.format(install=install)))
    for position, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{position}\n{cell.source}".encode()).hexdigest()[:12]
    return notebook
