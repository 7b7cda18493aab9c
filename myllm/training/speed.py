"""How fast this machine can be: its peak, faster matrix products on a CPU, and whether it can compile."""

import time

import torch


def peak_flops(n: int = 1024, rounds: int = 5, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second in a product of two (n, n) matrices, the best of several rounds.

    A product of (m, k) and (k, n) takes 2 m k n operations. The share of this peak that training achieves is
    its model FLOPs utilization (MFU).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in "ab")
    best = 0.0
    for _ in range(rounds + 1):
        start = time.perf_counter()
        _ = (a @ b)[0, 0].item()  # waits for a GPU
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def allow_fast_products() -> str:
    """Let oneDNN compute a CPU's fp32 products if it is about as exact as the default; say what was done.

    PyTorch's matmul precision "medium" does so. On a processor with AMX, oneDNN may compute in bfloat16, so
    the errors against fp64 are compared first.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in "ab")
    exact = a.double() @ b.double()
    default = ((a @ b).double() - exact).abs().max().item()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    fast = ((a @ b).double() - exact).abs().max().item()
    if fast <= 4 * default:
        return f"fp32 products by oneDNN: error {fast:.1e}, by default {default:.1e}"
    torch.set_float32_matmul_precision(before)
    return f"fp32 products stay as they are: oneDNN's error is {fast:.1e}, the default's {default:.1e}"


def compile_problem(device: torch.device) -> str:
    """Why `torch.compile` fails on this machine, in one sentence; empty where it works.

    On a CPU it needs a C++ compiler, and linking fails where the path of the Python environment contains a
    space. A small function is compiled to find out.
    """
    try:
        torch.compile(torch.nn.functional.silu)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a compiler raises
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        return f"The layers are not compiled, because torch.compile fails on this machine ({reason})."
    return ""
