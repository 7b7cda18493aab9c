"""Linear layers are swapped, not subclassed: one function puts quantized layers into any model."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from myllm.files import UserError


def replace_linears(
    model: nn.Module,
    make: Callable[[nn.Linear], nn.Module],
    match: Callable[[str, nn.Linear], bool] | None = None,
) -> list[str]:
    """Replace linear layers of a model, in place.

    A head that shares the embedding's table is left alone unless it matches. Then it is untied: the
    table stays as it is, the head gets a copy of its own, and a warning says so.

    Args:
        model: Any module that contains `torch.nn.Linear`.
        make: Called with each matching layer; the module it returns takes the layer's place.
        match: Called with a layer's name and the layer; by default all match but ``lm_head``.

    Returns:
        The names of the replaced layers.

    Raises:
        UserError: Nothing matched.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    modules: list[tuple[str, nn.Module]] = [*model.named_modules(remove_duplicate=False)]
    linears = [(name, module) for name, module in modules if name and type(module) is nn.Linear]
    match = match or (lambda name, linear: name.rpartition(".")[2] != "lm_head")
    chosen = [(name, linear) for name, linear in linears if match(name, linear)]
    if not chosen:
        raise UserError(f"No linear layer matches; the model has {len(linears)} of them.")
    for name, linear in chosen:
        if id(linear.weight) in tables:
            warnings.warn(f"{name} shared the embedding's table; it now has a copy of its own.", stacklevel=2)
            linear.weight = nn.Parameter(linear.weight.detach().clone(), linear.weight.requires_grad)
            owner: Any = model.get_submodule(name.rpartition(".")[0])
            if hasattr(getattr(owner, "config", None), "tie_embeddings"):
                owner.config = owner.config.replace(tie_embeddings=False)
    made = {linear: make(linear) for linear in dict.fromkeys(linear for _, linear in chosen)}
    for name, linear in chosen:  # only now: where a layer cannot be made, the model keeps all of its own
        model.set_submodule(name, made[linear])
    return [name for name, _ in chosen]
