"""Word-ops before and after tuning, of course-base and of SmolLM2: book/_results/word_ops.json.

    python -m bench.word_ops               SmolLM2 must have been downloaded; over an hour, and it resumes
    python -m bench.word_ops --rows lora   one row anew

course-base after tuning is the shipped course-sft (`bench.course_models`). SmolLM2 is tuned in float32 with
the format and the tasks of course-sft but fewer of them: all of its weights, and again an adapter beside each
linear layer, on the same batches. Answers are written greedily, by the merged model where there was an
adapter; no task of the training set has a word of the test.
"""

import argparse
import copy
import json
import sys
from typing import Any

import torch

from bench.common import ROOT, origin
from bench.course_models import TUNING, word_examples
from bench.scoreboard import RESULTS
from myllm import LLM, TrainConfig, Trainer
from myllm.data import downloads, wordops
from myllm.evaluation.exact_match import exact_match
from myllm.files import atomic_write
from myllm.finetuning.lora import apply_lora, merge
from myllm.finetuning.sft import SFT

FILE = RESULTS / "word_ops.json"
TEST = 400
RECIPE: dict[str, Any] = {
    "steps": 200, "weight_decay": 0.0, "warmup": 10, "evaluate_every": 0, "checkpoint_every": 20, "seed": 0
}  # fmt: skip
RATES = {"full": 1e-4, "lora": 1e-3}
RANK, ALPHA = 16, 32
NAMES = {"course": "course-base", "full": "SmolLM2-135M", "lora": f"SmolLM2-135M, LoRA of rank {RANK}"}
ROWS, WIDTH, TASKS = 4, 192, 8_000


def score(llm: LLM) -> dict[str, float]:
    """The share of right answers to held-out tasks, by operation and in all."""
    tasks = wordops.tasks(TEST, held_out=True, seed=1, spelled=True)
    questions = [(task.prompt, task.answer) for task in tasks]

    def complete(prompts: list[str]) -> list[str]:
        return [text for text, _ in llm.complete(prompts, max_new_tokens=24)]

    share, verdicts = exact_match(complete, questions, extract=wordops.extract)
    by_op: dict[str, list[bool]] = {}
    for task, verdict in zip(tasks, verdicts, strict=True):
        by_op.setdefault(task.op, []).append(verdict.correct)
    return {"all": share, **{op: sum(right) / len(right) for op, right in sorted(by_op.items())}}


def row(kind: str, before: LLM, after: LLM, steps: int, tokens: int, trained: float = 1.0) -> dict[str, Any]:
    """What the file says of a model; `trained` is the share of its parameters that were."""
    first, last = score(before), score(after)
    return {
        "model": NAMES[kind],
        "before": first["all"],
        "after": last["all"],
        "by_op": {op: [first[op], last[op]] for op in first if op != "all"},
        "steps": steps,
        "tokens": tokens,
        "trained": trained,
    }


def course() -> dict[str, Any]:
    """The row of course-base."""
    base, tuned = (LLM.from_pretrained(name, dtype=torch.float32) for name in ("course-base", "course-sft"))
    return row("course", base, tuned, TUNING.steps, TUNING.steps * 8 * 256)


def real(kind: str) -> dict[str, Any]:
    """The row of SmolLM2, tuned in one of two ways."""
    llm = LLM.from_pretrained("smollm2", dtype=torch.float32)
    before = copy.deepcopy(llm.model)
    n_params, share = sum(one.numel() for one in llm.model.parameters()), 1.0
    if kind == "lora":
        torch.manual_seed(RECIPE["seed"])
        apply_lora(llm.model, RANK, alpha=ALPHA)
        share = sum(one.numel() for one in llm.model.parameters() if one.requires_grad) / n_params
    tasks = wordops.tasks(TASKS, spelled=True)
    objective = SFT(word_examples(llm, tasks), block_size=WIDTH, batch_size=ROWS, seed=RECIPE["seed"])
    config = TrainConfig(lr=RATES[kind], **RECIPE)
    Trainer(llm.model, objective, config, folder=ROOT / "build" / f"smollm2-word-ops-{kind}").fit()
    if kind == "lora":
        merge(llm.model)
    steps = config.steps
    return row(kind, LLM(before, llm.tokenizer), llm, steps, steps * ROWS * WIDTH, share)


def main() -> None:
    """Tune, score and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=NAMES, default=list(NAMES))
    wanted = parser.parse_args().rows
    if downloads.find("smollm2") is None:
        sys.exit("Run `myllm download smollm2` first.")
    torch.set_num_threads(1)
    content = json.loads(FILE.read_text("utf-8"))
    rows = {one["model"]: one for one in content["models"]}
    for kind in wanted:
        found = course() if kind == "course" else real(kind)
        rows[found["model"]] = found
        print(found, flush=True)
        ordered = [rows[name] for name in NAMES.values() if name in rows]
        content = {"command": "python -m bench.word_ops", **origin(), "questions": TEST, "models": ordered}
        atomic_write(FILE, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
