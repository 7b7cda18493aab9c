import pytest
import torch

from myllm.widgets import RankSlider

CHANGE = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
VALUES = torch.linalg.svdvals(CHANGE).tolist()
LAYER = {"name": "q_proj", "shape": [6, 9], "values": VALUES}
POINTS = [{"r": 0, "exact": 0.0}, {"r": 1, "exact": 0.25}, {"r": 6, "exact": 1.0}, {"r": 8, "exact": 1.0}]
RUN = {"name": "AdamW", "layers": [LAYER], "points": POINTS}


@pytest.mark.parametrize("r", range(7))
def test_energy_is_that_of_the_best_change_of_this_rank(node, r):
    u, s, v = torch.linalg.svd(CHANGE)
    kept = u[:, :r] * s[:r] @ v[:r]
    share = (kept.square().sum() / CHANGE.square().sum()).item()
    assert node(RankSlider, "energy(values, r)", values=VALUES, r=r) == pytest.approx(share, abs=1e-6)


def test_numbers_are_those_of_both_factors(node):
    assert node(RankSlider, "[0, 2, 6, 20].map((r) => numbers([6, 9], r))") == [
        [0, 54],
        [30, 54],
        [90, 54],
        [90, 54],
    ]


@pytest.mark.parametrize(
    ("r", "begin", "end"),
    [
        (
            0,
            "Nothing of the change is kept.",
            "With no direction in every layer, the model answers 0 % of the questions.",
        ),
        (1, "The first direction holds", "Adapters of rank 1, trained, answer 75 %."),
        (5, "The first 5 directions hold", "75 numbers, more than the 54 of the matrix."),
        (
            6,
            "The first 6 directions hold 100 % of this layer’s squared change in 54 numbers, the whole",
            "answers 100 % of the questions.",
        ),
        (
            8,
            "The first 6 directions hold 100 %",
            "With the first 8 in every layer, the model answers 100 % of the questions.",
        ),
    ],
)
def test_the_sentence_says_what_is_kept_and_what_it_does(node, r, begin, end):
    values = {"layer": LAYER, "points": POINTS, "trained": [{"r": 1, "exact": 0.75}], "r": r}
    said = node(RankSlider, "describe(layer, points, trained, r)", **values)
    assert said.startswith(begin) and said.endswith(end), said


def test_a_layer_that_did_not_change(node):
    assert node(RankSlider, "energy([0, 0], 1)") == 0


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "number of runs must be"),
        ([RUN | {"name": ""}], {}, "name of a run must be"),
        ([RUN | {"layers": []}], {}, "number of layers must be"),
        ([RUN | {"layers": [LAYER | {"values": [1.0] * 7}]}], {}, "number of singular values must be"),
        ([RUN | {"layers": [LAYER | {"values": [-1.0]}]}], {}, "singular value must be"),
        ([RUN | {"points": [{"r": -1, "exact": 0.5}]}], {}, "rank must be"),
        ([RUN], {"trained": [{"r": 1, "exact": 1.5}]}, "share of right answers must be"),
        ([RUN], {"rank": 3}, "one of those of the first run"),
    ],
)
def test_arguments_are_checked(runs, options, message):
    with pytest.raises(ValueError, match=message):
        RankSlider(runs, **({"rank": 1} | options))


def test_text_form():
    assert repr(RankSlider([RUN], rank=6)) == "RankSlider(6)"
