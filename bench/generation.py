"""Writing, one text or eight at a time: the first token and each later one, against other libraries.

Run ``python -m bench.generation`` after ``myllm download smollm2``; needs `transformers`. Three rivals want
an environment of their own and are left out where none is named:

    python -m venv .venv-litgpt
    .venv-litgpt/bin/pip install torch==2.13.0 numpy
    .venv-litgpt/bin/pip install litgpt==0.5.13
    python -m venv .venv-llama
    .venv-llama/bin/pip install llama-cpp-python
    python -m venv .venv-torchao
    .venv-torchao/bin/pip install torch==2.13.0 transformers torchao
    MYLLM_LITGPT_PYTHON=… MYLLM_LLAMA_PYTHON=… MYLLM_TORCHAO_PYTHON=… python -m bench.generation

Goals compare with the other PyTorch libraries; llama.cpp stands beside them. A scheme of ours has activations
in float32 and the head in int8, torchao's in bfloat16; llama.cpp's q4_0 file has its head in four bits, too.

All continue the same 64 tokens greedily with a cache of keys and values, each side in a process of its own
with one thread; those in float32 must write the same. SmolLM2 has its published weights, GPT-2 random ones.
litgpt has no learned positions and llama.cpp's binding no batches, so each is missing where it cannot go.
The limit is the products with the model's weights and nothing else: no attention, norm or activation.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import bench.common as common  # before torch: it sets the threads
from bench.forward import Side

PROMPT, NEW = 64, 32
# Goals for one text: bfloat16 and quantized against the fastest rival in bfloat16, and of the limit.
FASTER, QUANTIZED, FLOOR = 1.3, 2.0, 0.9
FLOAT, LIMIT = "float32", "the linears alone"


def ids_of(rows: int) -> Any:
    """The prompts (rows, PROMPT), the same in every process: one row of ids.json repeated."""
    import torch

    return torch.tensor(json.loads(Path("ids.json").read_text())).expand(rows, -1)


class Ours:
    """This package; `kind` is a dtype, or a scheme, with the head in int8 (dynamic for int8-dynamic)."""

    def __init__(self, kind: str) -> None:
        import torch

        from myllm import LLM, quantize

        scheme = kind.startswith("int")
        self.dtype = torch.float32 if scheme else getattr(torch, kind)
        self.model = LLM.from_pretrained(Path.cwd(), dtype=self.dtype).model
        if scheme:
            quantize(self.model, kind, head=kind if kind == "int8-dynamic" else "int8")

    def write(self, rows: int, new: int) -> list[list[int]]:
        """What it writes, (rows, new)."""
        import torch

        from myllm.inference.generate import decode, new_cache

        cache = new_cache(self.model, rows, PROMPT + new)
        return torch.stack([*decode(self.model, ids_of(rows), steps=new, cache=cache)], dim=1).tolist()

    def products(self, rows: int, new: int) -> None:
        """Only the products with its weights."""
        import torch
        from torch import nn

        linears = [one for one in self.model.layers.modules() if isinstance(one, nn.Linear)]
        wide = {one.in_features for one in linears}
        with torch.inference_mode():
            for step in range(new):
                tokens = rows * (1 if step else PROMPT)
                inputs = {n: torch.ones(tokens, n, dtype=self.dtype) for n in wide}
                for linear in linears:
                    linear(inputs[linear.in_features])
                self.model.lm_head(inputs[self.model.config.n_embd][:rows])


class Transformers:
    """The library `transformers`; `kind` is a dtype, with "compiled" a static cache and compiled steps."""

    def __init__(self, kind: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        dtype, _, self.compiled = kind.partition(", ")
        model = AutoModelForCausalLM.from_pretrained(Path.cwd(), dtype=getattr(torch, dtype)).eval()
        if self.compiled:
            model.forward = torch.compile(model.forward, dynamic=False)
        self.model = model

    def write(self, rows: int, new: int) -> list[list[int]]:
        """What it writes, (rows, new)."""
        import torch

        ids = ids_of(rows)
        cache = {"cache_implementation": "static", "disable_compile": True} if self.compiled else {}
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                **cache,
            )
        return out[:, PROMPT:].tolist()


class TorchAO(Transformers):
    """torchao's weights in int8 in the model of `transformers`, in bfloat16, as its README uses it."""

    def __init__(self, kind: str) -> None:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        super().__init__(kind.replace("int8", "bfloat16"))
        quantize_(self.model, Int8WeightOnlyConfig())


class LitGPT:
    """litgpt's model and cache in the loop that its own `generate` has."""

    def __init__(self, kind: str) -> None:
        import torch
        from litgpt import GPT, Config
        from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
        from safetensors.torch import load_file

        self.dtype = getattr(torch, kind)
        config, weights = Config.from_name("SmolLM2-135M"), {}
        copy_weights_hf_llama(config, {}, weights, load_file("model.safetensors"))
        weights.setdefault("lm_head.weight", weights["transformer.wte.weight"])
        self.model = GPT(config).eval()
        self.model.load_state_dict(weights)
        self.model.to(self.dtype)
        self.model.max_seq_length = PROMPT + NEW + 1

    def write(self, rows: int, new: int) -> list[list[int]]:
        """What it writes, (rows, new)."""
        import torch

        found = []
        with torch.inference_mode():
            self.model.clear_kv_cache()
            self.model.set_kv_cache(batch_size=rows, dtype=self.dtype)
            ids, places = ids_of(rows), torch.arange(PROMPT)
            for _ in range(new):
                ids = self.model(ids, input_pos=places)[:, -1].argmax(-1, keepdim=True)
                places = places[-1:] + 1
                found.append(ids)
        return torch.cat(found, dim=1).tolist()


class LlamaCpp:
    """llama.cpp by its Python binding; `kind` is that of the GGUF file."""

    def __init__(self, kind: str) -> None:
        from llama_cpp import Llama

        self.model = Llama(
            f"{kind}.gguf", n_ctx=PROMPT + NEW + 1, n_threads=1, n_threads_batch=1, verbose=False
        )

    def write(self, rows: int, new: int) -> list[list[int]]:
        """What it writes, (rows, new)."""
        from itertools import islice

        assert rows == 1
        self.model.reset()
        ids = json.loads(Path("ids.json").read_text())
        return [[*islice(self.model.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0), new)]]


LIBRARIES: dict[str, tuple[Any, str, str]] = {  # name: class, package, variable that names its Python
    "myllm": (Ours, "myllm-course", ""),
    "transformers": (Transformers, "transformers", ""),
    "torchao": (TorchAO, "torchao", "MYLLM_TORCHAO_PYTHON"),
    "litgpt": (LitGPT, "litgpt", "MYLLM_LITGPT_PYTHON"),
    "llama.cpp": (LlamaCpp, "llama_cpp_python", "MYLLM_LLAMA_PYTHON"),
}
KINDS = {
    "myllm": (FLOAT, "bfloat16", "int8", "int8-dynamic", "int4"),
    "transformers": (FLOAT, f"{FLOAT}, compiled", "bfloat16", "bfloat16, compiled"),
    "torchao": ("int8", "int8, compiled"),
    "litgpt": (FLOAT, "bfloat16"),
    "llama.cpp": ("f32", "f16", "q8_0", "q4_0"),
}
PEERS = (
    ("int8", "torchao int8, compiled"),
    (FLOAT, "llama.cpp f32"),
    ("bfloat16", "llama.cpp f16"),
    ("int8", "llama.cpp q8_0"),
    ("int8-dynamic", "llama.cpp q8_0"),
    ("int4", "llama.cpp q4_0"),
)
SCHEMES = ("int8", "int8-dynamic", "int4")
EXACT = ("float32", "float32, compiled", "f32")  # kinds whose texts must be equal


def work(library: str, kind: str, folder: str) -> None:
    """What the process of one side does: answer each line of standard input with a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print what they like
    os.chdir(folder)
    if library != "llama.cpp":
        import torch

        torch.set_num_threads(1)
    side = LIBRARIES[library][0](kind)
    for line in sys.stdin:
        what, *numbers = line.split()
        rows, new = map(int, numbers)
        if what == "version":
            found: Any = version(LIBRARIES[library][1])
        elif what == "text":
            found = side.write(rows, new)
        else:
            run = side.products if what == "products" else side.write
            found = common.timed(lambda run=run, rows=rows, new=new: run(rows, new))
        print(json.dumps(found), file=answers, flush=True)


def start(library: str, kind: str, folder: str) -> Side:
    """Start the process of one side."""
    variable = LIBRARIES[library][2]
    python = os.environ[variable] if variable else sys.executable
    return Side(python, "bench.generation", "--work", library, kind, folder)


def write_models(name: str, folder: str) -> None:
    """The model as a folder and as GGUF files, and the ids of the prompt."""
    import torch

    from myllm import LLM, ModelConfig, Transformer
    from myllm.data import corpus, downloads

    if name == "SmolLM2":
        if downloads.find("smollm2") is None:
            sys.exit("Run `myllm download smollm2` first.")
        llm = LLM.from_pretrained("smollm2")
        assert llm.tokenizer is not None
        ids = llm.tokenizer.encode(corpus.text("sotu")[100_000:101_000])[:PROMPT]
        for kind in KINDS["llama.cpp"] if os.environ.get("MYLLM_LLAMA_PYTHON") else ():
            llm.save_gguf(Path(folder, f"{kind}.gguf"), kind=kind)
    else:
        torch.manual_seed(0)
        llm = LLM(Transformer(ModelConfig.preset("gpt2")))
        ids = torch.randint(llm.config.vocab_size, (PROMPT,)).tolist()
    llm.save_pretrained(folder)
    Path(folder, "ids.json").write_text(json.dumps(ids))


def sides_for(name: str, rows: int) -> list[tuple[str, str]]:
    """The libraries and kinds that can write with this model and so many rows here."""
    found = [(library, kind) for library in KINDS for kind in KINDS[library]]
    here = [(a, b) for a, b in found if not LIBRARIES[a][2] or os.environ.get(LIBRARIES[a][2])]
    able = [(a, b) for a, b in here if name == "SmolLM2" or a not in ("litgpt", "llama.cpp")]
    return [(a, b) for a, b in able if rows == 1 or a != "llama.cpp"]


def measure(name: str, rows: int, rounds: int) -> None:
    """One model and number of rows: equal texts, then the sides in turns; record both times."""
    with TemporaryDirectory() as folder:
        write_models(name, folder)
        sides = {f"{a} {b}": start(a, b, folder) for a, b in sides_for(name, rows)}
        texts = {side: one.ask(f"text {rows} {NEW + 1}") for side, one in sides.items()}
        mine = f"myllm {FLOAT}"
        for side in sides:
            if side.split(" ", 1)[1] in EXACT:
                assert texts[side] == texts[mine], (side, texts[side], texts[mine])
        asked = {(side, new): (sides[side], f"write {rows} {new}") for side in sides for new in (1, NEW + 1)}
        limits = {f"{LIMIT}, {dtype}": sides[f"myllm {dtype}"] for dtype in (FLOAT, "bfloat16")}
        for limit, one in limits.items():
            asked |= {(limit, new): (one, f"products {rows} {new}") for new in (1, NEW + 1)}
        named = {f"{side}, {new}": pair for (side, new), pair in asked.items()}
        cpu, wall = common.paired(named, rounds, clock=lambda pair: pair[0].ask(pair[1]))
        versions = {LIBRARIES[a][1]: sides[f"{a} {b}"].ask("version 1 1") for a, b in sides_for(name, rows)}
        for one in sides.values():
            one.process.communicate()
    where = common.machine("torch")
    where["versions"] |= versions

    def split(seconds: common.Seconds, first: bool) -> common.Seconds:
        """Seconds of the first token, or of each later one."""
        found: common.Seconds = {}
        for side in (*sides, *limits):
            start, whole = seconds[f"{side}, 1"], seconds[f"{side}, {NEW + 1}"]
            found[side] = start if first else [(b - a) / NEW for a, b in zip(start, whole, strict=True)]
        return found

    for title, first in ((f"the first token after {PROMPT}", True), ("each later token", False)):
        c, w = split(cpu, first), split(wall, first)
        rivals = [side for side in sides if side.split()[0] in ("transformers", "litgpt")]
        low, full = (
            min((r for r in rivals if d in r), key=lambda r: median(c[r])) for d in ("bfloat", FLOAT)
        )
        goals = {FLOAT: (full, 1.0), "bfloat16": (low, 1.0 if first or rows > 1 else FASTER)}
        goals |= {scheme: (low, 1.0 if first or rows > 1 else QUANTIZED) for scheme in SCHEMES}
        rows_of = [
            common.compare(c, w, f"myllm {kind}", rival, goal=goal) for kind, (rival, goal) in goals.items()
        ]
        rows_of += [common.compare(c, w, f"myllm {ours}", other) for ours, other in PEERS if other in sides]
        for limit in limits:
            side = f"myllm {limit.removeprefix(f'{LIMIT}, ')}"
            rows_of.append(common.compare(c, w, side, limit, limit=True, goal=None if first else FLOOR))
        common.record(
            "Writing",
            f"{name}, {title}, {'one text' if rows == 1 else f'{rows} texts at a time'}",
            machine=where,
            comparisons=rows_of,
            milliseconds={side: round(1000 * median(s), 2) for side, s in c.items()},
        )


def main() -> None:
    """Measure, or be one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=["SmolLM2", "GPT-2"], default=["SmolLM2", "GPT-2"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="texts at a time")
    parser.add_argument("--work", nargs=3, metavar=("LIBRARY", "KIND", "FOLDER"), help="be one side")
    options = parser.parse_args()
    if options.work:
        return work(*options.work)
    for name in options.models:
        for rows in options.rows:
            measure(name, rows, options.rounds)
    return None


if __name__ == "__main__":
    main()
