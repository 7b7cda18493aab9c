"""Every model of the book on the same held-out text, in bits per byte: book/_results/scoreboard.json.

    python -m bench.scoreboard                 compute all rows anew
    python -m bench.scoreboard --train gpt     train a row's model first: gpt or llama, 10 to 20 minutes

A trained model is written to book/_results/NAME.safetensors in float16, with its curve in NAME.json. SmolLM2
takes part where `myllm download smollm2` has fetched it, and otherwise keeps the row it had.
"""

import argparse
import json
import lzma
import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from bench.common import origin
from myllm import BPE, LLM, ModelConfig, Transformer, load_tokenizer, quantize
from myllm.data import corpus, downloads
from myllm.data.loader import WindowLoader
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import atomic_write

RESULTS = Path(__file__).parents[1] / "book" / "_results"
SHAPE = {"vocab_size": 1024, "block_size": 128, "n_layer": 3, "n_head": 4, "n_embd": 96, "init_std": 0.06}
CONFIGS = {
    "gpt": ModelConfig.preset("gpt2", **SHAPE),
    "llama": ModelConfig(**SHAPE, n_kv_head=2, intermediate_size=288, tie_embeddings=True),
}
STEPS, BATCH, RATE, WARM_UP = 2000, 32, 5e-3, 100


@cache
def texts() -> tuple[str, str]:
    """The training text and the held-out text."""
    train, held_out = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)
    return "\n".join(work.text for work in train), "\n".join(work.text for work in held_out)


@cache
def n_bytes() -> int:
    """The bytes of the held-out text that are scored: all but the first."""
    return len(texts()[1].encode()) - 1


def characters() -> tuple[Tensor, Tensor, int]:
    """Both texts as chapter 1 numbers their characters, and how many there are."""
    alphabet = sorted(set(texts()[0]))
    number = {character: i for i, character in enumerate(alphabet)}
    train, held_out = (torch.tensor([number[character] for character in text]) for text in texts())
    return train, held_out, len(alphabet)


def tokens(tokenizer: BPE) -> tuple[Tensor, Tensor, int]:
    """Both texts as ids of a tokenizer, and its size."""
    train, held_out = (torch.tensor(tokenizer.encode(text)) for text in texts())
    return train, held_out, tokenizer.vocab_size


def bigrams(train: Tensor, held_out: Tensor, vocab_size: int, alpha: float) -> float:
    """Counted bigrams with additive smoothing."""
    pairs = torch.bincount(train[:-1] * vocab_size + train[1:], minlength=vocab_size**2)
    counts = pairs.view(vocab_size, vocab_size).double() + alpha
    shares = counts / counts.sum(dim=1, keepdim=True)
    return bits_per_byte(-shares[held_out[:-1], held_out[1:]].log(), n_bytes())


def single(train: Tensor, held_out: Tensor, vocab_size: int) -> float:
    """How often each character occurs, whatever stands before it."""
    counts = torch.bincount(train, minlength=vocab_size).double()
    return bits_per_byte(-(counts / counts.sum()).log()[held_out[1:]], n_bytes())


def load(name: str) -> Transformer:
    """A model whose weights lie beside the scoreboard."""
    model = Transformer(CONFIGS[name])
    state = load_file(RESULTS / f"{name}.safetensors")
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=False)  # a tied head
    return model.eval()


def trained(name: str) -> tuple[float, int]:
    """The score and the parameters of such a model."""
    held_out = tokens(load_tokenizer("shakespeare"))[1]
    return bits_per_byte(nll(load(name), held_out, stride=64), n_bytes()), CONFIGS[name].n_params


def course_base() -> tuple[float, int]:
    """The model that the package ships, which `python -m bench.course_models` trains."""
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    held_out = tokens(load_tokenizer("shakespeare"))[1]
    return bits_per_byte(nll(llm.model, held_out, stride=128), n_bytes()), llm.config.n_params


def quantized(scheme: str) -> tuple[float, int]:
    """course-base with its matrices quantized, the embedding and the head to int8."""
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    train, held_out, _ = tokens(load_tokenizer("shakespeare"))
    options = {"calibration": [train[: 64 * 256].view(64, 256)]} if scheme == "gptq" else {}
    quantize(llm.model, scheme, head="int8", **options)
    return bits_per_byte(nll(llm.model, held_out, stride=128), n_bytes()), llm.config.n_params


def smollm2() -> tuple[float, int] | None:
    """The published model, if it has been fetched."""
    if (path := downloads.find("smollm2")) is None:
        return None
    llm = LLM.from_pretrained(path)
    scores = nll(llm, texts()[1], block_size=1024, stride=512)
    return bits_per_byte(scores, n_bytes()), llm.config.n_params


def xz() -> float:
    """What a compressor needs that sees the held-out text alone."""
    data = texts()[1].encode()
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def counted() -> Iterator[dict[str, Any]]:
    """The rows that need no trained weights."""
    small, V = load_tokenizer("shakespeare"), characters()[2]
    yield {
        "chapter": 1,
        "model": "nothing known: all characters equal",
        "bits": math.log2(V),
        "parameters": 0,
    }
    yield {
        "chapter": 1,
        "model": "single characters, counted",
        "bits": single(*characters()),
        "parameters": V,
    }
    row = {"chapter": 1, "model": "bigrams of characters, counted", "parameters": V * V}
    yield row | {"bits": bigrams(*characters(), alpha=1.0)}
    row = {"chapter": 3, "model": "bigrams of 1,024 tokens, counted", "parameters": small.vocab_size**2}
    yield row | {"bits": bigrams(*tokens(small), alpha=0.01)}


def train(name: str) -> None:
    """Train a model and write its weights and its curve."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ids, held_out, _ = tokens(load_tokenizer("shakespeare"))
    model, few = Transformer(CONFIGS[name]), held_out[:16_384]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95), fused=True
    )
    batches = WindowLoader(ids.numpy().astype(np.uint16), block_size=128, batch_size=BATCH, seed=0)
    curve: list[list[float]] = []
    for step, (x, y) in enumerate(islice(batches, STEPS + 1)):
        if step % 500 == 0:
            score = nll(model.eval(), few).mean().item()
            curve.append([step, score])
            print(f"{name} step {step}: {score:.3f} nats per token", flush=True)
        progress = max(0.0, (step - WARM_UP) / (STEPS - WARM_UP))
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(model.train()(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    state = {key: tensor.half() for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    atomic_write(RESULTS / f"{name}.safetensors", save(state))
    run = {"command": f"python -m bench.scoreboard --train {name}", **origin(), "steps": STEPS}
    run |= {"tokens_per_step": BATCH * 128, "curve": curve}
    atomic_write(RESULTS / f"{name}.json", json.dumps(run, indent=1) + "\n")


def main() -> None:
    """Train what is asked for, then compute the rows and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", choices=CONFIGS, action="append", default=[])
    for name in parser.parse_args().train:
        train(name)
    file = RESULTS / "scoreboard.json"
    before = json.loads(file.read_text("utf-8"))["rows"] if file.is_file() else []
    rows = [*counted()]
    models: list[tuple[int, str, Callable[[], tuple[float, int] | None]]] = [
        (7, "GPT, 4 times over the text", lambda: trained("gpt")),
        (8, "LLaMA, 4 times over the text", lambda: trained("llama")),
        (9, "SmolLM2-135M, not trained here", smollm2),
        (10, "course-base, 4 times over the text", course_base),
        (15, "course-base in 8 bits", lambda: quantized("int8")),
        (16, "course-base in 4 bits, by GPTQ", lambda: quantized("gptq")),
    ]
    for chapter, name, score in models:
        if (found := score()) is not None:
            rows.append({"chapter": chapter, "model": name, "bits": found[0], "parameters": found[1]})
        else:
            rows += [row for row in before if row["model"] == name]
    content = {"command": "python -m bench.scoreboard", **origin(), "bytes": n_bytes(), "xz": xz()}
    atomic_write(file, json.dumps(content | {"rows": rows}, indent=1) + "\n")
    for row in rows:
        print(f"{row['chapter']} {row['model']:40} {row['bits']:.3f} bits per byte")


if __name__ == "__main__":
    main()
