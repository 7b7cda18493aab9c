"""``myllm models``, ``info`` and ``convert``."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from myllm.checks import near
from myllm.files import UserError, expand, new_folder

if TYPE_CHECKING:
    from myllm.config import ModelConfig

MAX_BATCH = 1 << 30
Name = Annotated[str, Positional, arg(metavar="NAME|PATH")]


@dataclass(frozen=True)
class Models:
    """List the models whose configurations are known, and those that can be downloaded by name.

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
        table(
            ["Name", "Parameters", "Layers", "Width", "Heads", "KV heads", "Context"],
            [[row["name"], *(f"{row[key]:,}" for key in list(row)[1:])] for row in rows],
        )
        where = downloads.find("smollm2") or "run `myllm download smollm2` first (98 MB)"
        ours = "course-base and course-sft, which chapters 10 and 18 train"
        print(f"\nReady to use: {ours}; smollm2, SmolLM2-135M: {where}")
        return 0


@dataclass(frozen=True)
class Info:
    """Describe a model and its cost: layers, parameters, operations, memory.

    The model is a name that `myllm models` lists, a GGUF file, or a folder with a config.json.

    Examples:
        myllm info gpt2
        myllm info llama-3-8b --context 8192 --batch 4
        myllm info model.gguf --json
    """

    model: Name
    """The model to describe."""
    context: Annotated[int | None, arg(metavar="T")] = None
    """Tokens of each text; by default the whole context, at most 4,096."""
    batch: Annotated[int, arg(metavar="B")] = 1
    """The number of texts in a batch."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Print the facts and the memory table."""
        import torch

        config = _config(self.model)
        T = min(config.block_size, 4096) if self.context is None else self.context
        if not 1 <= T <= config.block_size or not 1 <= self.batch <= MAX_BATCH:
            limits = f"--context between 1 and {config.block_size}, --batch between 1 and {MAX_BATCH:,}"
            raise UserError(f"Numbers are out of range; give {limits}.")
        memory: dict[str, dict[str, dict[str, int]]] = {"float32": {}, "bfloat16": {}}
        columns = [(dtype, use) for dtype in memory for use in ("generating", "training")]
        for dtype, use in columns:
            found = config.memory(self.batch, T, dtype=getattr(torch, dtype), training=use == "training")
            memory[dtype][use] = found._asdict() | {"total": found.total}
        if self.json:
            facts = {"parameters": config.n_params, "flops_per_token": config.flops_per_token(T)}
            facts |= {"context": T, "batch": self.batch, "memory": memory, "config": asdict(config)}
            print(json.dumps({"name": self.model, **facts}))
            return 0
        print(_sentences(self.model, config, T))
        print(f"\nMemory in MB, {self.batch} x {T:,} tokens; training with Adam:")
        table(
            ["", *(f"{use}, {dtype}" for dtype, use in columns)],
            [
                [part.replace("_", " "), *(f"{memory[d][use][part] / 1e6:,.1f}" for d, use in columns)]
                for part in memory["float32"]["training"]
            ],
        )
        return 0


@dataclass(frozen=True)
class Convert:
    """Write a model into a folder that this package and the library transformers can load.

    Examples:
        myllm convert model.gguf folder
        myllm convert smollm2 folder --dtype bfloat16
    """

    source: Name
    """smollm2, a GGUF file, a folder, or a name on the hub."""
    target: Annotated[str, Positional, arg(metavar="FOLDER")]
    """The folder to write; it must be new or empty."""
    dtype: Annotated[str | None, arg(metavar="float32|bfloat16|float16")] = None
    """The dtype of the weights; by default as stored, float32 for a GGUF file."""

    def run(self) -> int:
        """Load and save."""
        import torch

        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise UserError(f"--dtype must be float32, bfloat16 or float16, not {self.dtype!r}.")
        folder = new_folder(self.target)
        from myllm.llm import LLM

        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        llm = LLM.from_pretrained(self.source, dtype=dtype)
        llm.save_pretrained(folder)
        print(f"{folder}: {llm.config.n_params:,} parameters")
        return 0


COMMANDS = {"models": Models, "info": Info, "convert": Convert}


def _config(name: str) -> "ModelConfig":
    """The configuration of a preset, a GGUF file or a folder; weights are not read."""
    from myllm.config import ModelConfig
    from myllm.presets import PRESETS
    from myllm.quantization import store
    from myllm.weights import gguf, hub
    from myllm.weights.gguf_file import GGUFFile

    path = hub.SHIPPED.get(name) or expand(name)
    name = "smollm2-135m" if name == "smollm2" else name
    if name in PRESETS:
        return ModelConfig.preset(name)
    if path.suffix == ".gguf":
        return gguf.config(GGUFFile(path))
    if not path.is_dir():
        known = f"There is no model {name!r}; `myllm models` lists the names"
        raise UserError(f"{known}; {near(name, [*PRESETS, *hub.SHIPPED, 'smollm2'])}")
    if found := store.read_config(path):
        return found
    return ModelConfig.from_hf(hub.read_config(path))


def _sentences(name: str, c: "ModelConfig", T: int) -> str:
    shared = "" if c.n_kv_head == c.n_head else f", {c.n_kv_head} of keys and values"
    position = {"rope": "rotary positions", "learned": "learned positions", "none": "no positions"}
    return (
        f"{name}: {c.n_params:,} parameters\n"
        f"{c.n_layer} layers, {c.n_embd:,} wide, {c.n_head} heads of {c.head_dim}{shared}; "
        f"feed-forward {c.intermediate_size:,} ({c.mlp}, {c.activation})\n"
        f"{c.vocab_size:,} tokens, {'tied' if c.tie_embeddings else 'untied'} embeddings; "
        f"{position[c.position]}, context {c.block_size:,}\n"
        f"{c.flops_per_token(T) / 1e9:,.3f} GFLOP a token over {T:,} tokens, three times as many in training"
    )


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table in which all columns but the first hold numbers."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        header[0], *(Column(name, justify="right") for name in header[1:]), box=None, header_style="bold"
    )
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
