"""Word-ops before and after tuning, of course-base and of SmolLM2: book/_results/word_ops.json.

    python -m bench.word_ops      SmolLM2 must have been downloaded; about an hour, and it resumes

course-base after tuning is the shipped course-sft (`bench.course_models`). SmolLM2 is tuned in float32, all
of its weights, with the format and the tasks of course-sft but fewer of them. Answers are written greedily;
no task of the training set has a word of the test.
"""

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
from myllm.finetuning.sft import SFT

FILE = RESULTS / "word_ops.json"
TEST = 400
REAL = TrainConfig(
    steps=200, lr=1e-4, weight_decay=0.0, warmup=10, evaluate_every=0, checkpoint_every=20, seed=0
)
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


def row(name: str, before: LLM, after: LLM, steps: int, tokens: int) -> dict[str, Any]:
    """What the file says of a model."""
    first, last = score(before), score(after)
    return {
        "model": name,
        "before": first["all"],
        "after": last["all"],
        "by_op": {op: [first[op], last[op]] for op in first if op != "all"},
        "steps": steps,
        "tokens": tokens,
    }


def main() -> None:
    """Tune, score and write the file."""
    if downloads.find("smollm2") is None:
        sys.exit("Run `myllm download smollm2` first.")
    torch.set_num_threads(1)
    base, tuned = (LLM.from_pretrained(name, dtype=torch.float32) for name in ("course-base", "course-sft"))
    rows = [row("course-base", base, tuned, TUNING.steps, TUNING.steps * 8 * 256)]
    print(rows[0], flush=True)

    llm = LLM.from_pretrained("smollm2", dtype=torch.float32)
    before = copy.deepcopy(llm.model)
    tasks = wordops.tasks(TASKS, spelled=True)
    objective = SFT(word_examples(llm, tasks), block_size=WIDTH, batch_size=ROWS, seed=REAL.seed)
    run = Trainer(llm.model, objective, REAL, folder=ROOT / "build" / "smollm2-word-ops")
    run.fit()
    rows.append(row("SmolLM2-135M", LLM(before, llm.tokenizer), llm, REAL.steps, REAL.steps * ROWS * WIDTH))
    print(rows[1])
    content = {"command": "python -m bench.word_ops", **origin(), "questions": TEST, "models": rows}
    atomic_write(FILE, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
