"""Rotary frequencies in the configuration files of Hugging Face."""

from myllm.checks import setting, shown
from myllm.family_tables import Values
from myllm.files import UserError

_ORIGINAL = "original_max_position_embeddings"
_LONGEST = "max_sequence_length"
_SCALINGS = ("linear", "dynamic", "llama3", "yarn")
_SCALING_KEYS = {  # the settings of a kind besides factor and original context
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "attention_factor"),
}


def flatten(hf: Values) -> Values:
    """A file with ``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling`` at its top level.

    As in transformers 5, a ``rope_scaling`` that is not empty replaces ``rope_parameters``, and a setting
    inside takes precedence over the same one at the top level.

    Args:
        hf: The parsed file.

    Raises:
        UserError: No object where one is read, or an unknown kind of scaling.
    """
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(hf.get(key), dict | None):
            raise UserError(f"{key} must be an object or null, not {shown(hf[key])}; fix config.json.")
    rope: Values = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope = {key: value for key, value in rope.items() if value is not None}
    older = rope.pop("type", "default")
    kind = rope.pop("rope_type", older)
    outside = {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if kind not in _SCALINGS and (rope or kind != "default"):
        known = ", ".join(_SCALINGS)
        raise UserError(f"The rope_scaling {shown(kind)} is not supported; supported are {known}.")
    scaling = None if kind == "default" else {"kind": kind, **rope}
    return {**hf, **outside, "rope_parameters": None, "rope_scaling": scaling}


def read(rope: Values, hf: Values, context: int) -> Values:
    """The fields `rope_scaling` and `block_size` of a `ModelConfig`.

    Args:
        rope: What `flatten` left as ``rope_scaling``.
        hf: The parsed file.
        context: Its ``max_position_embeddings``.

    Raises:
        UserError: A setting that is missing, out of range or unknown.
    """
    if not rope:
        return {"rope_scaling": None}
    if hf.get(_ORIGINAL) is not None:
        rope = {**rope, _ORIGINAL: hf[_ORIGINAL]}
    if rope["kind"] == "dynamic":  # transformers takes max_position_embeddings, whatever else the file has
        rope = {**rope, _ORIGINAL: context}
    keys = _SCALING_KEYS.get(rope["kind"], ())
    for key in rope.keys() - {"kind", "factor", _ORIGINAL, *keys}:
        raise UserError(f"The setting {key!r} of rope_scaling {rope['kind']!r} is not supported.")
    factor = setting(rope, "factor", ..., kind=float)
    original = setting(rope, _ORIGINAL, context)
    scaling = {key: setting(rope, key, ..., kind=float) for key in keys if key in rope}
    scaling |= {"kind": rope["kind"], "factor": factor, "original_context": original}
    longest = _longest(context, original, factor)
    return {"rope_scaling": scaling, "block_size": setting(hf, _LONGEST, longest)}


def _longest(context: int, original: int, factor: float) -> int:
    """The longest text of a scaled model whose file does not say."""
    return context if context > original else int(original * factor)


def write(values: Values) -> Values:
    """The settings of scaled rotary frequencies.

    A ``linear`` or ``dynamic`` model has its original context as ``max_position_embeddings``, for dynamic
    frequencies depend on it. Where the longest text does not follow, ``max_sequence_length`` holds it.

    Args:
        values: All fields of a `ModelConfig`.
    """
    scaling, longest = values["rope_scaling"], values["block_size"]
    kind, original = scaling["kind"], scaling["original_context"]
    rope = {"rope_type": kind, "factor": scaling["factor"]}
    rope |= {key: scaling[key] for key in _SCALING_KEYS.get(kind, ()) if scaling[key] is not None}
    context = original
    if kind in ("llama3", "yarn"):
        rope[_ORIGINAL], context = original, longest
    hf = {"rope_scaling": rope, "max_position_embeddings": context}
    if _longest(context, original, scaling["factor"]) != longest:
        hf[_LONGEST] = longest
    return hf
