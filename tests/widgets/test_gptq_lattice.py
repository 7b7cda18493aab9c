import math

import pytest
import torch

from myllm.widgets import GPTQLattice

CASES = [
    (w, r, bits)
    for w in ([0.46, -0.19], [-0.9, 0.77], [0.05, 0.62], [1.0, -1.0])
    for r in (-0.9, 0.0, 0.35, 0.8)
    for bits in (2, 3, 4)
]


def round_to_grid(x: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2 ** (bits - 1) - 1
    return (x * top).round().clamp(-top, top) / top


def by_the_paper(w: list[float], r: float, bits: int, order: list[int]) -> list[float]:
    """Algorithm 1 of the paper: the Cholesky factor of the inverse Hessian, columns in an order."""
    hessian = torch.tensor([[1, r], [r, 1]], dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    left = torch.tensor(w, dtype=torch.float64)[order]
    q = torch.zeros_like(left)
    for j in range(2):
        q[j] = round_to_grid(left[j], bits)
        left[j:] -= (left[j] - q[j]) / factor[j, j] * factor[j, j:]
    return q[torch.tensor(order).argsort()].tolist()


@pytest.mark.parametrize(("w", "r", "bits"), CASES)
def test_points_and_errors_are_those_of_the_algorithm(node, w, r, bits):
    values = {"w": w, "r": r, "bits": bits}
    plain, first, second, least = node(
        GPTQLattice,
        "[rounded(w, bits), gptq(w, r, bits, 0).q, gptq(w, r, bits, 1).q, best(w, r, bits)]",
        **values,
    )
    assert plain == pytest.approx(round_to_grid(torch.tensor(w, dtype=torch.float64), bits).tolist())
    assert first == pytest.approx(by_the_paper(w, r, bits, [0, 1]))
    assert second == pytest.approx(by_the_paper(w, r, bits, [1, 0]))
    hessian = torch.tensor([[1, r], [r, 1]], dtype=torch.float64)

    def error(q):
        e = torch.tensor(q, dtype=torch.float64) - torch.tensor(w, dtype=torch.float64)
        return float(e @ hessian @ e)

    found = node(GPTQLattice, "all.map((q) => error(w, q, r))", all=[plain, first, second], **values)
    assert found == pytest.approx([error(q) for q in (plain, first, second)], abs=1e-12)
    top = 2 ** (bits - 1) - 1
    axis = [i / top for i in range(-top, top + 1)]
    assert error(least) == pytest.approx(min(error((a, b)) for a in axis for b in axis), abs=1e-9)


def test_the_error_is_that_of_the_output(node):
    r, w, q = 0.6, [0.46, -0.19], [1 / 3, 0]
    x = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, 1] = r * x[:, 0] + math.sqrt(1 - r * r) * x[:, 1]
    y = x @ (torch.tensor(w, dtype=torch.float64) - torch.tensor(q, dtype=torch.float64))
    assert node(GPTQLattice, "error(w, q, r)", w=w, q=q, r=r) == pytest.approx(
        float(y.square().mean()), rel=0.01
    )


def test_sentences(node):
    say = "describe(w, r, bits, 0)"
    assert node(GPTQLattice, say, w=[0.46, -0.19], r=0.8, bits=3) == (
        "Rounding chooses (0.33, −0.33), with the output error 0.0656; GPTQ chooses (0.33, 0.00), with "
        "0.0136: 4.8 times less. Its point is 0.23 from the weights, the rounded one 0.19. "
        "No other lattice point is better."
    )
    assert node(GPTQLattice, say, w=[0.48, -0.19], r=0.8, bits=3).endswith(
        "The best of the 49 lattice points, (0.67, −0.33), has 0.0126: GPTQ decides one weight at a time."
    )
    assert "without correlation nothing can be made up for" in node(
        GPTQLattice, say, w=[0.4, 0.1], r=0, bits=3
    )


@pytest.mark.parametrize("r", [0.3, -0.8])
def test_in_two_dimensions_gptq_is_never_worse(node, r):
    found = node(
        GPTQLattice,
        """Array.from({ length: 3969 }, (_, i) => [(i % 63) / 31 - 1, Math.floor(i / 63) / 31 - 1]).map((w) =>
          [...[rounded(w, 2), gptq(w, r, 2, 0).q].map((q) => error(w, q, r)), describe(w, r, 2, 0)])""",
        r=r,
    )
    assert all(corrected < plain + 1e-12 for plain, corrected, _ in found)
    better = [said for plain, corrected, said in found if corrected < plain - 1e-9]
    assert len(better) > 200 and all(" times less. " in said for said in better)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weight": (0.5,)}, "weight must be a list of 2 numbers"),
        ({"weight": 0.5}, "weight must be a list of 2 numbers"),
        ({"weight": (0.5, 1.5)}, "weight must be a number from -1 to 1, not 1.5"),
        ({"correlation": 1.0}, "correlation must be a number from -0.95 to 0.95, not 1.0"),
        ({"bits": 5}, "number of bits must be a whole number from 2 to 4, not 5"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        GPTQLattice(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form():
    assert repr(GPTQLattice()) == "GPTQLattice(0.8, 3)"
