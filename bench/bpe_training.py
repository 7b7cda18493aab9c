"""Training BPE: ours against `tokenizers` in two ways of feeding it and rustbpe, and the regex alone.

Run ``python -m bench.bpe_training``; needs the extra ``bench``.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

from bench.common import compare, machine, paired, peak_memory, record, report_memory
from myllm.data import corpus
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.patterns import GPT2, compile_pattern, pieces

SIZES = {"5 MB": (5_000_000, 4_096), "20 MB": (20_000_000, 32_768)}
FEEDS = (20_000, 100_000, 500_000, 2_000_000)  # characters; the best one is the rival
OURS, ONE, LIMIT, RUST = "myllm", "tokenizers, one text", "splitting with regex alone", "rustbpe"


def load(size: str) -> tuple[str, int]:
    """The text and the vocabulary size of one setting."""
    n, vocab_size = SIZES[size]
    text = "\n".join(corpus.text(name) for name in ("shakespeare", "sotu", "kjv"))
    return text[:n], vocab_size


def hugging_face(texts: Iterable[str], vocab_size: int) -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rustbpe(text: str, vocab_size: int) -> object:
    import rustbpe as library

    tokenizer = library.Tokenizer()
    tokenizer.train_from_iterator(iter([text]), vocab_size, pattern=GPT2)
    return tokenizer


def sides(text: str, vocab_size: int) -> dict[str, Callable[[], object]]:
    split = compile_pattern(GPT2).findall
    return {
        OURS: lambda: BPE.train(text, vocab_size, progress=False),
        ONE: lambda: hugging_face([text], vocab_size),
        RUST: lambda: rustbpe(text, vocab_size),
        LIMIT: lambda: [len(split(piece)) for piece in pieces([text])],
        **{
            f"tokenizers, parts of {feed:,} characters": lambda feed=feed: hugging_face(
                pieces([text], feed), vocab_size
            )
            for feed in FEEDS
        },
    }


def check(text: str, vocab_size: int) -> None:
    """All learn the same: rustbpe token for token, `tokenizers` up to ties, so by the length of a text."""
    ours = BPE.train(text, vocab_size, progress=False)
    ranks = sorted(rustbpe(text, vocab_size).get_mergeable_ranks(), key=lambda entry: entry[1])
    assert [bytes(token) for token, _ in ranks] == ours.tokens
    sample = text[-500_000:]
    theirs, mine = len(hugging_face([text], vocab_size).encode(sample).ids), len(ours.encode(sample))
    assert abs(theirs / mine - 1) < 1e-3, (theirs, mine)


def measure(size: str, rounds: int) -> None:
    """One setting: check, find the best feed of `tokenizers`, time all, measure memory, record."""
    text, vocab_size = load(size)
    check(text, vocab_size)
    run = sides(text, vocab_size)
    feeds = {name: run.pop(name) for name in list(run) if name.startswith("tokenizers, parts")}
    tried, _ = paired(feeds, rounds=1)
    best = min(tried, key=lambda name: tried[name])
    cpu, wall = paired(run | {best: feeds[best]}, rounds)
    with NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        memory = {
            name: peak_memory("bench.bpe_training", "--memory", name, file.name, str(vocab_size))
            for name in (OURS, ONE, best, RUST)
        }
    record(
        "BPE training",
        f"{len(text.encode()) / 1e6:.1f} MB of English, vocabulary {vocab_size:,}, GPT-2 pattern, one thread",
        machine=machine("myllm-course", "regex", "tokenizers", "rustbpe"),
        cpu_seconds={name: round(median(seconds), 3) for name, seconds in cpu.items()},
        comparisons=[
            compare(cpu, wall, OURS, ONE, goal=1.0),
            compare(cpu, wall, OURS, best, goal=0.7),
            compare(cpu, wall, OURS, RUST),
            compare(cpu, wall, OURS, LIMIT, limit=True),
        ],
        memory_mb=memory,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=3, metavar=("SIDE", "FILE", "VOCAB"), help="only one side's memory")
    options = parser.parse_args()
    if options.memory:
        side, file, vocab_size = options.memory
        return report_memory(sides(Path(file).read_text(), int(vocab_size))[side])
    for size in options.sizes:
        measure(size, options.rounds)
    return None


if __name__ == "__main__":
    main()
