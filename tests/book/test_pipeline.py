"""The parts of the pipeline: directives, cache of outputs, the notebooks of `make lab`, server, lists."""

import re
import subprocess
import threading
import tomllib
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import make_notebooks
import nbformat
import pytest
import serve
from docutils import nodes
from docutils.utils import new_document
from myllm_book import exercises, sources, terms, waiting
from myllm_book.directives import check_quiz, inline_svg
from myllm_book.frames import move_out
from nbformat import v4
from packaging.requirements import Requirement
from sphinx import addnodes

from myllm.course import Page

ROOT = Path(__file__).parents[2]
SVG = """<?xml version="1.0"?><!-- x --><svg viewBox="0 0 1 1">
<g id="ch1"/><g id="ch11" class="box"><use href="#ch1"/></g></svg>"""


def test_a_framed_page_becomes_a_file_that_the_link_saves(tmp_path):
    text = '<!doctype html>\n<p title="a & b">it\'s &lt;here&gt;</p>'
    body = f"<p>before</p>{Page(text, 'it.html', 'A title')._repr_html_()}<p>after</p>"
    moved = move_out(body, tmp_path, "../")
    assert (tmp_path / "_static" / "frames" / "it.html").read_text("utf-8") == text
    assert '<iframe src="../_static/frames/it.html" title="A title"' in moved
    assert '<a href="../_static/frames/it.html" download="it.html">' in moved
    assert "srcdoc" not in moved and "onclick" not in moved
    assert moved.startswith("<p>before</p>") and moved.endswith("<p>after</p>")
    assert move_out("<p>no frame</p>", tmp_path, "") == "<p>no frame</p>"


def test_an_inlined_drawing_is_named_and_lit():
    drawing = inline_svg(SVG, 'A "map"', ["1"], "svg0")
    assert drawing.startswith('<svg role="img" aria-label="A &quot;map&quot;" viewBox')
    assert '<g id="svg0-ch1" class="lit" />' in drawing
    assert '<g id="svg0-ch11" class="box">' in drawing and 'href="#svg0-ch1"' in drawing
    assert 'class="lit box"' in inline_svg(SVG, "x", ["11"], "svg0")
    with pytest.raises(ValueError, match="nothing in the figure has the id"):
        inline_svg(SVG, "x", ["2"], "svg0")


def section(name: str, title: str, *children: nodes.Node) -> nodes.section:
    return nodes.section("", nodes.title(title, title), *children, ids=[name])


def test_a_term_stands_where_it_is_referred_to_or_in_bold():
    def said(*children: nodes.Node) -> nodes.paragraph:
        return nodes.paragraph("", "", *children)

    def reference(target: str, kind: str = "term") -> addnodes.pending_xref:
        return addnodes.pending_xref("", nodes.Text("x"), reftype=kind, reftarget=target)

    bold = said(nodes.strong("", "Add one"), nodes.strong("", "smoothing"), reference("count", "doc"))
    inner = section("why", "Zeros", bold)
    card = nodes.container("", said(nodes.strong("", "ids")), classes=["exercise-card"])
    outer = section(
        "one", "5 A start", said(reference("dot\nproduct"), reference("Dot product")), card, inner
    )
    document = new_document("05-attention")
    document += outer
    appendix = new_document("d-moe")
    appendix += section("moe", "D · Experts", said(nodes.strong("", "expert")))
    assert terms.places(appendix, "D") == {"expert": {"moe": "Experts"}}
    assert terms.places(document, "5") == {
        "dot product": {"one": "A start"},
        "add one": {"why": "Zeros"},
        "smoothing": {"why": "Zeros"},
    }


def test_a_section_that_may_wait_is_closed_from_below_its_heading_to_its_end():
    inner = section("part", "A part", nodes.paragraph("", "deep"))
    wait = section("wait", "May wait: one rate", nodes.paragraph("", "text"), inner)
    optional = section("optional", "Optional: in parts", nodes.paragraph("", "more"))
    other = section("other", "What may wait", nodes.paragraph("", "open"))
    document = new_document("10-pretraining")
    document += section("page", "10 Pretraining", wait, optional, other)
    waiting.close(document)
    first, last = '<details class="wait"><summary>', "</details>"
    for closed in (wait, optional):
        texts = [child.astext() for child in closed]
        assert texts[0] == first and texts[2] == "</summary>" and texts[-1] == last
        assert isinstance(closed[1], nodes.title) and len(closed) == len(texts) >= 5
    assert inner.parent is wait and wait.index(inner) == len(wait) - 2
    assert len(list(document.findall(nodes.raw))) == 6 and len(other) == len(inner) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "a YAML list"),
        ([{"q": "?", "options": ["a", "b"], "answer": 0}], "needs exactly"),
        ([{"q": "?", "options": ["a"], "answer": 0, "why": ""}], "two options"),
        ([{"q": "?", "options": ["a", "b"], "answer": 2, "why": ""}], "counted from 0"),
        ([{"q": "?", "options": ["a", "b"], "answer": True, "why": ""}], "counted from 0"),
    ],
)
def test_a_malformed_quiz_is_refused(body, message):
    with pytest.raises(ValueError, match=message):
        check_quiz(body)


def test_a_card_says_all_that_a_learner_needs_to_know():
    card = exercises.card("03.2")
    assert card.signature.startswith("def merge_and_count(words: dict[tuple[int, ...], int], counts:")
    assert len(card.hints) == 3 and "points" in card.facts
    told = exercises.not_allowed(exercises.card("05.1").forbidden)
    assert "`torch.nn.functional.softmax`" in told and "solutions" not in told


def test_a_docstring_becomes_parameters_and_sections():
    made = exercises.specification(
        "Do it.\n\nArgs:\n    a: one: two\n        more\n\nReturns:\n    (V,) int64: all.\n"
    )
    assert ".. rubric:: Parameters\n\n* **a**: one: two more" in made
    assert ".. rubric:: Returns\n\n(V,) int64: all." in made


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository in miniature."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "CACHE", tmp_path / "build" / "cache")
    (tmp_path / "constraints.txt").write_text("a==1\n")
    (tmp_path / "myllm").mkdir()
    (tmp_path / "myllm" / "files.py").write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    "changed", ["myllm/files.py", "myllm/new.mjs", "constraints.txt", "solutions/ch01.py"]
)
def test_the_cache_is_emptied_when_the_package_changes(tree, changed):
    sources.open_cache()
    (sources.CACHE / "marker").touch()
    sources.open_cache()
    assert (sources.CACHE / "marker").exists()
    (tree / changed).parent.mkdir(exist_ok=True)
    (tree / changed).write_text("x = 2\n")
    sources.open_cache()
    assert not (sources.CACHE / "marker").exists()


def test_compiled_files_change_nothing(tree):
    before = sources.fingerprint()
    (tree / "myllm" / "__pycache__").mkdir()
    (tree / "myllm" / "__pycache__" / "files.pyc").write_bytes(b"x")
    assert sources.fingerprint() == before


def test_a_changed_notebook_is_kept(tmp_path, capsys):
    make_notebooks.main(tmp_path)
    first, second, *_ = sorted(tmp_path.glob("*.ipynb"))
    notebook = nbformat.read(first, as_version=4)
    notebook.cells.append(v4.new_code_cell("mine = 1"))
    nbformat.write(notebook, first)
    run = nbformat.read(second, as_version=4)
    run.cells[1].outputs = [v4.new_output("stream", text="ran")]
    nbformat.write(run, second)
    kept = [first.read_bytes(), second.read_bytes()]
    capsys.readouterr()
    make_notebooks.main(tmp_path)
    assert [first.read_bytes(), second.read_bytes()] == kept
    assert "kept: you changed it" in capsys.readouterr().out


def test_a_stale_notebook_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(make_notebooks, "chapters", lambda: sources.chapters()[:1])
    monkeypatch.setattr(
        make_notebooks, "clean_notebook", lambda *_: v4.new_notebook(cells=[v4.new_markdown_cell("1")])
    )
    make_notebooks.main(tmp_path)
    monkeypatch.setattr(
        make_notebooks, "clean_notebook", lambda *_: v4.new_notebook(cells=[v4.new_markdown_cell("2")])
    )
    make_notebooks.main(tmp_path)
    (path,) = tmp_path.glob("*.ipynb")
    assert nbformat.read(path, as_version=4).cells[0].source == "2"


def test_a_busy_port_gives_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "index.html").touch()
    monkeypatch.setattr(serve, "SITE", tmp_path)
    with serve.server(0) as busy:
        assert serve.main(busy.server_port) == 1
        assert f"Port {busy.server_port} is taken" in capsys.readouterr().err


def test_a_wrong_address_gets_the_books_own_page(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "SITE", tmp_path)
    (tmp_path / "index.html").write_text("the book")
    (tmp_path / "404.html").write_text("not on any page")
    with serve.server(0) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{http.server_port}"
            assert urlopen(f"{address}/index.html").read() == b"the book"
            with pytest.raises(HTTPError) as missing:
                urlopen(f"{address}/book/99-nothing.html")
            assert missing.value.code == 404 and missing.value.read() == b"not on any page"
        finally:
            http.shutdown()


def test_a_missing_book_gives_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serve, "SITE", tmp_path)
    assert serve.main(0) == 1
    assert "make html" in capsys.readouterr().err


def test_make_help_lists_every_target():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert [t for t in targets if f"make {t} " not in listed] == ["site", "$(GATES)"]  # parts of others


def test_constraints_name_every_requirement_and_no_registry():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if re.search(r"https?:|file:|--|@", line)] == []
    names = {Requirement(line).name.lower().replace("_", "-") for line in lines}
    assert not names & {"torch", "triton"} and not any(name.startswith("nvidia") for name in names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [
        text for extra in ("notebooks", "book", "dev", "distributed", "logging") for text in extras[extra]
    ]
    for text in {*project["dependencies"], *named} - {"myllm-course[notebooks]"}:
        wanted = Requirement(text)
        pins = [Requirement(line) for line in lines if Requirement(line).name.lower() == wanted.name.lower()]
        assert pins or wanted.name == "torch", f"{text}: run `make constraints`"
        for pin in pins:
            (version,) = [spec.version for spec in pin.specifier]
            assert wanted.specifier.contains(version), f"{text}: run `make constraints`"


def test_no_lock_file_and_no_notebook_is_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [file for file in files if file.endswith((".ipynb", "uv.lock"))] == []
