"""Values and calls as reports show them: short, and never without the part that matters."""

import re
import reprlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from myllm.grading.classes import Calls

LONGEST_CALL = 200  # characters of a call in a report, as far as its arguments can be shortened
LONGEST_NAME = 90  # characters of a key that is never shortened


class Shown(reprlib.Repr):
    """``repr`` that stays short and shows a large tensor by its shape.

    Args:
        items: the most shown of a list, tuple or dict.
        text: the most characters shown of a string.
        cells: a tensor with more is shown by its shape.
        near: an index whose element a list or tuple always shows, however long it is.
    """

    def __init__(self, items: int = 8, text: int = 60, cells: int = 9, near: int | None = None) -> None:
        super().__init__()
        self.maxstring = self.maxother = text
        self.maxlist = self.maxtuple = self.maxdict = items
        self.cells, self.near = cells, near

    def repr1(self, x: Any, level: int) -> str:
        """One value; only exact built-in types and tensors show their contents."""
        if type(x) in (Tensor, torch.nn.Parameter):
            return f"tensor({self.whole(x.tolist())})" if 0 < x.numel() <= self.cells else kind(x)
        if isinstance(x, torch.nn.Module):
            return repr(x)
        if callable(x):
            return getattr(x, "__name__", "a function")
        return super().repr1(x, level)

    def whole(self, x: Any) -> str:
        """Nested lists of numbers, however deep."""
        return (
            f"[{', '.join(map(self.whole, cast('list[Any]', x)))}]" if type(x) is list else self.repr1(x, 1)
        )

    def repr_list(self, x: list[Any], level: int) -> str:
        """The first elements, and the one near which a difference was found."""
        return f"[{self._elements(x, level)}]"

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        """As :meth:`repr_list`."""
        return f"({self._elements(x, level)}{',' * (len(x) == 1)})"

    def _elements(self, x: Sequence[Any], level: int) -> str:
        if level <= 0:
            return "..." * bool(x)
        parts = [self.repr1(one, level - 1) for one in islice(x, self.maxlist)]
        rest = range(len(parts), len(x))
        if self.near is not None and self.near in rest and level == self.maxlevel:
            parts += ["..."] * (self.near > rest[0])
            parts.append(f"{self.repr1(x[self.near], level - 1)} at [{self.near}]")
            rest = range(self.near + 1, len(x))
        return ", ".join([*parts, *["..."] * bool(rest)])

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In the dictionary's own order, so that a pasted case is the same case."""
        if level <= 0:
            return "{...}"
        parts = [
            f"{self.key(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)
        ]
        return "{" + ", ".join([*parts, *["..."] * (len(x) > self.maxdict)]) + "}"

    def key(self, x: Any, level: int) -> str:
        """A key, with its text whole as far as it is a name."""
        return repr(x) if type(x) is str and len(x) <= LONGEST_NAME else self.repr1(x, level)

    def repr_float(self, x: float, level: int) -> str:
        """Six digits, as in a table of results."""
        return repr(float(f"{x:.6g}"))


show = Shown().repr
# Ever shorter forms of a value: elements, characters, cells of a tensor.
STEPS = ((8, 60, 9), (6, 60, 9), (4, 60, 6), (3, 40, 4), (2, 40, 4), (1, 40, 1), (1, 20, 1))


def kind(x: object) -> str:
    """A value's type in words, with shape and dtype for a tensor."""
    if isinstance(x, Tensor):
        return f"a tensor of shape {tuple(x.shape)} and dtype {str(x.dtype).removeprefix('torch.')}"
    if is_numpy(x):
        return f"a numpy.{type(x).__name__}"
    return {"NoneType": "None", "int": "an int"}.get(type(x).__name__, f"a {type(x).__name__}")


def is_numpy(x: object) -> bool:
    """Whether this is a NumPy number or array."""
    return isinstance(x, np.generic | np.ndarray)


def whole_call(f: Callable[..., Any], args: Sequence[Any]) -> str:
    """A call with its arguments as `show` shows them."""
    return _written(f.__name__, args, [show] * _values(args))


def short_call(f: Callable[..., Any], args: Sequence[Any], problem: str) -> str:
    """A call short enough not to bury the problem: every argument is there, the longest ones only in part.

    Args:
        f: the function.
        args: its arguments; the last may be `Calls`.
        problem: what is wrong with the result; a list shows the element at the index that it names.
    """
    place = re.search(r"\[(\d+)", problem)
    near = int(place[1]) if place else None
    shows = [[Shown(*step, near).repr for step in STEPS] for _ in range(_values(args))]
    given = [*args[:-1], *(one for _, *rest in args[-1] for one in rest)] if _are_calls(args) else [*args]
    while len(call := _written(f.__name__, args, [steps[0] for steps in shows])) > LONGEST_CALL:
        able = [i for i, steps in enumerate(shows) if len(steps) > 1]
        if not able:
            break
        del shows[max(able, key=lambda i: len(shows[i][0](given[i])))][0]
    return call


def rows_named(args: Sequence[Any], problem: str) -> list[str]:
    """Sentences that show whole the rows of a table that a problem names, two at most.

    A table is a list of dicts among the arguments; the first entry of each is the row's name.
    """
    lists = [cast("list[dict[Any, Any]]", one) for one in args if type(one) is list]
    tables = [one for one in lists if all(type(row) is dict and row for row in one)]
    rows = [(i, row, next(iter(row.values()))) for table in tables for i, row in enumerate(table)]
    found = [
        f"Row [{i}] is {Shown(items=20, text=90).repr(row)}."
        for i, row, name in rows
        if type(name) in (str, int) and re.search(rf"(?<![\w.]){re.escape(repr(name))}(?![\w.])", problem)
    ]
    return found[:2]


def _are_calls(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[-1], Calls)


def _values(args: Sequence[Any]) -> int:
    """How many values a call shows, including those of method calls."""
    return len(args) - 1 + sum(len(call) - 1 for call in args[-1]) if _are_calls(args) else len(args)


def _written(name: str, args: Sequence[Any], shows: Sequence[Callable[[Any], str]]) -> str:
    if not _are_calls(args):
        return f"{name}({', '.join(each(one) for each, one in zip(shows, args, strict=True))})"
    ways = iter(shows)
    made = ", ".join(next(ways)(one) for one in args[:-1])
    calls = [f"x.{method}({', '.join(next(ways)(one) for one in rest)})" for method, *rest in args[-1]]
    return "; ".join([f"x = {name}({made})", *calls])
