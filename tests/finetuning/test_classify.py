"""Classification: pooling with either padding, what is trained, the loss, calibration and conformal sets."""

import math

import pytest
import torch
import torch.nn.functional as F

from myllm import ModelConfig, TrainConfig, Trainer, Transformer
from myllm.evaluation.calibration import (
    calibration_error,
    conformal_threshold,
    prediction_sets,
    temperature_scale,
)
from myllm.files import UserError
from myllm.finetuning.classify import Classifier, Classify, Labelled, freeze, pad

CONFIG = ModelConfig(vocab_size=40, block_size=64, n_layer=3, n_head=2, n_embd=16)
TEXTS = [Labelled([5, 7, 9], 0), Labelled([3], 1), Labelled([*range(1, 21)], 2)]


def make(pooling="last", *, config=CONFIG):
    torch.manual_seed(0)
    classifier = Classifier(Transformer(config), 3, pooling=pooling).double()
    torch.nn.init.normal_(classifier.score.weight)
    return classifier


def alone(classifier, ids):
    """The logits of one text, written down from the definition."""
    hidden = classifier.model(torch.tensor([[*ids]]), head=torch.nn.Identity())[0]
    pooled = hidden[-1] if classifier.pooling == "last" else hidden.mean(0)
    return classifier.score(pooled)


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing_on_either_side(side, pooling, position):
    classifier = make(pooling, config=CONFIG.replace(position=position))
    width = 30
    ids = torch.full((3, width), 11)  # padding is an ordinary token
    keep = torch.zeros(3, width, dtype=torch.bool)
    for row, (text, _) in enumerate(TEXTS):
        part = slice(0, len(text)) if side == "right" else slice(width - len(text), None)
        ids[row, part], keep[row, part] = torch.tensor([*text]), True
    expected = torch.stack([alone(classifier, text) for text, _ in TEXTS])
    assert torch.allclose(classifier(ids, keep), expected, atol=1e-10)
    assert torch.allclose(classifier(*pad(TEXTS)[:2]), expected, atol=1e-10)
    assert torch.allclose(classifier(torch.tensor([TEXTS[0].ids])), expected[:1], atol=1e-10)


def test_a_fresh_head_fits_the_model_and_the_unused_one_is_frozen():
    for tied in (False, True):
        model = Transformer(CONFIG.replace(tie_embeddings=tied)).double()
        classifier = Classifier(model, 3)
        assert classifier(torch.tensor([[1, 2]])).dtype == torch.float64
        assert not classifier.score.bias.any() and 0 < classifier.score.weight.std() < 0.05
        assert model.lm_head.weight.requires_grad == tied


def test_a_long_text_keeps_its_beginning_and_the_loss_is_float32():
    objective = Classify([Labelled(range(1, 9), 1)], block_size=3, batch_size=1)
    classifier = make().bfloat16()
    ids, keep, labels = next(objective.batches(classifier))
    assert ids.tolist() == [[1, 2, 3]] and keep.all() and labels.tolist() == [1]
    assert objective.loss(classifier, (ids, keep, labels)).total.dtype == torch.float32


def test_what_is_trained():
    def moved(trained, tied):
        classifier = make(config=CONFIG.replace(tie_embeddings=tied))
        count = freeze(classifier, trained)
        before = {name: p.clone() for name, p in classifier.named_parameters()}
        objective = Classify(TEXTS, block_size=32, batch_size=3)
        Trainer(classifier, objective, TrainConfig(steps=2, lr=1e-2, weight_decay=0.1)).fit()
        after = dict(classifier.named_parameters())
        names = {name for name in before if not torch.equal(before[name], after[name])}
        assert count == sum(after[name].numel() for name in names)
        return names

    head = {"score.weight", "score.bias"}
    assert moved("head", False) == moved("head", True) == head
    last = moved(1, False)
    assert last - head == {name for name in last if name.startswith("model.layers.2.")} | {
        "model.norm.weight"
    }
    assert not any(name.startswith(("model.layers.0.", "model.layers.1.")) for name in moved(1, True))
    assert moved(2, False) > last
    every = {name for name, _ in make().named_parameters()}
    assert moved("all", False) == every - {"model.lm_head.weight"}
    for trained in (0, 4, "none"):
        with pytest.raises(UserError, match="the last 1 to 3 layers"):
            freeze(make(), trained)


def test_the_loss_weighs_classes_and_smooths_labels():
    classifier = make()
    objective = Classify(TEXTS, block_size=32, weights=[1.0, 2.0, 0.5], label_smoothing=0.3, batch_size=3)
    batch = next(objective.batches(classifier))
    logits = torch.stack([alone(classifier, TEXTS[i].ids) for i in batch[2]])  # text i has label i
    expected = torch.zeros(())
    for row, label in zip(F.log_softmax(logits, -1), batch[2], strict=True):
        target = torch.full((3,), 0.1) + 0.7 * F.one_hot(label, 3)
        expected = expected - (target * torch.tensor([1.0, 2.0, 0.5]) * row).sum()
    loss = objective.loss(classifier, batch)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.metrics["accuracy"] == (logits.argmax(-1) == batch[2]).sum()
    assert objective.count(batch) == 3


def test_bad_input_is_refused():
    for given, options, message in (
        ([], {}, "no items"),
        ([Labelled([], 0)], {}, "is empty"),
        ([Labelled([1], -1)], {}, "label -1"),
        ([Labelled([1], 2)], {"weights": [1, 1]}, "label 2"),
        ([Labelled([1], 0)], {"label_smoothing": 1.0}, "label_smoothing"),
    ):
        with pytest.raises(UserError, match=message):
            Classify(given, block_size=4, batch_size=1, **options)
    with pytest.raises(UserError, match="2 classes, not 1"):
        Classifier(Transformer(CONFIG), 1)
    with pytest.raises(UserError, match="Pooling"):
        Classifier(Transformer(CONFIG), 2, pooling="first")


def sampled(n, temperature, seed=0, classes=4):
    """Logits whose true probabilities are those at the given temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
    return logits, labels


def test_temperature_scaling_finds_the_temperature_of_the_data_and_the_optimum():
    for temperature in (0.5, 1.0, 2.5):
        logits, labels = sampled(20_000, temperature)
        found = temperature_scale(logits, labels)
        assert found == pytest.approx(temperature, rel=0.05)
        best = F.cross_entropy(logits / found, labels)
        assert all(best <= F.cross_entropy(logits / (found * f), labels) for f in (0.9, 0.999, 1.001, 1.1))


def test_calibration_error_by_hand_and_after_scaling():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    labels = torch.tensor([0, 1, 1, 0])
    # Bins of a tenth: 0.5 of two at 0.9, 1 of one at 0.6, 1 of one at 0.7.
    assert calibration_error(probabilities, labels, 10) == pytest.approx((2 * 0.4 + 0.4 + 0.3) / 4)
    # Intervals (0.25, 0.5] and (0.5, 0.75]: an edge belongs to the lower one.
    probabilities = torch.tensor([[0.75, 0.25], [0.625, 0.375], [0.5, 0.5]], dtype=torch.float64)
    error = calibration_error(probabilities, torch.tensor([0, 1, 0]), 4)
    assert error == pytest.approx((abs(-0.25 + 0.625) + 0.5) / 3)
    logits, labels = sampled(20_000, 2.5)
    scaled = (logits / temperature_scale(logits, labels)).softmax(-1)
    assert calibration_error(scaled, labels) < 0.02 < 0.15 < calibration_error(logits.softmax(-1), labels)


def test_conformal_sets_cover_as_promised_and_no_more_than_the_bound():
    """1 - miss <= coverage <= 1 - miss + 1 / (N + 1), in the mean over calibration sets (Vovk et al.)."""
    n, miss, covered = 50, 0.2, []
    for seed in range(400):
        logits, labels = sampled(n + 200, 3.0, seed)
        probabilities = logits.softmax(-1)  # far too sure of itself: the promise holds all the same
        threshold = conformal_threshold(probabilities[:n], labels[:n], miss)
        sets = prediction_sets(probabilities[n:], threshold)
        covered.append(sets.gather(1, labels[n:, None]).double().mean().item())
    mean = sum(covered) / len(covered)
    error = 3 * (sum((c - mean) ** 2 for c in covered) / len(covered)) ** 0.5 / math.sqrt(len(covered))
    assert 1 - miss - error <= mean <= 1 - miss + 1 / (n + 1) + error


def test_the_conformal_threshold_by_hand():
    probabilities = torch.tensor([[p, 1 - p] for p in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)])
    labels = torch.zeros(9, dtype=torch.int64)
    assert conformal_threshold(probabilities, labels, 0.5) == pytest.approx(0.5)  # the 5th of 9
    assert conformal_threshold(probabilities, labels, 0.1) == pytest.approx(0.9)  # the 9th
    assert conformal_threshold(probabilities, labels, 0.05) == 1.0
    assert prediction_sets(torch.tensor([[0.5, 0.5]]), 0.5).all()  # the edge belongs to the set
    for n in range(1, 100):  # exact in fractions, whatever the product of floats is
        scores = torch.arange(1, n + 1, dtype=torch.float64) / 128
        for percent in range(1, 100):
            k = -((n + 1) * (percent - 100) // 100)  # ⌈(n + 1)(1 - percent / 100)⌉
            found = conformal_threshold(1 - scores[:, None], labels.new_zeros(n), percent / 100)
            assert found == (k / 128 if k <= n else 1.0)
    assert prediction_sets(probabilities[:2], 0.15).tolist() == [[True, False], [False, False]]
    with pytest.raises(UserError, match="between 0 and 1"):
        conformal_threshold(probabilities, labels, 0.0)
