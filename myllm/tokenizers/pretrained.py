"""Published tokenizers by name or file, and decoding piece by piece."""

import binascii
import codecs
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from myllm.files import StrPath, UserError, read_bytes, read_json, sha256
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.chat import TEMPLATES
from myllm.tokenizers.patterns import GPT2, LLAMA3, SMOLLM2
from myllm.tokenizers.published import PublishedBPE, jinja_beside, read_tokenizer_json
from myllm.tokenizers.ranks import RankedBPE, byte_symbols
from myllm.tokenizers.spm import SentencePiece

ASSETS = Path(__file__).with_name("assets")
LLAMA3_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"
LLAMA3_SPECIAL = [
    *("begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"),
    *("finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id"),
    *("python_tag", "image", *(f"reserved_special_token_{i}" for i in range(2, 246))),
]


def load_tokenizer(name_or_path: StrPath) -> Tokenizer:
    """A published tokenizer.

    Args:
        name_or_path: "gpt2", "llama3", "mistral" or "smollm2"; or a file: a `tokenizer.json` with a
            byte-level BPE, a SentencePiece `.model`, LLaMA-3's `tokenizer.model`, what `BPE.save` wrote; or a
            folder that holds a `tokenizer.json` or a `tokenizer.model`.

    Raises:
        UserError: There is no such name or file, the file is no tokenizer that can be read, or what it needs
            is not installed.
    """
    if name_or_path in KNOWN:
        return KNOWN[str(name_or_path)]()
    path = Path(name_or_path)
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        known = ", ".join(KNOWN)
        raise UserError(f"There is no tokenizer {str(name_or_path)!r}; take {known}, or name a file.")
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix == ".model":
        with path.open("rb") as file:
            is_text = file.read(8) == b"IQ== 0\nI"  # SentencePiece models are binary
        return _llama3_from(path) if is_text else SentencePiece(path, name=path.stem)
    raise UserError(f"{path} is no tokenizer; name a .json or .model file.")


def _from_folder(folder: Path) -> Tokenizer:
    """``tokenizer.json``, or ``tokenizer.model`` where that cannot be read, with the settings beside it."""
    whole, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        try:
            return _from_json(whole)
        except UserError:  # such as SentencePiece in the other format
            if not model.is_file():
                raise
    if not model.is_file():
        raise UserError(f"{folder} holds neither tokenizer.json nor tokenizer.model.")
    tokenizer, settings = load_tokenizer(model), folder / "tokenizer_config.json"
    found: Any = read_json(settings, "a tokenizer's settings") if settings.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{settings} is no tokenizer's settings; copy it again.")
    config = cast("dict[str, Any]", found)
    tokenizer.chat_template = jinja_beside(model, config) or tokenizer.chat_template
    tokenizer.add_bos = bool(config.get("add_bos_token", tokenizer.add_bos))
    return tokenizer


def _from_json(path: Path) -> Tokenizer:
    fields = read_json(path, "a tokenizer")
    if isinstance(fields, dict) and "model" in fields:
        return read_tokenizer_json(path)
    return BPE.load(path)


def _gpt2() -> Tokenizer:
    byte_of = {ord(symbol): byte for byte, symbol in enumerate(byte_symbols())}
    vocabulary: dict[str, int] = read_json(ASSETS / "gpt2" / "encoder.json", "a vocabulary")
    special = {"<|endoftext|>": vocabulary.pop("<|endoftext|>")}
    ranks = {token.translate(byte_of).encode("latin-1"): i for token, i in vocabulary.items()}
    end = "<|endoftext|>"
    return RankedBPE("gpt2", ranks, pattern=GPT2, special_tokens=special, bos=end, eos=end)


def _smollm2() -> Tokenizer:
    packed = read_bytes(ASSETS / "smollm2_bpe.json.gz")
    fields: dict[str, Any] = json.loads(gzip.decompress(packed))
    special: dict[str, int] = fields["special"]
    return PublishedBPE(
        {token: i for i, token in enumerate(cast("list[str]", fields["vocab"])) if token not in special},
        (merge.split(" ") for merge in fields["merges"]),
        pattern=SMOLLM2,
        name="smollm2",
        special_tokens=special,
        bos=fields["bos"],
        eos=fields["eos"],
        chat_template=TEMPLATES["smollm2"],
    )


def _mistral() -> Tokenizer:
    path = ASSETS / "mistral_v1_sp.model"
    return SentencePiece(path, name="mistral", chat_template=TEMPLATES["mistral"])


def _llama3() -> Tokenizer:
    package = find_spec("llama_models")
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, "llama3", "tokenizer.model")).is_file():
            return _llama3_from(path)
    raise UserError(
        "LLaMA-3's vocabulary may not be passed on with this package: run "
        "`pip install --no-deps llama-models==0.3.0`, or name the path of its tokenizer.model."
    )


def _llama3_from(path: Path) -> Tokenizer:
    """LLaMA-3 from its file: on each line a token in base 64 and its rank."""
    if sha256(path) != LLAMA3_SHA256:
        raise UserError(f"{path} is not LLaMA-3's tokenizer.model, or damaged; copy it again.")
    in_order = read_bytes(path).split()[::2]
    ranks = {binascii.a2b_base64(token): rank for rank, token in enumerate(in_order)}
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(LLAMA3_SPECIAL)}
    tokenizer = RankedBPE(
        "llama3",
        ranks,
        pattern=LLAMA3,
        special_tokens=special,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad="<|finetune_right_pad_id|>",
        chat_template=TEMPLATES["llama3"],
    )
    tokenizer.add_bos = True
    return tokenizer


KNOWN = {"gpt2": _gpt2, "llama3": _llama3, "mistral": _mistral, "smollm2": _smollm2}


def token_bytes(tokenizer: Tokenizer, ids: Iterable[int], *, after: Sequence[int] = ()) -> Iterator[bytes]:
    """The bytes that each id adds to the text; joined, they are what `decode_bytes` gives.

    Args:
        tokenizer: Any tokenizer.
        ids: The ids.
        after: The ids that stand before, such as a prompt. They are not decoded, but behind them a space is
            kept that SentencePiece drops at the start of a text.
    """
    before = list(after[-1:])
    for i in ids:
        known = len(tokenizer.decode_bytes(before))
        yield tokenizer.decode_bytes([*before, i])[known:]
        before = [i]


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int], *, after: Sequence[int] = ()) -> Iterator[str]:
    """Decode ids as they come, holding back the bytes of a character until it is whole.

    The pieces joined are what `decode` gives for all ids at once.

    Args:
        tokenizer: Any tokenizer.
        ids: The ids, for example from a generator that samples them.
        after: The ids that stand before; see `token_bytes`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for data in token_bytes(tokenizer, ids, after=after):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
