"""The address of the site: canonical pages, sitemap, robots.txt and the card of a link, or none of them."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from myllm_book import meta
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]
#: The real templates and the real part of the extension, around two pages.
CONF = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "book" / "_ext" / "myllm_book")!r})  # by itself: all together import PyTorch
extensions, root_doc = ["myst_parser", "meta"], "book/index"
html_theme, html_title, templates_path = "sphinx_book_theme", "MyLLM", [{str(ROOT / "book" / "_templates")!r}]
html_theme_options = {{"logo": {{"text": "MyLLM"}}}}
html_static_path = [{str(ROOT / "book" / "_static" / "social-card.png")!r}]
myllm_description = "A course of two pages."

def setup(app):
    app.add_config_value("myllm_repository", os.environ.get("MYLLM_REPOSITORY", ""), "html", str)
"""
SENTENCE = 'It counts "pairs" & says how often each of them occurs in a text.'


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that builds the two pages with these variables, over the last build; returns the site."""
    place = tmp_path_factory.mktemp("site")
    (place / "book").mkdir()
    (place / "conf.py").write_text(CONF, "utf-8")
    (place / "book" / "index.md").write_text("# Start\n\n```{toctree}\none\n```\n", "utf-8")
    (place / "book" / "one.md").write_text(f'# One & "two"\n\n{SENTENCE}\n', "utf-8")

    def built(**variables: str) -> Path:
        free = {key: value for key, value in os.environ.items() if not key.startswith("MYLLM_")}
        command = [sys.executable, "-m", "sphinx", "-q", "-W", place, place / "html"]
        done = subprocess.run(command, env=free | variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return place / "html"

    return built


def head(path: Path) -> dict[str, str]:
    """The canonical address and the named facts in a page's head."""
    html = BeautifulSoup(path.read_text("utf-8"), "html.parser").head
    tags = {tag.get("property") or tag["name"]: tag["content"] for tag in html.find_all("meta", content=True)}
    if canonical := html.find("link", rel="canonical"):
        tags["canonical"] = canonical["href"]
    return {key: value for key, value in tags.items() if key.startswith(("og:", "twitter:", "canonical"))}


def test_an_address_brings_canonical_pages_a_sitemap_and_a_card_and_without_it_there_is_nothing(build):
    base = "https://example.org/course/"
    site = build(MYLLM_SITE_URL=base.rstrip("/"))
    assert head(site / "book" / "one.html") == {
        "canonical": f"{base}book/one.html",
        "og:type": "article",
        "og:site_name": "MyLLM",
        "og:title": "One & “two”",
        "og:description": SENTENCE.replace('"pairs"', "“pairs”"),
        "og:url": f"{base}book/one.html",
        "og:image": f"{base}_static/social-card.png",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": "MyLLM: build a large language model from nothing",
        "twitter:card": "summary_large_image",
    }
    start = head(site / "book" / "index.html")
    assert start["og:type"] == "website" and start["og:title"].startswith("MyLLM: build")
    assert start["og:description"] == "A course of two pages."
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    places = ET.parse(site / "sitemap.xml").getroot().findall(f"{space}url/{space}loc")
    assert [place.text for place in places] == [f"{base}book/index.html", f"{base}book/one.html"]
    assert f"Sitemap: {base}sitemap.xml\n" in (site / "robots.txt").read_text("utf-8")
    lost = BeautifulSoup((site / "404.html").read_text("utf-8"), "html.parser")
    assert lost.base["href"] == base and lost.title.text.endswith("— MyLLM")

    site = build()
    assert head(site / "book" / "one.html") == {}
    assert not (site / "sitemap.xml").exists() and not (site / "robots.txt").exists()
    assert "example.org" not in "".join(path.read_text("utf-8") for path in site.glob("**/*.html"))
    assert '<base href="/" />' in (site / "404.html").read_text("utf-8")


def test_the_address_follows_from_the_repository_unless_it_is_given():
    assert meta.site_address("", "") == ""
    assert meta.site_address("", "Owner/Name") == "https://owner.github.io/Name/"
    assert meta.site_address("", "Owner/owner.github.io") == "https://owner.github.io/"
    assert meta.site_address("http://example.org/a/", "Owner/Name") == "http://example.org/a/"
    for wrong in ("example.org", "ftp://example.org", "https://", "https://a b"):
        with pytest.raises(ExtensionError, match="begins with https://"):
            meta.site_address(wrong)


def test_a_description_is_made_of_whole_sentences():
    short, long = "It counts pairs.", f"It {'counts and ' * 20}ends."
    assert meta.shorten(short) == short
    assert meta.shorten(f"{short} {long}") == short
    assert meta.shorten(f"Version 1.2 {short} {short * 12}").startswith("Version 1.2 It counts pairs.")
    cut = meta.shorten(long)
    assert len(cut) <= meta.LONGEST + 2 and cut.endswith(" …") and long.startswith(cut[:-2])


def test_the_card_has_the_size_that_the_pages_promise():
    data = (ROOT / "book" / "_static" / "social-card.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) < 100_000
    assert [int.from_bytes(data[place : place + 4], "big") for place in (16, 20)] == [1200, 630]
