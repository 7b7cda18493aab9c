"""The model that the course trains and ships: myllm/weights/assets/course-base.

    python -m bench.course_models                  train it; 45 minutes on one core, and it resumes
    python -m bench.course_models --folder FOLDER  where its checkpoints and its journal lie meanwhile

The texts, the tokenizer and the loader are those of chapters 2 and 3, the loop is
`myllm.training.loop.Trainer`. The result is a folder as Hugging Face writes them, in float16, and
book/_results/course_base.json with its journal.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from bench.common import ROOT, origin
from bench.scoreboard import RESULTS, texts
from myllm import LLM, ModelConfig, Pretrain, TrainConfig, Trainer, Transformer, load_tokenizer
from myllm.data.loader import WindowLoader
from myllm.files import atomic_write
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


def main() -> None:
    """Train, then write the model and its journal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "course-base")
    folder = parser.parse_args().folder
    run = trainer(folder)
    run.fit()
    LLM(run.model.half(), load_tokenizer("shakespeare")).save_pretrained(SHIPPED["course-base"])
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text("utf-8").splitlines()]
    kept = [line for line in lines if line["step"] < 50 or line["step"] % 25 == 24 or "validation" in line]
    names = ("step", "loss", "norm", "rate", "validation")
    journal = [{name: round(line[name], 5) for name in names if name in line} for line in kept]
    result = {"command": "python -m bench.course_models", **origin(), "settings": asdict(SETTINGS)}
    result |= {"tokens_per_step": BATCH * CONFIG.block_size, "journal": journal}
    text = json.dumps(result, indent=1)
    atomic_write(RESULTS / "course_base.json", text + "\n")


if __name__ == "__main__":
    main()
