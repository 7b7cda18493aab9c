"""Tokenizers out of the values of a GGUF file, the format of llama.cpp."""

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.patterns import GPT2, LLAMA3, SMOLLM2
from myllm.tokenizers.published import PublishedBPE
from myllm.tokenizers.spm import SentencePiece

NORMAL = 1  # the type of an ordinary token
PATTERNS = {"gpt-2": GPT2, "smollm": SMOLLM2, "llama-bpe": LLAMA3}
KEY = "tokenizer.ggml."
ROLES = ("bos", "eos", "padding")
BPE_MODEL = 2  # SentencePiece's number for byte-pair encoding


def from_gguf(values: Mapping[str, Any], name: str) -> Tokenizer | None:
    """The tokenizer of a model, with its chat format where that is known.

    Args:
        values: The file's values, as `myllm.weights.gguf.load` returns them.
        name: A name for people.

    Returns:
        None where the file has no tokenizer.

    Raises:
        UserError: Its kind is not known, or it is damaged.
    """
    kind = values.get(KEY + "model")
    if kind is None:
        return None
    if kind not in ("gpt2", "llama"):
        raise UserError(f"{name} has a tokenizer of the kind {kind!r}; known are gpt2 and llama.")
    try:
        tokenizer = (_bpe if kind == "gpt2" else _sentencepiece)(values, name)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise UserError(f"{name} has a damaged tokenizer; fetch it again.") from error
    tokenizer.chat_template = values.get("tokenizer.chat_template")
    tokenizer.add_bos = bool(values.get(KEY + "add_bos_token", tokenizer.add_bos))
    return tokenizer


def _bpe(values: Mapping[str, Any], name: str) -> PublishedBPE:
    pre = values.get(KEY + "pre")
    if pre not in PATTERNS:
        raise UserError(f"{name} cuts text as {pre!r}, which is not known; known are {', '.join(PATTERNS)}.")
    tokens: list[str] = values[KEY + "tokens"]
    kinds = values[KEY + "token_type"]
    special = {token: i for i, token in enumerate(tokens) if kinds[i] != NORMAL}
    named: list[int | None] = [values.get(f"{KEY}{role}_token_id") for role in ROLES]
    bos, eos, pad = (None if i is None else tokens[i] for i in named)
    return PublishedBPE(
        {token: i for i, token in enumerate(tokens) if token not in special},
        (merge.split(" ") for merge in values[KEY + "merges"]),
        pattern=PATTERNS[pre],
        name=name,
        special_tokens=special,
        bos=bos,
        eos=eos,
        pad=pad,
        add_bos=pre == "llama-bpe",
        whole_words=pre == "llama-bpe",
    )


def _sentencepiece(values: Mapping[str, Any], name: str) -> SentencePiece:
    """The file of the library `sentencepiece`, written anew from its parts.

    It is a message of Protocol Buffers (``sentencepiece_model.proto``): field 1 a piece, 2 the training, of
    which only the kind, byte fallback and the special ids count, 3 how text is changed first.
    """
    pieces = zip(values[KEY + "tokens"], values[KEY + "scores"], values[KEY + "token_type"], strict=True)
    model = b"".join(
        _field(1, _field(1, token.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, int(kind)))
        for token, score, kind in pieces
    )
    ids = {40: "unknown", 41: "bos", 42: "eos", 43: "padding"}
    training = _number(3, BPE_MODEL) + _number(35, 1)
    for field, word in ids.items():
        training += _number(field, int(values.get(f"{KEY}{word}_token_id", 0 if word == "unknown" else -1)))
    prefix = bool(values.get(KEY + "add_space_prefix", True))
    changes = _field(1, b"identity") + _number(3, prefix) + _number(4, 0) + _number(5, 1)
    model += _field(2, training) + _field(3, changes)
    return SentencePiece(BytesIO(model), name=name)


def _varint(n: int) -> bytes:
    n &= (1 << 64) - 1  # a negative number takes all 64 bits
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _number(field: int, n: int) -> bytes:
    return _varint(field << 3) + _varint(n)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data
