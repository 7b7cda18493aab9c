"""What chapter 16 reads from a file: formats at equal bits spent, mixed bits, and SmolLM2 in four bits.

    python -m bench.int4              everything, about ten CPU minutes; SmolLM2 must have been downloaded
    python -m bench.int4 front        one part: front, mixed or smollm2

The front and the mixed bits are those of course-base, whose weights are ours and on no grid. All matrices but
the table, which is also the head, are replaced by what a format makes of them. Bits are counted with all that
a format stores. Losses are those on windows of the held-out text; calibration uses the training text only.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import gguf
import torch
from torch import Tensor, nn

from bench.common import machine, origin
from bench.scoreboard import RESULTS, texts
from myllm import LLM, Transformer
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import atomic_write
from myllm.quantization.affine import Affine, quantize_affine
from myllm.quantization.gptq import gptq_model
from myllm.quantization.nf4 import NF4Linear
from myllm.quantization.rotation import rotate
from myllm.quantization.schemes import quantize

FILE = RESULTS / "int4.json"
WIDTH, HELD_OUT, CALIBRATION, FEW = 256, 128, 128, 16  # tokens in a window, and windows
CHOICES = (2, 3, 4)
GROUP = 32
Rounding = Callable[[Tensor], Tensor]


@cache
def course_base() -> LLM:
    """The book's model, in float32."""
    return LLM.from_pretrained("course-base", dtype=torch.float32)


def windows(text: str, n: int) -> Tensor:
    """Windows (n, WIDTH) of a text, evenly spread."""
    tokenizer = course_base().tokenizer
    assert tokenizer is not None
    ids = torch.tensor(tokenizer.encode(text))
    starts = range(0, len(ids) - WIDTH, len(ids) // n)
    return torch.stack([ids[i : i + WIDTH] for i in starts])[:n]


@cache
def calibration() -> Tensor:
    """Windows of the training text."""
    return windows(texts()[0], CALIBRATION)


@torch.inference_mode()
def log_probs(model: nn.Module, rows: Tensor) -> Tensor:
    """The log-probabilities (B, T - 1, V) with which the model predicts all tokens but the first."""
    return torch.cat([model(part).log_softmax(-1)[:, :-1] for part in rows.split(8)])


class Judge:
    """Measures a model against the original one on some windows."""

    def __init__(self, rows: Tensor) -> None:
        tokenizer = course_base().tokenizer
        assert tokenizer is not None
        self.rows, self.original = rows, log_probs(course_base().model, rows)
        self.size = sum(len(tokenizer.tokens[i]) for i in rows[:, 1:].flatten().tolist())

    def bpb(self, log_p: Tensor) -> float:
        """The loss in bits per byte."""
        found = log_p.gather(-1, self.rows[:, 1:, None])
        return -found.sum().item() / math.log(2) / self.size

    def divergence(self, log_p: Tensor) -> Tensor:
        """The KL divergence from the original predictions, in bits, of each token (B, T - 1)."""
        parts = zip(self.original.split(8), log_p.split(8), strict=True)
        return torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in parts]) / math.log(2)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The loss, the divergence in bits per byte, and in bits per token on the first windows."""
        log_p = log_probs(model, self.rows)
        kl = self.divergence(log_p)
        found = {"bpb": self.bpb(log_p), "kl": kl.sum().item() / self.size, "first": kl[:FEW].mean().item()}
        return {name: round(value, 5) for name, value in found.items()}


def matrices(model: Transformer) -> dict[str, nn.Linear]:
    """The layers that are quantized, by name."""
    found = model.named_modules()
    return {name: one for name, one in found if isinstance(one, nn.Linear) and name != "lm_head"}


@torch.no_grad()
def replaced(choose: Callable[[str], Rounding | None]) -> Transformer:
    """A copy of the model in which the weight of each layer is what a format makes of it."""
    model = deepcopy(course_base().model)
    for name, layer in matrices(model).items():
        if (rounding := choose(name)) is not None:
            layer.weight.copy_(rounding(layer.weight))
    return model


def affine(bits: int, group: int, symmetric: bool = False) -> Rounding:
    """Round to affine grids; blocks may cross the borders of rows. Scales are stored in float16."""

    def rounding(w: Tensor) -> Tensor:
        q = quantize_affine(w.reshape(-1, group), bits, symmetric=symmetric)
        return q._replace(scale=q.scale.half().float()).dequantize().view_as(w)

    return rounding


def nf4(block: int, double: bool) -> Rounding:
    """Round to NF4."""

    def rounding(w: Tensor) -> Tensor:
        layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
        layer.weight = nn.Parameter(w)
        return NF4Linear(layer, block=block, double=double).dequantize()

    return rounding


def blocks(kind: str) -> Rounding:
    """Round to a type of GGUF, by the library."""
    code = gguf.GGMLQuantizationType[kind]
    return lambda w: torch.from_numpy(gguf.dequantize(gguf.quantize(w.detach().numpy(), code), code))


def compensated(bits: int, group: int) -> Transformer:
    """GPTQ on affine grids, layer after layer."""
    model = deepcopy(course_base().model)

    def store(linear: nn.Linear, q: Affine) -> nn.Module:
        layer = nn.Linear(linear.in_features, linear.out_features, bias=False)
        layer.weight = nn.Parameter(q.dequantize(torch.float32))
        return layer

    gptq_model(model, calibration().split(16), bits=bits, group=group, store=store)
    return model


def front() -> dict[str, Any]:
    """Every format on one model."""
    judge = Judge(windows(texts()[1], HELD_OUT))
    rows: list[dict[str, Any]] = []

    def add(family: str, name: str, bits: float, model: Transformer) -> None:
        rows.append({"family": family, "name": name, "bits": round(bits, 4), **judge(model)})
        print(rows[-1], flush=True)

    def one(rounding: Rounding) -> Transformer:
        return replaced(lambda _: rounding)

    for bits, groups in {4: (32, 64, 128), 3: (32, 64, 128), 2: (32, 64)}.items():
        for group in groups:
            name = f"affine {bits} bits, groups of {group}"
            add("affine", name, bits + 24 / group, one(affine(bits, group)))
    for bits, group in ((4, 32), (4, 64)):
        name = f"symmetric {bits} bits, groups of {group}"
        add("symmetric", name, bits + 16 / group, one(affine(bits, group, symmetric=True)))
    for block, double in ((32, True), (64, True), (64, False), (128, True)):
        extra = 8 / block + 32 / (256 * block) if double else 32 / block
        name = f"NF4, blocks of {block}{', double' * double}"
        add("nf4", name, 4 + extra, one(nf4(block, double)))
    for kind, bits in {"Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5.0, "MXFP4": 4.25}.items():
        add(kind.lower() if kind == "MXFP4" else "gguf", kind, bits, one(blocks(kind)))
    for bits, groups in {4: (32, 64), 3: (32, 64), 2: (32, 64)}.items():
        for group in groups:
            name = f"GPTQ {bits} bits, groups of {group}"
            add("gptq", name, bits + 24 / group, compensated(bits, group))
    return {"original": round(judge.bpb(judge.original), 5), "front": rows}


def spend(table: dict[str, dict[str, float]], sizes: dict[str, int], budget: float) -> dict[str, str]:
    """The bits of each matrix: the next one always goes where it lowers the loss most for its cost."""
    chosen = dict.fromkeys(table, str(CHOICES[0]))

    def gain(name: str) -> float:
        now, more = chosen[name], str(int(chosen[name]) + 1)
        return (table[name][now] - table[name][more]) / sizes[name] if more in table[name] else -1

    left = budget - CHOICES[0] * sum(sizes.values())
    while names := [name for name in table if sizes[name] <= left and gain(name) > 0]:
        best = max(names, key=gain)
        chosen[best], left = str(int(chosen[best]) + 1), left - sizes[best]
    return chosen


def mixed() -> dict[str, Any]:
    """What each matrix alone loses with few bits, on training text, and what comes of a choice by it."""
    judge = Judge(calibration()[:: CALIBRATION // FEW])
    sizes = {name: layer.weight.numel() for name, layer in matrices(course_base().model).items()}
    table: dict[str, dict[str, float]] = {}
    for name in sizes:
        alone = {
            str(bits): replaced(lambda n, name=name, bits=bits: affine(bits, GROUP) if n == name else None)
            for bits in CHOICES
        }
        table[name] = {bits: judge(model)["first"] for bits, model in alone.items()}
        print(name, table[name], flush=True)
    last = Judge(windows(texts()[1], HELD_OUT))
    chosen = spend(table, sizes, 3 * sum(sizes.values()))
    rows: list[dict[str, Any]] = []
    for name, bits in (("3 bits everywhere", dict.fromkeys(sizes, "3")), ("mixed by sensitivity", chosen)):
        spent = sum(int(bits[one]) * size for one, size in sizes.items()) / sum(sizes.values())
        model = replaced(lambda one, bits=bits: affine(int(bits[one]), GROUP))
        rows.append({"name": name, "bits": round(spent + 24 / GROUP, 4), **last(model)})
        print(rows[-1], flush=True)
    return {"mixed": {"sensitivity": table, "sizes": sizes, "chosen": chosen, "rows": rows}}


def smollm2() -> dict[str, Any]:
    """The real model, rotated, in several schemes: bytes, loss on the beginning of Hamlet, an answer."""
    hamlet, rows = texts()[1][:8000], list[dict[str, Any]]()
    schemes: Sequence[tuple[str, str | None, dict[str, Any]]] = (
        ("float32", None, {}),
        ("int8, rows", "int8", {}),
        ("affine, groups of 32", "int4", {}),
        ("NF4, double", "nf4", {}),
        ("GPTQ, groups of 32", "gptq", {}),
    )
    for name, scheme, options in schemes:
        llm = LLM.from_pretrained("smollm2", dtype=torch.float32)
        assert llm.tokenizer is not None
        sizes = [layer.weight.numel() for layer in matrices(llm.model).values()]
        rotate(llm.model)
        if scheme is not None:
            if scheme == "gptq":
                ids = torch.tensor(llm.tokenizer.encode(texts()[0][:200_000])[: FEW * 512])
                options = {"calibration": [*ids.view(FEW, 1, 512)]}
            quantize(llm.model, scheme, **options)
        layers = [one for one in llm.model.modules() if hasattr(one, "bits_per_weight")]
        nbytes: float = sum(one.nbytes for one in layers) if layers else 4 * sum(sizes)  # pyright: ignore
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        row: dict[str, Any] = {"name": name, "bits": round(8 * nbytes / sum(sizes), 4)}
        row |= {"megabytes": round(nbytes / 1e6, 2), "text": llm.chat(messages, max_new_tokens=12)}
        loss = bits_per_byte(nll(llm, hamlet, block_size=512), len(hamlet.encode()) - 1)
        rows.append(row | {"bpb": round(loss, 4)})
        print(rows[-1], flush=True)
    return {"smollm2": {"rows": rows}}


def main() -> None:
    """Measure the parts named on the command line, all by default, and write the file."""
    parts = {"front": front, "mixed": mixed, "smollm2": smollm2}
    for name in sys.argv[1:] or parts:
        found = parts[name]()
        kept = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
        kept |= found | {"command": "python -m bench.int4", **origin(), "cpu": machine()["cpu"]}
        atomic_write(FILE, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
