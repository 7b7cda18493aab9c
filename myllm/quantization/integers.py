"""Products of integers, exact on every machine and fast on those with instructions for them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from myllm.files import UserError

#: This many products of two codes, each at most 128², sum to at most 2²⁴: float32 adds them without rounding.
EXACT = 1024


def fast_integers() -> bool:
    """Whether this processor multiplies int8 codes faster than floating-point numbers, and exactly.

    This needs the VNNI instructions. Without them, PyTorch's product is slow, or saturates sums that do not
    fit into 16 bits.
    """
    if not (getattr(torch.cpu, "_is_vnni_supported", bool)() and hasattr(torch.ops.aten, "_int_mm")):
        return False  # neither name is part of PyTorch's public API
    ends = torch.tensor([[127], [-127], [-128]], dtype=torch.int8, device="cpu").expand(3, 64).contiguous()
    return torch.equal(torch.ops.aten._int_mm(ends, ends.T).double(), ends.double() @ ends.double().T)


FAST = fast_integers()


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """``a bᵀ`` of int8 codes (R, K) and (N, K), without any rounding: (R, N) int32.

    Raises:
        UserError: Rows so long that a sum might not fit into 32 bits.
    """
    if a.shape[1] >= 2**17:
        raise UserError(
            f"Sums of {a.shape[1]:,} products of codes may not fit into 32 bits; at most 131,071."
        )
    if a.is_cpu and a.shape[1] > 1 and FAST:
        return torch.ops.aten._int_mm(_new(a), _new(b).T)  # wrong for one column: its stride is arbitrary
    total = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    with torch.autocast("cpu" if a.is_meta else a.device.type, enabled=False):  # which would round to 16 bits
        for start in range(0, a.shape[1], EXACT):
            some = slice(start, start + EXACT)
            total += F.linear(a[:, some].float(), b[:, some].float()).int()
    return total


def _new(x: Tensor) -> Tensor:
    """`x` with the strides of a new tensor, which the product relies on, even for a single row."""
    return x if x.stride() == (x.shape[1], 1) else x.clone(memory_format=torch.contiguous_format)
