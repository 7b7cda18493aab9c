"""Chapter 2: the naive references, and the wrong answers that the checks recognise."""

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.compare import kind
from myllm.grading.exam import Function, expect, measure

Rows = tuple[Tensor, Tensor]


def two_tensors(found: Any, *shape: int) -> Rows:
    """A result of two tensors of one shape; the check fails where it is anything else."""
    parts = cast("list[Any]", [*found] if isinstance(found, tuple) else [found])
    right = [getattr(one, "shape", None) for one in parts] == [shape, shape]
    expect(right, f"expected two tensors of shape {shape}, got {' and '.join(map(kind, parts))}")
    return cast("Rows", found)


def taken(tokens: Tensor, starts: Tensor, block_size: int, ahead: int = 0) -> Tensor:
    """The tokens ``ahead`` places after those of each window, one after the other."""
    text = cast("list[int]", tokens.tolist())
    first = cast("list[int]", starts.tolist())
    rows = [[text[start + i + ahead] for i in range(block_size)] for start in first]
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), block_size)


def naive_shifted(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Look up every token by itself."""
    return taken(tokens, starts, block_size), taken(tokens, starts, block_size, 1)


def with_targets(ahead: Callable[[int], int]) -> Function:
    """Wrong: right windows, with targets from another place."""

    def wrong(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
        x, y = (taken(tokens, starts, block_size, by) for by in (0, ahead(block_size)))
        return x, y

    return wrong


def rolled(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Wrong: the last target is the window's first token."""
    x = taken(tokens, starts, block_size)
    return x, x.roll(-1, dims=1)


def one_short(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Wrong: ``block_size`` tokens for windows and targets together."""
    return naive_shifted(tokens, starts, block_size - 1)


def one_target(tokens: Tensor, starts: Tensor, block_size: int) -> Rows:
    """Wrong: only the token after the window is predicted."""
    x, y = naive_shifted(tokens, starts, block_size)
    return x, y[:, -1]


def naive_windows(n: int, block_size: int, stride: int) -> int:
    """List the places where a window may begin."""
    return len(range(0, n - block_size, stride))


def effort(f: Function, *args: Any) -> int:
    """The work of a call: steps in Python, bytes taken or elements of a tensor, whichever is most."""
    steps = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    tracemalloc.start()
    with measure() as count:
        sys.settrace(trace)
        try:
            f(*args)
        finally:
            sys.settrace(None)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return max(steps, peak, count.largest)


def naive_row(lengths: list[int], block_size: int) -> Rows:
    """One token after the other, then the padding."""
    if sum(lengths) > block_size:
        raise ValueError("too long")
    tokens = [(number, i) for number, length in enumerate(lengths) for i in range(length)]
    tokens += [(-1, 0)] * (block_size - len(tokens))
    document, position = zip(*tokens, strict=True)
    return torch.tensor(document), torch.tensor(position)


def changed(change: Callable[[Tensor, Tensor, Tensor], Rows]) -> Function:
    """Wrong: ``change`` makes something else of documents, positions and the mask of padding."""

    def wrong(lengths: list[int], block_size: int) -> Rows:
        document, position = naive_row(lengths, block_size)
        return change(document, position, document < 0)

    return wrong


def padding_as_document(lengths: list[int], block_size: int) -> Rows:
    """Wrong: what is left over becomes one more document."""
    return naive_row([*lengths, block_size - sum(lengths)], block_size)


def full_refused(lengths: list[int], block_size: int) -> Rows:
    """Wrong: a row without any padding is refused."""
    return naive_row(lengths, block_size - (sum(lengths) == block_size))


def cut_off(lengths: list[int], block_size: int) -> Rows:
    """Wrong: what does not fit is forgotten."""
    document, position = naive_row(lengths, max(block_size, sum(lengths)))
    return document[:block_size], position[:block_size]
