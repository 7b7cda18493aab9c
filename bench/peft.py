"""What chapter 19 reads from a file: full tuning and adapters, book/_results/peft.json.

    python -m bench.peft      about a quarter of an hour of one core; it resumes, and the file grows meanwhile

course-sft learns four operations that are new to it, from the same batches in the same order: all weights or
the linear layers alone, with AdamW or Muon, or adapters in the linear layers with AdamW. Loss and exact match
are those of questions on held-out words. The first row is course-sft itself, as a change of course-base.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.common import ROOT, origin
from bench.course_models import TUNING
from bench.scoreboard import RESULTS
from bench.word_ops import score
from myllm import LLM, Trainer, Transformer
from myllm.data import wordops
from myllm.evaluation.exact_match import exact_match
from myllm.files import atomic_write
from myllm.finetuning.adapters import load_adapter, save_adapter
from myllm.finetuning.lora import apply_lora, inspect_adapter, linears, lora_layers, merge
from myllm.finetuning.sft import SFT, Example, encode
from myllm.quantization.schemes import quantize

FILE, KEPT = RESULTS / "peft.json", ROOT / "build" / "peft"
SETTINGS = replace(TUNING, steps=160, optimizer="adamw", warmup=10, evaluate_every=0, checkpoint_every=0)
ROWS, WIDTH, EXAMPLES, QUESTIONS = 2, 256, 8_000, 400
OPS: dict[str, Callable[[str], str]] = {
    "turn": lambda word: word[1:] + word[0],
    "even": lambda word: word[::2],
    "swap": lambda word: word[-1] + word[1:-1] + word[0],
    "mirror": lambda word: word + word[::-1],
}
RATES = {"full": (3e-4, 1e-3, 3e-3, 1e-2), "lora r=8": (1e-3, 3e-3, 1e-2, 3e-2)}
FINER = {"full": (1.7e-3, 5.5e-3), "lora r=8": (5.5e-3, 1.7e-2)}  # beside the best; asked last, chosen never
MUON = 3e-3  # its updates are as large as AdamW's at the same rate
RANKS, ALPHA = (1, 2, 4, 8, 16, 32), 16.0  # alpha / r: one rate then fits all ranks roughly
TARGETS: dict[str, tuple[int, list[str]]] = {  # ranks that make them equal in parameters, to 3 %
    "q,v": (41, ["q_proj", "v_proj"]),
    "attention": (21, ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "mlp": (13, ["gate_proj", "up_proj", "down_proj"]),
}
CUTS = (0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192)
PARTS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj")
SHOWN = ("embed_tokens", *(f"layers.{i}.{part}" for i in (0, 3) for part in PARTS))
State = dict[str, Tensor]
Parts = dict[str, tuple[Tensor, Tensor, Tensor]]  # a singular value decomposition by name
Row = dict[str, Any]


def load(name: str = "course-sft") -> LLM:
    """A shipped model in float32."""
    return LLM.from_pretrained(name, dtype=torch.float32)


@cache
def tasks(n: int, held_out: bool = False, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts with their answers, the operations in turn."""
    generator, words, found = random.Random(seed), wordops.words(held_out=held_out), list[tuple[str, str]]()
    for i in range(n):
        op, word = [*OPS][i % len(OPS)], generator.choice(words)
        found.append((f"{op}: {' '.join(word)} >", " ".join(OPS[op](word))))
    return found


@cache
def examples(n: int, held_out: bool = False) -> list[Example]:
    """Tasks as examples."""
    tokenizer = load().tokenizer
    assert tokenizer is not None
    items = [{"prompt": prompt, "response": f" {answer}"} for prompt, answer in tasks(n, held_out)]
    return [encode(item, tokenizer) for item in items]


def judge(llm: LLM) -> Row:
    """The loss of the targets and exact match on held-out words, and exact match on word-ops as before."""
    objective = SFT(examples(QUESTIONS, True), block_size=WIDTH, batch_size=1)
    batch = objective.loader.batch(np.arange(objective.loader.n))
    with torch.no_grad():
        loss = objective.loss(llm.model, batch).total.item() / objective.count(batch)

    def complete(prompts: list[str]) -> list[str]:
        return [text for text, _ in llm.complete(prompts, max_new_tokens=32)]

    share, _ = exact_match(complete, tasks(QUESTIONS, True, seed=1), extract=wordops.extract)
    return {"loss": round(loss, 5), "exact_match": share, "word_ops": score(llm)["all"]}


def tune(llm: LLM, rate: float, seed: int = 0, **options: Any) -> Row:
    """Train what needs a gradient, and judge it."""
    objective = SFT(examples(EXAMPLES), block_size=WIDTH, batch_size=ROWS, seed=seed)
    Trainer(llm.model, objective, replace(SETTINGS, lr=rate, seed=seed, **options)).fit()
    return judge(llm)


def kept(name: str, make: Callable[[], Row]) -> Row:
    """A result: from its file, or made now."""
    path = KEPT / f"{name}.json"
    if not path.exists():
        atomic_write(path, json.dumps(make()))
    row = json.loads(path.read_text("utf-8"))
    print(
        name, {key: value for key, value in row.items() if key not in ("spectrum", "truncated")}, flush=True
    )
    return row


def adapted(r: int, seed: int = 0, base: LLM | None = None, targets: list[str] | None = None) -> LLM:
    """course-sft, or another, with new adapters."""
    llm = base or load()
    torch.manual_seed(seed)
    apply_lora(llm.model, r, alpha=ALPHA, targets=targets)
    return llm


def whole(rate: float, seed: int = 0, optimizer: str = "adamw", trained: str = "all") -> Row:
    """All weights, or those of the linear layers alone, after tuning; the model is kept."""

    def make() -> Row:
        llm = load()
        if trained == "linears":
            llm.model.requires_grad_(False)
            for name, layer in linears(llm.model):
                layer.requires_grad_(name != "lm_head")
        count = sum(p.numel() for p in llm.model.parameters() if p.requires_grad)
        row = {"parameters": count} | tune(llm, rate, seed, optimizer=optimizer)
        save_file({key: p for key, p in llm.model.state_dict().items() if key != "lm_head.weight"}, path)
        return row

    name = f"full {optimizer} {trained} {rate} {seed}"
    path = KEPT / f"{name}.safetensors"
    made = {
        "task": "new",
        "optimizer": optimizer,
        "trained": trained,
        "rate": rate,
        "steps": SETTINGS.steps,
        "seed": seed,
    }
    return made | kept(name, make)


def changes(before: State, after: State) -> Parts:
    """The singular value decomposition of each linear layer's change, and of the embedding's."""
    names = [name for name, p in after.items() if p.ndim == 2 and name != "lm_head.weight"]
    return {name: torch.linalg.svd(after[name] - before[name], full_matrices=False) for name in names}


def cut(before: State, others: State, parts: Parts, r: int) -> LLM:
    """The base with the best rank-r change of each linear layer; embedding and norms as in `others`."""
    state, llm = dict(others), load()
    for name, (u, s, v) in parts.items():
        if name != "embed_tokens.weight":
            state[name] = before[name] + u[:, :r] * s[:r] @ v[:r]
    llm.model.load_state_dict(state | {"lm_head.weight": state["embed_tokens.weight"]})
    return llm


def spectrum(before: State, after: State, judge: Callable[[LLM], Row] = judge) -> Row:
    """Singular values of the changes, and what the model does with the first of them."""
    parts = changes(before, after)
    inner = [s.square() for name, (_, s, _) in parts.items() if name != "embed_tokens.weight"]
    total = sum(s.sum().item() for s in inner)
    rows = list[Row]()
    for r in CUTS:
        with_others, alone = (judge(cut(before, others, parts, r)) for others in (after, before))
        energy = sum(s[:r].sum().item() for s in inner) / total
        row = {"r": r, "energy": round(energy, 4), **with_others}
        rows.append(row | {f"{key}, rest as base": value for key, value in alone.items()})
    shown = {name: [float(f"{x:.3g}") for x in parts[f"{name}.weight"][1].tolist()] for name in SHOWN}
    return {"norm": round(total**0.5, 3), "spectrum": shown, "truncated": rows}


def described(row: Row) -> Row:
    """The row of a full tuning with the spectrum of its change."""
    names = [f"{row[key]}" for key in ("optimizer", "trained", "rate", "seed")]
    name = " ".join(["full", *names])
    before = dict(load().model.state_dict())
    return row | kept(f"spectrum {name}", lambda: spectrum(before, load_file(KEPT / f"{name}.safetensors")))


def cut_adapter(row: Row) -> Row:
    """An adapter in all linear layers, its change cut to each rank."""
    name = f"lora all {row['r']} {row['rate']} {row['seed']}"
    before, llm = dict(load().model.state_dict()), load()
    load_adapter(llm.model, KEPT / name)
    merge(llm.model)
    after = dict(llm.model.state_dict())
    found = kept(f"spectrum {name}", lambda: spectrum(before, after))
    return row | {"truncated": [one for one in found["truncated"] if one["r"] <= row["r"]]}


def shipped() -> Row:
    """course-sft as a change of course-base, tuned with Muon on word-ops."""
    before, after = (dict(load(name).model.state_dict()) for name in ("course-base", "course-sft"))
    row = {"task": "word-ops", "optimizer": "muon", "trained": "all", "rate": TUNING.lr, "seed": 0}
    row |= {"steps": TUNING.steps, "parameters": sum(p.numel() for p in load().model.parameters())}

    def ask(llm: LLM) -> Row:
        return {"exact_match": score(llm)["all"]}

    found = kept("spectrum course-sft", lambda: spectrum(before, after, ask))
    return row | found | {"exact_match": found["truncated"][-1]["exact_match"]}


@torch.no_grad()
def overlap(model: Transformer, reference: State) -> Row:
    """How much of the adapters' change lies in the first r output directions of a full tuning's change.

    Returns:
        The share of the squared norm, in the mean over the layers; that of r random directions; and the size
        of the change, over that of the weight.
    """
    before, shares = load().model.state_dict(), list[tuple[float, float]]()
    for name, layer in lora_layers(model):
        assert layer.adapter is not None
        change, r = layer.adapter.delta(), layer.adapter.A.shape[0]
        u = torch.linalg.svd(reference[f"{name}.weight"] - before[f"{name}.weight"])[0][:, :r]
        inside = (u.T @ change).square().sum() / change.square().sum()
        shares.append((inside.item(), min(1, r / len(change))))
    found, chance = (round(sum(column) / len(column), 4) for column in zip(*shares, strict=True))
    sizes = inspect_adapter(model).changes.values()
    return {"overlap": found, "chance": chance, "size": round(sum(sizes) / len(sizes), 4)}


def adapter(rate: float, r: int, seed: int, reference: str, targets: str = "all") -> Row:
    """An adapter, trained; its weights are kept."""

    def make() -> Row:
        llm = adapted(r, seed, targets=None if targets == "all" else TARGETS[targets][1])
        found = inspect_adapter(llm.model)
        row = {"parameters": found.parameters, "share": round(found.share, 5)}
        row |= tune(llm, rate, seed) | overlap(llm.model, load_file(KEPT / reference))
        save_adapter(llm.model, KEPT / name)
        return row

    name = f"lora {targets} {r} {rate} {seed}"
    return {"r": r, "rate": rate, "alpha": ALPHA, "seed": seed} | kept(name, make)


def rounded(llm: LLM) -> LLM:
    """The model with its linear layers in NF4."""
    quantize(llm.model, "nf4", block=64)
    return llm


def quantized(rate: float, seed: int) -> Iterator[Row]:
    """Adapters of rank 8 trained over float32 and over NF4; then merged; then rounded to NF4."""
    for base in ("fp32", "nf4"):

        def make(base: str = base) -> Row:
            row: Row = {}
            if base == "nf4":
                llm = adapted(8, seed, rounded(load()))
                row |= tune(llm, rate, seed)
            else:  # trained already; it is put over the rounded base, too, on which it was not trained
                llm, other = load(), rounded(load())
                for one in (llm, other):
                    load_adapter(one.model, KEPT / f"lora all 8 {rate} {seed}")
                row |= judge(llm) | {f"{key}, moved": value for key, value in judge(other).items()}
            merge(llm.model)
            row |= {f"{key}, merged": value for key, value in judge(llm).items()}
            again = judge(rounded(llm))
            return row | {"merged_requantized": again["exact_match"], "loss, requantized": again["loss"]}

        yield {"base": base, "r": 8, "rate": rate, "seed": seed} | kept(f"quantized {base} {seed}", make)


def main() -> None:
    """Every stage in turn, and the file after each."""
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    settings = asdict(SETTINGS) | {"rows": ROWS, "width": WIDTH, "questions": QUESTIONS, "ops": [*OPS]}
    content: Row = {"command": "python -m bench.peft", **origin(), "settings": settings}
    content |= {"base": kept("base", lambda: judge(load()))}

    def add(table: str, *rows: Row) -> None:
        content.setdefault(table, []).extend(rows)
        text = json.dumps(content, indent=1)
        atomic_write(FILE, re.sub(r"\n {4,}|\n {3}(?=[]}])", " ", text) + "\n")  # a row has few lines

    def search(plan: str, run: Callable[[float], Row], rates: Sequence[float]) -> float:
        rows = [run(rate) for rate in rates]
        add(
            "rates",
            *({"plan": plan, **{key: row[key] for key in ("rate", "loss", "exact_match")}} for row in rows),
        )
        return min(rows, key=lambda row: row["loss"])["rate"]

    add("full", shipped())
    full_rate = search("full", whole, RATES["full"])
    for row in (whole(full_rate), whole(full_rate, trained="linears"), whole(MUON, optimizer="muon")):
        add("full", described(row))
    reference = f"full adamw linears {full_rate} 0.safetensors"

    def rank_8(rate: float) -> Row:
        return adapter(rate, 8, 0, reference)

    rate = search("lora r=8", rank_8, RATES["lora r=8"])
    for seed in (0, 1):
        for r in RANKS:
            add("lora", adapter(rate, r, seed, reference))
        add("targets", {"targets": "all"} | adapter(rate, 8, seed, reference))
        for targets, (r, _) in TARGETS.items():
            add("targets", {"targets": targets} | adapter(rate, r, seed, reference, targets))
        add("quantized", *quantized(rate, seed))
    add("cut_adapter", cut_adapter(adapter(rate, RANKS[-1], 0, reference)))
    for seed in (0, 1):
        for options in ({}, {"trained": "linears"}, {"rate": MUON, "optimizer": "muon"}):
            add("full_seeds", whole(**{"rate": full_rate, "seed": seed} | options))
    near = [one for one in RATES["lora r=8"] if 0.2 < one / rate < 5]  # the rate and its neighbours
    for r in (1, 8, 32):
        add("lora_rates", *(adapter(one, r, 0, reference) for one in near))
    search("full", whole, FINER["full"])
    search("lora r=8", rank_8, FINER["lora r=8"])


if __name__ == "__main__":
    main()
