"""LoRA: train two thin matrices beside each frozen weight instead of the weight itself (Hu et al., 2021).

A layer with weight W (N, K) computes ``x Wᵀ + scale · x Aᵀ Bᵀ`` with A (r, K) and B (N, r). B starts at 0, so
that the model starts out equal to its base. On layers quantized to NF4 this is QLoRA (Dettmers et al., 2023).
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.files import UserError
from myllm.quantization.layer import QuantizedLinear

Linear = nn.Linear | QuantizedLinear


class Adapter(nn.Module):
    """The trainable part of an adapted layer.

    Args:
        base: The layer to adapt.
        r: The rank of the change.
        alpha: The change is scaled by ``alpha / r``.
        rslora: Scale by ``alpha / sqrt(r)`` instead, which keeps the size of the change independent of r
            (Kalajdzievski, 2023).
        dora: Train the norm of each row of the weight separately from its direction (Liu et al., 2024).
        dropout: The probability that an input of A is set to 0 in training.
    """

    def __init__(
        self, base: Linear, r: int, alpha: float, *, rslora: bool, dora: bool, dropout: float
    ) -> None:
        super().__init__()
        weight = weight_of(base)  # (N, K)
        made: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        self.A = nn.Parameter(torch.empty(r, weight.shape[1], **made))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], r, **made))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # uniform on ±1 / sqrt(K), as in the paper's code
        self.alpha, self.rslora = alpha, rslora
        self.scale = alpha / (math.sqrt(r) if rslora else r)
        self.dropout = nn.Dropout(dropout)
        self.magnitude = nn.Parameter(_lengths(weight)) if dora else None  # (N,)

    def delta(self) -> Tensor:
        """The change to the weight, (N, K): ``scale · B A``."""
        return self.scale * (self.B @ self.A)

    def forward(self, x: Tensor, y: Tensor, base: Linear) -> Tensor:
        """The adapted output (R, N).

        Args:
            x: (R, K), the input of the layer.
            y: (R, N), the output of its base; without DoRA it is overwritten.
            base: The base, whose weight DoRA needs.
        """
        low = F.linear(self.dropout(x), self.A)  # (R, r)
        if self.magnitude is None:  # one kernel multiplies, scales and adds
            return y.addmm_(low.to(y), self.B.t().to(y), alpha=self.scale)
        change = self.scale * F.linear(low, self.B)
        bias, factor = base.bias, self.rescale(base)[:, 0]
        plain = y if bias is None else y - bias  # pyright: ignore[reportUnnecessaryComparison]
        return y + (factor - 1) * plain + factor * change  # exactly y while the factor is 1 and B is 0

    def rescale(self, base: Linear) -> Tensor:
        """DoRA's factor for each row (N, 1); the row norm in it is treated as a constant (section 4.3)."""
        assert self.magnitude is not None
        with torch.no_grad():
            lengths = _lengths(weight_of(base) + self.delta())
        return (self.magnitude / lengths)[:, None]

    def merged(self, base: Linear) -> Tensor:
        """The weight (N, K) of a plain layer that computes the same."""
        weight = weight_of(base) + self.delta()
        return weight if self.magnitude is None else self.rescale(base) * weight


class LoRALinear(nn.Module):
    """A frozen linear layer, quantized or not, with named adapters, at most one of which is active.

    Args:
        base: The layer; it is frozen.
    """

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.base: Linear = base.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.active: str | None = None

    @property
    def adapter(self) -> Adapter | None:
        """The active adapter."""
        return None if self.active is None else self.adapters[self.active]  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N)."""
        rows = x.reshape(-1, x.shape[-1])
        y = self.base(rows)
        y = y if self.adapter is None else self.adapter(rows, y, self.base)
        return y.view(*x.shape[:-1], y.shape[-1])


def weight_of(base: Linear) -> Tensor:
    """The weight (N, K) of a linear layer, dequantized if it is quantized."""
    if isinstance(base, QuantizedLinear):
        return base.dequantize(base.weight_dtype)
    return base.weight.detach()


def _lengths(weight: Tensor) -> Tensor:
    """The Euclidean norm of each row (N,)."""
    return weight.square().sum(dim=1).sqrt()


def apply_lora(
    model: nn.Module,
    r: int = 8,
    *,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    name: str = "default",
    rslora: bool = False,
    dora: bool = False,
    dropout: float = 0.0,
) -> list[str]:
    """Freeze a model and add a trainable adapter to its linear layers, in place.

    Call it before creating the optimizer, which trains only what requires a gradient. A second call with
    another name adds another adapter to the same base.

    Args:
        model: Any module that contains linear layers, `torch.nn.Linear` or `QuantizedLinear`.
        r: The rank.
        alpha: See `Adapter`; by default 2 r.
        targets: The endings of the layers' names, such as ``["q_proj", "v_proj"]``; by default all linear
            layers but the head.
        name: The adapter's name.
        rslora: See `Adapter`.
        dora: See `Adapter`.
        dropout: See `Adapter`.

    Returns:
        The names of the adapted layers.

    Raises:
        UserError: A rank or a dropout out of range, an invalid name or one that is taken, a target that
            matches no layer, or a tied head.
    """
    if r < 1 or not 0 <= dropout < 1:
        raise UserError(f"The rank is at least 1 and dropout in 0 … 1, not {r} and {dropout}.")
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise UserError(f"An adapter cannot be called {name!r}; choose a plain name without a dot.")
    layers = {path: layer for path, layer in linears(model) if _matches(path, targets)}
    for target in targets or ():
        if not any(_matches(path, [target]) for path in layers):
            known = sorted({path.rpartition(".")[2] for path, _ in linears(model)})
            raise UserError(f"No linear layer is called {target}; the model has {', '.join(known)}.")
    if not layers:
        raise UserError("The model has no linear layer to adapt.")
    check_rank(layers.values(), r)
    tables = {id(one.weight) for one in model.modules() if isinstance(one, nn.Embedding)}
    for path, layer in layers.items():
        if id(getattr(layer, "weight", None)) in tables:
            raise UserError(f"{path} shares its weight with the embedding; leave it out of the targets.")
        if isinstance(layer, LoRALinear) and name in layer.adapters:
            raise UserError(f"There is an adapter {name!r} already; choose another name.")
    model.requires_grad_(False)
    for path, layer in layers.items():
        parent, _, attribute = path.rpartition(".")
        wrapped = layer if isinstance(layer, LoRALinear) else LoRALinear(layer)
        scale = 2 * r if alpha is None else alpha
        wrapped.adapters[name] = Adapter(wrapped.base, r, scale, rslora=rslora, dora=dora, dropout=dropout)
        setattr(model.get_submodule(parent), attribute, wrapped)
    set_adapter(model, name)
    return [*layers]


def check_rank(layers: Iterable[nn.Module], r: int) -> None:
    """Refuse a rank above that of any layer: the adapters would be larger than what they adapt.

    Raises:
        UserError: The rank is more than the largest that a layer can have.
    """
    plain: list[Any] = [getattr(layer, "base", layer) for layer in layers]
    most = max(min(layer.in_features, layer.out_features) for layer in plain)
    if r > most:
        raise UserError(f"A rank of {r} is more than any layer has; take at most {most}.")


def linears(model: nn.Module) -> Iterator[tuple[str, Linear | LoRALinear]]:
    """The linear layers with their names; an adapted layer counts as one."""
    inside = {f"{path}.base" for path, _ in lora_layers(model)}
    modules: list[tuple[str, nn.Module]] = [*model.named_modules()]
    for path, module in modules:
        if isinstance(module, Linear | LoRALinear) and path not in inside:
            yield path, module


def _matches(path: str, targets: Iterable[str] | None) -> bool:
    last = path.rpartition(".")[2]
    return last != "lm_head" if targets is None else any(f".{path}".endswith(f".{one}") for one in targets)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted layers with their names."""
    modules: list[tuple[str, nn.Module]] = [*model.named_modules()]
    yield from ((path, module) for path, module in modules if isinstance(module, LoRALinear))


def set_adapter(model: nn.Module, name: str | None) -> None:
    """Activate an adapter, the only one that is then trained; None turns the model back into its base.

    Raises:
        UserError: No layer has such an adapter.
    """
    layers = [layer for _, layer in lora_layers(model)]
    if name is not None and not any(name in layer.adapters for layer in layers):
        known = ", ".join(sorted({one for layer in layers for one in layer.adapters})) or "none"
        raise UserError(f"There is no adapter {name!r}; the model has: {known}.")
    for layer in layers:
        layer.active = name if name is not None and name in layer.adapters else None
        for one, adapter in layer.adapters.items():
            adapter.requires_grad_(one == name)


@contextmanager
def adapters_disabled(model: nn.Module) -> Generator[nn.Module]:
    """The base model within the block, so that the reference policy of DPO and PPO takes no extra memory."""
    active = {layer: layer.active for _, layer in lora_layers(model)}
    for layer in active:
        layer.active = None
    try:
        yield model
    finally:
        for layer, name in active.items():
            layer.active = name


@torch.no_grad()
def merge(model: nn.Module) -> list[str]:
    """Replace each adapted layer in place with a plain one that computes the same as with the active adapter.

    On a quantized base the change is added to the dequantized weight, and the merged layer is not quantized:
    rounding again would lose the change.

    Returns:
        The names of the merged layers.

    Raises:
        UserError: The model has no adapter.
    """
    layers = [*lora_layers(model)]
    if not layers:
        raise UserError("The model has no adapter to merge.")
    for path, layer in layers:
        plain = layer.base
        if layer.adapter is not None:
            N, K = (weight := layer.adapter.merged(plain)).shape
            bias = plain.bias
            plain = nn.Linear(K, N, bias=False, device="meta")
            plain.weight = nn.Parameter(weight)
            plain.register_parameter("bias", bias)
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, plain)
    return [path for path, _ in layers]


class Inspection(NamedTuple):
    """A summary of an adapter, to be inspected before and after training.

    Attributes:
        layers: The names of the adapted layers.
        parameters: The number of trained parameters.
        share: Their share of all parameters of the model.
        nbytes: Their size in bytes.
        changes: For each layer the relative size of its change, ``‖scale · B A‖ / ‖W‖`` (Frobenius norms).
    """

    layers: list[str]
    parameters: int
    share: float
    nbytes: int
    changes: dict[str, float]


@torch.no_grad()
def inspect_adapter(model: nn.Module) -> Inspection:
    """Which layers the active adapter adapts, what it costs, and how much it changes.

    Raises:
        UserError: The model has no active adapter.
    """
    active = [(path, layer, layer.adapter) for path, layer in lora_layers(model)]
    changes: dict[str, float] = {}
    for path, layer, adapter in active:
        if adapter is not None:
            weight = weight_of(layer.base)
            changes[path] = ((adapter.merged(layer.base) - weight).norm() / weight.norm()).item()
    if not changes:
        raise UserError("No adapter is active; call apply_lora or set_adapter first.")
    trained = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    held = sum(x.in_features * x.out_features for x in model.modules() if isinstance(x, QuantizedLinear))
    every = held + sum(p.numel() for p in model.parameters())
    return Inspection([*changes], count, count / every, sum(p.nbytes for p in trained), changes)
