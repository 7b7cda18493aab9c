"""The forward pass in float32: our Transformer against `transformers` (sdpa), litgpt and its products alone.

Run ``python -m bench.forward``; needs `transformers`. litgpt keeps other packages back, so it wants an
environment of its own, and is left out where none is named:

    python -m venv .venv-litgpt
    .venv-litgpt/bin/pip install torch==2.13.0
    .venv-litgpt/bin/pip install litgpt==0.5.13
    MYLLM_LITGPT_PYTHON=.venv-litgpt/bin/python python -m bench.forward

Each side is a process of its own with the same weights, and does one pass when it is asked to. Whether glibc
gives large blocks back to the system after each pass, to be faulted in again, depends on what a process freed
before, and can cost a sixth of the time: all sides are told to keep them.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import ROOT, compare, machine, memory, paired, record, timed

GOAL, TOLERANCE = 0.98, 1e-4
OURS, LIMIT = "myllm", "its matrix products alone"
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
SHAPES = {  # layers, heads, width, vocabulary, texts, tokens of each
    "6x384": (6, 6, 384, 256, 8, 256),
    "gpt2-small": (12, 12, 768, 50_257, 1, 512),
}


def description(family: str, shape: str) -> dict[str, Any]:
    """The model as a Hugging Face ``config.json``, which all three are made from."""
    layers, heads, width, vocabulary, _, tokens = SHAPES[shape]
    common = {"model_type": family, "vocab_size": vocabulary, "tie_word_embeddings": True}
    if family == "gpt2":
        return common | {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": tokens}
    return common | {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "max_position_embeddings": tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
    }


# The sides. Each takes the description and the weights under Hugging Face's names, and returns a module and
# what maps ids to logits.


def myllm(hf: dict[str, Any], weights: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    from myllm.config import ModelConfig
    from myllm.model.transformer import Transformer
    from myllm.weights import convert

    config = ModelConfig.from_hf(hf)
    model = Transformer(config).eval()
    model.load_state_dict(convert.from_hf(weights, config, hf["model_type"]))
    return model, model


def transformers(hf: dict[str, Any], weights: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**hf, use_cache=False)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), (missing, unexpected)  # the tied head
    return model, lambda ids: model(ids).logits


def litgpt(hf: dict[str, Any], weights: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from litgpt import GPT, Config

    config = Config(
        block_size=hf["max_position_embeddings"],
        vocab_size=hf["vocab_size"],
        padded_vocab_size=hf["vocab_size"],
        n_layer=hf["num_hidden_layers"],
        n_head=hf["num_attention_heads"],
        n_embd=hf["hidden_size"],
        intermediate_size=hf["intermediate_size"],
        norm_class_name="RMSNorm",
        norm_eps=hf["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    names = {
        "norm_1": ["input_layernorm"],
        "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attn.proj": ["self_attn.o_proj"],
        "norm_2": ["post_attention_layernorm"],
        "mlp.fc_1": ["mlp.gate_proj"],
        "mlp.fc_2": ["mlp.up_proj"],
        "mlp.proj": ["mlp.down_proj"],
    }
    state = {
        f"transformer.h.{i}.{mine}.weight": torch.cat(
            [weights[f"model.layers.{i}.{one}.weight"] for one in theirs]
        )
        for i in range(config.n_layer)
        for mine, theirs in names.items()
    }
    table = weights["model.embed_tokens.weight"]
    state |= {"transformer.wte.weight": table, "lm_head.weight": table}
    model = GPT(config).eval()
    model.load_state_dict(state | {"transformer.ln_f.weight": weights["model.norm.weight"]})
    model.lm_head.weight = model.transformer.wte.weight
    return model, model


def work(side: str, folder: Path) -> None:
    """What the process of one side does: answer each line of standard input with a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print what they like
    import torch
    from torch import nn

    weights, ids, hf = (torch.load(folder / name) for name in ("weights.pt", "ids.pt", "hf.pt"))
    model, forward = globals()[side](hf, weights)
    del weights
    ctypes.CDLL(None).malloc_trim(0)  # what loading needed is no part of the memory of a pass
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    inputs = {n: torch.randn(ids.numel(), n) for n in {linear.in_features for linear in linears}}

    def products() -> None:
        for linear in linears:
            linear(inputs[linear.in_features])

    commands = {
        "memory": lambda: memory(lambda: forward(ids)),
        "logits": lambda: torch.save(forward(ids), folder / f"{side}.pt"),
        "forward": lambda: timed(lambda: forward(ids)),
        "products": lambda: timed(products),
        "versions": lambda: {"torch": torch.__version__} | ({} if side == OURS else {side: version(side)}),
    }
    with torch.inference_mode():
        for line in sys.stdin:
            print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


class Side:
    """The process of one side."""

    def __init__(self, python: str, *command: str) -> None:
        self.process = subprocess.Popen(
            [python, "-m", *command],
            cwd=ROOT,
            env=os.environ | KEEP,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, command: str) -> Any:
        """Have one of the commands of `work` carried out; its answer."""
        print(command, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def prepare(family: str, shape: str, folder: Path) -> tuple[int, int]:
    """Write the same random weights and ids for all; floating-point operations of the products and of all."""
    import torch

    from myllm.config import ModelConfig
    from myllm.model.transformer import Transformer
    from myllm.weights import convert

    torch.manual_seed(0)
    hf = description(family, shape)
    config = ModelConfig.from_hf(hf)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases of 0 and factors of 1 would hide a mistake
                parameter += 0.1 * torch.randn_like(parameter)
    *_, texts, tokens = SHAPES[shape]
    weights = {name: x.clone() for name, x in convert.to_hf(model.state_dict(), config, family).items()}
    torch.save(weights, folder / "weights.pt")
    torch.save(torch.randint(config.vocab_size, (texts, tokens)), folder / "ids.pt")
    torch.save(hf, folder / "hf.pt")
    products = texts * tokens * config.flops_per_token(0)
    causal = texts * tokens * (config.flops_per_token(tokens) - config.flops_per_token(0)) // 2
    return products, products + causal


def measure(family: str, shape: str, rounds: int, pythons: dict[str, str]) -> None:
    """One model: equal logits, then memory, then time in turns."""
    import torch

    layers, heads, width, vocabulary, texts, tokens = SHAPES[shape]
    with TemporaryDirectory() as name:
        folder = Path(name)
        products, everything = prepare(family, shape, folder)
        sides = {
            side: Side(python, "bench.forward", "--work", side, name) for side, python in pythons.items()
        }
        memory_mb = {side: one.ask("memory") for side, one in sides.items()}
        versions = {side: one.ask("versions") for side, one in sides.items()}
        assert len({one["torch"] for one in versions.values()}) == 1, versions
        for one in sides.values():
            one.ask("logits")
        logits = {side: torch.load(folder / f"{side}.pt") for side in sides}
        apart = {side: (logits[side] - logits[OURS]).abs().max().item() for side in sides}
        assert max(apart.values()) <= TOLERANCE < logits[OURS].std(), apart
        del logits
        asked = {side: (one, "forward") for side, one in sides.items()} | {LIMIT: (sides[OURS], "products")}
        cpu, wall = paired(asked, rounds, clock=lambda pair: pair[0].ask(pair[1]))
        for one in sides.values():
            one.process.communicate()
    peak = products / median(cpu[LIMIT])
    where = machine("myllm-course", "torch")
    where["versions"] |= {name: number for one in versions.values() for name, number in one.items()}
    record(
        "Forward pass",
        f"{family}, {layers} layers of width {width}, {heads} heads, vocabulary {vocabulary:,}, "
        f"{texts} x {tokens} tokens, float32, one thread, each side in a process of its own",
        machine=where,
        cpu_seconds={side: round(median(seconds), 3) for side, seconds in cpu.items()},
        gemm_gflops=round(peak / 1e9, 1),
        share_of_peak={side: round(everything / median(cpu[side]) / peak, 3) for side in sides},
        logits_apart=apart,
        comparisons=[
            *(compare(cpu, wall, OURS, side, goal=GOAL) for side in sides if side != OURS),
            compare(cpu, wall, OURS, LIMIT, limit=True),
        ],
        memory_mb=memory_mb,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", nargs="+", choices=["gpt2", "llama"], default=["gpt2", "llama"])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--work", nargs=2, metavar=("SIDE", "FOLDER"), help="be the process of one side")
    options = parser.parse_args()
    if options.work:
        return work(options.work[0], Path(options.work[1]))
    pythons = {OURS: sys.executable, "transformers": sys.executable}
    for family in options.families:
        rival = os.environ.get("MYLLM_LITGPT_PYTHON")
        other = {"litgpt": rival} if rival and family == "llama" else {}  # it has no learned positions
        for shape in options.shapes:
            measure(family, shape, options.rounds, pythons | other)
    return None


if __name__ == "__main__":
    main()
