"""What a call gives, a value or an exception, and how two of these differ."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import wraps
from io import StringIO
from itertools import count
from typing import Any

from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]

from myllm.grading.compare import Changed, Failure, WrongType, as_expected, difference, without_numpy
from myllm.grading.shown import short_call, show

Function = Callable[..., Any]
MOST = 100  # calls for which an answer is loaded anew


@dataclass(frozen=True)
class Raised:
    """Represents the result of a call that raised."""

    error: BaseException
    text: str

    @property
    def kind(self) -> str:
        """The name of the exception or, for one that is not Python's, of the one that it is based on."""
        return next(one.__name__ for one in type(self.error).__mro__ if one.__module__ == "builtins")


def outcome(f: Function, args: Sequence[Any]) -> Any:
    """What a call returns, or the exception as a value."""
    try:
        return f(*args)
    except Changed as failure:
        return failure
    except Failure as failure:
        if failure.cause is None:
            raise
        return Raised(failure.cause, str(failure))
    except Exception as error:  # the reference and the wrong functions are not fenced
        return Raised(error, f"raised {type(error).__name__}")


def differ(got: Any, expected: Any, tolerance: float | None = None) -> str | None:
    """Describe how one outcome differs from the expected one, or return None."""
    if isinstance(got, Changed):
        return str(got)
    if isinstance(got, Raised) and isinstance(expected, Raised):
        same = isinstance(got.error, type(expected.error))
        return None if same else f"expected {expected.kind}, the function {got.text}"
    if isinstance(got, Raised):
        return f"the function {got.text}\nexpected {show(expected)}"
    if isinstance(expected, Raised):
        return f"expected {expected.kind} to be raised, got {show(got)}"
    return difference(as_expected(got, expected), expected, tolerance)


def types(
    f: Function,
    cases: Sequence[Sequence[Any]],
    got: Sequence[Any],
    expected: Sequence[Any],
    tolerance: float | None,
) -> None:
    """Refuse right values of a wrong type.

    Raises:
        WrongType: there is one.
    """
    for args, one, other in zip(cases, got, expected, strict=True):
        if not isinstance(other, Raised) and (problem := difference(one, other, tolerance)):
            told = f"{problem}\nThe call was {short_call(f, args, problem)}"
            raise WrongType(
                f"{told}\nThe values are right; only their type costs you the points of this check."
            )


def anew(f: Function) -> Function:
    """A function that is loaded anew for each call, and raises after `MOST` of them."""
    calls = count()

    def called(*args: Any) -> Any:
        if next(calls) >= MOST:
            raise RuntimeError("too many calls")
        return f.fresh()(*args)  # pyright: ignore[reportFunctionMemberAccess]

    return called


def passes(test: Callable[[], Any]) -> bool:
    """Whether a test raises nothing; what it prints is dropped, for it was printed before."""
    try:
        with redirect_stdout(StringIO()):
            test()
    except Exception:  # no way to load an answer anew, or as wrong as before
        return False
    return True


def with_torch(f: Function) -> Function:
    """The same function, with numbers and tensors for NumPy's values."""

    @wraps(f)
    def called(*args: Any) -> Any:
        value = f(*args)
        with _disable_current_modes():  # a cost check counts the answer's work
            return without_numpy(value)

    return called
