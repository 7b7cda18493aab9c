"""Counters for cost checks: torch operations, Python's own work, entries read; never wall-clock time."""

import sys
import tracemalloc
from collections.abc import Callable, Generator, ItemsView, Iterator, KeysView, Sequence, ValuesView
from contextlib import contextmanager
from typing import Any, SupportsIndex

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from myllm.grading.compare import Failure


class Counted(TorchDispatchMode):
    """Counts what torch does: ``operations``, ``largest`` (elements of the largest result) and ``flops``."""

    operations = 0
    largest = 0
    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and run it."""
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@contextmanager
def measure() -> Generator[Counted]:
    """Count torch operations, the largest result and the FLOPs of matrix products inside the block."""
    with FlopCounterMode(display=False) as flops, Counted() as counted:
        yield counted
    counted.flops = flops.get_total_flops()


def effort(f: Callable[..., Any], *args: Any) -> int:
    """The work of a call: the maximum of bytecodes executed, bytes allocated and elements of a tensor."""
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


def same_operations(
    f: Callable[..., Any], what: str, cases: Sequence[tuple[int, Sequence[Any]]]
) -> list[Counted]:
    """Fail if a large input takes noticeably more torch operations than a small one.

    Args:
        f: the answer.
        what: the unit of the sizes, such as ``rows``.
        cases: two pairs of a size and the arguments of that size, the small one first.

    Returns:
        The counts of both calls.
    """
    counts = list[Counted]()
    for _, args in cases:
        with measure() as count:
            f(*args)
        counts.append(count)
    (small, _), (large, _), (few, many) = *cases, (count.operations for count in counts)
    if many > few + 20:
        raise Failure(f"{small} {what} took {few} operations, {large} took {many}; work on all at once.")
    return counts


class WatchedTuple(tuple[int, ...]):
    """A tuple that counts the entries read, with one counter for all instances."""

    read = 0

    def __iter__(self) -> Iterator[int]:
        """Iterate over the entries, and count them all."""
        WatchedTuple.read += len(self)
        return super().__iter__()

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        """Read and count an entry or a slice."""
        found: Any = super().__getitem__(key)
        WatchedTuple.read += len(found) if isinstance(key, slice) else 1
        return found


class WatchedDict(dict[tuple[int, int], int]):
    """A dict that counts the entries iterated over; lookups are free."""

    read = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the keys."""
        self.read += len(self)
        return super().__iter__()

    def keys(self) -> KeysView[tuple[int, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A view that counts when it is iterated over."""
        return KeysView(self)

    def values(self) -> ValuesView[int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A view that counts when it is iterated over."""
        return ValuesView(self)

    def items(self) -> ItemsView[tuple[int, int], int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A view that counts when it is iterated over."""
        return ItemsView(self)

    def __deepcopy__(self, memo: object) -> "WatchedDict":
        """Copy without counting."""
        return WatchedDict({key: self[key] for key in super().__iter__()})
