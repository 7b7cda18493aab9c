"""Write a clean notebook of every chapter: `python tools/make_notebooks.py [FOLDER]` (default: notebooks).

A notebook that you have changed is kept; delete it to get a fresh one. With ``MYLLM_INSTALL=ADDRESS`` the
first cell installs the package from there when it runs in Colab: a wheel, or ``git+https://…``.
"""

import hashlib
import json
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
from myllm_book.notebooks import clean_notebook, install_address
from myllm_book.sources import chapters


def digest(text: str) -> str:
    """A hash of the cells' sources: running a notebook, which stores outputs, is not a change."""
    cells = [(cell.cell_type, cell.source) for cell in nbformat.reads(text, as_version=4).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def main(folder: Path = Path("notebooks")) -> int:
    """Write the notebooks, keeping those that were changed since they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / ".written.json"
    written: dict[str, str] = json.loads(ledger.read_text()) if ledger.is_file() else {}
    for chapter in chapters():
        target = folder / f"{chapter.stem}.ipynb"
        fresh = nbformat.writes(clean_notebook(chapter, install_address()))
        if target.is_file() and (now := digest(target.read_text("utf-8"))) != digest(fresh):
            if now != written.get(target.name):
                print(f"  {target}  kept: you changed it (delete it to get a fresh one)")
                continue
        elif target.is_file():
            print(f"  {target}  unchanged")
            continue
        target.write_text(fresh, "utf-8")
        written[target.name] = digest(fresh)
        print(f"  {target}  written")
    ledger.write_text(json.dumps(written, indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*map(Path, sys.argv[1:2])))
    except ValueError as error:
        sys.exit(str(error))
