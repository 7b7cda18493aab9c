"""The landing page: a model that writes, proofs and cards whose numbers are read from what was executed."""

import html
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from docutils import nodes
from safetensors.numpy import load_file
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

from myllm.llm import LLM
from myllm.tokenizers.pretrained import load_tokenizer
from myllm.widgets import BitsDial, Writer
from myllm.widgets.page_model import PageModel

from . import sources, thread
from .directives import BookDirective, raw
from .thumbnails import thumbnail

PAGE = "book/index"
RESULTS = sources.BOOK / "_results"
HEADS = 4  # of the scoreboard's GPT
WIDGET = "application/vnd.jupyter.widget-"
UNUSED = ("layout", "tabbable", "tooltip")  # of a widget's state, what only a notebook has a use for
log = logging.getLogger(__name__)


def result(name: str, made_by: str) -> Path:
    """A file of results; without it the page cannot be built."""
    if not (path := RESULTS / name).is_file():
        raise ExtensionError(f"book/_results/{name} is missing; make it with `{made_by}`.")
    return path


@cache
def writer() -> Writer:
    """The course's own model as a widget, with the lines that it wrote earlier."""
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    run = json.loads(result("writing.json", "python -m bench.writing").read_text("utf-8"))
    return Writer(
        llm.model.state_dict(),
        load_tokenizer("shakespeare").merges,
        n_head=llm.config.n_head,
        block_size=llm.config.block_size,
        prompt=run["prompt"],
        temperature=run["temperature"],
        written=run["text"],
        start=True,
    )


def models() -> Iterator[PageModel]:
    """The widgets whose weights are files of the site: of the landing page and chapters 7, 10 and 15."""
    yield writer()
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    yield BitsDial(
        llm.model.state_dict(),
        load_tokenizer("shakespeare").merges,
        n_head=llm.config.n_head,
        block_size=llm.config.block_size,
        passage="-" * 40,  # no part of the weights
    )
    state = load_file(result("gpt.safetensors", "python -m bench.scoreboard --train gpt"))
    yield Writer(state, load_tokenizer("shakespeare").merges, n_head=HEADS)


def publish_weights(app: Sphinx, exception: Exception | None) -> None:
    """Write the weights, which widgets fetch on demand, as a script: it works from a disk, too."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    for widget in models():
        name = widget.weights
        script = f'(globalThis.myllmWeights ??= {{}})["{name}"] = "{widget.text()}";\n'
        (folder / f"{name}.js").write_text(script, "utf-8")


class Stage(BookDirective):
    """The model, alive; the body is its caption, in which ``{parameters}`` is how many it has."""

    def run(self) -> list[nodes.Node]:
        """A figure with the widget; where no script runs, the lines that it wrote earlier."""
        state = {key: value for key, value in writer().get_state().items() if key not in UNUSED}
        models = json.dumps({"state": {"writer": {"state": state}}}).replace("</", "<\\/")
        run = json.loads((RESULTS / "writing.json").read_text("utf-8"))
        lines = f"<p><b>{html.escape(run['prompt'])}</b>{html.escape(run['text'])}</p>"
        before = f"""<div class="stage"><div class="before">{lines}
            <noscript><p>The model wrote these lines earlier; with JavaScript it writes more of them here.</p>
            </noscript></div>
            <script type="{WIDGET}view+json">{{"model_id": "writer"}}</script>
            <script type="{WIDGET}state+json">{models}</script>
            <script defer src="../_static/widgets.js"></script>"""
        caption = "\n".join(self.content).replace("{parameters}", f"{writer().n_params:,}")
        return [raw(before), *self.markdown(caption), raw("</div>")]


@cache
def outputs(chapter: str) -> str:
    """All that the cells of an executed chapter printed; nothing where it has not been executed."""
    try:
        _, notebook = sources.open_cache().merge_match_into_notebook(
            sources.read(sources.BOOK / f"{chapter}.md")
        )
    except KeyError:
        return ""
    printed = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in printed)


def values(source: str, pattern: str) -> list[str]:
    """What the first group of a pattern holds, in a chapter's outputs or in the models of the scoreboard."""
    if source == "scoreboard":
        return [f"{row['bits']:.2f}" for row in thread.board()["rows"] if re.search(pattern, row["model"])]
    return re.findall(pattern, outputs(source), re.MULTILINE)


def plain(number: str) -> str:
    """A number as it is read: 5e-07 is 0.0000005, 3840 is 3,840."""
    if re.fullmatch(r"\de-\d+", number):
        return f"{float(number):.{int(number[3:])}f}"
    return f"{int(number):,}" if re.fullmatch(r"\d{4,}", number) else number


class Measured(BookDirective):
    """What the directives of measured facts share: a list in YAML, each with `from` and `find`.

    `from` is a chapter, whose outputs are searched, or ``scoreboard``. `find` is a pattern with one group or,
    for the scoreboard, one that a model's name matches. With ``pick: least`` the least of several numbers is
    taken. `says` is the text, with {} for the number.
    """

    def facts(self) -> Iterator[tuple[dict[str, str], str]]:
        """Each entry with its number, which is empty and warned of where an executed chapter has none."""
        for fact in yaml.safe_load("\n".join(self.content)):
            self.env.note_dependency(str(sources.BOOK / f"{fact['from']}.md"))
            found = values(fact["from"], fact["find"])
            if not found and outputs(fact["from"]) and not fact.get("optional"):
                log.warning(
                    "No output of %s matches %s.", fact["from"], fact["find"], location=self.get_location()
                )
            found = sorted(found, key=float) if fact.get("pick") == "least" else found
            yield fact, plain(found[0]) if found else ""


class Proofs(Measured):
    """Measured facts in a row: the number large, the words below it."""

    def run(self) -> list[nodes.Node]:
        """A definition list."""
        out: list[nodes.Node] = [raw('<ul class="proofs">')]
        for fact, number in self.facts():
            if number:
                value = html.escape(fact.get("as", "{}").format(number))
                out += [
                    raw(f"<li><strong>{value}</strong> "),
                    *self.markdown(fact["says"], inline=True),
                    raw("</li>"),
                ]
        return [*out, raw("</ul>")]


class Answer(Measured):
    """Measured facts as sentences; one without a value is left out."""

    def run(self) -> list[nodes.Node]:
        """A paragraph for each."""
        lines = [fact["says"].replace("{}", value) for fact, value in self.facts() if value]
        return [
            nodes.paragraph("", "", *self.markdown(line, inline=True), classes=["answer"]) for line in lines
        ]


class ChapterCards(Measured):
    """A card for each chapter, with what it measured."""

    def run(self) -> list[nodes.Node]:
        """Links around a drawing, number, title and result."""
        cards = []
        for fact, number in self.facts():
            path = sources.BOOK / f"{fact['page']}.md"
            title = re.search(r"^# (.+)$", path.read_text("utf-8"), re.MULTILINE)
            says = html.escape(fact["says"].format(number)) if number else ""
            n = int(fact["page"][:2])
            cards.append(
                f'<li><a href="{fact["page"]}.html" data-chapter="{fact["page"]}">{thumbnail(n)}'
                f'<span class="number">{n}</span> '
                f'<span class="name">{html.escape(title[1] if title else "")}</span>'
                f'<span class="result">{says}</span></a></li>'
            )
        return [raw(f'<ul class="cards">{"".join(cards)}</ul>')]


class Written(BookDirective):
    """The line above the headline, in which ``{written}`` is how many chapters are written."""

    def run(self) -> list[nodes.Node]:
        """One paragraph; and on a wide page the sidebar is closed at first, so that the model has room."""
        written = len([path for path in sources.chapters() if path.name[0].isdigit()])
        text = html.escape("\n".join(self.content).replace("{written}", str(written)))
        hide = "document.getElementById('pst-primary-sidebar')?.classList.add('pst-sidebar-hidden')"
        return [raw(f'<p class="kicker">{text}</p><script>{hide}</script>')]


def dress(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """The landing page has styles of its own, no list of its sections, and leads to chapter 1."""
    if page != PAGE:
        return
    app.add_css_file("landing.css", priority=900)  # after the book's own
    first = sources.chapters()[0]
    title = app.env.titles[f"book/{first.stem}"].astext()
    context["next"] = {"link": f"{first.stem}.html", "title": html.escape(title)}


def setup(app: Sphinx) -> None:
    """Register the directives and the two steps."""
    for name, directive in (
        ("stage", Stage),
        ("proofs", Proofs),
        ("answer", Answer),
        ("chapter-cards", ChapterCards),
        ("kicker", Written),
    ):
        app.add_directive(name, directive)
    app.connect("html-page-context", dress, priority=400)
    app.connect("build-finished", publish_weights)
