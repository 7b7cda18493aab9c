"""Packing loses nothing, doubles nothing, mixes nothing up, and wastes less than simpler ways."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myllm.data import corpus
from myllm.data.packing import IGNORE, best_fit, pack, targets
from myllm.files import UserError

PAD = 9
DOCUMENTS = st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=14)  # PAD is an ordinary id, too
SIZES = st.integers(1, 6)


def test_by_example():
    """Lengths 3, 5, 2, 4 and 1 in rows of 6: 5 + 1, 4 + 2, 3."""
    packed = pack([[11, 12, 13], [21, 22, 23, 24, 25], [31, 32], [41, 42, 43, 44], [51]], 6, pad_id=PAD)
    assert packed.ids.tolist() == [
        [21, 22, 23, 24, 25, 51],
        [41, 42, 43, 44, 31, 32],
        [11, 12, 13, PAD, PAD, PAD],
    ]
    assert packed.document.tolist() == [[1, 1, 1, 1, 1, 4], [3, 3, 3, 3, 2, 2], [0, 0, 0, -1, -1, -1]]
    assert packed.position.tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    assert targets(packed).tolist() == [
        [22, 23, 24, 25, -100, -100],
        [42, 43, 44, -100, 32, -100],
        [12, 13, -100, -100, -100, -100],
    ]


def test_a_long_document_goes_on_in_the_next_piece():
    packed = pack([[*range(11)], [77]], 4, pad_id=PAD)
    assert packed.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 77]]
    assert packed.document.tolist() == [[0] * 4, [0] * 4, [0, 0, 0, 1]]
    assert packed.position.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 0]]
    assert targets(packed).tolist() == [[1, 2, 3, -100], [5, 6, 7, -100], [9, 10, -100, -100]]


@given(DOCUMENTS, SIZES)
def test_nothing_lost_nothing_doubled(documents, block_size):
    packed = pack(documents, block_size, pad_id=PAD)
    assert {(part.shape, part.dtype) for part in packed} == {
        ((len(packed.ids), block_size), np.dtype("int64"))
    }
    pieces = [
        (d, ids[i : i + block_size])
        for d, ids in enumerate(documents)
        for i in range(0, len(ids), block_size)
    ]
    found = []
    for row in range(len(packed.ids)):
        cells = [*zip(*(part[row].tolist() for part in packed), strict=True)]
        while cells and cells[0][1] >= 0:
            piece = [cell for cell in cells if cell[1] == cells[0][1]]
            assert cells[: len(piece)] == piece  # in one run
            assert [position for *_, position in piece] == [*range(len(piece))]
            found.append((piece[0][1], [id for id, *_ in piece]))
            cells = cells[len(piece) :]
        assert set(cells) <= {(PAD, -1, 0)}  # all padding is at the end
    assert sorted(found) == sorted(pieces)


@given(DOCUMENTS, SIZES)
def test_targets_by_brute_force(documents, block_size):
    """Within a piece the next token, at its end nothing: the targets are the pieces without their first."""
    packed = pack(documents, block_size, pad_id=PAD)
    y = targets(packed)
    assert y.dtype == np.int64 and y.shape == packed.ids.shape
    for r, t in np.ndindex(y.shape):
        follows = t + 1 < block_size and packed.document[r, t] == packed.document[r, t + 1] != -1
        assert y[r, t] == (packed.ids[r, t + 1] if follows else IGNORE)
    n_pieces = sum(math.ceil(len(ids) / block_size) for ids in documents)
    assert (y != IGNORE).sum() == sum(map(len, documents)) - n_pieces


# The rows


def brute_force(lengths, block_size):
    """Best-fit decreasing by looking at every row every time."""
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [(room[r], r) for r in range(len(rows)) if room[r] >= lengths[i]]
        if fitting:
            r = min(fitting)[1]
        else:
            r = len(rows)
            rows.append([])
            room.append(block_size)
        rows[r].append(i)
        room[r] -= lengths[i]
    return rows


def fewest(lengths, block_size):
    """The fewest rows there can be, by trying all ways to deal the items out."""

    def dealt(items, rooms):
        if not items:
            return len(rooms)
        item, *rest = items
        ways = [[*rooms, block_size - item]]
        ways += [[*rooms[:r], room - item, *rooms[r + 1 :]] for r, room in enumerate(rooms) if room >= item]
        return min(dealt(rest, way) for way in ways)

    return dealt([*lengths], [])


LENGTHS = st.lists(st.integers(1, 12), max_size=60)


@given(LENGTHS)
def test_the_rows_equal_a_brute_force_search(lengths):
    assert best_fit(lengths, 12) == brute_force(lengths, 12)


@given(LENGTHS)
def test_no_item_would_fit_into_an_earlier_row(lengths):
    rows = best_fit(lengths, 12)
    assert sorted(i for row in rows for i in row) == [*range(len(lengths))]
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(size <= 12 for size in filled)
    assert all(filled[a] + lengths[rows[b][0]] > 12 for b in range(len(rows)) for a in range(b))


@given(st.lists(st.integers(1, 12), max_size=7))
def test_near_the_fewest_rows_possible(lengths):
    assert len(best_fit(lengths, 12)) <= 11 / 9 * fewest(lengths, 12) + 4


def first_fit(lengths, block_size):
    rows, room = [], []
    for i, length in enumerate(lengths):
        r = next((r for r in range(len(rows)) if room[r] >= length), len(rows))
        if r == len(rows):
            rows.append([])
            room.append(block_size)
        rows[r].append(i)
        room[r] -= length
    return rows


def test_less_padding_than_first_fit_and_one_document_a_row():
    """The speeches of Hamlet, in bytes, in rows of 512."""
    [hamlet] = [play.text for play in corpus.load("shakespeare") if play.id == "hamlet"]
    speeches = [speech.encode() for speech in re.split(r"\n\n+", hamlet)]
    lengths = [len(speech[i : i + 512]) for speech in speeches for i in range(0, len(speech), 512)]
    full = math.ceil(sum(lengths) / 512)  # rows without any padding but at the very end
    packed = pack(speeches, 512)
    assert len(packed.ids) == len(best_fit(lengths, 512)) == full
    assert full < len(first_fit(lengths, 512)) < len(lengths) / 4
    assert (packed.document == -1).sum() == full * 512 - sum(lengths) < 512


def test_equal_input_equal_rows():
    documents = [[d] * (d % 7 + 1) for d in range(100)]
    assert all(map(np.array_equal, pack(documents, 16), pack(tuple(map(np.array, documents)), 16)))


@pytest.mark.parametrize("documents", [[], [[]], [[], []]])
def test_no_tokens_no_rows(documents):
    packed = pack(documents, 8)
    assert {part.shape for part in packed} == {(0, 8)} == {targets(packed).shape}


def test_empty_documents_keep_their_numbers():
    assert pack([[], [5], [], [6]], 2).document.tolist() == [[1, 3]]


def test_mistakes():
    with pytest.raises(UserError, match="block_size must be at least 1, not 0"):
        pack([[1]], 0)
    for bad in ("text", [1.5], [[1, 2]], [None]):
        with pytest.raises(UserError, match="Document 1 is not a sequence of token ids"):
            pack([[1], bad], 4)
