import pytest
import torch

from myllm.widgets import ThresholdDial

generator = torch.Generator().manual_seed(0)
LABELS = torch.randint(2, (60,), generator=generator)
MARGINS = (3 * torch.randn(60, generator=generator) + 4 * LABELS - 2).round(decimals=3)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.5])
@pytest.mark.parametrize("lost", [1, 10])
def test_costs_are_those_of_the_definition(node, temperature, lost):
    values = {"margins": MARGINS.tolist(), "labels": LABELS.tolist(), "heat": temperature, "lost": lost}
    found = node(ThresholdDial, "curve(margins, labels, heat, lost)", **values)
    p = (MARGINS.double() / temperature).sigmoid()
    for threshold, cost in enumerate(found):
        rejected = p >= threshold / 100
        ham, spam = LABELS == 0, LABELS == 1
        assert cost == (rejected & ham).sum() * lost + (~rejected & spam).sum()


def test_every_mail_is_in_one_cell(node):
    values = {"margins": MARGINS.tolist(), "labels": LABELS.tolist()}
    found = node(ThresholdDial, "decide(margins, labels, 50, 1, 10)", **values)
    assert found["caught"] + found["through"] == LABELS.sum()
    assert found["lost"] + found["delivered"] == (1 - LABELS).sum()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margins": [1.0]}, "1 margins and 2 labels"),
        ({"labels": [0, 2]}, "label must be"),
        ({"margins": [0.0, 101.0]}, "margin must be"),
        ({"threshold": 101}, "threshold must be"),
        ({"temperature": 0}, "temperature must be"),
        ({"lost": 0}, "cost of a lost mail must be"),
    ],
)
def test_arguments_are_checked(changed, message):
    with pytest.raises(ValueError, match=message):
        ThresholdDial(**({"margins": [1.0, -1.0], "labels": [1, 0]} | changed))
