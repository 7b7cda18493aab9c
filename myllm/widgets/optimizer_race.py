"""SGD, AdamW and Muon train the same small network, each at a learning rate that the reader sets."""

from __future__ import annotations

import traitlets

from .base import Widget, check_integer, source


class OptimizerRace(Widget):
    """Trains a character model in the page with three optimizers, from the same weights on the same batches.

    The model predicts a character of two sonnets from the four before it: an embedding, two hidden layers of
    24 units with tanh, a head. SGD has no momentum; AdamW and Muon are those of `myllm.training.optimizer`
    without weight decay. After the warm-up the rate is constant. Curves on the right collect the final loss
    of every rate that was tried. A run diverges if it ends more than 0.1 nats above a uniform guess.

    Args:
        steps: Updates in a run, 20 to 500.
        seed: The seed of the initial weights and the batches.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _css = source("layout.css", "config.css", "race.css")
    _esm = source("layout.mjs", "text.mjs", "random.mjs", "controls.mjs", "optimizer_race.mjs")

    steps = traitlets.Int().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    sgd = traitlets.Float(0.01).tag(sync=True)  # the learning rates
    adamw = traitlets.Float(0.01).tag(sync=True)
    muon = traitlets.Float(0.01).tag(sync=True)
    warmup = traitlets.Int(10).tag(sync=True)

    def __init__(self, steps: int = 200, seed: int = 0) -> None:
        check_integer("steps", steps, 20, 500)
        check_integer("seed", seed, 0, 2**31)
        super().__init__(steps=steps, seed=seed)

    def __repr__(self) -> str:
        return f"OptimizerRace({self.steps} steps)"
