"""A guard around calls of a learner's function: forbidden names raise, changed globals are restored."""

import builtins
import copy
import importlib
import inspect
import linecache
import math
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from operator import is_
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]

from myllm.grading.compare import Changed, Failure, difference, plain

NAMESPACES: list[ModuleType | type] = [
    builtins,
    math,
    random,
    torch,
    torch.nn.functional,
    torch.linalg,
    torch.Tensor,
]


INNER = ("torch._", "torch.utils.")


class Forbidden(Exception):
    """A name that this exercise may not use was used."""


class OutOfMemory(Exception):
    """The memory limit was reached; the whole exercise is lost."""


class Guard:
    """Calls one function and undoes its side effects.

    Args:
        forbidden: dotted names of functions (``torch.bincount``), or of modules with a star
            (``myllm.tokenizers.bpe.*``), which can still be imported, but not used.
    """

    def __init__(self, forbidden: Sequence[str]) -> None:
        self.inside = False
        self.used: list[str] = []  # forbidden names, in the order they were first used
        modules = tuple(name[:-1] for name in forbidden if name.endswith(".*"))  # "myllm.model."
        for name in forbidden:
            if not name.endswith(".*"):
                self._wrap(name)
        for name in [name for name in sys.modules if f"{name}.".startswith(modules)]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Barrier(modules, self))
        self._kept = [(space, dict(vars(space))) for space in NAMESPACES]
        self._dtype = torch.get_default_dtype()

    def use(self, name: str) -> None:
        """Record the use of a forbidden name, and refuse it."""
        if name not in self.used:
            self.used.append(name)
        raise Forbidden(f"{name} may not be used here: write this step yourself")

    def _wrap(self, name: str) -> None:
        path, _, last = name.rpartition(".")
        owner = _find(path)
        original = getattr(owner, last)

        def fence(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
            caller = str(frame.f_globals.get("__name__"))
            # Calls from Python's library and from inside torch stay allowed; those from torch.nn are refused.
            inner = caller.startswith(INNER) or caller.split(".")[0] in sys.stdlib_module_names
            return self.use(name) if self.inside and not inner else original(*args, **kwargs)

        setattr(owner, last, fence)

    def restore(self) -> None:
        """Restore what a call has changed: names of torch and Python, defaults, gradients."""
        for space, kept in self._kept:
            now = vars(space)
            if len(now) == len(kept) and all(map(is_, now.values(), kept.values())):
                continue  # nearly always; thousands of names are compared after every call
            for name in [name for name, value in kept.items() if now.get(name) is not value]:
                setattr(space, name, kept[name])
            # In a class a new name hides an inherited one; in a module it hides nothing.
            for name in [name for name in now if name not in kept] if isinstance(space, type) else ():
                delattr(space, name)
        torch.set_default_dtype(self._dtype)
        if torch.get_default_device().type != "cpu":
            torch.set_default_device("cpu")
        torch.set_grad_enabled(True)
        sys.settrace(None)

    def call(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """The plain value of ``function(*args)``.

        Raises:
            Failure: the function raised, changed its arguments, or returned an unsupported type.
            OutOfMemory: the memory limit was reached.
        """
        with _disable_current_modes():  # what a cost check counts is the answer's work, not ours
            try:
                before = copy.deepcopy(args)
            except RuntimeError:  # a tensor inside a graph cannot be copied
                before = args
        try:
            self.inside = True
            value = function(*args)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: an answer may raise anything
            self.inside = False
            self.restore()
            if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
                raise OutOfMemory from None
            failure = Failure(f"raised {describe(error)}")
            failure.cause = error
            raise failure from None
        finally:
            self.inside = False
        with _disable_current_modes():
            self.restore()
            for number, (now, then) in enumerate(zip(args, before, strict=True), start=1):
                if problem := difference(now, then):
                    name = argument(function, number)
                    changed = Changed(f"the function changed its argument {name}; work on a copy ({problem})")
                    changed.value = plain(value)
                    raise changed
            return plain(value)


def argument(function: Callable[..., Any], number: int) -> str:
    """The name of a function's argument by its position, counted from 1."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except ValueError:  # some C functions have no signature
        parameters = list[inspect.Parameter]()
    known = number <= len(parameters) and parameters[number - 1].kind is not inspect.Parameter.VAR_POSITIONAL
    return f"`{parameters[number - 1].name}`" if known else f"number {number}"


def describe(error: BaseException) -> str:
    """An exception in one line, with the last line of the answer that it passed through."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} in line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/myllm/grading/" not in frame.filename and "/solutions/checks/" not in frame.filename
    ]
    foreign = ("site-packages", "<frozen", str(Path(linecache.__file__).parent))  # the last: standard library
    own = [frame for frame in frames if not any(place in frame.filename for place in foreign)]
    if not own:
        return text
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f"{text} in line {own[-1].lineno}" + (f": {line}" if line else "")


def _find(path: str) -> Any:
    """The module or class at a dotted path."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


class _Nothing:
    """Stands for a name of a forbidden module: it may be imported, but not used."""

    def __init__(self, name: str, guard: Guard) -> None:
        self._name, self._guard = name, guard

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._guard.use(self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._guard.use(self._name)


class _Barrier(Loader):
    """An import finder and loader that substitutes empty modules for forbidden ones."""

    def __init__(self, modules: tuple[str, ...], guard: Guard) -> None:
        self.modules, self.guard = modules, guard

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if f"{name}.".startswith(self.modules) else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        def offer(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _Nothing(f"{module.__name__}.{name}", self.guard)

        module.__dict__["__getattr__"] = offer
