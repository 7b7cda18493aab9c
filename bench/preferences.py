"""What chapter 21 reads from a file: preferences, rewards and selection on one plane of reward against KL.

    python -m bench.preferences                all runs, about 20 minutes on one core; it resumes from build/
    python -m bench.preferences --share 1 2    those of every other seed, for a second process

The policy, the words and the reward are those of `bench.rl`. Every learner may spend the same number of
floating-point operations, sampling included. Of the held-out words those of `bench.rl` are the test; the
others are for validation.
"""

import argparse
import json
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.common import ROOT, origin
from bench.rl import (
    COMPLETIONS,
    GROUP,
    LEARNING,
    NEW,
    QUESTIONS,
    drawn,
    options,
    policy,
    prompts,
    right,
    teacher,
)
from bench.rl import tasks as questions
from bench.scoreboard import RESULTS
from bench.sft import MODEL, ROW, TOKENIZER, base
from myllm import LLM, SFT, TrainConfig, Trainer, Transformer
from myllm.app.html import export_html
from myllm.app.packed import dequantize
from myllm.data import wordops
from myllm.evaluation.intervals import bootstrap, maj_at_k, pass_at_k
from myllm.files import atomic_write
from myllm.finetuning.distill import Distill, select
from myllm.finetuning.dpo import DPO, Pair
from myllm.finetuning.grpo import GRPO
from myllm.finetuning.ppo import PPO, ActorCritic
from myllm.finetuning.rollout import Completion, Prompt, logits_of, states_before, token_log_probs
from myllm.finetuning.sft import Example

FILE, PARTS = RESULTS / "preferences.json", ROOT / "build" / "preferences"  # a file for each part
FLOPS = MODEL.flops_per_token(20)  # of a forward pass; a prompt with its answer has about 16 tokens
BUDGET = 1_000_000 * FLOPS  # of a run, all together
ASKED, DRAWN = 2048, 8  # prompts whose completions make pairs, and completions of each
WRONG = 4  # pairs that a right answer is in, at most
PAIRS = 32  # in an update
RATE = 1e-3
LOOKS = 5  # how often a run is measured
KL_SAMPLES = 4
TILT = 1 / (1 + math.e)  # how often the worse of two answers is preferred if their rewards differ by 1
BETAS = (0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0)
FALL = (0, 10, 20, 40, 60, 80, 120, 160, 240, 320, 400)
Row = dict[str, Any]


@cache
def asked(split: str) -> list[wordops.Task]:
    """Each held-out word once: those of `bench.rl` for the test, the others for validation."""
    test = {task.prompt for task in questions(QUESTIONS, held_out=True, seed=1)}
    known = [word for word in wordops.words(held_out=True) if len(word) <= 4]
    found = [wordops.Task("rev", f"rev: {word} >", word[::-1]) for word in known]
    return [task for task in found if (task.prompt in test) == (split == "test")]


def as_prompts(split: str) -> list[Prompt]:
    """Questions as a policy is asked them."""
    return [Prompt(TOKENIZER.encode(task.prompt), task) for task in asked(split)]


def example(prompt: Prompt, ids: Sequence[int]) -> Example:
    """A prompt with an answer."""
    return Example([*prompt.ids, *ids], [0] * len(prompt.ids) + [1] * len(ids))


def answer(task: wordops.Task) -> list[int]:
    """The tokens of the right answer, with its end token."""
    return [*TOKENIZER.encode(f" {task.answer}"), TOKENIZER.eos_id or 0]


def padded(rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, T)."""
    ids = pad_sequence([torch.tensor([*row.ids]) for row in rows], batch_first=True)
    return ids, pad_sequence([torch.tensor([*row.mask]) > 0 for row in rows], batch_first=True)


@torch.no_grad()
def log_probs(model: Transformer, rows: Sequence[Example]) -> Tensor:
    """The log-probability of each answer, (B,)."""
    parts = [padded(rows[start : start + 512]) for start in range(0, len(rows), 512)]
    return torch.cat([token_log_probs(model.eval(), *part).sum(1) for part in parts]).double()


def exact(model: Transformer, split: str = "test") -> Tensor:
    """The probability of the right answer to each question."""
    return log_probs(model, [example(one, answer(one.item)) for one in as_prompts(split)]).exp()


def greedy(model: Transformer, split: str = "test") -> list[float]:
    """Whether the greedy answer to each question is right, and ends."""
    found = LLM(model, TOKENIZER).complete([task.prompt for task in asked(split)], max_new_tokens=NEW)
    pairs = zip(asked(split), found, strict=True)
    return [float(text.strip() == task.answer and len(ids) < NEW) for task, (text, ids) in pairs]


@torch.no_grad()
def divergences(model: Transformer, split: str = "test") -> list[float]:
    """KL(model ‖ start) of an answer to each question, in nats.

    The divergence at a token is exact; the tokens before it are the model's own samples.
    """
    given = as_prompts(split)
    written = drawn(model, given, KL_SAMPLES, seed=7)
    rows = [example(one, each.ids) for one, group in zip(given, written, strict=True) for each in group]
    ids, mask = padded(rows)
    ours, theirs = (
        torch.log_softmax(logits_of(one.eval(), states_before(one, ids, mask)), -1)
        for one in (model, start())
    )
    each = torch.zeros(mask.shape).masked_scatter(mask, (ours.exp() * (ours - theirs)).sum(-1))
    return [float(x) for x in each.sum(1).view(len(given), KL_SAMPLES).mean(1)]


@cache
def start() -> Transformer:
    """The policy before it learns, which is the reference."""
    return policy().eval()


def mean(values: Any) -> float:
    """A mean, rounded."""
    return round(float(np.mean([float(x) for x in values])), 4)


def interval(values: Sequence[float]) -> list[float]:
    """A 95 % interval for a mean over questions, rounded."""
    return [round(x, 4) for x in bootstrap([float(x) for x in values], resamples=1000)]


def measures(model: Transformer) -> Row:
    """What a policy is worth, and how far it is from the start."""
    kl, hits = divergences(model), greedy(model)
    return {
        "reward": mean(exact(model)),
        "exact_match": mean(hits),
        "validation": mean(greedy(model, "validation")),
        "kl": mean(kl),
        "kl_interval": interval(kl),
        "hits": [int(x) for x in hits],
    }


# Pairs


@cache
def written(seed: int) -> tuple[list[Prompt], list[list[Completion]]]:
    """Completions by the start, from which pairs are made."""
    given = prompts(seed=1000 + seed)[:ASKED]
    return given, drawn(start(), given, DRAWN, seed)


def pairs_of(given: Sequence[Prompt], groups: Sequence[Sequence[Completion]], seed: int) -> list[Pair]:
    """The right answer against some wrong ones, where a prompt has got both."""
    generator, found = random.Random(seed), list[Pair]()
    for prompt, group in zip(given, groups, strict=True):
        rewards = right([prompt.item] * len(group), group)
        good = [one.ids for one, reward in zip(group, rewards, strict=True) if reward]
        bad = sorted({tuple(one.ids) for one, reward in zip(group, rewards, strict=True) if not reward})
        generator.shuffle(bad)
        found += [Pair(example(prompt, good[0]), example(prompt, ids)) for ids in bad[:WRONG] if good]
    generator.shuffle(found)
    return found


def own_pairs(seed: int) -> list[Pair]:
    """Both answers are the start's own."""
    return pairs_of(*written(seed), seed)


def foreign_pairs(seed: int) -> list[Pair]:
    """The chosen answer is the right one, written by hand for every prompt; the rejected is the start's."""
    found = list[Pair]()
    for prompt, group in zip(*written(seed), strict=True):
        good = answer(prompt.item)
        found += [Pair(example(prompt, good), example(prompt, group[0].ids))] if group[0].ids != good else []
    return found


@cache
def held_out_pairs(split: str) -> list[Pair]:
    """Pairs of the start's answers to held-out questions."""
    given = as_prompts(split)
    return pairs_of(given, drawn(start(), given, 64, seed=11), 0)


@cache
def reference_scores(split: str) -> Tensor:
    """The reference's log-probabilities of held-out pairs, (2, N)."""
    return torch.stack([log_probs(start(), side) for side in zip(*held_out_pairs(split), strict=True)])


def implicit(model: Transformer, split: str = "test") -> Tensor:
    """What the log-probabilities of held-out pairs have gained on the reference's, (2, N)."""
    scores = torch.stack([log_probs(model, side) for side in zip(*held_out_pairs(split), strict=True)])
    return scores - reference_scores(split)


def tokens(rows: Any) -> int:
    """How many tokens the answers and their prompts have."""
    return sum(len(row.ids) for row in rows)


# Runs


class Looks:
    """Measures a policy now and then while a run spends its operations."""

    def __init__(self, model: Transformer, spent: Callable[[int], float], updates: int) -> None:
        self.model, self.spent, self.rows = model, spent, list[Row]()
        self.best: dict[str, Tensor] = {}  # the weights that the validation chooses
        self.at = {max(1, round(updates * (n / LOOKS) ** 2)) for n in range(1, LOOKS)} | {updates}

    def __call__(self, trainer: Trainer, record: dict[str, float]) -> None:
        """Look, if it is time to."""
        if trainer.done in self.at:
            self.look(trainer.done)

    def look(self, updates: int) -> None:
        """Look at the model after so many updates."""
        row = {"updates": updates, "flops": self.spent(updates), **measures(self.model)}
        if not self.best or row["validation"] > max(one["validation"] for one in self.rows):
            self.best = {name: p.detach().clone() for name, p in self.model.state_dict().items()}
        self.rows.append(row)


def finished(method: str, setting: Row, seed: int, looks: Looks) -> Row:
    """A run as it stands in the file."""
    margins = implicit(looks.model)
    last = looks.rows[-1]
    torch.save(looks.best, PARTS / f"{method} {json.dumps(setting)} {seed}.pt")
    return {
        "method": method,
        "setting": setting,
        "seed": seed,
        **{name: last[name] for name in ("reward", "exact_match", "kl", "kl_interval", "updates", "flops")},
        "implicit_accuracy": mean(margins[0] > margins[1]),
        "curve": looks.rows,
    }


def preferring(method: str, seed: int, pairs: str = "own", rate: float = RATE, **more: Any) -> Row:
    """A run on pairs, each seen as often as the budget allows."""
    model = policy()
    given = own_pairs(seed) if pairs == "own" else foreign_pairs(seed)
    rows = tokens(row for pair in given for row in pair)
    plain, taken = method == "simpo", DRAWN if pairs == "own" else 1
    sampling = sum(len(p.ids) + len(c.ids) for p, g in zip(*written(seed), strict=True) for c in g[:taken])
    once = sampling + (0 if plain else rows * (1.5 if method == "kto" else 1))
    each = rows / len(given) * PAIRS * (3.5 if method == "kto" else 3)
    updates = round((BUDGET / FLOPS - once) / each)
    looks = Looks(model, lambda n: round((once + n * each) * FLOPS), updates)
    objective = DPO(
        given,
        None if plain else start(),
        block_size=ROW,
        batch_size=PAIRS,
        seed=seed,
        method=method,  # pyright: ignore[reportArgumentType]
        **more,
    )
    config = TrainConfig(steps=updates, lr=rate, warmup=5, weight_decay=0.0)
    Trainer(model, objective, config, callbacks=[looks]).fit()
    setting = {"pairs": pairs, "rate": rate, "n_pairs": len(given)} | more
    return finished(method, setting, seed, looks)


def in_rounds(method: str, seed: int, rounds: int = 4, fresh: int = 512, **more: Any) -> Row:
    """A run on pairs that the policy writes as it is in each round, to which those of earlier rounds stay."""
    model, given, spent = policy(), list[Pair](), 0.0
    looks, done = Looks(model, lambda _: round(spent * FLOPS), rounds), 0
    for n in range(rounds):
        asking = prompts(seed=2000 + 10 * seed + n)[:fresh]
        groups = drawn(model, asking, DRAWN, seed=10 * seed + n)
        new = pairs_of(asking, groups, seed)
        given += new
        spent += sum(len(p.ids) + len(c.ids) for p, g in zip(asking, groups, strict=True) for c in g)
        rows = tokens(row for pair in given for row in pair)
        spent += rows  # of the reference, which is asked anew
        each = 3 * rows / len(given) * PAIRS
        steps = max(1, int(((n + 1) * BUDGET / rounds / FLOPS - spent) / each))
        objective = DPO(given, start(), block_size=ROW, batch_size=PAIRS, seed=seed, **more)
        config = TrainConfig(steps=steps, lr=RATE, warmup=5, weight_decay=0.0)
        Trainer(model, objective, config).fit()
        spent, done = spent + steps * each, done + steps
        looks.look(done)
    setting = {"pairs": "of each round", "rate": RATE, "rounds": rounds} | more
    return finished(method, setting, seed, looks)


def rewarded(method: str, seed: int, beta: float = 0.0) -> Row:
    """A run from rollouts: passes are writing, values, reference or teacher, and three of training."""
    model, written_tokens = policy(), [0]

    def counted(items: Sequence[Any], completions: Sequence[Completion]) -> Sequence[float]:
        lengths = [len(TOKENIZER.encode(item.prompt)) for item in items]
        written_tokens[0] += sum(lengths) + sum(len(one.ids) for one in completions)
        return right(items, completions)

    passes = 4 + (method == "ppo") + (method == "distillation") + (beta > 0)
    updates = round(BUDGET / FLOPS / passes / COMPLETIONS / 16.5)
    looks = Looks(model, lambda _: round(passes * written_tokens[0] * FLOPS), updates)
    more: Row = {"beta": beta, "reference": start()} if beta else {}
    trained: Any = model
    objective: Any
    if method == "ppo":
        trained = ActorCritic(model)
        objective = PPO(prompts(), counted, TOKENIZER, **options(seed, 1), **more)
    elif method == "distillation":
        objective = Distill(prompts(), counted, TOKENIZER, teacher=teacher(), **options(seed, 1))
    else:
        objective = GRPO(prompts(), counted, TOKENIZER, **options(seed), **more)
    Trainer(trained, objective, replace(LEARNING, steps=updates), callbacks=[looks]).fit()
    return finished(method, {"beta": beta}, seed, looks)


def rejection(keep: str, seed: int, rounds: int = 4, steps: int = 20) -> Row:
    """Rounds of rejection sampling and fine-tuning on what was kept."""
    model = policy()
    training = 3 * steps * 8 * ROW  # rows are packed
    per_round = round((BUDGET / FLOPS / rounds - training) / GROUP / 16.5)
    spent = 0
    looks = Looks(model, lambda _: round(spent * FLOPS), rounds)
    for n in range(rounds):
        given = prompts(seed=10 * seed + n + 3)[:per_round]
        groups = drawn(model, given, GROUP, seed=10 * seed + n)
        rewards = [[*right([one.item] * GROUP, group)] for one, group in zip(given, groups, strict=True)]
        spent += sum(len(p.ids) + len(c.ids) for p, g in zip(given, groups, strict=True) for c in g)
        kept = select(given, groups, rewards, keep=keep, least=1.0, seed=seed)  # pyright: ignore[reportArgumentType]
        if kept:
            config = TrainConfig(steps=steps, lr=3e-3, warmup=3, weight_decay=0.0)
            Trainer(model, SFT(kept, block_size=ROW, batch_size=8, seed=seed), config).fit()
            spent += training
        looks.look(n + 1)
    return finished(f"sft on {keep} of {GROUP}", {"rounds": rounds}, seed, looks)


def best_of_n() -> list[Row]:
    """The exact reward and divergence of the best of n: only how probable a right answer is changes."""
    p, found = exact(start()), list[Row]()
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        q = 1 - (1 - p) ** n
        wrong = n * torch.log1p(-p)  # log (1 - q)
        kl = q * (q.log() - p.log()) + wrong.exp() * (wrong - torch.log1p(-p))
        bound = math.log(n) - (n - 1) / n
        found.append({"n": n, "reward": mean(q), "kl": mean(kl), "bound": round(bound, 4)})
    return found


def optimum() -> list[Row]:
    """Of β: the exact optimum ρ exp(r / β) / Z, its reward and divergence."""
    p, found = exact(start()), list[Row]()
    for beta in BETAS:
        log_z = torch.logaddexp(torch.log1p(-p), p.log() + 1 / beta)
        best = (p.log() + 1 / beta - log_z).exp()
        row = {"beta": beta, "reward": mean(best), "kl": mean(best / beta - log_z)}
        found.append(row)
    return found


def fall(pairs: str, seed: int, beta: float = 0.5, rate: float = RATE) -> Row:
    """A long run at a constant rate, looked at more closely."""
    given = own_pairs(seed) if pairs == "own" else foreign_pairs(seed)
    model, names = policy(), ("loss", "train_loss", "accuracy", "chosen", "rejected")
    found: Row = {"pairs": pairs, "seed": seed} | {name: [] for name in names}
    found |= {name: [] for name in ("reward", "exact_match", "validation", "kl")}
    some = given[:256]
    before = [log_probs(start(), side) for side in zip(*some, strict=True)]

    def look() -> None:
        held, seen = (
            implicit(model, "validation"),
            [log_probs(model, side) - old for side, old in zip(zip(*some, strict=True), before, strict=True)],
        )
        values = measures(model)
        values |= {"loss": mean(torch.nn.functional.softplus(-beta * (held[0] - held[1])))}
        values |= {"train_loss": mean(torch.nn.functional.softplus(-beta * (seen[0] - seen[1])))}
        values |= {"accuracy": mean(held[0] > held[1]), "chosen": mean(held[0]), "rejected": mean(held[1])}
        for name in found:
            if isinstance(found[name], list):
                found[name].append(values[name])

    def note(trainer: Trainer, record: dict[str, float]) -> None:
        if trainer.done in FALL:
            look()

    look()
    objective = DPO(given, start(), block_size=ROW, batch_size=PAIRS, seed=seed, beta=beta)
    config = TrainConfig(steps=FALL[-1], lr=rate, warmup=5, weight_decay=0.0, schedule="constant")
    Trainer(model, objective, config, callbacks=[note]).fit()
    return found


# Measures of answers


SHOWN: dict[str, tuple[str, Row]] = {
    "dpo": ("dpo", {"pairs": "own", "beta": 0.5}),
    "dpo with noise": ("dpo", {"pairs": "own", "beta": 0.2, "smoothing": TILT}),
    "dpo in rounds": ("dpo", {"pairs": "of each round", "smoothing": TILT}),
    "ipo": ("ipo", {"beta": 0.5}),
    "kto": ("kto", {"beta": 0.2}),
    "ppo": ("ppo", {"beta": 0.2}),
    "grpo": ("grpo", {"beta": 0.0}),
}
"""Runs whose policies are looked at more closely: the checkpoint that the validation chose."""


def tuned(name: str, seed: int) -> Transformer:
    """The policy of a run that has been made."""
    method, wanted = SHOWN[name]
    for file in PARTS.glob(f"{method} *{seed}.pt"):
        found = json.loads(file.stem[len(method) : -len(str(seed))])
        same = all(found.get(key) == value for key, value in wanted.items())
        if same and ("smoothing" in found) == ("smoothing" in wanted):
            model = Transformer(MODEL)
            model.load_state_dict(torch.load(file))
            return model.eval()
    raise FileNotFoundError(f"{name} {seed}")


def agreement(name: str, seed: int) -> Row:
    """How well the implicit reward ranks held-out pairs, answers of the start, and its own answers."""
    model, given = tuned(name, seed), as_prompts("test")
    margins, found = implicit(model), Row()
    for source, writer in (("reference", start()), ("own", model)):
        groups = drawn(writer, given, 16, seed=21)
        rows = [example(one, each.ids) for one, group in zip(given, groups, strict=True) for each in group]
        truth = [x for one, group in zip(given, groups, strict=True) for x in right([one.item] * 16, group)]
        score = [float(x) for x in log_probs(model, rows) - log_probs(start(), rows)]
        by = [(truth[i : i + 16], score[i : i + 16]) for i in range(0, len(truth), 16)]
        wins = [x for t, s in by for x in _wins(t, s)]
        step = max(1, len(truth) // 200)
        found[source] = {
            "auc_pooled": mean(_wins(truth, score)),
            "auc": mean(wins) if wins else None,
            "comparisons": len(wins),
            "right": mean(truth),
            "rank_correlation": round(_rank_correlation(truth, score), 4),
            "pairs": [[int(t), round(s, 2)] for t, s in zip(truth, score, strict=True)][::step],
        }
    return {"method": name, "seed": seed, "pair_accuracy": mean(margins[0] > margins[1]), **found}


def _wins(truth: Sequence[float], score: Sequence[float]) -> list[float]:
    good = np.array([s for t, s in zip(truth, score, strict=True) if t])
    bad = np.array([s for t, s in zip(truth, score, strict=True) if not t])
    above = (good[:, None] > bad) + 0.5 * (good[:, None] == bad)
    return above.flatten().tolist()


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's, equal values sharing their mean rank."""

    def ranks(values: Sequence[float]) -> Any:
        a = np.asarray(values)
        _, inverse, counts = np.unique(a, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def several(name: str, seed: int, n: int = 64) -> Row:
    """pass@k and maj@k at temperature 1, from n answers to each question."""
    model, given = (start() if name == "start" else tuned(name, seed)), as_prompts("test")
    groups = drawn(model, given, n, seed=31 + seed)
    counts = [int(sum(right([one.item] * n, group))) for one, group in zip(given, groups, strict=True)]
    texts = [[one.text.strip() if one.ended else "" for one in group] for group in groups]
    p, few = (
        exact(model),
        [int(sum(right([one.item] * 16, g[:16]))) for one, g in zip(given, groups, strict=True)],
    )
    found: Row = {"policy": name, "seed": seed, "n": n, "few": 16, "pass_at_k": [], "maj_at_k": []}
    for k in (1, 2, 4, 8, 16, 32, 64):
        passes = [pass_at_k(n, c, k) for c in counts]
        row = {"k": k, "pass": _triple(passes), "exact": mean(1 - (1 - p) ** k)}
        row |= {"plug_in": mean(1 - (1 - c / n) ** k for c in counts)}
        if k <= 16:
            row |= {"pass_of_few": mean(pass_at_k(16, c, k) for c in few)}
            row |= {"plug_in_of_few": mean(1 - (1 - c / 16) ** k for c in few)}
        found["pass_at_k"].append(row)
        votes = [maj_at_k(each, one.item.answer, k) for one, each in zip(given, texts, strict=True)]
        found["maj_at_k"].append({"k": k, "maj": _triple(votes)})
    return found


def _triple(values: Sequence[float]) -> list[float]:
    low, high = interval(values)
    return [low, mean(values), high]


def capstone(seed: int = 0) -> Row:
    """From the base to one file: what each stage scores on the test questions."""
    stages, model = list[Row](), tuned("dpo in rounds", seed)
    page = LLM(model, TOKENIZER)
    for name, one in (
        ("base", base()),
        ("SFT", start()),
        ("DPO", model),
        ("int8", dequantize(model, 8)),
    ):
        hits = greedy(one)
        stages.append({"stage": name, "exact_match": _triple(hits), "reward": mean(exact(one))})
    file = ROOT / "build" / "preferences.html"
    card = {"Exact match on held-out words": stages[-1]["exact_match"][1]}
    prompt = asked("test")[0].prompt
    size = export_html(page, file, bits=8, name="A model that reverses words", prompt=prompt, card=card)
    return {"stages": stages, "bytes": size, "bits": 8}


def kind(run: Row) -> str:
    """A method, and what sets its data apart."""
    setting, name = run["setting"], run["method"]
    if "rounds" in setting and "sft" not in name:
        return f"{name} in rounds"
    name += " with noise" if "smoothing" in setting else ""
    return name + (" on foreign pairs" if setting.get("pairs") == "foreign" else "")


def card(runs: Sequence[Row]) -> list[Row]:
    """Of each method the setting and the checkpoint that validation questions choose, on test questions."""
    found = list[Row]()
    measured = [run for run in runs if "curve" in run]
    for method in dict.fromkeys(map(kind, measured)):
        settings = dict[str, list[Row]]()
        for run in measured:
            if kind(run) == method:
                key = json.dumps({k: v for k, v in run["setting"].items() if k != "n_pairs"})
                settings.setdefault(key, []).append(run)
        chosen = {
            key: [max(run["curve"], key=lambda row: row["validation"]) for run in group]
            for key, group in settings.items()
        }
        key = max(chosen, key=lambda key: mean(row["validation"] for row in chosen[key]))
        hits = np.mean([row["hits"] for row in chosen[key]], 0).tolist()
        found.append(
            {
                "method": method,
                "setting": json.loads(key),
                "seeds": len(chosen[key]),
                "flops": max(run["flops"] for run in settings[key]),
                "exact_match": mean(hits),
                "interval": interval(hits),
                "by_seed": [row["exact_match"] for row in chosen[key]],
                "reward": mean(row["reward"] for row in chosen[key]),
                "kl": mean(row["kl"] for row in chosen[key]),
                "updates": [row["updates"] for row in chosen[key]],
            }
        )
    return sorted(found, key=lambda row: -row["exact_match"])


def jobs() -> dict[str, Callable[[], Any]]:
    """Every part by name, the most important first: one seed of all of them, then the others."""
    found = dict[str, Callable[[], Any]]()
    groups: list[list[tuple[int, str, Callable[..., Any], tuple[Any, ...], Row]]] = [[], []]

    def add(seeds: int, table: str, run: Callable[..., Any], *args: Any, **more: Any) -> None:
        groups[-1].append((seeds, table, run, args, more))

    add(3, "runs", preferring, "dpo", beta=0.5)
    add(3, "true_vs_implicit", agreement, "dpo")
    add(2, "several", several, "start")
    add(3, "fall", fall, "own")
    add(3, "runs", in_rounds, "dpo", beta=0.15, smoothing=TILT)
    add(1, "capstone", capstone)
    add(2, "several", several, "dpo")
    add(2, "several", several, "dpo in rounds")
    add(3, "true_vs_implicit", agreement, "dpo in rounds")
    add(3, "runs", preferring, "kto", beta=0.2)
    add(3, "true_vs_implicit", agreement, "kto")
    add(3, "runs", rewarded, "ppo", beta=0.2)
    add(2, "true_vs_implicit", agreement, "ppo")
    add(3, "runs", preferring, "dpo", beta=0.2, smoothing=TILT)
    add(2, "true_vs_implicit", agreement, "dpo with noise")
    add(2, "runs", preferring, "ipo", beta=0.5)
    add(2, "true_vs_implicit", agreement, "ipo")
    add(2, "runs", rewarded, "grpo")
    add(2, "runs", rejection, "best")
    groups.insert(0, groups.pop())
    add(2, "runs", preferring, "dpo", beta=2.0)
    add(2, "runs", preferring, "dpo", beta=0.1)
    add(2, "runs", preferring, "ipo", beta=0.2)
    add(2, "runs", preferring, "ipo", beta=1.0)
    add(2, "runs", preferring, "simpo", beta=2.0, margin=1.0)
    add(2, "runs", rejection, "random")
    add(2, "runs", rewarded, "distillation")
    add(2, "fall", fall, "foreign")
    add(2, "runs", preferring, "dpo", pairs="foreign", beta=0.5)
    add(2, "runs", rewarded, "ppo", beta=0.1)
    add(2, "runs", rewarded, "ppo")
    add(2, "runs", preferring, "dpo", beta=0.1, smoothing=TILT)
    add(2, "runs", preferring, "kto", beta=0.5)
    add(2, "runs", rewarded, "grpo", beta=0.2)
    for part in groups:
        for seed in range(3):
            for seeds, table, run, args, more in part:
                if seed < seeds:
                    extra = ["rounds"] if run is in_rounds else []
                    name = "/".join(map(str, (table, *args, *extra, *more.values(), seed)))
                    found[name] = lambda run=run, args=args, seed=seed, more=more: run(
                        *args, seed=seed, **more
                    )
    return found


def about() -> Row:
    """What is known before any run: the settings, the start, and what is exact."""
    settings = {
        "parameters": MODEL.n_params,
        "test": len(asked("test")),
        "validation": len(asked("validation")),
        "flops": BUDGET,
        "flops_per_token": FLOPS,
        "prompts": ASKED,
        "completions_of_each": DRAWN,
        "wrong_answers_of_each": WRONG,
        "pairs_per_update": PAIRS,
        "rate": RATE,
        "held_out_pairs": {split: len(held_out_pairs(split)) for split in ("test", "validation")},
        "smoothing": TILT,
    }
    hits = greedy(start())
    first = {"exact_match": mean(hits), "interval": interval(hits), "reward": mean(exact(start()))}
    return {"settings": settings, "start": first, "optimum": optimum(), "best_of_n": best_of_n()}


def gathered() -> Row:
    """The content of the file, as far as its parts are there."""
    content: Row = {"command": "python -m bench.preferences", **origin()}
    content |= json.loads((PARTS / "about.json").read_text("utf-8"))
    falls = {"method": "dpo", "beta": 0.5, "rate": RATE, "updates": [*FALL], "runs": list[Row]()}
    content |= {"runs": [], "fall": falls, "true_vs_implicit": [], "several": []}
    for row in content["best_of_n"]:
        exactly = {"reward": row["reward"], "kl": row["kl"], "kl_bound": row["bound"]}
        content["runs"].append({"method": "best of n", "setting": {"n": row["n"]}, "seed": 0, **exactly})
    for key in jobs():
        part, table = PARTS / f"{key.replace('/', ' ')}.json", key.partition("/")[0]
        if not part.exists():
            continue
        row = json.loads(part.read_text("utf-8"))
        if table == "fall":
            content["fall"]["runs"].append(row)
        elif table == "capstone":
            content[table] = row
        else:
            content[table].append(row)
    content["card"] = card(content["runs"])
    for run in content["runs"]:
        run.pop("seconds", None)  # of a machine with other work on it
        run["curve"] = [{k: v for k, v in row.items() if k != "hits"} for row in run.get("curve", [])]
    return content


def write() -> None:
    """Write the file, lists of numbers on one line."""
    text = json.dumps(gathered(), indent=1)
    flat = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)
    flat = flat.replace("[ ", "[").replace(" ]", "]")
    atomic_write(FILE, flat + "\n")


def main() -> None:
    """Run what is missing, and write the file after each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("I", "N"))
    mine, of = parser.parse_args().share
    torch.set_num_threads(1)
    PARTS.mkdir(parents=True, exist_ok=True)
    if not (PARTS / "about.json").exists():
        atomic_write(PARTS / "about.json", json.dumps(about()))
    for name, job in jobs().items():
        part = PARTS / f"{name.replace('/', ' ')}.json"
        if int(name[-1]) % of == mine and not part.exists():
            begun = time.process_time()
            atomic_write(part, json.dumps(job()))
            print(f"{name}: {time.process_time() - begun:.1f} s", flush=True)
            write()
    write()


if __name__ == "__main__":
    main()
