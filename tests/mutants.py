"""Tries wrong versions of a package's modules on oracles: a JSON object in, a JSON object of killers out.

The fixture ``killed`` of ``tests/conftest.py`` runs this file as a script, so that the changed modules live
in a process of their own::

    python tests/mutants.py myllm.training tests/training/oracles.py < mutants.json

Input: ``{name: [file, right, wrong]}``, where ``file`` is a module of the package without the package's
name (``losses``, ``strategies.single``), and ``right`` occurs exactly once in its source. Output: for each
name the oracle that refused the mutant and its error, or null for a mutant that survived; and for each file,
under the file's own name, the same for its unchanged source, which must be null.

The file of oracles defines ``ORACLES``, functions without arguments that raise where the package is wrong,
and may define ``FIRST``, the oracle to try first by file. The package's modules, and helpers beside the
oracles that use them, must be imported inside the functions: they are imported anew for each mutant.
"""

import importlib
import importlib.abc
import importlib.util
import json
import sys
from pathlib import Path

import pytest


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, module, source):
        self.module, self.source = module, source

    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.module else None

    def exec_module(self, module):
        parent, _, name = self.module.rpartition(".")
        module.__file__ = str(Path(sys.modules[parent].__path__[0], f"{name}.py"))  # files lie beside it
        exec(compile(self.source, f"<mutant of {self.module}>", "exec"), module.__dict__)


def killer(oracles, package, file, source, order):
    """The first oracle that refuses the source of a file, with its error, or None.

    The same oracles refuse most mutants of a file, so the last to refuse goes to the front of `order`.
    """
    folder = Path(oracles.__file__).parent
    for name, module in [*sys.modules.items()]:
        beside = Path(getattr(module, "__file__", None) or "").parent == folder and module is not oracles
        if f"{name}.".startswith(f"{package}.") or beside:
            del sys.modules[name]
    finder = Finder(f"{package}.{file}", source)
    sys.meta_path.insert(0, finder)
    try:
        for oracle in [*order]:
            try:
                oracle()
            except (NameError, SyntaxError):  # a slip in the table, not a change of meaning
                raise
            except (Exception, pytest.fail.Exception) as error:  # whatever a mutant does
                order.remove(oracle)
                order.insert(0, oracle)
                return f"{oracle.__name__}: {type(error).__name__}: {error}"[:300]
    finally:
        sys.meta_path.remove(finder)
    return None


def main(package, path):
    sys.path[0] = str(Path(path).parent)
    oracles = importlib.import_module(Path(path).stem)
    folder, killers, orders = Path(importlib.import_module(package).__file__).parent, {}, {}
    for name, (file, right, wrong) in json.load(sys.stdin).items():
        source = (folder / f"{file.replace('.', '/')}.py").read_text("utf-8")
        if source.count(right) != 1:
            raise SystemExit(f"{name}: {right!r} occurs {source.count(right)} times in {file}.py")
        if file not in killers:
            first = getattr(oracles, "FIRST", {}).get(file)
            orders[file] = sorted(oracles.ORACLES, key=lambda oracle: oracle is not first)
            killers[file] = killer(oracles, package, file, source, orders[file])
        wrong_source = source.replace(right, wrong)
        killers[name] = killer(oracles, package, file, wrong_source, orders[file])
    print(json.dumps(killers))


if __name__ == "__main__":
    main(*sys.argv[1:])
