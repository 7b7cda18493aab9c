"""Between the configuration files of Hugging Face and the fields of `myllm.config.ModelConfig`.

A family is a table (`myllm.family_tables`): which setting of ``config.json`` holds which field, what all its
models have in common, and which settings must have the one value that the `Transformer` knows. Nothing is
passed over in silence: a setting that no table names is an error.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from myllm.family_tables import FAMILIES, TANH, Family, Values
from myllm.files import UserError

_WINDOW_KEYS = {
    "alternating": {"layer_types"},
    "late": {"layer_types", "use_sliding_window", "max_window_layers"},
}
_NULLABLE = {"attn_logit_softcapping", "final_logit_softcapping", "sliding_window"}
_INERT = (  # settings that change no number of a trained model
    "architectures attention_dropout attn_pdrop auto_map bos_token_id cache_implementation dtype embd_pdrop"
    " eos_token_id is_llama_config model_type n_ctx original_max_position_embeddings pad_token_id"
    " id2label label2id pretraining_tp reorder_and_upcast_attn resid_pdrop return_dict"
    " task_specific_params torch_dtype use_cache"
)
_INERT_BEGINNINGS = ("_", "summary_", "transformers", "unsloth_")
_MOST_LAYERS = 10_000
_ACTIVATIONS = {"gelu_new": "gelu_tanh", TANH: "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}
_WRITTEN = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
_SCALINGS = {  # the fields that a scaling has in a file
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor"),
}
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
}
_WHOLE = {"llama", "gemma2"}  # whose files are refused unless the number of heads divides the width
_FULL, _SLIDING = "full_attention", "sliding_attention"


def from_hf(hf: Values) -> Values:
    """The fields of a `ModelConfig` that describe the same model as a Hugging Face ``config.json``.

    Args:
        hf: The parsed file.

    Raises:
        UserError: An unknown family, a missing setting, or one that `Transformer` does not have.
    """
    if not isinstance(hf, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError("This config.json holds no object, {…}; take the one that came with the weights.")
    name = str(hf.get("model_type"))
    if name not in FAMILIES:
        raise UserError(f"The family {name!r} is not known; known are {', '.join(FAMILIES)}.")
    if hf.get("quantization_config"):
        raise UserError("The weights are quantized (quantization_config); take the files of the full model.")
    family, hf = FAMILIES[name], {**hf, **_flat_rope(hf)}
    _refuse_unknown(hf, name, family)
    values = {field: _read(hf, key, default) for field, (key, default) in family.keys.items()} | family.fixed
    if not 0 < values["n_layer"] <= _MOST_LAYERS:
        raise UserError(f"A model has 1 to {_MOST_LAYERS:,} layers, not {values['n_layer']:,}.")
    if name == "gemma" and values["activation"] == "gelu":  # its files say gelu where tanh is meant
        values["activation"] = TANH
    if values["activation"] not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"The activation {values['activation']!r} is not known; known are {known}.")
    values["activation"] = _ACTIVATIONS[values["activation"]]
    if scaling := values.get("rope_scaling"):
        values |= _scaling(scaling, values["block_size"])
    if scalar := values.get("attention_scale"):
        values["attention_scale"] = None if scalar == values["head_dim"] else scalar**-0.5
    return values | _read_window(hf, family, values.get("window"), values["n_layer"])


def to_hf(values: Values, read: Callable[[Values], Values]) -> Values:
    """The ``config.json`` of the first family that describes the same model when it is read again.

    Args:
        values: All fields of a `ModelConfig`, as ``asdict`` gives them.
        read: Makes all fields of a parsed file, or raises UserError.

    Raises:
        UserError: No family can; the message names what the nearest one lacks.
    """
    lacking: dict[str, list[str]] = {}
    for hf in candidates(values):
        with suppress(UserError):  # where a family cannot say it at all
            found = read(hf)
            if found == values:
                return hf
            lacking[hf["model_type"]] = [name for name in values if found[name] != values[name]]
    nearest = min(lacking, key=lambda family: len(lacking[family]), default=None)
    why = f"; {nearest} cannot express its {', '.join(lacking[nearest])}" if nearest else ""
    raise UserError(f"No family of Hugging Face describes this model{why}.")


def candidates(values: Values) -> Iterator[Values]:
    """What each family would write for the fields of a model, whether or not it can express them all.

    Args:
        values: All fields of a `ModelConfig`, as ``asdict`` gives them.
    """
    scale, scaling = values["attention_scale"], values["rope_scaling"]
    values = {**values, "activation": _WRITTEN[values["activation"]]}
    values["attention_scale"] = values["head_dim"] if scale is None else round(scale**-2)
    if scaling is not None:
        kept = {_renamed(field): scaling[field] for field in _SCALINGS[scaling["kind"]]}
        values["rope_scaling"] = {"rope_type": scaling["kind"], **kept}
        if scaling["kind"] in ("linear", "dynamic"):
            values["block_size"] = scaling["original_context"]
    for name, family in FAMILIES.items():
        if name in _WHOLE and values["n_embd"] % values["n_head"]:
            continue
        hf: Values = {"architectures": [family.architecture], "model_type": name, **family.only}
        for field, (key, _) in family.keys.items():
            hf |= dict.fromkeys(key.split(), values[field])
        yield hf | _write_window(values, family)


def _read(hf: Values, key: str, default: Any) -> Any:
    """One setting, of the type that its default has; without a default, a whole number."""
    key, *others = key.split()
    value: Any = hf.get(key, default)
    for other in others:
        if hf.get(other, default) != value:
            raise UserError(f"{key} and {other} differ in this model; only equal ones are supported.")
    if value is None and key not in _NULLABLE:
        value = default
    if value is ...:
        raise UserError(f"The configuration lacks {key!r}; take the config.json that came with the weights.")
    kind = "dict" if key == "rope_scaling" else "int" if default in (None, ...) else type(default).__name__
    mine = type(value).__name__
    fits = mine == kind or (mine == "int" and kind == "float")
    if value is None or (fits and not (mine in ("int", "float") and value < 0)):
        return value
    raise UserError(f"{key} must be {_NAMES[kind]}, not {value!r}; mend config.json.")


def _refuse_unknown(hf: Values, name: str, family: Family) -> None:
    """Nothing that could change the model's numbers may go unread."""
    for key, value in family.only.items():
        if hf.get(key) not in (None, value):
            raise UserError(f"A {name} model with {key} {hf[key]!r} is not supported; only {value!r} is.")
    known = {part for key, _ in family.keys.values() for part in key.split()}
    known |= {*_INERT.split(), *family.only, *_WINDOW_KEYS.get(family.windows, ())}
    for key, value in hf.items():
        if key not in known and not key.startswith(_INERT_BEGINNINGS) and value not in (None, False, {}, []):
            raise UserError(
                f"The setting {key!r} of this {name} model is not known; delete it from config.json if the "
                "model computes the same without it."
            )


def _renamed(field: str) -> str:
    return "original_max_position_embeddings" if field == "original_context" else field


def _flat_rope(hf: Values) -> Values:
    """The settings of RoPE as older files have them, from ``rope_parameters`` or ``rope_scaling``.

    Returns:
        ``rope_theta`` and ``partial_rotary_factor`` where the file has them inside, and ``rope_scaling``:
        None, or the rest with its type under ``kind``.
    """
    rope: Any = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"rope_scaling must be an object, not {rope!r}; mend config.json.")
    rest: Values = {**rope}
    flat = {key: rest.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rest}
    older = rest.pop("type", None)
    kind = str(rest.pop("rope_type", None) or older or "default")
    if kind not in _SCALINGS and (rest or kind != "default"):
        raise UserError(f"The rope_scaling {kind!r} is not supported; supported are {', '.join(_SCALINGS)}.")
    scaling = None if kind == "default" else {"kind": kind, **rest}
    return {**flat, "rope_parameters": None, "rope_scaling": scaling}


def _scaling(rope: Values, longest: int) -> Values:
    """The scaling of the rotary frequencies, and how long the texts may be that it makes possible."""
    kind = rope.pop("kind")
    names = {_renamed(field): field for field in _SCALINGS[kind]}
    values = {"original_context": longest}
    for key, value in rope.items():
        if key not in names:
            raise UserError(f"The setting {key!r} of rope_scaling {kind!r} is not supported.")
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise UserError(f"{key} of rope_scaling must be a number, not {value!r}; mend config.json.")
        if value is not None:
            values[names[key]] = value
    if "factor" not in values:
        raise UserError("The configuration lacks the factor of rope_scaling; mend config.json.")
    original = values["original_context"]
    longest = longest if longest > original else int(original * values["factor"])
    return {"rope_scaling": {"kind": kind, **values}, "block_size": longest}


def _layer_types(n_layer: int, every: int) -> list[str]:
    """All layers with a window, but every n-th, or but none for 0."""
    return [_FULL if every and (i + 1) % every == 0 else _SLIDING for i in range(n_layer)]


def _read_window(hf: Values, family: Family, size: int | None, n_layer: int) -> Values:
    """The window, and every how many layers there is none."""
    if size is None or (family.windows == "late" and not hf.get("use_sliding_window")):
        return {"window": None}
    first = _read(hf, "max_window_layers", 28) if family.windows == "late" else 0
    kinds = _layer_types(n_layer, 2 if family.windows == "alternating" else 0)
    kinds = _read(hf, "layer_types", []) or [_FULL] * min(first, n_layer) + kinds[first:]
    for every in (0, 1, kinds.index(_FULL) + 1 if _FULL in kinds else 0):
        if kinds == _layer_types(n_layer, every):
            return {"window": None} if every == 1 else {"window": size, "full_attention_every": every or None}
    raise UserError("Only a window in all layers, or in all but every n-th, is supported.")


def _write_window(values: Values, family: Family) -> Values:
    """What a file says of windows beyond their size."""
    late = family.windows == "late"
    if family.windows not in _WINDOW_KEYS or (late and not values["window"]):
        return {}
    every = (values["full_attention_every"] or 0) if values["window"] else 1
    use = {"use_sliding_window": True} if late else {}
    return {**use, "layer_types": _layer_types(values["n_layer"], every)}
