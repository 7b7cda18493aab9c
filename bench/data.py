"""Data: how fast shards are built and in what memory, and how far the loader is ahead of training.

Run ``python -m bench.data``; it needs no extra.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from bench.common import compare, machine, paired, peak_memory, record, report_memory
from myllm.data import corpus
from myllm.data.loader import WindowLoader
from myllm.data.shards import Shards, write_shards
from myllm.tokenizers.pretrained import load_tokenizer

GPT2, BYTES, ENCODING = "shards of GPT-2 ids", "shards of bytes", "encoding to GPT-2 ids alone"
GOAL, BATCHES = 1_000, 1_000  # the loader is to take at most 1/GOAL of a training step
LOADER, COPIES, STEP = (
    f"loader, {BATCHES:,} batches",
    f"{BATCHES:,} batches cut from memory",
    "a training step",
)
SHAPE = B, T = 8, 256
Encode = Callable[[str], Iterable[int]]


def speeches(n_bytes: float) -> Iterator[str]:
    """State of the Union addresses, from the first again after the last, until there are enough bytes."""
    for document in cycle(corpus.load("sotu")):
        if n_bytes <= 0:
            return
        n_bytes -= len(document.text.encode())
        yield document.text


def build(encode: Encode, n_bytes: float, folder: Path) -> Path:
    vocab_size, documents = 50_257, (encode(text) for text in speeches(n_bytes))
    write_shards(documents, folder, vocab_size=vocab_size, vocab_hash="0" * 64, shard_tokens=1 << 20)
    return folder


def build_and_drop(encode: Encode, n_bytes: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(encode, n_bytes, Path(folder, "shards"))


def building(rounds: int) -> None:
    """Shards of all addresses: seconds, and the memory for one and for four times as much text."""
    encode = load_tokenizer("gpt2").encode
    n_bytes = sum(len(document.text.encode()) for document in corpus.load("sotu"))
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(build(encode, n_bytes, Path(folder, "shards")))
        assert shards[:].tolist() == [i for text in speeches(n_bytes) for i in encode(text)]
    cpu, wall = paired(
        {
            GPT2: partial(build_and_drop, encode, n_bytes),
            BYTES: partial(build_and_drop, str.encode, n_bytes),
            ENCODING: lambda: [encode(text) for text in speeches(n_bytes)],
        },
        rounds,
    )
    record(
        "Shard building",
        f"{n_bytes / 1e6:.1f} MB of English in 233 documents, one thread; the goal is 5 MB a second",
        machine=machine("myllm-course", "numpy", "tiktoken"),
        comparisons=[compare(cpu, wall, GPT2, ENCODING, limit=True)],
        cpu_seconds={name: round(median(seconds), 3) for name, seconds in cpu.items()},
        mb_per_cpu_second={name: round(n_bytes / 1e6 / median(seconds), 2) for name, seconds in cpu.items()},
        memory_mb={
            f"{GPT2}, {times * n_bytes / 1e6:.0f} MB of text": peak_memory(
                "bench.data", "--memory", f"{times}"
            )
            for times in (1, 4)
        },
    )


def model() -> Callable[[Tensor, Tensor], Tensor]:
    """A plain Transformer of 10.8 million parameters, as a user would put it together; gives the loss."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(384, 6, 1536, 0.0, "gelu", batch_first=True, norm_first=True)
    parts = nn.ModuleList(
        [nn.Embedding(256, 384), nn.TransformerEncoder(block, 6, enable_nested_tensor=False)]
    )
    head, mask = nn.Linear(384, 256), nn.Transformer.generate_square_subsequent_mask(T)
    optimizer = torch.optim.AdamW([*parts.parameters(), *head.parameters()], 3e-4, fused=True)
    print(sum(p.numel() for group in optimizer.param_groups for p in group["params"]), "parameters")

    def step(x: Tensor, y: Tensor) -> Tensor:
        hidden = parts[1](parts[0](x), mask=mask, is_causal=True)
        loss = nn.functional.cross_entropy(head(hidden).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def cut(tokens: np.ndarray, starts: np.ndarray) -> None:
    """The same batches without order, resume or files: one fancy index each."""
    window = np.arange(T + 1)
    for some in starts.reshape(-1, B):
        ids = torch.from_numpy(tokens[some[:, None] + window].astype(np.int64))
        ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def loading(rounds: int) -> None:
    """A thousand batches from shards against one training step on such a batch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(build(str.encode, 2e7, Path(folder, "shards")))
        loader, step, tokens = WindowLoader(shards, block_size=T, batch_size=B), model(), shards[:]
        batch = next(loader)
        loader.load_state_dict(loader.state_dict() | {"position": 0})
        starts = np.random.default_rng(0).integers(0, len(tokens) - T, BATCHES * B)
        cpu, wall = paired(
            {
                LOADER: lambda: [next(loader) for _ in range(BATCHES)][-1],
                COPIES: lambda: cut(tokens, starts),
                STEP: lambda: step(*batch),
            },
            rounds,
        )
    record(
        "Loading",
        f"{B} × {T} tokens a batch from memory-mapped shards; 10.8 M parameters in fp32, one thread",
        machine=machine("myllm-course", "numpy", "torch"),
        comparisons=[
            compare(cpu, wall, LOADER, STEP, goal=GOAL / BATCHES),
            compare(cpu, wall, LOADER, COPIES, limit=True),
        ],
        cpu_seconds={name: round(median(seconds), 4) for name, seconds in cpu.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, help="only build shards of so many times the text")
    options = parser.parse_args()
    if options.memory:
        encode = load_tokenizer("gpt2").encode
        return report_memory(lambda: build_and_drop(encode, options.memory * 10.7e6))
    building(options.rounds)
    loading(options.rounds)


if __name__ == "__main__":
    main()
