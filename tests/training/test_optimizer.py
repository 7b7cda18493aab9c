"""Optimizers against PyTorch's, singular values, and which parameters get which."""

import copy

import pytest
import torch
from tiny import transformer
from torch import nn

from myllm.files import UserError
from myllm.training.optimizer import AdamW, Muon, make_optimizer, orthogonalize, parameter_groups


def problem():
    """Two parameters and the gradients of twenty steps, fp64."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 3).double()), nn.Parameter(torch.randn(5).double())]
    steps = [[torch.randn_like(p) * 10.0**-i for p in params] for i in (0, 1, 2, 3) * 5]
    return params, steps


def run(make, params, steps):
    params = copy.deepcopy(params)
    optimizer = make(params)
    for i, gradients in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (i + 1)
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    return params


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1},
        {"betas": (0.5, 0.999), "eps": 1e-2, "weight_decay": 0.0},
        {"betas": (0.0, 0.9), "eps": 1e-3, "weight_decay": 0.5},
    ],
    ids=str,
)
def test_adamw_equals_pytorchs_over_twenty_steps(fused, options):
    params, steps = problem()
    ours = run(lambda p: AdamW(p, lr=0.1, **options), params, steps)
    theirs = run(lambda p: torch.optim.AdamW(p, lr=0.1, fused=fused, **options), params, steps)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_the_first_update_by_hand():
    """Corrected for their start at zero, the averages of one gradient are that gradient and its square."""
    p = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    p.grad = torch.tensor([0.5, -1e-3], dtype=torch.float64)
    AdamW([p], lr=0.1, eps=1e-3, weight_decay=0.2).step()
    expected = torch.tensor([2 * 0.98 - 0.1 * 0.5 / 0.501, -3 * 0.98 + 0.1 * 0.5], dtype=torch.float64)
    torch.testing.assert_close(p.detach(), expected, rtol=1e-14, atol=0)


def test_without_a_gradient_nothing_happens_and_a_closure_is_refused():
    p = nn.Parameter(torch.ones(2))
    optimizer = AdamW([p])
    optimizer.step()
    assert torch.equal(p, torch.ones(2)) and not optimizer.state
    with pytest.raises(UserError, match="no closure"):
        optimizer.step(lambda: None)


def with_values(rows, columns, values):
    """A matrix with given singular values, and the nearest semi-orthogonal one."""
    torch.manual_seed(0)
    n = min(rows, columns)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns).double(), full_matrices=False)
    return u @ torch.diag(values[:n]) @ v, u @ v


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_orthogonalize_keeps_singular_vectors_and_evens_out_values(shape):
    matrix, nearest = with_values(*shape, torch.linspace(1.0, 0.05, 8).double())
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and found.dtype == torch.float64
    assert values.min() > 0.65 and values.max() < 1.25
    inside = nearest.mT @ found if shape[0] >= shape[1] else found @ nearest.mT  # V S V', symmetric
    torch.testing.assert_close(inside, inside.mT, rtol=0, atol=1e-9)
    torch.testing.assert_close(orthogonalize(-100 * matrix), -found, rtol=0, atol=1e-5)


def test_orthogonalize_applies_the_polynomial_to_singular_values():
    matrix, _ = with_values(5, 7, torch.linspace(1.0, 0.2, 8).double())
    x = torch.linalg.svdvals(matrix) / matrix.norm()
    for _ in range(3):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    found = torch.linalg.svdvals(orthogonalize(matrix, steps=3))
    torch.testing.assert_close(found, x.abs().sort(descending=True).values, rtol=1e-6, atol=0)


def test_sixteen_bits_are_orthogonalized_in_fp32():
    matrix, _ = with_values(8, 8, torch.linspace(1.0, 0.05, 8).double())
    assert orthogonalize(matrix.bfloat16()).dtype == torch.float32


def test_muon_by_the_definition():
    """Nesterov's averaged gradient, orthogonalized and scaled, decoupled decay; the rest is AdamW's."""
    torch.manual_seed(0)
    matrix, gain = nn.Parameter(torch.randn(6, 4).double()), nn.Parameter(torch.randn(6).double())
    groups = [
        {"params": [matrix], "muon": True, "weight_decay": 0.1},
        {"params": [gain], "weight_decay": 0.0},
    ]
    optimizer = Muon(groups, lr=0.02, momentum=0.9)
    expected, average = matrix.detach().clone(), torch.zeros(6, 4).double()
    other = nn.Parameter(gain.detach().clone())
    adamw = torch.optim.AdamW([other], lr=0.02, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(5):
        matrix.grad, gain.grad = torch.randn(6, 4).double(), torch.randn(6).double()
        other.grad = gain.grad.clone()
        average = 0.9 * average + 0.1 * matrix.grad
        direction = orthogonalize(0.1 * matrix.grad + 0.9 * average)
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 6**0.5 * direction
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(matrix.detach(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gain.detach(), other.detach(), rtol=1e-12, atol=1e-13)


def test_an_update_of_muon_is_as_large_as_one_of_adamw():
    """Its root mean square is 0.2 for any shape, since singular values are about 1."""
    torch.manual_seed(0)
    for shape in ((16, 64), (64, 16), (32, 32)):
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape)
        Muon([{"params": [p], "muon": True}], lr=1.0, weight_decay=0.0).step()
        assert p.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.2)


def by_name(model, weight_decay=0.1):
    names = {p: name for name, p in model.named_parameters()}
    groups = parameter_groups(model, weight_decay)
    found = [(names[p], (group["weight_decay"], group["muon"])) for group in groups for p in group["params"]]
    assert len(found) == len({name for name, _ in found}) == len(names)
    return dict(found)


def test_every_parameter_is_in_one_group_and_only_matrices_decay():
    found = by_name(transformer(tie_embeddings=False, bias=True, position="learned"))
    for name, (decay, muon) in found.items():
        embedding = name.startswith("embed")
        matrix = name.endswith("weight") and "norm" not in name and not embedding
        assert decay == (0.1 if matrix else 0.0), name
        assert muon == (matrix and name != "lm_head.weight"), name
    assert found["lm_head.weight"] == (0.1, False)
    assert any(name.endswith("bias") for name in found) and any("norm" in name for name in found)
    assert {"embed_tokens.weight", "embed_positions.weight"} <= {*found}


def test_a_tied_head_is_an_embedding():
    found = by_name(transformer())
    assert "lm_head.weight" not in found and found["embed_tokens.weight"] == (0.0, False)


def test_any_module_has_groups():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 3))
    found = by_name(model)
    assert found["1.weight"] == (0.1, True)
    assert {found[name] for name in found if name != "1.weight"} == {(0.0, False)}


def test_make_optimizer():
    model = transformer()
    adamw = make_optimizer(model, lr=0.5, weight_decay=0.3, betas=(0.1, 0.2), eps=0.7)
    assert type(adamw) is torch.optim.AdamW
    assert {group["weight_decay"] for group in adamw.param_groups} == {0.0, 0.3}
    for group in adamw.param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (0.5, (0.1, 0.2), 0.7, True)
    muon = make_optimizer(model, "muon", lr=0.5, weight_decay=0.3, betas=(0.1, 0.2), eps=0.7)
    assert isinstance(muon, Muon) and {group["muon"] for group in muon.param_groups} == {True, False}
    for group in muon.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.1, 0.2), 0.7)
