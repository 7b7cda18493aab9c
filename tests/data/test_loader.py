"""Every window once an epoch, resumed anywhere with the exact next batch, dealt out to ranks without loss."""

import json
import tracemalloc
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from myllm.data.loader import PackedLoader, WindowLoader, shuffled, windows
from myllm.data.packing import pack, targets
from myllm.data.shards import Shards, write_shards
from myllm.files import UserError

ROW = np.arange(1000, 1103, dtype=np.uint16)  # each token tells its place; 25 windows of 4


def starts(loader, n_batches):
    """Where the windows of the next batches begin."""
    return [x[:, 0].sub(1000).tolist() for x, _ in islice(loader, n_batches)]


def flat(batches):
    return [item for batch in batches for item in batch]


# Windows


def test_the_number_of_windows_by_brute_force():
    for n in range(40):
        for block_size in range(1, 12):
            for stride in range(1, 14):
                fitting = [start for start in range(0, n, stride) if start + block_size + 1 <= n]
                assert windows(n, block_size, stride) == len(fitting)
            assert windows(n, block_size) == windows(n, block_size, block_size)


@pytest.mark.parametrize("numbers", [(10, 0), (10, -1), (10, 4, 0), (10, 4, -4)])
def test_windows_that_are_none(numbers):
    with pytest.raises(UserError, match="must be at least 1"):
        windows(*numbers)


@pytest.mark.parametrize("stride", [None, 1, 3, 4, 7])
def test_windows_hold_the_right_tokens_and_targets(stride):
    loader = WindowLoader(ROW, block_size=4, batch_size=2, stride=stride, shuffle=False)
    n = windows(len(ROW), 4, stride)
    assert loader.n == n
    for x, y in islice(loader, (n + 1) // 2):
        for tensor in (x, y):
            assert tensor.dtype == torch.int64 and tensor.shape == (2, 4) and tensor.is_contiguous()
        assert x.tolist() == [[*range(start, start + 4)] for start in x[:, 0]]
        assert torch.equal(y, x + 1)
    loader.load_state_dict(loader.state_dict() | {"position": 0})
    assert flat(starts(loader, n))[:n] == [i * (stride or 4) for i in range(n)]


def test_every_token_of_an_epoch_is_an_input_once_and_a_target_once():
    """103 tokens: 25 windows of 4 use 101 of them, the last as a target only."""
    loader = WindowLoader(ROW, block_size=4, batch_size=5)
    xs, ys = zip(*islice(loader, 5), strict=True)
    assert sorted(torch.cat(xs).flatten().tolist()) == [*range(1000, 1100)]
    assert sorted(torch.cat(ys).flatten().tolist()) == [*range(1001, 1101)]


@pytest.mark.parametrize(
    ("dtype", "largest"), [(np.uint16, 65_535), (np.uint32, 2**32 - 1), (np.int64, 2**40)]
)
def test_large_ids_stay_what_they_are(dtype, largest):
    x, y = next(WindowLoader(np.full(9, largest, dtype), block_size=8, batch_size=1))
    assert x.unique().tolist() == y.unique().tolist() == [largest]


# Order


@given(st.integers(1, 200), st.integers(0, 2**40), st.integers(0, 99))
def test_a_shuffled_order_is_an_order(n, seed, epoch):
    assert sorted(shuffled(n, seed, epoch)) == [*range(n)]


def test_the_order_is_that_of_the_raw_numbers():
    raw = np.random.PCG64([7, 3]).random_raw(50).tolist()
    assert shuffled(50, 7, 3).tolist() == sorted(range(50), key=raw.__getitem__)


def test_the_order_is_the_same_everywhere_for_good():
    assert shuffled(10, 0, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert shuffled(10, 0, 1).tolist() == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]


def test_each_item_comes_first_equally_often():
    """χ² of 2,000 draws over 10 items; 27.9 is exceeded once in a thousand."""
    for place in (0, 9):
        counts = Counter(int(shuffled(10, seed, 5)[place]) for seed in range(2000))
        assert sum((counts[i] - 200) ** 2 / 200 for i in range(10)) < 27.9


def test_every_window_comes_once_an_epoch_and_every_batch_is_full():
    """25 windows in batches of 4: the 7th batch holds the last of the first epoch and three of the next."""
    batches = starts(WindowLoader(ROW, block_size=4, batch_size=4), 25)
    assert {len(batch) for batch in batches} == {4}
    line = flat(batches)
    epochs = [line[i : i + 25] for i in range(0, 100, 25)]
    assert all(sorted(epoch) == [*range(0, 100, 4)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [*range(0, 100, 4)] not in epochs


def test_another_seed_another_order():
    orders = {tuple(flat(starts(WindowLoader(ROW, block_size=4, batch_size=5, seed=s), 5))) for s in range(9)}
    assert len(orders) == 9
    again = WindowLoader(ROW, block_size=4, batch_size=5, seed=8)
    assert tuple(flat(starts(again, 5))) in orders


def test_a_corpus_smaller_than_a_batch():
    batches = starts(WindowLoader(ROW[:9], block_size=4, batch_size=7), 2)
    line = flat(batches)
    assert all(sorted(line[i : i + 2]) == [0, 4] for i in range(0, 14, 2))


# Resume


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 60])
def test_left_anywhere_the_next_batch_is_the_exact_next(batch_size, shuffle):
    def make():
        return WindowLoader(ROW, block_size=4, batch_size=batch_size, seed=3, shuffle=shuffle)

    n = 60 // batch_size + 2  # into the third epoch
    loader, states, batches = make(), [], []
    for _ in range(n):
        states.append(json.dumps(loader.state_dict()))
        batches.append(next(loader))
    for i in range(n):
        resumed = make()
        resumed.load_state_dict(json.loads(states[i]))
        for expected, batch in zip(batches[i:], resumed, strict=False):
            assert all(map(torch.equal, expected, batch))
        loader.load_state_dict(json.loads(states[i]))  # and one that has gone far ahead goes back
        assert all(map(torch.equal, next(loader), batches[i]))
        assert [json.dumps(loader.state_dict())] == states[i + 1 : i + 2] or i == n - 1


def test_leaving_a_for_loop_loses_no_batch():
    expected = starts(WindowLoader(ROW, block_size=4, batch_size=3), 6)
    loader = WindowLoader(ROW, block_size=4, batch_size=3)
    seen = []
    for x, _ in loader:
        seen.append(x[:, 0].sub(1000).tolist())
        if len(seen) == 2:
            break
    assert seen + starts(loader, 4) == expected


def test_resumed_with_another_batch_size_and_other_ranks():
    one = WindowLoader(ROW, block_size=4, batch_size=6)
    rest = flat(starts(one, 20))[18:]
    one = WindowLoader(ROW, block_size=4, batch_size=6)
    starts(one, 3)
    ranks = [WindowLoader(ROW, block_size=4, batch_size=2, rank=r, world=2) for r in range(2)]
    for rank in ranks:
        rank.load_state_dict(one.state_dict())
    assert flat(a + b for a, b in zip(*(starts(rank, 20) for rank in ranks), strict=True)) == rest[:80]


CHANGES = [{"seed": 1}, {"shuffle": False}, {"tokens": ROW[:-4]}]
CHANGES += [{"block_size": 3, "stride": 4}, {"stride": 5}]  # as many windows, but others


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_state_of_another_loader_is_refused(change):
    options = {"tokens": ROW[:10] if "stride" in change else ROW, "block_size": 4, "batch_size": 2}
    state = WindowLoader(**options).state_dict()
    other = WindowLoader(**options | change)
    assert (other.n == state["n"]) == ("tokens" not in change)
    next(other)
    before = other.state_dict()
    with pytest.raises(UserError, match=r"belongs to a loader with .*; make the loader as it was"):
        other.load_state_dict(state)
    assert other.state_dict() == before


@pytest.mark.parametrize("change", [{"position": None}, {"position": -1}, {"position": "7"}, {"n": None}])
def test_a_damaged_state_is_refused(change):
    loader = WindowLoader(ROW, block_size=4, batch_size=2)
    state = {name: value for name, value in (loader.state_dict() | change).items() if value is not None}
    with pytest.raises(UserError, match="This state"):
        loader.load_state_dict(state)
    assert loader.position == 0


# Ranks


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_share_each_batch_of_one_process(world):
    whole = starts(WindowLoader(ROW, block_size=4, batch_size=24, seed=5), 6)
    parts = [
        starts(WindowLoader(ROW, block_size=4, batch_size=24 // world, seed=5, rank=r, world=world), 6)
        for r in range(world)
    ]
    assert [flat(batch) for batch in zip(*parts, strict=True)] == whole


def test_ranks_stand_at_the_same_place():
    ranks = [WindowLoader(ROW, block_size=4, batch_size=3, rank=r, world=4) for r in range(4)]
    for _ in range(5):
        assert len({json.dumps(rank.state_dict()) for rank in ranks}) == 1
        [next(rank) for rank in ranks]


# Where the tokens lie


def test_an_array_a_memory_map_and_shards_are_alike(tmp_path):
    ROW.tofile(tmp_path / "row.bin")
    write_shards([ROW[:50], ROW[50:]], tmp_path / "s", vocab_size=5000, vocab_hash="0" * 64, shard_tokens=9)
    kinds = [ROW, np.memmap(tmp_path / "row.bin", np.uint16, "r"), Shards(tmp_path / "s")]
    assert len(kinds[2].parts) == 2
    lines = [starts(WindowLoader(tokens, block_size=4, batch_size=5), 9) for tokens in kinds]
    assert lines[0] == lines[1] == lines[2]


def test_the_corpus_is_not_copied(tmp_path):
    np.arange(5_000_000, dtype=np.uint16).tofile(tmp_path / "row.bin")
    tracemalloc.start()
    loader = WindowLoader(np.memmap(tmp_path / "row.bin", np.uint16, "r"), block_size=1000, batch_size=4)
    for _ in range(10):
        next(loader)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000  # an order of 4,999 windows and one batch, not 10 MB of tokens


def test_a_batch_may_be_changed():
    row = ROW.astype(np.int64)
    x, y = next(WindowLoader(row, block_size=4, batch_size=2, shuffle=False))
    x.zero_()
    y.zero_()
    assert (row == ROW).all()


@pytest.mark.parametrize("tokens", [ROW[:4], ROW[:0]])
def test_less_than_one_window(tokens):
    with pytest.raises(UserError, match=r"no items.*smaller block_size"):
        WindowLoader(tokens, block_size=4, batch_size=1)


@pytest.mark.parametrize(
    "tokens", [ROW.reshape(1, -1).repeat(9, 0), ROW / 2, np.array(["a"] * 9), "some text"]
)
def test_what_is_no_row_of_whole_numbers(tokens):
    with pytest.raises(UserError, match="one sequence of integers"):
        WindowLoader(tokens, block_size=2, batch_size=1)


@pytest.mark.parametrize(
    "numbers",
    [{"batch_size": 0}, {"seed": -1}, {"rank": 1}, {"rank": -1}, {"world": 0}, {"rank": 2, "world": 2}],
)
def test_numbers_that_make_no_sense(numbers):
    with pytest.raises(UserError, match=r"batch_size ≥ 1, seed ≥ 0 and 0 ≤ rank < world"):
        WindowLoader(ROW, **{"block_size": 4, "batch_size": 2} | numbers)


# Packed rows


@pytest.fixture
def packed():
    sizes = np.random.default_rng(0).integers(1, 20, 60)
    return pack([[d] * size for d, size in enumerate(sizes)], 16)


def test_packed_rows_come_whole_once_an_epoch(packed):
    n = len(packed.ids)
    loader = PackedLoader(packed, batch_size=3, seed=1)
    batches = [*islice(loader, n)]
    for x, y, document, position in batches:
        assert {(t.dtype, t.shape) for t in (x, y, document, position)} == {(torch.int64, (3, 16))}
    rows = [tuple(torch.cat([batch[i] for batch in batches]).unbind()) for i in range(4)]
    truth = [*zip(packed.ids, targets(packed), packed.document, packed.position, strict=True)]
    for epoch in range(3):
        seen = [tuple(map(tuple, map(torch.Tensor.tolist, row))) for row in zip(*rows, strict=True)]
        seen = sorted(seen[epoch * n : (epoch + 1) * n])
        assert seen == sorted(tuple(map(tuple, map(np.ndarray.tolist, row))) for row in truth)


def test_packed_rows_resume(packed):
    loader = PackedLoader(packed, batch_size=4, rank=1, world=2)
    for _ in range(12):
        state = json.loads(json.dumps(loader.state_dict()))
        expected = next(loader)
        resumed = PackedLoader(packed, batch_size=4, rank=1, world=2)
        resumed.load_state_dict(state)
        assert all(map(torch.equal, next(resumed), expected))


def test_no_packed_rows():
    with pytest.raises(UserError, match="no items"):
        PackedLoader(pack([], 8), batch_size=1)
