"""The vocabularies that a page can load: published merges and pieces, in a form small enough to send.

They are not part of a widget's state. The book's build writes each into the site as a file of its own, and
in a notebook the kernel sends it on request.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[1] / "tokenizers" / "assets"
NAMES = ("gpt2", "mistral", "smollm2")


def vocabulary(name: str) -> dict[str, Any]:
    """The data with which the page encodes text as the tokenizer `name` does.

    Returns:
        For byte-level BPE: ``bytes``, the id of each byte or None, and what `merge_table` holds. For
        SentencePiece: ``pieces``, one per line, from id ``first`` on, the best first; ``tied``, the ids whose
        scores are equal and below all others; ``bytes``, the id of byte 0.

    Raises:
        KeyError: If there is no such vocabulary.
    """
    return {"gpt2": _gpt2, "mistral": _mistral, "smollm2": _smollm2}[name]()


def merge_table(pairs: Iterable[tuple[int, int]], first: int) -> dict[str, Any]:
    """Merges in order: ``first``, the id that the first makes, and ``pairs``, 16 bits per id, in base 64."""
    flat = [i for pair in pairs for i in pair]
    return {"first": first, "pairs": b64encode(struct.pack(f"<{len(flat)}H", *flat)).decode()}


def _gpt2() -> dict[str, Any]:
    ids = json.loads((ASSETS / "gpt2/encoder.json").read_text(encoding="utf-8"))
    lines = (ASSETS / "gpt2/vocab.bpe").read_text(encoding="utf-8").splitlines()
    return _byte_level(ids, [line.split(" ") for line in lines[1:]])


def _smollm2() -> dict[str, Any]:
    model = json.loads((ASSETS / "smollm2/tokenizer.json").read_text(encoding="utf-8"))["model"]
    return _byte_level(model["vocab"], [pair.split(" ") for pair in model["merges"]])


def _byte_level(ids: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    # GPT-2's files write a byte that does not print as the next character from U+0100 on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    symbols = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    pairs = [(ids[left], ids[right]) for left, right in merges]
    table = merge_table(pairs, ids["".join(merges[0])])
    return {"bytes": [ids.get(symbol) for symbol in symbols], **table}


def _mistral() -> dict[str, Any]:
    from sentencepiece import SentencePieceProcessor

    model: Any = SentencePieceProcessor(model_file=str(ASSETS / "mistral" / "tokenizer.model"))
    size: int = model.get_piece_size()
    zero: int = model.piece_to_id("<0x00>")
    scores: dict[int, float] = {i: model.get_score(i) for i in range(zero + 256, size)}
    lowest = min(scores.values())
    return {
        "bytes": zero,
        "first": zero + 256,
        "pieces": "\n".join(model.id_to_piece(list(scores))),
        "tied": [i for i, score in scores.items() if score == lowest],
    }
