"""The built site and the modules that build it, for the tests of the book."""

import os
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "book" / "_ext"), str(ROOT / "tools")]


class Page:
    """One page of the built site: where it is and its parsed HTML."""

    def __init__(self, path: Path, site: Path) -> None:
        self.path, self.name = path, path.relative_to(site).with_suffix("").as_posix()
        self.html = BeautifulSoup(path.read_text("utf-8"), "html.parser")
        self.article = self.html.find("article")


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site; `make html` builds it."""
    built = ROOT / "_build" / "html"
    if not (built / "index.html").is_file():
        sentence = "The book is not built: run `make html` first."
        (pytest.fail if os.environ.get("MYLLM_SITE") == "required" else pytest.skip)(sentence)
    return built


@pytest.fixture(scope="session")
def pages(site: Path) -> list[Page]:
    """Every page that was written for the book."""
    return [Page(path, site) for path in sorted(site.glob("book/*.html"))]


@pytest.fixture(scope="session")
def chapters(pages: list[Page]) -> list[Page]:
    """The pages of the chapters."""
    return [page for page in pages if page.name.split("/")[-1][:2].isdigit()]
