"""Tokenizers in the metadata of GGUF files, llama.cpp's format, converted to and from ``tokenizer.json``.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists the metadata; ``gguf.toml`` says how each kind
of tokenizer processes text.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from myllm.files import UserError, read_text
from myllm.tokenizers import patterns
from myllm.tokenizers.base import Fields, Tokenizer
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.huggingface import (
    WHOLE,
    HuggingFaceTokenizer,
    bpe_files,
    byte_level,
    reading,
    without_prefix,
)
from myllm.tokenizers.settings import CONFIG, Settings
from myllm.tokenizers.spm import USUAL_SPECIAL

KEY = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # token types
NO_ID = (-1, (1 << 32) - 1)  # the second is -1 as an unsigned 32-bit integer
PROBE = "It's 1234567 O'ER\r\n\n  12   345\n 6\n\n7  caf\u00e9 cafe\u0301 (x_1) \u4f60\u3000!?\t\n I'LL \n"
TABLES = tomllib.loads(read_text(Path(__file__).with_name("gguf.toml")))


def from_gguf(values: Fields, name: str) -> Tokenizer | None:
    """The tokenizer in the metadata of a GGUF file, with its chat template.

    Args:
        values: The metadata of the file, as `myllm.weights.gguf.load` returns it.
        name: The name of the file, for display and error messages.

    Returns:
        The tokenizer, or None if the file has none.

    Raises:
        UserError: The kind of tokenizer or its split pattern is unknown, or the metadata is damaged.
    """
    found = {key.removeprefix(KEY): value for key, value in values.items() if key.startswith(KEY)}
    if "model" not in found:
        return None
    kind, pre = str(found["model"]), str(found.get("pre", "gpt-2"))
    if kind not in ("gpt2", "llama"):
        raise UserError(f"{name} has a tokenizer of the kind {kind!r}; known are gpt2, llama.")
    if kind == "gpt2" and pre not in TABLES["pre"]:
        known = ", ".join(TABLES["pre"])
        raise UserError(f"{name} splits text as {pre!r}, which is not known; known are {known}.")
    with reading(name):
        types = _types(found)
        names, ids = dict(enumerate(types)), {token: i for i, token in enumerate(types)}
        numbers = {role: int(found.get(key, -1)) for role, key in TABLES["roles"].items()}
        roles = {role: names[i] for role, i in numbers.items() if i not in NO_ID}
        if kind == "gpt2":
            split = TABLES["pre"][pre]
            split = {**split, "pattern": getattr(patterns, split["pattern"])}
            content = byte_level(ids, found.get("merges", []), **split)
        else:
            content = _sentencepiece(found, ids, types)
        has_bos = kind == "llama" or content["model"]["ignore_merges"]
        if found.get("add_bos_token", has_bos) and "bos_token" in roles:
            content["post_processor"] = _prepend(roles["bos_token"], ids)
        added = _added(types, {*roles.values()}, kind)
    template = values.get("tokenizer.chat_template")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    files = {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    settings = Settings(config, added, template if isinstance(template, str) else None, files)
    return HuggingFaceTokenizer(content, settings, name=name, source=name)


def to_gguf(tokenizer: Tokenizer, n: int) -> dict[str, Any]:
    """The metadata from which `from_gguf` makes a tokenizer that encodes like this one.

    Each named split pattern is tried on a text that all of them split differently.

    Args:
        tokenizer: A byte-level BPE: a `BPE` or a `HuggingFaceTokenizer`.
        n: How many tokens to list; a model may have more embeddings than its tokenizer has tokens.

    Raises:
        UserError: It is not a byte-level BPE, or its split or normalization is not in ``gguf.toml``.
    """
    content: Fields = getattr(tokenizer, "content", {"model": {}, "added_tokens": []})
    if isinstance(tokenizer, BPE):
        with suppress(UserError):
            content = bpe_files(tokenizer)[WHOLE]
    names = {i: name for name, i in dict(content["model"].get("vocab", ())).items()}
    merges = [x if isinstance(x, str) else " ".join(x) for x in content["model"].get("merges", ())]
    types = dict.fromkeys(range(n), UNUSED) | dict.fromkeys(names, NORMAL)
    for one in content["added_tokens"]:
        names[one["id"]], types[one["id"]] = one["content"], USER_DEFINED
    for name, i in tokenizer.special_tokens.items():
        names[i], types[i] = name, CONTROL
    roles = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    roles |= zip(("eot", "eom"), sorted(tokenizer.extra_end_ids), strict=False)
    values: dict[str, Any] = {f"{KEY}{role}_token_id": i for role, i in roles.items() if i is not None}
    values |= {f"{KEY}model": "gpt2", f"{KEY}merges": merges, f"{KEY}add_bos_token": tokenizer.add_bos}
    values[f"{KEY}tokens"] = [names.get(i, f"[PAD{i}]") for i in range(n)]
    values[f"{KEY}token_type"] = [types[i] for i in range(n)]
    if tokenizer.chat_template is not None:
        values["tokenizer.chat_template"] = tokenizer.chat_template
    distinct = {str(split): (pre, split) for pre, split in reversed(TABLES["pre"].items())}
    for pre, split in reversed(distinct.values()):
        values[f"{KEY}pre"] = pre
        if getattr(tokenizer, "pattern", None) in (None, getattr(patterns, split["pattern"])):
            with suppress(UserError):
                if _behaviour(from_gguf(values, pre)) == _behaviour(tokenizer):
                    return values
    raise UserError(f"{tokenizer.name} is no byte-level BPE with a known split, as GGUF files can describe.")


def _behaviour(tokenizer: Any) -> Any:
    """What two tokenizers have in common if they split, encode and end texts alike."""
    text = " x ".join([*tokenizer.special_tokens, PROBE])
    marked = tokenizer.encode(text, allowed_special="all")
    return marked, tokenizer.encode(text), tokenizer.end_ids, tokenizer.decode_bytes(marked)


def _types(values: Fields) -> dict[str, int]:
    """The type of each token, in the order of ids."""
    tokens: list[str] = list(values["tokens"])
    types = values.get("token_type", [NORMAL] * len(tokens))
    found = {token: int(kind) for token, kind in zip(tokens, types, strict=True)}
    if len(found) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise ValueError(f"the token {twice!r} is listed twice")
    return found


def _sentencepiece(values: Fields, ids: Mapping[str, int], types: Mapping[str, int]) -> dict[str, Any]:
    """BPE by scores: any two pieces whose concatenation is a piece can merge, the highest score first."""
    normal = {token: i for token, i in ids.items() if types[token] == NORMAL}
    merges: list[tuple[float, int, int, list[str]]] = []
    for token, i in normal.items():
        score = float(values["scores"][i])
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                merges.append((-score, normal[left], normal[right], [left, right]))
    model = {
        "type": "BPE",
        "vocab": ids,
        "merges": [pair for *_, pair in sorted(merges)],
        "fuse_unk": True,
        "byte_fallback": BYTE in types.values(),
        "unk_token": [*ids][int(values.get("unknown_token_id", 0))],
    }
    content = {**TABLES["sentencepiece"], "model": model}
    if values.get("add_space_prefix", True):
        return content
    return without_prefix(content, ("normalizer", "decoder"))


def _prepend(token: str, ids: Mapping[str, int]) -> Fields:
    """The post-processor that prepends a token to a text."""
    from tokenizers.processors import TemplateProcessing  # the library takes a while to import

    step = TemplateProcessing([token, "$A"], special_tokens=[(token, ids[token])])
    return json.loads(step.__getstate__())


def _added(types: Mapping[str, int], roles: Set[str], kind: str) -> list[Fields]:
    """The added tokens; SentencePiece's user-defined pieces are special if they have a usual name."""
    added: list[Fields] = []
    for token, one in types.items():
        is_marked = kind == "llama" and one == USER_DEFINED and USUAL_SPECIAL.fullmatch(token)
        is_special = token in roles or one in (UNKNOWN, CONTROL) or bool(is_marked)
        if is_special or one == USER_DEFINED:
            added.append({"content": token, "special": is_special, "normalized": False})
    return added
