"""Mixed precision: sensitivities are those of single swaps; allocations are compared with all there are."""

import itertools
import random

import pytest
import torch
from quantization_cases import IDS, tiny
from torch import nn

from myllm import perplexity
from myllm.files import UserError
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.int8 import Int8Linear
from myllm.quantization.schemes import quantize
from myllm.quantization.search import Cost, allocate, sensitivity

NAMES = ["layers.0.self_attn.v_proj", "layers.1.mlp.down_proj"]
CHOICES = {"int8": Int8Linear, "int4": Int4Linear}


def test_sensitivity_is_that_of_one_layer_swapped_alone():
    model, plain = tiny(), tiny()
    ids = IDS.flatten()

    def loss():
        return perplexity(model, ids)

    table = sensitivity(model, loss, CHOICES, NAMES)
    assert [*table] == NAMES and all([*row] == ["full", "int8", "int4"] for row in table.values())
    for name, row in table.items():
        assert row["full"] == Cost(plain.get_submodule(name).weight.nbytes, 0.0)
        for scheme in CHOICES:
            one = quantize(tiny(), scheme, match=lambda found, linear, name=name: found == name)
            assert row[scheme].nbytes == one.get_submodule(name).nbytes
            assert row[scheme].loss == perplexity(one, ids) - perplexity(plain, ids) != 0
    assert all(type(model.get_submodule(name)) is nn.Linear for name in NAMES)
    assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))


def test_an_error_puts_the_layer_back():
    model = tiny()
    with pytest.raises(ZeroDivisionError):
        sensitivity(model, lambda: 1 / sum(type(x) is nn.Linear for x in model.modules()) / 0, CHOICES, NAMES)
    calls = iter([1.0, 2.0])
    with pytest.raises(StopIteration):
        sensitivity(model, lambda: next(calls), CHOICES, NAMES)
    assert all(type(model.get_submodule(name)) is nn.Linear for name in NAMES)


def total(table, chosen):
    costs = [table[name][choice] for name, choice in chosen.items()]
    return sum(one.nbytes for one in costs), sum(one.loss for one in costs)


def best(table, budget):
    """The least loss of all allocations that fit."""
    every = itertools.product(*([(name, choice) for choice in row] for name, row in table.items()))
    costs = [total(table, dict(one)) for one in every]
    return min(loss for nbytes, loss in costs if nbytes <= budget)


TABLE = {
    "a": {"full": Cost(40, 0.0), "int8": Cost(10, 0.1), "int4": Cost(6, 3.0)},
    "b": {"full": Cost(80, 0.0), "int8": Cost(20, 0.4), "int4": Cost(12, 0.6)},
}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [  # loss per byte saved: a 0.1/30, then 2.9/4; b 0.4/60, then 0.2/8
        (10**9, "full full"),
        (120, "full full"),
        (119, "int8 full"),
        (90, "int8 full"),
        (89, "int8 int8"),
        (30, "int8 int8"),
        (29, "int8 int4"),
        (22, "int8 int4"),
        (21, "int4 int4"),
        (18, "int4 int4"),
    ],
)
def test_a_small_table(budget, expected):
    chosen = allocate(TABLE, budget)
    assert " ".join(chosen.values()) == expected and [*chosen] == ["a", "b"]
    assert total(TABLE, chosen)[0] <= budget


def test_too_small_a_budget_is_one_sentence():
    with pytest.raises(UserError, match=r"need at least 18 bytes; the budget is 17\.$"):
        allocate(TABLE, 17)
    assert allocate({}, 0) == {}


def test_a_format_that_helps_is_taken_whatever_the_budget():
    table = {"a": {"full": Cost(40, 0.0), "int8": Cost(10, -0.1), "int4": Cost(6, 3.0)}}
    assert allocate(table, 1_000) == {"a": "int8"}
    level = {"a": {"full": Cost(40, 0.0), "int8": Cost(10, 0.0)}}
    assert allocate(level, 1_000) == {"a": "int8"}


def convex(rng):
    """Formats of one layer, each saving costing more loss per byte than the last one."""
    slopes = sorted(rng.sample(range(1, 1_000), 3))
    row, nbytes, loss = {"full": Cost(100, 0.0)}, 100, 0.0
    for i, slope in enumerate(slopes):
        saved = rng.randint(1, 30)
        nbytes, loss = nbytes - saved, loss + slope * saved
        row[f"format {i}"] = Cost(nbytes, loss)
    return row


def test_greedy_is_optimal_at_the_bytes_where_its_steps_end():
    rng = random.Random(0)
    for _ in range(40):
        table = {name: convex(rng) for name in "abc"}
        smallest = sum(min(one.nbytes for one in row.values()) for row in table.values())
        for budget in (300, 250, 220, smallest + 10, smallest):
            nbytes, loss = total(table, allocate(table, max(budget, smallest)))
            assert nbytes <= max(budget, smallest) and loss == best(table, nbytes)


def test_what_greedy_does_not_guarantee():
    """One step saves more than is needed: the cheap one per byte is the dearer one in all."""
    table = {
        "a": {"full": Cost(100, 0.0), "int8": Cost(50, 5.0)},
        "b": {"full": Cost(100, 0.0), "int8": Cost(90, 2.0)},
    }
    assert allocate(table, 190) == {"a": "int8", "b": "full"} and best(table, 190) == 2.0
