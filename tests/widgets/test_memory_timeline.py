import random

import pytest

from myllm.widgets import MemoryTimeline
from myllm.widgets.base import STATE_LIMIT

TINY = {
    "name": "tiny",
    "parameters": 10,
    "gradients": 12,
    "optimizer": 40,
    "layers": [16, 32, 64],
    "logits": 100,
}


def drawn(seed: int) -> tuple[dict, bool, int]:
    rng = random.Random(seed)
    n = rng.randint(1, 9)
    config = {name: rng.randint(0, 10**9) for name in ("parameters", "gradients", "optimizer", "logits")}
    config |= {"name": "random", "layers": [rng.randint(0, 10**9) for _ in range(n)]}
    if rng.random() < 0.5:
        config["inputs"] = [rng.randint(0, size) for size in config["layers"]]
    return config, rng.random() < 0.5, rng.choice([1, 2, 4, 7])


def simulated(config: dict, recompute: bool, micro: int) -> list[float]:
    """The bytes after each allocation of a step, found by allocating and freeing one thing after another."""
    layers = [size / micro for size in config["layers"]]
    inputs = [size / micro for size in config.get("inputs") or [s / 16 for s in config["layers"]]]
    kept = inputs if recompute else layers
    alive = config["parameters"] + config["optimizer"]
    seen = [alive]
    for batch in range(micro):
        for size in kept:
            alive += size
            seen.append(alive)
        seen.append(alive + config["logits"] / micro)
        for i in reversed(range(len(layers))):
            alive -= kept[i]
            alive += 0 if batch else config["gradients"] / len(layers)
            seen.append(alive + layers[i])
    seen += [alive, alive - config["gradients"]]
    return seen


RANDOM = [drawn(seed) for seed in range(80)]
RUN = "timeline(config, recompute, micro)"


def test_bytes_are_those_of_a_simulated_allocator(node):
    found = node(
        MemoryTimeline,
        """cases.map(([config, recompute, micro]) => {
          const moments = timeline(config, recompute, micro);
          return [moments.map(({ alive }) => total(alive)), peak(moments)];
        })""",
        cases=RANDOM,
    )
    for case, (bytes_, top) in zip(RANDOM, found, strict=True):
        assert bytes_ == pytest.approx(simulated(*case), rel=1e-12)
        assert bytes_[top] == max(bytes_)
        assert bytes_[0] == bytes_[-1] == case[0]["parameters"] + case[0]["optimizer"]


def test_every_moment_by_hand(node):
    moments = node(MemoryTimeline, RUN, config=TINY, recompute=False, micro=1)
    rows = [
        (one["phase"], *(one["alive"][kind] for kind in node(MemoryTimeline, "KINDS"))) for one in moments
    ]
    assert rows == [
        ("before the step", 10, 40, 0, 0, 0),
        ("forward, layer 0", 10, 40, 0, 16, 0),
        ("forward, layer 1", 10, 40, 0, 48, 0),
        ("forward, layer 2", 10, 40, 0, 112, 0),
        ("logits and loss", 10, 40, 0, 112, 100),
        ("backward, layer 2", 10, 40, 4, 112, 0),
        ("backward, layer 1", 10, 40, 8, 48, 0),
        ("backward, layer 0", 10, 40, 12, 16, 0),
        ("update by the optimizer", 10, 40, 12, 0, 0),
        ("after the step", 10, 40, 0, 0, 0),
    ]
    again = node(MemoryTimeline, RUN, config=TINY, recompute=True, micro=1)
    activations = [one["alive"]["activations"] for one in again]
    assert activations == [0, 1, 3, 7, 7, 1 + 2 + 64, 1 + 32, 16, 0, 0]
    halves = node(MemoryTimeline, RUN, config=TINY, recompute=False, micro=2)
    assert [one["phase"] for one in halves][11] == "logits and loss, micro-batch 2 of 2"
    alive = {"parameters": 10, "optimizer": 40, "gradients": 12, "activations": 56, "logits": 50}
    assert halves[11]["alive"] == alive
    assert [one["alive"]["gradients"] for one in halves] == [0] * 5 + [4, 8] + [12] * 9 + [0]


def test_recomputation_runs_each_layer_forward_twice(node):
    cases = [(config, again, micro) for config, _, micro in RANDOM for again in (False, True)]
    lasts = node(
        MemoryTimeline,
        "cases.map((one) => timeline(...one).slice(1, -2).reduce((sum, { lasts }) => sum + lasts, 0))",
        cases=cases,
    )
    for (config, again, micro), time in zip(cases, lasts, strict=True):
        n = len(config["layers"])
        assert time == micro * ((4 if again else 3) * n + 3)  # a forward pass is 1, a backward pass 2


def test_micro_batches_divide_the_activations(node):
    peaks = """[1, 2, 4, 8].map((micro) =>
      Math.max(...timeline(config, false, micro).map(({ alive }) => alive.activations)))"""
    for config, _, _ in RANDOM[:10]:
        whole = sum(config["layers"])
        assert node(MemoryTimeline, peaks, config=config) == pytest.approx([whole / m for m in (1, 2, 4, 8)])


@pytest.mark.parametrize(
    ("changes", "recompute", "micro", "sentence"),
    [
        (
            {},
            False,
            1,
            "tiny: the peak is 262 bytes, reached at ‘logits and loss’; 42.7 % of it are activations, and "
            "with recomputation it would be 157 bytes.",
        ),
        (
            {"logits": 2_000_000_000},
            True,
            2,
            "tiny: the peak is 1 GB, reached at ‘logits and loss, micro-batch 2 of 2’; 100.0 % of it are "
            "logits, and without recomputation it would be 1 GB.",
        ),
        (
            {"optimizer": 500, "gradients": 300, "logits": 0, "layers": [0, 0]},
            False,
            1,
            "tiny: the peak is 810 bytes, reached at ‘backward, layer 0’; 61.7 % of it is the optimizer's "
            "state, and with recomputation it would be 810 bytes.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, changes, recompute, micro, sentence):
    say = "describe(config, recompute, micro)"
    assert node(MemoryTimeline, say, config=TINY | changes, recompute=recompute, micro=micro) == sentence


@pytest.mark.parametrize(
    ("configs", "sentence"),
    [
        ([], "There must be 1 to 12 configurations, not 0"),
        ([TINY] * 13, "There must be 1 to 12 configurations, not 13"),
        ([{"name": "tiny"}], "A configuration must have the keys gradients, layers, logits, name, "),
        ([TINY | {"moments": 3}], "A configuration must have the keys "),
        (["tiny"], "A configuration must have the keys "),
        ([TINY | {"name": ""}], "name must be a string of 1 to 60 characters"),
        ([TINY | {"optimizer": -1}], "bytes of optimizer must be a whole number from 0 "),
        ([TINY | {"logits": 2.5}], "bytes of logits must be a whole number from 0 "),
        ([TINY | {"layers": []}], "layers must be a list of 1 to 200 numbers of bytes"),
        ([TINY | {"layers": [1, -2]}], r"bytes of layers\[1\] must be a whole number"),
        ([TINY | {"inputs": [1, 2]}], "inputs must be as many as the layers"),
    ],
)
def test_bad_configurations_get_one_sentence(configs, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        MemoryTimeline(configs)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_bad_number_of_micro_batches_gets_one_sentence():
    with pytest.raises(
        ValueError, match=r"number of micro-batches must be a whole number from 1 to 32, not 0\."
    ):
        MemoryTimeline([TINY], micro_batches=0)


def test_state_is_bounded_and_plain():
    largest = TINY | {"layers": [10**15] * 100, "inputs": (10**15,) * 100}
    with pytest.raises(ValueError, match=f"{STATE_LIMIT:,} are allowed"):
        MemoryTimeline([largest] * 12)
    widget = MemoryTimeline([largest, TINY])
    assert widget.configs == [largest | {"inputs": [10**15] * 100}, TINY]


def test_text_form_is_the_same_in_every_run():
    assert repr(MemoryTimeline([TINY, TINY | {"name": "huge"}])) == "MemoryTimeline(2)"
