"""Execute the chapters into the cache that the book and the strict comparison read.

    python tools/execute.py

``MYLLM_WORKERS`` (2) of them run at a time. A chapter whose cells, package and constraints are unchanged is
taken from the cache. Every executed notebook is also written to build/executed/NN-slug.ipynb.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
from myllm_book.sources import BOOK, ROOT, chapters, join_streams, open_cache, read

EXECUTED = ROOT / "build" / "executed"
TIMEOUT = 600  # seconds a cell
QUIET = {"extra_arguments": ["--log-level=ERROR"]}


def run(chapter: Path) -> tuple[Path, NotebookNode, float, str | None]:
    """Execute one chapter in a fresh kernel; last comes the traceback of the cell that failed, if any."""
    print(f"  {chapter.stem:<24} running …", flush=True)
    result = single_nb_execution(read(chapter), cwd=str(BOOK), timeout=TIMEOUT, allow_errors=False, **QUIET)
    return chapter, join_streams(result.nb), result.time, result.exc_string


def main() -> int:
    """Fill the cache, write build/executed, and say how long each chapter took."""
    start, failures, waiting = time.perf_counter(), 0, []
    cache = open_cache()
    for chapter in chapters():
        try:
            cache.match_cache_notebook(read(chapter))
            print(f"  {chapter.stem:<24} unchanged, from the cache", flush=True)
        except KeyError:
            waiting.append(chapter)
    with ThreadPoolExecutor(int(os.environ.get("MYLLM_WORKERS", "2"))) as pool:
        for chapter, notebook, seconds, failure in pool.map(run, waiting):
            if failure:
                failures += 1
                print(f"  {chapter.stem:<24} FAILED after {seconds:.1f} s\n{failure}", flush=True)
                continue
            bundle = CacheBundleIn(notebook, str(chapter), data={"execution_seconds": seconds})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            print(f"  {chapter.stem:<24} executed in {seconds:.1f} s", flush=True)
    if failures:
        print(
            f"{failures} of {len(chapters())} chapters failed: the cell and its error are above.",
            file=sys.stderr,
        )
        return 1
    EXECUTED.mkdir(parents=True, exist_ok=True)
    for old in EXECUTED.glob("*.ipynb"):
        old.unlink()
    for chapter in chapters():
        _, notebook = cache.merge_match_into_notebook(read(chapter))
        nbformat.write(notebook, EXECUTED / f"{chapter.stem}.ipynb")
    print(f"  {len(chapters())} chapters ready in {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
