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


def test_the_answer_is_told_only_after_a_slider_has_moved(node):
    found = {"caught": 3, "lost": 1, "through": 2, "delivered": 4, "cost": 12}
    say = "describe(found, [20, 12, 7], 1, moved)"
    began = "At 1 %, 1 ham mail lost and 2 spam mails let through: the cost is 12."
    assert node(ThresholdDial, say, found=found, moved=False) == (
        f"{began} Move a slider to see the other thresholds."
    )
    assert node(ThresholdDial, say, found=found, moved=True) == (
        f"{began} The least cost is 7, at 2 %; delivering everything costs 5."
    )
    best = node(ThresholdDial, say, found=found | {"cost": 7}, moved=True)
    assert best.endswith("No threshold of a whole per cent costs less; delivering everything costs 5.")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margins": [1.0]}, "1 margins and 2 labels"),
        ({"labels": [0, 2]}, "label must be"),
        ({"margins": [0.0, 101.0]}, "margin must be"),
        ({"threshold": 101}, "threshold must be"),
        ({"temperature": 0}, "temperature must be"),
        ({"lost": 0}, "cost of a lost ham must be"),
    ],
)
def test_arguments_are_checked(changed, message):
    with pytest.raises(ValueError, match=message):
        ThresholdDial(**({"margins": [1.0, -1.0], "labels": [1, 0]} | changed))
