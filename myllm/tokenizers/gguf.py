"""Tokenizers from the values of a GGUF file, the format of llama.cpp, as fields of a ``tokenizer.json``.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists the values; ``gguf.toml`` says how each kind
of tokenizer handles a text.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from myllm.files import UserError, read_text
from myllm.tokenizers import patterns
from myllm.tokenizers.base import Fields, Tokenizer
from myllm.tokenizers.huggingface import HuggingFaceTokenizer, reading, without_prefix
from myllm.tokenizers.settings import CONFIG, Settings
from myllm.tokenizers.spm import USUAL_SPECIAL

KEY = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the types of tokens
NO_ID = (-1, (1 << 32) - 1)  # the second is the first in 32 bits without a sign
TABLES = tomllib.loads(read_text(Path(__file__).with_name("gguf.toml")))


def from_gguf(values: Fields, name: str) -> Tokenizer | None:
    """The tokenizer of a model, with the source of its chat template.

    Args:
        values: The file's values, as `myllm.weights.gguf.load` returns them.
        name: The name of the file, for display and messages.

    Returns:
        None where the file has no tokenizer.

    Raises:
        UserError: The kind of tokenizer is not known, or its values are damaged.
    """
    found = {key.removeprefix(KEY): value for key, value in values.items() if key.startswith(KEY)}
    if "model" not in found:
        return None
    kind = str(found["model"])
    if kind not in TABLES["kinds"]:
        known = ", ".join(TABLES["kinds"])
        raise UserError(f"{name} has a tokenizer of the kind {kind!r}; known are {known}.")
    cut = TABLES["pre"].get(str(found.get("pre", "gpt-2")))
    if kind == "gpt2" and cut is None:
        known = ", ".join(TABLES["pre"])
        raise UserError(f"{name} cuts text as {found['pre']!r}, which is not known; known are {known}.")
    with reading(name):
        types = _types(found)
        ids = {token: i for i, token in enumerate(types)}
        fields = _byte_level(found, ids, cut) if kind == "gpt2" else _sentencepiece(found, ids, types)
        roles = _roles(found, ids)
        is_usual = kind == "llama" or "whole_words" in cut
        if found.get("add_bos_token", is_usual) and "bos_token" in roles:
            fields["post_processor"] = _begin_token(roles["bos_token"], ids)
        added = _added(types, {*roles.values()}, kind)
    template = values.get("tokenizer.chat_template")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    files = {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    settings = Settings(config, added, template if isinstance(template, str) else None, files)
    return HuggingFaceTokenizer(fields, settings, name=name, source=name)


def _types(values: Fields) -> dict[str, int]:
    """The type of each token, in the order of ids."""
    tokens: list[str] = list(values["tokens"])
    types = values.get("token_type", [NORMAL] * len(tokens))
    found = {token: int(kind) for token, kind in zip(tokens, types, strict=True)}
    if len(found) < len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"the token {twice!r} is listed twice")
    return found


def _byte_level(values: Fields, ids: Mapping[str, int], cut: Fields) -> dict[str, Any]:
    kind = TABLES["kinds"]["gpt2"]
    pattern = {"Regex": getattr(patterns, cut["pattern"])}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    splitter = {"type": "Sequence", "pretokenizers": [split, kind["decoder"]]}
    model = {"type": "BPE", "vocab": ids, "merges": [*values["merges"]]}
    model["ignore_merges"] = cut.get("whole_words", False)
    return {**kind, "normalizer": cut.get("normalizer"), "pre_tokenizer": splitter, "model": model}


def _sentencepiece(values: Fields, ids: Mapping[str, int], types: Mapping[str, int]) -> dict[str, Any]:
    """BPE by scores: any two pieces whose joined text is a piece may merge; the best piece merges first."""
    scores = [float(score) for score in values["scores"]]
    normal = {token: i for token, i in ids.items() if types[token] == NORMAL}
    halves: list[tuple[float, int, int, str, str]] = []
    for token, i in normal.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                halves.append((-scores[i], normal[left], normal[right], left, right))
    model: dict[str, Any] = {"type": "BPE", "vocab": ids, "fuse_unk": True}
    model["merges"] = [[left, right] for *_, left, right in sorted(halves)]
    model["byte_fallback"] = BYTE in types.values()
    model["unk_token"] = [*ids][int(values.get("unknown_token_id", 0))]
    fields = {**TABLES["kinds"]["llama"], "model": model}
    if values.get("add_space_prefix", True):
        return fields
    return without_prefix(fields, ("normalizer", "decoder"))


def _roles(values: Fields, ids: Mapping[str, int]) -> dict[str, str]:
    """The tokens with a role, by their keys in ``tokenizer_config.json``."""
    tokens = {i: token for token, i in ids.items()}
    numbers = {key: int(values.get(name, -1)) for key, name in TABLES["roles"].items()}
    return {key: tokens[i] for key, i in numbers.items() if i not in NO_ID}


def _begin_token(token: str, ids: Mapping[str, int]) -> Fields:
    """The post-processor that puts a begin token in front of a text."""
    from tokenizers.processors import TemplateProcessing  # the library takes a while to import

    step = TemplateProcessing([token, "$A"], special_tokens=[(token, ids[token])])
    return json.loads(step.__getstate__())


def _added(types: Mapping[str, int], roles: set[str], kind: str) -> list[Fields]:
    """The added tokens; SentencePiece lists special ones as user-defined pieces."""
    added: list[Fields] = []
    for token, one in types.items():
        is_marked = kind == "llama" and one == USER_DEFINED and USUAL_SPECIAL.fullmatch(token)
        is_special = token in roles or one in (UNKNOWN, CONTROL) or bool(is_marked)
        if is_special or one == USER_DEFINED:
            added.append({"content": token, "special": is_special, "normalized": False})
    return added
