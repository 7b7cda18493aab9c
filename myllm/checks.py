"""Checks of values from a file or a caller: types, ranges, and fields that would have no effect."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, get_args

from myllm.files import UserError

LARGEST = 2**31 - 1  # of integers, by default
USUAL = {int: (1, LARGEST), float: (1e-30, 1e30)}
# The ranges of fields of `ModelConfig` and `RopeScaling` that differ from `USUAL`.
RANGES = {
    "n_layer": (1, 10_000),
    "head_dim": (1, 65_536),
    "full_attention_every": (2, LARGEST),
    "rotary_fraction": (1e-30, 1),
    "factor": (1, 1e30),
}
_WORDS = {bool: "true or false", str: "a string", list: "a list", dict: "an object", type(None): "None"}


def shown(value: Any) -> str:
    """A value as text for a message, in at most 40 characters."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def near(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the most similar known name, if one is similar enough."""
    found = get_close_matches(name, [*names], 1)
    return f"did you mean {found[0]}?" if found else "check the name."


def check(name: str, value: Any, *kinds: Any, bounds: tuple[float, float] | None = None) -> None:
    """Raise an error unless a value has one of the given types or equals one of the given words.

    An int may stand for a float; True and False may stand for neither.

    Args:
        name: The name of the value, for the message.
        value: The value.
        kinds: Types that it may have, or words that it may equal.
        bounds: The smallest and the largest number allowed; by default those of `USUAL`.

    Raises:
        UserError: The value is of another type or out of range.
    """
    wanted: list[str] = []
    for kind in kinds:
        if kind in USUAL:
            least, largest = bounds or USUAL[kind]
            allowed = type(value) in (int, kind) and least <= value <= largest
            what = "a whole number" if kind is int else "a number"
            wanted.append(f"{what} from {least:,} to {largest:,}")
        else:
            allowed = type(value) is kind or value == kind
            wanted.append(_WORDS.get(kind) or getattr(kind, "__name__", str(kind)))
        if allowed:
            return
    raise UserError(f"{name} must be {' or '.join(wanted)}, not {shown(value)}.")


def setting(
    hf: Mapping[str, Any], key: str, default: Any = ..., bounds: tuple[float, float] | None = None
) -> Any:
    """One setting of a ``config.json``; null counts as missing.

    Args:
        hf: The parsed file, or an object in it.
        key: The name of the setting.
        default: The value if the setting is missing; if it is not, it must be of the same type. Without a
            default the setting is required, and must be an integer.
        bounds: The smallest and the largest number allowed.

    Raises:
        UserError: The setting is missing, of another type or out of range.
    """
    value = hf.get(key)
    if value is not None:
        check(key, value, int if default is ... else type(default), bounds=bounds)
        return value
    if default is ...:
        raise UserError(f"The configuration lacks {key!r}; take the config.json that came with the weights.")
    return default


def check_fields(made: Any, prefix: str = "") -> None:
    """Check the fields of a dataclass instance against their annotations, `RANGES` and each other.

    A field with ``metadata={"needs": (other, value)}`` must keep its default unless the field `other` has
    that value.

    Raises:
        UserError: A value that is not allowed, or a field that would have no effect.
    """
    for one in fields(made):
        name, value = prefix + one.name, getattr(made, one.name)
        if value is one.default:
            continue
        check(name, value, *get_args(one.type) or (one.type,), bounds=RANGES.get(one.name))
        other, needed = one.metadata.get("needs", (one.name, value))
        if getattr(made, other) != needed and value != one.default:
            raise UserError(f'{name} would have no effect: {other} is not "{needed}".')


def make(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Create an instance of a dataclass from values by field name.

    Raises:
        UserError: An unknown field, or a missing one that has no default.
    """
    required = {one.name: one.default is MISSING for one in fields(cls)}
    if unknown := [name for name in values if name not in required]:
        raise UserError(f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(required)}.")
    if missing := [name for name in required if required[name] and name not in values]:
        raise UserError(f"{cls.__name__} needs {', '.join(missing)}.")
    return cls(**values)
