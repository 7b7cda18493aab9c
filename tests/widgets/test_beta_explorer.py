import pytest
import torch
import torch.nn.functional as F

from myllm.finetuning.dpo import kto_loss, preference_loss
from myllm.widgets import BetaExplorer


@pytest.fixture(scope="module")
def answers():
    """ρ and r, (7,) each, as the widget's module holds them; see the test below."""
    rho = torch.tensor([0.05, 0.05, 0.1, 0.15, 0.3, 0.2, 0.15], dtype=torch.float64)
    return rho, torch.tensor([1, 0.7, 0.5, 0.2, 0, 0, 0], dtype=torch.float64)


def wins(r, always):
    """How often the row is preferred to the column."""
    gap = r[:, None] - r
    return (1 + gap.sign()) / 2 if always else torch.sigmoid(gap)


def loss_of(method, logs, rho, r, beta, always):
    """The expected loss over all pairs, by the package's functions."""
    h, preferred = logs - rho.log(), wins(r, always)
    if method == "kto":
        drift = (logs.exp() * h).sum()
        good, bad = (kto_loss(h, torch.full((7,), which), drift, beta) for which in (True, False))
        share = preferred @ rho
        return (rho * (share * good + (1 - share) * bad)).sum()
    losses = preference_loss(h[:, None], h[None], method=method, beta=beta)
    return (2 * rho[:, None] * rho * preferred * losses).sum()


def test_the_answers_are_a_distribution_with_rewards(node, answers):
    rho, r = answers
    found = node(BetaExplorer, "ANSWERS")
    assert [one["rho"] for one in found] == rho.tolist() and [one["paid"] for one in found] == r.tolist()
    assert rho.sum().item() == pytest.approx(1)
    assert len({one["text"] for one in found}) == 7


@pytest.mark.parametrize("beta", [0.05, 0.3, 2])
def test_no_policy_is_above_the_optimum(node, answers, beta):
    rho, r = answers
    best, earned, moved = node(
        BetaExplorer, "[optimum(beta), reward(optimum(beta)), divergence(optimum(beta))]", beta=beta
    )
    weighed = rho * (r / beta).exp()
    assert best == pytest.approx((weighed / weighed.sum()).tolist())
    assert earned - beta * moved == pytest.approx(beta * weighed.sum().log().item())
    others = torch.randn(2000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(2)
    p = (others + rho.log()).softmax(-1)
    gains = p @ r - beta * (p * (p / rho).log()).sum(-1)
    assert gains.max().item() < earned - beta * moved


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_slopes_are_those_of_autograd(node, answers, method, always):
    rho, r = answers
    h = torch.linspace(-1, 2, 7, dtype=torch.float64).requires_grad_()
    if method == "kto":
        good, bad = (kto_loss(h, torch.full((7,), which), torch.tensor(0.4), 0.3) for which in (True, False))
        share = wins(r, always) @ rho
        total = (rho * (share * good + (1 - share) * bad)).sum()
    else:
        losses = preference_loss(h[:, None], h[None], method=method, beta=0.3)
        total = (2 * rho[:, None] * rho * wins(r, always) * losses).sum()
    [expected] = torch.autograd.grad(total, h)
    found = node(
        BetaExplorer,
        "slope(method, h, 0.3, always, 0.4)",
        method=method,
        h=h.tolist(),
        always=always,
    )
    assert found == pytest.approx(expected.tolist(), abs=1e-10)


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_a_run_is_that_of_pytorch(node, answers, method, always):
    rho, r = answers
    logits = rho.log().clone().requires_grad_()
    adam = torch.optim.Adam([logits], lr=0.05)
    for _ in range(60):
        adam.zero_grad()
        loss_of(method, F.log_softmax(logits, -1), rho, r, 0.3, always).backward()
        adam.step()
    expected = logits.detach().softmax(-1)
    found = node(BetaExplorer, "run(method, 0.3, always)[60]", method=method, always=always)
    assert found == pytest.approx(expected.tolist(), rel=1e-6)


def test_dpo_stops_at_the_optimum_only_if_the_worse_answer_sometimes_wins(node):
    far = "run('dpo', beta, always).map((p) => distance(p, optimum(beta))).at(-1)"
    for beta in (0.2, 0.3, 0.5, 1, 2):
        assert node(BetaExplorer, far, beta=beta, always=False) < 0.02
    assert node(BetaExplorer, far, beta=0.3, always=True) > 0.2
    moved = "run('dpo', 0.3, true).map(divergence)"
    first, last = node(BetaExplorer, f"[200, 400].map((n) => {moved}[n])")
    assert last > first + 0.05


def test_sentence_says_what_is_seen(node):
    assert node(BetaExplorer, "describe('dpo', 0.3, optimum(0.3), 400)").endswith(
        "After 400 updates DPO earns 0.62 at 0.83 nats; 0.0 % of its probability lies elsewhere."
    )


def test_the_method_is_checked():
    with pytest.raises(ValueError, match="method must be one of dpo, ipo, kto"):
        BetaExplorer("ppo")
    assert repr(BetaExplorer("ipo")) == "BetaExplorer('ipo')"
