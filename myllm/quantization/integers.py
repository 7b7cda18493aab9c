"""Products of integers, exact on every machine and fast on those with instructions for them."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

#: So many products of two codes, each at most 128², sum to at most 2²⁴: float32 adds them without rounding.
EXACT = 1024


@cache
def fast_integers() -> bool:
    """Whether this processor multiplies int8 codes faster than floating-point numbers, and exactly.

    It needs the instructions called VNNI. Without them PyTorch's products of codes lose what exceeds 16 bits.
    """
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False
    ends = torch.tensor([[127], [-127], [-128]], dtype=torch.int8).expand(3, 64).contiguous()
    return torch.equal(torch.ops.aten._int_mm(ends, ends.T).double(), ends.double() @ ends.double().T)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """``a bᵀ`` of int8 codes (R, K) and (N, K), K at most 2¹⁷, without any rounding: (R, N) int32."""
    if a.is_cpu and a.shape[1] > 1 and fast_integers():
        return torch.ops.aten._int_mm(_new(a), _new(b).T)  # wrong for one column: its stride is arbitrary
    total = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], EXACT):
        some = slice(start, start + EXACT)
        total += F.linear(a[:, some].float(), b[:, some].float()).int()
    return total


def _new(x: Tensor) -> Tensor:
    """`x` with the strides of a new tensor: the product trusts them, those of a single row, too."""
    return x if x.stride() == (x.shape[1], 1) else x.clone(memory_format=torch.contiguous_format)
