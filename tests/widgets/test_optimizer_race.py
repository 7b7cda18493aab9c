import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from myllm.training.optimizer import AdamW, Muon, orthogonalize
from myllm.training.schedule import rate as package_rate
from myllm.widgets import OptimizerRace

STEPS = 20


@pytest.fixture(scope="module")
def start(node) -> tuple[dict[str, Tensor], list[str], Tensor, Tensor]:
    """The initial weights, the names of the matrices inside, and the inputs and targets of the batches."""
    weights, layout, ids, places = node(
        OptimizerRace,
        """[Object.fromEntries(Object.entries(initial(4)).map(([name, w]) => [name, [...w]])),
          LAYOUT, IDS, batches(4, count)]""",
        count=STEPS,
    )
    shaped = {
        name: torch.tensor(weights[name], dtype=torch.float64).view((rows, columns) if columns else (rows,))
        for name, rows, columns, *_ in layout
    }
    inside = [name for name, *rest in layout if rest[2:] == [True]]
    at = torch.tensor(places)
    text = torch.tensor(ids)
    return shaped, inside, text[at[..., None] + torch.arange(-4, 0)], text[at]


def loss_of(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    h = F.embedding(x, w["embed"]).flatten(1)
    for name in ("first", "second"):
        h = F.linear(h, w[name], w[f"{name}_bias"]).tanh()
    return F.cross_entropy(F.linear(h, w["head"], w["head_bias"]), y)


def optimizer(kind: str, w: dict[str, Tensor], inside: list[str]) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(w.values(), lr=1.0)
    if kind == "adamw":
        return AdamW(w.values(), lr=1.0, weight_decay=0)
    groups = [{"params": [w[n] for n in w if (n in inside) == muon], "muon": muon} for muon in (False, True)]
    return Muon(groups, lr=1.0, weight_decay=0)


@pytest.mark.parametrize(
    ("kind", "peak", "warmup"), [("sgd", 1.0, 0), ("adamw", 0.03, 5), ("muon", 0.03, 0), ("muon", 0.1, 8)]
)
def test_losses_are_those_of_the_package_and_torch(node, start, kind, peak, warmup):
    initial, inside, x, y = start
    w = {name: tensor.clone().requires_grad_() for name, tensor in initial.items()}
    made = optimizer(kind, w, inside)
    expected = []
    for step in range(STEPS):
        loss = loss_of(w, x[step], y[step])
        expected.append(loss.item())
        made.zero_grad()
        loss.backward()
        for group in made.param_groups:
            group["lr"] = peak * package_rate(step, STEPS, "constant", warmup=warmup)
        made.step()
    options = {"rate": peak, "warmup": warmup, "steps": STEPS, "seed": 4}
    found = node(OptimizerRace, "[...train(kind, options)]", kind=kind, options=options)
    assert found == pytest.approx(expected, abs=1e-9)
    assert expected[-1] < expected[0] - 0.3


def test_gradients_are_those_of_autograd(node, start):
    initial, _, x, y = start
    w = {name: tensor.clone().requires_grad_() for name, tensor in initial.items()}
    loss = loss_of(w, x[2], y[2])
    loss.backward()
    found = node(
        OptimizerRace,
        """(({ loss, gradients }) => [loss, Object.entries(gradients).map(([name, g]) => [name, [...g]])])(
          lossAndGradients(initial(4), batches(4, 3)[2]))""",
    )
    assert found[0] == pytest.approx(loss.item(), abs=1e-12)
    assert {name for name, _ in found[1]} == set(w)
    for name, gradient in found[1]:
        torch.testing.assert_close(
            torch.tensor(gradient, dtype=torch.float64), w[name].grad.flatten(), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("shape", [(5, 5), (3, 9), (9, 3)])
def test_orthogonalized_matrices_are_those_of_the_package(node, shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = node(
        OptimizerRace,
        "[...orthogonalize(Float64Array.from(matrix), rows)]",
        matrix=matrix.flatten().tolist(),
        rows=shape[0],
    )
    expected = orthogonalize(matrix).flatten()
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-9, atol=1e-12)


def test_the_first_guess_is_uniform_and_the_text_is_all_there(node):
    first, sizes, length, alphabet = node(
        OptimizerRace,
        "[train('sgd', { rate: 1, warmup: 0, steps: 1, seed: 9 }).next().value, SIZES, IDS.length, ALPHABET]",
    )
    assert first == pytest.approx(math.log(sizes["V"]), rel=0.02)
    assert (len(alphabet), length) == (sizes["V"], 1202)


def test_runs_follow_the_seed_and_end_where_the_loss_is_not_finite(node):
    options = {"rate": 0.1, "warmup": 0, "steps": 3}
    first, again, other = (
        node(OptimizerRace, "[...train('adamw', options)]", options=options | {"seed": seed})
        for seed in (1, 1, 2)
    )
    assert first == again != other and len(first) == 3
    broken = node(
        OptimizerRace, "[...train('sgd', options)].length", options=options | {"rate": 1e308, "seed": 0}
    )
    assert broken < 3


def test_a_run_is_judged_by_its_last_tenth(node):
    assert node(OptimizerRace, "final([9, ...Array(18).fill(5), 1, 3], 21)") == 2
    assert (
        node(OptimizerRace, "[final([1, NaN], 20), final([1, NaN], 2)].map((x) => x === Infinity)")
        == [True] * 2
    )
    assert (
        node(OptimizerRace, "[3.49, 3.59, 3.60, Infinity].map((x) => diverged(x))")
        == [False] * 2 + [True] * 2
    )


def test_verdict_names_the_best_rate_and_where_all_higher_ones_diverge(node):
    rates = node(OptimizerRace, "RATES")
    assert rates == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]
    cases = {
        (3, 2, 1, 2, 3, 9, 9, 9, 9): {"best": 0.01, "limit": 0.3},
        (3, 2, 9, 1, 3, 3, 3, 3, 9): {"best": 0.03, "limit": 10},
        (3, 2, 2, 2, 3, 3, 3, 3, 1): {"best": 10},
    }
    assert node(OptimizerRace, "cases.map(verdict)", cases=list(cases)) == list(cases.values())


def test_sentence_says_what_is_seen(node):
    runs = [{"name": "SGD", "rate": 3, "loss": 14.2}, {"name": "Muon", "rate": 0.03, "loss": 1.703}]
    ends = "After 200 updates, in nats per character: SGD diverges (rate 3), Muon ends at 1.70 (rate 0.03)."
    assert node(OptimizerRace, "describe(200, runs)", runs=runs) == ends
    verdicts = [{"best": 1, "limit": 3}, {"best": 0.03}]
    assert node(OptimizerRace, "describe(200, runs, verdicts)", runs=runs, verdicts=verdicts) == (
        f"{ends} Best rates: SGD 1, Muon 0.03. SGD diverges from a rate of 3 on, Muon at none of the rates."
    )


def test_curves_are_means_of_ten_batches(node):
    losses = [float(n * n % 17) for n in range(25)]
    found = node(OptimizerRace, "smoothed(losses)", losses=losses)
    means = [sum(losses[max(0, n - 9) : n + 1]) / min(n + 1, 10) for n in range(25)]
    assert found == pytest.approx(means)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 19}, "steps must be a whole number from 20 to 500, not 19"),
        ({"steps": 200.0}, "steps must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        OptimizerRace(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run():
    assert repr(OptimizerRace(100)) == "OptimizerRace(100 steps)"
