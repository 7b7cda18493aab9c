"""Conversion between Hugging Face's ``config.json`` and the fields of `myllm.config.ModelConfig`.

A family is a table of ``families.toml``: which setting of ``config.json`` holds which field, and what all its
models have in common. A setting that changes the model is either honoured or refused. An unknown setting
causes a warning if it is a plain value, and is refused if it is an object or a list.
"""

import tomllib
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

from myllm.checks import LARGEST, RANGES, check, setting, shown
from myllm.files import UserError

Values = dict[str, Any]

_TABLES: Values = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_SETTINGS: dict[str, list[str]] = _TABLES["settings"]
_INERT, _INERT_BEGINNINGS = {*_SETTINGS["inert"]}, tuple(_SETTINGS["inert_beginnings"])
_ORIGINAL, _LONGEST = "original_max_position_embeddings", "max_sequence_length"
_FULL, _SLIDING = "full_attention", "sliding_attention"

#: Settings that change a model, each with the only value accepted where a family does not read it.
NEUTRAL: Values = _TABLES["neutral"] | dict.fromkeys(_SETTINGS["absent"])


class UnknownSettingWarning(UserWarning):
    """A ``config.json`` has a setting that no known model has; it was ignored."""


class Family(NamedTuple):
    """How one family writes its configuration and names its tensors.

    Attributes:
        architecture: The class of the transformers library that loads such a model.
        fixed: Fields that have the same value in all models of the family.
        keys: For each field, the setting that holds it and, unless the setting is required, its default.
        only: Settings specific to the family, each with the only supported value.
        names: Parts of our tensor names, each with the part in the family's files where the two differ.
        same: Settings that must equal another one, each with that one.
        activations: Names of activation functions that have an unusual meaning in the family's files.
        windows: Which layers have a window: none, all, every other one, or all after the first few.
        whole_heads: Whether transformers refuses a width that is not a multiple of the number of heads.
    """

    architecture: str
    fixed: Values
    keys: dict[str, list[Any]]
    only: Values
    names: dict[str, str]
    same: dict[str, str]
    activations: dict[str, str]
    windows: Literal["none", "all", "alternating", "late"] = "none"
    whole_heads: bool = False


#: The families by their ``model_type``.
FAMILIES = {name: Family(**table) for name, table in _TABLES["families"].items()}


def find(name: Any) -> Family:
    """The family of a ``model_type``.

    Raises:
        UserError: The ``model_type`` is unknown.
    """
    if str(name) not in FAMILIES:
        raise UserError(f"The family {shown(name)} is not known; known are {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def from_hf(hf: Values) -> Values:
    """The fields of a `ModelConfig` that describe the same model as a Hugging Face ``config.json``.

    Args:
        hf: The parsed file.

    Raises:
        UserError: An unknown family, a missing setting, or one that `Transformer` does not have.
    """
    if not isinstance(hf, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError("This config.json holds no object, {…}; take the one that came with the weights.")
    family = find(hf.get("model_type"))
    if hf.get("quantization_config"):
        raise UserError("The weights are quantized (quantization_config); take the files of the full model.")
    hf = _flatten_rope(hf)
    _refuse_unread(hf, family)

    values: Values = {**family.fixed, "family": hf["model_type"]}
    for field, (key, *default) in family.keys.items():
        if key in _SETTINGS["nullable"] and hf.get(key, default) is None:
            values[field] = None
        else:
            values[field] = setting(hf, key, *default, bounds=RANGES.get(field))
    for other, key in family.same.items():
        if setting(hf, other, False) != setting(hf, key, False):
            raise UserError(f"{key} and {other} differ in this model; only equal ones are supported.")
    words = _activations(family)
    check(family.keys["activation"][0], values["activation"], *words)
    values["activation"] = words[values["activation"]]
    if scalar := values.get("attention_scale"):
        values["attention_scale"] = None if scalar == values["head_dim"] else scalar**-0.5
    if "rope_scaling" in values:
        values |= _read_rope(values["rope_scaling"], hf, values["block_size"])
    if "window" in values:
        values |= _read_window(hf, family, values["window"], values["n_layer"])
    return values


def to_hf(values: Values, name: str) -> Values:
    """The ``config.json`` of a model in a family's form; what the family cannot express is left out.

    Args:
        values: All fields of a `ModelConfig`.
        name: The family.
    """
    family, scale, every = find(name), values["attention_scale"], values["full_attention_every"]
    words = {ours: word for word, ours in _activations(family).items()}
    scalar = values["head_dim"] if scale is None else min(max(1, round(scale**-2)), LARGEST)
    values = {**values, "activation": words.get(values["activation"]), "attention_scale": scalar}

    hf: Values = {"architectures": [family.architecture], "model_type": name, **family.only}
    hf["pad_token_id"] = None  # the default of phi3 would lie outside a small vocabulary
    hf |= {key: values[field] for field, (key, *_) in family.keys.items()}
    hf |= {other: hf[key] for other, key in family.same.items()}
    if values["rope_scaling"] and "rope_scaling" in family.keys:
        hf |= _write_rope(values["rope_scaling"], values["block_size"])
    if family.windows == "late":
        hf["use_sliding_window"] = bool(values["window"])
    if family.windows in ("alternating", "late"):
        hf["layer_types"] = _layer_types(values["n_layer"], (every or 0) if values["window"] else 1)
    return hf


def _activations(family: Family) -> dict[str, str]:
    return _TABLES["activations"] | family.activations


def _refuse_unread(hf: Values, family: Family) -> None:
    """Refuse settings that could change the model and are not read; warn about unknown ones."""
    read = {key for key, *_ in family.keys.values()} | {*family.same}
    if family.windows in ("alternating", "late"):
        read.add("layer_types")
    neutral, model = NEUTRAL | family.only, f"the {hf['model_type']} model"
    for key, value in hf.items():
        if key in read or key in _INERT or key.startswith(_INERT_BEGINNINGS) or value is None:
            continue
        if key in neutral:
            only = neutral[key]
            if value != only or isinstance(value, bool) != isinstance(only, bool):
                raise UserError(f"{key} {shown(value)} of {model} is not supported; only {only!r} is.")
        elif isinstance(value, dict | list):
            if value:
                raise UserError(
                    f"The setting {key!r} of {model} is not known; delete it from config.json if the model "
                    "computes the same without it."
                )
        elif value is not False:
            message = f"The setting {key!r} of {model} is not known and not used: {shown(value)}."
            warnings.warn(message, UnknownSettingWarning, stacklevel=4)


def _layer_types(n_layer: int, every: int) -> list[str]:
    """The attention types of all layers: every n-th has no window; if `every` is 0, all have one."""
    return [_FULL if every and (i + 1) % every == 0 else _SLIDING for i in range(n_layer)]


def _read_window(hf: Values, family: Family, size: int | None, n_layer: int) -> Values:
    """The fields `window` and `full_attention_every`."""
    late = family.windows == "late"
    if not size or (late and not setting(hf, "use_sliding_window", False)):
        return {"window": None}
    first = setting(hf, "max_window_layers", 28, bounds=(0, LARGEST)) if late else 0
    usual = _layer_types(n_layer, 2 if family.windows == "alternating" else 0)
    usual[:first] = [_FULL] * min(first, n_layer)
    kinds = usual if family.windows == "all" else setting(hf, "layer_types", []) or usual
    every = kinds.index(_FULL) + 1 if _FULL in kinds else 0
    if kinds != _layer_types(n_layer, every):
        raise UserError("Only a window in all layers, or in all but every n-th, is supported.")
    return {"window": None} if every == 1 else {"window": size, "full_attention_every": every or None}


def _flatten_rope(hf: Values) -> Values:
    """Move ``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling`` to the top level.

    As in transformers 5, a ``rope_scaling`` that is not empty replaces ``rope_parameters``, and a setting
    inside takes precedence over the same one at the top level.

    Raises:
        UserError: A setting that must be an object is not one, or the kind of scaling is unknown.
    """
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(hf.get(key), dict | None):
            raise UserError(f"{key} must be an object or null, not {shown(hf[key])}; fix config.json.")
    rope: Values = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope = {key: value for key, value in rope.items() if value is not None}
    older = rope.pop("type", "default")
    kind = rope.pop("rope_type", older)
    outside = {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if str(kind) not in _TABLES["scalings"] and (rope or kind != "default"):
        known = ", ".join(_TABLES["scalings"])
        raise UserError(f"The rope_scaling {shown(kind)} is not supported; supported are {known}.")
    scaling = None if kind == "default" else {"kind": kind, **rope}
    return {**hf, **outside, "rope_parameters": None, "rope_scaling": scaling}


def _read_rope(rope: Values, hf: Values, context: int) -> Values:
    """The fields `rope_scaling` and `block_size`; `RopeScaling` checks the settings that are not used here.

    Args:
        rope: What `_flatten_rope` left as ``rope_scaling``.
        hf: The parsed file.
        context: Its ``max_position_embeddings``.
    """
    if not rope:
        return {"rope_scaling": None}
    scaling = {key: value for key, value in rope.items() if key != _ORIGINAL}
    check("factor", scaling.get("factor"), float, bounds=RANGES["factor"])
    original = setting(hf, _ORIGINAL, setting(rope, _ORIGINAL, context))
    if rope["kind"] == "dynamic":  # transformers takes max_position_embeddings, whatever else the file has
        original = context
    longest = _longest(context, original, rope["factor"])
    scaling["original_context"] = original
    return {"rope_scaling": scaling, "block_size": setting(hf, _LONGEST, longest)}


def _longest(context: int, original: int, factor: float) -> int:
    """The context length of a scaled model whose file does not state it."""
    return context if context > original else int(original * factor)


def _write_rope(scaling: Any, longest: int) -> Values:
    """The settings of scaled rotary frequencies.

    For ``linear`` and ``dynamic``, ``max_position_embeddings`` is the original context, on which dynamic
    frequencies depend. Where the model's context length does not follow from that, ``max_sequence_length``
    states it.

    Args:
        scaling: A `RopeScaling`.
        longest: The model's `block_size`.
    """
    kind, original = scaling.kind, scaling.original_context
    settings = {key: getattr(scaling, key) for key in ("factor", *_TABLES["scalings"][kind])}
    rope = {"rope_type": kind} | {key: value for key, value in settings.items() if value is not None}
    context = original
    if kind in ("llama3", "yarn"):
        rope[_ORIGINAL], context = original, longest
    hf = {"rope_scaling": rope, "max_position_embeddings": context}
    if _longest(context, original, scaling.factor) != longest:
        hf[_LONGEST] = longest
    return hf
