"""Policy gradients against the exact gradient: 6 tokens, completions of 3, all 216 of them enumerated."""

import itertools
import math

import pytest
import torch

from myllm.files import UserError
from myllm.finetuning.grpo import METHODS, advantages, divergence, length_weights, policy_loss
from myllm.finetuning.ppo import gae, token_rewards, value_loss, whiten

V, LENGTH = 6, 3
ALL = torch.tensor([*itertools.product(range(V), repeat=LENGTH)])  # (216, 3)
STATES = torch.stack(
    [torch.zeros(len(ALL), dtype=torch.int64), 1 + ALL[:, 0], 1 + V + V * ALL[:, 0] + ALL[:, 1]], 1
)  # the number of each token's prefix
REWARDS = ((ALL * torch.tensor([5, 3, 1])).sum(1) % 7).double() / 3 - 0.5
MASK = torch.ones(len(ALL), LENGTH, dtype=torch.bool)


def table(seed=0, scale=0.7):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1 + V + V * V, V, generator=generator, dtype=torch.float64)


def log_probs(logits):
    """Of each token of each completion, (216, 3)."""
    return torch.log_softmax(logits, -1)[STATES].gather(-1, ALL[..., None])[..., 0]


def grad(value, logits):
    return torch.autograd.grad(value, logits)[0]


def setting():
    logits = table().requires_grad_()
    logs = log_probs(logits)
    p = logs.detach().sum(1).exp()
    exact = grad((log_probs(logits).sum(1).exp() * REWARDS).sum(), logits)
    return logits, logs, p, exact


def mean_gradient(logits, logs, p, coefficients, **options):
    """The mean over completions of the ascent direction in which a loss goes, each with its advantage."""
    losses, _ = policy_loss(logs, logs.detach(), coefficients[:, None].expand_as(logs), MASK, **options)
    return grad(-(p[:, None] * losses).sum(), logits)


def in_groups(p, **options):
    """The mean advantage of each completion over the others that may be in its group of two."""
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(216), torch.arange(216), indexing="ij"))
    found = advantages(torch.stack([REWARDS[i], REWARDS[j]], 1), **options)
    return (p[None] * found[:, 0].view(216, 216)).sum(1)


def apart(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


def test_the_probabilities_of_all_completions_are_one():
    *_, p, _ = setting()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)


def test_reinforce_and_leave_one_out_have_the_exact_gradient_as_their_mean():
    logits, logs, p, exact = setting()
    assert apart(mean_gradient(logits, logs, p, REWARDS, clip=None), exact) < 1e-12
    for baseline in ("none", "others"):
        found = mean_gradient(
            logits, logs := log_probs(logits), p, in_groups(p, baseline=baseline, scale=False)
        )
        assert apart(found, exact) < 1e-12


def test_the_mean_of_the_group_shrinks_the_gradient_and_its_deviation_turns_it():
    logits, logs, p, exact = setting()
    found = mean_gradient(logits, logs, p, in_groups(p, baseline="mean", scale=False))
    assert apart(found, exact / 2) < 1e-12  # 1 - 1/G with G = 2
    logs = log_probs(logits)
    found = mean_gradient(logits, logs, p, in_groups(p, baseline="mean", scale=True))
    cosine = (found * exact).sum() / found.norm() / exact.norm()
    assert 0.5 < cosine < 0.9995


def test_a_baseline_lowers_the_variance():
    logits, _, p, _ = setting()
    scores = torch.autograd.functional.jacobian(lambda t: log_probs(t).sum(1), logits.detach()).flatten(1)

    def variance(coefficients):
        rows = scores * coefficients[:, None]
        return (p * (rows - (p[:, None] * rows).sum(0)).square().sum(1)).sum().item()

    shifted = REWARDS + 3
    assert variance(shifted - (p * shifted).sum()) < variance(shifted) / 5


def test_a_pair_scaled_by_its_deviation_knows_only_who_won():
    found = advantages(torch.tensor([[0.0, 1e3], [0.5, 0.51], [2.0, 2.0]], dtype=torch.float64))
    assert (
        found[:2].tolist()
        == [[pytest.approx(-math.sqrt(0.5), rel=2e-2), pytest.approx(math.sqrt(0.5), rel=2e-2)]] * 2
    )
    assert found[2].tolist() == [0, 0]


def test_a_group_of_one_needs_no_baseline():
    assert advantages(torch.tensor([[2.0]]), baseline="none", scale=False).item() == 2
    for options in ({}, {"baseline": "others", "scale": False}, {"baseline": "none"}):
        with pytest.raises(UserError, match="group of 1"):
            advantages(torch.tensor([[2.0]]), **options)


def test_equal_rewards_are_equal_whatever_their_rounding():
    assert not advantages(torch.full((2, 12), 5000.3)).any()


def test_one_token_alone_is_white():
    assert whiten(torch.tensor([[3.0, 1.0]]), torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]


def test_names_that_nothing_knows_are_refused():
    zero = torch.zeros(1, 2)
    for call in (
        lambda: advantages(zero, baseline="meen"),
        lambda: length_weights(zero == 0, "tokens", 3),
        lambda: policy_loss(zero, zero, zero, zero == 0, ratio="seq"),
        lambda: policy_loss(zero, zero, zero, zero == 0, surrogate="x"),
    ):
        with pytest.raises(UserError, match="must be"):
            call()


# The divergence


def exact_divergence(logits, reference):
    logs = log_probs(logits)
    return (logs.sum(1).exp() * (logs - log_probs(reference)).sum(1)).sum()


def test_the_estimates_of_the_divergence():
    logits, logs, p, _ = setting()
    reference = table(1)
    ratio = log_probs(reference)
    exact = exact_divergence(logits, reference).item()
    means = {k: (p * divergence(logs, ratio, k).sum(1)).sum().item() for k in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(exact, rel=1e-12)
    assert means["k3"] == pytest.approx(exact, rel=1e-12)
    assert means["k2"] != pytest.approx(exact, rel=0.02)
    assert (divergence(logs, ratio, "k3") >= 0).all() and (divergence(logs, ratio, "k1") < 0).any()


def test_the_gradients_of_the_estimates():
    """Given the text before a token; what a token does to later texts is for the reward to say."""
    logits, logs, p, _ = setting()
    reference = table(1)
    ratio, weight = log_probs(reference), p[:, None]
    policy, base = torch.log_softmax(logits, -1), torch.log_softmax(reference, -1)
    visits = torch.zeros(len(logits), dtype=torch.float64)
    visits.index_add_(0, STATES.flatten(), weight.expand_as(logs).flatten())
    exact = grad((visits[:, None] * policy.exp() * (policy - base)).sum(), logits)
    k = {name: divergence(logs, ratio, name) for name in ("k1", "k2", "k3")}
    k["k3 weighted"] = (logs - logs.detach()).exp() * k["k3"]
    found = {
        name: torch.autograd.grad((weight * x).sum(), logits, retain_graph=True)[0] for name, x in k.items()
    }
    assert found["k1"].abs().max() < 1e-12
    assert apart(found["k2"], exact) < 1e-12
    assert apart(found["k3 weighted"], exact) < 1e-12
    assert apart(found["k3"], exact) > 0.05


# Ratios and clipping


@pytest.mark.parametrize(
    "advantage,change,moves",
    [(1, 0.3, False), (1, 0.1, True), (1, -0.5, True), (-1, -0.5, False), (-1, -0.1, True), (-1, 0.5, True)],
)
def test_only_gains_beyond_the_clip_lose_their_gradient(advantage, change, moves):
    logs = torch.tensor([[change]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    loss, clipped = policy_loss(logs, old, torch.full_like(old, advantage), mask, clip=(0.2, 0.2))
    expected = -advantage * math.exp(change) if moves else 0
    assert grad(loss.sum(), logs).item() == pytest.approx(expected)
    assert clipped.item() is not moves
    assert loss.item() == pytest.approx(
        -min(math.exp(change) * advantage, min(max(math.exp(change), 0.8), 1.2) * advantage)
    )


def test_the_upper_clip_is_its_own():
    logs, zero = torch.tensor([[math.log(1.25)]]), torch.zeros(1, 1)
    for clip, outside in (((0.2, 0.2), True), ((0.2, 0.28), False), ((0.3, 0.2), True)):
        assert policy_loss(logs, zero, zero + 1, zero == 0, clip=clip)[1].item() is outside
    assert not policy_loss(logs + 9, zero, zero + 1, zero == 0, clip=None)[1].item()


def test_a_sequence_has_the_geometric_mean_of_its_ratios():
    logs = torch.tensor(
        [[0.1, 0.5, -0.2, 9.0], [0.3, 9.0, 9.0, 9.0]], dtype=torch.float64, requires_grad=True
    )
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    old = torch.zeros_like(logs).detach()
    loss, _ = policy_loss(logs, old, torch.ones_like(old), mask, ratio="sequence", clip=None)
    means = [math.exp(0.4 / 3), math.exp(0.3)]
    assert loss.tolist() == [[pytest.approx(-means[0])] * 3 + [0], [pytest.approx(-means[1]), 0, 0, 0]]
    found = grad(loss.sum(), logs)
    assert found[0].tolist() == [pytest.approx(-means[0])] * 3 + [0]


def test_cispo_limits_the_weight_and_keeps_the_gradient():
    logs = torch.tensor([[2.0, -0.1]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    loss, outside = policy_loss(logs, old, torch.ones_like(old), mask, surrogate="cispo", clip=(1.0, 4.0))
    assert grad(loss.sum(), logs).tolist() == [[pytest.approx(-5), pytest.approx(-math.exp(-0.1))]]
    assert outside.tolist() == [[True, False]]


def test_tokens_that_nobody_wrote_have_no_loss():
    logs, old = torch.randn(2, 4), torch.randn(2, 4)
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0]]).bool()
    for ratio, surrogate in itertools.product(("token", "sequence"), ("ppo", "cispo")):
        losses, outside = policy_loss(logs, old, torch.ones(2, 4), mask, ratio=ratio, surrogate=surrogate)
        assert not losses[~mask].any() and not outside[~mask].any()


def test_how_a_long_completion_counts():
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 1, 1, 0]]).bool()
    x = torch.rand(3, 5)
    found = {
        name: (length_weights(mask, name, 8) * x).sum() for name in ("sum", "sequence", "token", "constant")
    }
    rows = [x[i][mask[i]] for i in range(3)]
    assert found["sum"] == pytest.approx(sum(row.sum().item() for row in rows))
    assert found["sequence"] == pytest.approx(sum(row.mean().item() for row in rows))
    assert found["token"] / 3 == pytest.approx(torch.cat(rows).mean().item())
    assert found["constant"] == pytest.approx(sum(row.sum().item() for row in rows) / 8)


def test_the_methods_are_those_of_their_papers():
    assert METHODS["gspo"]["ratio"] == "sequence" and METHODS["dapo"]["clip"] == (0.2, 0.28)
    assert METHODS["dr-grpo"] == {"scale": False, "length": "constant"} and METHODS["grpo"] == {}


# Values


def episodes():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(4, 9, dtype=torch.bool)
    for row, (start, end) in enumerate([(2, 9), (3, 4), (1, 5), (4, 8)]):
        mask[row, start:end] = True
    rewards, values = (torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in "rv")
    return rewards * mask, values, mask


@pytest.mark.parametrize("discount,decay", [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0), (0.9, 0.7)])
def test_advantages_are_those_of_the_definition(discount, decay):
    rewards, values, mask = episodes()
    found = gae(rewards, values, mask, discount=discount, decay=decay)
    for row in range(4):
        times = mask[row].nonzero().flatten().tolist()
        for t in times:
            total = 0.0
            for k, later in enumerate(u for u in times if u >= t):
                after = values[row, later + 1] if later + 1 in times else 0.0  # nothing follows the end
                total += (discount * decay) ** k * (
                    rewards[row, later] + discount * after - values[row, later]
                )
            assert found[row, t].item() == pytest.approx(total.item(), abs=1e-12)
    assert not found[~mask].any()


def test_without_values_the_advantage_is_the_reward_to_come():
    rewards, values, mask = episodes()
    found = gae(rewards, 0 * values, mask, decay=1.0)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(found[mask], to_come[mask])


def test_the_reward_is_paid_at_the_last_token():
    _, _, mask = episodes()
    generator = torch.Generator().manual_seed(1)
    logs, reference = (torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in "lr")
    rewards = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    found = token_rewards(rewards, logs, None, mask, 0.0)
    assert [row.nonzero().flatten().tolist() for row in found] == [[8], [3], [4], [7]]
    assert found.sum(1).tolist() == rewards.tolist()
    found = token_rewards(rewards, logs, reference, mask, 0.1)
    sums = rewards - 0.1 * ((logs - reference) * mask).sum(1)
    assert torch.allclose(found.sum(1), sums) and not found[~mask].any()


def test_whitened_advantages_have_mean_zero_and_deviation_one():
    x, _, mask = episodes()
    found = whiten(5 + 3 * x, mask)
    assert found[mask].mean().abs() < 1e-12 and found[mask].std().item() == pytest.approx(1, abs=1e-6)
    assert not found[~mask].any()


def test_a_value_that_moved_too_far_pays_for_the_nearer_error():
    old, returns = torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, 1.0])
    values = torch.tensor([0.1, 0.5, 0.5, 1.0])
    found = value_loss(values, old, returns, 0.2)
    assert found.tolist() == pytest.approx([0.81 / 2, 0.64 / 2, 2.25 / 2, 0.64 / 2])
    assert value_loss(values, old, returns, None).tolist() == pytest.approx([0.405, 0.125, 1.125, 0.0])
