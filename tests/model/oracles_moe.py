"""Oracles for `myllm.model.moe`: definitions written out token by token; see ``tests/mutants.py``."""

import copy
import importlib
import math

import torch
import torch.nn.functional as F
from torch.testing import assert_close

NEAR = {"atol": 1e-10, "rtol": 1e-10}
N, C, E, K = 23, 6, 4, 2


def moe():
    return importlib.import_module("myllm.model.moe")


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer(**options):
    """In float64, with weights large enough to make every part matter."""
    made = moe().MoE(C, 5, **{"n_experts": E, "top_k": K, **options}).double()
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number))
    return made


def by_hand(mlp, x, normalize=True, bias=(0.0,) * E):
    """One token after the other; the experts as plain matrix products."""
    rows = []
    for token in x.flatten(0, -2):
        logits = [(row * token).sum() for row in mlp.gate.weight]
        total = sum(logit.exp() for logit in logits)
        scores = [logit.exp() / total for logit in logits]
        best = sorted(range(E), key=lambda e: -(scores[e].item() + bias[e]))[: mlp.gate.top_k]
        whole = sum(scores[e] for e in best) if normalize else 1
        out = torch.zeros(C, dtype=x.dtype)
        for e in best:
            w = mlp.experts[e]
            up = F.silu(w.gate_proj.weight @ token) * (w.up_proj.weight @ token)
            out = out + scores[e] / whole * (w.down_proj.weight @ up)
        rows.append(out)
    return torch.stack(rows).view_as(x)


def gradients(mlp, y, x):
    weights = normal(*y.shape, seed=9)
    return torch.autograd.grad((y * weights).sum(), [x, *mlp.parameters()], materialize_grads=True)


def forward_and_gradients():
    x = normal(1, N, C, seed=20).requires_grad_()
    for options in ({}, {"normalize": False}, {"top_k": 1, "normalize": False}, {"top_k": E}):
        mlp = layer(**options)
        y, expected = mlp(x), by_hand(mlp, x, options.get("normalize", True))
        assert_close(y, expected, **NEAR)
        for mine, theirs in zip(gradients(mlp, y, x), gradients(mlp, expected, x), strict=True):
            assert_close(mine, theirs, **NEAR)


def order_does_not_matter():
    """Each token is computed alone: batches of any shape, also of no token."""
    mlp, x = layer(), normal(3, 4, C)
    whole = mlp(x)
    assert_close(torch.stack([mlp(row) for row in x]), whole, **NEAR)
    assert_close(mlp(x[0, 0]), whole[0, 0], **NEAR)
    assert mlp(x[:0]).shape == (0, 4, C)


def bias_chooses_and_does_not_weigh():
    mlp, x = layer(select_bias=True), normal(1, N, C)
    before = mlp(x)
    mlp.gate.select_bias.copy_(torch.tensor([0.0, 0.0, 5.0, -5.0]))
    biased = mlp(x)
    assert (biased - before).abs().max() > 0.1
    assert_close(biased, by_hand(mlp, x, bias=(0.0, 0.0, 5.0, -5.0)), **NEAR)
    assert (mlp.routing.chosen == 2).any(dim=1).all() and not (mlp.routing.chosen == 3).any()


def router_is_exact_in_small_formats():
    """Logits that bfloat16 cannot tell apart, and weights in it."""
    route = moe().route(torch.tensor([[3.0, 3.001, 1.0, 0.0]]), 1)
    assert route.chosen.item() == 1
    mlp = layer().bfloat16()
    x = normal(N, C).bfloat16()
    y = mlp(x)
    assert y.dtype == torch.bfloat16
    assert mlp.routing.scores.dtype == mlp.routing.weights.dtype == torch.float32
    logits = x.float() @ mlp.gate.weight.float().T
    assert_close(mlp.routing.scores, logits.softmax(dim=-1), atol=1e-6, rtol=1e-6)
    assert_close(moe().route(logits.bfloat16(), 2).weights.sum(dim=-1), torch.ones(N))


def unused_experts_have_a_gradient_of_zero():
    mlp = layer(select_bias=True)
    mlp.gate.select_bias.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    mlp(normal(N, C)).sum().backward()
    for e, expert in enumerate(mlp.experts):
        for parameter in expert.parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()) == (e < 2)


class Two(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.one, self.two = layer(**options), layer(**options)
        with torch.no_grad():
            self.two.gate.weight.neg_()

    def forward(self, x):
        return self.two(x + self.one(x))


def load_and_loss():
    m, model, x = moe(), Two(), normal(2, 8, C)
    keep = torch.arange(8) < torch.tensor([[8], [3]])
    model(x)
    for mask in (None, keep):
        used = torch.ones(16, dtype=torch.bool) if mask is None else mask.flatten()
        losses, counts = [], []
        for one in (model.one, model.two):
            chosen, scores = one.routing.chosen[used].tolist(), one.routing.scores[used].detach()
            counts.append([sum(row.count(e) for row in chosen) for e in range(E)])
            shares = [count / (len(chosen) * K) for count in counts[-1]]
            losses.append(E * sum(shares[e] * scores[:, e].mean() for e in range(E)))
        assert m.loads(model, mask).tolist() == counts
        assert_close(m.balance_loss(model, mask).detach(), sum(losses) / 2, **NEAR)
        assert 0.5 < m.balance_loss(model, mask) < E / K
    assert m.loads(model, keep).sum() == 2 * 11 * K
    assert m.balance_loss(model, keep & False) == 0  # nothing but padding

    mlp = layer()
    with torch.no_grad():
        mlp.gate.weight.zero_()
        for parameter in mlp.parameters():
            parameter.requires_grad_(False)
    mlp.gate.weight.requires_grad_(True)
    mlp(x)
    assert_close(m.balance_loss(mlp).item(), 1.0)  # all scores are equal

    with torch.no_grad():  # the gradient lowers the scores of those that have too much to do
        mlp.gate.weight.copy_(torch.tensor([3.0, 2.0, -2.0, -3.0])[:, None])
    mlp(x.abs() + 1)
    m.balance_loss(mlp).backward()
    assert (mlp.gate.weight.grad[:2].sum(dim=1) > 0).any() and (mlp.gate.weight.grad[2:].sum(dim=1) < 0).all()


def bias_update():
    m, model, x = moe(), Two(select_bias=True), normal(40, C)
    model(x)
    counts = torch.tensor([[5, 1, 3, 3], [0, 2, 3, 3]])
    m.update_bias(model, counts, 0.25)
    assert model.one.gate.select_bias.tolist() == [-0.25, 0.25, 0, 0]
    assert model.two.gate.select_bias.tolist() == [0.25, 0, -0.25, -0.25]
    m.update_bias(model, counts)
    assert_close(model.one.gate.select_bias[0].item(), -0.251)
    mlp, x = layer(select_bias=True), normal(400, C)
    with torch.no_grad():
        mlp.gate.weight.mul_(0.3).add_(0.3 * normal(E, 1, seed=5))
    x += 1
    mlp(x)
    assert m.loads(mlp).max() > 300
    for _ in range(400):  # the loads become equal, nearly
        mlp(x)
        m.update_bias(mlp, m.loads(mlp), 0.002)
    assert (m.loads(mlp) - 200).abs().max() < 20


def start():
    mlp = moe().MoE(1000, 2, n_experts=8, top_k=1, select_bias=True)
    mlp.gate.select_bias.fill_(3)
    mlp.gate.reset_parameters()
    assert_close(mlp.gate.weight.std().item(), math.sqrt(0.1 / 1000), rtol=0.05, atol=0)
    assert not mlp.gate.select_bias.any() and "gate.select_bias" in mlp.state_dict()
    plain = moe().MoE(4, 2, n_experts=8, top_k=1)
    assert [*plain.state_dict()][:2] == ["gate.weight", "experts.0.gate_proj.weight"]
    plain(torch.zeros(3, 4)).sum().backward()
    twin = copy.deepcopy(plain)  # an average of the weights, a reference model
    assert twin.routing is None and plain.routing is not None


def refuses(sentence, function, *args):
    try:
        function(*args)
    except ValueError as error:
        assert sentence in str(error), error
    else:
        raise AssertionError(f"not refused: {sentence}")


def messages():
    m, mlp = moe(), layer()
    refuses("top_k is from 1 to n_experts, 4; not 5.", lambda: layer(top_k=5))
    refuses("top_k is from 1 to n_experts, 4; not 0.", lambda: layer(top_k=0))
    refuses("this model has not been called yet", m.loads, mlp)
    refuses("this model has no mixture of experts", m.balance_loss, torch.nn.Linear(1, 1))
    mlp(normal(3, C))
    refuses("make MoE with select_bias=True", m.update_bias, mlp, m.loads(mlp))


ORACLES = [
    forward_and_gradients,
    order_does_not_matter,
    bias_chooses_and_does_not_weigh,
    router_is_exact_in_small_formats,
    unused_experts_have_a_gradient_of_zero,
    load_and_loss,
    bias_update,
    start,
    messages,
]
