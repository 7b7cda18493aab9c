import itertools
import math

import pytest
import torch

from myllm.inference import sampling
from myllm.widgets import SamplingExplorer
from myllm.widgets.sampling_explorer import STEPS, TEMPERATURES

VALUES = {"temperature": 0.6, "top_k": 5, "top_p": 0.8, "min_p": 0.05}
FUNCTIONS = {name: getattr(sampling, name) for name in STEPS}


def row(n, seed, prompt="so"):
    generator = torch.Generator().manual_seed(seed)
    logits = (2.5 * torch.randn(n, generator=generator, dtype=torch.float64)).tolist()
    return {"prompt": prompt, "tokens": [f"t{i}" for i in range(n)], "logits": logits}


def expected(logits, order, active, values=VALUES):
    """What the package makes of the logits."""
    x = torch.tensor([logits], dtype=torch.float64)
    for name in order:
        if name in active:
            x = FUNCTIONS[name](x, values[name])
    return torch.softmax(x, -1)[0].tolist()


def close(found, wanted, tolerance=1e-9):
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_every_order_is_that_of_the_package(node, seed):
    """With all tokens drawn, numbers are the package's; rounding the state to five digits is undone here."""
    widget = SamplingExplorer([row(12, seed)], shown=12)
    state = widget.rows[0]
    for order in itertools.permutations(STEPS):
        for active in (STEPS, ("temperature", "top_p"), ("top_k", "min_p"), ()):
            found = node(
                SamplingExplorer,
                "probabilities(row, all, run(row, all, order, active, values))",
                row=state,
                all=list(TEMPERATURES),
                order=order,
                active=active,
                values=VALUES,
            )
            assert found["rest"] == 0
            assert close(found["each"], expected(state["logits"], order, active))


@pytest.mark.parametrize("T", TEMPERATURES)
def test_the_others_weigh_what_they_weigh_at_every_temperature(node, T):
    given = row(60, 9)
    state = SamplingExplorer([given], shown=20).rows[0]
    values = VALUES | {"temperature": T}
    found = node(
        SamplingExplorer,
        "probabilities(row, all, run(row, all, ['temperature'], ['temperature'], values))",
        row=state,
        all=list(TEMPERATURES),
        values=values,
    )
    whole = sorted(expected(given["logits"], ["temperature"], ["temperature"], values), reverse=True)
    assert close(found["each"], whole[:20], 1e-4)
    assert found["rest"] == pytest.approx(sum(whole[20:]), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", 7), ("top_k", 20), ("top_p", 0.5), ("top_p", 0.9), ("min_p", 0.02)]
)
def test_filters_that_stay_among_the_drawn_tokens_are_exact(node, name, value):
    given = row(60, 5)
    state = SamplingExplorer([given], shown=40).rows[0]
    values = VALUES | {name: value, "temperature": 0.7}
    order = ["temperature", name]
    found = node(
        SamplingExplorer,
        """(() => {
          const state = run(row, all, order, order, values);
          return [probabilities(row, all, state), left(row, state)];
        })()""",
        row=state,
        all=list(TEMPERATURES),
        order=order,
        values=values,
    )
    whole = sorted(expected(given["logits"], order, order, values), reverse=True)
    assert sum(p > 0 for p in whole) == found[1] <= 40
    assert found[0]["rest"] == 0 and close(found[0]["each"], whole[:40], 1e-4)


def test_what_is_too_wide_keeps_the_others_as_a_whole(node):
    state = SamplingExplorer([row(60, 5)], shown=10).rows[0]
    for name, value in (("top_k", 30), ("top_p", 0.999), ("min_p", 1e-9)):
        counted = node(
            SamplingExplorer,
            "left(row, run(row, all, [name], [name], { [name]: value }))",
            row=state,
            all=list(TEMPERATURES),
            name=name,
            value=value,
        )
        assert counted == 60


def test_draws_follow_the_distribution_and_repeat(node):
    p = {"each": [0.5, 0.0, 0.3], "rest": 0.2}
    counts, again = node(SamplingExplorer, "[draws(p, 20000, 3), draws(p, 20000, 3)]", p=p)
    assert counts == again and sum(counts) == 20_000 and counts[1] == 0
    wanted = [10_000, 6_000, 4_000]
    chi = sum((a - b) ** 2 / b for a, b in zip([counts[0], *counts[2:]], wanted, strict=True))
    assert chi < 13.8  # 2 degrees of freedom, 0.1 %


def test_entropy_and_distance(node):
    a, b = {"each": [0.5, 0.25], "rest": 0.25}, {"each": [0.25, 0.25], "rest": 0.5}
    assert node(SamplingExplorer, "[entropy(a), distance(a, b), distance(a, a)]", a=a, b=b) == [1.5, 0.25, 0]


def test_the_sentence_says_what_the_order_changes(node):
    given = row(60, 5)
    state = SamplingExplorer([given], shown=40).rows[0]

    def said(order, active, **values):
        return node(
            SamplingExplorer,
            "describe(row, all, order, active, values)",
            row=state,
            all=list(TEMPERATURES),
            order=order,
            active=active,
            values=VALUES | values,
        )

    assert said(STEPS, []) == (
        "Nothing acts: all 60 tokens can be sampled, with the model's own probabilities."
    )
    first = said(["temperature", "top_p"], ["temperature", "top_p"], temperature=2.0)
    last = said(["top_p", "temperature"], ["temperature", "top_p"], temperature=2.0)
    numbers = {}
    for name, order in (("first", ["temperature", "top_p"]), ("last", ["top_p", "temperature"])):
        p = expected(given["logits"], order, order, VALUES | {"temperature": 2.0})
        numbers[name] = sum(x > 0 for x in p)
    assert numbers["first"] > numbers["last"]
    assert first.startswith(f"{numbers['first']} of 60 tokens are left after temperature, then top-p;")
    assert f"With the temperature last, {numbers['last']} would be left" in first
    assert f"With the temperature first, {numbers['first']} would be left" in last
    assert said(STEPS, ["top_k"], top_k=1).startswith("1 of 60 tokens is left after top-k; the model gave it")


def test_a_grammar_is_a_mask_that_is_divided_by_what_it_leaves(node):
    given = row(50, 2) | {"allowed": [i % 7 == 0 for i in range(50)]}
    state = SamplingExplorer([row(5, 1)], grammar=[given], shown=16).grammar[0]
    p = torch.softmax(torch.tensor(given["logits"], dtype=torch.float64), -1)
    allowed = torch.tensor(given["allowed"])
    assert state["mass"] == pytest.approx(p[allowed].sum().item())
    assert state["left"] == 8 and sum(state["allowed"]) >= 7
    assert state["logits"] == sorted(state["logits"], reverse=True)
    says = node(SamplingExplorer, "describeGrammar(row)", row=state)
    assert says == (
        f"After ‘so’ the grammar leaves 8 of 50 tokens, to which the model gives "
        f"{100 * state['mass']:.1f} % of the probability; the mask divides by that."
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rows": []}, "There must be 1 to 8 rows, not 0"),
        ({"rows": [row(5, 0)] * 9}, "There must be 1 to 8 rows, not 9"),
        ({"rows": [row(5, 0)], "shown": 3}, "number of tokens kept must be a whole number from 4 to 400"),
        ({"rows": [{"prompt": "a"}]}, "A row must have the keys logits, prompt, tokens"),
        ({"rows": [row(5, 0) | {"tokens": ["a"]}]}, "must have one length"),
        ({"rows": [row(5, 0) | {"logits": [0.0, 1, 2, 3, math.inf]}]}, "must be finite"),
        ({"rows": [row(5, 0)], "grammar": [row(5, 0)]}, "keys allowed, logits, prompt, tokens"),
        ({"rows": [row(5, 0)], "grammar": [row(5, 0) | {"allowed": [False] * 5}]}, "at least one token"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        SamplingExplorer(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_real_vocabularies_fit_into_a_page():
    tokens = [f"token{i}" for i in range(50_000)]
    logits = torch.randn(50_000).tolist()
    widget = SamplingExplorer([{"prompt": "a" * 200, "tokens": tokens, "logits": logits}] * 4)
    assert repr(widget) == "SamplingExplorer(4)"
