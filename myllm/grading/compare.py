"""Whether a value equals the expected one and, if not, where it differs; answers' methods are not trusted."""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from myllm.grading.shown import is_numpy, kind, show

SCALARS = (bool, int, float, complex, str, bytes, type(None))
NUMPY = {np.ndarray, *np.sctypeDict.values()}  # exactly these: a subclass may override anything
# (relative, absolute) by dtype: a few roundings of that precision.
TOLERANCE = {
    torch.float64: (1e-9, 1e-12),
    torch.float32: (1e-5, 1e-6),
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
}


class Failure(Exception):
    """A check that did not pass: the expected and the actual value; ``cause`` is what the answer raised."""

    cause: BaseException | None = None


class Changed(Failure):
    """The answer changed its arguments; ``value`` is what it returned."""

    value: Any = None


class WrongType(Failure):
    """The value is right, but the type of its numbers is not the requested one."""


def plain(value: Any) -> Any:
    """The same value made of exact built-in types and tensors only.

    A subclass could claim to equal everything: one of a container, such as a ``Counter``, becomes the
    container itself, and any other is refused.

    Raises:
        Failure: a type that is not a tensor, number, text, list, tuple, dict or set.
    """
    if type(value) in SCALARS or type(value) is Tensor:
        return value
    if type(value) in NUMPY and value.dtype != object:
        return value  # a wrong type, whose value may be right
    if type(value) is torch.nn.Parameter:
        return value.as_subclass(Tensor)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in dict.items(value)}  # pyright: ignore[reportUnknownVariableType]
    bases: tuple[Any, ...] = (list, tuple, set, frozenset)
    for base in bases:
        if isinstance(value, base):
            return base(plain(item) for item in base.__iter__(value))
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise Failure(f"expected tensors, numbers, text, lists, tuples or dicts, got a value of type {name}")


def without_numpy(value: Any) -> Any:
    """The same value with tensors for NumPy's arrays and Python's numbers for its scalars."""
    if is_numpy(value):
        return torch.tensor(value) if value.ndim and value.dtype.kind in "biufc" else value.tolist()
    if type(value) is dict:
        return {key: without_numpy(one) for key, one in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(without_numpy(one) for one in value)
    return value


def as_expected(got: Any, expected: Any) -> Any:
    """``got`` with each value converted to the type that is expected there, if that preserves the value.

    A 0-d tensor becomes a number or the reverse, a list a tuple or the reverse, a whole float an int, 0 and 1
    become booleans, a NumPy value what it stands for; a tensor takes the expected dtype.
    """
    if is_numpy(got):
        got = torch.tensor(got) if isinstance(expected, Tensor) else got.tolist()
    form, wanted = cast("Any", type(got)), cast("Any", type(expected))
    if form in (list, tuple) and wanted in (list, tuple) and len(got) == len(expected):
        values = [as_expected(*pair) for pair in zip(got, expected, strict=True)]
        return values if wanted is list else tuple(values)
    if form is dict and wanted is dict:
        return {key: as_expected(item, cast("Any", expected).get(key)) for key, item in got.items()}
    if isinstance(got, Tensor) and got.dim() == 0 and type(expected) in (bool, int, float):
        got = got.item()
    if isinstance(expected, Tensor) and expected.dim() == 0 and type(got) in (int, float):
        got = torch.tensor(got)
    if type(expected) is int and type(got) is float and got.is_integer():
        return int(got)
    if type(expected) is bool and type(got) is int and got in (0, 1):
        return bool(got)
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor) or got.shape != expected.shape:
        return got
    if got.is_complex():
        return got
    moved = got.to(expected.dtype)
    return moved if expected.is_floating_point() or bool((moved == got).all()) else got


def difference(got: Any, expected: Any, tolerance: float | None = None, where: str = "") -> str | None:
    """Describe how ``got`` differs from ``expected``, or return None.

    Types count (an int may stand for a float). Floats may differ by a few roundings of their precision, or
    by ``tolerance`` (relative and absolute) where it is given; NaN equals NaN.
    """
    at = f"at {where}: " if where else ""
    if isinstance(expected, Tensor):
        return _tensors(got, expected, tolerance, at)
    if type(expected) is float and type(got) in (int, float):
        if math.isclose(got, expected, rel_tol=tolerance or 1e-6, abs_tol=tolerance or 1e-9):
            return None
        if math.isnan(got) and math.isnan(expected):
            return None
        return f"{at}expected {expected!r}, got {got!r} (error {abs(got - expected):.3g})"
    if type(got) is not type(expected):
        value = "" if got is None else f": {show(got)}"
        return f"{at}expected {kind(expected)}, got {kind(got)}{value}"
    if isinstance(expected, dict):
        return _dicts(got, expected, tolerance, where)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(expected, list | tuple):
        for index, (one, other) in enumerate(zip(got, expected, strict=False)):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            if problem := difference(one, other, tolerance, f"{where}[{index}]"):
                return problem
        if len(got) != len(expected):  # pyright: ignore[reportUnknownArgumentType]
            longer = cast("list[Any]", expected if len(expected) > len(got) else got)  # pyright: ignore[reportUnknownArgumentType]
            shorter = min(len(expected), len(got))  # pyright: ignore[reportUnknownArgumentType]
            what = "the first missing one is" if longer is expected else "the first too many is"
            return f"{at}expected {len(expected)} elements, got {len(got)}; {what} {show(longer[shorter])}"  # pyright: ignore[reportUnknownArgumentType]
        return None
    if callable(expected):
        return None
    return None if got == expected else f"{at}expected {show(expected)}, got {show(got)}"


def _dicts(got: dict[Any, Any], expected: dict[Any, Any], tolerance: float | None, where: str) -> str | None:
    at = f"at {where}: " if where else ""
    extra = [key for key in got if key not in expected]
    if missing := [key for key in expected if key not in got]:
        others = f"; one that should not be there is {show(extra[0])}" if extra else ""
        return (
            f"{at}{len(missing)} of {len(expected)} keys are missing, the first is {show(missing[0])}{others}"
        )
    if extra:
        return (
            f"{at}{len(extra)} keys should not be there, the first is {show(extra[0])}: {show(got[extra[0]])}"
        )
    for key in expected:
        if problem := difference(got[key], expected[key], tolerance, f"{where}[{show(key)}]"):
            return problem
    return None


def _tensors(got: Any, expected: Tensor, tolerance: float | None, at: str) -> str | None:
    if not isinstance(got, Tensor) or got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{at}expected {kind(expected)}, got {kind(got)}"
    relative, absolute = (tolerance, tolerance) if tolerance else TOLERANCE.get(expected.dtype, (0.0, 0.0))
    a, b = got.detach(), expected.detach()
    if expected.dtype.is_floating_point:
        a, b = a.double(), b.double()
    wrong = ~torch.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
    if not (count := int(wrong.sum())):
        return None
    first = [int(one) for one in wrong.nonzero()[0]]
    index = tuple(first)
    error = (a[wrong].double() - b[wrong].double()).abs().max().item()
    pair = [_written(one[index].item(), 6) for one in (expected, got)]
    if pair[0] == pair[1]:
        pair = [_written(one[index].item(), 12) for one in (expected, got)]
    return (
        f"{at}first difference at index {first}: expected {pair[0]}, got {pair[1]} "
        f"({count} of {expected.numel()} values differ, largest error {error:.3g})"
    )


def _written(number: Any, digits: int) -> str:
    """A number of a tensor: an int whole, a float rounded and without the sign of a zero."""
    return str(number) if isinstance(number, int) else f"{number + 0.0:.{digits}g}"
