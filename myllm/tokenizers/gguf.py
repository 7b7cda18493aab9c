"""Tokenizers from the values of a GGUF file, the format of llama.cpp, as fields of a ``tokenizer.json``.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists the values. What each kind of tokenizer does
with a text is written down in llama.cpp alone (``src/llama-vocab.cpp``).
"""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.huggingface import HuggingFaceTokenizer
from myllm.tokenizers.patterns import GPT2, LLAMA3, QWEN2
from myllm.tokenizers.settings import CONFIG, TEMPLATE, Fields, Settings
from myllm.tokenizers.spm import MARK

KEY = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the types of tokens
SPLITS = {  # how the values of "pre" cut text, as far as it is one regular expression
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), GPT2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    **dict.fromkeys(("qwen2", "stablelm2"), QWEN2),
}
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")  # every digit alone, then as GPT-2
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a chunk that is a token needs no merges
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "eot": "eot", "eom": "eom"}


def from_gguf(values: Fields, name: str) -> Tokenizer | None:
    """The tokenizer of a model, with the source of its chat template.

    Args:
        values: The file's values, as `myllm.weights.gguf.load` returns them.
        name: The name of the file, for messages and people.

    Returns:
        None where the file has no tokenizer.

    Raises:
        UserError: Its kind is not known, or it is damaged.
    """
    found = {key.removeprefix(KEY): value for key, value in values.items() if key.startswith(KEY)}
    if "model" not in found:
        return None
    kinds = {"gpt2": _byte_level, "llama": _sentencepiece, "bert": _word_piece, "t5": _unigram}
    if (kind := str(found["model"])) not in kinds:
        raise UserError(f"{name} has a tokenizer of the kind {kind!r}; known are {', '.join(kinds)}.")
    try:
        tokens: list[str] = list(found["tokens"])
        types = [int(kind) for kind in found.get("token_type", [NORMAL] * len(tokens))]
        if len(types) != len(tokens):
            raise ValueError
        content = kinds[kind](found, tokens, types, name)
        return _tokenizer(content, found, tokens, types, values.get("tokenizer.chat_template"), name)
    except UserError:
        raise
    except Exception as error:  # the library raises plain ones
        raise UserError(f"{name} has a damaged tokenizer; fetch it again.") from error


def _tokenizer(
    content: dict[str, Any],
    values: Fields,
    tokens: Sequence[str],
    types: Sequence[int],
    jinja: str | None,
    name: str,
) -> Tokenizer:
    """The tokenizer with its added tokens, roles and the settings that describe them."""
    roles = _roles(values, len(tokens))
    named = {role: tokens[i] for role, i in roles.items()}
    kinds = dict(zip(tokens, types, strict=True))
    special = {token for token, kind in kinds.items() if kind in (UNKNOWN, CONTROL)} | {*named.values()}
    if values["model"] == "llama":  # SentencePiece itself lists special tokens as user-defined
        special |= {token for token, kind in kinds.items() if kind == USER_DEFINED and MARK.fullmatch(token)}
    found = ((i, t) for i, t in enumerate(tokens) if t in special or kinds[t] == USER_DEFINED)
    added = {i: {"content": token, "special": token in special} for i, token in found}
    front = values["model"] == "llama" or values.get("pre") in WHOLE_WORDS
    if values.get("add_bos_token", front) and "bos" in roles:
        first = named["bos"]
        step = processors.TemplateProcessing([first, "$A"], special_tokens=[(first, roles["bos"])])
        content["post_processor"] = json.loads(step.__getstate__())
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {f"{role}_token": token for role, token in named.items()}
    files = {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    jinja = jinja if isinstance(jinja, str) else None
    if jinja is not None:
        files[TEMPLATE] = jinja.encode()
    return HuggingFaceTokenizer(content, Settings(config, added, jinja, files), name=name, source=name)


def _roles(values: Fields, size: int) -> dict[str, int]:
    """The ids of the tokens with a role; -1, also as 32 bits without a sign, is none."""
    keys = {role: values.get(f"{key}_token_id") for role, key in ROLES.items()}
    ids = {role: int(i) for role, i in keys.items() if i is not None and int(i) not in (-1, (1 << 32) - 1)}
    if any(not 0 <= i < size for i in ids.values()):
        raise ValueError
    return ids


def _byte_level(values: Fields, tokens: list[str], types: list[int], name: str) -> dict[str, Any]:
    pre = values.get("pre", "gpt-2")
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in SINGLE_DIGITS:
        cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
    elif pre in SPLITS:
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated")
        cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        cut = pre_tokenizers.Sequence([split, cut])
    else:
        known = ", ".join((*SPLITS, *SINGLE_DIGITS))
        raise UserError(f"{name} cuts text as {pre!r}, which is not known; known are {known}.")
    merges = [pair.split(" ") for pair in values["merges"]]
    model: dict[str, Any] = {"type": "BPE", "vocab": _numbered(tokens, name), "merges": merges}
    model["ignore_merges"] = pre in WHOLE_WORDS
    normalizer = normalizers.NFC() if pre == "qwen2" else None
    return _content(model, normalizer=normalizer, pre_tokenizer=cut, decoder=decoders.ByteLevel())


def _sentencepiece(values: Fields, tokens: list[str], types: list[int], name: str) -> dict[str, Any]:
    """BPE by scores: any two pieces whose joined text is a piece may merge; the best piece merges first."""
    ids = _numbered(tokens, name)
    scores = [float(score) for score in values["scores"]]
    normal = {token: i for token, i in ids.items() if types[i] == NORMAL}
    halves: list[tuple[float, int, int, str, str]] = []
    for token, i in normal.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                halves.append((-scores[i], normal[left], normal[right], left, right))
    merges = [[left, right] for *_, left, right in sorted(halves)]
    model = {"type": "BPE", "vocab": ids, "merges": merges, "fuse_unk": True, "byte_fallback": BYTE in types}
    model["unk_token"] = tokens[int(values.get("unknown_token_id", 0))]
    prefix = bool(values.get("add_space_prefix", True))
    steps = [normalizers.Prepend("▁")] * prefix + [normalizers.Replace(" ", "▁")]
    return _content(model, normalizer=normalizers.Sequence(steps), decoder=_spaces_again(prefix))


def _unigram(values: Fields, tokens: list[str], types: list[int], name: str) -> dict[str, Any]:
    _numbered(tokens, name)
    scores = [float(score) for score in values["scores"]]
    pieces = [[token, score] for token, score in zip(tokens, scores, strict=True)]
    model: dict[str, Any] = {"type": "Unigram", "vocab": pieces, "byte_fallback": BYTE in types}
    model["unk_id"] = int(values.get("unknown_token_id", 2))
    prefix = bool(values.get("add_space_prefix", True))
    charsmap = values.get("precompiled_charsmap")
    normalizer = None if charsmap is None else normalizers.Precompiled(bytes(charsmap))
    cut = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    return _content(model, normalizer=normalizer, pre_tokenizer=cut, decoder=_spaces_again(prefix))


def _word_piece(values: Fields, tokens: list[str], types: list[int], name: str) -> dict[str, Any]:
    """WordPiece; llama.cpp writes ``▁word`` and ``ing`` for the original's ``word`` and ``##ing``."""
    for i, token in enumerate(tokens):
        if not (token.startswith("[") and token.endswith("]")):
            tokens[i] = token[1:] if token.startswith("▁") else "##" + token
    model = {"type": "WordPiece", "vocab": _numbered(tokens, name), "continuing_subword_prefix": "##"}
    model |= {"unk_token": tokens[int(values.get("unknown_token_id", 100))], "max_input_chars_per_word": 100}
    cut = pre_tokenizers.BertPreTokenizer()
    bert = normalizers.BertNormalizer()
    return _content(model, normalizer=bert, pre_tokenizer=cut, decoder=decoders.WordPiece())


def _numbered(tokens: Sequence[str], name: str) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise UserError(f"{name} lists the token {twice!r} twice; fetch it again.")
    return ids


def _spaces_again(prefix: bool) -> Any:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)


def _content(model: Fields, **components: Any) -> dict[str, Any]:
    """The fields of a ``tokenizer.json``, of a model's own and of components of the library."""
    fields = {key: json.loads(one.__getstate__()) for key, one in components.items() if one is not None}
    return {"model": model, **fields}
