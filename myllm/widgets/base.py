"""Shared by all widgets: the layout, argument checks, a limit on the state, a reproducible text form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import anywidget
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError("Widgets need the extra book; run pip install 'myllm-course[book]'.") from error

STATE_LIMIT = 64_000  # bytes of JSON: a page holds its widgets' whole state


def source(*names: str) -> str:
    """The package files ``names``, joined: the browser gets one module, without imports to resolve."""
    return "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"The {name} must be one of {', '.join(choices)}, not {value!r}.")


def check_integer(name: str, value: Any, least: int, most: int) -> None:
    """Raise ValueError unless `value` is an integer from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"The {name} must be a whole number from {least:,} to {most:,}, not {value!r}.")


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Raise ValueError unless `value` is an integer or a float from `least` to `most`."""
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"The {name} must be a number from {least:,} to {most:,}, not {value!r}.")


def check_text(name: str, value: Any, least: int, most: int) -> None:
    """Raise ValueError unless `value` is a string of `least` to `most` characters."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise ValueError(f"The {name} must be a string of {least:,} to {most:,} characters.")


class Widget(anywidget.AnyWidget):
    """A widget whose state is small enough for a page and whose text representation never varies.

    Raises:
        ValueError: If the state, with code and style, takes more than ``STATE_LIMIT`` bytes of JSON.
    """

    _esm: Any = ""
    _css: Any = source("layout.css")

    def __init__(self, **state: Any) -> None:
        size = len(json.dumps([state, self._esm, self._css]))
        if size > STATE_LIMIT:
            raise ValueError(f"The widget would add {size:,} bytes to the page; {STATE_LIMIT:,} are allowed.")
        super().__init__(**state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
