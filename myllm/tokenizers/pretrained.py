"""Loading published tokenizers by name, file or folder; saving tokenizers; and decoding streams of ids."""

import binascii
import codecs
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from myllm.files import StrPath, UserError, atomic_write, expand, read_bytes, read_json, read_text, sha256
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.chat import TEMPLATES
from myllm.tokenizers.huggingface import WHOLE, HuggingFaceTokenizer, as_bpe, bpe_files, byte_level
from myllm.tokenizers.patterns import GPT2, LLAMA3
from myllm.tokenizers.ranks import BYTE_OF, RankedBPE
from myllm.tokenizers.settings import ADDED, CONFIG, SPECIAL, TEMPLATE, read_settings
from myllm.tokenizers.spm import SentencePiece

ASSETS = Path(__file__).with_name("assets")
PUBLISHED: dict[str, Any] = tomllib.loads(read_text(Path(__file__).with_name("published.toml")))
MODEL, VOCABULARY, MERGES = "tokenizer.model", "vocab.json", "merges.txt"


def load_tokenizer(name_or_path: StrPath | bytes) -> Tokenizer:
    """Load a tokenizer by its name, or from a file or folder.

    Args:
        name_or_path: A name: "gpt2", "llama3", "mistral", "smollm2", or "shakespeare", which chapter 3
            trains. Or a file: a `tokenizer.json`, a SentencePiece `.model`, LLaMA-3's `tokenizer.model`, or
            one that `BPE.save` wrote. Or a folder that holds a `tokenizer.json`, a `tokenizer.model`, or
            GPT-2's `vocab.json` and `merges.txt`. The settings beside the file (`tokenizer_config.json` and
            others) are read too.

    Raises:
        UserError: There is no such name or file, the file is not a readable tokenizer, or a package that it
            needs is not installed.
    """
    name = os.fsdecode(name_or_path)
    if name in KNOWN:
        return KNOWN[name]()
    path = expand(name)
    if path.is_dir():
        found = next((path / one for one in (WHOLE, MODEL, VOCABULARY) if (path / one).is_file()), None)
        if found is None:
            raise UserError(f"{path} holds neither {WHOLE} nor {MODEL}, nor {VOCABULARY} with {MERGES}.")
        path = found
    if not path.is_file():
        raise UserError(f"There is no tokenizer {name!r}; take {', '.join(KNOWN)}, or name a file.")
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix != ".model":
        raise UserError(f"{path} is no tokenizer; name a .json or .model file.")
    data = read_bytes(path)
    if data.startswith(b"IQ== 0\nI"):  # SentencePiece models are binary
        return _llama3_from(path)
    settings = read_settings(path.parent, {MODEL: path})
    return SentencePiece(data, settings, name=_name(path), source=str(path))


def save_tokenizer(tokenizer: Tokenizer, folder: StrPath) -> None:
    """Write a tokenizer into a folder, so that `load_tokenizer` and `transformers` can read it.

    A published tokenizer is saved as the files that it was read from. A `BPE` that `bpe_files` refuses is
    saved by `BPE.save`, as a file that `transformers` cannot read. Other tokenizer files in the folder are
    removed.

    Args:
        tokenizer: The tokenizer.
        folder: An existing folder.

    Raises:
        UserError: The tokenizer has no files to write, or the folder cannot be written.
    """
    folder, files = Path(folder), dict(tokenizer.files)
    files.pop(TEMPLATE, None)
    if tokenizer.chat_template is not None:
        files[TEMPLATE] = tokenizer.chat_template.encode()
    if isinstance(tokenizer, HuggingFaceTokenizer) and not {WHOLE, VOCABULARY} & files.keys():
        files[WHOLE] = json.dumps(tokenizer.content, ensure_ascii=False).encode()
    if isinstance(tokenizer, BPE):
        try:
            parts = bpe_files(tokenizer).items()
            files |= {name: json.dumps(part, ensure_ascii=False).encode() for name, part in parts}
        except UserError:
            tokenizer.save(folder / WHOLE)
            files[WHOLE] = read_bytes(folder / WHOLE)
    if not files:
        raise UserError(f"{tokenizer.name} cannot be written; copy its own files into {folder}.")
    for name, data in files.items():
        atomic_write(folder / name, data)
    for stale in {WHOLE, MODEL, VOCABULARY, MERGES, CONFIG, SPECIAL, ADDED, TEMPLATE} - files.keys():
        (folder / stale).unlink(missing_ok=True)


def _from_json(path: Path) -> Tokenizer:
    content: Any = read_json(path, "a tokenizer")
    if path.name == VOCABULARY:  # with merges.txt, as GPT-2 was published
        merges = path.with_name(MERGES)
        settings = read_settings(path.parent, {VOCABULARY: path, MERGES: merges})
        kind = settings.config.get("tokenizer_class", "GPT2Tokenizer")
        if kind not in ("GPT2Tokenizer", "GPT2TokenizerFast"):
            raise UserError(f"{path.parent} holds a {kind} without its {WHOLE}; fetch that file, too.")
        lines = read_text(merges).split("\n")
        content = byte_level(content, [s for s in lines if s and not s.startswith("#version")], GPT2)
    elif hasattr(content, "items") and "model" in content:
        settings = read_settings(path.parent, {WHOLE: path})
        if (bpe := as_bpe(content, settings, _name(path))) is not None:
            return bpe
    else:
        made, template = BPE.load(path), path.with_name(TEMPLATE)
        if path.name == WHOLE and template.is_file():
            made.chat_template = read_text(template)
        return made
    return HuggingFaceTokenizer(content, settings, name=_name(path), source=str(path))


def _name(path: Path) -> str:
    """The name of a file or, if many tokenizers have a file of that name, of its folder."""
    return path.parent.resolve().name if path.name in (WHOLE, MODEL, VOCABULARY) else path.stem


def _gpt2() -> Tokenizer:
    folder, end = ASSETS / "gpt2", "<|endoftext|>"
    files = {VOCABULARY: folder / "encoder.json", MERGES: folder / "vocab.bpe"}
    vocabulary: dict[str, int] = read_json(files[VOCABULARY], "a vocabulary")
    special = {end: vocabulary.pop(end)}
    ranks = {bytes(BYTE_OF[symbol] for symbol in token): i for token, i in vocabulary.items()}
    settings = read_settings(folder, files)
    return RankedBPE("gpt2", ranks, pattern=GPT2, special_tokens=special, settings=settings)


def _bundled(name: str) -> Tokenizer:
    """A tokenizer whose folder is in the package, with the chat format that the course teaches for it."""
    tokenizer = load_tokenizer(ASSETS / name)
    tokenizer.chat_template = TEMPLATES[name]
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
    """LLaMA-3's tokenizer from its file, in which each line holds a token in Base64 and its rank."""
    facts = PUBLISHED["llama3"]
    if sha256(path) != facts["sha256"]:
        raise UserError(f"{path} is not LLaMA-3's tokenizer.model, or damaged; copy it again.")
    tokens = read_bytes(path).split()[::2]
    ranks = {binascii.a2b_base64(token): rank for rank, token in enumerate(tokens)}
    names: list[str] = facts["first_special_tokens"]
    reserved = range(2, 2 + facts["special_tokens"] - len(names))
    names = names + [f"reserved_special_token_{i}" for i in reserved]
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(names)}
    settings = read_settings(ASSETS / "llama3", {MODEL: path})._replace(chat_template=TEMPLATES["llama3"])
    return RankedBPE("llama3", ranks, pattern=LLAMA3, special_tokens=special, settings=settings)


KNOWN: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _gpt2,
    "llama3": _llama3,
    "mistral": lambda: _bundled("mistral"),
    "shakespeare": lambda: BPE.load(ASSETS / "shakespeare.json"),
    "smollm2": lambda: _bundled("smollm2"),
}


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int], *, after: Sequence[int] = ()) -> Iterator[str]:
    """Decode ids as they arrive, holding back the bytes of a character until it is complete.

    Joined, the pieces are what `decode` returns for all ids at once.

    Args:
        tokenizer: Any tokenizer.
        ids: The ids, for example from a generator that samples them.
        after: The ids that precede them; see `Tokenizer.token_bytes`.
    """
    return codecs.iterdecode(tokenizer.token_bytes(ids, after=after), "utf-8", "replace")
