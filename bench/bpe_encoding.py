"""Encoding: our encoder and `to_tiktoken()` against the encode loop of `tokenizers`, and the regex alone.

Run ``python -m bench.bpe_encoding``; needs the extra ``bench``.
"""

import argparse
from statistics import median

from bench.common import compare, machine, paired, record
from myllm.data import corpus
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.patterns import GPT2, compile_pattern, pieces

VOCAB_SIZE = 8_192
N = 5_000_000  # characters encoded
DOCUMENT = 3_000  # characters of one; much shorter and much longer ones are slower for `tokenizers`
LOOP, FAST, TIKTOKEN = "tokenizers, encode loop", "tokenizers, encode_batch_fast", "myllm, to_tiktoken()"
WARM, COLD, LIMIT = "myllm, warm cache", "myllm, cold cache", "splitting with regex alone"


def hugging_face(bpe: BPE) -> object:
    """The same vocabulary and merges for `tokenizers`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    # GPT-2's printable stand-in for each byte, as its encoder.py lists them.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    spell = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    names = ["".join(spell[byte] for byte in token) for token in bpe.tokens]
    merges = [(names[left], names[right]) for left, right in bpe.merges]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    bpe = BPE.train(corpus.text("shakespeare"), VOCAB_SIZE, progress=False)
    documents = list(pieces([corpus.text("sotu")[:N]], DOCUMENT))
    n_bytes = sum(len(text.encode()) for text in documents)
    tiktoken, theirs = bpe.to_tiktoken(), hugging_face(bpe)
    split = compile_pattern(GPT2).findall

    def cold() -> list[list[int]]:
        bpe._cache.clear()
        return [bpe.encode(text) for text in documents]

    sides = {
        LOOP: lambda: [theirs.encode(text).ids for text in documents],
        FAST: lambda: [encoding.ids for encoding in theirs.encode_batch_fast(documents)],
        TIKTOKEN: lambda: [tiktoken.encode_ordinary(text) for text in documents],
        COLD: cold,
        WARM: lambda: [bpe.encode(text) for text in documents],
        LIMIT: lambda: [len(split(text)) for text in documents],
    }
    expected = cold()
    assert all(sides[name]() == expected for name in sides if name != LIMIT)
    cpu, wall = paired(sides, options.rounds)
    record(
        "BPE encoding",
        f"{n_bytes / 1e6:.1f} MB of English in {len(documents):,} documents, vocabulary {VOCAB_SIZE:,} "
        "learned on another text, GPT-2 pattern, one thread",
        machine=machine("myllm-course", "regex", "tokenizers", "tiktoken"),
        cpu_seconds={name: round(median(seconds), 3) for name, seconds in cpu.items()},
        mb_per_cpu_second={name: round(n_bytes / 1e6 / median(seconds), 2) for name, seconds in cpu.items()},
        comparisons=[
            compare(cpu, wall, TIKTOKEN, LOOP, goal=3.0),
            compare(cpu, wall, TIKTOKEN, FAST),
            compare(cpu, wall, WARM, LOOP, goal=1.0),
            compare(cpu, wall, WARM, FAST),
            compare(cpu, wall, COLD, LOOP),
            compare(cpu, wall, WARM, LIMIT, limit=True),
        ],
    )


if __name__ == "__main__":
    main()
