"""GPTQ: codes that keep a layer's outputs close, at the price of its weights (Frantar et al., 2023)."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
    """The second derivatives (K, K) of a layer's mean squared output error: 2 XᵀX / n, in float64.

    Args:
        inputs: The layer's inputs (…, K), or an iterable of them, of which only the sum is kept.

    Raises:
        UserError: There are none, or they are not finite.
    """
    total, n = torch.zeros(()), 0
    for x in [inputs] if isinstance(inputs, Tensor) else inputs:
        rows = upcast(x.detach()).flatten(0, -2)
        total, n = total + (rows.T @ rows).double(), n + len(rows)
    if not n or not total.isfinite().all():
        raise UserError("GPTQ needs inputs to calibrate with, all of them finite; give it some text.")
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
    """Round a weight column by column; those not yet rounded compensate for the error of those that are.

    After each column the remaining ones move to where the outputs' squared error is smallest, given all that
    is rounded: by the column's error times row j of U / U[j, j], where UᵀU = H⁻¹ and U is upper triangular.
    A group's grid is chosen when its first column is reached, from the weights as they then are. Everything
    is computed in float64.

    Args:
        w: (N, K).
        hessian: (K, K), of the layer's inputs. A column whose input was always 0 is only rounded.
        bits: 2 to 8.
        group: What shares a scale; see `quantize_affine`.
        symmetric: Whether the grid is symmetric about 0.
        act_order: Round the columns with the largest inputs first. The groups stay runs of consecutive
            columns, with grids chosen beforehand from `w`, so that no index is needed later.
        damping: Added to the diagonal of the Hessian, as a fraction of its mean. It is raised tenfold, with a
            warning, for as long as the Hessian is singular.
        scale_dtype: Scales are rounded to this dtype, in which they will be stored, before codes are chosen.

    Raises:
        UserError: As `quantize_affine`.
    """
    wide, K = w.detach().double(), w.shape[1]

    def grid(columns: Tensor, group: Group) -> tuple[Tensor, Tensor]:
        _, scale, zero = quantize_affine(columns, bits, symmetric=symmetric, group=group)
        least = torch.finfo(scale_dtype)
        scale = scale.to(scale_dtype).double().clamp(min=least.tiny * least.eps)
        return scale, torch.zeros_like(scale) if zero is None else zero

    scale, zero = grid(wide, group)
    size = K // scale.shape[1]
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    order = hessian.diagonal().argsort(descending=True) if act_order else torch.arange(K, device=w.device)
    U = _inverse_factor(hessian.double()[order][:, order], damping)
    W, codes = wide[:, order], torch.empty_like(wide)
    for start in range(0, K, size):
        end = start + size
        if not act_order and group != "tensor":
            scale[:, start // size, None], zero[:, start // size, None] = grid(W[:, start:end], "row")
        errors = torch.empty_like(W[:, start:end])
        for j in range(start, end):
            step, origin = scale[:, order[j] // size], zero[:, order[j] // size]
            codes[:, j] = ((W[:, j] / step).round() + origin).clamp(low, high)
            errors[:, j - start] = (W[:, j] - (codes[:, j] - origin) * step) / U[j, j]
            W[:, j:end] -= errors[:, j - start, None] * U[j, j:end]
        W[:, end:] -= errors @ U[start:end, end:]  # the columns of later groups, all at once
    codes = codes[:, order.argsort()].to(torch.int8 if symmetric else torch.uint8)
    return Affine(codes, scale.float(), None if symmetric else zero.float())


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with UᵀU the inverse of the damped Hessian."""
    linalg: Any = torch.linalg
    unit = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    mean = hessian.diagonal().mean()
    while True:
        # A Cholesky factor of the matrix read backwards is, read backwards, upper triangular: H = R Rᵀ.
        damped = hessian + damping * torch.where(mean == 0, 1, mean) * unit
        lower, failed = linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            return linalg.solve_triangular(lower.flip(0, 1), unit, upper=True)
        raised = 10 * damping or 0.01
        warnings.warn(
            f"The Hessian is singular with a damping of {damping:g}; taking {raised:g}. "
            "More calibration data may make that unnecessary.",
            stacklevel=3,
        )
        damping = raised


@torch.no_grad()
def gptq_model(
    model: Transformer,
    batches: Iterable[Tensor],
    *,
    match: Callable[[str, nn.Linear], bool] | None = None,
    store: Callable[[nn.Linear, Affine], nn.Module] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Quantize the linear layers in the blocks of a model by GPTQ, in place and in the order of computation.

    A layer is calibrated with the inputs that it will have: all layers before it are quantized already.
    Layers that read the same tensor share its Hessian. Kept in memory are the hidden states between two
    blocks, for all batches, and one Hessian at a time.

    Args:
        model: Its head and its embedding stay as they are.
        batches: Token ids (B, T) to calibrate with.
        match: Called with a layer's name and the layer; by default all layers in blocks match.
        store: Called with a layer and its codes; its module takes the layer's place, by default an
            `Int4Linear`.
        options: Of `gptq`.

    Returns:
        The `output_error` of each quantized layer, by name.

    Raises:
        UserError: No layer matches, there are no batches, or five bits and more without `store`.
    """
    if store is None and options.get("bits", 4) > 4:
        raise UserError("Int4Linear stores at most 4 bits; pass `store` to keep more.")
    errors: dict[str, float] = {}
    hidden, contexts = _record(model, batches)
    for i, block in enumerate(model.layers):
        modules: list[tuple[str, nn.Module]] = [*block.named_modules(prefix=f"layers.{i}")]
        linears = [(name, module) for name, module in modules if type(module) is nn.Linear]
        todo = {linear: name for name, linear in linears if match is None or match(name, linear)}
        while todo:
            stage: list[nn.Linear] = []
            H = hessian(_first_inputs(block, todo, zip(hidden, contexts[i], strict=True), stage))
            for linear in dict.fromkeys(stage):
                name, q = todo.pop(linear), gptq(linear.weight, H, **options)
                errors[name] = output_error(linear.weight, q.dequantize(torch.float64), H)
                new = (store or _int4)(linear, q)
                replace_linears(model, lambda _, new=new: new, lambda _, x, old=linear: x is old)
        hidden = [block(x, **context) for x, context in zip(hidden, contexts[i], strict=True)]
    if not errors:
        raise UserError("No linear layer in the blocks of the model matches.")
    return errors


def _int4(linear: nn.Linear, q: Affine) -> nn.Module:
    layer = Int4Linear(linear, q.codes.shape[1] // q.scale.shape[1], symmetric=q.zero is None)
    layer.store(q)
    return layer


class _Recorder(nn.Module):
    """Takes the place of a block: returns its input, and notes what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, dict[str, Any]]] = []

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        self.calls.append((x, context))
        return x


def _record(model: Transformer, batches: Iterable[Tensor]) -> tuple[list[Tensor], list[list[dict[str, Any]]]]:
    """The first block's input for each batch, and the keywords of each block for each batch."""
    blocks, recorders = model.layers, [_Recorder() for _ in model.layers]
    model.layers = nn.ModuleList(recorders)
    try:
        for ids in batches:
            model(ids, head=nn.Identity())
    finally:
        model.layers = blocks
    return [x for x, _ in recorders[0].calls], [[context for _, context in one.calls] for one in recorders]


class _Reached(Exception):
    """The computation of a block has come to a layer that reads another tensor."""


def _first_inputs(
    block: nn.Module, todo: Iterable[nn.Linear], calls: Iterable[tuple[Tensor, Any]], stage: list[nn.Linear]
) -> Iterator[Tensor]:
    """The tensor that a layer in `todo` reads first, for each call; `stage` gets the layers that read it."""
    seen: list[Tensor] = []

    def note(linear: nn.Module, args: tuple[Tensor]) -> None:
        if seen and args[0] is not seen[0]:
            raise _Reached
        seen[:] = args
        stage.append(cast(nn.Linear, linear))

    handles = [linear.register_forward_pre_hook(note) for linear in todo]
    try:
        for x, context in calls:
            seen.clear()
            with suppress(_Reached):
                block(x, **context)
            yield from seen
    finally:
        for handle in handles:
            handle.remove()
