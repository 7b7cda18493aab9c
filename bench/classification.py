"""What chapter 17 reads from a file: a spam filter tuned in three depths, each with three seeds.

    python -m bench.classification    about four CPU minutes

Older mails are split by groups of near-duplicates into 1,200 to train on, 600 for validation and 600 to test
on; 800 of the later mails, none of them a near-duplicate of an older one, are a second test. The model is
course-base, which reads the first 64 tokens of each mail.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from bench.common import origin
from bench.scoreboard import RESULTS
from myllm import LLM
from myllm.data.examples import groups, mails
from myllm.files import atomic_write
from myllm.finetuning.classify import Classifier, Labelled, freeze, pad

FILE = RESULTS / "classification.json"
TOKENS, BATCH, EPOCHS = 64, 16, 2
SIZES = {"train": 1200, "val": 600, "test": 600, "later": 800}
PLANS = {"head": 1e-2, 1: 1e-3, "all": 5e-4}  # and the learning rate of each


def split(group: list[int], old: list[bool]) -> dict[str, list[int]]:
    """The numbers of the mails in each part; no group of near-duplicates is in two parts."""
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0)).tolist()
    rank: dict[int, int] = {}
    for i in order:
        rank.setdefault(group[i], len(rank))
    older = {group[i] for i in order if old[i]}
    first = sorted((i for i in order if old[i]), key=lambda i: rank[group[i]])
    parts: dict[str, list[int]] = {}
    start = 0
    for name in ("train", "val", "test"):
        end = start + SIZES[name]
        while group[first[end]] == group[first[end - 1]]:
            end += 1
        parts[name], start = first[start:end], end
    later = [i for i in order if not old[i] and group[i] not in older]
    return parts | {"later": later[: SIZES["later"]]}


@torch.inference_mode()
def logits(classifier: Classifier, examples: list[Labelled]) -> Tensor:
    """The logits of all examples."""
    chunks = (pad(examples[i : i + 50]) for i in range(0, len(examples), 50))
    return torch.cat([classifier(ids, keep) for ids, keep, _ in chunks])


def tune(examples: list[Labelled], trained: Any, seed: int) -> tuple[Classifier, int]:
    """A classifier after `EPOCHS` passes over the examples."""
    torch.manual_seed(seed)
    classifier = Classifier(LLM.from_pretrained("course-base", dtype=torch.float32).model, 2)
    parameters = freeze(classifier, trained)
    optimizer = torch.optim.AdamW(
        [p for p in classifier.parameters() if p.requires_grad], lr=PLANS[trained], weight_decay=0.01
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(examples)).split(BATCH):
            ids, keep, labels = pad([examples[i] for i in rows.tolist()])
            loss = nn.functional.cross_entropy(classifier(ids, keep), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier, parameters


def score(found: Tensor, labels: Tensor) -> dict[str, Any]:
    """Counts of each kind of answer, accuracy and F1 of spam."""
    answer = found.argmax(-1)
    caught, lost = ((answer == 1) & (labels == 1)).sum().item(), ((answer == 1) & (labels == 0)).sum().item()
    missed = ((answer == 0) & (labels == 1)).sum().item()
    right = (answer == labels).sum().item()
    f1 = 2 * caught / (2 * caught + lost + missed)
    return {"n": len(labels), "right": right, "lost": lost, "missed": missed, "f1": round(f1, 4)}


def main() -> None:
    """Measure everything and write the file."""
    torch.set_num_threads(1)
    every = mails()
    encode = LLM.from_pretrained("course-base").tokenizer.encode
    group = groups(one.text for one in every)
    parts = split(group, [one.source.endswith("-1") for one in every])
    data = {
        name: [Labelled(encode(every[i].text)[:TOKENS], int(every[i].spam)) for i in part]
        for name, part in parts.items()
    }
    truth = {name: torch.tensor([one.label for one in rows]) for name, rows in data.items()}
    found: dict[str, Any] = {"parts": parts, "rows": [], "logits": {}}
    for plan in PLANS:
        for seed in range(3):
            classifier, parameters = tune(data["train"], plan, seed)
            row: dict[str, Any] = {"plan": str(plan), "seed": seed, "parameters": parameters}
            for name in ("val", "test", "later"):
                out = logits(classifier, data[name])
                row[name] = score(out, truth[name])
                if plan == "all" and seed == 0:
                    margin = (out[:, 1] - out[:, 0]).tolist()
                    found["logits"][name] = [round(x, 3) for x in margin]
            found["rows"].append(row)
            print(row, flush=True)
    found |= {"command": "python -m bench.classification", **origin()}
    atomic_write(FILE, json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
