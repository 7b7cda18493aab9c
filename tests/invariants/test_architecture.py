"""The rules of the house: sizes, who imports whom, what an import costs, what the public names are."""

import ast
import functools
import importlib
import io
import json
import pkgutil
import re
import subprocess
import sys
import tokenize
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import myllm

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "myllm"
SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
CHECKS = sorted((ROOT / "solutions/checks").glob("ch*.py"))
OUTSIDE_THE_BUDGET = ("grading", "widgets", "course", "cli", "app")
PUBLIC = {"BPE", "ModelConfig", "Transformer", "__version__", "attend", "check", "load_tokenizer"}
PUBLIC |= {"KVCache", "LLM", "SamplingConfig", "generate", "perplexity", "render", "stream"}
PUBLIC |= {"Pretrain", "TrainConfig", "Trainer", "quantize"}
PUBLIC |= {"Classify", "SFT", "apply_lora"}
QUIET = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
QUIET |= {tokenize.ENCODING, tokenize.ENDMARKER}


def python(code, *args):
    """Run code in a fresh interpreter; what it prints."""
    command = [sys.executable, "-c", code, *args]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def code_lines(source):
    """The number of lines that hold a token which is neither comment nor docstring."""
    docstrings = set[int]()
    for node in ast.walk(ast.parse(source)):
        holder = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if holder and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in QUIET:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_code_lines_are_counted_as_defined():
    source = '"""Doc\nstring."""\n\n# comment\nx = """two\nlines"""  # comment\n\n\n'
    source += 'def f():\n    "Doc."\n    return (\n        1\n    )\n'
    assert code_lines(source) == 2 + 1 + 3


# Sizes


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_fits_a_printed_page_or_four(path):
    assert code_lines((ROOT / path).read_text(encoding="utf-8")) <= 200


def test_the_checks_stay_short():
    """80 lines an exercise, references and mistakes of the checks' own included; no chapter much longer."""
    lines, exercises = [], []
    for path in CHECKS:
        source = path.read_text(encoding="utf-8")
        lines.append(code_lines(source))
        exercises.append(len(re.findall(r"Exam\(\s*\"\d\d\.\d\"", source)))
        assert lines[-1] <= 108 * exercises[-1], path.name
    assert sum(lines) <= 80 * sum(exercises)


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_checks_import_the_grader_alone(path):
    """A reference that calls the package would share its mistakes."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert all(name.startswith("myllm.grading.") for name in names if name.split(".")[0] == "myllm")


# Code lines a room may have: its budget at the end of the course, or what it has now where that is more.
ROOMS = {
    "tokenizers": 1246,
    "weights": 523,
    "data": 715,
    "model": 819,
    "inference": 970,
    "quantization": 758,
    "training": 1218,
    "finetuning": 1284,
    "evaluation": 314,
    "the rest": 910,
}


@functools.cache
def lines_by_room():
    """The code lines of each room that the budget counts; files beside the rooms are the rest."""
    rooms = dict.fromkeys(ROOMS, 0)
    for path in SOURCES:
        room = path.split("/")[1].removesuffix(".py")
        if room not in OUTSIDE_THE_BUDGET:
            lines = code_lines((ROOT / path).read_text(encoding="utf-8"))
            rooms[room if room in ROOMS else "the rest"] += lines
    return rooms


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_to_its_code_lines(room, record_property):
    lines = lines_by_room()[room]
    record_property("code lines", lines)
    print(f"{room}: {lines} of {ROOMS[room]} code lines")
    assert lines <= ROOMS[room]


def test_the_package_stays_small():
    rooms = lines_by_room()
    print(*(f"{room:14} {lines:5}" for room, lines in rooms.items()), sep="\n")
    assert rooms["tokenizers"] > 0 and "cli" not in rooms
    assert sum(rooms.values()) <= sum(ROOMS.values()) <= 8757


# Public names and the cost of an import


def test_the_public_names_are_frozen():
    assert {*myllm.__all__} == {*dir(myllm)} == PUBLIC
    assert len(myllm.__all__) == len(PUBLIC) <= 25


def test_every_public_name_resolves_and_others_are_refused():
    assert all(getattr(myllm, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="it offers BPE"):
        _ = myllm.nonsense


def test_every_name_in_any_all_exists():
    for module in map(importlib.import_module, modules()):
        missing = [one for one in getattr(module, "__all__", ()) if not hasattr(module, one)]
        assert not missing, (module.__name__, missing)


def test_import_myllm_loads_itself_and_a_little_of_the_standard_library():
    code = "import json, sys; old = {*sys.modules}; import myllm; print(json.dumps([*{*sys.modules} - old]))"
    loaded = json.loads(python(code))
    assert {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names} == {"myllm"}
    assert not {"asyncio", "http", "email", "ssl", "multiprocessing", "unittest"} & {*loaded}


def modules():
    found = [one.name for one in pkgutil.walk_packages([str(PACKAGE)], "myllm.")]
    return [name for name in found if not re.match(r"myllm\.grading\.(exercises|solutions)\b", name)]


@pytest.mark.parametrize("name", sorted({name for name in modules() if name.count(".") == 1}))
def test_each_room_can_be_entered_alone(name):
    loaded = python(f"import sys, {name}; print(*sys.modules)").split()
    if name.split(".")[1] in ("files", "tokenizers", "widgets", "cli", "data", "grading"):
        assert "torch" not in loaded
    assert not {"transformers", "accelerate", "peft", "trl", "lightning", "litgpt"} & {*loaded}


@pytest.mark.parametrize("room", ["files", "tokenizers", "widgets"])
def test_rooms_that_never_import_torch(room):
    code = (
        "import importlib, sys\n"
        "sys.modules['torch'] = None\n"  # any attempt to import it now fails
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    python(code, *(name for name in modules() if name.split(".")[1] == room))


def test_who_may_import_whom():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


# Core dependencies alone


def closure():
    """The distributions that `pip install myllm-course` brings, without any extra."""
    wanted, todo = set[str](), ["myllm-course"]
    while todo:
        name = todo.pop()
        for line in requires(name) or ():
            requirement = re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
            if "extra ==" not in line and requirement not in wanted:
                wanted.add(requirement)
                todo += [requirement] if installed(requirement) else []
    return wanted | {"myllm-course"}


def installed(name):
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(name))
    except PackageNotFoundError:  # needed on another system only
        return False


def optional():
    """The importable names that none of those distributions brings."""
    core = closure()
    return [
        package
        for package, homes in packages_distributions().items()
        if not {home.lower().replace("_", "-") for home in homes} & core
    ]


def test_the_closure_is_what_it_says():
    blocked = {*optional()}
    assert {"anywidget", "transformers", "matplotlib", "pytest", "hypothesis"} <= blocked
    assert not {"torch", "numpy", "tiktoken", "regex", "rich", "tyro", "typing_extensions", "myllm"} & blocked


@pytest.mark.slow
def test_every_module_comes_with_the_core_or_names_its_extra():
    """With the core dependencies alone a module imports; a widget fails in one line that names the extra."""
    code = (
        "import importlib, json, sys\n"
        "blocked = {*json.loads(sys.argv[1])}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in blocked:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "import myllm.widgets\n"
        "for name in myllm.widgets.__all__:\n"
        "    try:\n"
        "        getattr(myllm.widgets, name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    core = [name for name in modules() if not name.startswith("myllm.widgets.")]
    messages = python(code, json.dumps(optional()), *core).splitlines()
    assert len(messages) == len(importlib.import_module("myllm.widgets").__all__)
    assert all(re.search(r"\[book\]", message) for message in messages), messages
