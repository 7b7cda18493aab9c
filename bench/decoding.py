"""What chapter 13 reads from files: a model of 27 letters, and how varied the texts of decoders are.

    python -m bench.decoding --train      train the letter model: letters.safetensors and letters.json
    python -m bench.decoding              sample from course-base: decoding.json

About six CPU minutes for each; the files stand in book/_results.
"""

import argparse
import itertools
import json
import re
from itertools import islice
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from bench.common import origin
from bench.scoreboard import RESULTS
from myllm import LLM, ModelConfig, SamplingConfig, Transformer
from myllm.data import corpus
from myllm.data.loader import WindowLoader
from myllm.evaluation.perplexity import nll
from myllm.files import atomic_write
from myllm.inference.generate import GrowingCache, decode
from myllm.inference.sampling import Sampler
from myllm.tokenizers.base import Tokenizer
from myllm.training.optimizer import make_optimizer
from myllm.training.schedule import rate

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
LETTERS = ModelConfig(vocab_size=27, block_size=32, n_layer=3, n_head=4, n_embd=80, intermediate_size=160)
STEPS, BATCH, RATE = 2000, 64, 0.02
PROMPTS, PROMPT, NEW = 8, 32, 200  # texts, and ids of each
TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)


def letters(text: str) -> np.ndarray:
    """A text in 27 letters: apostrophes dropped, every other run of characters a space."""
    plain = re.sub("[^a-z]+", " ", text.lower().replace("'", ""))
    codes = np.frombuffer(plain.encode(), dtype=np.uint8).astype(np.int64)
    return np.where(codes == ord(" "), 0, codes - ord("a") + 1)


def train(steps: int = STEPS) -> tuple[Transformer, list[float]]:
    """Train the letter model for the first steps of the schedule; the model and its losses."""
    works, _ = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)
    ids = letters("\n".join(work.text for work in works))
    torch.manual_seed(0)
    model = Transformer(LETTERS)
    optimizer = make_optimizer(model, "muon", lr=RATE)
    losses: list[float] = []
    for step, (x, y) in enumerate(islice(WindowLoader(ids, block_size=32, batch_size=BATCH, seed=0), steps)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate(step, STEPS, kind="wsd", warmup=50, decay=0.4, floor=0.0)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(step, round(float(np.mean(losses[-100:])), 3), flush=True)
    return model.eval(), losses


def train_letters() -> None:
    """Write the model in float16, its curve, and its loss on the beginning of a held-out play."""
    model, losses = train()
    held_out = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)[1]
    save_file(
        {name: p.detach().half().contiguous() for name, p in model.state_dict().items()},
        RESULTS / "letters.safetensors",
    )
    run: dict[str, Any] = {
        "command": "python -m bench.decoding --train",
        **origin(),
        "steps": STEPS,
        "held_out": round(
            nll(model.half().float(), letters(held_out[0].text)[:5000].tolist()).mean().item(), 4
        ),
        "loss": [round(loss, 4) for loss in losses],
    }
    atomic_write(RESULTS / "letters.json", json.dumps(run) + "\n")


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall("[a-z']+", text.lower())


def variety(text: str, known: set[str]) -> dict[str, float]:
    """How varied a text is: three shares.

    Returns:
        ``distinct``: different pairs of neighbouring words among all pairs; ``repeated``: lines that stood
        in the text before; ``unknown``: words that are not among the known ones.
    """
    found, lines = words(text), [line for line in text.splitlines() if len(words(line)) > 1]
    pairs = list(itertools.pairwise(found))
    return {
        "distinct": len(set(pairs)) / max(len(pairs), 1),
        "repeated": 1 - len(set(lines)) / max(len(lines), 1),
        "unknown": sum(word not in known for word in found) / max(len(found), 1),
    }


def beginnings(tokenizer: Tokenizer, text: str) -> list[list[int]]:
    """Windows of a text, as prompt and human continuation: PROMPT + NEW ids each, evenly spread."""
    ids = tokenizer.encode(text)
    step = len(ids) // PROMPTS
    return [ids[i * step : i * step + PROMPT + NEW] for i in range(PROMPTS)]


def continue_all(llm: LLM, prompts: list[list[int]], seed: int, **sampling: Any) -> list[str]:
    """The continuation of each prompt, all as one batch."""
    generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(prompts))]
    sampler = Sampler(SamplingConfig(**sampling), generators=generators)
    cache = GrowingCache(llm.config.n_layer)
    ids = torch.tensor([row[:PROMPT] for row in prompts])
    new = torch.stack([*decode(llm.model, ids, steps=NEW, sampler=sampler, cache=cache)], dim=1)
    return [llm.tokenizer.decode(row) for row in new.tolist()]


def measure() -> None:
    """Sample from course-base with each setting; write how varied the texts are, human ones beside them."""
    works, held_out = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)
    known = set(words("\n".join(work.text for work in works)))
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    prompts = beginnings(llm.tokenizer, "\n".join(work.text for work in held_out))

    def mean(texts: list[str]) -> dict[str, float]:
        found = [variety(text, known) for text in texts]
        return {name: round(sum(one[name] for one in found) / len(found), 4) for name in found[0]}

    rows: list[dict[str, Any]] = [
        {"human": True, "seeds": [mean([llm.tokenizer.decode(row[PROMPT:]) for row in prompts])]}
    ]
    for temperature, top_p in [(0.0, None), *itertools.product(TEMPERATURES, (None, 0.9))]:
        seeds = [0] if temperature == 0 else [0, 1, 2]
        found = [
            mean(continue_all(llm, prompts, seed, temperature=temperature, top_p=top_p)) for seed in seeds
        ]
        rows.append({"temperature": temperature, "top_p": top_p, "seeds": found})
        print(rows[-1], flush=True)
    run = {"command": "python -m bench.decoding", **origin(), "prompts": PROMPTS, "new": NEW, "rows": rows}
    atomic_write(RESULTS / "decoding.json", json.dumps(run, indent=1) + "\n")


def main() -> None:
    """Train, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="train the letter model")
    (train_letters if parser.parse_args().train else measure)()


if __name__ == "__main__":
    main()
