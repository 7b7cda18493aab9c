"""What chapter 18 reads from files: a small model tuned on word-ops, well and with each mask bug.

    python -m bench.sft --base      pretrain the base: book/_results/sft_base.safetensors
    python -m bench.sft             tune it in every way: book/_results/sft.json

The base has read lines that show the operations at work without naming them; tuning teaches which is meant.
"""

import argparse
import random
import time
from functools import cache

import torch
from safetensors.torch import load_file, save_file

from bench.scoreboard import RESULTS
from myllm import LLM, ModelConfig, TrainConfig, Trainer, Transformer
from myllm.data import corpus, wordops
from myllm.data.loader import WindowLoader
from myllm.evaluation.exact_match import Verdict, exact_match
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
TUNING = TrainConfig(steps=200, lr=0.01, optimizer="muon", warmup=10, schedule="wsd", floor=0.0)
BASE = RESULTS / "sft_base.safetensors"


def lines(n: int, seed: int = 0) -> str:
    """What the base reads: in turn a line of Shakespeare, and an operation under a word that means nothing."""
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


def tune(model: Transformer, given: list[Example], settings: TrainConfig = TUNING, seed: int = 0) -> float:
    """Tune a model on examples; the mean loss of the last 20 updates."""
    losses = list[float]()
    objective = SFT(given, block_size=ROW, batch_size=ROWS, seed=seed)
    Trainer(model, objective, settings, callbacks=[lambda _, record: losses.append(record["loss"])]).fit()
    return sum(losses[-20:]) / 20


def score(model: Transformer, n: int = 300) -> tuple[float, list[Verdict]]:
    """Exact match on tasks of held-out words."""
    llm = LLM(model, TOKENIZER)
    questions = [(task.prompt, task.answer) for task in tasks(n, held_out=True)]
    return exact_match(
        lambda prompts: llm.generate(prompts, max_new_tokens=16), questions, extract=wordops.extract
    )


def main() -> None:
    """Pretrain, or tune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", action="store_true", help="pretrain the base")
    torch.set_num_threads(1)
    if parser.parse_args().base:
        start = time.process_time()
        model = pretrain()
        print(round(time.process_time() - start), "s of pretraining")
        save_file(
            {name: p.detach().half() for name, p in model.state_dict().items() if name != "lm_head.weight"},
            BASE,
        )
    model = base()
    print("base", score(model)[0], [v.raw for v in score(model, 8)[1]])
    start = time.process_time()
    loss = tune(model, examples())
    seconds = time.process_time() - start
    print(
        "tuned", loss, score(model)[0], round(seconds), "s", [(v.prompt, v.raw) for v in score(model, 8)[1]]
    )


if __name__ == "__main__":
    main()
