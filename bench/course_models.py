"""The models that the course trains and ships: myllm/weights/assets/course-base and course-sft.

    python -m bench.course_models                  train both; 50 minutes on one core, and it resumes
    python -m bench.course_models course-sft       one of them
    python -m bench.course_models --folder FOLDER  where checkpoints and journals lie meanwhile

course-base is trained on the texts of chapters 2 and 3 with their tokenizer and loader, course-sft is
course-base after supervised fine-tuning on word-ops; the loop is `myllm.training.loop.Trainer`. The result is
a folder as Hugging Face writes them, in float16, and book/_results/course_base.json or course_sft.json with
the journal.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import ROOT, origin
from bench.scoreboard import RESULTS, texts
from myllm import LLM, ModelConfig, Pretrain, TrainConfig, Trainer, Transformer, load_tokenizer
from myllm.data import wordops
from myllm.data.loader import WindowLoader
from myllm.files import atomic_write
from myllm.finetuning.sft import SFT, Example, encode
from myllm.training.journal import Journal
from myllm.weights.hub import SHIPPED

CONFIG = ModelConfig(
    vocab_size=1024,
    block_size=256,
    n_layer=4,
    n_head=6,
    n_kv_head=3,
    n_embd=192,
    intermediate_size=512,
    tie_embeddings=True,
    init_std=0.05,
)
SETTINGS = TrainConfig(
    steps=2000,
    lr=1e-2,
    optimizer="muon",
    weight_decay=0.1,
    schedule="wsd",
    warmup=50,
    decay=0.4,
    floor=0.0,
    evaluate_every=250,
    checkpoint_every=100,
    seed=0,
)
BATCH = 16
TUNING = TrainConfig(
    steps=400,
    lr=1e-2,
    optimizer="muon",
    weight_decay=0.0,
    warmup=20,
    evaluate_every=50,
    checkpoint_every=100,
    seed=0,
)


def trainer(folder: Path | None = None) -> Trainer:
    """The run from its first update, or from its newest checkpoint in the folder."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer("shakespeare")
    train, held_out = (np.array(tokenizer.encode(text), dtype=np.uint16) for text in texts())
    torch.manual_seed(SETTINGS.seed)
    model = Transformer(CONFIG)
    loader = WindowLoader(train, block_size=CONFIG.block_size, batch_size=BATCH, seed=SETTINGS.seed)
    checks = WindowLoader(held_out[:16_385], block_size=CONFIG.block_size, batch_size=BATCH, shuffle=False)
    validation = [checks.batch(np.arange(i, i + BATCH)) for i in range(0, checks.n, BATCH)]
    callbacks = [] if folder is None else [Journal(folder)]
    checkpoints = None if folder is None else folder / "checkpoints"
    return Trainer(
        model, Pretrain(loader), SETTINGS, validation=validation, folder=checkpoints, callbacks=callbacks
    )


def tuner(folder: Path | None = None) -> Trainer:
    """The run that makes course-sft of course-base, from its first update or its newest checkpoint."""
    torch.set_num_threads(1)
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    train, held_out = (
        wordops.tasks(n, held_out=side, spelled=True) for n, side in ((24_000, False), (400, True))
    )
    options: dict[str, Any] = {"block_size": CONFIG.block_size, "seed": TUNING.seed}
    objective, checks = (SFT(word_examples(llm, part), batch_size=8, **options) for part in (train, held_out))
    validation = [checks.loader.batch(np.arange(checks.loader.n))]
    callbacks = [] if folder is None else [Journal(folder)]
    checkpoints = None if folder is None else folder / "checkpoints"
    return Trainer(
        llm.model, objective, TUNING, validation=validation, folder=checkpoints, callbacks=callbacks
    )


def word_examples(llm: LLM, tasks: Sequence[wordops.Task]) -> list[Example]:
    """Word-ops as examples for a model: the answer follows the prompt after a space, and the end token."""
    assert llm.tokenizer is not None
    return [encode({"prompt": task.prompt, "response": f" {task.answer}"}, llm.tokenizer) for task in tasks]


MODELS = {"course-base": (trainer, SETTINGS), "course-sft": (tuner, TUNING)}


def main() -> None:
    """Train, then write each model and its journal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=[*MODELS], metavar="|".join(MODELS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build")
    options = parser.parse_args()
    for name in options.models:
        folder, (make, settings) = options.folder / name, MODELS[name]
        run = make(folder)
        run.fit()
        LLM(run.model.half(), load_tokenizer("shakespeare")).save_pretrained(SHIPPED[name])
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text("utf-8").splitlines()]
        kept = [
            line for line in lines if line["step"] < 50 or line["step"] % 25 == 24 or "validation" in line
        ]
        fields = ("step", "loss", "norm", "rate", "validation")
        journal = [{field: round(line[field], 5) for field in fields if field in line} for line in kept]
        command = f"python -m bench.course_models {name}"
        result = {"command": command, **origin(), "settings": asdict(settings)}
        if name == "course-base":
            result |= {"tokens_per_step": BATCH * CONFIG.block_size}
        text = json.dumps(result | {"journal": journal}, indent=1)
        atomic_write(RESULTS / f"{name.replace('-', '_')}.json", text + "\n")


if __name__ == "__main__":
    main()
