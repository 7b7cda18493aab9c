"""The spectrum of a weight change, and what the model does with only its first directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import traitlets

from .base import Widget, check_integer, check_number, check_text, source

MOST = 4096  # singular values of a layer


class Layer(TypedDict):
    """A layer: its name, its shape and the singular values of its change, the largest first."""

    name: str
    shape: Sequence[int]
    values: Sequence[float]


class Point(TypedDict):
    """The share of right answers of the whole model if each layer keeps the first `r` directions."""

    r: int
    exact: float


class Run(TypedDict):
    """A fine-tuning run: its name, some of its layers, and its points in order of rank."""

    name: str
    layers: Sequence[Layer]
    points: Sequence[Point]


class RankSlider(Widget):
    """Shows how much of a layer's change lies in its first directions, and what the model does with them.

    Args:
        runs: 1 to 4 fine-tuning runs.
        trained: Points with the share of right answers of adapters that were trained.
        rank: The initial position of the slider, one of the ranks of the first run's points.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "rank_slider.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "rank_slider.mjs")

    runs = traitlets.List(traitlets.Dict()).tag(sync=True)
    trained = traitlets.List(traitlets.Dict()).tag(sync=True)
    rank = traitlets.Int().tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)

    def __init__(self, runs: Sequence[Run], trained: Sequence[Point] = (), *, rank: int = 8) -> None:
        check_integer("number of runs", len(runs), 1, 4)
        for one in runs:
            check_text("name of a run", one["name"], 1, 40)
            check_integer("number of layers", len(one["layers"]), 1, 16)
            for layer in one["layers"]:
                check_text("name of a layer", layer["name"], 1, 40)
                check_integer("number of singular values", len(layer["values"]), 1, min(layer["shape"]))
                for value in layer["values"]:
                    check_number("singular value", value, 0, 1e6)
            _check(one["points"])
        _check(trained)
        if rank not in [point["r"] for point in runs[0]["points"]]:
            raise ValueError(f"The rank must be one of those of the first run's points, not {rank!r}.")
        super().__init__(
            runs=[
                {
                    "name": one["name"],
                    "layers": [
                        {**layer, "shape": [*layer["shape"]], "values": [*layer["values"]]}
                        for layer in one["layers"]
                    ],
                    "points": [{"r": point["r"], "exact": point["exact"]} for point in one["points"]],
                }
                for one in runs
            ],
            trained=[{"r": point["r"], "exact": point["exact"]} for point in trained],
            rank=rank,
        )

    def __repr__(self) -> str:
        return f"RankSlider({self.rank})"


def _check(points: Sequence[Point]) -> None:
    for point in points:
        check_integer("rank", point["r"], 0, MOST)
        check_number("share of right answers", point["exact"], 0, 1)
