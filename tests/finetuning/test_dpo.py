"""Preferences against definitions written out token by token, in float64, and against the exact optimum."""

import math
from contextlib import suppress
from copy import deepcopy

import pytest
import torch
from torch import nn

from myllm import ModelConfig, TrainConfig, Trainer, Transformer, load_tokenizer
from myllm.files import UserError
from myllm.finetuning.dpo import DPO, Pair, encode_pair, kto_loss, preference_loss
from myllm.finetuning.lora import apply_lora
from myllm.finetuning.reward import BradleyTerry, RewardModel
from myllm.finetuning.sft import Example
from myllm.tokenizers.bpe import BPE
from myllm.training.ranks import launch

CONFIG = ModelConfig(vocab_size=40, block_size=32, n_layer=2, n_head=2, n_embd=16, init_std=0.2)
RUN = {"weight_decay": 0.0, "schedule": "constant", "warmup": 0}


def make(seed=0):
    torch.manual_seed(seed)
    return Transformer(CONFIG).double()


def pairs(n=7, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(least, most):
        size = int(torch.randint(least, most, (), generator=generator))
        return torch.randint(1, 40, (size,), generator=generator).tolist()

    found = []
    for _ in range(n):
        prompt = ids(1, 5)
        answers = [ids(1, 7) for _ in "cr"]
        found.append(Pair(*(Example(prompt + a, [0] * len(prompt) + [1] * len(a)) for a in answers)))
    return found


def log_probability(model, example):
    """Of the answer, token by token; and how many tokens it has."""
    logs = torch.log_softmax(model(torch.tensor([example.ids]))[0], -1)
    places = [t for t in range(1, len(example.ids)) if example.mask[t]]
    return sum(logs[t - 1, example.ids[t]] for t in places), len(places)


def by_hand(model, reference, given, method, beta=0.1, margin=0.0, smoothing=0.0):
    total = 0.0
    for pair in given:
        values = []
        for example in pair:
            ours, n = log_probability(model, example)
            theirs = log_probability(reference, example)[0].detach()
            ours, theirs = (ours / n, theirs / n) if method in ("ipo", "simpo") else (ours, theirs)
            values.append(ours - (0 if method == "simpo" else theirs))
        difference = values[0] - values[1]
        if method == "ipo":
            total = total + (difference - 1 / (2 * beta)) ** 2
        else:
            x = beta * difference - margin
            total = total - (1 - smoothing) * torch.log(torch.sigmoid(x))
            total = total - smoothing * torch.log(torch.sigmoid(-x))
    return total


@pytest.mark.parametrize(
    "method,options",
    [
        ("dpo", {}),
        ("dpo", {"beta": 0.7, "smoothing": 0.2}),
        ("ipo", {"beta": 0.3}),
        ("simpo", {"beta": 2.0, "margin": 0.5}),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_the_definition(method, options):
    model, reference, given = make(), make(1), pairs()
    theirs = None if method == "simpo" else reference
    goal = DPO(given, theirs, block_size=32, method=method, batch_size=7, shuffle=False, **options)
    batch = next(goal.batches(model))
    loss = goal.loss(model, batch)
    expected = by_hand(model, reference, given, method, **options)
    assert goal.count(batch) == 7
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    found, wanted = (torch.autograd.grad(one, [*model.parameters()]) for one in (loss.total, expected))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    metrics = {name: value.item() for name, value in loss.metrics.items()}
    assert metrics["margin"] == pytest.approx(metrics["chosen"] - metrics["rejected"])
    alone = [by_hand(model, reference, [pair], "simpo" if method == "simpo" else "dpo") for pair in given]
    if method in ("dpo", "simpo"):  # below ln 2 the chosen answer is ahead
        assert metrics["accuracy"] == sum(one.item() < math.log(2) for one in alone)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_kto_is_the_definition_with_the_divergence_of_mismatched_answers(beta):
    model, reference, given = make(), make(1), pairs(5)
    goal = DPO(given, reference, block_size=32, method="kto", beta=beta, batch_size=5, shuffle=False)
    batch = next(goal.batches(model))
    loss = goal.loss(model, batch)
    apart = []
    for one, other in zip(given, [*given[1:], given[0]], strict=True):
        prompt, answer = one.chosen.mask.index(1), other.chosen.mask.index(1)
        ids = one.chosen.ids[:prompt] + other.chosen.ids[answer:]
        example = Example(ids, [0] * prompt + [1] * (len(ids) - prompt))
        apart.append(sum(s * log_probability(m, example)[0] for s, m in ((1, model), (-1, reference))))
    drift = max(torch.stack(apart).mean().item(), 0.0)
    total = 0.0
    for pair in given:
        for sign, example in zip((1, -1), pair, strict=True):
            reward = log_probability(model, example)[0] - log_probability(reference, example)[0].detach()
            total = total + (1 - torch.sigmoid(sign * beta * (reward - drift))) / 2
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)
    found, wanted = (torch.autograd.grad(one, [*model.parameters()]) for one in (loss.total, total))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def test_a_negative_divergence_counts_as_none():
    rewards, good = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
    found = kto_loss(rewards, good, torch.tensor(-3.0), beta=1.0)
    assert found.tolist() == pytest.approx([1 - 1 / (1 + math.exp(-1)), 1 - 1 / (1 + math.exp(1))])


@pytest.mark.parametrize("method,start", [("dpo", math.log(2)), ("ipo", 25.0), ("kto", 0.5)])
def test_where_a_run_starts(method, start):
    """The policy is its own reference, with no copy of it: all implicit rewards are 0."""
    model = make()
    goal = DPO(pairs(8), block_size=32, method=method, batch_size=4)
    record = Trainer(model, goal, TrainConfig(steps=1, **RUN)).fit()
    assert record["loss"] == pytest.approx(start, abs=1e-6)
    assert record["margin"] == pytest.approx(0, abs=1e-6) and record["count"] == 4


def test_the_reference_stays_what_it_was(tmp_path):
    """In training, in evaluation mode, under an adapter, and after an interruption."""
    given, log = pairs(8), []

    def run(stop=None, folder=None, **options):
        model = make()
        goal = DPO(given, block_size=32, batch_size=4, **options)
        trainer = Trainer(
            model,
            goal,
            TrainConfig(steps=6, lr=1e-2, checkpoint_every=1, **RUN),
            folder=folder,
            callbacks=[lambda t, r: log.append(r["loss"]) or (t.done == stop and _stop())],
        )
        try:
            trainer.fit()
        except KeyboardInterrupt:
            return None
        return goal.pairs.reference, model.state_dict()

    def _stop():
        raise KeyboardInterrupt

    reference, expected = run()
    given_one = DPO(given, make(), block_size=32, batch_size=3)
    assert torch.allclose(reference, given_one.pairs.reference, atol=1e-5)
    run(3, tmp_path)
    again, found = run(None, tmp_path)
    assert torch.equal(again, reference)
    assert all(torch.equal(x, found[name]) for name, x in expected.items())


def test_the_reference_of_an_adapter_is_its_base_and_has_no_dropout():
    model, given = make(), pairs(4)
    base = DPO(given, make(), block_size=32, batch_size=4).pairs.reference
    apply_lora(model, 2, dropout=0.5)
    for name, p in model.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(p)
    model.train()
    goal = DPO(given, block_size=32, batch_size=4)
    next(goal.batches(model))
    assert torch.allclose(goal.pairs.reference, base) and model.training


def test_a_reference_with_dropout_of_its_own_is_asked_in_evaluation_mode():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.dropout = make(), nn.Dropout(0.5)

        def forward(self, ids):
            return self.dropout(self.model(ids))

    expected = DPO(pairs(4), make(), block_size=32, batch_size=4).pairs.reference
    reference = Foreign().train()
    assert torch.allclose(DPO(pairs(4), reference, block_size=32, batch_size=4).pairs.reference, expected)
    assert reference.training


def test_prompts_and_padding_have_no_part():
    """A pair alone scores what it scores beside longer ones; a longer prompt counts as a prompt."""
    model, reference, given = make(), make(1), pairs()
    together = DPO(given, reference, block_size=32, batch_size=7, shuffle=False)
    loss = together.loss(model, next(together.batches(model))).total
    alone = 0.0
    for pair in given:
        goal = DPO([pair], reference, block_size=32, batch_size=1)
        alone += goal.loss(model, next(goal.batches(model))).total.item()
    assert loss.item() == pytest.approx(alone, rel=1e-6)


def test_training_prefers_what_was_chosen():
    model = make()
    record = Trainer(
        model, DPO(pairs(8), block_size=32, batch_size=8), TrainConfig(steps=30, lr=1e-2, **RUN)
    ).fit()
    assert record["accuracy"] == 1 and record["margin"] > 0.5
    assert record["margin"] == pytest.approx(record["chosen"] - record["rejected"], abs=1e-5)


# The optimum


def test_the_optimum_of_dpo_is_the_reference_times_the_exponential_of_the_reward():
    """All ordered pairs of 6 answers, labelled with the probabilities of Bradley and Terry."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), -1)
    reward = torch.randn(6, generator=generator, dtype=torch.float64)
    beta, i, j = 0.5, *torch.combinations(torch.arange(6)).T
    wins = torch.sigmoid(reward[i] - reward[j])
    logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        implicit = torch.log_softmax(logits, -1) - reference
        one, other = (preference_loss(implicit[a], implicit[b], beta=beta) for a, b in ((i, j), (j, i)))
        loss = (wins * one + (1 - wins) * other).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = torch.softmax(reference + reward / beta, -1)
    assert torch.allclose(torch.softmax(logits, -1), expected, atol=1e-7)


def test_ipo_stops_where_dpo_runs_on():
    x = torch.linspace(-5, 30, 3501, dtype=torch.float64)
    zero = torch.zeros_like(x)
    assert x[preference_loss(x, zero, method="ipo", beta=0.05).argmin()].item() == pytest.approx(10)
    assert preference_loss(x, zero).argmin() == len(x) - 1


def test_what_is_refused():
    given = pairs(2)
    for options, message in (
        ({"method": "orpo"}, "dpo or ipo or kto or simpo"),
        ({"beta": 0.0}, "beta must be"),
        ({"beta": math.nan}, "beta must be"),
        ({"method": "simpo", "reference": make()}, "SimPO has no reference"),
        ({"smoothing": 0.5}, "smoothing"),
        ({"margin": 1.0}, "belongs to simpo"),
        ({"method": "ipo", "smoothing": 0.1}, "not to ipo"),
        ({"block_size": 3}, "the limit is 3"),
    ):
        with pytest.raises(UserError, match=message):
            DPO(given, batch_size=2, **{"block_size": 32} | options)
    with pytest.raises(UserError, match="no token to learn"):
        DPO([Pair(Example([1, 2], [0, 0]), Example([1, 2], [0, 1]))], block_size=8, batch_size=1)
    one, other = given
    for wrong in (Pair(one.chosen, one.chosen), Pair(one.chosen, other.rejected)):
        with pytest.raises(UserError, match="Pair 2 has equal answers, or two prompts"):
            DPO([one, wrong], block_size=32, batch_size=1)
    for same in ([one], [one, one]):
        with pytest.raises(UserError, match="answers to other prompts"):
            DPO(same, block_size=32, method="kto", batch_size=1)
    state = DPO(given, make(), block_size=32, batch_size=2).state_dict()
    for options in ({"method": "ipo"}, {"method": "kto"}, {"beta": 0.2}, {"given": pairs(2, seed=1)}):
        with pytest.raises(UserError, match="go on as it began"):
            again = DPO(options.pop("given", given), block_size=32, batch_size=2, **options)
            again.load_state_dict(state)
    fresh = DPO(given, block_size=32, batch_size=2)
    fresh.load_state_dict(DPO(given, block_size=32, batch_size=2).state_dict())
    assert not fresh.referred  # a reference that nobody has asked is not known

    class Sharded(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))
            self.p.to_local = None

    refer = next(fresh.batches(Sharded()))
    with pytest.raises(UserError, match="no whole model"):
        refer(Sharded())


def trained(world=1, strategy="single", folder=None, stop=None):
    torch.set_num_threads(1)
    model, log = make(), []

    def callback(trainer, record):
        log.append([record["loss"], record["norm"]])
        if trainer.done == stop:
            raise KeyboardInterrupt

    goal = DPO(pairs(8), block_size=32, beta=0.5, batch_size=4 // world, seed=0)
    trainer = Trainer(
        model,
        goal,
        TrainConfig(6, lr=1e-2, checkpoint_every=1, **RUN),
        folder=folder,
        strategy=strategy,
        callbacks=[callback],
    )
    with suppress(KeyboardInterrupt):
        trainer.fit()
    return log, trainer.strategy.state_dict()["model"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns_with_the_model_as_its_own_reference(strategy, tmp_path):
    """The reference is the model before the first update, also where that was stopped and went on."""
    log, expected = trained()
    assert abs(log[0][0] - math.log(2)) < 1e-6 and log[-1][0] < log[0][0] - 0.1
    launch(lambda _, world: trained(world, strategy, str(tmp_path), stop=3), timeout=200.0)
    both = launch(lambda _, world: trained(world, strategy, str(tmp_path)), timeout=200.0)
    for found in both:  # callbacks come before the checkpoint: the third update was made again
        torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(log[2:]), rtol=0, atol=1e-6)
        for name, x in expected.items():
            torch.testing.assert_close(found[1][name], x, rtol=0, atol=1e-6)


# Pairs in files


def test_a_pair_of_texts():
    tokenizer = load_tokenizer("shakespeare")
    pair = encode_pair({"prompt": "Say:", "chosen": " good", "rejected": " bad"}, tokenizer)
    for example, text in zip(pair, (" good", " bad"), strict=True):
        learned = [i for i, m in zip(example.ids, example.mask, strict=True) if m]
        assert tokenizer.decode(learned[:-1]) == text and learned[-1] == tokenizer.eos_id


def test_a_pair_of_conversations_learns_the_last_answers_alone():
    tokenizer = BPE([], special_tokens=["<|im_start|>", "<|im_end|>"], name="bytes")
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "earlier"}]
    prompt = [*earlier, {"role": "user", "content": "b"}]
    item = {"prompt": prompt}
    item |= {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    pair = encode_pair(item, tokenizer, "chatml")
    for example, text in zip(pair, ("chosen", "rejected"), strict=True):
        learned = [i for i, m in zip(example.ids, example.mask, strict=True) if m]
        assert tokenizer.decode(learned).startswith(text) and "earlier" not in tokenizer.decode(learned)
        assert "earlier" in tokenizer.decode([*example.ids])


@pytest.mark.parametrize(
    "item", [{}, {"prompt": "a"}, {"prompt": "a", "chosen": "b"}, {"prompt": [], "chosen": "b"}]
)
def test_a_pair_without_its_parts(item):
    with pytest.raises(UserError, match="A pair has a prompt, chosen and rejected"):
        encode_pair(item, load_tokenizer("shakespeare"))


# Reward models


def texts(given):
    return [tuple([*example.ids] for example in pair) for pair in given]


def test_a_reward_is_read_at_the_last_token_and_padding_has_no_part():
    torch.manual_seed(0)
    model = RewardModel(make())
    given = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    hidden = [model.model(torch.tensor([ids]), head=nn.Identity())[0, -1] for ids in given]
    assert model.rewards(given) == pytest.approx([model.score(x).item() for x in hidden])
    assert model.rewards(given, batch_size=1) == pytest.approx(model.rewards(given))


def test_the_loss_of_bradley_and_terry():
    torch.manual_seed(0)
    model, given = RewardModel(make()), texts(pairs())
    goal = BradleyTerry(given, batch_size=7, shuffle=False)
    batch = next(goal.batches(model))
    rewards = [[model(torch.tensor([ids]))[0, 0] for ids in pair] for pair in given]
    expected = -sum(torch.log(torch.sigmoid(a - b)) for a, b in rewards)
    loss = goal.loss(model, batch)
    assert goal.count(batch) == 7 and loss.total.item() == pytest.approx(expected.item())
    assert loss.metrics["accuracy"] == sum(bool(a > b) for a, b in rewards)
    assert loss.metrics["margin"].item() == pytest.approx(sum((a - b).item() for a, b in rewards))
    parameters = [p for p in model.parameters() if p.requires_grad]
    found, wanted = (torch.autograd.grad(x, parameters, allow_unused=True) for x in (loss.total, expected))
    for a, b in zip(found, wanted, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-9)


def test_rewards_learn_who_is_preferred():
    torch.manual_seed(0)
    model = RewardModel(make())
    before = deepcopy(model.state_dict())
    record = Trainer(
        model, BradleyTerry(texts(pairs(8)), batch_size=8), TrainConfig(steps=60, lr=1e-2, **RUN)
    ).fit()
    assert record["accuracy"] == 1 and record["loss"] < 0.1
    assert any(not torch.equal(x, model.state_dict()[name]) for name, x in before.items())
    for wrong in ([([], [1])], []):
        with pytest.raises(UserError, match="no pairs, or one has an empty text"):
            BradleyTerry(wrong, batch_size=1)
