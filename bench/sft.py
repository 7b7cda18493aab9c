"""What chapter 18 reads from files: a small model tuned on word-ops, well and with each mask bug.

    python -m bench.sft --base      pretrain the base: book/_results/sft_base.safetensors
    python -m bench.sft --jobs 3    tune it in every way: book/_results/sft.json

The base has read lines that show the operations at work without naming them; tuning teaches which is meant.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from itertools import chain
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.common import origin
from bench.scoreboard import RESULTS
from myllm import LLM, ModelConfig, TrainConfig, Trainer, Transformer
from myllm.data import corpus, wordops
from myllm.data.loader import WindowLoader
from myllm.data.packing import IGNORE
from myllm.evaluation.exact_match import Verdict, exact_match
from myllm.files import atomic_write
from myllm.finetuning.sft import SFT, Example, encode
from myllm.tokenizers.bpe import BPE
from myllm.training.pretrain import Pretrain

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENIZER = BPE([], special_tokens=SPECIAL, name="bytes")
MODEL = ModelConfig(
    vocab_size=259, block_size=256, n_layer=3, n_head=4, n_embd=64, intermediate_size=192, tie_embeddings=True
)
OPS = ("copy", "rev", "first", "last", "double", "sort")
LONGEST = 5  # letters of a word
ROW, ROWS = 128, 16  # tokens of a row, rows of a batch
PRETRAINING = TrainConfig(steps=1500, lr=0.02, optimizer="muon", warmup=50, schedule="wsd", floor=0.0)
TUNING = TrainConfig(steps=150, lr=0.01, optimizer="muon", warmup=10, schedule="wsd", floor=0.0)
PLANS = ((3, "direct"), (3, "scratchpad"), (3, "cut scratchpad"), (2, "direct"), (2, "scratchpad"))
ADDING = replace(TUNING, steps=200)
NEW, SEEDS = 16, 3  # tokens of an answer at most
Row = tuple[str, dict[str, Any], dict[str, float]]  # table, what was run, what was measured
BASE = RESULTS / "sft_base.safetensors"


def lines(n: int, seed: int = 0) -> str:
    """What the base reads: in turn a line of Shakespeare, and an operation under a meaningless name."""
    generator = random.Random(seed)
    verse = [line for line in corpus.text("shakespeare").split("\n") if line.strip()]
    known = [word for word in wordops.words() if len(word) <= LONGEST]
    found = list[str]()
    for _ in range(n // 2):
        name, word = generator.choice(known), generator.choice(known)
        answer = wordops.OPS[generator.choice(OPS)](word)
        found += [generator.choice(verse), f"{name}: {word} > {answer}"]
    return "\n".join(found) + "\n"


def pretrain(settings: TrainConfig = PRETRAINING) -> Transformer:
    """The base, trained on `lines`."""
    torch.manual_seed(0)
    model = Transformer(MODEL)
    ids = torch.tensor(TOKENIZER.encode(lines(100_000))).numpy()
    Trainer(model, Pretrain(WindowLoader(ids, block_size=ROW, batch_size=ROWS)), settings).fit()
    return model


def base() -> Transformer:
    """The base, read from its file."""
    model = Transformer(MODEL)
    model.load_state_dict({name: p.float() for name, p in load_file(BASE).items()}, strict=False)
    model.tie_weights()
    return model


@cache
def tasks(n: int, held_out: bool = False, seed: int = 0) -> list[wordops.Task]:
    """Tasks on words of 3 to 5 letters."""
    drawn = wordops.tasks(4 * n, ops=OPS, held_out=held_out, seed=seed)
    return [task for task in drawn if len(task.prompt.split()[1]) <= LONGEST][:n]


def examples(n: int = 6000, seed: int = 0) -> list[Example]:
    """Tasks as examples: the answer is learned with a space before it and the end token after it."""
    items = [{"prompt": task.prompt, "response": f" {task.answer}"} for task in tasks(n, seed=seed)]
    return [encode(item, TOKENIZER) for item in items]


def tune(
    model: Transformer,
    given: list[Example],
    settings: TrainConfig = TUNING,
    seed: int = 0,
    objective: type[SFT] = SFT,
    **options: Any,
) -> float:
    """Tune a model on examples; the mean loss of the last 20 updates."""
    losses = list[float]()
    learned = objective(given, block_size=ROW, batch_size=ROWS, seed=seed, **options)
    Trainer(model, learned, settings, callbacks=[lambda _, record: losses.append(record["loss"])]).fit()
    return sum(losses[-20:]) / 20


def score(model: Transformer, n: int = 300) -> tuple[float, list[Verdict]]:
    """Exact match on tasks of held-out words."""
    llm = LLM(model, TOKENIZER)
    questions = [(task.prompt, task.answer) for task in tasks(n, held_out=True)]
    return exact_match(
        lambda prompts: llm.generate(prompts, max_new_tokens=NEW), questions, extract=wordops.extract
    )


class Unshifted(SFT):
    """The bug: the target at a learned token is the token itself."""

    def batches(self, model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """Batches whose targets stand one place too late."""
        for ids, targets, *rest in super().batches(model):
            wrong = torch.full_like(targets, IGNORE)
            wrong[:, 1:] = targets[:, :-1]
            yield ids, wrong, *rest


class EndIsPadding(SFT):
    """The bug: rows are padded with the end token, and every end token is left out of the loss."""

    def batches(self, model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """Batches in which no end token is a target."""
        for ids, targets, *rest in super().batches(model):
            yield ids, targets.masked_fill(targets == TOKENIZER.eos_id, IGNORE), *rest


class OneDocument(SFT):
    """The bug: what shares a row can see each other, though positions restart."""

    def batches(self, model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """Batches in which a row is one document."""
        for ids, targets, document, position in super().batches(model):
            yield ids, targets, torch.zeros_like(document), position


class OneText(OneDocument):
    """Two bugs: what shares a row can see each other, and positions count on over the whole row."""

    def batches(self, model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """Batches in which a row is one document from its first to its last position."""
        for ids, targets, document, position in super().batches(model):
            yield ids, targets, document, torch.arange(ids.shape[1]).expand_as(position)


class RunningPositions(SFT):
    """The bug: positions count on over the whole row, though the documents are masked."""

    def batches(self, model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """Batches whose positions are those of the row."""
        for ids, targets, document, position in super().batches(model):
            yield ids, targets, document, torch.arange(ids.shape[1]).expand_as(position)


def masks(change: Callable[[list[int]], list[int]], given: list[Example]) -> list[Example]:
    """The examples with other masks."""
    return [Example(ids, change([*mask])) for ids, mask in given]


Bug = Callable[[list[Example]], tuple[list[Example], type[SFT]]]
BUGS: dict[str, Bug] = {
    "none": lambda given: (given, SFT),
    "everything learned": lambda given: (masks(lambda m: [0] + [1] * (len(m) - 1), given), SFT),
    "mask one early": lambda given: (masks(lambda m: [*m[1:], 0], given), SFT),
    "unshifted targets": lambda given: (given, Unshifted),
    "mask one late": lambda given: (masks(lambda m: [0, *m[:-1]], given), SFT),
    "end masked as padding": lambda given: (given, EndIsPadding),
    "no document mask": lambda given: (given, OneDocument),
    "positions not reset": lambda given: (given, RunningPositions),
    "no document mask, no reset": lambda given: (given, OneText),
}


@torch.no_grad()
def held_out_loss(model: Transformer) -> float:
    """The mean loss of the right targets on held-out words."""
    items = [{"prompt": task.prompt, "response": f" {task.answer}"} for task in tasks(300, held_out=True)]
    objective = SFT([encode(item, TOKENIZER) for item in items], block_size=ROW, batch_size=1)
    objective.loader.batch_size = objective.loader.n
    batch = next(objective.batches(model))
    return objective.loss(model, batch).total.item() / objective.count(batch)


def judge(model: Transformer, end: str = " >") -> dict[str, float]:
    """Exact match, the share of texts that are the answer and nothing else, and the share that ended."""
    llm, ended = LLM(model, TOKENIZER), list[bool]()
    questions = [(task.prompt.removesuffix(" >") + end, task.answer) for task in tasks(300, held_out=True)]

    def complete(prompts: list[str]) -> list[str]:
        found = llm.complete(prompts, max_new_tokens=NEW)
        ended.extend(len(ids) < NEW for _, ids in found)
        return [text for text, _ in found]

    right, verdicts = exact_match(complete, questions, extract=wordops.extract)
    whole = sum(one.raw.strip() == one.expected for one in verdicts) / len(verdicts)
    return {"exact_match": right, "whole": whole, "ended": sum(ended) / len(ended)}


def bug_rows(seed: int) -> Iterator[Row]:
    """Every bug with one seed, and the right run under prompts with another end."""
    for name, bug in BUGS.items():
        model, (given, objective) = base(), bug(examples(seed=seed))
        options = {"pad_id": TOKENIZER.eos_id} if objective is EndIsPadding else {}
        loss = tune(model, given, seed=seed, objective=objective, **options)
        found = {"loss": loss, "held_out_loss": held_out_loss(model)}
        yield "bugs", {"bug": name}, judge(model) | found
        if name == "none":
            yield "bugs", {"bug": "another template when asked"}, judge(model, ">") | found


def sums(digits: int, plan: str, n: int = 8000, seed: int = 0) -> list[Example]:
    """Additions as examples: direct, with their work, or with work that stops after any of its steps."""
    generator, found = random.Random(seed), list[Example]()
    for task in wordops.tasks(n, ops=["add"], digits=digits, seed=seed):
        steps = task.work.split()
        if plan == "cut scratchpad":
            steps = steps[: int(generator.random() * (digits + 1))]
        response = f" {task.answer}" if plan == "direct" else f" {' '.join([*steps, '>', task.answer])}"
        found.append(encode({"prompt": task.prompt, "response": response}, TOKENIZER))
    return found


def addition_rows(seed: int) -> Iterator[Row]:
    """Additions direct and with a scratchpad; then both kinds of scratchpad forced to so many steps."""
    for digits, plan in PLANS:
        model = base()
        loss = tune(model, sums(digits, plan, seed=seed), ADDING, seed=seed)
        llm = LLM(model, TOKENIZER)
        asked = wordops.tasks(300, ops=["add"], digits=digits, held_out=True)

        def ask(llm: LLM = llm, asked: list[wordops.Task] = asked, **options: Any) -> dict[str, float]:
            prompts = [task.prompt for task in asked]
            found = [
                one
                for start in range(0, len(asked), 100)
                for one in llm.complete(prompts[start : start + 100], max_new_tokens=48, **options)
            ]
            right = [wordops.extract(one[0]) == task.answer for task, one in zip(asked, found, strict=True)]
            tokens = sum(len(ids) + 1 for _, ids in found)  # the end token counts
            return {"exact_match": sum(right) / len(asked), "tokens": tokens / len(asked)}

        if plan != "cut scratchpad":
            yield "scratchpad", {"plan": plan, "digits": digits}, ask() | {"loss": loss}
        for steps in range(digits + 1) if digits == 3 and plan != "direct" else ():
            form = rf"( \d\+\d(\+1)?=\d\d?){{{steps}}} > \d{{1,4}}"
            yield "budgets", {"plan": plan, "digits": digits, "budget": steps}, ask(regex=form)


def rows(seed: int) -> list[Row]:
    """All results of one seed, printed as they come."""
    torch.set_num_threads(1)
    found = list[Row]()
    for row in chain(bug_rows(seed), addition_rows(seed)):
        print(seed, json.dumps(row), flush=True)
        found.append(row)
    return found


def content(seeds: list[list[Row]]) -> dict[str, Any]:
    """The content of the file, from the results of each seed."""
    found: dict[str, Any] = {"model": asdict(MODEL), "parameters": MODEL.n_params}
    found |= {"settings": asdict(TUNING), "settings of sums": asdict(ADDING)}
    found |= {"base": score(base())[0], "questions": 300}
    for same in zip(*seeds, strict=True):
        table, keys, _ = same[0]
        row = keys | {name: [round(one[2][name], 4) for one in same] for name in same[0][2]}
        found.setdefault(table, []).append(row)
    return found


def measure(jobs: int) -> None:
    """Tune with three seeds in every way, and write the file."""
    run = {"command": "python -m bench.sft", **origin()}
    with ProcessPoolExecutor(jobs) as pool:
        run |= content([*pool.map(rows, range(SEEDS))])
    atomic_write(RESULTS / "sft.json", json.dumps(run, indent=1) + "\n")


def main() -> None:
    """Pretrain, or tune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", action="store_true", help="pretrain the base")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.base:
        held = {name: p.detach().half() for name, p in pretrain().state_dict().items()}
        save_file({name: p for name, p in held.items() if name != "lm_head.weight"}, BASE)
    else:
        measure(options.jobs)


if __name__ == "__main__":
    main()
