"""Start-up: a published tokenizer from its name to its first ids, each time in a fresh interpreter.

Run ``python -m bench.load_tokenizer``. The clock starts when the function is imported and stops at the first
ids; a second row counts the whole process. Beside ours stand `transformers` on the same files, and the bare
library: the least that a start can cost. LLaMA-3 is measured where its vocabulary is installed.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from statistics import median

from bench.common import ROOT, machine, record
from bench.import_time import run

GOAL = 0.3  # seconds
ASSETS = ROOT / "myllm" / "tokenizers" / "assets"
GPT2 = {"vocab": str(ASSETS / "gpt2" / "encoder.json"), "merges": str(ASSETS / "gpt2" / "vocab.bpe")}
MISTRAL = {"model_file": str(ASSETS / "mistral/tokenizer.model")}
NAMES = ("gpt2", "mistral", "smollm2", *(["llama3"] if importlib.util.find_spec("llama_models") else []))
OURS = {f"load_tokenizer({name!r})": ("from myllm import load_tokenizer", name) for name in NAMES}
OTHERS = {
    "GPT2TokenizerFast, the same files": (
        "from transformers import GPT2TokenizerFast as load_tokenizer",
        GPT2,
    ),
    "SentencePieceProcessor, mistral's": (
        "from sentencepiece import SentencePieceProcessor as load_tokenizer",
        MISTRAL,
    ),
}
CALL = """
import json, time
{}
start = time.process_time(), time.perf_counter()
ids = load_tokenizer({}).encode("Hello, world! It's 1999.")
print(json.dumps([time.process_time() - start[0], time.perf_counter() - start[1], ids]))
"""


def code(imports: str, argument: str | dict[str, str]) -> str:
    return CALL.format(imports, repr(argument) if isinstance(argument, str) else f"**{argument!r}")


def call(program: str) -> tuple[float, float, list[int]]:
    """CPU and wall seconds of the call in a fresh interpreter, and the ids it gave."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    programs = {name: code(*how) for name, how in (OURS | OTHERS).items()}
    first = {name: call(program)[2] for name, program in programs.items()}  # and the files are now cached
    assert first["load_tokenizer('gpt2')"] == first["GPT2TokenizerFast, the same files"]
    assert first["load_tokenizer('mistral')"] == first["SentencePieceProcessor, mistral's"]
    seconds = {name: [] for name in [*programs, *(f"{name}, whole process" for name in OURS)]}
    for _ in range(options.rounds):
        for name, program in programs.items():
            seconds[name].append(call(program)[:2])
            if name in OURS:
                seconds[f"{name}, whole process"].append(run(("-c", program)))
    record(
        "Start-up of a tokenizer",
        "from the call to the first ids, a fresh interpreter each time, files in the page cache",
        machine=machine("tiktoken", "sentencepiece", "regex", "transformers"),
        start_up=[
            {"command": name, "goal": GOAL if name in OURS else None}
            | {
                kind: [round(f(column), 3) for f in (median, min, max)]
                for kind, column in zip(("cpu", "wall"), zip(*rows, strict=True), strict=True)
            }
            for name, rows in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
