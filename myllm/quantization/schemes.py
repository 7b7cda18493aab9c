"""All quantization schemes behind one function, and the size of a model in bytes."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.quantization.layer import QuantizedEmbedding
from myllm.quantization.swap import replace_linears

#: For each scheme the module and the class of its layers; for gptq, a function that replaces them all.
SCHEMES = {
    "int8": ("int8", "Int8Linear"),
    "int8-dynamic": ("int8", "DynamicInt8Linear"),
    "int4": ("int4", "Int4Linear"),
    "nf4": ("nf4", "NF4Linear"),
    "gptq": ("gptq", "gptq_model"),
    "llm.int8": ("bnb", "LLMInt8"),
    "bnb-nf4": ("bnb", "BnbNF4"),
}
Match = Callable[[str, nn.Linear], bool] | None
Batches = Iterable[Tensor] | None


def quantize(
    model: Transformer,
    scheme: str,
    *,
    calibration: Batches = None,
    match: Match = None,
    head: str | None = None,
    **options: Any,
) -> Transformer:
    """Quantize the linear layers of a model in place: all of them or, after an error, none.

    Args:
        model: The model.
        scheme: A key of `SCHEMES`.
        calibration: Batches of ids (B, T), required by "gptq" and accepted by no other scheme.
        match: Called with a layer's name and the layer; by default all match but the head.
        head: The scheme of the head, such as "int8"; by default it stays as it is. A tied head continues
            to share its table with the embedding.
        options: The arguments of the scheme's layer, such as ``group``; those of `gptq` for "gptq".

    Returns:
        The same model.

    Raises:
        UserError: An unknown scheme, an option that it does not have or that does not fit the layers,
            calibration that is missing or has no effect, a layer that is quantized already, or no match.
    """
    if not isinstance(model, Transformer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"Only a Transformer can be quantized, not {type(model).__name__}; give llm.model.")
    make, lm_head = _maker(scheme), model.lm_head
    make_head = None if head is None else _maker(head)
    if make_head is not None:
        if head == "gptq" or type(lm_head) is not nn.Linear or (match and match("lm_head", lm_head)):
            raise UserError(f"The head cannot be quantized to {head}: take another scheme, or leave it out.")
        on_meta(make_head, lm_head, {})
    if scheme == "gptq":
        _check_options(import_module("myllm.quantization.gptq").gptq, options)
        if not (batches := [*(calibration or ())]):
            raise UserError('"gptq" measures the inputs of layers; give calibration=[ids, …], ids (B, T).')
        make(model, batches, match=match, **options)
        return _quantize_head(model, make_head)
    if calibration is not None:
        raise UserError(f'"{scheme}" uses no calibration; leave it out, or take "gptq".')

    def fits(name: str, linear: nn.Linear) -> bool:
        """Whether the layer matches; raises if it cannot be quantized, before any layer is replaced."""
        chosen = match(name, linear) if match else name != "lm_head"
        if chosen:
            on_meta(make, linear, options)
        return chosen

    replace_linears(model, lambda linear: make(linear, **options), fits)
    return _quantize_head(model, make_head)


def _maker(scheme: str) -> Callable[..., Any]:
    """The class of a scheme's layers, or the function that replaces all of them."""
    if scheme not in SCHEMES:
        raise UserError(f"There is no scheme {scheme!r}; take one of {', '.join(SCHEMES)}.")
    module, name = SCHEMES[scheme]
    return getattr(import_module(f"myllm.quantization.{module}"), name)


def _quantize_head(model: Transformer, make: Callable[..., Any] | None) -> Transformer:
    if make is not None:
        model.lm_head = make(model.lm_head)
        if model.config.tie_embeddings:
            share_table(model)
    return model


def share_table(model: Transformer) -> None:
    """Let the embedding look up its rows in the quantized head."""
    head: Any = model.lm_head
    model.set_submodule("embed_tokens", QuantizedEmbedding(head, model.embed_tokens.weight))


def _check_options(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise a `UserError` for an unknown option, or if only one of an option and its default is a bool."""
    parameters = inspect.signature(make).parameters.values()
    known = {one.name: one.default for one in parameters if one.default is not one.empty}
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{make.__name__} has no option {name!r}; it has {', '.join(known) or 'none'}.")
        if isinstance(known[name], bool) != isinstance(value, bool):
            raise UserError(f"The option {name} of {make.__name__} cannot be {value!r}.")


def on_meta(make: Callable[..., Any], linear: nn.Linear, options: Mapping[str, Any]) -> nn.Module:
    """A quantized version of a layer on the meta device; equal layers get the same object, so copy it.

    Raises:
        UserError: The layer has no such options, or they do not fit the weight.
    """
    _check_options(make, options)
    with_bias = linear.bias is not None  # pyright: ignore[reportUnnecessaryComparison]
    try:
        return _empty(
            make, linear.in_features, linear.out_features, with_bias, linear.weight.dtype, **options
        )
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{make.__name__} cannot be made with {options!r:.80}.") from error


@lru_cache(typed=True)
def _empty(
    make: Callable[..., Any], n_in: int, n_out: int, with_bias: bool, dtype: torch.dtype, **options: Any
) -> nn.Module:
    """The layer of `on_meta`, cached since a model has many layers but few sizes."""
    return make(nn.Linear(n_in, n_out, with_bias, "meta", dtype), **options)


def footprint(model: nn.Module) -> int:
    """The size of a model in bytes: everything in its state dict, tied weights counted once."""
    return sum({id(one): one.nbytes for one in model.state_dict(keep_vars=True).values()}.values())
