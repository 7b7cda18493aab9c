"""Losses and gradients against TRL's trainers, where trl is installed.

Their loss methods are called, on batches that their collators make. First with one table of logits in
float64, where both must agree to the last digits; then with the same weights in the transformers model that
TRL patches and in ours, in float32.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from myllm import ModelConfig, Transformer  # noqa: E402
from myllm.finetuning.dpo import DPO, Pair  # noqa: E402
from myllm.finetuning.grpo import GRPO, length_weights  # noqa: E402
from myllm.finetuning.rollout import Prompt, token_log_probs  # noqa: E402
from myllm.finetuning.sft import SFT, Example  # noqa: E402
from myllm.tokenizers.bpe import BPE  # noqa: E402
from myllm.weights import hub  # noqa: E402

V, LONGEST = 40, 12
CONFIG = ModelConfig(
    vocab_size=V, block_size=32, n_layer=2, n_head=2, n_embd=16, init_std=0.2, tie_embeddings=True
)


class Bigrams(nn.Module):
    """Logits are a table in float64; called as our objectives call a model, and as TRL's trainers do."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(V, V, generator=generator, dtype=torch.float64))

    def forward(self, ids=None, *, input_ids=None, labels=None, **_):
        if input_ids is None:
            return self.weight[ids]
        logits, targets = self.weight[input_ids[:, :-1]], labels[:, 1:]
        logs, mask = torch.log_softmax(logits, -1), targets != -100
        chosen = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * mask
        outputs = {"entropy": -(logs.exp() * logs).sum(-1), "mean_logits": logits.mean(-1), "is_top1": mask}
        return SimpleNamespace(log_probs=chosen, label_mask=mask, **outputs)


def texts(n, seed, least=1):
    """Prompts and answers of various lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low, high):
        size = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(3, V, (size,), generator=generator).tolist()

    return [(ids(1, 5), ids(least, 7)) for _ in range(n)]


def example(prompt, answer):
    return Example(prompt + answer, [0] * len(prompt) + [1] * len(answer))


def pairs(n=6):
    given = [(p, a, b) for (p, a), (_, b) in zip(texts(n, 0), texts(n, 1), strict=True)]
    return given, [Pair(example(p, a), example(p, b)) for p, a, b in given]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The weights of a policy and of its reference."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(tmp_path_factory.mktemp("model"))
        hub.save(Transformer(CONFIG), found[-1])
    return found


def theirs(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def make(kind, folder, rows, **options):
    """One of TRL's trainers in float32, with a tokenizer of words and the rows as its data."""
    words = {"<pad>": 0, "<end>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, V)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    settings = {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "report_to": "none"}
    settings |= {"output_dir": str(folder / kind), "per_device_train_batch_size": 4}
    return getattr(trl, f"{kind}Trainer")(
        model=theirs(folder),
        args=getattr(trl, f"{kind}Config")(**settings, **options.pop("settings", {})),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
        **options,
    )


@pytest.fixture(scope="module")
def dpo(folders):
    rows = [{"prompt": "w3", "chosen": " w4", "rejected": " w5"}] * 4
    return make("DPO", folders[0], rows, ref_model=theirs(folders[1]))


@pytest.fixture(scope="module")
def kto(folders):
    rows = [{"prompt": "w3", "completion": " w4", "label": i < 2} for i in range(4)]
    return make("KTO", folders[0], rows, ref_model=theirs(folders[1]))


@pytest.fixture(scope="module")
def grpo(folders):
    return make(
        "GRPO",
        folders[0],
        [{"prompt": "w3"}] * 4,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        settings={"num_generations": 2, "max_completion_length": LONGEST},
    )


def agree(found, expected, models, tolerance):
    """The loss of ours and of theirs, and the gradients of all parameters by their names."""
    assert found.item() == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
    ours, others = (dict(model.named_parameters()) for model in models)
    gradients = torch.autograd.grad(found, [*ours.values()])
    wanted = dict(zip(others, torch.autograd.grad(expected, [*others.values()]), strict=True))
    assert len(wanted) == len(gradients) and any(g.abs().max() > 1e-3 for g in gradients)
    for name, gradient in zip(ours, gradients, strict=True):
        other = wanted[name] if name in wanted else wanted[f"model.{name}"]
        assert (gradient - other).abs().max() <= tolerance * (1 + other.abs().max()), name


def on_bigrams(goal, batch, expected, model):
    agree(goal.loss(model, batch).total / goal.count(batch), expected, (model, model), 1e-12)


# Preferences


def preference_batch(trainer, given, goal, model):
    """Our batch and TRL's, which must hold the same tokens and masks."""
    rows = [{"prompt_ids": p, "chosen_ids": a, "rejected_ids": b} for p, a, b in given]
    inputs, batch = trainer.data_collator(rows), next(goal.batches(model))
    assert torch.equal(inputs["input_ids"], batch[0]) and torch.equal(inputs["completion_mask"] > 0, batch[1])
    return inputs, batch


@pytest.mark.parametrize(
    "method,loss,beta",
    [("dpo", "sigmoid", 0.1), ("dpo", "sigmoid", 0.7), ("ipo", "ipo", 0.3), ("simpo", "sigmoid_norm", 2.0)],
)
def test_preferences_on_the_same_logits(dpo, monkeypatch, method, loss, beta):
    """IPO and SimPO take means over an answer's tokens in TRL, too; SimPO is theirs with a reference of 0."""
    (given, mine), model = pairs(), Bigrams()
    options = {"block_size": 32, "batch_size": len(mine), "shuffle": False}
    goal = DPO(mine, Bigrams(1), method=method, beta=beta, **options)
    inputs, batch = preference_batch(dpo, given, goal, model)
    sums = batch[2].double() * (batch[1].sum(1) if method == "ipo" else 1)
    inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = sums.chunk(2)
    settings = {"loss_types": [loss], "beta": beta, "precompute_ref_logps": True}
    for name, value in settings.items():
        monkeypatch.setattr(dpo, name, value)
    on_bigrams(goal, batch, dpo.compute_loss(model, inputs), model)


@pytest.mark.parametrize("method,loss", [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_preferences_with_the_same_weights(dpo, folders, monkeypatch, method, loss):
    (given, mine), model = pairs(), hub.load_folder(folders[0])
    options = {"block_size": 32, "batch_size": len(mine), "shuffle": False}
    goal = DPO(mine, hub.load_folder(folders[1]), method=method, beta=0.1, **options)
    inputs, batch = preference_batch(dpo, given, goal, model)
    monkeypatch.setattr(dpo, "loss_types", [loss])
    found = goal.loss(model, batch).total / goal.count(batch)
    agree(found, dpo.compute_loss(dpo.model, inputs), (model, dpo.model), 2e-5)


def unpaired(given):
    """As KTO's data in TRL: the chosen answers, then the others; for the divergence, the next chosen answer.

    TRL itself takes the answer of the example before, good or bad, so its estimate is another one.
    """
    after = [a for _, a, _ in [*given[1:], given[0]]]
    return [
        {"prompt_ids": p, "completion_ids": answer, "KL_completion_ids": other, "label": good}
        for good in (True, False)
        for (p, a, b), other in zip(given, after, strict=True)
        for answer in [a if good else b]
    ]


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_kto_on_the_same_logits(kto, monkeypatch, beta, seed):
    (given, mine), model = pairs(), Bigrams()
    options = {"block_size": 32, "batch_size": len(mine), "shuffle": False}
    goal = DPO(mine, Bigrams(seed), method="kto", beta=beta, **options)
    batch, inputs = next(goal.batches(model)), kto.data_collator(unpaired(given))
    n = len(mine)
    reference = batch[2].double()
    inputs |= {"ref_logps": reference[: 2 * n], "ref_KL_logps": reference[2 * n :].repeat(2)}
    for name, value in {"beta": beta, "precompute_ref_logps": True}.items():
        monkeypatch.setattr(kto, name, value)
    on_bigrams(goal, batch, kto.compute_loss(model, inputs), model)


def test_kto_with_the_same_weights(kto, folders):
    (given, mine), model = pairs(), hub.load_folder(folders[0])
    options = {"block_size": 32, "batch_size": len(mine), "shuffle": False}
    goal = DPO(mine, hub.load_folder(folders[1]), method="kto", beta=0.1, **options)
    batch = next(goal.batches(model))
    found = goal.loss(model, batch).total / goal.count(batch)
    expected = kto.compute_loss(kto.model, kto.data_collator(unpaired(given)))
    agree(found, expected, (model, kto.model), 2e-5)


# Policy gradients


def rollout(model, reference, method, **options):
    """Our objective and its batch, and the same rollout as TRL holds it: prompts are padded on the left."""
    given = texts(8, 3, least=2)
    goal = GRPO(
        [Prompt([3], None)],
        lambda items, written: [0.0] * len(written),
        BPE([], special_tokens=["<end>"], name="bytes"),
        method=method,
        **({"clip": CLIP[method]} if method in CLIP else {}),
        prompts_per_phase=4,
        group=2,
        batch_size=8,
        max_new_tokens=LONGEST,
        stop_id=1,
        **options,
    )
    size = max(len(p + a) for p, a in given)
    ids = torch.tensor([p + a + [0] * (size - len(p + a)) for p, a in given])
    mask = torch.tensor([[0] * len(p) + [1] * len(a) + [0] * (size - len(p + a)) for p, a in given]).bool()
    generator = torch.Generator().manual_seed(4)
    noise, rewards = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (mask.shape, 8))
    with torch.no_grad():
        logs, referred = (token_log_probs(m, ids, mask) for m in (model, reference))
    old = (logs + 0.3 * noise.to(logs.dtype)) * mask
    buffer = {"ids": ids, "mask": mask, "log_probs": old, "rewards": rewards.to(logs.dtype)}
    batch = goal.learn(buffer | {"reference": referred}) | {"fresh": torch.tensor(False)}

    def padded(rows, left):
        width = max(map(len, rows))
        fill = [torch.zeros(width - len(row), dtype=row.dtype) for row in rows]
        return torch.stack([torch.cat([f, r] if left else [r, f]) for f, r in zip(fill, rows, strict=True)])

    def answers(x):
        return padded([row[m] for row, m in zip(x, mask, strict=True)], False)

    prompts = [torch.tensor(p) for p, _ in given]
    inputs = {
        "prompt_ids": padded(prompts, True),
        "prompt_mask": padded([torch.ones_like(p) for p in prompts], True),
        "completion_ids": answers(ids),
        "completion_mask": answers(mask.long()),
        "advantages": batch["advantages"],
        "old_per_token_logps": answers(old),
        "ref_per_token_logps": answers(referred),
        "num_items_in_batch": mask.sum(),
    }
    return goal, batch, inputs


# Their name, epsilons and level. DAPO's upper epsilon is not their default; CISPO's is the limit itself,
# where ours is counted from 1.
POLICIES = {
    "grpo": ("grpo", 0.2, 0.2, "token"),
    "dapo": ("dapo", 0.2, 0.28, "token"),
    "dr-grpo": ("dr_grpo", 0.2, 0.2, "token"),
    "gspo": ("grpo", 3e-4, 4e-4, "sequence"),
    "cispo": ("cispo", 0.2, 1.2, "token"),
}
CLIP = {"cispo": (1.0, 0.2)}  # so low that the limit is reached here


def set_policy(trainer, monkeypatch, method, beta, kl):
    loss, low, high, level = POLICIES[method]
    settings = {"loss_type": loss, "beta": beta, "epsilon_low": low, "epsilon_high": high}
    settings |= {"importance_sampling_level": level, "current_gradient_accumulation_steps": 1}
    for name, value in settings.items():
        monkeypatch.setattr(trainer, name, value, raising=False)
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", kl == "k3")
    monkeypatch.setattr(trainer.args, "steps_per_generation", 1)


# Theirs multiplies k3 by the ratio of the loss, for GSPO that of the whole text; ours by that of the token.
@pytest.mark.parametrize(
    "method,beta,kl",
    [(method, *rest) for method in POLICIES for rest in ((0.0, "k3"), (0.1, "k3-plain"))]
    + [(method, 0.1, "k3") for method in POLICIES if method != "gspo"],
)
def test_policy_gradients_on_the_same_logits(grpo, monkeypatch, method, beta, kl):
    model = Bigrams()
    goal, batch, inputs = rollout(model, Bigrams(1), method, beta=beta, kl=kl)
    set_policy(grpo, monkeypatch, method, beta, kl)
    # The weights of tokens are kept in float32, which the comparison in float64 would see.
    batch["weights"] = length_weights(batch["mask"].double(), goal.length, LONGEST)
    on_bigrams(goal, batch, grpo.compute_loss(model, inputs), model)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("method", ["grpo", "dapo", "dr-grpo"])
def test_policy_gradients_with_the_same_weights(grpo, folders, monkeypatch, method, beta):
    model, reference = (hub.load_folder(folder) for folder in folders)
    goal, batch, inputs = rollout(model, reference, method, beta=beta, kl="k3-plain")
    set_policy(grpo, monkeypatch, method, beta, "k3-plain")
    found = goal.loss(model, batch).total / goal.count(batch)
    agree(found, grpo.compute_loss(grpo.model, inputs), (model, grpo.model), 2e-5)


# Supervised fine-tuning


@pytest.mark.parametrize("packing", [False, True])
def test_supervised_fine_tuning_with_the_same_weights(folders, packing):
    """Packed, ours computes on fewer rows what TRL computes on one row a text."""
    given, model = texts(6, 5, least=2), hub.load_folder(folders[0])
    rows = [{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in given]
    trainer = make("SFT", folders[0], rows)
    goal = SFT([example(p, a) for p, a in given], block_size=16, packing=packing, batch_size=1, shuffle=False)
    assert goal.loader.n < 6 or not packing
    goal.loader.batch_size = goal.loader.n
    batch = next(goal.batches(model))
    found = goal.loss(model, batch).total / goal.count(batch)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    agree(found, trainer.compute_loss(trainer.model, inputs), (model, trainer.model), 2e-5)
