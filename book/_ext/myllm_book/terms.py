"""The glossary as an index: below each definition, links to the sections that introduce or use the term."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from . import numbers

PAGE = "book/glossary"
#: By a word in small letters: the ids and titles of the sections that have it, in order.
Places = dict[str, dict[str, str]]
log = logging.getLogger(__name__)


def places(doctree: nodes.document, number: str = "") -> Places:
    """Where a page refers to a word of the glossary, or has it in bold, which is how it introduces one.

    Args:
        doctree: The page as it was read.
        number: Of the chapter, which stands before the title of the page and is no part of it.
    """
    before, found = f"{number} " if number.isdigit() else f"{number} · ", Places()
    for node in doctree.findall():
        if isinstance(node, addnodes.pending_xref) and node.get("reftype") == "term":
            word = node["reftarget"]
        elif isinstance(node, nodes.strong):
            word = node.astext()
        else:
            continue
        section = node.parent
        while (
            section and not isinstance(section, nodes.section) and "exercise-card" not in section["classes"]
        ):
            section = section.parent
        if isinstance(section, nodes.section):  # in a card, an argument's name is bold
            sections = found.setdefault(" ".join(word.split()).casefold(), {})
            sections.setdefault(section["ids"][0], section[0].astext().removeprefix(before))
    return found


def known(env: BuildEnvironment) -> dict[str, Places]:
    """The places of every chapter and appendix that has been read, by its page; kept with the environment."""
    return env.__dict__.setdefault("myllm_terms", {})


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Note the places of a chapter or an appendix."""
    if number := numbers.number(app.env.docname):
        known(app.env)[app.env.docname] = places(doctree, number)


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Forget the places of a page that is gone or read again."""
    known(env).pop(page, None)


def merge(app: Sphinx, env: BuildEnvironment, pages: set[str], other: BuildEnvironment) -> None:
    """Take over what another process has read."""
    known(env).update({page: found for page, found in known(other).items() if page in pages})


def write_again(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The glossary depends on every chapter."""
    return [PAGE] if PAGE in env.all_docs else []


def add_places(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Write the places below each definition; warn of a term that has none."""
    if page != PAGE:
        return
    for item in doctree.findall(nodes.definition_list_item):
        terms = [term.astext() for term in item.findall(nodes.term)]
        words = [form for term in terms for form in (term.casefold(), f"{term.casefold()}s")]
        line = nodes.paragraph(classes=["term-places"])
        for chapter, found in sorted(known(app.env).items()):
            sections = {key: title for word in words for key, title in found.get(word, {}).items()}
            if sections:
                line += [nodes.Text(" · " if line.children else ""), links(app, chapter, sections)]
        if line.children:
            item[-1] += line
        else:
            log.warning("No chapter refers to the term %s or has it in bold.", terms[0], location=item)


def links(app: Sphinx, chapter: str, sections: dict[str, str]) -> nodes.inline:
    """The number of a chapter and its sections."""
    number, address = numbers.number(chapter), app.builder.get_relative_uri(PAGE, chapter)
    out = nodes.inline("", "", nodes.strong("", number), classes=["term-place"])
    for i, (key, title) in enumerate(sections.items()):
        out += nodes.Text(", " if i else " ")
        out += nodes.reference("", title, internal=True, refuri=f"{address}#{key}")
    return out


def setup(app: Sphinx) -> None:
    """Register the steps."""
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-get-updated", write_again)
    app.connect("doctree-resolved", add_places)
