"""Run executed notebooks a second time and compare every text output with what is stored in them.

    python tools/compare.py build/executed

Timings and addresses are replaced first (tests/nbval_sanitize.cfg). A comparison of nothing would pass too,
so every code cell must hold an execution count, and every code cell must have been compared.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
from nbformat import NotebookNode

SANITIZE = Path(__file__).resolve().parents[1] / "tests" / "nbval_sanitize.cfg"


def code_cells(path: Path) -> list[NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def unexecuted(path: Path) -> int:
    """How many code cells of a notebook hold source but were never executed."""
    return sum(bool(cell.source.strip()) and cell.execution_count is None for cell in code_cells(path))


def compare(folder: Path) -> int:
    """Exit code: 0 when the notebooks of a folder give the same outputs again, 1 when not, 2 for nothing."""
    notebooks = sorted(folder.glob("*.ipynb"))
    if not notebooks:
        print(f"{folder} holds no executed notebook: run tools/execute.py first.", file=sys.stderr)
        return 2
    for notebook in notebooks:
        if missing := unexecuted(notebook):
            print(
                f"{notebook}: {missing} code cells hold no execution count, so no outputs.", file=sys.stderr
            )
            return 2
    # In each process a notebook at a time; the root folder is what keeps their names apart.
    workers = min(int(os.environ.get("MYLLM_WORKERS", "2")), len(notebooks))
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "nbval", "--nbval", "--nbval-current-env"]
        command += [
            "--nbval-sanitize-with",
            str(SANITIZE),
            "-n",
            str(workers if workers > 1 else 0),
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--rootdir", str(folder.resolve()), "-o", "norecursedirs=", f"--junitxml={report}"]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        code = subprocess.run([*command, *map(str, notebooks)], env=environment).returncode
        compared = len(list(ElementTree.parse(report).iter("testcase"))) if report.is_file() else 0
    cells = sum(len(code_cells(notebook)) for notebook in notebooks)
    if compared != cells:
        print(f"Only {compared} of {cells} code cells were compared.", file=sys.stderr)
        return code or 2
    return code


if __name__ == "__main__":
    sys.exit(compare(Path(sys.argv[1] if len(sys.argv) > 1 else "build/executed")))
