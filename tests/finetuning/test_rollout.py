"""Rollouts on the one loop: what is drawn, what is scored, phases, two processes, and an interruption."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from myllm import ModelConfig, TrainConfig, Trainer, Transformer
from myllm.files import UserError
from myllm.finetuning.distill import Distill, select
from myllm.finetuning.grpo import GRPO, METHODS
from myllm.finetuning.lora import apply_lora
from myllm.finetuning.on_policy import OnPolicy
from myllm.finetuning.ppo import PPO, ActorCritic
from myllm.finetuning.reward import verify
from myllm.finetuning.rollout import Completion, Prompt, sample, token_log_probs
from myllm.tokenizers.bpe import BPE
from myllm.training.ranks import launch

TOKENIZER = BPE([], special_tokens=["<|endoftext|>"], name="bytes")
END = 256
CONFIG = ModelConfig(vocab_size=257, block_size=32, n_layer=2, n_head=2, n_embd=16, init_std=0.2)


def make(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = Transformer(CONFIG).to(dtype)
    with torch.no_grad():
        model.lm_head.weight[[97, 98, 99, END]] *= 6  # few tokens, so that rewards and ends occur
    return model


def prompts(n=12):
    return [Prompt([*range(65, 66 + i % 4)], i) for i in range(n)]


def paid(items, completions):
    """A reward that depends on prompt and text; some groups earn the same."""
    return [float((sum(one.ids) + item) % 3 > 1) for item, one in zip(items, completions, strict=True)]


OPTIONS = {"prompts_per_phase": 4, "group": 4, "batch_size": 8, "max_new_tokens": 6, "seed": 3}
RUN = {"lr": 1e-2, "weight_decay": 0.0, "schedule": "constant", "warmup": 0}


def prompt_of(row, mask):
    return row[: int(mask.int().argmax())].tolist()


def objective(kind=GRPO, **changes):
    return kind(prompts(), changes.pop("reward", paid), TOKENIZER, **OPTIONS | changes)


# Drawing


def test_tokens_are_drawn_with_their_probabilities():
    """With evenly spread uniforms a token is drawn as often as its probability says, up to one."""
    model, n = make(), 2000
    uniforms = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    for temperature in (1.0, 0.6):
        found = sample(model, [[65, 66]] * n, uniforms, stop_id=END, temperature=temperature)
        logits = model(torch.tensor([[65, 66]]))[0, -1] / temperature
        expected = n * torch.softmax(logits, -1)
        counts = torch.bincount(torch.tensor([one.ids[0] for one in found]), minlength=257)
        assert (counts - expected).abs().max() <= 1
        logs = torch.log_softmax(logits, -1)
        assert all(one.log_probs[0] == pytest.approx(logs[one.ids[0]].item(), abs=1e-6) for one in found)


def test_a_completion_ends_with_its_end_token_or_at_the_limit():
    uniforms = torch.rand(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = sample(make(), [[65] * (1 + i % 3) for i in range(64)], uniforms, stop_id=END)
    assert {one.ended for one in found} == {True, False}
    for one in found:
        assert one.ended == (one.ids[-1] == END) and END not in one.ids[:-1]
        assert one.ended or len(one.ids) == 6
        assert len(one.log_probs) == len(one.ids)


def test_rows_of_several_lengths_are_scored_as_they_were_drawn():
    model = make()
    given = [[65], [65, 66, 67], [70, 71], [65, 66]]
    uniforms = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for row, one, u in zip(given, sample(model, given, uniforms, stop_id=END), uniforms, strict=True):
        alone = sample(model, [row], u[None], stop_id=END)[0]
        assert alone.ids == one.ids and alone.log_probs == pytest.approx(one.log_probs, abs=1e-6)
        logits = torch.log_softmax(model(torch.tensor([row + one.ids]))[0], -1)
        for t, i in enumerate(one.ids):
            assert one.log_probs[t] == pytest.approx(logits[len(row) - 1 + t, i].item(), abs=1e-6)


@pytest.mark.parametrize("foreign", [False, True])
def test_log_probabilities_of_tokens_in_a_mask(foreign):
    model = make()
    ids = torch.randint(257, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 0] = False

    class Foreign(nn.Module):
        def forward(self, ids):
            return model(ids)

    found = token_log_probs(Foreign() if foreign else model, ids, mask, temperature=0.7)
    logs = torch.log_softmax(model(ids) / 0.7, -1)
    expected = torch.zeros_like(found)
    expected[:, 1:] = logs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    assert torch.allclose(found, expected * mask, atol=1e-12)


def test_the_logits_of_a_model_are_capped_in_training_too():
    torch.manual_seed(0)
    model = Transformer(CONFIG.replace(logit_softcap=2.0)).double()
    ids, mask = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[False, True, True, True]])
    found = token_log_probs(model, ids, mask)
    logs = torch.log_softmax(model(ids), -1)[0, :3].gather(-1, ids[0, 1:, None])[:, 0]
    assert torch.allclose(found[0, 1:], logs)


# The loop


@pytest.mark.parametrize("method", METHODS)
def test_the_first_update_has_ratio_one_whatever_the_method(method):
    """So its gradient is that of the log-probabilities times what each token counts."""
    model, goal = make(), objective(method=method, batch_size=16)
    batch = next(goal.batches(model))
    loss = goal.loss(model, batch)
    assert loss.metrics["clipped"] == 0
    found = torch.autograd.grad(loss.total, [*model.parameters()], allow_unused=True)
    logs = token_log_probs(model, batch["ids"], batch["mask"])
    plain = -(logs * batch["advantages"][:, None] * batch["weights"]).sum()
    if method == "gspo":  # its ratio spreads a token's gradient over the completion
        lengths = batch["mask"].sum(1, keepdim=True)
        plain = -(
            (logs.sum(1, keepdim=True) / lengths)
            * batch["advantages"][:, None]
            * batch["mask"]
            * batch["weights"]
        ).sum()
    for a, b in zip(found, torch.autograd.grad(plain, [*model.parameters()], allow_unused=True), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_draws_differ_in_a_group_and_from_phase_to_phase():
    goal, model = objective(prompts_per_phase=1, batch_size=4), make()
    goal.prompts = goal.prompts[:1]
    goal.asked.n = 1
    first, second = (goal.collect(model, phase)["log_probs"] for phase in (0, 1))
    assert len({tuple(row.tolist()) for row in torch.cat([first[:, :4], second[:, :4]])}) == 8


def test_a_policy_writes_in_evaluation_mode():
    model = make()
    apply_lora(model, 2, dropout=0.5)
    for name, p in model.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(p)
    found = [objective().collect(model.train(mode), 0)["log_probs"] for mode in (True, False, True)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert objective().collect(model.train(), 0) and model.training


def test_a_phase_returns_each_completion_as_often_as_asked():
    calls = []
    model, goal = make(), objective(epochs=3, reward=lambda items, done: calls.append(1) or paid(items, done))
    batches = goal.batches(model)
    first = [next(batches) for _ in range(6)]
    rows = [
        tuple(row[keep].tolist())
        for batch in first
        for row, keep in zip(batch["ids"], batch["ids"] > 0, strict=True)
    ]
    counts = {row: rows.count(row) for row in rows}
    assert len(rows) == 48 and all(n % 3 == 0 for n in counts.values())
    assert [bool(batch["fresh"]) for batch in first] == [True] + [False] * 5
    assert len(calls) == 1
    assert bool(next(batches)["fresh"]) and len(calls) == 2


def test_a_group_is_of_one_prompt_and_only_its_rewards_count():
    goal = objective()
    buffer = goal.collect(make(), 0)
    starts = [prompt_of(row, mask) for row, mask in zip(buffer["ids"], buffer["mask"], strict=True)]
    assert all(starts[i] == starts[i - i % 4] for i in range(16))
    groups = buffer["rewards"].view(4, 4)
    expected = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(buffer["advantages"].view(4, 4), expected)
    assert buffer["equal"].view(4, 4).all(1).tolist() == (groups.std(1) == 0).tolist()


def test_every_prompt_comes_once_an_epoch_and_draws_differ():
    goal, model = objective(method="reinforce", group=1, prompts_per_phase=6, batch_size=6), make()
    phases = [goal.collect(model, n) for n in range(4)]
    asked = [
        prompt_of(row, mask) for one in phases[:2] for row, mask in zip(one["ids"], one["mask"], strict=True)
    ]
    assert sorted(asked) == sorted([*one.ids] for one in prompts())
    assert any(not torch.equal(phases[0][key], phases[2][key]) for key in ("ids", "log_probs"))


def test_groups_of_equal_reward_teach_nothing():
    model = make()
    before = deepcopy(model.state_dict())
    goal = objective(reward=lambda items, _: [1.0] * len(items))
    record = Trainer(model, goal, TrainConfig(steps=2, **RUN)).fit()
    assert record["equal"] == 1 and record["norm"] == 0
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in before.items())


def test_records_are_means_over_completions():
    model, goal = make(), objective(batch_size=4)
    record = Trainer(model, goal, TrainConfig(steps=1, accumulation=4, **RUN)).fit()
    buffer = goal.collect(make(), 0)
    lengths = buffer["mask"].sum(1)
    assert record["count"] == 16
    assert record["reward"] == pytest.approx(buffer["rewards"].mean().item())
    assert record["length"] == pytest.approx(lengths.double().mean().item())
    assert record["entropy"] == pytest.approx((-buffer["log_probs"].sum(1) / lengths).mean().item(), abs=1e-6)


def trained(kind, steps, folder=None, stop=None, world=1, strategy="single", **changes):
    torch.set_num_threads(1)
    model = make()
    model = ActorCritic(model) if kind is PPO else model
    log = []

    def callback(trainer, record):
        log.append([record["loss"], record["norm"], record["reward"]])
        if trainer.done == stop:
            raise KeyboardInterrupt

    if kind is Distill:
        changes |= {"teacher": make(seed=5)}
    goal = objective(kind, epochs=2, **{"batch_size": 8 // world} | changes)
    settings = TrainConfig(steps=steps, checkpoint_every=1, **RUN)
    trainer = Trainer(model, goal, settings, folder=folder, callbacks=[callback], strategy=strategy)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        return None
    assert all(norm > 0.1 for _, norm, _ in log)  # there is something to learn in each update
    return log, trainer.strategy.state_dict()["model"]


@pytest.mark.parametrize(
    "kind,changes",
    [(GRPO, {}), (GRPO, {"tries": 9, "group": 2, "prompts_per_phase": 8}), (PPO, {}), (Distill, {})],
)
@pytest.mark.parametrize("stop", [3, 4])
def test_an_interruption_in_a_phase_or_between_two_changes_nothing(tmp_path, kind, changes, stop):
    changes = changes | ({"beta": 0.1, "reference": make(seed=7)} if kind is not Distill else {})
    log, expected = trained(kind, 6, **changes)
    trained(
        kind, 6, tmp_path, stop - 1, **changes
    )  # the checkpoint before is the newest: callbacks come first
    rest, found = trained(kind, 6, tmp_path, **changes)
    assert rest == log[-len(rest) :] and len(rest) < 6
    assert all(torch.equal(x, found[name]) for name, x in expected.items())


def test_the_parts_of_the_ranks_are_the_whole():
    whole, rows = objective().collect(make(), 1), []
    for rank in range(2):
        goal = objective()
        goal.share(rank, 2)
        with torch.no_grad():
            rows += goal.scored(make().eval(), 1)
    assert len(rows) == 16
    for i, row in enumerate(rows):
        assert row["rewards"] == whole["rewards"][i]
        for name in ("ids", "mask", "log_probs"):
            size = len(row[name])
            assert torch.equal(row[name], whole[name][i, :size]) and not whole[name][i, size:].any()


def test_a_state_of_another_run_or_between_two_batches_is_refused():
    goal = objective(epochs=2)
    batches = goal.batches(make())
    next(batches)
    state = goal.state_dict()
    for changes in (
        {"temperature": 0.5},
        {"method": "rloo"},
        {"group": 2},
        {"epochs": 1},
        {"max_new_tokens": 5},
    ):
        with pytest.raises(UserError, match="go on as it began"):
            objective(**{"epochs": 2} | changes).load_state_dict(state)
    with pytest.raises(UserError, match="go on with those it had"):
        objective(epochs=2, batch_size=16).load_state_dict(state)
    with pytest.raises(UserError, match="go on as it began"):
        objective(PPO, epochs=2, group=4, discount=0.5).load_state_dict(objective(PPO, epochs=2).state_dict())
    objective(epochs=2, batch_size=4).load_state_dict(state)


def test_in_bfloat16_tokens_are_scored_as_they_are_trained():
    """A decode step rounds otherwise than a pass over the whole text: here by about 0.1 nats."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=257, block_size=64, n_layer=6, n_head=2, n_embd=64, init_std=0.2)
    model = Transformer(config).bfloat16()
    goal = objective(batch_size=16, max_new_tokens=40)
    batch = next(goal.batches(model))
    logs = token_log_probs(model, batch["ids"], batch["mask"])
    assert (logs - batch["log_probs"]).abs().max() < 1e-3


def test_in_bfloat16_the_first_ratio_is_one_and_values_are_not_rounded():
    for kind in (GRPO, PPO):
        model = make(torch.bfloat16)
        trained = ActorCritic(model) if kind is PPO else model
        if kind is PPO:
            nn.init.normal_(trained.value.weight)
        goal = objective(kind, batch_size=16)
        batch = next(goal.batches(trained))
        logs = token_log_probs(model, batch["ids"], batch["mask"])
        assert (logs - batch["log_probs"]).abs().max() < 1e-3
        assert all(x.dtype != torch.bfloat16 for x in batch.values())
        assert goal.loss(trained, batch).total.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind,changes", [(GRPO, {}), (GRPO, {"tries": 9, "group": 2, "prompts_per_phase": 8}), (PPO, {})]
)
def test_two_processes_learn_what_one_learns(kind, changes):
    """Under FSDP, too, where processes write texts of other lengths with weights that they share."""
    alone = launch(lambda rank, world: trained(kind, 5, **changes), world=1, timeout=200.0)[0]
    for strategy in ("ddp", "fsdp"):
        options = changes | {"strategy": strategy}
        both = launch(lambda _, world, o=options: trained(kind, 5, world=world, **o), timeout=200.0)
        for log, found in both:
            exact = torch.tensor(alone[0], dtype=torch.float64)
            torch.testing.assert_close(torch.tensor(log, dtype=torch.float64), exact, rtol=0, atol=1e-10)
            for name, x in alone[1].items():
                torch.testing.assert_close(found[name], x, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_run_goes_on_under_fsdp(tmp_path):
    """Stopped in the middle of a phase by one process, with all that dynamic sampling has asked."""
    changes = {"tries": 9, "group": 2, "prompts_per_phase": 8}
    alone, expected = launch(lambda rank, world: trained(GRPO, 6, **changes), world=1, timeout=200.0)[0]
    launch(lambda rank, world: trained(GRPO, 6, str(tmp_path), 4, **changes), world=1, timeout=200.0)
    options = changes | {"strategy": "fsdp"}
    both = launch(lambda _, world: trained(GRPO, 6, str(tmp_path), world=world, **options), timeout=200.0)
    for log, found in both:
        assert len(log) == 3
        torch.testing.assert_close(torch.tensor(log), torch.tensor(alone[3:]), rtol=0, atol=1e-10)
        for name, x in expected.items():
            torch.testing.assert_close(found[name], x, rtol=0, atol=1e-10)


# Dynamic sampling


FEW = {"group": 2, "prompts_per_phase": 8, "tries": 9}  # of groups of two, most earn the same


def groups_of(buffer, size=2):
    """The ids of each group, and whether its rewards differ."""
    rows = zip(buffer["ids"].split(size), buffer["rewards"].split(size), strict=True)
    return [([row.tolist() for row in ids], len({*rewards.tolist()}) > 1) for ids, rewards in rows]


@pytest.mark.parametrize("method", ["grpo", "dapo"])
def test_a_phase_learns_from_the_first_groups_that_differ_and_from_nothing_else(method):
    """As if these alone had been written; what each token counts (dapo) is decided by them."""
    model, goal, plain = (
        make(),
        objective(method=method, **FEW),
        objective(method=method, **FEW | {"tries": 1}),
    )
    begin = 0
    for _ in range(3):
        goal.fill(model)
        rounds = [plain.collect(model, begin + n) for n in range(9)]
        differ = [[mixed for _, mixed in groups_of(one)] for one in rounds]
        enough = next(n for n in range(1, 10) if sum(map(sum, differ[:n])) >= 8)
        kept = list[dict]()
        for one, mixed in zip(rounds, differ, strict=True):
            for i in range(8):
                part = slice(2 * i, 2 * i + 2)
                kept += (
                    [{k: one[k][part] for k in ("ids", "mask", "log_probs", "rewards")}] if mixed[i] else []
                )
        width = max(part["ids"].shape[1] for part in kept[:8])

        def joined(name, parts=kept[:8], width=width):
            rows = [part[name] for part in parts]
            if rows[0].ndim == 1:
                return torch.cat(rows)
            return torch.cat([nn.functional.pad(x, (0, width))[:, :width] for x in rows])

        expected = plain.learn({name: joined(name) for name in ("ids", "mask", "log_probs", "rewards")})
        assert 1 < enough < 9 and not goal.buffer["equal"].any()
        fresh = {"fresh": torch.tensor(True)}
        found, wanted = (g.loss(model, b | fresh) for g, b in ((goal, goal.buffer), (plain, expected)))
        assert found.total.item() == pytest.approx(wanted.total.item(), rel=1e-12)
        gradients = (torch.autograd.grad(one.total, [*model.parameters()]) for one in (found, wanted))
        for a, b in zip(*gradients, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        rewards = torch.cat([one["rewards"] for one in rounds[:enough]])
        assert found.metrics["written"] / 16 == enough
        assert (found.metrics["earned"] / 16).item() == pytest.approx(rewards.mean().item())
        begin += enough  # the next phase asks what comes then
        assert goal.asked.position == 8 * begin


def test_after_the_last_try_a_phase_goes_on_with_what_there_is():
    """Groups that differ come first, in the order in which they were written; the rest teach nothing."""
    model, rare = make(), {"reward": lambda _, done: [float(sum(one.ids) % 7 == 0) for one in done]}
    rounds = [objective(**FEW | rare | {"tries": 1}).collect(model, n) for n in range(2)]
    written = [group for one in rounds for group in groups_of(one)]
    goal = objective(**FEW | rare | {"tries": 2})
    found = groups_of(goal.collect(model, 0))
    differ = [i for i, (_, mixed) in enumerate(written) if mixed]
    filled = [i for i, (_, mixed) in enumerate(written) if not mixed][: 8 - len(differ)]
    assert 0 < len(differ) < 8 and goal.asked.position == 16

    def bare(groups):
        return [([[i for i in row if i] for row in ids], mixed) for ids, mixed in groups]

    assert bare(found) == bare([written[i] for i in sorted(differ + filled)])
    record = Trainer(
        model, objective(tries=3, reward=lambda items, _: [0.5] * len(items)), TrainConfig(steps=1)
    ).fit()
    assert record["equal"] == 1 and record["norm"] == 0
    assert record["written"] == 3 and record["earned"] == 0.5


def test_one_try_takes_what_comes():
    log, weights = trained(GRPO, 3)
    once, same = trained(GRPO, 3, tries=1)
    assert log == once and all(torch.equal(x, same[name]) for name, x in weights.items())
    assert "written" not in objective().collect(make(), 0)


# PPO


def test_the_first_batch_of_ppo_has_ratio_one_no_divergence_and_values_as_expected():
    model = ActorCritic(make())
    nn.init.normal_(model.value.weight)
    goal = objective(PPO, beta=0.2, reference=make(), batch_size=16)
    batch = next(goal.batches(model))
    loss = goal.loss(model, batch)
    assert loss.metrics["clipped"] == 0 and loss.metrics["k1"].abs() < 1e-9 > loss.metrics["k3"].abs()
    for ids, mask, values in zip(batch["ids"], batch["mask"], batch["values"], strict=True):
        hidden = model.policy(ids[None], head=nn.Identity())[0]
        for t in mask.nonzero().flatten():
            assert values[t].item() == pytest.approx(model.value(hidden[t - 1]).item(), abs=1e-9)
    weights = batch["mask"] / batch["mask"].sum() * 16
    errors = (batch["values"] - batch["returns"]).square() / 2
    assert loss.total.item() == pytest.approx(
        ((errors * 0.5 - batch["advantages"]) * weights).sum().item(), abs=1e-6
    )


def test_returns_are_of_the_advantages_before_they_are_whitened():
    model = ActorCritic(make())
    buffer = objective(PPO).collect(model, 0)
    assert not buffer["values"].any()  # nothing is expected at first
    nn.init.normal_(model.value.weight)
    buffer = objective(PPO, beta=0.2, reference=make(seed=4), discount=0.9, decay=0.8).collect(model, 0)
    mask, k1 = buffer["mask"], buffer["log_probs"] - buffer["reference"]
    for row in range(16):
        times, advantage, after = mask[row].nonzero().flatten().tolist(), 0.0, 0.0
        for t in reversed(times):
            paid_here = (buffer["rewards"][row] if t == times[-1] else 0) - 0.2 * k1[row, t]
            value = buffer["values"][row, t]
            advantage = paid_here + 0.9 * after - value + 0.72 * advantage
            after = value
            assert buffer["returns"][row, t].item() == pytest.approx((advantage + value).item())
    inside = buffer["advantages"][mask]
    assert inside.mean().abs() < 1e-9 and inside.std().item() == pytest.approx(1, abs=1e-6)


def test_ppo_records_both_estimates_as_means_over_tokens():
    model, reference = ActorCritic(make()), make(seed=4)
    goal = objective(PPO, beta=0.2, reference=reference, batch_size=16)
    batch = next(goal.batches(model))
    logs, base = (token_log_probs(one, batch["ids"], batch["mask"]) for one in (model.policy, reference))
    k1 = (logs - base)[batch["mask"]]
    metrics = goal.loss(model, batch).metrics
    assert metrics["k1"].item() / 16 == pytest.approx(k1.mean().item(), rel=1e-6)
    assert metrics["k3"].item() / 16 == pytest.approx(((-k1).exp() - 1 + k1).mean().item(), rel=1e-6)


def test_values_learn_what_to_expect():
    model = ActorCritic(make())
    goal = objective(PPO, reward=lambda items, _: [2.0] * len(items), decay=1.0, value_clip=None)
    Trainer(model, goal, TrainConfig(steps=80, **RUN | {"lr": 0.05})).fit()
    values = goal.collect(model, 200)
    assert values["values"][values["mask"]].mean().item() == pytest.approx(2, abs=0.15)


def test_ppo_needs_a_value():
    with pytest.raises(UserError, match=r"ActorCritic\(model\)"):
        next(objective(PPO).batches(make()))


# References


def test_the_reference_of_an_adapter_is_its_base():
    model = make()
    base = deepcopy(model)
    apply_lora(model, 2)
    for name, p in model.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(p)
    found = objective(beta=0.1).collect(model, 0)
    given = objective(beta=0.1, reference=base).collect(model, 0)
    assert torch.equal(found["reference"], given["reference"])
    scores = token_log_probs(base, found["ids"], found["mask"])
    assert torch.allclose(found["reference"], scores)
    assert (found["reference"] - found["log_probs"]).abs().max() > 1e-3


@pytest.mark.parametrize("kl", ["k2", "k3", "k3-plain"])
def test_the_divergence_in_the_loss_and_its_gradient(kl):
    reference, model = make(seed=4), make()
    goal = objective(
        beta=0.3, kl=kl, reference=reference, reward=lambda items, _: [0.0] * len(items), batch_size=16
    )
    batch = next(goal.batches(model))
    loss = goal.loss(model, batch)
    logs, base = (token_log_probs(one, batch["ids"], batch["mask"]) for one in (model, reference))
    k1 = logs - base
    k3 = (-k1).exp() - 1 + k1
    ratio = (logs - logs.detach()).exp()
    wanted = {"k2": k1.square() / 2, "k3": ratio * k3, "k3-plain": k3}[kl]
    wanted = 0.3 * (wanted * batch["mask"] / batch["mask"].sum(1, keepdim=True)).sum()
    assert loss.total.item() == pytest.approx(wanted.item())
    for name, each in {"k1": k1, "k3": k3}.items():
        mean = (each / batch["mask"].sum(1, keepdim=True)).sum().item()
        assert loss.metrics[name].item() == pytest.approx(mean)
    found, expected = (torch.autograd.grad(one, [*model.parameters()]) for one in (loss.total, wanted))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))


def test_beta_without_a_reference_and_dropout_are_refused():
    model = make()
    for reference in (None, model):
        with pytest.raises(UserError, match="beta needs a reference"):
            next(objective(beta=0.1, reference=reference).batches(model))
    model = make()
    apply_lora(model, 2, dropout=0.5)
    for name, p in model.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(p)
    for kind, trained in ((GRPO, model), (PPO, ActorCritic(model))):
        with pytest.raises(UserError, match="set it to 0"):
            Trainer(trained, objective(kind), TrainConfig(steps=1, **RUN)).fit()


def test_what_does_not_fit_is_refused():
    for changes in (
        {"batch_size": 5},
        {"group": 0},
        {"temperature": 0.0},
        {"beta": -1.0},
        {"max_new_tokens": 0},
        {"temperature": math.nan},
        {"beta": math.inf},
        {"epochs": 1.5},
        {"reference": make()},
        {"kl": "k3"},
        {"length": "tokens"},
        {"baseline": "meen"},
        {"clip": (-1, -1)},
        {"method": "reinforce", "group": 1, "scale": True},
        {"tries": 0},
        {"tries": 2, "group": 1},
        {"tries": 2, "method": "reinforce"},
        {"kind": PPO, "decay": 5},
        {"kind": PPO, "clip": -1},
        {"kind": Distill, "teacher": make(), "beta": 1.0},
    ):
        with pytest.raises(UserError):
            objective(**changes)
    with pytest.raises(UserError, match="divided"):
        objective().share(0, 3)
    for reward in (
        lambda items, _: [1.0],
        lambda items, _: [math.nan] * len(items),
        lambda items, _: [None] * len(items),
        lambda items, _: None,
        lambda items, _: [1e300] * len(items),
        lambda items, _: torch.ones(len(items), 2),
    ):
        with pytest.raises(UserError, match="one finite number"):
            next(objective(reward=reward).batches(make()))
    with pytest.raises(UserError, match="method is one of"):
        objective(method="trpo")
    with pytest.raises(UserError, match="no end token"):
        GRPO(prompts(), paid, BPE([], name="bytes"), **OPTIONS)

    class Sharded(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))
            self.p.to_local = None

    with pytest.raises(UserError, match="single, ddp or fsdp"):
        next(objective().batches(Sharded()))(Sharded())


# Without a gradient through the reward


def test_a_verified_answer_has_ended():
    reward = verify(lambda item, text: text == item)
    given = [Completion([], [], ended, text) for text, ended in (("ab", True), ("ab", False), ("b", True))]
    assert reward(["ab"] * 3, given) == [1, 0, 0]


def test_the_best_completion_is_kept_and_the_control_keeps_any():
    asked = [Prompt([1, 2], 0), Prompt([3], 1)]
    written = [
        [Completion([7 + i], [0.0], True) for i in range(3)],
        [Completion([20 + i], [0.0], True) for i in range(3)],
    ]
    rewards = [[0.0, 1.0, 1.0], [0.2, 0.1, 0.0]]
    best = select(asked, written, rewards)
    assert [one.ids for one in best] == [[1, 2, 8], [3, 20]]
    assert [one.mask for one in best] == [[0, 0, 1], [0, 1]]
    assert [one.ids for one in select(asked, written, rewards, least=0.5)] == [[1, 2, 8]]
    chance = {select(asked, written, rewards, keep="random", least=0.5, seed=s)[0].ids[-1] for s in range(40)}
    assert chance == {7, 8, 9}
    assert len(select(asked, written, rewards, keep="random", least=0.5)) == 1


def test_distillation_is_the_divergence_from_the_teacher_at_each_token():
    student, teacher = make(), make(seed=5)
    goal = objective(Distill, teacher=teacher, batch_size=16, temperature=0.8)
    batch = next(goal.batches(student))
    total, tokens = 0.0, int(batch["mask"].sum())
    for ids, mask in zip(batch["ids"], batch["mask"], strict=True):
        p, q = (torch.log_softmax(model(ids[None])[0] / 0.8, -1) for model in (student, teacher))
        for t in mask.nonzero().flatten():
            total += (p[t - 1].exp() * (p[t - 1] - q[t - 1])).sum().item()
    loss = goal.loss(student, batch)
    assert loss.total.item() / 16 == pytest.approx(total / tokens)


def test_a_student_learns_from_its_teacher():
    student, teacher = make(), make(seed=5)
    options = {"teacher": teacher, "prompts_per_phase": 4}
    first = Trainer(make(), objective(Distill, **options), TrainConfig(steps=1, **RUN)).fit()
    last = Trainer(student, objective(Distill, **options), TrainConfig(steps=40, **RUN)).fit()
    assert last["kl"] < first["kl"] / 2


def test_prompts_are_checked_before_anything_is_written():
    for given, message in (([], "no prompts"), ([Prompt([], 0)], "one is empty")):
        with pytest.raises(UserError, match=message):
            GRPO(given, paid, TOKENIZER, **OPTIONS)
    goal = GRPO([*prompts(), Prompt([65] * 30, 0)], paid, TOKENIZER, **OPTIONS)
    with pytest.raises(UserError, match="do not fit into a context"):
        next(goal.batches(make()))


def test_a_reward_that_fails_leaves_the_model_as_it_was():
    model = make().train()

    def reward(items, _):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(objective(reward=reward).batches(model))
    assert model.training


def test_a_value_frozen_by_an_adapter_is_refused():
    model = ActorCritic(make())
    apply_lora(model, 2, targets=["q_proj"])
    with pytest.raises(UserError, match="The value is frozen"):
        next(objective(PPO).batches(model))


def test_distillation_uses_capped_logits():
    torch.manual_seed(0)
    student, teacher = (Transformer(CONFIG.replace(logit_softcap=2.0)).double() for _ in "st")
    goal = objective(Distill, teacher=teacher, batch_size=16)
    batch = next(goal.batches(student))
    p, q = (torch.log_softmax(model(batch["ids"]), -1)[:, :-1] for model in (student, teacher))
    each = (p.exp() * (p - q)).sum(-1) * batch["mask"][:, 1:]
    expected = 16 * each.sum() / batch["mask"].sum()
    assert goal.loss(student, batch).total.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", [GRPO, PPO])
def test_a_policy_that_scores_otherwise_than_it_drew_is_refused(kind):
    model = ActorCritic(make()) if kind is PPO else make()
    goal = objective(kind)
    batch = next(goal.batches(model))
    goal.loss(model, batch)
    batch["log_probs"] = batch["log_probs"] + 0.1 * batch["mask"]
    with pytest.raises(UserError, match=r"0\.1 nats apart"):
        goal.loss(model, batch)
    goal.loss(model, batch | {"fresh": torch.tensor(False)})


def test_an_objective_must_say_what_it_learns():
    class Half(OnPolicy):
        def loss(self, model, batch):
            raise AssertionError

    with pytest.raises(TypeError, match="learn"):
        objective(Half)
