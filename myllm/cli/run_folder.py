"""The folder of a training run: which run it is, the tokens it begins with, the model it ends with."""

import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myllm.files import UserError, atomic_write, atomic_writer, check_place, expand, read_json, sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from myllm.cli.training import Run
    from myllm.data.shards import Shards
    from myllm.llm import LLM
    from myllm.tokenizers.base import Tokenizer
    from myllm.training.loop import Trainer
    from myllm.training.step import Strategy

RUN = "run.json"
HOW = {
    *("data", "out", "strategy", "micro_batch", "tensorboard", "recompute", "sharded"),
    *("evaluate_every", "patience", "checkpoint_every"),
}
"""Options that may differ when a command goes on with a run."""


def say(strategy: "Strategy", text: str) -> None:
    """Print a message to standard error, once for all processes."""
    if strategy.rank == 0:
        print(text, file=sys.stderr, flush=True)


def command() -> str:
    """The command as it was typed."""
    return shlex.join(["myllm", *sys.argv[1:]])


def shards_folder(run: "Run") -> Path:
    """The folder of tokens: the given one, or the one that `prepare` makes."""
    given = expand(run.data[0]) if len(run.data) == 1 else None
    return given if given and (given / "index.json").is_file() else expand(run.out) / "tokens"


class Head:
    """The first `n` ids of a long sequence."""

    def __init__(self, tokens: "Shards", n: int) -> None:
        self.tokens, self.n = tokens, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: slice) -> "NDArray[Any]":
        return self.tokens[range(self.n)[key].start : range(self.n)[key].stop]


def training_tokens(run: "Run", shards: "Shards", held_out: int) -> "Shards | Head":
    """The ids to train on: all that `prepare` wrote, or all but the last ones of given shards."""
    mine = shards_folder(run) == expand(run.out) / "tokens"
    return shards if mine else Head(shards, len(shards) - held_out)


def texts(data: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The training documents and the held-out ones: whole works of Shakespeare, else the end of the text."""
    from myllm.cli.data import documents
    from myllm.data import corpus

    if data == ("shakespeare",):
        parts = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)
        return [work.text for work in parts[0]], [work.text for work in parts[1]]
    found = ["".join(document) for file in data for document in documents(file)]
    joined = "\n".join(found)
    if len(joined) < 2000:
        raise UserError("There are fewer than 2,000 characters to train on; give more text.")
    cut = len(joined) - len(joined) // 20
    return [joined[:cut]], [joined[cut:]]


def identity(run: "Run") -> dict[str, Any]:
    """What identifies a run: its options and the content of its data."""
    from myllm.cli.data import misspelt
    from myllm.data.corpus import CORPORA

    data: dict[str, str] = {}
    for name in run.data:
        path = expand(name)
        index = path / "index.json"
        built_in = name in CORPORA and not path.exists()
        if not built_in and not path.suffix and not os.path.lexists(path):
            raise misspelt(name)
        data[name] = "corpus" if built_in else sha256(index if index.is_file() else path)
    options = {name: value for name, value in asdict(run).items() if name not in HOW}
    return json.loads(json.dumps({"command": type(run).__name__.lower(), **options, "data": data}))


def prepare(
    run: "Run",
    strategy: "Strategy",
    tokenizer: "Tokenizer | None" = None,
    *,
    vocab_size: int = 0,
    block_size: int = 1,
) -> None:
    """Make the folder of a run, or check that it belongs to this run; the other processes wait.

    The folder appears once its tokens are complete. Without a tokenizer, one with `vocab_size` ids is trained
    on the training text.

    Raises:
        UserError: There is no text, or too little for rows of `block_size`, or the folder is in use.
    """
    if not run.data:
        raise UserError("Name at least one text file or corpus to train on.")
    folder, mine = expand(run.out), identity(run)
    if strategy.rank == 0:
        old = read_json(folder / RUN, "a run") if (folder / RUN).is_file() else None
        check_place(folder)
        in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if in_use and not (isinstance(old, dict) and old):
            raise UserError(f"{run.out} is in use and holds no run; choose another --out.")
        changed = [name for name in mine if old and old.get(name) != mine[name]]
        if old and changed and (folder / "checkpoints").exists():  # without one, nothing would be lost
            name = changed[0]
            what = f"other {name}" if name == "data" else f"{name} {old.get(name)}, not {mine[name]}"
            raise UserError(f"The run in {run.out} has {what}; take its options, or another --out.")
        if not old or changed:
            _make(run, folder, mine, tokenizer, vocab_size, block_size)
    strategy.sum(0)


def _make(
    run: "Run",
    folder: Path,
    mine: dict[str, Any],
    tokenizer: "Tokenizer | None",
    vocab_size: int,
    block_size: int,
) -> None:
    """Make the folder under another name first, so that it is either complete or absent."""
    temporary = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _fill(run, temporary, tokenizer, vocab_size, block_size)
        atomic_write(temporary / RUN, json.dumps(mine, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(run: "Run", folder: Path, tokenizer: "Tokenizer | None", vocab_size: int, block_size: int) -> None:
    """Write the tokenizer, if one is to be trained, the tokens, and the held-out tokens."""
    import numpy as np

    from myllm.cli.data import encode
    from myllm.data.shards import Shards, hash_vocabulary, write_shards
    from myllm.tokenizers.bpe import BPE

    given = shards_folder(run)
    if tokenizer and given != expand(run.out) / "tokens":
        shards = Shards(given, tokenizer=tokenizer)
        held_out = np.asarray(shards[len(shards) - min(len(shards) // 20, 100_000) :], dtype=np.uint32)
        n = len(shards) - len(held_out)
    else:
        train, rest = texts(run.data)
        if tokenizer is None:
            special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
            tokenizer = BPE.train(iter(train), vocab_size, special_tokens=special)
            tokenizer.save(folder / "tokenizer.json")
        ids = (encode(tokenizer, [text]) for text in train)
        size, name = tokenizer.vocab_size, hash_vocabulary(tokenizer)
        write_shards(ids, folder / "tokens", vocab_size=size, vocab_hash=name)
        n = len(Shards(folder / "tokens", tokenizer=tokenizer))
        held_out = np.array(tokenizer.encode("\n".join(rest)), dtype=np.uint32)
        atomic_write(folder / "validation.txt", "\n".join(rest))
    if n <= block_size:
        raise UserError(
            f"{n:,} tokens do not fill a context of {block_size:,}; give more text, or --block-size."
        )
    if len(held_out) < 2:
        raise UserError("There are too few tokens to hold some out; give more text.")
    with atomic_writer(folder / "validation.npy") as file:
        np.save(file, held_out)


def save(trainer: "Trainer", tokenizer: "Tokenizer", folder: Path) -> "LLM | None":
    """Write the trained model on rank 0, or the moving average of its weights if one was kept."""
    from myllm.llm import LLM
    from myllm.model.transformer import Transformer

    state = trainer.strategy.state_dict()
    if trainer.strategy.rank:
        return None
    weights = state["model"]
    weights |= {
        name: moments["average"] for name, moments in state["optimizer"].items() if "average" in moments
    }
    assert isinstance(trainer.model, Transformer)
    model = Transformer(trainer.model.config)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    llm = LLM(model, tokenizer)
    llm.save_pretrained(folder)
    return llm
