"""Where the chapters are, and the cache of their outputs: shared by the book build and by `tools/`."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import JupyterCacheAbstract
from myst_nb.core.read import myst_nb_reader_plugin
from nbformat import NotebookNode

from myllm.data import downloads

ROOT = Path(__file__).resolve().parents[3]
BOOK = ROOT / "book"
CACHE = ROOT / "build" / "jupyter_cache"


def chapters() -> list[Path]:
    """The chapters in order, `book/NN-slug.md`, then the appendices that have cells, `book/a-slug.md`."""
    return [*sorted(BOOK.glob("[0-9][0-9]-*.md")), *sorted(BOOK.glob("[a-d]-*.md"))]


def read(chapter: Path) -> NotebookNode:
    """The chapter as a notebook, read as the book build reads it, so that the cache recognises it."""
    return myst_nb_reader_plugin(str(chapter))


def join_streams(notebook: NotebookNode) -> NotebookNode:
    """Join what a cell printed into one output.

    A kernel sends what is printed several times a second, wherever a line stands then. MyST-NB ends each
    such piece with a line break, which would break a line in two.
    """
    for cell in notebook.cells:
        joined: list[NotebookNode] = []
        for output in cell.get("outputs", []):
            last = joined[-1] if joined else None
            if last and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text += output.text
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined
    return notebook


def fingerprint() -> str:
    """A hash of everything beside its own cells that a chapter's output depends on."""
    digest = hashlib.sha256(str(sys.version_info[:2]).encode())
    for folder in ("myllm", "solutions", "exercises", "book/_results"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    digest.update((ROOT / "constraints.txt").read_bytes())
    digest.update(str(downloads.find("smollm2") is not None).encode())  # its cells do nothing without it
    return digest.hexdigest()


def open_cache() -> JupyterCacheAbstract:
    """Open the cache of outputs; its own key is the cells only, so a changed fingerprint empties it first."""
    # Kernels inherit this: one thread each, so that two chapters share two cores and sums are reproducible.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stamp, now = CACHE / "fingerprint", fingerprint()
    if not stamp.is_file() or stamp.read_text() != now:
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        stamp.write_text(now)
    return get_cache(CACHE)
