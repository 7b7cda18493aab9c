from itertools import product

import pytest
import torch

from myllm.finetuning.grpo import advantages
from myllm.widgets import PolicyPlayground

SETTINGS = {
    "group": 8,
    "rate": 0.3,
    "beta": 0.0,
    "baseline": True,
    "scale": True,
    "planted": False,
    "seed": 0,
}


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_advantages_are_those_of_the_package(node, baseline, scale):
    rewards = [1.0, 0.0, 0.5, 0.0]
    found = node(
        PolicyPlayground, "advantages(rewards, baseline, scale)", **locals_of(rewards, baseline, scale)
    )
    expected = advantages(
        torch.tensor([rewards]).double(), baseline="mean" if baseline else "none", scale=scale
    )[0]
    assert found == pytest.approx(expected.tolist())


def locals_of(rewards: list[float], baseline: bool, scale: bool) -> dict[str, object]:
    return {"rewards": rewards, "baseline": baseline, "scale": scale}


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_gradient_is_that_of_autograd(node, beta):
    table = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    group, gains = [[3, 4, 5], [0, 5], [5], [3, 3, 3]], [1.0, -0.5, 0.25, 2.0]
    found = node(
        PolicyPlayground,
        "gradient(table.map(softmax), START.map(softmax), group, gains, beta)",
        table=table.tolist(),
        group=group,
        gains=gains,
        beta=beta,
    )
    start = torch.tensor(node(PolicyPlayground, "START")).double().log_softmax(-1)
    logs = table.requires_grad_().log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for ids, gain in zip(group, gains, strict=True):
        for place, token in enumerate(ids):
            k1 = logs[place, token] - start[place, token]
            total = total + gain * logs[place, token] - beta * k1.square() / 2
    [expected] = torch.autograd.grad(total / len(group), table)
    torch.testing.assert_close(torch.tensor(found).double(), expected)


def test_expected_values_are_sums_over_all_draws(node):
    probabilities = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).softmax(-1).tolist()
    right = o = 0.0
    for draw in product(range(6), repeat=3):
        chance = probabilities[0][draw[0]] * probabilities[1][draw[1]] * probabilities[2][draw[2]]
        ids = draw[: draw.index(5) + 1] if 5 in draw else draw
        right += chance * (ids == (3, 4, 5))
        o += chance * ids.count(3) / 3
    found = node(PolicyPlayground, "[truth, proxy].map((value) => expected(p, value))", p=probabilities)
    assert found == pytest.approx([right, o])


def test_a_run_learns_and_a_planted_reward_is_hacked(node):
    steps = (
        "(({ length, 0: a, [length - 1]: z }) => [length, a.right, z.right, a.paid, z.paid])(run(settings))"
    )
    length, before, after, *_ = node(PolicyPlayground, steps, settings=SETTINGS)
    assert length == 301 and before < 0.1 and after > 0.9
    _, before, after, first, last = node(PolicyPlayground, steps, settings=SETTINGS | {"planted": True})
    assert after < before and last > 0.9 > first
    best = node(
        PolicyPlayground,
        "Math.max(...run(settings).map((step) => step.right))",
        settings=SETTINGS | {"planted": True, "rate": 0.1},
    )
    assert best > before


def test_draws_follow_the_probabilities(node):
    found = node(
        PolicyPlayground,
        "((random) => Array.from({ length: 4000 }, () => draw(START.map(softmax), random)))(generator(3))",
    )
    start = torch.tensor(node(PolicyPlayground, "START")).double().softmax(-1)
    for token in range(6):
        share = sum(ids[0] == token for ids in found) / len(found)
        assert share == pytest.approx(start[0, token].item(), abs=0.03)
    assert all(5 not in ids[:-1] and (len(ids) == 3 or ids[-1] == 5) for ids in found)


def test_sentence_says_what_is_seen(node):
    steps = [
        {"right": 0.1, "paid": 0.2, "rewards": [0, 0]},
        {"right": 0.3, "paid": 0.5, "rewards": [0, 1]},
        {"right": 0.2, "paid": 0.9, "rewards": [1, 1]},
    ]
    assert node(PolicyPlayground, "describe(all, 2, false)", all=steps) == (
        "After 2 updates it writes ot■ in 20.0 % of cases; 50.0 % of the groups had one reward for all."
    )
    assert node(PolicyPlayground, "describe(all, 0, false)", all=steps) == (
        "After 0 updates it writes ot■ in 10.0 % of cases."
    )
    assert node(PolicyPlayground, "describe(all, 2, true)", all=steps) == (
        "After 2 updates the policy earns 0.90 of the planted reward, and it writes ot■ in 20.0 % of cases, "
        "down from 30.0 % after 1 update."
    )


def test_the_seed_is_checked():
    with pytest.raises(ValueError, match="seed must be a whole number"):
        PolicyPlayground(-1)
    assert repr(PolicyPlayground()) == "PolicyPlayground(0)"
