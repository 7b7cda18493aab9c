"""What a page says about itself, where site and source are, and a page for an address that does not exist."""

import os
import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

LONGEST = 200  # letters of a description


def site_address(url: str, repository: str = "") -> str:
    """Where the site is published, with a slash at its end; empty where nothing says it.

    Args:
        url: The address; one without http or https raises ExtensionError.
        repository: OWNER/NAME, whose GitHub Pages are taken where there is no address.
    """
    if not url and repository:
        owner, _, name = repository.lower().partition("/")
        host = f"{owner}.github.io"
        url = f"https://{host}" if name == host else f"https://{host}/{repository.partition('/')[2]}"
    if url and not re.match(r"https?://[^/\s]+\S*$", url):
        raise ExtensionError(
            f"The site's address begins with https://, as in https://example.org/book/; {url!r} does not."
        )
    return url and url.rstrip("/") + "/"


def description(doctree: nodes.document | None, default: str) -> str:
    """What a chapter builds, or the beginning of another page: whole sentences of at most 200 letters."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else []:
        text = " ".join(paragraph.astext().split())
        if len(text) > 40:
            return shorten(text)
    return default


def shorten(text: str) -> str:
    """As many whole sentences as fit; of a first one that is too long, as many words."""
    fitting = [end for one in re.finditer(r"[.!?](?= |$)", text) if (end := one.end()) <= LONGEST]
    if len(text) <= LONGEST or fitting:
        return text if len(text) <= LONGEST else text[: fitting[-1]]
    return text[:LONGEST].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Hand the template what it writes into the head, and the footer the links to the repository."""
    config = app.config
    is_root = page == config.root_doc
    context["myllm_description"] = (
        config.myllm_description if is_root else description(doctree, config.myllm_description)
    )
    context["myllm_title"] = f"{config.html_title}: build a large language model from nothing"
    context["myllm_address"] = config.html_baseurl
    if repository := config.myllm_repository:
        address = f"https://github.com/{repository}"
        links = f'<a href="{address}">Source</a> · <a href="{address}/issues">Report a mistake</a>'
        context["theme_extra_footer"] = f"{context.get('theme_extra_footer', '')} {links}"


def configure(app: Sphinx, config: Config) -> None:
    """Find the address of the site, and add the page for an address that does not exist."""
    config.html_baseurl = site_address(
        os.environ.get("MYLLM_SITE_URL") or config.html_baseurl, config.myllm_repository
    )
    config.html_additional_pages = {**config.html_additional_pages, "404": "404.html"}


def publish_addresses(app: Sphinx, exception: Exception | None) -> None:
    """Tell search engines every page of the book, where the address of the site is known."""
    if exception or app.builder.format != "html":
        return
    site, base = Path(app.outdir), app.config.html_baseurl
    sitemap, robots = site / "sitemap.xml", site / "robots.txt"
    if not base:  # an earlier build may have had an address
        sitemap.unlink(missing_ok=True)
        return robots.unlink(missing_ok=True)
    pages = (escape(base + app.builder.get_target_uri(page)) for page in sorted(app.env.all_docs))
    places = "".join(f"  <url><loc>{page}</loc></url>\n" for page in pages)
    sitemap.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{places}</urlset>\n',
        "utf-8",
    )
    robots.write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n", "utf-8")


def setup(app: Sphinx) -> None:
    """Register the steps."""
    app.add_config_value("myllm_description", "", "html", str)
    app.connect("config-inited", configure)
    app.connect("html-page-context", describe)
    app.connect("build-finished", publish_addresses)
