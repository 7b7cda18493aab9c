"""The losses against PyTorch's cross-entropy and autograd, and the memory of the chunked one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from myllm.training.losses import chunked_loss, cross_entropy

N, C, V = 23, 6, 11


@pytest.fixture
def parts():
    """Hidden states, targets of which some have no loss, and a head with a bias, all in fp64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(V, (N,), generator=generator)
    targets[[0, 5, 6, N - 1]] = -100
    torch.manual_seed(0)
    head = nn.Linear(C, V).double()
    return hidden, targets, head


def oracle(hidden, targets, head, softcap=None, z_loss=0.0):
    logits = head(hidden)
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
    kept = logits.flatten(0, -2)[targets.flatten() >= 0]
    return loss + z_loss * (kept.exp().sum(-1).log() ** 2).sum()


def test_cross_entropy_is_a_sum_over_the_targets_that_count(parts):
    hidden, targets, head = parts
    logits = head(hidden)
    expected = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
    torch.testing.assert_close(cross_entropy(logits, targets), expected, rtol=1e-13, atol=0)
    mean = F.cross_entropy(logits, targets)
    torch.testing.assert_close(cross_entropy(logits, targets) / (N - 4), mean, rtol=1e-13, atol=0)
    shaped = cross_entropy(logits[:22].view(2, 11, V), targets[:22].view(2, 11))
    torch.testing.assert_close(shaped, F.cross_entropy(logits[:22], targets[:22], reduction="sum"))


def test_a_uniform_prediction_costs_ln_v_and_z_loss_by_hand():
    logits = torch.full((3, V), 2.0, dtype=torch.float64)
    log_v = torch.tensor(V).double().log()
    targets = torch.tensor([0, 3, -100])
    torch.testing.assert_close(cross_entropy(logits, targets), 2 * log_v)
    expected = 2 * log_v + 2 * 0.1 * (2 + log_v) ** 2
    torch.testing.assert_close(cross_entropy(logits, targets, z_loss=0.1), expected)


def test_every_negative_target_has_no_loss_and_no_gradient():
    logits = torch.randn(4, V, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([-1, -100, 2, -7]), z_loss=1.0)
    loss.backward()
    rows = logits.grad.abs().sum(-1)
    assert rows[2] > 0 and not rows[[0, 1, 3]].any()
    assert cross_entropy(logits, torch.full((4,), -100)) == 0


def test_sixteen_bits_are_computed_in_fp32():
    logits = (8 * torch.randn(200, 50)).bfloat16()
    targets = torch.randint(50, (200,))
    found = cross_entropy(logits, targets)
    assert found.dtype == torch.float32
    expected = F.cross_entropy(logits.double(), targets, reduction="sum")
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [1, 2, 7, 22, 23, 24, 1000, None])
@pytest.mark.parametrize(
    "options", [{}, {"softcap": 1.5}, {"z_loss": 0.3}, {"softcap": 0.7, "z_loss": 1e-2}], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_equal_the_plain_loss_in_value_and_all_gradients(parts, rows, options, bias):
    hidden, targets, head = parts
    if not bias:
        head.bias = None
    inputs = [hidden, *head.parameters()]
    plain = oracle(hidden, targets, head, **options)
    found = chunked_loss(hidden, targets, head, rows=rows, **options)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(3.5 * plain, inputs)
    for a, b in zip(torch.autograd.grad(3.5 * found, inputs), expected, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_hidden_states_of_any_shape(parts):
    hidden, targets, head = parts
    a = chunked_loss(hidden[:22].view(2, 11, C), targets[:22].view(2, 11), head, rows=4)
    torch.testing.assert_close(a, oracle(hidden[:22], targets[:22], head), rtol=1e-12, atol=0)


def test_sixteen_bit_weights_get_gradients_summed_in_fp32():
    """A thousand chunks, each of whose gradients is lost when it is added to the sum in bfloat16."""
    torch.manual_seed(0)
    head = nn.Linear(4, 8, bias=False).bfloat16()
    hidden = torch.randn(1, 4).bfloat16().expand(1000, 4).contiguous().requires_grad_()
    targets = torch.zeros(1000, dtype=torch.int64)
    chunked_loss(hidden, targets, head, rows=1).backward()
    exact = head.weight.detach().double().requires_grad_()
    logits = hidden.detach().double() @ exact.T
    F.cross_entropy(logits, targets, reduction="sum").backward()
    assert head.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(head.weight.grad.double(), exact.grad, rtol=0.02, atol=0.5)


def test_the_logits_are_never_all_there(parts, monkeypatch):
    hidden, targets, head = parts
    seen = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, *rest: seen.append(len(x)) or linear(x, *rest))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        loss = chunked_loss(hidden, targets, head, rows=4)
    learned = int((targets >= 0).sum())
    assert max(seen) == 4 and sum(seen) == learned < N  # a row without a loss has no logits at all
    assert saved == [N * C, C * V, V]  # the gradients, and no logits
    loss.backward()
    assert sum(seen) == learned  # the backward pass computes no logits again


def test_by_default_a_chunk_has_two_to_the_24_logits(monkeypatch):
    seen = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, *rest: seen.append(len(x)) or linear(x, *rest))
    head = nn.Linear(1, 1 << 17)
    with torch.no_grad():
        chunked_loss(torch.randn(130, 1), torch.zeros(130, dtype=torch.int64), head)
    assert seen == [128, 2]


def test_without_gradients_none_is_computed(parts):
    hidden, targets, head = parts
    with torch.no_grad():
        found = chunked_loss(hidden, targets, head, rows=5)
    assert not found.requires_grad
    torch.testing.assert_close(found, oracle(hidden, targets, head).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("frozen", "inputs"), [("head", [0]), ("hidden", [1, 2])])
def test_what_is_frozen_gets_no_gradient_and_costs_none(parts, frozen, inputs):
    hidden, targets, head = parts
    plain = oracle(*parts)
    wanted = torch.autograd.grad(plain, [(hidden, head.weight, head.bias)[i] for i in inputs])
    (head if frozen == "head" else hidden).requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        chunked_loss(hidden, targets, head, rows=5).backward()
    tensors = hidden, head.weight, head.bias
    assert [i for i, x in enumerate(tensors) if x.grad is not None] == inputs
    for i, gradient in zip(inputs, wanted, strict=True):
        torch.testing.assert_close(tensors[i].grad, gradient)
    learned = int((targets >= 0).sum())
    assert counter.get_total_flops() == 2 * 2 * learned * C * V  # two products: the logits and one gradient


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5, "z_loss": 0.3}], ids=str)
def test_rows_without_a_loss_may_as_well_be_left_out(parts, options):
    hidden, targets, head = parts
    learned = targets >= 0
    whole = chunked_loss(hidden, targets, head, rows=4, **options)
    short = chunked_loss(hidden[learned], targets[learned], head, rows=4, **options)
    inputs = [hidden, *head.parameters()]
    assert torch.equal(whole, short)
    for a, b in zip(torch.autograd.grad(whole, inputs), torch.autograd.grad(short, inputs), strict=True):
        assert torch.equal(a, b)


def test_without_any_target_loss_and_gradients_are_zero(parts):
    hidden, targets, head = parts
    loss = chunked_loss(hidden, targets.fill_(-100), head)
    loss.backward()
    assert loss == 0 and not any(x.grad.any() for x in (hidden, *head.parameters()))


def test_large_logits_and_unlikely_targets_stay_finite():
    """The probability of the target is 0 in fp32, its logarithm is not."""
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    head = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[300.0, 0.0], [-300.0, 0.0], [0.0, 1.0]]))
    loss = chunked_loss(hidden, torch.tensor([1, 0]), head, z_loss=0.01)
    loss.backward()
    assert loss.item() == pytest.approx(600 + 2 * 0.01 * 300**2)
    assert hidden.grad[:, 0].tolist() == pytest.approx([600 + 0.02 * 300 * 300, 0.02 * 300 * 300])
