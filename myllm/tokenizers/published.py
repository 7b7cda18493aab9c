"""Byte-level BPE with published merges and ids: SmolLM2, and any such `tokenizer.json`."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from myllm.files import StrPath, UserError, read_json, read_text
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.chat import Template
from myllm.tokenizers.merges import encode_chunk
from myllm.tokenizers.patterns import GPT2, SMOLLM2
from myllm.tokenizers.ranks import byte_symbols


class PublishedBPE(BPE):
    """A byte-level BPE whose ids others have numbered: special tokens in front, bytes in another order.

    Inside, ids are those of `BPE`: bytes, then merges. A table gives each its published id. A byte that the
    vocabulary lacks is left out of the text, as the published tokenizers do.

    Args:
        vocabulary: The id of each token but the special ones, written in `byte_symbols`.
        merges: The two halves of each merge, written so too, earliest first.
        pattern: How text is cut into chunks.
        name: A name for people.
        special_tokens: The id of each special token.
        bos, eos, pad: The special tokens that play these parts; by their usual names, where None.
        chat_template, add_bos: See `Tokenizer`.
        normalize: The Unicode form that text is brought into first.
        whole_words: Take a chunk that is a token as it is, whatever the merges make of it.

    Raises:
        UserError: A merge makes no token, or a part is played by no special token.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Iterable[Sequence[str]],
        *,
        pattern: str,
        name: str,
        special_tokens: Mapping[str, int],
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        chat_template: str | Template | None = None,
        add_bos: bool = False,
        normalize: Literal["NFC"] | None = None,
        whole_words: bool = False,
    ):
        symbols, merges = byte_symbols(), list(merges)
        spelled = [*symbols, *(left + right for left, right in merges)]  # of each id inside
        inside = {token: i for i, token in reversed([*enumerate(spelled)])}  # the first one, of twins
        super().__init__(
            ((inside[left], inside[right]) for left, right in merges), pattern=pattern, name=name
        )
        self._join_twins(spelled, inside)
        self._missing = bytes(byte for byte in range(256) if symbols[byte] not in vocabulary)
        self._numbers = [vocabulary.get(token, -1) for token in spelled]
        if -1 in self._numbers[256:]:
            raise UserError(f"{name} has a merge whose result is no token.")
        by_id = dict(zip(self._numbers, self.tokens, strict=True))
        by_id.pop(-1, None)
        byte_of = {ord(symbol): byte for byte, symbol in enumerate(symbols)}
        unmerged = [token for token in vocabulary if token not in inside]
        by_id |= {vocabulary[token]: token.translate(byte_of).encode("latin-1") for token in unmerged}
        self._whole = {token: [i] for i, token in by_id.items()} if whole_words else {}
        by_id |= {i: token.encode() for token, i in special_tokens.items()}
        self.vocab_size = max(by_id) + 1
        self.tokens = [by_id.get(i, b"") for i in range(self.vocab_size)]
        self.special_tokens = dict(special_tokens)
        self.bos_id, self.eos_id = self._role("bos", bos), self._role("eos", eos)
        self.pad_id = self._role("pad", pad)
        self.chat_template, self.add_bos = chat_template, add_bos
        self.normalize: Literal["NFC"] | None = normalize
        self.whole_words = whole_words

    def _join_twins(self, spelled: Sequence[str], inside: Mapping[str, int]) -> None:
        """Let a token that several merges make be the same, whichever made it, in all later merges."""
        if len(inside) == len(spelled):
            return
        twins: dict[str, list[int]] = {}
        for i, token in enumerate(spelled):
            twins.setdefault(token, []).append(i)
        for (left, right), i in list(self.merges.items()):
            for other_left in twins[spelled[left]]:
                for other_right in twins[spelled[right]]:
                    self.merges.setdefault((other_left, other_right), i)

    def encode_text(self, text: str, *, continued: bool = False) -> list[int]:
        """Turn text into ids, none of them special; what stands before it makes no difference."""
        if self.normalize:
            text = unicodedata.normalize(self.normalize, text)
        return super().encode_text(text)

    def __repr__(self) -> str:
        special = f"{len(self.special_tokens)} special tokens"
        return f"PublishedBPE {self.name!r}: {self.vocab_size} ids, {len(self.merges)} merges, {special}"

    def save(self, path: StrPath) -> NoReturn:
        """Refused: published tokenizers have files of their own."""
        raise UserError(f"{self.name} was published by others; copy its file to {path} instead.")

    def to_tiktoken(self) -> NoReturn:
        """Refused: `tiktoken` wants ids in the order of the merges."""
        raise UserError(f"The ids of {self.name} do not follow its merges, as tiktoken needs them.")

    def _encode_chunk(self, chunk: bytes) -> list[int]:
        if known := self._whole.get(chunk):
            return known
        inside = encode_chunk(chunk.translate(None, self._missing), self.merges)
        return [self._numbers[i] for i in inside]


DIGITS = {"type": "Digits", "individual_digits": True}
REFUSED = {"continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout", "unk_token"}


def read_tokenizer_json(path: StrPath) -> PublishedBPE:
    """Read a `tokenizer.json` of the library `tokenizers` that holds a byte-level BPE.

    The begin, end and padding tokens are those of `tokenizer_config.json` in the same folder, where it is.

    Raises:
        UserError: It is missing, damaged, or another kind of tokenizer.
    """
    path = Path(path)
    settings = path.with_name("tokenizer_config.json")
    fields = read_json(path, "a tokenizer")
    config: Any = read_json(settings, "a tokenizer's settings") if settings.is_file() else {}
    try:
        return _from_json(fields, config, path)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a damaged tokenizer file; copy it again.") from error


def _from_json(fields: dict[str, Any], config: dict[str, Any], path: Path) -> PublishedBPE:
    model: dict[str, Any] = fields["model"]
    kind = model.get("type", "BPE")
    if kind != "BPE" or "merges" not in model:
        raise UserError(f"{path} holds a {kind} tokenizer; only byte-level BPE can be read.")
    if used := sorted(key for key in REFUSED if model.get(key)):
        raise UserError(f"{path} is no plain byte-level BPE: it sets {used[0]}, which cannot be read.")
    added: list[dict[str, Any]] = fields.get("added_tokens") or []
    special = {token["content"]: token["id"] for token in added}
    if spaces := [token for token in special if not token.strip()]:
        raise UserError(f"{path} adds {spaces[0]!r} to its tokens as plain text, which cannot be read.")
    vocabulary = {token: i for token, i in model["vocab"].items() if token not in special}
    normalizer = fields.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise UserError(f"{path} changes text by {normalizer['type']} first; only NFC can be read.")
    return PublishedBPE(
        vocabulary,
        (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]),
        pattern=_pattern(fields.get("pre_tokenizer") or {}, path),
        name=path.parent.resolve().name if path.stem == "tokenizer" else path.stem,
        special_tokens=special,
        bos=_name(config.get("bos_token")),
        eos=_name(config.get("eos_token")),
        pad=_name(config.get("pad_token")),
        chat_template=jinja_beside(path, config),
        add_bos=_adds_bos(fields, config),
        normalize="NFC" if normalizer else None,
        whole_words=bool(model.get("ignore_merges")),
    )


def _name(token: str | dict[str, str] | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def jinja_beside(path: Path, config: dict[str, Any]) -> str | None:
    """The chat template that stands beside a tokenizer's file, or in its settings."""
    apart = path.with_name("chat_template.jinja")
    found: Any = read_text(apart) if apart.is_file() else config.get("chat_template")
    return found if isinstance(found, str) else None


def _adds_bos(fields: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a begin token is put in front of a text: by the settings, else by the tokenizer's own steps."""
    if isinstance(told := config.get("add_bos_token"), bool):
        return told
    steps: dict[str, Any] = fields.get("post_processor") or {}
    steps_in: list[dict[str, Any]] = steps.get("processors") or [steps]
    firsts = [step["single"][0] for step in steps_in if step.get("type") == "TemplateProcessing"]
    return any("SpecialToken" in first for first in firsts)


def _pattern(splitter: dict[str, Any], path: Path) -> str:
    """The split pattern of a pre-tokenizer: GPT-2's, the same after single digits, or one that it names."""
    steps: list[dict[str, Any]] = splitter.get("pretokenizers") or [splitter]
    *before, last = steps
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        own = last.get("use_regex", True)
        if own and not before:
            return GPT2
        if own and before == [DIGITS]:
            return SMOLLM2
        if not own and [(s["type"], s["behavior"], s["invert"]) for s in before] == [
            ("Split", "Isolated", False)
        ]:
            return before[0]["pattern"]["Regex"]
    raise UserError(f"{path} cuts text in a way that cannot be read; only byte-level BPE can.")
