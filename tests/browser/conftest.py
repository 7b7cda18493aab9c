"""A real Chromium and the built site, served on this machine, for the browser tests."""

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def chromium():
    """A running Chromium; where none is installed the tests are left out, but not where CI is set."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        sentence = "No Chromium was found, so the browser tests are left out: install it to run them."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def base(chromium):
    """The address at which the built site is served."""
    import serve

    if not (serve.SITE / "index.html").is_file():
        sentence = "The book is not built: run `make html` first."
        (pytest.fail if os.environ.get("MYLLM_SITE") == "required" else pytest.skip)(sentence)
    http = serve.server(0)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="session")
def addresses(base) -> list[str]:
    """The path of every page of the book, and of the pages the theme adds."""
    import serve

    pages = [path.relative_to(serve.SITE).as_posix() for path in sorted(serve.SITE.glob("book/*.html"))]
    assert len(pages) > 5
    return [*pages, "genindex.html", "search.html", "_modules/myllm/files.html"]
