"""Mixed precision: measure the loss of each layer in each format, then spend bytes where they matter most."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from myllm.files import UserError
from myllm.quantization.layer import QuantizedLinear
from myllm.quantization.schemes import Match

Make = Callable[[nn.Linear], QuantizedLinear]


class Cost(NamedTuple):
    """One layer in one format: the bytes of its weight, and the loss that it adds to that of the model."""

    nbytes: int
    loss: float


@torch.no_grad()
def sensitivity(
    model: nn.Module, loss: Callable[[nn.Module], float], choices: Mapping[str, Make], match: Match = None
) -> dict[str, dict[str, Cost]]:
    """Swap one layer at a time, measure the loss, and put the layer back.

    Args:
        model: The model; afterwards it is as it was before.
        loss: Returns the loss of the model on a text, which should not be the one used for evaluation.
        choices: Formats by name, each a function that makes a quantized layer: ``{"int4": Int4Linear, …}``.
        match: Called with a layer's name and the layer; by default all match but the head.

    Returns:
        The cost of each layer in each format. "full" is the layer as it is, which adds no loss.
    """
    plain, found = loss(model), dict[str, dict[str, Cost]]()
    layers: list[tuple[str, nn.Module]] = [*model.named_modules()]
    for name, layer in layers:
        if type(layer) is nn.Linear and (match(name, layer) if match else name != "lm_head"):
            found[name] = {"full": Cost(layer.weight.nbytes, 0.0)}
            for choice, make in choices.items():
                model.set_submodule(name, swapped := make(layer))
                try:
                    found[name][choice] = Cost(swapped.nbytes, loss(model) - plain)
                finally:
                    model.set_submodule(name, layer)
    return found


def allocate(table: Mapping[str, Mapping[str, Cost]], budget: int) -> dict[str, str]:
    """Choose a format for each layer, so that all fit into a byte budget at little loss.

    Greedy: start with the format of least loss everywhere, then repeatedly take the step to a smaller format
    that adds the least loss per byte saved, until the budget is met. This is optimal if the losses of layers
    add up, each layer's loss is a convex function of its bytes, and the last step ends exactly at the budget;
    otherwise it may save more than is needed. The sum of measured losses is itself an approximation: errors
    of several layers can add up to more or less.

    Args:
        table: The result of `sensitivity`, or one like it.
        budget: The most bytes for all these layers together.

    Raises:
        UserError: Not even the smallest formats fit.
    """
    chosen = {name: min(row, key=lambda x: (row[x].loss, row[x].nbytes)) for name, row in table.items()}
    while (size := sum(table[name][choice].nbytes for name, choice in chosen.items())) > budget:
        steps: list[tuple[float, str, str]] = []
        for name, row in table.items():
            now = row[chosen[name]]
            smaller = [(choice, one) for choice, one in row.items() if one.nbytes < now.nbytes]
            steps += [((x.loss - now.loss) / (now.nbytes - x.nbytes), name, choice) for choice, x in smaller]
        if not steps:
            raise UserError(f"These layers need at least {size:,} bytes; the budget is {budget:,}.")
        _, name, choice = min(steps)
        chosen[name] = choice
    return chosen
