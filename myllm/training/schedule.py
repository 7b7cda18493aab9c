"""Learning-rate schedules: the share of the peak rate at each step."""

import math
from typing import Literal

Kind = Literal["cosine", "wsd", "linear", "constant"]


def rate(
    step: int,
    steps: int,
    kind: Kind = "cosine",
    *,
    warmup: int = 0,
    floor: float = 0.1,
    decay: float = 0.2,
) -> float:
    """The share of the peak learning rate that an update uses.

    The rate rises linearly over the first `warmup` updates: update 0 already uses ``1 / warmup``, and the
    last of them the peak. After that:

    - ``cosine`` falls along half a cosine to `floor` (Loshchilov and Hutter, 2017);
    - ``linear`` falls linearly to `floor`;
    - ``wsd``, warm-up-stable-decay, stays at the peak, then falls linearly to `floor` over the last share
      `decay` of all updates (Hu et al., 2024, MiniCPM);
    - ``constant`` stays at the peak.

    All but ``constant`` end at exactly `floor`, in update ``steps - 1`` (``wsd`` if it decays in any update).

    Args:
        step: The number of the update, from 0.
        steps: How many updates there are.
        kind: One of the four.
        warmup: How many updates the warm-up takes.
        floor: The share at the end.
        decay: The share of all updates over which ``wsd`` falls.
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    start = max(warmup, steps - round(decay * steps)) if kind == "wsd" else warmup
    falling = max(1, steps - start)  # updates of the decay; the first of them already falls
    progress = min(1.0, max(0.0, (step - start + 1) / falling))
    if kind == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return 1 - (1 - floor) * progress
