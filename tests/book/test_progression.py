"""Progressive imports, the source map, the display rule: read from the syntax of book and package.

book/progression.toml says which modules each chapter introduces, and which definitions apart from them.
Nothing is executed and nothing imported.
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[2]
PLAN = tomllib.loads((ROOT / "book" / "progression.toml").read_text("utf-8"))


def order(chapter: str) -> int:
    """The place of a chapter or an appendix: the appendices come after chapter 21."""
    return int(chapter) if chapter.isdigit() else 22 + "ABCD".index(chapter)


HOME = {entry: order(chapter) for chapter, entries in PLAN["chapters"].items() for entry in entries}
EXEMPT = set(PLAN["exempt"])


def module_path(name: str) -> Path | None:
    """The file of the module `myllm.<name>`, if there is one."""
    base = ROOT.joinpath("myllm", *name.split(".")) if name else ROOT / "myllm"
    found = (base.with_suffix(".py"), base / "__init__.py") if name else (base / "__init__.py",)
    return next((path for path in found if path.is_file()), None)


@cache
def parse(module: str) -> ast.Module:
    """The syntax of `myllm.<module>`."""
    return ast.parse(module_path(module).read_text("utf-8"))


@cache
def imports(tree: ast.AST, package: str = "") -> dict[str, str]:
    """Local name → dotted name inside `myllm` (without the prefix) of everything a tree imports from it."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "myllm" or alias.name.startswith("myllm."):
                    dotted = alias.name if alias.asname else "myllm"
                    found[alias.asname or "myllm"] = dotted.removeprefix("myllm").lstrip(".")
                    found[alias.name] = alias.name.removeprefix("myllm").lstrip(".")
        elif isinstance(node, ast.ImportFrom) and re.match(r"myllm(\.|$)", node.module or ""):
            module = node.module.removeprefix("myllm").lstrip(".")
            for alias in node.names:
                found[alias.asname or alias.name] = f"{module}.{alias.name}".lstrip(".")
    return found


@cache
def locate(dotted: str, depth: int = 0) -> tuple[str, str]:
    """Module and definition that a dotted name means, through re-exports: ("tokenizers.bpe", "BPE.train")."""
    parts = dotted.split(".") if dotted else []
    for cut in range(len(parts), -1, -1):
        module, rest = ".".join(parts[:cut]), parts[cut:]
        if module_path(module):
            if rest and depth < 5:
                tree = parse(module)
                lazy = {
                    ast.literal_eval(key): ast.literal_eval(value).removeprefix("myllm.")
                    for node in tree.body
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME"
                    for key, value in zip(node.value.keys, node.value.values, strict=True)
                }
                passed_on = imports(tree) | {name: f"{home}.{name}" for name, home in lazy.items()}
                if rest[0] in passed_on and passed_on[rest[0]] != dotted:
                    return locate(".".join([passed_on[rest[0]], *rest[1:]]), depth + 1)
            return module, ".".join(rest)
    raise AssertionError(f"myllm.{dotted} leads nowhere")


@cache
def definitions(module: str) -> dict[str, ast.AST]:
    """The functions and classes that a module defines at its top."""
    kinds = ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
    return {node.name: node for node in parse(module).body if isinstance(node, kinds)}


def is_exempt(module: str) -> bool:
    """Whether chapters may use this module without its being introduced."""
    return module == "" or module.split(".")[0] in EXEMPT


def entry(module: str, name: str) -> str:
    """The line of the plan that introduces a definition: its own if there is one, else its module's."""
    own = f"{module}.{name.split('.')[0]}"
    return own if own in HOME else module


def home(module: str, name: str) -> int:
    """The chapter that introduces a definition; 0 if none does or none needs to."""
    return 0 if is_exempt(module) else HOME.get(entry(module, name), 0)


def used(tree: ast.AST, names: dict[str, str]) -> set[tuple[str, str]]:
    """Module and definition of everything in a tree that goes by one of these local names."""
    chains = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute))
    heads = (chain.partition(".") for chain in chains if re.fullmatch(r"[\w.]+", chain))
    return {locate(".".join(filter(None, [names[head], rest]))) for head, _, rest in heads if head in names}


class Chapter:
    """What one chapter imports, shows and builds."""

    def __init__(self, number: int, code: str) -> None:
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "pass", code, flags=re.MULTILINE))
        self.number, self.names = number, imports(tree)
        self.uses = {locate(dotted) for dotted in self.names.values()} | used(tree, self.names)
        self.shows: set[tuple[str, str]] = set()
        self.builds = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            function = ast.unparse(call.func)
            if self.names.get(function) == "course.show" or self.dotted(function) == "course.show":
                self.shows |= {locate(self.dotted(ast.unparse(argument))) for argument in call.args}

    def dotted(self, text: str) -> str:
        """The dotted name inside `myllm` of an expression such as `package.train`."""
        head, _, rest = text.partition(".")
        return ".".join(filter(None, [self.names.get(head, "?"), rest]))


SHOW = re.compile(r"(?<![\w.])(?:(?:myllm\.)?course\.)?show\(")


def folded(text: str) -> list[str]:
    """The calls of `show` in a chapter's source that a reader would have to unfold."""
    faults = [
        cell.source
        for cell in jupytext.reads(text, fmt="md:myst").cells
        if cell.cell_type == "code" and SHOW.search(cell.source)
        if any(re.match("hide|remove|toggle", tag) for tag in cell.metadata.get("tags", []))
    ]
    opened: list[str] = []  # the fences of a directive that is open
    for line in text.splitlines():
        fence = re.match(r"\s*(`{3,}|:{3,})\s*(\S*)", line)
        if fence and not fence[2] and opened and fence[1] == opened[-1]:
            opened.pop()
        elif fence and (not opened or fence[2]):
            opened.append(fence[1])
        elif len(opened) > 1 and SHOW.search(line):
            faults.append(line)
    return faults


def read(path: Path) -> Chapter:
    """A chapter from its source."""
    notebook = jupytext.read(path, fmt="md:myst")
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    return Chapter(order(path.stem.partition("-")[0].upper()), code)


# An appendix is held to the rules of chapters where it introduces something.
PATHS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
PATHS += [p for p in sorted((ROOT / "book").glob("[a-d]-*.md")) if p.stem[0].upper() in PLAN["chapters"]]
CHAPTERS = [read(path) for path in PATHS]
WRITTEN = {chapter.number for chapter in CHAPTERS}
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "myllm").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "myllm").rglob("*.py")
    if path.name != "__init__.py" or path.parent.name == "strategies"  # it defines something
)


def import_faults(chapter: Chapter) -> list[str]:
    """What a chapter imports too early, and whether it builds on nothing."""
    homes = {entry(*one): home(*one) for one in chapter.uses if home(*one)}
    late = [f"imports {e}, which chapter {n} introduces" for e, n in homes.items() if n > chapter.number]
    if chapter.number >= 2 and not any(n < chapter.number for n in homes.values()):
        late.append("uses nothing that an earlier chapter introduced")
    return late


def needs(module: str, name: str) -> int:
    """The first chapter by which a definition and every `myllm` name in its body have been introduced.

    Private helpers of its module count as part of the body; its public neighbours are called by name and may
    be shown later.
    """
    here, bodies = definitions(module), {name}
    while (
        more := {
            node.id
            for body in bodies
            for node in ast.walk(here[body])
            if isinstance(node, ast.Name) and node.id.startswith("_") and node.id in here
        }
        - bodies
    ):
        bodies |= more
    names = imports(parse(module)) | {k: v for body in bodies for k, v in imports(here[body]).items()}
    return max(home(*one) for body in bodies for one in {(module, name)} | used(here[body], names))


def ledger() -> dict[str, int]:
    """Every public definition of the package that a written chapter introduces, and that chapter."""
    return {
        f"{module}.{name}": chapter
        for module in (m for m in MODULES if not is_exempt(m))
        for name in (n for n in definitions(module) if not n.startswith("_"))
        if (chapter := needs(module, name)) in WRITTEN
    }


LEDGER = ledger()
PLACES = [
    (name, order(chapter), kind, where)
    for chapter, kinds in tomllib.loads((ROOT / "book" / "source-map.toml").read_text("utf-8")).items()
    for kind, places in kinds.items()
    for name, where in places.items()
]
SOURCE_LINES = 60
"""How much installed source a chapter may show."""


def lines_of(module: str, name: str) -> int:
    """How many lines `show` prints of a definition, docstring included."""
    node, *rest = parse(module), *filter(None, name.split("."))
    for part in rest:
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    if isinstance(node, ast.Module):
        return len(module_path(module).read_text("utf-8").splitlines())
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.end_lineno - first + 1


def test_every_module_is_introduced_by_one_chapter():
    listed = [entry for entries in PLAN["chapters"].values() for entry in entries]
    assert len(listed) == len(set(listed))
    assert [m for m in MODULES if not is_exempt(m) and m not in HOME] == []


def test_what_is_introduced_exists():
    """Modules from the chapter on, definitions as soon as there is their module."""
    for one, chapter in HOME.items():
        module, _, name = one.rpartition(".")
        if module in MODULES and one not in MODULES:
            assert name in definitions(module), one
        else:
            assert one in MODULES or chapter not in WRITTEN, one


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: f"{c.number:02}")
def test_a_chapter_builds_on_earlier_ones_only(chapter):
    assert import_faults(chapter) == []


def test_the_source_map_holds_every_public_definition_once():
    names = [name for name, *_ in PLACES]
    assert len(names) == len(set(names))
    assert {name: chapter for name, chapter, *_ in PLACES} == LEDGER


@pytest.mark.parametrize(("name", "chapter", "kind", "where"), PLACES, ids=lambda part: str(part)[:40])
def test_a_line_of_the_source_map_is_true(name, chapter, kind, where):
    """A built or used definition is named in its section's chapter; plumbing has its reason."""
    page = next(path for path, one in zip(PATHS, CHAPTERS, strict=True) if one.number == chapter)
    page = page.read_text("utf-8")
    assert kind in ("built", "used", "plumbing")
    if kind == "plumbing":
        assert where.endswith(".") and len(where.split()) >= 4
    else:
        assert re.search(rf"^\({re.escape(where)}\)=$", page, re.MULTILINE), f"no label {where}"
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", page), f"the chapter does not name {name}"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: f"{c.number:02}")
def test_a_chapter_shows_little_source_and_folds_none(chapter):
    shown = {one: lines_of(*one) for one in chapter.shows}
    assert sum(shown.values()) <= SOURCE_LINES, shown
    page = next(path for path, one in zip(PATHS, CHAPTERS, strict=True) if one.number == chapter.number)
    assert folded(page.read_text("utf-8")) == []


# The rules themselves, on chapters made up for the purpose.

ATTENTION = "imports model.attention.Attention, which chapter 6 introduces"


@pytest.mark.parametrize(
    ("number", "code", "fault"),
    [
        (1, "from myllm.tokenizers.bpe import BPE", "imports tokenizers.bpe, which chapter 3 introduces"),
        (1, "import myllm.tokenizers.bpe as b", "imports tokenizers.bpe, which chapter 3 introduces"),
        (1, "from myllm.tokenizers import bpe", "imports tokenizers.bpe, which chapter 3 introduces"),
        (1, "from myllm import BPE", "imports tokenizers.bpe, which chapter 3 introduces"),
        (1, "def f():\n    from myllm import BPE", "imports tokenizers.bpe, which chapter 3 introduces"),
        (5, "from myllm import BPE\nfrom myllm.model.attention import Attention", ATTENTION),
        (5, "from myllm import BPE\nfrom myllm.model import attention as a\na.Attention(8, 2)", ATTENTION),
        (3, "from myllm import BPE", "uses nothing that an earlier chapter introduced"),
        (3, "from myllm.course import show", "uses nothing that an earlier chapter introduced"),
    ],
)
def test_an_early_import_is_a_fault(number, code, fault):
    assert import_faults(Chapter(number, code)) == [fault]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (1, "from myllm import perplexity, check"),
        (3, "from myllm import BPE, perplexity"),
        (1, "import torch"),
        (5, "from myllm import BPE, attend\nfrom myllm.model import attention as a\na.naive_attention"),
        (6, "from myllm import attend\nfrom myllm.model.attention import Attention"),
        (6, "from myllm import attend\nfrom myllm.model.cache import Cache"),
    ],
)
def test_a_fitting_import_is_none(number, code):
    assert import_faults(Chapter(number, code)) == []


def test_show_is_read_however_it_is_imported():
    want = {("evaluation.perplexity", "nll"), ("tokenizers.bpe", "BPE.train")}
    for code in (
        "from myllm.course import show\nfrom myllm.evaluation.perplexity import nll\nfrom myllm import BPE\n"
        "show(nll, BPE.train)",
        "import myllm.course, myllm.evaluation.perplexity as p\nmyllm.course.show(p.nll, myllm.BPE.train)",
        "from myllm import course\nfrom myllm.tokenizers import bpe\nimport myllm.evaluation.perplexity\n"
        "course.show(myllm.evaluation.perplexity.nll, bpe.BPE.train)",
    ):
        assert Chapter(3, code).shows == want


CELL = "```{code-cell} ipython3\n%s```\n"


@pytest.mark.parametrize("tags", ["[hide-input]", "[hide-cell]", "[hide-output]", "[remove-output]"])
def test_a_tag_that_folds_source_is_seen(tags):
    assert folded(CELL % f":tags: {tags}\n\nshow(nll)\n") == ["show(nll)"]
    assert folded(CELL % f"---\ntags: {tags}\n---\ncourse.show(nll)\n") == ["course.show(nll)"]
    assert folded(CELL % f":tags: {tags}\n\nplt.plot(x)\n") == []


@pytest.mark.parametrize("kind", ["dropdown", "admonition", "found"])
def test_source_in_a_box_is_seen(kind):
    shown, plotted = CELL % "show(nll)\n", CELL % "plt.show()\n"
    assert folded(f"````{{{kind}}} More\n{shown}````\n") == ["show(nll)"]
    assert folded(f":::{{{kind}}} More\n{shown}:::\n") == ["show(nll)"]
    assert folded(f"```{{{kind}}} More\nx\n```\n\n{shown}") == []
    assert folded(f"````{{{kind}}} More\n{plotted}````\n{shown}") == []


@pytest.mark.parametrize(
    ("name", "chapter"),
    [
        ("attention.attend", 5),  # its module's
        ("attention.Attention", 6),  # its own, later than its module's
        ("cache.Cache", 6),  # its own, earlier than its module's
        ("transformer.Block", 7),
        ("transformer.parts", 8),
        ("rope.Rope", 8),
    ],
)
def test_a_definition_is_due_when_it_and_its_names_are_introduced(name, chapter):
    module, _, name = name.partition(".")
    assert needs(f"model.{module}", name) == chapter


def test_a_name_introduced_later_delays_what_uses_it(monkeypatch):
    assert needs("model.transformer", "Transformer") == 7
    monkeypatch.setitem(HOME, "model.cache.Cache", 14)
    assert needs("model.transformer", "Transformer") == 14
    assert needs("model.transformer", "Block") == 7
