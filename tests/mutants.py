"""Tries wrong versions of a package's modules on oracles: a JSON object in, a JSON object of killers out.

The fixture ``killed`` of ``tests/conftest.py`` runs this file as a script, so that the changed modules live
in a process of their own::

    python tests/mutants.py myllm.training tests/training/oracles.py < mutants.json

Input: ``{name: [file, right, wrong]}``, where ``file`` is a module of the package without the package's
name (``losses``, ``strategies.single``), and ``right`` occurs exactly once in its source. A fourth entry may
name the oracle to try first; else this is one that reaches the changed lines and is quick. Output: for each
name the oracle that refused the mutant and its error, or null for a mutant that survived; and for each file,
under the file's own name, the same for the unchanged sources, which must be null.

The file of oracles defines ``ORACLES``, functions without arguments that raise where the package is wrong;
``cases.py`` makes them of tests. The package's modules, and helpers among the tests that use them, must be
imported inside the functions: they are imported anew for each mutant.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import json
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
REACHED = set()  # (module, first line, last line) of the marked statements that were executed


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports some modules from given sources, or code."""

    def __init__(self, sources):
        self.sources = sources

    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name in self.sources else None

    def exec_module(self, module):
        parent, _, name = module.__name__.rpartition(".")
        module.__file__ = str(Path(sys.modules[parent].__path__[0], f"{name}.py"))  # files lie beside it
        module.__mark__ = REACHED.add
        exec(
            compile(self.sources[module.__name__], f"<mutant of {module.__name__}>", "exec"), module.__dict__
        )


def marked(module, source):
    """The syntax tree of a source in which each statement of a function first says that it is reached."""
    tree, blocks = ast.parse(source), {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                for field in ("body", "orelse", "finalbody"):
                    if isinstance(getattr(node, field, None), list):
                        blocks[node, field] = getattr(node, field)
    for (node, field), statements in blocks.items():
        setattr(node, field, [one for each in statements for one in (*mark(module, each), each)])
    return tree


def mark(module, statement):
    """The statements that mark another; none for a docstring."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return []
    first, last, body = statement.lineno, statement.end_lineno, getattr(statement, "body", None)
    if isinstance(body, list):  # of a compound statement only its head
        last = max(first, body[0].lineno - 1)
    call = ast.parse(f"__mark__({(module, first, last)})")
    return ast.increment_lineno(call, first - 1).body


class Oracle:
    """An oracle: its time, the statements that it reaches, and how many mutants of a module it has killed."""

    def __init__(self, function):
        self.function, self.seconds, self.reached, self.kills = function, 0.0, set(), Counter()

    def complaint(self):
        """What it has against the modules that are imported now."""
        try:
            self.function()
        except (NameError, SyntaxError):  # a slip in the table, not a change of meaning
            raise
        except (Exception, pytest.fail.Exception) as error:  # whatever a mutant does
            return f"{self.function.__name__}: {type(error).__name__}: {error}"[:300]
        return None

    def watched(self):
        """The same; remembers how long it took and which marked statements it reached."""
        REACHED.clear()
        start = time.perf_counter()
        found = self.complaint()
        self.seconds, self.reached = time.perf_counter() - start, {*REACHED}
        return found

    def turn(self, module, first, last, known):
        """Its place in the order: the known killer, then what reaches the lines, the quick ones first."""
        reaches = any(name == module and a <= last and first <= b for name, a, b in self.reached)
        return self.function.__name__ not in known, not reaches, self.seconds / (1 + self.kills[module])


@contextmanager
def imported_anew(package, oracles, sources):
    """Forget the package's modules and those of the tests, and import some from other sources."""
    for name, module in [*sys.modules.items()]:
        ours = TESTS in Path(getattr(module, "__file__", None) or "").parents
        if f"{name}.".startswith(f"{package}.") or (ours and name not in ("__main__", "cases", oracles)):
            del sys.modules[name]
    finder = Finder(sources)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def main(package, path):
    sys.path[:1] = [str(Path(path).parent), str(TESTS)]
    name = Path(path).stem
    oracles = [*map(Oracle, importlib.import_module(name).ORACLES)]
    folder = Path(importlib.import_module(package).__file__).parent
    mutants = json.load(sys.stdin)
    sources = {
        f"{package}.{file}": (folder / f"{file.replace('.', '/')}.py").read_text("utf-8")
        for file, *_ in mutants.values()
    }
    for mutant, (file, old, *_) in mutants.items():
        if (count := sources[f"{package}.{file}"].count(old)) != 1:
            raise SystemExit(f"{mutant}: {old!r} occurs {count} times in {file}.py")
    with imported_anew(package, name, {module: marked(module, text) for module, text in sources.items()}):
        for module in sources:  # lest the first oracle seem slow
            importlib.import_module(module)
        right = next(filter(None, [oracle.watched() for oracle in oracles]), None)
    killers = dict.fromkeys((file for file, *_ in mutants.values()), right)
    for mutant, (file, old, new, *known) in mutants.items():
        module = f"{package}.{file}"
        source = sources[module]
        first = source[: source.index(old)].count("\n") + 1
        span = first, first + old.rstrip("\n").count("\n")
        killers[mutant] = None
        with imported_anew(package, name, {module: source.replace(old, new)}):
            for oracle in sorted(oracles, key=lambda one: one.turn(module, *span, known)):
                if said := oracle.complaint():
                    killers[mutant] = said
                    oracle.kills[module] += 1
                    break
    print(json.dumps(killers))


if __name__ == "__main__":
    main(*sys.argv[1:])
