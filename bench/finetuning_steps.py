"""A step of fine-tuning: ours against TRL, peft and bitsandbytes, in time and in memory.

    python -m bench.finetuning_steps                          everything, about nine minutes
    python -m bench.finetuning_steps --works sft dpo          some of it
    python -m bench.finetuning_steps --shape smollm2 --works sft     the shape of SmolLM2, short texts

A step is forward, backward, clipping and AdamW, on the same weights and the same texts; the losses and the
norms of the gradients of two steps are compared before anything is timed. TRL's side is its trainer's own
``training_step`` with the clipping and the fused AdamW of its loop; the rest of that loop, and its loader,
are left out in its favour. Ours is `Trainer.update`, loader and records included. Around peft's model is a
loop that does nothing else; the limit beside it is the products with the frozen weights, alone. "As it comes"
is TRL without any setting: autocast to bfloat16, activations computed again, and for DPO a reference that is
asked in every step. Ours comes in float32, and texts share rows in SFT; a line with bfloat16, in which ours
holds its weights then, compares equal precision. For GRPO the rollout is given, so that what is timed is
learning from it. PPO's rollout is given, too, and its rival is the same step written out by hand around the
same model, so that the ratio is what the loop, the phases and the records cost.

Memory is the high-water mark of a fresh process in its second step, less what the process held after a step
of a tiny model, when all libraries were loaded: weights, gradients, moments, activations and logits.
Needs the extras bench, dev and quant.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

import bench.common as common  # before torch: it sets the threads

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error"}

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"vocab_size": 16_384, "n_layer": 6, "n_head": 6, "n_embd": 384, "intermediate_size": 1024},
    "smollm2": {},  # that of the preset
    "tiny": {"vocab_size": 512, "n_layer": 2, "n_head": 2, "n_embd": 64, "intermediate_size": 128},  # a trial
}
LENGTHS = {"small": 256, "smollm2": 64, "tiny": 64}  # tokens of the longest text
TEXTS = {"small": 6, "smollm2": 4, "tiny": 6}  # in a batch; half as many pairs, or prompts of two completions
RATE, CLIP, BETA, HIGH = 3e-4, 1.0, 0.1, 0.28
RANK, ALPHA = 8, 16
AGAIN = ", activations again"
PLAIN, AUTO, PACKED = "fp32", "bf16", "fp32, rows shared"
TRL, PEFT, HAND = "TRL", "peft", "by hand"
DEFAULT = f"{TRL} as it comes"
Update = Callable[[], tuple[float, float]]  # one update; its loss and the gradient's norm before clipping


class Case(NamedTuple):
    """What the sides of one kind of work share."""

    work: str
    shape: str
    folder: str  # the weights that all begin with


class Goal(NamedTuple):
    """One comparison."""

    ours: str
    theirs: str
    goal: float | None
    limit: bool = False  # theirs is a bound and no rival


MINE = {name: f"myllm {name}" for name in (PLAIN, AUTO, PACKED, PLAIN + AGAIN)}
THEIRS = {name: f"{TRL} {name}" for name in (PLAIN, PLAIN + AGAIN)}
PEFTS = {name: f"{PEFT} {name}" for name in (PLAIN, AUTO)}
TUNING = [
    Goal(MINE[PLAIN], THEIRS[PLAIN], 1.0),
    Goal(MINE[PLAIN], DEFAULT, 2.0),
    Goal(MINE[AUTO], DEFAULT, None),
]
BARE = {name: f"products alone {name}" for name in (PLAIN, AUTO)}
ADAPTING = [Goal(MINE[name], PEFTS[name], 1.2) for name in (PLAIN, AUTO)]
ADAPTING += [Goal(MINE[name], BARE[name], None, True) for name in (PLAIN, AUTO)]
GOALS = {
    "sft": [*TUNING, Goal(MINE[PLAIN], THEIRS[PLAIN + AGAIN], None), Goal(MINE[PACKED], DEFAULT, None)],
    "dpo": TUNING,
    "grpo": TUNING,
    "ppo": [Goal(MINE[PLAIN], HAND, 0.91)],
    "lora": ADAPTING,
    "qlora": ADAPTING,
}
MEMORY = [Goal(MINE[PLAIN], THEIRS[PLAIN], 0.6), Goal(MINE[PLAIN + AGAIN], THEIRS[PLAIN + AGAIN], 0.6)]
TITLES = {
    "sft": "SFT",
    "dpo": "DPO",
    "grpo": "GRPO, a given rollout",
    "ppo": "PPO, a given rollout",
    "lora": f"LoRA, r {RANK} on all linear layers",
    "qlora": f"QLoRA, NF4, r {RANK} on all linear layers",
}


# What is learned, as lists of ids


def lengths(shape: str, least: float) -> list[int]:
    """As many lengths as there are texts, evenly from a share of the longest to the longest."""
    n, longest = TEXTS[shape], LENGTHS[shape]
    return [round(longest * (least + (1 - least) * i / (n - 1))) for i in range(n)]


def texts(shape: str, least: float = 0.25, seed: int = 1) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers; the first quarter of the longest is the most that a prompt has."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    prompt = LENGTHS[shape] // 8
    found = list[tuple[list[int], list[int]]]()
    for length in lengths(shape, least):
        ids = torch.randint(3, config(shape).vocab_size, (length,), generator=generator).tolist()
        found.append((ids[:prompt], [*ids[prompt:-1], 1]))  # 1 ends a text
    return found


def config(shape: str) -> Any:
    """Our model's configuration."""
    from myllm import ModelConfig

    return ModelConfig.preset("smollm2-135m", block_size=512, **SHAPES[shape], **heads(shape))


def heads(shape: str) -> dict[str, int]:
    return {"n_kv_head": SHAPES[shape]["n_head"]} if "n_head" in SHAPES[shape] else {}


def write_weights(shape: str, folder: str) -> None:
    """The weights that all sides begin with."""
    import torch

    from myllm import Transformer
    from myllm.weights import hub

    torch.manual_seed(0)
    hub.save(Transformer(config(shape)), folder)


def rollout(case: Case) -> dict[str, Any]:
    """Completions of prompts of one length, with what the policy and the advantages are: our buffer."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from myllm.weights import hub

    given = texts(case.shape, 0.5)
    rows = [torch.tensor(prompt + answer) for prompt, answer in given]
    ids = pad_sequence(rows, batch_first=True)
    place = torch.arange(ids.shape[1])
    start, end = (
        torch.tensor([len(part) for part in each])[:, None] for each in ([g[0] for g in given], rows)
    )
    mask = (place >= start) & (place < end)
    from myllm.finetuning.rollout import token_log_probs

    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(mask.shape, generator=generator)
    with torch.no_grad():
        logs = token_log_probs(hub.load_folder(case.folder), ids, mask)
    rewards = torch.randn(len(ids), generator=generator)
    # The policy that wrote was another by a little, so that ratios are not 1 and some are clipped.
    found = {"ids": ids, "mask": mask, "log_probs": (logs + 0.2 * noise) * mask, "rewards": rewards}
    values = torch.randn(mask.shape, generator=generator) * mask
    return found | ({"values": values} if case.work == "ppo" else {})


# Our sides


def ours(case: Case, name: str) -> Update:
    """Our trainer's update."""
    import torch

    from myllm import TrainConfig, Trainer
    from myllm.finetuning.lora import apply_lora
    from myllm.finetuning.ppo import ActorCritic
    from myllm.weights import hub

    kind = name.removeprefix("myllm ")
    model: Any = hub.load_folder(case.folder)
    for p in model.parameters():  # read now, not in the first step
        p.data = p.data.clone()
    if case.work == "ppo":
        model = ActorCritic(model)
    if case.work in ("lora", "qlora"):
        if case.work == "qlora":
            from myllm import quantize

            model = quantize(model, "nf4")
        torch.manual_seed(3)
        apply_lora(model, RANK, alpha=ALPHA)
    settings = TrainConfig(
        steps=10**6,
        lr=RATE,
        schedule="constant",
        weight_decay=0.0,
        betas=(0.9, 0.999),
        clip=CLIP,
        precision="bf16" if kind == AUTO else "fp32",
        recompute=kind.endswith(AGAIN),
    )
    objective, stream = learned(case, packing=kind == PACKED)
    trainer = Trainer(model, objective, settings)
    batches = objective.batches(model) if stream is None else repeat(stream)

    def update() -> tuple[float, float]:
        record = trainer.update(batches)
        return record["loss"], record["norm"]

    return update


def learned(case: Case, packing: bool) -> tuple[Any, Any]:
    """Our objective, and its batch if it does not make it by itself."""
    import torch

    from myllm.finetuning.dpo import DPO, Pair
    from myllm.finetuning.grpo import GRPO
    from myllm.finetuning.ppo import PPO
    from myllm.finetuning.rollout import Prompt
    from myllm.finetuning.sft import SFT, Example
    from myllm.tokenizers.bpe import BPE

    longest, n = LENGTHS[case.shape], TEXTS[case.shape]

    def examples(*options: Any) -> list[Example]:
        return [Example(p + a, [0] * len(p) + [1] * len(a)) for p, a in texts(case.shape, *options)]

    if case.work == "dpo":
        pairs = [Pair(*one) for one in pair_up(examples)]
        return DPO(pairs, block_size=longest, beta=BETA, batch_size=n // 2, shuffle=False), None
    if case.work in ("grpo", "ppo"):
        options: dict[str, Any] = {"batch_size": n, "max_new_tokens": longest, "stop_id": 1}
        options |= (
            {"prompts_per_phase": n // 2, "group": 2, "method": "dapo", "clip": (0.2, HIGH)}
            if case.work == "grpo"
            else {"prompts_per_phase": n, "epochs": 10**6}  # never time for another rollout
        )
        policy = (GRPO if case.work == "grpo" else PPO)(
            [Prompt([2], None)],
            lambda items, written: [0.0] * len(written),
            BPE([], special_tokens=["<end>"], name="bytes"),
            **options,
        )
        buffer = policy.learn(rollout(case))
        if case.work == "grpo":
            return policy, buffer | {"fresh": torch.tensor(False)}
        policy.buffer, policy.used.position = buffer, n  # one batch of the phase has been
        return policy, None
    given = examples() if case.work == "sft" else examples(1.0)
    one = SFT(given, block_size=longest, packing=packing, batch_size=n, shuffle=False)
    if packing:  # all texts, in fewer rows
        one.loader.batch_size = one.loader.n
    return one, None


def pair_up(examples: Callable[..., list[Any]]) -> list[tuple[Any, Any]]:
    """Answers to the same prompts: those of one seed are chosen, shorter ones of another are rejected."""
    pairs = list[tuple[Any, Any]]()
    for chosen, other in zip(examples(0.5), examples(0.25, 2), strict=True):
        n = [*chosen.mask].index(1)
        pairs.append((chosen, other._replace(ids=[*chosen.ids[:n], *other.ids[n:]])))
    return pairs[::2]


# The rivals


def tokenizer(shape: str) -> Any:
    """Words w3, w4, … as tokens, so that TRL's own preparation gives the ids that are wanted."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1, "<unk>": 2}
    words |= {f"w{i}": i for i in range(3, config(shape).vocab_size)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def words(ids: list[int]) -> str:
    return " ".join("<end>" if i == 1 else f"w{i}" for i in ids)


def trl(case: Case, name: str) -> Update:
    """The training step of TRL's trainer, and the clipping and the optimizer of its loop."""
    import torch
    import transformers
    import trl
    from datasets import Dataset

    logging_off()
    again, default = name.endswith(AGAIN), name == DEFAULT
    n = TEXTS[case.shape]
    settings: dict[str, Any] = {
        "output_dir": f"{case.folder}/out",
        "per_device_train_batch_size": n,
        "learning_rate": RATE,
        "max_grad_norm": CLIP,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if not default:
        settings |= {"bf16": False, "gradient_checkpointing": again}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        case.folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    given = texts(case.shape)
    options: dict[str, Any] = {"model": model, "processing_class": tokenizer(case.shape)}
    if case.work == "sft":
        rows = [{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in given]
        made = trl.SFTTrainer(
            args=trl.SFTConfig(**settings), train_dataset=Dataset.from_list(rows), **options
        )
        batch = made.data_collator([made.train_dataset[i] for i in range(n)])
    elif case.work == "dpo":
        goal, _ = learned(case, False)
        chosen, rejected = goal.pairs.groups
        rows = []
        for a, b in zip(chosen, rejected, strict=True):
            k = [*a.mask].index(1)
            text = {"prompt": words(a.ids[:k]), "chosen": " " + words(a.ids[k:])}
            rows.append(text | {"rejected": " " + words(b.ids[k:])})
        if not default:
            settings["precompute_ref_log_probs"] = True
        settings |= {"beta": BETA, "max_length": LENGTHS[case.shape]}
        made = trl.DPOTrainer(
            args=trl.DPOConfig(**settings), train_dataset=Dataset.from_list(rows), **options
        )
        batch = made.data_collator([*made.train_dataset])
        ids, mask, _ = goal.pairs.batch(torch.arange(n // 2).numpy())
        assert torch.equal(batch["input_ids"], ids) and torch.equal(batch["completion_mask"] > 0, mask)
    else:
        settings |= {"num_generations": 2, "epsilon_high": HIGH, "max_completion_length": LENGTHS[case.shape]}
        settings |= {"num_iterations": 10**6, "temperature": 1.0}  # never time for another rollout
        made = trl.GRPOTrainer(
            args=trl.GRPOConfig(**settings),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_list([{"prompt": words(p)} for p, _ in given]),
            **options,
        )
        _, buffer = learned(case, False)
        start = len(given[0][0])
        assert all(len(p) == start for p, _ in given)
        mask = buffer["mask"][:, start:]
        batch = {
            "prompt_ids": buffer["ids"][:, :start],
            "prompt_mask": torch.ones_like(buffer["ids"][:, :start]),
            "completion_ids": buffer["ids"][:, start:],
            "completion_mask": mask.long(),
            "advantages": buffer["advantages"],
            "old_per_token_logps": buffer["log_probs"][:, start:],
            "num_items_in_batch": mask.sum(),
        }
        made._step, made._buffered_inputs = 1, [batch]
    if made.args.gradient_checkpointing:
        model.gradient_checkpointing_enable(made.args.gradient_checkpointing_kwargs)
    made.create_optimizer()
    wrapped, made.optimizer = made.accelerator.prepare(made.model, made.optimizer)
    made.current_gradient_accumulation_steps = 1

    def update() -> tuple[float, float]:
        loss = made.training_step(wrapped, dict(batch), None)
        norm = made.accelerator.clip_grad_norm_(wrapped.parameters(), CLIP)
        made.optimizer.step()
        wrapped.zero_grad()
        return loss.item(), float(norm)

    return update


def peft(case: Case, name: str) -> Update:
    """A plain loop around transformers' model with peft's adapters, over NF4 of bitsandbytes for QLoRA."""
    import peft
    import torch
    import transformers
    from torch import nn

    from myllm.finetuning.lora import apply_lora, lora_layers
    from myllm.weights import hub

    logging_off()
    low = name == PEFTS[AUTO]
    dtype = torch.bfloat16 if low else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if case.work == "qlora":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options["device_map"] = "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(case.folder, **options)
    model.config.use_cache = False
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, settings)
    mine = hub.load_folder(case.folder)
    torch.manual_seed(3)
    adapted = apply_lora(mine, RANK, alpha=ALPHA)
    theirs = dict(model.named_parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 2 * len(adapted), (len(trained), len(adapted))
    for path, layer in lora_layers(mine):  # the same A; B begins at 0
        weight = theirs[f"base_model.model.model.{path}.lora_A.default.weight"]
        weight.data.copy_(layer.adapters["default"].A)
    del mine
    model.train()
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    given = texts(case.shape, 1.0)
    ids = torch.tensor([p + a for p, a in given])
    labels = torch.tensor([[-100] * len(p) + a for p, a in given])

    def update() -> tuple[float, float]:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), float(norm)

    return update


def by_hand(case: Case, name: str) -> Update:
    """A plain step of PPO around our model: a batch of the rollout, the loss, clipping, AdamW."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from myllm.weights import hub

    model = hub.load_folder(case.folder)
    value = nn.Linear(model.config.n_embd, 1)
    nn.init.zeros_(value.weight)
    nn.init.zeros_(value.bias)
    trained = [p for part in (model, value) for p in part.parameters()]
    for p in trained:
        p.data = p.data.clone()
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    policy, _ = learned(case, False)
    phase = {name: x for name, x in policy.buffer.items() if name not in ("rewards", "weights")}
    model.train()

    def update() -> tuple[float, float]:
        rows = torch.randperm(len(phase["ids"]))
        batch = {name: x[rows] for name, x in phase.items()}
        ids, mask = batch.pop("ids"), batch.pop("mask")
        old, old_values, advantages, returns = (
            batch[name][mask] for name in ("log_probs", "values", "advantages", "returns")
        )
        hidden = model(ids[:, :-1], head=nn.Identity())[mask[:, 1:]]
        logs = -F.cross_entropy(model.lm_head(hidden), ids[mask], reduction="none")
        values = value(hidden)[:, 0]
        ratio = (logs - old).exp()
        gains = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        near = old_values + (values - old_values).clamp(-0.2, 0.2)
        errors = torch.maximum((values - returns).square(), (near - returns).square()) / 2
        loss = (0.5 * errors - gains).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), norm.item()

    return update


def products(case: Case, name: str) -> Update:
    """The products with the frozen weights alone, forward and for the gradient: no step takes less.

    The first layer's inputs need no gradient, and the head has only the positions that are learned.
    """
    import torch
    from torch import nn

    from myllm.weights import hub

    dtype = torch.bfloat16 if name == BARE[AUTO] else torch.float32
    given = texts(case.shape, 1.0)
    every, learned = sum(len(p + a) for p, a in given), sum(len(a) for _, a in given)
    work = list[tuple[Any, Any, Any]]()
    for path, layer in hub.load_folder(case.folder).to(dtype).named_modules():
        if isinstance(layer, nn.Linear):
            rows, first = learned if path == "lm_head" else every, path.startswith("layers.0.self_attn.")
            x, grad = (torch.randn(rows, n, dtype=dtype) for n in (layer.in_features, layer.out_features))
            work.append((x, layer.weight.data, None if first and "o_proj" not in path else grad))

    def update() -> tuple[float, float]:
        for x, weight, grad in work:
            _ = x @ weight.t()
            if grad is not None:
                _ = grad @ weight
        return 0.0, 0.0

    return update


def logging_off() -> None:
    """The rivals advise and warn a great deal."""
    import logging

    warnings.simplefilter("ignore")
    for name in ("transformers", "trl", "datasets", "bitsandbytes", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)


def side(case: Case, name: str) -> Update:
    """One of the sides by its name."""
    make = {"myllm": ours, TRL: trl, PEFT: peft, "by": by_hand, "products": products}[name.split()[0]]
    return make(case, name)


# Measuring


def agree(updates: dict[str, Update], bfloat16: set[str]) -> dict[str, float]:
    """Two updates of each side: how far losses are apart; float32 and bfloat16 each among themselves."""
    seen = {name: [update() for _ in range(2)] for name, update in updates.items()}
    reference = seen[MINE[PLAIN]]
    apart: dict[str, float] = {}
    for name, found in seen.items():
        exact = name not in bfloat16
        losses = max(abs(a[0] - b[0]) for a, b in zip(reference, found, strict=True))
        norms = max(abs(a[1] / b[1] - 1) for a, b in zip(reference, found, strict=True))
        apart[name] = losses
        print(f"  {name:34} losses apart {losses:.2g}, norms {norms:.2g}", flush=True)
        assert losses <= (1e-4 if exact else 2e-2) and norms <= (1e-3 if exact else 0.1), seen
    return apart


def be(case: Case, name: str) -> None:
    """Be one side: print what the process held before the model, and the most in its second update, in MB."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # a small one first, for all that is imported or made late
        write_weights("tiny", folder)
        side(Case(case.work, "tiny", folder), name)()
    gc.collect()
    before = common.memory(lambda: None)["before"]
    update = side(case, name)
    loss, _ = update()
    gc.collect()
    peak = common.memory(update)["peak"]
    print(json.dumps({"loss": loss, "before": before, "peak": peak}))


def memory_of(case: Case) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """A fresh process for each side."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for goal in MEMORY for name in goal[:2]):
        command = [sys.executable, "-m", "bench.finetuning_steps", "--be", name, *case]
        done = subprocess.run(command, cwd=common.ROOT, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"  {name:34} {found[name]['peak'] - found[name]['before']:8.0f} MB", flush=True)
    losses = [one.pop("loss") for one in found.values()]
    assert max(losses) - min(losses) <= 1e-4, losses
    taken = {name: one["peak"] - one["before"] for name, one in found.items()}
    rows = [
        {
            "ours": f"{goal.ours}, above what was loaded",
            "against": f"{goal.theirs}, above what was loaded",
            "ratio": round(taken[goal.ours] / taken[goal.theirs], 3),
            "goal": goal.goal,
        }
        for goal in MEMORY
    ]
    for row in rows:
        print(f"{row['ours']}: {row['ratio']}x of {row['against']} (goal {row['goal']})")
    return found, rows


def measure(case: Case, rounds: int, keep: bool) -> None:
    """Equal losses, then time in turns, then the memory of fresh processes."""
    import torch

    torch.set_num_threads(1)
    print(f"{TITLES[case.work]}, {case.shape}", flush=True)
    names = [*dict.fromkeys(name for goal in GOALS[case.work] for name in goal[:2])]
    updates = {name: side(case, name) for name in names}
    steps = {name: update for name, update in updates.items() if name not in BARE.values()}
    apart = agree(steps, {MINE[AUTO], DEFAULT, PEFTS[AUTO]})
    cpu, wall = common.paired(updates, rounds)
    fields: dict[str, Any] = {}
    if case.work in ("sft", "dpo"):
        fields["memory_mb"], fields["memory_ratios"] = memory_of(case)
    packages = {"ppo": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}.get(case.work, ("trl",))
    c = config(case.shape)
    size = f"{c.n_params / 1e6:.0f}M parameters, vocabulary {c.vocab_size:,}"
    many = dict.fromkeys(GOALS, f"{TEXTS[case.shape]} texts")
    many |= {
        "dpo": f"{TEXTS[case.shape] // 2} pairs",
        **dict.fromkeys(("grpo", "ppo"), f"{TEXTS[case.shape]} completions"),
    }
    comparisons = [common.compare(cpu, wall, *goal) for goal in GOALS[case.work]]
    if not keep:
        for row in comparisons:
            print(f"{row['ours']} is {row['cpu'][0]}× as fast as {row['against']} {row['cpu'][1:]}")
        return
    common.record(
        "Step of fine-tuning",
        f"{TITLES[case.work]}: {size}, {many[case.work]} of at most {LENGTHS[case.shape]} tokens",
        machine=common.machine("torch", "transformers", *packages),
        losses_apart=apart,
        cpu_seconds={name: round(sorted(s)[len(s) // 2], 3) for name, s in cpu.items()},
        comparisons=comparisons,
        **fields,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--try", dest="keep", action="store_false", help="record nothing")
    parser.add_argument("--be", nargs=4, metavar=("SIDE", "WORK", "SHAPE", "FOLDER"), help="be one side")
    options = parser.parse_args()
    if options.be:
        name, *case = options.be
        return be(Case(*case), name)
    with tempfile.TemporaryDirectory() as folder:
        write_weights(options.shape, folder)
        for work in options.works:
            measure(Case(work, options.shape, folder), options.rounds, options.keep)
            gc.collect()
    return None


if __name__ == "__main__":
    main()
