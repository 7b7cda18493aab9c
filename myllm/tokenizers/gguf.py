"""Tokenizers from the values of a GGUF file, the format of llama.cpp, as fields of a ``tokenizer.json``.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists the values; ``gguf.toml`` says how each kind of
tokenizer handles a text.
"""

import base64
import json
import tomllib
from collections.abc import Callable, Mapping
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
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "eot": "eot", "eom": "eom"}
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
    kind, kinds = str(found["model"]), TABLES["kinds"]
    if kind not in kinds:
        raise UserError(f"{name} has a tokenizer of the kind {kind!r}; known are {', '.join(kinds)}.")
    pre = TABLES["pre"].get(found.get("pre", "gpt-2")) if kind == "gpt2" else {}
    if pre is None:
        known = ", ".join(TABLES["pre"])
        raise UserError(f"{name} cuts text as {found['pre']!r}, which is not known; known are {known}.")
    with reading(name):
        types = _types(found)
        ids = {token: i for i, token in enumerate(types)}
        content = {**kinds[kind], **_components(found, pre)}
        content["model"] = {**content["model"], **MODELS[kind](found, ids, types)}
        if kind in ("llama", "t5") and not found.get("add_space_prefix", True):
            content = without_prefix(content, ("normalizer", "pre_tokenizer", "decoder"))
        roles = _roles(found, [*types])
        if found.get("add_bos_token", kind == "llama" or "whole_words" in pre) and "bos_token" in roles:
            content["post_processor"] = _begin(roles["bos_token"], ids)
        special = {*roles.values(), *(t for t, one in types.items() if one in (UNKNOWN, CONTROL))}
        if kind == "llama":  # whose library lists special tokens as user-defined pieces
            special |= {t for t, one in types.items() if one == USER_DEFINED and USUAL_SPECIAL.fullmatch(t)}
        added = [
            {"content": token, "special": token in special, "normalized": False}
            for token, one in types.items()
            if token in special or one == USER_DEFINED
        ]
    template = values.get("tokenizer.chat_template")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    settings = Settings(config, added, template if isinstance(template, str) else None)
    tokenizer = HuggingFaceTokenizer(content, settings, name=name, source=name)
    tokenizer.files = {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    return tokenizer


def _types(values: Fields) -> dict[str, int]:
    """The type of each token, in the order of ids."""
    tokens: list[str] = list(values["tokens"])
    if values["model"] == "bert":  # whose words and continuations are written as ▁word and ing
        tokens = [_word_piece(token) for token in tokens]
    types = values.get("token_type", [NORMAL] * len(tokens))
    found = {token: int(kind) for token, kind in zip(tokens, types, strict=True)}
    if len(found) < len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"the token {twice!r} is listed twice")
    return found


def _word_piece(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[1:] if token.startswith("▁") else "##" + token


def _components(values: Fields, pre: Fields) -> dict[str, Any]:
    """The normalizer and the pre-tokenizer that depend on the file."""
    found: dict[str, Any] = {}
    if "normalizer" in pre:
        found["normalizer"] = pre["normalizer"]
    if pre:
        split = {"Regex": getattr(patterns, pre["pattern"])}
        steps = [
            {"type": "Split", "pattern": split, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]
        found["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    if "precompiled_charsmap" in values:
        charsmap = base64.b64encode(bytes(values["precompiled_charsmap"])).decode()
        found["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    return found


def _byte_level(values: Fields, ids: Mapping[str, int], types: Mapping[str, int]) -> Fields:
    whole_words = "whole_words" in TABLES["pre"][values.get("pre", "gpt-2")]
    return {"vocab": ids, "merges": [*values["merges"]], "ignore_merges": whole_words}


def _sentencepiece(values: Fields, ids: Mapping[str, int], types: Mapping[str, int]) -> Fields:
    """BPE by scores: any two pieces whose joined text is a piece may merge; the best piece merges first."""
    scores = [float(score) for score in values["scores"]]
    normal = {token: i for token, i in ids.items() if types[token] == NORMAL}
    halves: list[tuple[float, int, int, str, str]] = []
    for token, i in normal.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                halves.append((-scores[i], normal[left], normal[right], left, right))
    merges = [[left, right] for *_, left, right in sorted(halves)]
    fallback = BYTE in types.values()
    return {"vocab": ids, "merges": merges, "byte_fallback": fallback, "unk_token": _unknown(values, ids)}


def _unigram(values: Fields, ids: Mapping[str, int], types: Mapping[str, int]) -> Fields:
    pieces = [[token, float(score)] for token, score in zip(ids, values["scores"], strict=True)]
    unknown = ids[_unknown(values, ids)]
    return {"vocab": pieces, "unk_id": unknown, "byte_fallback": BYTE in types.values()}


def _words(values: Fields, ids: Mapping[str, int], types: Mapping[str, int]) -> Fields:
    return {"vocab": ids, "unk_token": _unknown(values, ids)}


def _unknown(values: Fields, ids: Mapping[str, int]) -> str:
    usual = TABLES["unknown"][values["model"]]
    return [*ids][int(values.get("unknown_token_id", usual))]


MODELS: dict[str, Callable[[Fields, Mapping[str, int], Mapping[str, int]], Fields]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "bert": _words,
    "t5": _unigram,
}


def _roles(values: Fields, tokens: list[str]) -> dict[str, str]:
    """The tokens with a role, by their keys in the settings; an id of -1 means none."""
    roles: dict[str, str] = {}
    for role, key in ROLES.items():
        i = int(values.get(f"{key}_token_id", -1))
        if i not in (-1, (1 << 32) - 1):  # the second: -1 in 32 bits without a sign
            roles[f"{role}_token"] = dict(enumerate(tokens))[i]
    return roles


def _begin(token: str, ids: Mapping[str, int]) -> Fields:
    """The post-processor that puts a begin token in front of a text."""
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]}}
    first, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    single, pair = [first, text], [first, text, second]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
