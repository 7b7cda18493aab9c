"""Windows with and without attention sinks, and the cost of serving: book/_results/kv_cache.json.

    python -m bench.kv_cache              everything; SmolLM2 must have been downloaded
    python -m bench.kv_cache sinks        one part: sinks, serving or speculation

Passes and positions are counts. Seconds are CPU seconds of this machine, the median of rounds in turn.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.common import machine, origin, paired
from bench.scoreboard import CONFIGS, RESULTS, texts
from myllm import LLM, Transformer
from myllm.files import atomic_write
from myllm.inference.generate import decode, generate
from myllm.inference.scheduler import Engine
from myllm.inference.speculative import BigramDraft, Counts, Draft, ModelDraft, PromptLookup, speculate
from myllm.model.cache import KVCache
from myllm.model.masks import causal, prefix, window
from myllm.model.transformer import Transformer as Model

FILE = RESULTS / "kv_cache.json"
WINDOW, SINKS, STEP = 64, (0, 1, 4), 16
REQUESTS, ROWS, ROUNDS = 64, 8, 3
SHARED, NEW = 128, 60


@cache
def course_base() -> LLM:
    """The book's model, in float32."""
    return LLM.from_pretrained("course-base", dtype=torch.float32)


@torch.inference_mode()
def losses(model: Model, rows: Tensor, **options: Any) -> Tensor:
    """The loss of each token but the first of each row."""
    logits = torch.cat([model(row[None, :-1], **options) for row in rows])
    return cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")


def sinks() -> dict[str, Any]:
    """What a window costs a model that was trained without one, with and without the first tokens."""
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[float]] = {}
    for name, llm, B, T in (
        ("course-base", course_base(), 16, 256),
        ("SmolLM2-135M", LLM.from_pretrained("smollm2", dtype=torch.float32), 8, 385),
    ):
        assert llm.tokenizer is not None
        hamlet = llm.tokenizer.encode(texts()[1][: 8 * B * T])
        ids = torch.tensor(hamlet[: B * T]).view(B, T)
        full = losses(llm.model, ids)
        cut = {n: losses(llm.model, ids, mask=causal & (window(WINDOW) | prefix(n))) for n in SINKS}
        after = WINDOW + max(SINKS)
        lost = [round((cut[n] - full)[:, after:].mean().item(), 4) for n in SINKS]
        rows.append({"model": name, "rows": B, "tokens": T, "lost": lost})
        print(rows[-1], flush=True)
        if name.startswith("Smol"):
            for label, loss in {
                "all tokens": full,
                "a window of 64": cut[0],
                "with four sinks": cut[4],
            }.items():
                curves[label] = [round(part.mean().item(), 3) for part in loss.split(STEP, dim=1)]
    return {"sinks": rows, "curves": curves}


def mixed(n: int) -> list[tuple[list[int], int]]:
    """Requests: prompts from held-out text, half of them with the same beginning, and how much is wanted."""
    tokenizer = course_base().tokenizer
    assert tokenizer is not None
    ids, chance = tokenizer.encode(texts()[1][:200_000]), random.Random(0)
    found: list[tuple[list[int], int]] = []
    for i in range(n):
        start = chance.randrange(1000, len(ids) - 200)
        own = ids[start : start + chance.randint(4, 48)]
        found.append(((ids[:SHARED] if i % 2 else []) + own, chance.randint(8, 64)))
    return found


def one_by_one(model: Model, requests: Sequence[tuple[list[int], int]]) -> dict[str, int]:
    """Each request alone, with a cache."""
    for prompt, n in requests:
        _ = list(generate(model, prompt, max_new_tokens=n, cache=KVCache(model.config)))
    passes = sum(n for _, n in requests)
    return {"passes": passes, "positions": passes + sum(len(prompt) - 1 for prompt, _ in requests)}


def static_batches(model: Model, requests: Sequence[tuple[list[int], int]]) -> dict[str, int]:
    """Padded batches in order of arrival; each runs until its longest row has ended."""
    passes = positions = 0
    for first in range(0, len(requests), ROWS):
        batch = requests[first : first + ROWS]
        width, steps = max(len(p) for p, _ in batch), max(n for _, n in batch)
        ids = torch.tensor([[0] * (width - len(p)) + p for p, _ in batch])
        pads = torch.tensor([width - len(p) for p, _ in batch])
        cache = KVCache(model.config, len(batch), width + steps, pads=pads)
        _ = list(decode(model, ids, steps=steps, cache=cache))
        passes, positions = passes + steps, positions + len(batch) * (width + steps - 1)
    return {"passes": passes, "positions": positions}


def continuous(model: Model, requests: Sequence[tuple[list[int], int]]) -> dict[str, int]:
    """The engine, all requests in its queue at once."""
    engine = Engine(model, blocks=128, rows=ROWS)
    for prompt, n in requests:
        engine.add(prompt, max_new_tokens=n)
    engine.run()
    return {"passes": engine.passes, "positions": engine.computed}


WAYS: dict[str, Callable[[Model, Sequence[tuple[list[int], int]]], dict[str, int]]] = {
    "one by one": one_by_one,
    "padded batches of 8": static_batches,
    "the engine": continuous,
}


def serving() -> dict[str, Any]:
    """Counts and CPU seconds of 64 requests, served in three ways."""
    model, requests = course_base().model, mixed(REQUESTS)
    counted = {name: way(model, requests) for name, way in WAYS.items()}
    print(counted, flush=True)
    seconds, _ = paired({name: lambda way=way: way(model, requests) for name, way in WAYS.items()}, ROUNDS)
    rows = [{"way": name, **counted[name], "seconds": seconds[name]} for name in WAYS]
    return {"serving": {"requests": REQUESTS, "new": sum(n for _, n in requests), "rows": rows}}


def bigrams() -> Tensor:
    """The smoothed bigrams of the training text, (V, V)."""
    tokenizer = course_base().tokenizer
    assert tokenizer is not None
    ids = torch.tensor(tokenizer.encode(texts()[0]))
    counts = torch.full((1024, 1024), 0.01)
    counts.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


def speculation() -> dict[str, Any]:
    """Tokens for a pass and CPU seconds for each draft, at temperature 1, and the cost of wide passes."""
    model = course_base().model
    small = Transformer(CONFIGS["llama"])
    small.load_state_dict(load_file(RESULTS / "llama.safetensors"), strict=False)
    small.float().eval()
    table, prompts = bigrams(), [prompt[-16:] for prompt, _ in mixed(8)]
    makers: dict[str, Callable[[], Draft]] = {
        "bigrams of chapter 1": lambda: BigramDraft(table, seed=1),
        "LLaMA of chapter 8": lambda: ModelDraft(small, seed=1, temperature=1.0),
        "prompt lookup": lambda: PromptLookup(1024),
    }
    rows: list[dict[str, Any]] = []

    def run(make: Callable[[], Draft] | None, k: int) -> Counts:
        counts = Counts()
        for seed, prompt in enumerate(prompts):
            options: dict[str, Any] = {"max_new_tokens": NEW, "seed": seed, "temperature": 1.0}
            if make is None:
                _ = list(generate(model, prompt, cache=KVCache(model.config), **options))
            else:
                _ = list(speculate(model, prompt, make(), k=k, counts=counts, **options))
        return counts

    for k in (1, 2, 4):
        seconds, _ = paired(
            {name: lambda m=m, k=k: run(m, k) for name, m in {**makers, "none": None}.items()}, 2
        )
        for name, make in makers.items():
            found = run(make, k)
            faster = median(a / b for a, b in zip(seconds["none"], seconds[name], strict=True))
            tokens = len(prompts) * NEW / found.passes
            row = {"draft": name, "k": k, "accepted": found.accepted, "proposed": found.proposed}
            rows.append({**row, "tokens": round(tokens, 3), "speedup": round(faster, 2)})
            print(rows[-1], flush=True)

    def wide(n: int) -> None:
        for _ in range(20):
            cache = KVCache(model.config)
            model(torch.zeros(1, 100, dtype=torch.int64), cache=cache, keep=-1)
            for _ in range(100 // 10):
                cache.truncate(100)
                model(torch.zeros(1, n, dtype=torch.int64), cache=cache)

    with torch.inference_mode():
        seconds, _ = paired({str(n): lambda n=n: wide(n) for n in (1, 2, 5, 9)}, ROUNDS)
    cost = {n: round(median(s) / median(seconds["1"]), 2) for n, s in seconds.items()}
    return {"speculation": rows, "wide_pass": cost}


def main() -> None:
    """Measure the parts named on the command line, all by default, and write the file."""
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    parts = {"sinks": sinks, "serving": serving, "speculation": speculation}
    for name in sys.argv[1:] or parts:
        found |= parts[name]()
    found |= {"command": "python -m bench.kv_cache", **origin(), "cpu": machine()["cpu"]}
    atomic_write(FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
