"""Between the configuration files of Hugging Face and the fields of `myllm.config.ModelConfig`.

A family is a table (`myllm.family_tables`): which setting of ``config.json`` holds which field, and what all
its models have in common. A setting that changes the model is honoured or refused; an unknown one brings a
warning if it is a plain value, and is refused if it is an object or a list.
"""

import warnings
from typing import Any

from myllm import family_rope
from myllm.checks import LARGEST, setting, shown
from myllm.family_tables import FAMILIES, INERT, INERT_BEGINNINGS, NEUTRAL, Family, Values
from myllm.files import UserError

_FULL, _SLIDING = "full_attention", "sliding_attention"
_NULLABLE = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}


class UnknownSettingWarning(UserWarning):
    """A ``config.json`` has a setting that no known model has; it was not used."""


def from_hf(hf: Values) -> Values:
    """The fields of a `ModelConfig` that describe the same model as a Hugging Face ``config.json``.

    Args:
        hf: The parsed file.

    Raises:
        UserError: An unknown family, a missing setting, or one that `Transformer` does not have.
    """
    if not isinstance(hf, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError("This config.json holds no object, {…}; take the one that came with the weights.")
    name = hf.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"The family {shown(name)} is not known; known are {', '.join(FAMILIES)}.")
    if hf.get("quantization_config"):
        raise UserError("The weights are quantized (quantization_config); take the files of the full model.")
    family = FAMILIES[name]
    hf = family_rope.flatten(hf)
    _refuse_unread(hf, name, family)

    values: Values = family.fixed | {"family": name}
    for field, (settings, *default) in family.keys.items():
        missing = None if field in family.optional else ...
        values[field] = _read(hf, settings, default[0] if default else missing)
    values["activation"] = _activation(values["activation"], family)
    if "rope_scaling" in values:
        values |= family_rope.read(values["rope_scaling"], hf, values["block_size"])
    if scalar := values.get("attention_scale"):
        values["attention_scale"] = None if scalar == values["head_dim"] else scalar**-0.5
    if "window" in values:
        values |= _read_window(hf, family, values["window"], values["n_layer"])
    return values


def to_hf(values: Values, usual: Values) -> Values:
    """The ``config.json`` of the model's family, or of the first that can express it where it has none.

    Args:
        values: All fields of a `ModelConfig`, as ``asdict`` gives them.
        usual: What they would be if only the sizes had been given.

    Raises:
        UserError: No family can; the message names what the nearest one lacks.
    """
    names = [values["family"]] if values["family"] else [*FAMILIES]
    lacks = {name: lacking(values, usual, name) for name in names}
    nearest = min(names, key=lambda name: len(lacks[name]))
    if lacks[nearest]:
        raise UserError(
            f"No family of Hugging Face describes this model; {nearest} cannot express its "
            f"{', '.join(lacks[nearest])}."
        )
    return _write(values, nearest)


def lacking(values: Values, usual: Values, name: str) -> list[str]:
    """The fields of a model that the ``config.json`` of a family cannot express.

    Args:
        values: All fields of a `ModelConfig`.
        usual: What they would be if only the sizes had been given.
        name: The family.

    Raises:
        UserError: An unknown family.
    """
    if name not in FAMILIES:
        raise UserError(f"The family {name!r} is not known; known are {', '.join(FAMILIES)}.")
    family = FAMILIES[name]
    implied = usual | family.fixed
    lacks = [field for field in implied if field not in family.keys and values[field] != implied[field]]
    every = values["full_attention_every"]
    if every and every <= values["n_layer"] and family.windows in ("alternating", "late"):
        lacks.remove("full_attention_every")  # by layer_types
    if family.whole_heads and values["n_embd"] % values["n_head"]:
        lacks.append("n_head")
    if values["activation"] == "gelu" and family.gelu != "gelu":
        lacks.append("activation")
    scale = values["attention_scale"]
    if "attention_scale" in family.keys and scale is not None:
        scalar = _scalar(scale)
        if scalar == values["head_dim"] or scalar > LARGEST or scalar**-0.5 != scale:
            lacks.append("attention_scale")
    return lacks


def _scalar(scale: float) -> int:
    """Gemma 2 writes ``1 / scale ** 2``."""
    return max(1, round(scale**-2))


def _activation(word: str, family: Family) -> str:
    word = family.gelu if word == "gelu" else word
    if word not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"The activation {shown(word)} is not known; known are {known}.")
    return _ACTIVATIONS[word]


def _read(hf: Values, names: str, default: Any) -> Any:
    """The value of a setting, or of several that must agree."""
    first, *others = names.split()
    if first in _NULLABLE and hf.get(first, default) is None:
        return None
    value = setting(hf, first, default)
    for other in others:
        if setting(hf, other, default) != value:
            raise UserError(f"{first} and {other} differ in this model; only equal ones are supported.")
    return value


def _refuse_unread(hf: Values, name: str, family: Family) -> None:
    """Nothing that could change the model may go unread."""
    neutral = NEUTRAL | family.only
    read = {key for settings, *_ in family.keys.values() for key in settings.split()}
    if family.windows in ("alternating", "late"):
        read.add("layer_types")
    for key, value in hf.items():
        if key in read or key in INERT or key.startswith(INERT_BEGINNINGS) or value is None:
            continue
        model = f"the {name} model"
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
    """All layers with a window, but every n-th, or but none for 0."""
    return [_FULL if every and (i + 1) % every == 0 else _SLIDING for i in range(n_layer)]


def _read_window(hf: Values, family: Family, size: int | None, n_layer: int) -> Values:
    """The window, and every how many layers there is none."""
    late = family.windows == "late"
    if size is None or (late and not setting(hf, "use_sliding_window", False)):
        return {"window": None}
    kinds: list[Any] = [] if family.windows == "all" else setting(hf, "layer_types", [])
    first = setting(hf, "max_window_layers", 28, least=0) if late else 0
    if kinds:
        every = kinds.index(_FULL) + 1 if _FULL in kinds else 0
        regular = len(kinds) == n_layer and kinds == _layer_types(n_layer, every)
    else:
        every = 1 if first else 2 if family.windows == "alternating" else 0
        regular = first == 0 or first >= n_layer
    if not regular:
        raise UserError("Only a window in all layers, or in all but every n-th, is supported.")
    if every == 1:
        return {"window": None}
    return {"window": size, "full_attention_every": every if 0 < every <= n_layer else None}


def _write(values: Values, name: str) -> Values:
    """The file of a family that can express the model."""
    family = FAMILIES[name]
    words = {ours: word for word, ours in _ACTIVATIONS.items()}
    values = {**values, "activation": words[values["activation"]]}
    scale = values["attention_scale"]
    values["attention_scale"] = values["head_dim"] if scale is None else _scalar(scale)

    hf: Values = {"architectures": [family.architecture], "model_type": name, **family.only}
    hf["pad_token_id"] = None  # the default of phi3 lies beyond a small vocabulary
    for field, (settings, *_) in family.keys.items():
        hf |= dict.fromkeys(settings.split(), values[field])
    if values["rope_scaling"]:
        hf |= family_rope.write(values)
    window = values["window"]
    if family.windows == "late" and window:
        hf["use_sliding_window"] = True
    if family.windows == "alternating" or (family.windows == "late" and window):
        every = values["full_attention_every"] or 0
        hf["layer_types"] = _layer_types(values["n_layer"], every if window else 1)
    return hf
