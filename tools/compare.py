"""Run executed notebooks a second time and compare every text output with what is stored in them.

    python tools/compare.py build/executed

Timings and addresses are replaced first (tests/nbval_sanitize.cfg). A notebook without outputs would pass by
comparing nothing, so every code cell must have been executed.
"""

import subprocess
import sys
from pathlib import Path

import nbformat

SANITIZE = Path(__file__).resolve().parents[1] / "tests" / "nbval_sanitize.cfg"


def unexecuted(path: Path) -> int:
    """How many code cells of a notebook hold source but were never executed."""
    cells = nbformat.read(path, as_version=4).cells
    return sum(c.cell_type == "code" and bool(c.source.strip()) and c.execution_count is None for c in cells)


def compare(paths: list[Path]) -> int:
    """Exit code 0 when every notebook gives the same outputs again."""
    notebooks = [n for path in paths for n in (sorted(path.glob("*.ipynb")) if path.is_dir() else [path])]
    if not notebooks:
        print("There is no executed notebook to compare: run tools/execute.py first.", file=sys.stderr)
        return 2
    for notebook in notebooks:
        if missing := unexecuted(notebook):
            print(
                f"{notebook}: {missing} code cells hold no execution count: nothing to compare with.",
                file=sys.stderr,
            )
            return 2
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(SANITIZE),
    ]
    command += [
        "-n",
        str(min(2, len(notebooks))),
        "--dist",
        "loadfile",
        "-o",
        "norecursedirs=",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run([*command, *map(str, notebooks)]).returncode


if __name__ == "__main__":
    sys.exit(compare([Path(arg) for arg in sys.argv[1:]]))
