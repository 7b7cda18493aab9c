"""GPTQ: codes that keep a layer's outputs close, at the price of its weights (Frantar et al., 2023)."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.basics import upcast
from myllm.model.transformer import Transformer
from myllm.quantization.affine import Affine, Group, quantize_affine
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.swap import replace_linears


def hessian(inputs: Tensor | Iterable[Tensor]) -> Tensor:
    """The Hessian (K, K) of a layer's mean squared output error: 2 XᵀX / n, in float64.

    Args:
        inputs: The layer's inputs (…, K), or an iterable of them, of which only the sum is kept.

    Raises:
        UserError: There are no inputs.
    """
    total, n = torch.zeros(()), 0
    for x in [inputs] if isinstance(inputs, Tensor) else inputs:
        rows = upcast(x.detach()).flatten(0, -2)
        total, n = total + (rows.T @ rows).double(), n + len(rows)
    if not n:
        raise UserError("GPTQ needs inputs to calibrate with; give it some text.")
    return 2 * total / n


def output_error(w: Tensor, approximation: Tensor, hessian: Tensor) -> float:
    """The mean squared error of a layer's outputs on the calibration data, relative to their mean square."""
    wide, difference = w.double(), (approximation.double() - w.double())
    return float(((difference @ hessian) * difference).sum() / ((wide @ hessian) * wide).sum())


def gptq(
    w: Tensor,
    hessian: Tensor,
    *,
    bits: int = 4,
    group: Group = 32,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
    scale_dtype: torch.dtype = torch.float16,
) -> Affine:
    """Round a weight column by column; columns not yet rounded compensate for the error of those that are.

    After each column j, the later ones move to where the outputs' squared error is smallest, given all that
    is rounded: by column j's error times row j of -U / U[j, j], where UᵀU = H⁻¹ and U is upper triangular. A
    group's grid is chosen when its first column is reached, from the weights as they then are. Everything is
    computed in float64.

    Args:
        w: (N, K).
        hessian: (K, K), of the layer's inputs. A column whose input was always 0 is only rounded.
        bits: 2 to 8.
        group: What shares a scale; see `quantize_affine`.
        symmetric: Whether the grid is symmetric about 0.
        act_order: Round the columns with the largest inputs first. The groups stay runs of consecutive
            columns, with grids chosen beforehand from `w`, so that no index is needed later.
        damping: Added to the diagonal of the Hessian, as a fraction of its mean. It is raised tenfold, with a
            warning, as long as the damped Hessian is singular.
        scale_dtype: The dtype of the scales and zero points, as they will be stored.

    Raises:
        UserError: As `quantize_affine`, or the Hessian contains infinities or NaN.
    """
    grid = partial(quantize_affine, bits=bits, symmetric=symmetric, scale_dtype=scale_dtype)
    (N, K), wide = w.shape, w.detach().double()
    codes, scale, zero = grid(wide, group=group)
    scale, zero = scale.double(), torch.zeros_like(scale) if zero is None else zero.double()
    size, high = K // scale.shape[1], 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    order = hessian.diagonal().argsort(descending=True) if act_order else torch.arange(K, device=w.device)
    U = _inverse_factor(hessian.double()[order][:, order], damping)
    W = wide[:, order]
    for start in range(0, K, size):
        end, g = start + size, start // size
        if not act_order and group != "tensor":
            now = grid(W[:, start:end], group="row")
            scale[:, g, None], zero[:, g, None] = now.scale, 0 if now.zero is None else now.zero
        errors = wide.new_empty(N, size)
        for j in range(start, end):
            step, origin = scale[:, order[j] // size], zero[:, order[j] // size]
            code = ((W[:, j] / step).round() + origin).clamp(-high if symmetric else 0, high)
            codes[:, order[j]] = code.to(codes.dtype)
            errors[:, j - start] = (W[:, j] - (code - origin) * step) / U[j, j]
            W[:, j:end] -= errors[:, j - start, None] * U[j, j:end]
        W[:, end:] -= errors @ U[start:end, end:]  # later groups, once for all columns of this one
    return Affine(codes, scale.to(scale_dtype), None if symmetric else zero.to(scale_dtype))


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with UᵀU the inverse of the damped Hessian."""
    linalg: Any = torch.linalg
    unit, mean = torch.eye(len(hessian)).to(hessian), hessian.diagonal().abs().mean()
    if not hessian.isfinite().all():
        raise UserError("The Hessian is not finite: the calibration data makes the model overflow.")
    while True:
        # The Cholesky factor of the flipped matrix, flipped back, is upper triangular: H = R Rᵀ.
        damped = hessian + damping * torch.where(mean == 0, 1, mean) * unit
        lower, failed = linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            return linalg.solve_triangular(lower.flip(0, 1), unit, upper=True)
        old, damping = damping, 10 * damping or 0.01
        problem = f"The Hessian is singular with a damping of {old:g}; it is raised to {damping:g}."
        warnings.warn(f"{problem} More calibration data would help.", stacklevel=3)


@torch.no_grad()
def gptq_model(
    model: Transformer,
    batches: Iterable[Tensor],
    *,
    match: Callable[[str, nn.Linear], bool] | None = None,
    store: Callable[[nn.Linear, Affine], nn.Module] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Quantize the linear layers of a model by GPTQ, in place and in the order in which they are called.

    All calibration data passes through the model once. Each layer is quantized when its input arrives, which
    has been computed by quantized layers, and its output is then computed with its codes. So only one layer's
    input and Hessian are kept, and a layer that reads the same tensor as the last one shares them. The layers
    are replaced at the end: an error leaves the model as it was.

    Args:
        model: Its embedding and its head stay as they are.
        batches: Token ids (B, T), all of the same length T.
        match: Called with the name of each linear layer in the blocks and the layer; by default all match.
        store: Called with a layer and its codes to make the layer that replaces it; by default `Int4Linear`.
        options: Those of `gptq`.

    Returns:
        The `output_error` of each quantized layer, by name.

    Raises:
        UserError: No layer matches, there are no batches, or there are five or more bits without `store`.
    """
    ids = [*batches]
    if len({x.shape[1] for x in ids}) != 1:
        raise UserError("GPTQ needs batches of token ids to calibrate with, all of one length.")
    if store is None and options.get("bits", 4) > 4:
        raise UserError("Int4Linear stores at most 4 bits; pass `store` to keep more.")
    names: dict[nn.Module, str] = {}
    for name, module in cast(Iterable[tuple[str, nn.Module]], model.layers.named_modules(prefix="layers")):
        if type(module) is nn.Linear and (match is None or match(name, module)):
            names[module] = name
    errors: dict[str, float] = {}
    layers: dict[nn.Module, nn.Module] = {}
    last: list[Tensor] = []  # an input and its Hessian

    def quantize(linear: Any, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        if not last or last[0] is not inputs[0]:
            last[:] = inputs[0], hessian(inputs[0])
        q = gptq(linear.weight, last[1], **options)
        errors[names[linear]] = output_error(linear.weight, q.dequantize(), last[1])
        layers[linear] = (store or _int4)(linear, q)
        return layers[linear].forward(inputs[0])

    handles = [linear.register_forward_hook(quantize) for linear in names]
    try:
        model(torch.cat(ids), head=nn.Identity())
    finally:
        for handle in handles:
            handle.remove()
    replace_linears(model, lambda linear: layers[linear], lambda _, linear: linear in layers)
    return errors


def _int4(linear: nn.Linear, q: Affine) -> Int4Linear:
    layer = Int4Linear(linear, q.codes.shape[1] // q.scale.shape[1], symmetric=q.zero is None)
    layer.store(q)
    return layer
