"""The families of models that `myllm.families` reads and writes: the tables of ``families.toml``."""

import tomllib
from pathlib import Path
from typing import Any, Literal, NamedTuple

Values = dict[str, Any]


class Family(NamedTuple):
    """How one family writes its configuration."""

    architecture: str
    """The class of the transformers library that reads it."""
    fixed: Values
    """Fields that have the same value in all its models."""
    keys: dict[str, list[Any]]
    """Field to the setting that holds it, and the value that counts where the file has none. Two settings,
    with a blank between them, must agree."""
    only: Values
    """Settings of its own that have one value only, which is written, too."""
    optional: tuple[str, ...] = ()
    """Fields that are left to `ModelConfig` by a file without their setting; any other setting without a
    value must be there."""
    windows: Literal["none", "all", "alternating", "late"] = "none"
    """Which layers have a window: none, all, every other one, or those after the first few."""
    gelu: str = "gelu"
    """What ``gelu`` means in its files."""
    whole_heads: bool = False
    """Whether transformers refuses a width that is no multiple of the number of heads."""


_TABLES: Values = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
_SETTINGS: dict[str, list[str]] = _TABLES["settings"]

# By their ``model_type``.
FAMILIES = {name: Family(**table) for name, table in _TABLES["families"].items()}

# Settings that change a model, with the one value that a family that does not read them can honour.
NEUTRAL: Values = _TABLES["neutral"] | dict.fromkeys(_SETTINGS["absent"])

# Settings that change no number of a trained model, and how the names of further ones begin.
INERT = {*_SETTINGS["inert"], *_SETTINGS["generation"]}
INERT_BEGINNINGS = tuple(_SETTINGS["inert_beginnings"])
