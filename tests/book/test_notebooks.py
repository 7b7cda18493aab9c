"""Clean notebooks: valid, stable, free of MyST; and the filter that makes them, construct by construct."""

import base64
import re
from importlib.metadata import version

import jupytext
import nbformat
import pytest
from myllm_book import figures, markdown, notebooks, sources

CHAPTERS = sources.chapters()
LEFTOVER = re.compile(
    r"\{[\w:-]+\}`|^ *(`{3,}|:{3,})\{|^\([\w-]+\)=|^% |\]\([^)]*\.md|^:[\w-]+:|^\$\$ *\(", re.MULTILINE
)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_stable_and_plain(chapter):
    notebook = notebooks.clean_notebook(chapter)
    nbformat.validate(notebook)
    assert nbformat.writes(notebook) == nbformat.writes(notebooks.clean_notebook(chapter))
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"(?<!\})`[^`\n]+`", "", cell.source)
            assert LEFTOVER.findall(text) == []
        else:
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_notebook_holds_the_code_of_the_chapter(chapter):
    def code(notebook):
        return [cell.source for cell in notebook.cells if cell.cell_type == "code"]

    first, *rest = code(notebooks.clean_notebook(chapter))
    assert rest == code(jupytext.read(chapter, fmt="md:myst"))
    assert '"google.colab" in sys.modules' in first


@pytest.mark.parametrize(
    ("variable", "repository", "installed"),
    [
        ("", "owner/name", "myllm-course[notebooks] @ git+https://github.com/owner/name"),
        ("https://a.org/x.whl", "owner/name", "myllm-course[notebooks] @ https://a.org/x.whl"),
        ("git+https://a.org/x@v1", "", "myllm-course[notebooks] @ git+https://a.org/x@v1"),
        ("/content/my drive/x.tar.gz", "", "/content/my drive/x.tar.gz[notebooks]"),
        ("", "", f"/content/myllm_course-{version('myllm-course')}-py3-none-any.whl[notebooks]"),
    ],
)
def test_colab_installs_what_the_chapters_import(monkeypatch, variable, repository, installed):
    monkeypatch.setenv("MYLLM_INSTALL", variable)
    address = notebooks.install_address("", repository)
    cell = notebooks.clean_notebook(CHAPTERS[0], address).cells[1].source
    assert cell.endswith(f"    %pip install -q '{installed}'")
    assert ("upload the wheel" in cell) == (not variable and not repository)
    assert notebooks.install_address("https://b.org/y.whl", repository) == "https://b.org/y.whl"


@pytest.mark.parametrize(
    "address", ["https://a.org/'; rm x", "https://a.org/{x}", "/a/$HOME.whl", "/a\nb.whl"]
)
def test_an_address_that_the_cell_would_change_is_refused(address):
    with pytest.raises(ValueError, match=r"The address of the package, .* must not contain "):
        notebooks.clean_notebook(CHAPTERS[0], address)


@pytest.fixture
def convert(monkeypatch):
    """The filter on a page that has no file, among three labels and one reference."""
    heads = {"pairs": ("03-bpe", "Counting pairs"), "here": ("99-page", "Right here"), "n": ("notation", "N")}
    monkeypatch.setattr(markdown, "labels", lambda: heads)
    monkeypatch.setattr(markdown, "titles", lambda: {"03-bpe": "BPE", "glossary": "Glossary"})
    monkeypatch.setattr(markdown, "citation", lambda key: (key.title(), "1948", f"https://x.org/{key}"))
    return lambda text, source=None: markdown.plain("99-page", source or text)(text)


def drawn(name, lit):
    source = figures.light((sources.BOOK / "figures" / name).read_text("utf-8"), lit)
    data = base64.b64encode(re.sub(r"\n\s*", "\n", source).encode()).decode()
    return f"data:image/svg+xml;base64,{data}"


DRAWING = f'<img alt="A map." src="{drawn("map.svg", ["3"])}" width="700">\n\n*Figure.* You are *here*.'


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("a `code {ref}` span", "a `code {ref}` span"),
        ("``{ref}`x` ``", "``{ref}`x` ``"),
        ("{math}`x^2`", "$x^2$"),
        ("{term}`token` {term}`tokens <token>`", "token tokens"),
        ("{abbr}`BPE (byte-pair encoding)`", "BPE"),
        ("{doc}`03-bpe` {doc}`that one <03-bpe>`", "[BPE](03-bpe.ipynb) [that one](03-bpe.ipynb)"),
        ("{doc}`glossary`", "Glossary"),
        ("{ref}`pairs`", "[Counting pairs](03-bpe.ipynb#Counting-pairs)"),
        ("{ref}`see <here>`", "[see](#Right-here)"),
        ("{ref}`n`", "N"),
        ("[text](03-bpe.md#pairs)", "[text](03-bpe.ipynb#Counting-pairs)"),
        ("[](#here)", "[Right here](#Right-here)"),
        ("[text](https://x.org/a.md)", "[text](https://x.org/a.md)"),
        ("[text](glossary.md)", "text"),
        ("{cite}`a,b`", "([A, 1948](https://x.org/a); [B, 1948](https://x.org/b))"),
        ("{cite:p}`a`", "([A, 1948](https://x.org/a))"),
        ("{cite:t}`a`", "[A (1948)](https://x.org/a)"),
        ("{py:func}`~myllm.files.sha256`", "`myllm.files.sha256`"),
        ("{py:func}`nll <myllm.evaluation.perplexity.nll>`", "`nll`"),
        ("(here)=\n## Right here\n% a comment\ntext", "## Right here\ntext"),
        ("```python\n{ref}`x`\n% not a comment\n```", "```python\n{ref}`x`\n% not a comment\n```"),
        ("$$\nx\n$$ (eq)\n", "$$\nx\n$$"),
        ("```{math}\n:label: eq\nx\n```", "$$\nx\n$$"),
        ("```{note}\nA {term}`token`.\n```", "> **Note.**\n>\n> A token."),
        (":::{tip} Predict\n:class: x\nFirst.\n:::", "> **Predict.**\n>\n> First."),
        ("````{note}\n```python\nx\n```\n````", "> **Note.**\n>\n> ```python\n> x\n> ```"),
        ("```{dropdown} More\nx\n```", "<details>\n<summary>More</summary>\n\nx\n\n</details>"),
        ("```{raw} html\n<b>\n```", ""),
        (
            "```{svg} figures/map.svg\n:alt: A map.\n:lit: 3\nYou are *here*.\n```",
            DRAWING,
        ),
        (
            "```{quiz}\n- q: What?\n  options: [a, $b$]\n  answer: 1\n  why: So.\n```",
            "**1.** What?\n\n- (a) a\n- (b) $b$\n\n"
            "<details>\n<summary>Answer</summary>\n\n(b) So.\n\n</details>",
        ),
        ("- item\n\n  ```{note}\n  x\n  ```\n- next", "- item\n\n  > **Note.**\n  >\n  > x\n\n- next"),
    ],
)
def test_each_construct_has_a_plain_form(convert, myst, plain):
    assert convert(myst) == plain


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_notebook_carries_its_drawings_and_its_number(chapter):
    text = "\n".join(
        cell.source for cell in notebooks.clean_notebook(chapter).cells if cell.cell_type == "markdown"
    )
    assert text.count("data:image/svg+xml;base64,") == chapter.read_text("utf-8").count("```{svg}")
    assert "drawn on the book's page" not in text
    assert re.match(rf"# {chapter.stem[:2].lstrip('0').upper().rstrip('-')} ", text)


def test_a_figure_is_above_or_below(convert):
    source = "See {numref}`fig`.\n\n```{svg} a.svg\n:name: fig\n:alt: x\n```\n\n"
    source += "Again {numref}`fig`, {numref}`Fig. %s <fig>`."
    plain = convert(source)
    assert plain.startswith("See the figure below.")
    assert plain.endswith("Again the figure above, Fig. above.")


@pytest.mark.parametrize("text", ["{nonsense}`x`", "```{nonsense}\nx\n```"])
def test_what_is_not_known_is_refused(convert, text):
    with pytest.raises(ValueError, match="nonsense"):
        convert(text)
