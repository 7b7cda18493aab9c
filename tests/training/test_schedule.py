"""Learning-rate schedules against values computed by hand, the first and the last update included."""

import math

import pytest

from myllm.training.schedule import rate


def curve(steps, kind, **options):
    return [rate(step, steps, kind, **options) for step in range(steps)]


def test_warm_up_rises_from_one_share_to_the_peak():
    assert curve(8, "constant", warmup=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert curve(3, "constant") == [1.0, 1.0, 1.0]


def test_linear_by_hand():
    assert curve(6, "linear", warmup=2, floor=0.2) == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert curve(4, "linear", floor=0.0) == pytest.approx([0.75, 0.5, 0.25, 0.0])


def test_cosine_by_hand():
    half = math.sqrt(0.5)
    expected = [0.5, 1.0, 1 - 0.45 * (1 - half), 0.55, 1 - 0.45 * (1 + half), 0.1]
    assert curve(6, "cosine", warmup=2) == pytest.approx(expected, abs=1e-15)
    assert curve(2, "cosine", floor=0.0) == pytest.approx([0.5, 0.0], abs=1e-15)


def test_wsd_stays_then_falls():
    found = curve(10, "wsd", warmup=2, floor=0.0, decay=0.4)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert curve(5, "wsd", decay=0.2) == pytest.approx([1, 1, 1, 1, 0.1])
    assert curve(4, "wsd", decay=0.0) == [1, 1, 1, 1]
    assert curve(4, "wsd", warmup=2, decay=1.0, floor=0.0) == pytest.approx([0.5, 1, 0.5, 0])


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(2, 0), (2, 1), (100, 0), (100, 10), (100, 99)])
def test_the_last_update_uses_the_floor_exactly_and_none_is_higher(kind, steps, warmup):
    found = curve(steps, kind, warmup=warmup, floor=0.125, decay=0.5)
    assert found[-1] == 0.125
    assert all(0 < share <= 1 for share in found)
    after = found[warmup:]
    assert after == sorted(after, reverse=True)


def test_an_update_past_the_end_stays_at_the_floor():
    assert rate(20, 10, "cosine", floor=0.3) == pytest.approx(0.3)
