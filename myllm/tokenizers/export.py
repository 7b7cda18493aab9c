"""Tokenizers written as the files that `load_tokenizer` and the library `transformers` read."""

import json
from pathlib import Path
from typing import Any

from myllm.files import StrPath, UserError, atomic_write
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.jinja import to_jinja
from myllm.tokenizers.patterns import GPT2, SMOLLM2
from myllm.tokenizers.published import DIGITS, PublishedBPE
from myllm.tokenizers.ranks import byte_symbols
from myllm.tokenizers.spm import SentencePiece

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def save_tokenizer(tokenizer: Tokenizer, folder: StrPath) -> None:
    """Write a tokenizer into a folder, with its special tokens and chat format.

    Args:
        tokenizer: A `PublishedBPE` becomes a ``tokenizer.json`` that `transformers` reads, too, a
            `SentencePiece` its ``tokenizer.model``, a `BPE` what `BPE.save` writes.
        folder: An existing folder.

    Raises:
        UserError: Another kind of tokenizer, or the folder cannot be written.
    """
    folder = Path(folder)
    if isinstance(tokenizer, PublishedBPE):
        atomic_write(folder / "tokenizer.json", json.dumps(tokenizer_json(tokenizer), ensure_ascii=False))
    elif isinstance(tokenizer, SentencePiece):
        atomic_write(folder / "tokenizer.model", tokenizer.model)
    elif isinstance(tokenizer, BPE):
        tokenizer.save(folder / "tokenizer.json")
        return  # all is in the one file, and `transformers` cannot read it
    else:
        raise UserError(f"{tokenizer.name} cannot be written; copy its own files into {folder}.")
    names = {i: token for token, i in tokenizer.special_tokens.items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": tokenizer.add_bos,
    }
    for role in ("bos", "eos", "pad"):
        if (i := getattr(tokenizer, f"{role}_id")) is not None:
            config[f"{role}_token"] = names[i]
    if (form := tokenizer.chat_template) is not None:
        config["chat_template"] = form if isinstance(form, str) else to_jinja(form)
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False))


def tokenizer_json(tokenizer: PublishedBPE) -> dict[str, Any]:
    """The ``tokenizer.json`` of a byte-level BPE; `read_tokenizer_json` reads it back."""
    symbols, special = byte_symbols(), {*tokenizer.special_tokens.values()}
    pairs: dict[int, tuple[int, int]] = {}
    for pair, i in tokenizer.merges.items():
        pairs.setdefault(i, pair)  # the others are twins of the first
    spelled = [*symbols]
    for left, right in pairs.values():
        spelled.append(spelled[left] + spelled[right])
    ids = ((i, token) for i, token in enumerate(tokenizer.tokens) if token and i not in special)
    front = tokenizer.bos_id if tokenizer.add_bos else None
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for token, i in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": tokenizer.normalize} if tokenizer.normalize else None,
        "pre_tokenizer": _splitter(tokenizer.pattern),
        "post_processor": BYTES if front is None else _in_front(front, tokenizer),
        "decoder": BYTES,
        "model": {
            "type": "BPE",
            "ignore_merges": tokenizer.whole_words,
            "vocab": {"".join(symbols[byte] for byte in token): i for i, token in ids}
            | dict(tokenizer.special_tokens),
            "merges": [[spelled[left], spelled[right]] for left, right in pairs.values()],
        },
    }


def _splitter(pattern: str) -> dict[str, Any]:
    if pattern == GPT2:
        return BYTES
    if pattern == SMOLLM2:
        return {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**BYTES, "use_regex": False}]}


def _in_front(bos: int, tokenizer: PublishedBPE) -> dict[str, Any]:
    name = next(token for token, i in tokenizer.special_tokens.items() if i == bos)
    first, then = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, then],
        "pair": [first, then, first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [bos], "tokens": [name]}},
    }
