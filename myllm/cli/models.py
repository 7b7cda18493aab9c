"""``myllm models``, ``info``, ``generate``, ``chat`` and ``convert``."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from myllm.files import UserError, read_text

if TYPE_CHECKING:
    from myllm.config import ModelConfig
    from myllm.llm import LLM

Name = Annotated[str, Positional, arg(metavar="NAME|PATH")]


@dataclass(frozen=True)
class Models:
    """List the models whose numbers are known, and those that can be fetched by name.

    Examples:
        myllm models
        myllm models --json
    """

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the table."""
        from myllm.config import ModelConfig
        from myllm.data import downloads
        from myllm.presets import PRESETS

        rows: list[dict[str, Any]] = []
        for name in PRESETS:
            c = ModelConfig.preset(name)
            rows.append({"name": name, "parameters": c.n_params, "layers": c.n_layer, "width": c.n_embd})
            rows[-1] |= {"heads": c.n_head, "kv_heads": c.n_kv_head, "context": c.block_size}
        if self.json:
            print(json.dumps(rows, indent=2))
            return 0
        _table(
            ["Name", "Parameters", "Layers", "Width", "Heads", "KV heads", "Context"],
            [[row["name"], *(f"{row[key]:,}" for key in list(row)[1:])] for row in rows],
        )
        where = downloads.find("smollm2")
        here = f"here: {where}" if where else "run `myllm download smollm2` first (98 MB)"
        print(f"\nReady to use by name: smollm2, which is smollm2-135m with its weights; {here}")
        return 0


@dataclass(frozen=True)
class Info:
    """Say what a model is and what it costs: layers, parameters, operations, memory.

    A model is a name of `myllm models`, a GGUF file, or a folder with a config.json.

    Examples:
        myllm info gpt2
        myllm info llama-3-8b --context 8192 --batch 4
        myllm info model.gguf --json
    """

    model: Name
    """What to describe."""
    context: Annotated[int | None, arg(metavar="T")] = None
    """Tokens of each text; by default the longest, at most 4,096."""
    batch: Annotated[int, arg(metavar="B")] = 1
    """Texts at a time."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Print the facts and the memory table."""
        import torch

        config = _config(self.model)
        T = min(config.block_size, 4096) if self.context is None else self.context
        if not 1 <= T <= config.block_size or self.batch < 1:
            raise UserError(f"--context must lie between 1 and {config.block_size}, --batch be 1 or more.")
        memory: dict[str, dict[str, dict[str, int]]] = {}
        for dtype in (torch.float32, torch.bfloat16):
            kinds = {"generating": False, "training": True}
            memory[str(dtype).removeprefix("torch.")] = {
                name: (found := config.memory(self.batch, T, dtype=dtype, training=training))._asdict()
                | {"total": found.total}
                for name, training in kinds.items()
            }
        facts = {"parameters": config.n_params, "flops_per_token": config.flops_per_token(T)}
        facts |= {"context": T, "batch": self.batch}
        if self.json:
            print(json.dumps({"name": self.model, **facts, "memory": memory, "config": asdict(config)}))
            return 0
        print(_sentences(self.model, config, T))
        columns = [(dtype, use) for dtype in memory for use in memory[dtype]]
        print(f"\nMemory in MB, {self.batch} x {T:,} tokens; training with Adam:")
        _table(
            ["", *(f"{use}, {dtype}" for dtype, use in columns)],
            [
                [
                    part.replace("_", " "),
                    *(f"{memory[dtype][use][part] / 1e6:,.1f}" for dtype, use in columns),
                ]
                for part in memory["float32"]["training"]
            ],
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model writes."""

    max_new_tokens: Annotated[int | None, arg(metavar="N")] = None
    """The most tokens that are written; by default 256, or as many as the context holds."""
    temperature: Annotated[float, arg(metavar="X")] = 0.0
    """0 takes the likeliest token each time, 1 draws from the model's own distribution."""
    stop: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="TEXT")] = ()
    """End before this text."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Makes the draws repeatable."""

    def options(self) -> dict[str, Any]:
        """As `LLM.stream` takes them."""
        length = {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}
        return {"temperature": self.temperature, "stop": self.stop, "seed": self.seed, **length}


@dataclass(frozen=True)
class Generate(Sampling):
    """Continue a text.

    A model is smollm2, a GGUF file, a folder with weights, or a name on the Hugging Face hub.

    Examples:
        myllm generate smollm2 'The capital of France is' --max-new-tokens 8
        myllm generate smollm2 --temperature 0.8 --seed 1 < story.txt
    """

    model: Name
    """What writes."""
    prompt: Annotated[str | None, Positional, arg(metavar="[TEXT]")] = None
    """What stands before; standard input without it."""

    def run(self) -> int:
        """Print the continuation as it comes."""
        prompt = read_text(sys.stdin.buffer) if self.prompt is None else self.prompt
        _print(_load(self.model).stream(prompt, **self.options()))
        return 0


@dataclass(frozen=True)
class Chat(Sampling):
    """Talk to a model; an empty line or Ctrl-D ends it.

    Examples:
        myllm chat smollm2
        myllm chat smollm2 'What is the capital of France?'
        myllm chat smollm2 --system 'Answer in one word.' 'What is the capital of France?'
    """

    model: Name
    """What answers."""
    message: Annotated[str | None, Positional, arg(metavar="[MESSAGE]")] = None
    """Ask only this."""
    system: Annotated[str | None, arg(metavar="TEXT")] = None
    """How the model should behave; by default what it was trained with."""

    def run(self) -> int:
        """Answer once, or in turn."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        llm = _load(self.model)
        if self.message is None and sys.stdin.isatty():
            print("An empty line ends the conversation.", file=sys.stderr)
        asked = [self.message] if self.message is not None else _lines()
        for line in asked:
            messages.append({"role": "user", "content": line})
            answer = _print(llm.stream_chat(messages, **self.options()))
            messages.append({"role": "assistant", "content": answer})
        return 0


@dataclass(frozen=True)
class Convert:
    """Write a model as a folder that this package and the library transformers read.

    Examples:
        myllm convert model.gguf folder
        myllm convert smollm2 folder --dtype bfloat16
    """

    source: Name
    """smollm2, a GGUF file, a folder, or a name on the hub."""
    target: Annotated[str, Positional, arg(metavar="FOLDER")]
    """The folder to write; it must be new or empty."""
    dtype: Annotated[str | None, arg(metavar="float32|bfloat16|float16")] = None
    """What the weights become; by default as stored, float32 for a GGUF file."""

    def run(self) -> int:
        """Load and save."""
        import torch

        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise UserError(f"--dtype must be float32, bfloat16 or float16, not {self.dtype!r}.")
        folder = Path(self.target)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is there already; name a new or empty folder.")
        from myllm.llm import LLM

        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        llm = LLM.from_pretrained(self.source, dtype=dtype)
        llm.save_pretrained(folder)
        print(f"{folder}: {llm.config.n_params:,} parameters")
        return 0


COMMANDS = {"models": Models, "info": Info, "generate": Generate, "chat": Chat, "convert": Convert}


def _load(name: str) -> "LLM":
    from myllm.llm import LLM

    return LLM.from_pretrained(name)


def _config(name: str) -> "ModelConfig":
    """The configuration of a preset, a GGUF file or a folder; weights are not read."""
    from myllm.config import ModelConfig
    from myllm.files import read_json
    from myllm.presets import PRESETS
    from myllm.weights import gguf
    from myllm.weights.gguf_file import GGUFFile

    path = Path(name)
    name = "smollm2-135m" if name == "smollm2" else name
    if name in PRESETS:
        return ModelConfig.preset(name)
    if path.suffix == ".gguf":
        return gguf.config(GGUFFile(path))
    if not path.is_dir():
        raise UserError(f"There is no model {name!r}; `myllm models` lists the names, or name a path.")
    return ModelConfig.from_hf(read_json(path / "config.json", "the configuration of a model"))


def _sentences(name: str, c: "ModelConfig", T: int) -> str:
    shared = "" if c.n_kv_head == c.n_head else f", {c.n_kv_head} of keys and values"
    position = {"rope": "rotary positions", "learned": "learned positions", "none": "no positions"}
    return (
        f"{name}: {c.n_params:,} parameters\n"
        f"{c.n_layer} layers, {c.n_embd:,} wide, {c.n_head} heads of {c.head_dim}{shared}; "
        f"feed-forward {c.intermediate_size:,} ({c.mlp}, {c.activation})\n"
        f"{c.vocab_size:,} tokens, {'tied' if c.tie_embeddings else 'untied'} embeddings; "
        f"{position[c.position]}, context {c.block_size:,}\n"
        f"{c.flops_per_token(T) / 1e9:,.3f} GFLOP a token over {T:,} tokens, three times that in training"
    )


def _lines() -> Iterable[str]:
    """What the reader types, until an empty line."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            return
        if not line.strip():
            return
        yield line


def _print(pieces: Iterable[str]) -> str:
    """Print the pieces as they come, and return them joined."""
    text = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text


def _table(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        header[0], *(Column(name, justify="right") for name in header[1:]), box=None, header_style="bold"
    )
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
