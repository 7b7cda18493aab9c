"""JSON schemas as regular expressions: the regular part of the language, with properties in a fixed order.

Supported are ``type`` (one or several of object, array, string, integer, number, boolean, null),
``properties`` with all of them ``required``, ``items`` with ``minItems`` and ``maxItems``, ``minLength`` and
``maxLength``, ``enum``, ``const``, ``anyOf``, and ``$ref`` to ``$defs`` without recursion. Objects have
exactly the named properties, in the given order; separators are followed by one space, as `json.dumps` writes
them. Numbers have at most 15 digits on each side of the point.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from myllm.app.refusal import Refusal
from myllm.checks import LARGEST, shown

MAX_DEPTH, MAX_PATTERN = 16, 20_000
CHARACTER = r'(?:[^"\\' + "".join(map(chr, range(32))) + r']|\\["\\/bfnrt])'
INTEGER = r"-?(?:0|[1-9][0-9]{0,14})"
NUMBER = INTEGER + r"(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?"
SIMPLE = {"integer": INTEGER, "number": NUMBER, "boolean": "(?:true|false)", "null": "null"}
#: The keywords that do not constrain a value, and those that each type may have.
SILENT = {"title", "description", "default", "examples", "$defs", "$schema", "$id"}
DETAILS: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
}


def pattern(schema: Any) -> str:
    """The regular expression of the JSON texts that a schema allows; the module lists what it may contain.

    Raises:
        Refusal: The schema contains something that is not supported.
    """
    root = _object(schema)
    return _value(root, root, 0)


def any_object(depth: int = 3) -> str:
    """The regular expression of JSON objects, nested up to a depth; {"a": 1} has depth 1."""
    name, value = f'"{CHARACTER}*"', _either([f'"{CHARACTER}*"', *SIMPLE.values()])
    for _ in range(depth - 1):
        value = _either([value, _object_of(name, value), _array(value, 0, None)])
    return _object_of(name, value)


def _object_of(name: str, value: str) -> str:
    return rf"\{{(?:{name}: {value}(?:, {name}: {value})*)?\}}"


def _value(schema: Any, root: Mapping[str, Any], depth: int) -> str:
    fields = _object(schema)
    if depth > MAX_DEPTH:
        raise _refusal(f"is nested more than {MAX_DEPTH} deep, or refers to itself")
    given = {name: value for name, value in fields.items() if name not in SILENT}
    if "$ref" in given:
        return _value(_target(_only(given, "$ref"), root), root, depth + 1)
    if "anyOf" in given:
        return _either(_values(_list(_only(given, "anyOf"), "anyOf"), root, depth))
    if "enum" in given or "const" in given:
        values = _list(given["enum"], "enum") if "enum" in given else [given["const"]]
        _refuse_others(given, {"type", "enum", "const"})
        return _either([re.escape(json.dumps(one, ensure_ascii=False)) for one in values])
    kinds = given.get("type")
    kinds = _list(kinds, "type") if isinstance(kinds, list) else [kinds]
    known = {"type"}.union(*(DETAILS.get(kind, set()) for kind in kinds if isinstance(kind, str)))
    _refuse_others(given, known)
    return _either([_typed(kind, given, root, depth) for kind in kinds])


def _values(schemas: Iterable[Any], root: Mapping[str, Any], depth: int) -> list[str]:
    """The expressions of several schemas, limited because a few references can expand to a very long one."""
    found, size = list[str](), 0
    for one in schemas:
        found.append(_value(one, root, depth + 1))
        size += len(found[-1])
        if size > MAX_PATTERN:
            raise _refusal(f"makes an expression of more than {MAX_PATTERN:,} characters")
    return found


def _typed(kind: Any, given: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if kind == "object":
        return _properties(given, root, depth)
    if kind == "array":
        if "items" not in given:
            raise _refusal("has an array without items")
        least, most = _bounds(given, "minItems", "maxItems")
        if most == 0:  # the size of an item that never occurs does not matter
            return r"\[\]"
        [item] = _values([given["items"]], root, depth)
        return _array(item, least, most)
    if kind == "string":
        least, most = _bounds(given, "minLength", "maxLength")
        return f'"{CHARACTER}{{{least},{"" if most is None else most}}}"'
    if not isinstance(kind, str) or kind not in SIMPLE:
        raise _refusal(f"has the type {shown(kind)}, which is not supported")
    return SIMPLE[kind]


def _properties(given: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    properties = _object(given.get("properties", {}))
    required = _list(given.get("required", []), "required", empty=True)
    if given.get("additionalProperties", False) is not False:
        raise _refusal("allows additionalProperties, which is not supported")
    if missing := [name for name in properties if name not in required]:
        raise _refusal(f"has the property {shown(missing[0])}, which must be in required")
    if unknown := [name for name in required if name not in properties]:
        raise _refusal(f"requires {shown(unknown[0])}, which is not in properties")
    names = [re.escape(json.dumps(name, ensure_ascii=False)) for name in properties]
    values = _values(properties.values(), root, depth)
    parts = [f"{name}: {value}" for name, value in zip(names, values, strict=True)]
    return r"\{" + ", ".join(parts) + r"\}"


def _array(item: str, least: int, most: int | None) -> str:
    more = f"{max(least - 1, 0)},{'' if most is None else most - 1}"
    full = f"{item}(?:, {item}){{{more}}}"
    return rf"\[{full}\]" if least else rf"\[(?:{full})?\]"


def _bounds(given: Mapping[str, Any], first: str, second: str) -> tuple[int, int | None]:
    least, most = given.get(first, 0), given.get(second)
    for name, value in ((first, least), (second, most)):
        if value is not None and (type(value) is not int or not 0 <= value <= LARGEST):
            raise _refusal(f"has {shown(value)} as {name}, which must be a whole number")
    if most is not None and most < least:
        raise _refusal(f"has a {second} below its {first}")
    return least, most


def _target(name: Any, root: Mapping[str, Any]) -> Any:
    if name == "#":
        return root
    found = _object(root.get("$defs", {})).get(str(name).removeprefix("#/$defs/"))
    if found is None or not str(name).startswith("#/$defs/"):
        raise _refusal(f"refers to {shown(name)}, which is not in its $defs")
    return found


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def _only(given: Mapping[str, Any], name: str) -> Any:
    _refuse_others(given, {name})
    return given[name]


def _refuse_others(given: Mapping[str, Any], known: set[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise _refusal(f"has {shown(unknown[0])}, which is not supported there")


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(f"has {shown(value)} where an object must be")
    return cast("dict[str, Any]", value)


def _list(value: Any, name: str, *, empty: bool = False) -> list[Any]:
    if not isinstance(value, list) or not (value or empty):
        raise _refusal(f"has {shown(value)} as {name}, which must be a list")
    return cast("list[Any]", value)


def _refusal(what: str) -> Refusal:
    return Refusal(f"The JSON schema {what}.", param="response_format", code="bad_schema")
