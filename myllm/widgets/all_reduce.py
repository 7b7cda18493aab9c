"""All-reduce step by step: what each rank sends, how long it takes, and what ZeRO leaves on each rank."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, check_integer, check_number, source

ALGORITHMS = ("naive", "ring", "tree")


class AllReduce(Widget):
    """Adds up the vectors of several ranks by three algorithms, one step after another.

    A step takes the latency and the transfer of its longest message; a rank sends and receives at the same
    time. The time is for the gradients in bf16, a vector of S = 2 bytes per parameter. The bars of ZeRO
    (Rajbhandari et al., 2020) are for mixed precision with AdamW, in bytes per parameter: 2 for the weight, 2
    for the gradient and 12 for the fp32 master and the two moments.

    Args:
        ranks: The number n of ranks, 2 to 8.
        algorithm: The one shown first: ``naive`` (one rank gathers all vectors and broadcasts the sum),
            ``ring`` (reduce-scatter, then all-gather) or ``tree`` (reduce to rank 0, then broadcast).
        parameters: Parameters of the model, 1 to 10¹².
        latency: Microseconds until a message begins to arrive, 0 to 1,000,000.
        bandwidth: GB/s of a rank in each direction, 0.001 to 10,000.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "training.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "controls.mjs", "all_reduce.mjs")

    ranks = traitlets.Int().tag(sync=True)
    algorithm = traitlets.Unicode().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    parameters = traitlets.Int().tag(sync=True)
    latency = traitlets.Float().tag(sync=True)
    bandwidth = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        ranks: int = 4,
        *,
        algorithm: str = "ring",
        parameters: int = 1_000_000_000,
        latency: float = 10.0,
        bandwidth: float = 25.0,
    ) -> None:
        check_integer("number of ranks", ranks, 2, 8)
        check_choice("algorithm", algorithm, ALGORITHMS)
        check_integer("number of parameters", parameters, 1, 10**12)
        check_number("latency", latency, 0, 1_000_000)
        check_number("bandwidth", bandwidth, 0.001, 10_000)
        super().__init__(
            ranks=ranks,
            algorithm=algorithm,
            parameters=parameters,
            latency=float(latency),
            bandwidth=float(bandwidth),
        )

    def __repr__(self) -> str:
        return f"AllReduce({self.ranks})"
