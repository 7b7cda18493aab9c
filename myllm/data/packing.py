"""Packing: several documents share a row of a batch, so that little of it is padding.

Best-fit decreasing (Johnson 1973; for language models Ding et al. 2024): from the longest document to the
shortest, each is put into the fullest row that still has room for it.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myllm.files import UserError

IGNORE = -100  # the target that PyTorch's cross-entropy ignores


class Packed(NamedTuple):
    """Documents in rows of equal length: three arrays, each (R, T) int64.

    Attributes:
        ids: The token ids, followed by the padding id where a row is not full.
        document: The number of each token's document, -1 on padding; attention stays within a document.
        position: Each token's position in its piece, from 0 wherever in the row it begins; 0 on padding.
    """

    ids: NDArray[np.int64]
    document: NDArray[np.int64]
    position: NDArray[np.int64]


def pack(documents: Sequence[Sequence[int]], block_size: int, *, pad_id: int = 0) -> Packed:
    """Put documents into rows of `block_size` tokens; every token occurs exactly once.

    A document longer than a row is cut into pieces of `block_size`. The pieces keep its number, but their
    positions restart at 0, since a model reads one row at a time.

    Args:
        documents: The ids or the bytes of each document; an empty document takes no space.
        block_size: T, the length of a row.
        pad_id: The id that fills the end of a row.

    Raises:
        UserError: `block_size` is less than 1, or a document is not a sequence of integers.
    """
    if block_size < 1:
        raise UserError(f"block_size must be at least 1, not {block_size}.")
    pieces: list[tuple[int, NDArray[Any]]] = []  # each with the number of its document
    for d, document in enumerate(documents):
        ids = np.array([*document])
        if len(ids) and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
            raise UserError(f"Document {d} is not a sequence of token ids; encode it first.")
        pieces += [(d, ids[i : i + block_size]) for i in range(0, len(ids), block_size)]
    rows = best_fit([len(ids) for _, ids in pieces], block_size)
    shape = len(rows), block_size  # (R, T)
    packed = Packed(np.full(shape, pad_id), np.full(shape, -1), np.zeros(shape, np.int64))
    for r, row in enumerate(rows):
        start = 0
        for d, ids in (pieces[i] for i in row):
            end = start + len(ids)
            packed.ids[r, start:end] = ids
            packed.document[r, start:end] = d
            packed.position[r, start:end] = np.arange(len(ids))
            start = end
    return packed


def best_fit(lengths: Sequence[int], block_size: int) -> list[list[int]]:
    """Distribute items over rows by best-fit decreasing: at most 11/9 of the fewest possible rows, plus four.

    Args:
        lengths: The length of each item, at most `block_size`.
        block_size: The length of a row.

    Returns:
        The indices of the items in each row.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (space left, row), the fullest first
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        k = bisect_left(open_rows, (lengths[i], 0))  # the fullest row with enough space
        if k < len(open_rows):
            room, r = open_rows.pop(k)
        else:
            room, r = block_size, len(rows)
            rows.append([])
        rows[r].append(i)
        if room > lengths[i]:
            insort(open_rows, (room - lengths[i], r))
    return rows


def targets(packed: Packed) -> NDArray[np.int64]:
    """The next token of the document at each position, (R, T) int64; `IGNORE` if the row has none."""
    now, following = packed.document[:, :-1], packed.document[:, 1:]
    known = (now == following) & (following >= 0)  # (R, T - 1)
    y = np.full_like(packed.ids, IGNORE)
    y[:, :-1][known] = packed.ids[:, 1:][known]
    return y
