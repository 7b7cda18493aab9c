"""What a page says about itself, where its source is, and a page for an address that does not exist."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config


def description(doctree: nodes.document | None, default: str) -> str:
    """What a chapter builds, or the first paragraph of another page, in at most 200 letters."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else []:
        text = " ".join(paragraph.astext().split())
        if len(text) > 40:
            return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0].rstrip(",;:") + " …"
    return default


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


def add_pages(app: Sphinx, config: Config) -> None:
    """The page for an address that does not exist."""
    config.html_additional_pages = {**config.html_additional_pages, "404": "404.html"}


def setup(app: Sphinx) -> None:
    """Register both steps."""
    app.add_config_value("myllm_description", "", "html", str)
    app.connect("config-inited", add_pages)
    app.connect("html-page-context", describe)
