import pytest
import torch

from myllm.inference.speculative import acceptance, residual
from myllm.widgets import AcceptReject


def pair(seed, n=5):
    generator = torch.Generator().manual_seed(seed)
    found = [torch.rand(n, generator=generator, dtype=torch.float64) ** 2 for _ in "pq"]
    found[0][seed % n] = 0
    return [x / x.sum() for x in found]


@pytest.mark.parametrize("seed", range(10))
def test_the_numbers_are_the_packages(node, seed):
    p, q = pair(seed)
    alpha, rest = node(AcceptReject, "[acceptance(p, q), residual(p, q)]", p=p.tolist(), q=q.tolist())
    assert alpha == pytest.approx((q * acceptance(p, q)).sum().item())
    assert torch.allclose(torch.tensor(rest, dtype=torch.float64), residual(p, q))
    out = torch.minimum(p, q) + (1 - alpha) * torch.tensor(rest, dtype=torch.float64)
    assert torch.allclose(out, p)


def test_equal_distributions_leave_nothing(node):
    p = [0.25, 0.75]
    assert node(AcceptReject, "[acceptance(p, p), residual(p, p)]", p=p) == [1, p]


@pytest.mark.parametrize(("alpha", "k"), [(0.0, 4), (0.3, 1), (0.8, 4), (1.0, 7)])
def test_tokens_a_pass_are_the_expected_number(node, alpha, k):
    by_hand = sum(n * alpha**n * (1 - alpha) for n in range(k)) + k * alpha**k + 1
    assert node(AcceptReject, "perPass(alpha, k)", alpha=alpha, k=k) == pytest.approx(by_hand)


@pytest.mark.parametrize("seed", [0, 3])
def test_samples_follow_p_whatever_q_is(node, seed):
    p, q = pair(seed)
    n = 40_000
    found = node(AcceptReject, "simulate(p, q, n, 2)", p=p.tolist(), q=q.tolist(), n=n)
    counts = torch.tensor(found["accepted"]) + torch.tensor(found["replaced"])
    assert counts.sum() == n and counts[seed % 5] == 0
    there = p > 0
    chi = ((counts[there] - n * p[there]) ** 2 / (n * p[there])).sum()
    assert chi < 16.3  # 3 degrees of freedom, 0.1 %
    share = sum(found["accepted"]) / n
    assert share == pytest.approx(torch.minimum(p, q).sum().item(), abs=0.015)


def test_weights_are_normalized(node):
    assert node(AcceptReject, "[normalized([1, 3]), normalized([0, 0])]") == [[0.25, 0.75], [0.5, 0.5]]


def test_sentences(node):
    say = "describe(p, q, k)"
    usual = node(AcceptReject, say, p=[0.5, 0.5], q=[1.0, 0.0], k=1)
    assert usual == (
        "A proposal is accepted with probability Σ min(p, q) = 50.0 %. With 1 proposal a pass, each accepted "
        "with this probability, a pass yields 1.50 tokens on average."
    )
    assert "nothing is ever rejected" in node(AcceptReject, say, p=[0.5, 0.5], q=[0.5, 0.5], k=2)
    assert "what the model never says" in node(AcceptReject, say, p=[1.0, 0.0], q=[0.0, 1.0], k=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"q": [1.0]}, "q must be a list of 2 to 8 numbers"),
        ({"q": [0.5, 0.6]}, "must have the sum 1, not 1.1"),
        ({"q": [0.5, 0.5]}, "over the same tokens, not 5 and 2"),
        ({"p": [1.5, -0.5]}, "probability in p must be a number from 0 to 1"),
        ({"k": 0}, "number of proposals must be a whole number from 1 to 16"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        AcceptReject(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form():
    assert repr(AcceptReject()) == "AcceptReject(5)"
