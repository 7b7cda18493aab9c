"""Mixed precision: measure the loss of each layer in each format, then spend bytes where they matter most."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from myllm.files import UserError
from myllm.quantization.layer import QuantizedLinear

Make = Callable[[nn.Linear], QuantizedLinear]


class Cost(NamedTuple):
    """One layer in one format: the bytes of its weight, and the loss that it adds to that of the model."""

    nbytes: int
    loss: float


@torch.no_grad()
def sensitivity(
    model: nn.Module, loss: Callable[[], float], choices: Mapping[str, Make], names: Iterable[str]
) -> dict[str, dict[str, Cost]]:
    """Swap one layer at a time, measure the loss, and put the layer back.

    Args:
        model: The model; afterwards it is what it was.
        loss: Computes the loss of the model on a text that is not the one to report on.
        choices: Formats by name, each of which makes a quantized layer: ``{"int4": Int4Linear, …}``.
        names: The layers to try.

    Returns:
        For each layer and each format its cost. "full" is the layer as it is, which adds no loss.
    """
    plain, found = loss(), dict[str, dict[str, Cost]]()
    for name in names:
        linear: Any = model.get_submodule(name)
        found[name] = {"full": Cost(linear.weight.nbytes, 0.0)}
        try:
            for choice, make in choices.items():
                layer = make(linear)
                model.set_submodule(name, layer)
                found[name][choice] = Cost(layer.nbytes, loss() - plain)
        finally:
            model.set_submodule(name, linear)
    return found


def allocate(table: Mapping[str, Mapping[str, Cost]], budget: int) -> dict[str, str]:
    """A format for each layer, so that all fit into a number of bytes at little loss.

    Greedy: begin with the format of least loss everywhere, and take the step to a smaller format that adds
    the least loss per byte saved, again and again until the budget is kept. That is optimal if the losses of
    layers add up, each layer's loss is a convex function of its bytes, and the last step ends exactly at the
    budget; otherwise it may save more than is needed. The sum of measured losses is itself an approximation:
    errors of several layers can add up to more or less.

    Args:
        table: The result of `sensitivity`, or one like it.
        budget: The most bytes for all these layers together.

    Raises:
        UserError: Not even the smallest formats fit.
    """
    smallest = sum(min(one.nbytes for one in row.values()) for row in table.values())
    if smallest > budget:
        raise UserError(f"These layers need at least {smallest:,} bytes; the budget is {budget:,}.")
    chosen = {name: min(row, key=lambda x: (row[x].loss, row[x].nbytes)) for name, row in table.items()}

    def steps() -> Iterable[tuple[float, str, str]]:
        for name, row in table.items():
            now = row[chosen[name]]
            for choice, one in row.items():
                if one.nbytes < now.nbytes:
                    yield (one.loss - now.loss) / (now.nbytes - one.nbytes), name, choice

    while sum(table[name][choice].nbytes for name, choice in chosen.items()) > budget:
        _, name, choice = min(steps())
        chosen[name] = choice
    return chosen
