"""What chapter 20 reads from a file: a small model that learns to reverse words from rewards alone.

    python -m bench.rl              all runs, about half an hour on one core; it resumes from build/rl.json

The policy is the base of chapter 18 after supervised fine-tuning on answers that do something with the word
of the prompt, one in ten of them what is asked. Each update of every method is one on 256 new completions.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from bench.common import ROOT, origin
from bench.scoreboard import RESULTS
from bench.sft import MODEL, OPS, ROW, TOKENIZER, base
from myllm import LLM, SFT, TrainConfig, Trainer, Transformer
from myllm.data import wordops
from myllm.evaluation.exact_match import exact_match
from myllm.files import atomic_write
from myllm.finetuning.distill import Distill, select
from myllm.finetuning.grpo import GRPO
from myllm.finetuning.lora import apply_lora, inspect_adapter
from myllm.finetuning.on_policy import OnPolicy
from myllm.finetuning.ppo import PPO, ActorCritic
from myllm.finetuning.reward import BradleyTerry, RewardModel, verify
from myllm.finetuning.rollout import Completion, Prompt, Reward, sample
from myllm.finetuning.sft import Example, encode

FILE, PARTS = RESULTS / "rl.json", ROOT / "build" / "rl.json"
WARM = TrainConfig(steps=60, lr=0.01, optimizer="muon", warmup=5, schedule="wsd", floor=0.0, weight_decay=0.0)
RARE = 10  # one answer in so many is reversed
LEARNING = TrainConfig(steps=80, lr=3e-3, warmup=5, weight_decay=0.0)
LONGEST, NEW, COMPLETIONS, GROUP, QUESTIONS = 4, 10, 256, 8, 200
EVERY = 5  # updates between two points of a curve
right = verify(lambda task, text: text.strip() == task.answer)


def tasks(n: int, *, held_out: bool = False, seed: int = 0) -> list[wordops.Task]:
    """Words of 3 and 4 letters to be reversed."""
    words = [word for word in wordops.words(held_out=held_out) if len(word) <= LONGEST]
    generator = random.Random(seed)
    drawn = [words[int(generator.random() * len(words))] for _ in range(n)]
    return [wordops.Task("rev", f"rev: {word} >", word[::-1]) for word in drawn]


def examples(given: Sequence[wordops.Task]) -> list[Example]:
    """Answers that do *something* with the word, for supervised fine-tuning; few of them reverse it."""
    generator, found = random.Random(1), list[Example]()
    others = [op for op in OPS if op != "rev"]
    for task in given:
        op = "rev" if generator.random() < 1 / RARE else generator.choice(others)
        answer = wordops.OPS[op](task.answer[::-1])
        found.append(encode({"prompt": task.prompt, "response": f" {answer}"}, TOKENIZER))
    return found


def prompts(seed: int = 2) -> list[Prompt]:
    """What the policy is asked: tasks without their answers, which only the reward knows."""
    return [Prompt(TOKENIZER.encode(task.prompt), task) for task in tasks(4000, seed=seed)]


@cache
def warm_weights() -> dict[str, torch.Tensor]:
    """The weights of the policy before it learns from rewards."""
    model = base()
    Trainer(model, SFT(examples(tasks(4000)), block_size=ROW, batch_size=8), WARM).fit()
    return model.state_dict()


def policy() -> Transformer:
    """The policy before it learns from rewards."""
    model = Transformer(MODEL)
    model.load_state_dict(warm_weights())
    return model


def score(model: Transformer) -> float:
    """Exact match of greedy answers to questions on held-out words."""
    llm = LLM(model, TOKENIZER)
    questions = [(task.prompt, task.answer) for task in tasks(QUESTIONS, held_out=True, seed=1)]

    def complete(asked: list[str]) -> list[str]:
        return [text if len(ids) < NEW else "" for text, ids in llm.complete(asked, max_new_tokens=NEW)]

    return exact_match(complete, questions)[0]


def drawn(model: Transformer, asked: Sequence[Prompt], n: int, seed: int = 0) -> list[list[Completion]]:
    """`n` completions of each prompt."""
    generator = torch.Generator().manual_seed(seed)
    found = list[list[Completion]]()
    for start in range(0, len(asked), 32):
        part = [prompt.ids for prompt in asked[start : start + 32] for _ in range(n)]
        uniforms = torch.rand(len(part), NEW, dtype=torch.float64, generator=generator)
        written = sample(model.eval(), part, uniforms, stop_id=TOKENIZER.eos_id or 0)
        texts = [one._replace(text=TOKENIZER.decode(one.ids[: len(one.ids) - one.ended])) for one in written]
        found += [texts[i : i + n] for i in range(0, len(texts), n)]
    return found


def learn(model: Any, objective: Any, config: TrainConfig = LEARNING) -> dict[str, Any]:
    """Train; the curve of rewards, the last divergence, and the seconds."""
    curve, kl, start = list[float](), [0.0], time.perf_counter()

    def note(trainer: Trainer, record: dict[str, float]) -> None:
        kl[0] = record.get("k3", 0.0)
        if record["step"] % EVERY == 0 or trainer.done == config.steps:
            curve.append(round(record.get("reward", 0.0), 4))

    Trainer(model, objective, config, callbacks=[note]).fit()
    seconds = round(time.perf_counter() - start, 1)
    return {"updates": config.steps, "rewards": curve, "kl_nats": round(kl[0], 4), "seconds": seconds}


def options(seed: int, group: int = GROUP) -> dict[str, Any]:
    """Those of every objective that learns from rollouts."""
    return {
        "prompts_per_phase": COMPLETIONS // group,
        "group": group,
        "batch_size": COMPLETIONS,
        "max_new_tokens": NEW,
        "seed": seed,
    }


def on_policy(method: str, seed: int, reward: Reward = right, **more: Any) -> dict[str, Any]:
    """One run from rollouts."""
    model = policy()
    objective: OnPolicy
    trained: Any = model
    if method == "ppo":
        trained = ActorCritic(model)
        objective = PPO(prompts(), reward, TOKENIZER, **options(seed, 1), **more)
    elif method == "distillation":
        objective = Distill(prompts(), reward, TOKENIZER, teacher=teacher(), **options(seed, 1), **more)
    else:
        objective = GRPO(prompts(), reward, TOKENIZER, method=method, **options(seed), **more)
    found = learn(trained, objective)
    found |= {"completions": COMPLETIONS * LEARNING.steps, "exact_match": score(model)}
    return {"method": method, "seed": seed} | found


@cache
def teacher() -> Transformer:
    """A policy that GRPO has taught."""
    model = policy()
    learn(model, GRPO(prompts(), right, TOKENIZER, **options(100)))
    return model


def rejection(keep: str, seed: int, rounds: int = 4) -> dict[str, Any]:
    """Rounds of rejection sampling and fine-tuning on what was kept, as many completions in all."""
    model, curve, start = policy(), list[float](), time.perf_counter()
    per_round = COMPLETIONS * LEARNING.steps // GROUP // rounds
    for n in range(rounds):
        asked = prompts(seed=10 * seed + n + 3)[:per_round]
        written = drawn(model, asked, GROUP, seed=10 * seed + n)
        rewards = [
            [*right([prompt.item] * GROUP, group)] for prompt, group in zip(asked, written, strict=True)
        ]
        curve.append(round(sum(map(sum, rewards)) / len(asked) / GROUP, 4))
        kept = select(
            asked, written, rewards, keep="best" if keep == "best" else "random", least=1.0, seed=seed
        )
        if kept:
            config = TrainConfig(steps=20, lr=3e-3, warmup=3, weight_decay=0.0)
            Trainer(model, SFT(kept, block_size=ROW, batch_size=8, seed=seed), config).fit()
    found = {"updates": 20 * rounds, "rewards": curve, "completions": COMPLETIONS * LEARNING.steps}
    seconds = round(time.perf_counter() - start, 1)
    return (
        {"method": f"sft on {keep} of {GROUP}", "seed": seed, "seconds": seconds}
        | found
        | {"exact_match": score(model)}
    )


def divergence(kl: str, beta: float) -> dict[str, Any]:
    """GRPO with a divergence in its loss."""
    more = {} if kl == "none" else {"kl": kl, "beta": beta, "reference": policy()}
    found = on_policy("grpo", 0, **more)
    return {"kl": kl, "beta": beta} | {name: found[name] for name in ("exact_match", "kl_nats", "rewards")}


def hacked() -> dict[str, Any]:
    """A reward that pays for letters of the word that occur in the answer, and never asks for the order."""

    def letters(items: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        words = [item.answer for item in items]
        return [
            sum(letter in one.text for letter in {*word}) / len({*word})
            for word, one in zip(words, completions, strict=True)
        ]

    model, truth = policy(), list[float]()
    objective = GRPO(prompts(), letters, TOKENIZER, **options(0))

    def note(trainer: Trainer, record: dict[str, float]) -> None:
        if record["step"] % EVERY == 0 or trainer.done == LEARNING.steps:
            proxy.append(round(record["reward"], 4))
            truth.append(score(model))

    proxy = list[float]()
    Trainer(model, objective, LEARNING, callbacks=[note]).fit()
    samples = [(one.item.prompt, group[0].text) for one in prompts(9)[:6] for group in drawn(model, [one], 1)]
    found = {"reward": "the share of the word's letters that occur in the answer", "updates": LEARNING.steps}
    return found | {"rewards": proxy, "exact_match": truth, "samples": samples}


def reward_model() -> dict[str, Any]:
    """A Bradley–Terry model of right and wrong answers of the policy, and PPO on what it says."""
    asked = prompts(seed=5)[:1500]
    generator, pairs = random.Random(0), list[tuple[list[int], list[int]]]()
    for prompt, group in zip(asked, drawn(policy(), asked, 1), strict=True):
        good = [*TOKENIZER.encode(f" {prompt.item.answer}"), TOKENIZER.eos_id or 0]
        word = [*prompt.item.answer]
        generator.shuffle(word)
        shuffled = [*TOKENIZER.encode(" " + "".join(word)), TOKENIZER.eos_id or 0]
        bad = shuffled if generator.random() < 0.5 else group[0].ids
        if bad != good:
            pairs.append(([*prompt.ids, *good], [*prompt.ids, *bad]))
    torch.manual_seed(0)
    judge = RewardModel(base())
    test, train = pairs[:200], pairs[200:]
    config = TrainConfig(steps=150, lr=3e-3, warmup=10, weight_decay=0.0)
    Trainer(judge, BradleyTerry(train, batch_size=32), config).fit()
    sides = [judge.rewards([pair[side] for pair in test]) for side in (0, 1)]
    accuracy = sum(a > b for a, b in zip(*sides, strict=True)) / len(test)

    def reward(items: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        texts = [
            [*TOKENIZER.encode(item.prompt), *one.ids] for item, one in zip(items, completions, strict=True)
        ]
        return judge.rewards(texts)

    found: dict[str, Any] = {"pairs": len(train), "accuracy": accuracy}
    for name, more in (("ppo", {}), ("ppo with beta", {"beta": 0.05, "reference": policy()})):
        model = policy()
        trained, truth, proxy = ActorCritic(model), list[float](), list[float]()

        def note(
            trainer: Trainer,
            record: dict[str, float],
            model: Transformer = model,
            truth: list[float] = truth,
            proxy: list[float] = proxy,
        ) -> None:
            if record["step"] % EVERY == 0 or trainer.done == LEARNING.steps:
                proxy.append(round(record["reward"], 4))
                truth.append(score(model))

        objective = PPO(prompts(), reward, TOKENIZER, **options(0, 1), **more)
        Trainer(trained, objective, LEARNING, callbacks=[note]).fit()
        found[name] = {"proxy": proxy, "truth": truth}
    return found


def low_rank(r: int, seed: int) -> dict[str, Any]:
    """GRPO of adapters of rank r in all linear layers but the head, at three times the rate."""
    model = policy()
    torch.manual_seed(seed)
    apply_lora(model, r)
    found = learn(model, GRPO(prompts(), right, TOKENIZER, **options(seed)), replace(LEARNING, lr=1e-2))
    return (
        {"r": r, "seed": seed, "parameters": inspect_adapter(model).parameters}
        | found
        | {"exact_match": score(model)}
    )


def jobs() -> dict[str, Callable[[], dict[str, Any]]]:
    """Every run by name, the most important first."""
    found = dict[str, Callable[[], dict[str, Any]]]()
    methods = [("grpo", 3), ("ppo", 3), ("reinforce", 2), ("rloo", 2), ("dr-grpo", 2), ("dapo", 2)]
    methods += [("gspo", 2), ("cispo", 2), ("distillation", 2)]
    for method, seeds in methods[:2]:
        for seed in range(seeds):
            found[f"runs/{method}/{seed}"] = lambda m=method, s=seed: on_policy(m, s)
    for keep in ("best", "random"):
        for seed in range(2):
            found[f"runs/{keep}/{seed}"] = lambda k=keep, s=seed: rejection(k, s)
    found["hacked"], found["reward_model"] = hacked, reward_model
    for method, seeds in methods[2:]:
        for seed in range(seeds):
            found[f"runs/{method}/{seed}"] = lambda m=method, s=seed: on_policy(m, s)
    for r in (1, 4):
        for seed in range(2):
            found[f"lora/{r}/{seed}"] = lambda r=r, s=seed: low_rank(r, s)
    for kl, beta in (("none", 0.0), ("k2", 0.05), ("k3", 0.05), ("k3-plain", 0.05)):
        found[f"kl/{kl}"] = lambda k=kl, b=beta: divergence(k, b)
    return found


def main() -> None:
    """Run what is missing, and write the file after each run."""
    torch.set_num_threads(1)
    done: dict[str, Any] = json.loads(PARTS.read_text("utf-8")) if PARTS.exists() else {}
    start, asked = score(policy()), prompts()[:256]
    groups = zip(asked, drawn(policy(), asked, 4), strict=True)
    sampled = sum(sum(right([prompt.item] * 4, group)) for prompt, group in groups) / (4 * len(asked))
    for name, job in jobs().items():
        if name not in done:
            done[name] = job()
            PARTS.parent.mkdir(exist_ok=True)
            atomic_write(PARTS, json.dumps(done))
            print(name, json.dumps(done[name])[:300], flush=True)
        content: dict[str, Any] = {
            "command": "python -m bench.rl",
            **origin(),
            "start": start,
            "start_sampled": sampled,
        }
        content |= {
            "parameters": MODEL.n_params,
            "questions": QUESTIONS,
            "completions_per_update": COMPLETIONS,
        }
        content |= {"every": EVERY, "rate": LEARNING.lr, "runs": [], "kl": [], "lora": []}
        for key, row in done.items():
            table = key.partition("/")[0]
            if "/" in key:
                content[table].append(row)
            else:
                content[table] = row
        atomic_write(FILE, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
