"""Published tokenizers by name, file or folder, saved again as files, and decoding piece by piece."""

import binascii
import codecs
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from myllm.files import StrPath, UserError, atomic_write, read_bytes, read_json, sha256
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.chat import TEMPLATES
from myllm.tokenizers.huggingface import BYTE_LEVEL, HuggingFaceTokenizer
from myllm.tokenizers.jinja import to_jinja
from myllm.tokenizers.patterns import GPT2, LLAMA3
from myllm.tokenizers.ranks import BYTE_OF, RankedBPE
from myllm.tokenizers.settings import ADDED, CONFIG, SPECIAL, TEMPLATE, Settings, read_settings
from myllm.tokenizers.spm import SentencePiece

ASSETS = Path(__file__).with_name("assets")
WHOLE, MODEL, VOCABULARY, MERGES = "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"
LLAMA3_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"
LLAMA3_SPECIAL = [
    *("begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"),
    *("finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id"),
    *("python_tag", "image", *(f"reserved_special_token_{i}" for i in range(2, 246))),
]


def load_tokenizer(name_or_path: StrPath | bytes) -> Tokenizer:
    """Load a published tokenizer.

    Args:
        name_or_path: "gpt2", "llama3", "mistral" or "smollm2", or "shakespeare", which chapter 3 trains;
            or a file: a `tokenizer.json`, a SentencePiece `.model`, LLaMA-3's `tokenizer.model`, what
            `BPE.save` wrote; or a folder that holds a
            `tokenizer.json`, a `tokenizer.model`, or GPT-2's `vocab.json` and `merges.txt`. The settings that
            stand beside a file (`tokenizer_config.json` and others) are read, too.

    Raises:
        UserError: There is no such name or file, the file is no tokenizer that can be read, or what it needs
            is not installed.
    """
    name = os.fsdecode(name_or_path)
    if name in KNOWN:
        return KNOWN[name]()
    path = Path(name)
    with suppress(RuntimeError):  # no such user, or no home folder
        path = path.expanduser()
    if path.is_dir():
        found = next((path / one for one in (WHOLE, MODEL, VOCABULARY) if (path / one).is_file()), None)
        if found is None:
            raise UserError(f"{path} holds neither {WHOLE} nor {MODEL}, nor {VOCABULARY} with {MERGES}.")
        path = found
    if not path.is_file():
        raise UserError(f"There is no tokenizer {name!r}; take {', '.join(KNOWN)}, or name a file.")
    if path.name == VOCABULARY:
        return _from_vocabulary(path, read_settings(path.parent))
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix == ".model":
        with path.open("rb") as file:
            is_text = file.read(8) == b"IQ== 0\nI"  # SentencePiece models are binary
        return _llama3_from(path) if is_text else _sentencepiece(path)
    raise UserError(f"{path} is no tokenizer; name a .json or .model file.")


def save_tokenizer(tokenizer: Tokenizer, folder: StrPath) -> None:
    """Write a tokenizer into a folder, so that `load_tokenizer` and `transformers` read it back.

    A published tokenizer is saved as the files that it was read from, a `BPE` as the file that `BPE.save`
    writes, which `transformers` cannot read. Other tokenizer files in the folder are removed.

    Args:
        tokenizer: The tokenizer.
        folder: An existing folder.

    Raises:
        UserError: The folder cannot be written.
    """
    folder, files = Path(folder), dict(tokenizer.files)
    if isinstance(tokenizer, HuggingFaceTokenizer):
        files.setdefault(WHOLE, json.dumps(tokenizer.content, ensure_ascii=False).encode())
    template = tokenizer.chat_template
    if template is None:
        files.pop(TEMPLATE, None)
    else:
        files[TEMPLATE] = (template if isinstance(template, str) else to_jinja(template)).encode()
    if isinstance(tokenizer, BPE):
        tokenizer.save(folder / WHOLE)
        files = {WHOLE: b""}
    elif not files:
        raise UserError(f"{tokenizer.name} cannot be written; copy its own files into {folder}.")
    else:
        for name, data in files.items():
            atomic_write(folder / name, data)
    for stale in {WHOLE, MODEL, VOCABULARY, MERGES, CONFIG, SPECIAL, ADDED, TEMPLATE} - files.keys():
        (folder / stale).unlink(missing_ok=True)


def _from_json(path: Path) -> Tokenizer:
    content: Any = read_json(path, "a tokenizer")
    if not isinstance(content, dict) or "model" not in content:
        return BPE.load(path)
    name = path.parent.resolve().name if path.name == WHOLE else path.stem
    settings = read_settings(path.parent)
    files = {**settings.files, WHOLE: read_bytes(path)}
    content = cast("dict[str, Any]", content)
    return HuggingFaceTokenizer(content, settings._replace(files=files), name=name, source=str(path))


def _from_vocabulary(path: Path, settings: Settings) -> Tokenizer:
    """A byte-level BPE as GPT-2 was published: ``vocab.json`` and ``merges.txt``."""
    kind = settings.config.get("tokenizer_class", "GPT2Tokenizer")
    if kind not in ("GPT2Tokenizer", "GPT2TokenizerFast"):
        raise UserError(f"{path.parent} holds a {kind} without its {WHOLE}; fetch that file, too.")
    merges = read_bytes(path.with_name(MERGES))
    lines = merges.decode("utf-8", "replace").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    model = {"type": "BPE", "vocab": read_json(path, "a vocabulary"), "merges": pairs}
    files = {**settings.files, VOCABULARY: read_bytes(path), MERGES: merges}
    name = path.parent.resolve().name
    settings = settings._replace(files=files)
    return HuggingFaceTokenizer({**BYTE_LEVEL, "model": model}, settings, name=name, source=str(path))


def _sentencepiece(path: Path) -> SentencePiece:
    settings = read_settings(path.parent)
    return SentencePiece(read_bytes(path), name=path.stem, source=str(path), settings=settings)


def _config_file(**fields: Any) -> dict[str, bytes]:
    return {CONFIG: json.dumps(fields, indent=2).encode()}


def _gpt2() -> Tokenizer:
    folder, end = ASSETS / "gpt2", "<|endoftext|>"
    vocabulary: dict[str, int] = read_json(folder / "encoder.json", "a vocabulary")
    special = {end: vocabulary.pop(end)}
    ranks = {bytes(map(BYTE_OF.__getitem__, token)): i for token, i in vocabulary.items()}
    tokenizer = RankedBPE("gpt2", ranks, pattern=GPT2, special_tokens=special, bos=end, eos=end)
    files = {VOCABULARY: read_bytes(folder / "encoder.json"), MERGES: read_bytes(folder / "vocab.bpe")}
    tokenizer.files = files | _config_file(tokenizer_class="GPT2Tokenizer", bos_token=end, eos_token=end)
    return tokenizer


def _smollm2() -> Tokenizer:
    from myllm.tokenizers.gguf import CONTROL, KEY, NORMAL, from_gguf  # the library takes a while to import

    packed = read_bytes(ASSETS / "smollm2_bpe.json.gz")
    fields: dict[str, Any] = json.loads(gzip.decompress(packed))
    tokens: list[str] = fields["vocab"]
    values = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [CONTROL if token in fields["special"] else NORMAL for token in tokens],
        "merges": fields["merges"],
        "bos_token_id": tokens.index(fields["bos"]),
        "eos_token_id": tokens.index(fields["eos"]),
    }
    values = {KEY + key: value for key, value in values.items()}
    tokenizer = from_gguf(values | {"tokenizer.chat_template": fields["chat_template"]}, "smollm2")
    assert tokenizer is not None
    tokenizer.chat_template = TEMPLATES["smollm2"]
    return tokenizer


def _mistral() -> Tokenizer:
    """Mistral's first vocabulary, with the settings of its published folder."""
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    path = ASSETS / "mistral_v1_sp.model"
    settings = Settings(config, {}, None, _config_file(**config))
    tokenizer = SentencePiece(read_bytes(path), name="mistral", source=str(path), settings=settings)
    tokenizer.chat_template = TEMPLATES["mistral"]
    return tokenizer


def _llama3() -> Tokenizer:
    package = find_spec("llama_models")
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, "llama3", MODEL)).is_file():
            return _llama3_from(path)
    raise UserError(
        "LLaMA-3's vocabulary may not be passed on with this package: run "
        "`pip install --no-deps llama-models==0.3.0`, or name the path of its tokenizer.model."
    )


def _llama3_from(path: Path) -> Tokenizer:
    """LLaMA-3 from its file: on each line a token in base 64 and its rank."""
    if sha256(path) != LLAMA3_SHA256:
        raise UserError(f"{path} is not LLaMA-3's tokenizer.model, or damaged; copy it again.")
    data = read_bytes(path)
    ranks = {binascii.a2b_base64(token): rank for rank, token in enumerate(data.split()[::2])}
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(LLAMA3_SPECIAL)}
    tokenizer = RankedBPE(
        "llama3",
        ranks,
        pattern=LLAMA3,
        special_tokens=special,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad="<|finetune_right_pad_id|>",
    )
    tokenizer.chat_template, tokenizer.add_bos = TEMPLATES["llama3"], True
    tokenizer.extra_end_ids = {special["<|eom_id|>"], special["<|eot_id|>"]}
    tokenizer.files = {MODEL: data}
    return tokenizer


KNOWN: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _gpt2,
    "llama3": _llama3,
    "mistral": _mistral,
    "shakespeare": lambda: BPE.load(ASSETS / "shakespeare.json"),
    "smollm2": _smollm2,
}


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int], *, after: Sequence[int] = ()) -> Iterator[str]:
    """Decode ids as they come, holding back the bytes of a character until it is complete.

    The pieces joined are what `decode` gives for all ids at once.

    Args:
        tokenizer: Any tokenizer.
        ids: The ids, for example from a generator that samples them.
        after: The ids that precede them; see `Tokenizer.token_bytes`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for data in tokenizer.token_bytes(ids, after=after):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
