"""Optimizers: AdamW as the paper states it, Muon, and which parameters get which."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from myllm.files import UserError
from myllm.model.basics import upcast

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Kingma and Ba, 2015; Loshchilov and Hutter, 2019).

    The moving averages m of the gradient and v of its square start at 0 and are corrected for that bias; then
    ``p -= lr * (m / (sqrt(v) + eps) + weight_decay * p)``.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay rates of m and v.
        eps: Keeps the division finite; added outside the square root.
        weight_decay: Each update subtracts ``lr * weight_decay`` times the parameter.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise UserError("These optimizers take no closure; compute the gradients first.")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update one parameter from its gradient."""
        if "exp_avg" not in state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        t = state["step"].item()
        p.mul_(1 - group["lr"] * group["weight_decay"])
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        v_hat = v / (1 - beta2**t)
        p.addcdiv_(m, v_hat.sqrt() + group["eps"], value=-group["lr"] / (1 - beta1**t))


class Muon(AdamW):
    """Muon for the groups marked ``muon=True``, AdamW for the others (Jordan et al., 2024).

    Muon replaces the averaged gradient of a matrix by the nearest semi-orthogonal matrix: all its singular
    values become about 1. It is meant for the matrices inside the layers, one projection each; embeddings,
    the head, norms and biases stay with AdamW. The update is scaled by ``0.2 * sqrt(max(rows, columns))``, so
    that its size is that of an AdamW update and both share one learning rate (Liu et al., 2025, "Muon is
    scalable for LLM training"). The original scales by ``sqrt(max(1, rows / columns))`` and needs a rate of
    its own.

    Args:
        params: Groups; a group's ``muon`` says how it is updated.
        momentum: Of the averaged gradient, in Nesterov's variant.
        options: Those of `AdamW`.
    """

    def __init__(self, params: Params, momentum: float = 0.95, **options: Any) -> None:
        super().__init__(params, **options)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group["momentum"] = momentum

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update one parameter from its gradient."""
        if not group["muon"]:
            super().update(p, gradient, state, group)
            return
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        average, momentum = state["momentum"], group["momentum"]
        average.lerp_(gradient, 1 - momentum)
        direction = orthogonalize(gradient.lerp(average, momentum))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(direction.to(p.dtype), alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix with the same singular vectors whose singular values are all near 1.

    Newton–Schulz iteration: each step applies the odd polynomial ``a x + b x³ + c x⁵`` to the singular
    values. These coefficients of Jordan et al. rise steeply at 0 and bring everything above 0.01 or so into
    0.7 … 1.2, which is near enough for training.

    Args:
        matrix: (m, n), any floating dtype; computed in at least fp32.
        steps: How often the polynomial is applied.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = upcast(matrix)
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x  # the smaller side first: the products below are then smallest
    x = x / (x.square().sum().sqrt() + 1e-7)
    for _ in range(steps):
        square: Tensor = x @ x.t()
        x = a * x + (b * square + c * square @ square) @ x
    return x.t() if tall else x


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a model in up to three groups, each parameter in one of them.

    Matrices inside the layers decay and may be updated by Muon. The head, if it has its own matrix, decays,
    too. Embeddings, norms and biases do not decay: a large gain in a norm is no sign of fitting noise, and
    embedding rows whose tokens do not occur in a batch would shrink without a gradient.

    Args:
        model: Any module; a linear layer named ``lm_head`` is its head.
        weight_decay: The weight decay of the groups that decay.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        matrix = p.ndim == 2 and id(p) not in embeddings
        groups.setdefault((matrix, matrix and not name.endswith("lm_head.weight")), []).append(p)
    return [
        {"params": params, "weight_decay": weight_decay if decays else 0.0, "muon": muon}
        for (decays, muon), params in groups.items()
    ]


def make_optimizer(
    model: nn.Module,
    kind: Literal["adamw", "muon"] = "adamw",
    *,
    lr: float,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> Optimizer:
    """The optimizer for a model's `parameter_groups`.

    ``adamw`` is PyTorch's fused implementation, which computes what `AdamW` computes in one pass over memory.

    Args:
        model: Any module.
        kind: ``adamw`` or ``muon``.
        lr: The peak learning rate.
        weight_decay: See `AdamW`.
        betas: Decay rates of the moving averages.
        eps: Keeps the division finite.
    """
    groups = parameter_groups(model, weight_decay)
    if kind == "muon":
        return Muon(groups, lr=lr, betas=betas, eps=eps)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
