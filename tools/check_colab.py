"""Run every chapter's notebook as Colab would, where nothing of the course is installed: `make colab`.

    python tools/check_colab.py torch==2.13.0 [NN-slug …]

The environment has PyTorch and what Colab has: NumPy, matplotlib, ipykernel and ipywidgets. It lies outside
the repository, in a folder with a space in its name. The wheel is served from this machine, the notebooks are
written with its address, and each runs in an empty folder from its first cell, which installs the package.
Then the package is removed again, so that the next notebook has to install it too.
"""

import os
import shlex
import sys
import tempfile
import threading
import time
import venv
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
from check_wheel import ROOT, build, run
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HAS = ("numpy", "matplotlib", "ipykernel", "ipywidgets==7.7.1")
# A kernel of Colab has imported the package by which notebooks, and anywidget, recognize it.
STARTUP = """
import sys, types
google, colab, output = (types.ModuleType(name) for name in ("google", "google.colab", "google.colab.output"))
output._widgets = types.SimpleNamespace(_installed_url=None)
output.enable_custom_widget_manager = lambda: None
google.colab, colab.output = colab, output
sys.modules |= {module.__name__: module for module in (google, colab, output)}
"""
TIMEOUT = 600  # seconds a cell
ABSENT = "myllm download smollm2"  # what a cell says where the published model is not there


class Quiet(SimpleHTTPRequestHandler):
    """Serves the wheel without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


def main(torch: str, *only: str) -> int:
    """Run the notebooks one after the other; return how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "a place"
        wheel = build(place / "dist")
        python = environment(place / "venv", torch)
        http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(wheel.parent)))
        threading.Thread(target=http.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{http.server_port}/{wheel.name}"
        os.environ["MYLLM_INSTALL"] = address
        run(sys.executable, ROOT / "tools/make_notebooks.py", place / "notebooks", cwd=ROOT)
        for path in sorted((place / "notebooks").glob("*.ipynb")):
            if not only or path.stem in only:
                failed += not runs(path, python, place / path.stem)
        http.shutdown()
    return failed


def environment(folder: Path, torch: str) -> Path:
    """Make an environment like Colab's before the first cell; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    run(python, "-m", "pip", "install", "-q", *shlex.split(torch), *HAS, cwd=folder)
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text(STARTUP)
    return python


def runs(path: Path, python: Path, folder: Path) -> bool:
    """Run a notebook in the empty `folder` and say how it went; in the end the package is gone again."""
    folder.mkdir()
    begin = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    failure = execute(notebook, python, folder)
    said = sum(ABSENT in str(cell.get("outputs")) for cell in notebook.cells)
    note = f"; {said} of its cells said that smollm2 is not there" if said else ""
    print(f"{path.stem:<24} {failure or 'ran' + note} ({time.monotonic() - begin:.0f} s)", flush=True)
    run(python, "-m", "pip", "uninstall", "-q", "-y", "myllm-course", cwd=folder)
    return not failure


def execute(notebook: nbformat.NotebookNode, python: Path, folder: Path) -> str:
    """Run all cells; return which failed and how, or nothing."""
    kernel = AsyncKernelManager()
    kernel.kernel_spec.argv[0] = str(python)
    client = NotebookClient(notebook, kernel, timeout=TIMEOUT, resources={"metadata": {"path": str(folder)}})
    try:
        client.execute(cleanup_kc=True, env=settings(python.parents[1], folder))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        at = next((i for i, cell in reversed([*enumerate(notebook.cells)]) if cell.get("execution_count")), 1)
        installed = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
        return (
            f"FAILED in cell {at}:\n{notebook.cells[at].source}\n{error}\nThe first cell said:\n{installed}"
        )
    return ""


def settings(environment: Path, folder: Path) -> dict[str, str]:
    """The kernel's variables: nothing of this repository, no downloads of the course."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(environment / "ipython"),
        "MYLLM_CACHE": str(environment / "cache"),
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) and "A notebook failed.")
