import itertools
import math

import pytest
import torch

from myllm.quantization.affine import quantize_affine
from myllm.widgets import GridExplorer

NUMBERS = [0.31, -0.52, 0.07, 0.88, -0.13, 0.44, -0.71, 0.02, 0.25, -0.36, 0.6, -0.09]
SETTINGS = list(itertools.product((2, 3, 4, 8), (True, False), (1, 3, 12)))
FOUND = "quantized(weights, bits, symmetric, group)"


@pytest.mark.parametrize(
    "numbers", [NUMBERS, [abs(x) for x in NUMBERS], [0.0] * 6 + [-1.5, 0.5, 1, 2.5, 3, -3.5]]
)
@pytest.mark.parametrize(("bits", "symmetric", "group"), SETTINGS)
def test_codes_and_values_are_the_packages_bit_for_bit(node, numbers, bits, symmetric, group):
    found = node(GridExplorer, FOUND, weights=numbers, bits=bits, symmetric=symmetric, group=group)
    q = quantize_affine(torch.tensor([numbers]), bits, symmetric=symmetric, group=group)
    assert [code for one in found for code in one["codes"]] == q.codes[0].tolist()
    assert [one["grid"]["step"] for one in found] == q.scale[0].tolist()
    assert [value for one in found for value in one["values"]] == q.dequantize()[0].tolist()
    if q.zero is not None:
        assert [one["grid"]["zero"] for one in found] == q.zero[0].tolist()


def test_halves_go_to_the_even_code(node):
    halves = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, -0.51]
    assert node(GridExplorer, "halves.map(roundHalfEven)", halves=halves) == [
        int(x) for x in torch.tensor(halves).round()
    ]


def test_errors_and_bits_are_counted(node):
    for bits, symmetric, group in SETTINGS:
        values = {"weights": NUMBERS, "bits": bits, "symmetric": symmetric, "group": group}
        found = node(GridExplorer, f"measure({FOUND}, bits, symmetric)", **values)
        w = torch.tensor([NUMBERS])
        e = quantize_affine(w, bits, symmetric=symmetric, group=group).dequantize().double() - w.double()
        assert found["rms"] == pytest.approx(math.sqrt(float(e.square().mean())), rel=1e-5, abs=1e-9)
        assert found["most"] == pytest.approx(float(e.abs().max()), rel=1e-5, abs=1e-9)
        stored = 12 * bits + 12 // group * (32 if symmetric else 40)
        assert (found["codes"] + found["scales"], found["each"]) == (stored, stored / 12)


def test_sentences(node):
    say = f"describe({FOUND}, bits, symmetric)"
    assert node(GridExplorer, say, weights=NUMBERS, bits=3, symmetric=True, group=12) == (
        "One symmetric grid with the step 0.293: the root mean square error is 0.0807, the greatest 0.147, "
        "and no error can exceed half a step, 0.147. The numbers take 6 of the 7 grid points. "
        "Stored: 36 bits of codes and 32 of scales, 5.7 bits a number instead of 32."
    )
    groups = node(GridExplorer, say, weights=NUMBERS, bits=4, symmetric=False, group=6)
    assert groups.startswith("2 asymmetric grids with steps from 0.0873 to 0.0933: ")
    assert groups.endswith(
        "48 bits of codes and 80 of scales and zero points, 10.7 bits a number instead of 32."
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weights": [1.0]}, "There must be 2 to 24 weights, not 1"),
        ({"weights": [0.1] * 25}, "There must be 2 to 24 weights, not 25"),
        ({"weights": [1.0, math.inf]}, "weight must be a number from -100 to 100"),
        ({"weights": NUMBERS, "bits": 9}, "number of bits must be a whole number from 2 to 8, not 9"),
        ({"weights": NUMBERS, "group": 5}, "A group of 5 does not divide 12 weights"),
        ({"weights": NUMBERS, "group": "tensor"}, "group must be a whole number from 1 to 12"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        GridExplorer(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_numbers_of_torch_are_taken_and_zeros_can_be_moved():
    assert repr(GridExplorer(torch.tensor(NUMBERS).tolist())) == "GridExplorer(12, 3)"
    assert GridExplorer([0, 0]).reach == 1
