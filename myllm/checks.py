"""Checks of values that came out of a file or from a caller: types, ranges, fields without an effect."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, cast, get_args

from myllm.files import UserError

LARGEST = 2**31 - 1
"""The largest whole number of a configuration, where a field sets no other limit."""

Idle = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Field to the condition under which it has no effect, and why that is so."""


def fits(value: Any, kind: Any, *, least: int = 1, largest: int = LARGEST) -> bool:
    """Whether a value is of a type or equals a word; a number must lie within what `wanted` describes.

    A whole number may stand for a float; True and False stand for no number.
    """
    if kind is int:
        return type(value) is int and least <= value <= largest
    if kind is float:
        return type(value) in (int, float) and 1e-30 <= value <= 1e30
    return type(value) is kind or value == kind


def wanted(*kinds: Any, least: int = 1, largest: int = LARGEST) -> str:
    """What `fits` accepts, in words."""
    words: dict[Any, str] = {
        int: f"a whole number from {least} to {largest:,}",
        float: "a number from 1e-30 to 1e+30",
        bool: "true or false",
        str: "a string",
        list: "a list",
        dict: "an object",
        type(None): "None",
    }
    return " or ".join(words.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)


def shown(value: Any) -> str:
    """A value for a message, in at most 40 characters."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def setting(hf: Mapping[str, Any], key: str, default: Any, *, kind: Any = None, least: int = 1) -> Any:
    """One setting of a ``config.json``; null counts as missing.

    Args:
        hf: The parsed file, or an object in it.
        key: The name of the setting.
        default: What counts where it is missing; ``...`` where it must be there.
        kind: Its type; by default that of `default`, or int where that has none.
        least: The smallest whole number.

    Raises:
        UserError: The setting is missing, or of another type or out of range.
    """
    value = default if hf.get(key) is None else hf[key]
    if value is ...:
        raise UserError(f"The configuration lacks {key!r}; take the config.json that came with the weights.")
    if kind is None:
        kind = int if default in (None, ...) else cast(Any, type(default))
    if value is not None and not fits(value, kind, least=least):
        raise UserError(f"{key} must be {wanted(kind, least=least)}, not {shown(value)}; fix config.json.")
    return value


def check_fields(made: Any, idle: Idle, prefix: str = "") -> None:
    """Check the fields of a dataclass instance against their annotations and against each other.

    A field may set its own limit by ``field(metadata={"largest": …})``.

    Raises:
        UserError: A value that the annotation does not allow, or a field that would have no effect.
    """
    for one in fields(made):
        value = getattr(made, one.name)
        kinds = get_args(one.type) or (one.type,)
        largest = one.metadata.get("largest", LARGEST)
        if value is not one.default and not any(fits(value, kind, largest=largest) for kind in kinds):
            words = wanted(*kinds, largest=largest)
            raise UserError(f"{prefix}{one.name} must be {words}, not {shown(value)}.")
    for one in fields(made):
        if one.name in idle and getattr(made, one.name) != one.default:
            has_no_effect, why = idle[one.name]
            if has_no_effect(made):
                raise UserError(f"{prefix}{one.name} would have no effect: {why}.")


def make(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from named values.

    Raises:
        UserError: A name that the class does not have, or a field missing that has no default.
    """
    required = {one.name: one.default is MISSING for one in fields(cls)}
    for name in values:
        if name not in required:
            raise UserError(f"{cls.__name__} has no field {name!r}; it has {', '.join(required)}.")
    missing = [name for name in required if required[name] and name not in values]
    if missing:
        raise UserError(f"{cls.__name__} needs {', '.join(missing)}.")
    return cls(**values)
