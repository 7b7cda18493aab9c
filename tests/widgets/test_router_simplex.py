import math

import pytest
import torch

from myllm.model.moe import MoE, loads, route, update_bias
from myllm.widgets import RouterSimplex

CASES = [
    (logits, bias, k, temperature)
    for logits in ([1.2, 0.5, -0.6], [-3.0, 0.1, 0.0], [0.3, 0.2, 0.25])
    for bias in ([0, 0, 0], [-0.3, 0.1, 0.4], [0.5, -0.5, 0])
    for k in (1, 2)
    for temperature in (0.5, 1.0, 2.0)
]


@pytest.mark.parametrize(("logits", "bias", "k", "temperature"), CASES)
def test_scores_choice_and_weights_are_those_of_the_router(node, logits, bias, k, temperature):
    z = torch.tensor([logits], dtype=torch.float64) / temperature
    expected = route(z, k, bias=torch.tensor(bias, dtype=torch.float64))
    code = "(() => { const s = softmax(z, t), c = choose(s, b, k); return [s, c, weigh(s, c)]; })()"
    scores, chosen, weights = node(RouterSimplex, code, z=logits, t=temperature, b=bias, k=k)
    assert scores == pytest.approx(expected.scores[0].tolist())
    assert chosen == expected.chosen[0].tolist()
    assert weights == pytest.approx(expected.weights[0].tolist())


@pytest.mark.parametrize("k", [1, 2])
def test_the_button_is_the_update_of_the_package(node, k):
    tokens = node(RouterSimplex, "cloud([1, 0.2, -0.8])")
    assert len(tokens) == 90
    mlp = MoE(3, 1, n_experts=3, top_k=k, select_bias=True).double()
    with torch.no_grad():
        mlp.gate.weight.copy_(torch.eye(3))
    x, bias = torch.tensor(tokens, dtype=torch.float64), [0, 0, 0]
    for _ in range(30):
        mlp(x)
        counts = node(RouterSimplex, "load(x, 1, b, k)", x=tokens, b=bias, k=k)
        assert counts == loads(mlp)[0].tolist()
        update_bias(mlp, loads(mlp), 0.02)
        bias = node(RouterSimplex, "balance(b, counts)", b=bias, counts=counts)
        assert bias == pytest.approx(mlp.gate.select_bias.tolist(), abs=1e-6)
        mlp.gate.select_bias.copy_(torch.tensor(bias))
    assert max(counts) < 1.25 * sum(counts) / 3


def test_the_cloud_is_normal_around_the_tilt(node):
    tokens = torch.tensor(node(RouterSimplex, "cloud([1, 0.2, -0.8], 20000, 3)"))
    torch.testing.assert_close(tokens.mean(0), torch.tensor([1, 0.2, -0.8]), atol=0.04, rtol=0)
    torch.testing.assert_close(tokens.std(0), torch.ones(3), atol=0.03, rtol=0)


def area(polygon):
    """Of a polygon whose corners are scores, as a share of the triangle."""
    points = [(p[1], p[2]) for p in polygon]
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(points, points[1:] + points[:1], strict=True)))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("bias", [[0, 0, 0], [0.2, -0.1, 0], [0.6, -0.6, -0.6]])
def test_regions_fill_the_triangle_as_the_choice_does(node, k, bias):
    polygons = node(RouterSimplex, "[0, 1, 2].map((i) => region(i, b, k))", b=bias, k=k)
    areas = [area(polygon) for polygon in polygons]
    assert sum(areas) == pytest.approx(1)
    points = torch.distributions.Dirichlet(torch.ones(3)).sample((20_000,))
    ranked = (points + torch.tensor(bias)).argsort(dim=1, descending=True)
    cell = ranked[:, 0] if k == 1 else ranked[:, 2]
    found = [(cell == i).float().mean().item() for i in range(3)]
    assert areas == pytest.approx(found, abs=0.02)


def test_dragging_comes_back_to_where_it_went(node):
    code = "(() => { const [x, y] = at(softmax(z, t)); return softmax(logitsOf(scoresAt(x, y), t), t); })()"
    for z, t in (([1.2, 0.5, -0.6], 1.0), ([0.0, 0.0, 0.0], 2.0), ([2.0, -1.0, -1.0], 0.7)):
        expected = torch.softmax(torch.tensor(z) / t, dim=0).tolist()
        assert node(RouterSimplex, code, z=z, t=t) == pytest.approx(expected, abs=0.01)
    outside = node(RouterSimplex, "scoresAt(-500, 900)")
    assert min(outside) > 0 and sum(outside) == pytest.approx(1)


def test_sentences(node):
    say = "describe(z, 1, b, k, [50, 30, 10])"
    assert node(RouterSimplex, say, z=[1.2, 0.5, -0.6], b=[0, 0, 0], k=1) == (
        "The scores of the token are 0.60, 0.30, 0.10; it goes to expert 1. The weight is 1.00, or the "
        "score, 0.60, where weights are not normalized. Of 90 assignments the experts get 56, 33, 11 %; "
        "the busiest one has 1.67 times the mean."
    )
    assert node(RouterSimplex, say, z=[1.2, 0.5, -0.6], b=[-0.3, 0, 0.3], k=2).startswith(
        "The scores of the token are 0.60, 0.30, 0.10; it goes to experts 3 and 1; without the bias it would "
        "go to experts 1 and 2. The weights are 0.14 and 0.86, from the scores without the bias. "
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"logits": (1, 2)}, "logits must be a list of 3 numbers"),
        ({"logits": (1, 2, 5)}, "logits must be a number from -4 to 4, not 5"),
        ({"bias": (0, 0, 0.7)}, "bias must be a number from -0.6 to 0.6, not 0.7"),
        ({"top_k": 3}, "top_k must be a whole number from 1 to 2, not 3"),
        ({"temperature": 0}, "temperature must be a number from 0.25 to 4, not 0"),
        ({"tilt": (math.nan, 0, 0)}, "tilt must be a number"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        RouterSimplex(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_and_size():
    widget = RouterSimplex(top_k=2)
    assert repr(widget) == "RouterSimplex(1.2, 0.5, -0.6; top 2)"
    assert len(str(widget._esm)) + len(str(widget._css)) < 40_000
