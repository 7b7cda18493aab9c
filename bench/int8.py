"""Bits per byte at fewer and fewer bits, outliers, and int8 on a real model: book/_results/int8.json.

    python -m bench.int8                  everything; SmolLM2 must have been downloaded
    python -m bench.int8 dial             one part: dial, outliers or real

Weights are rounded and used in float32, so that nothing but the rounding differs.
"""

import copy
import json
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bench.common import machine, origin
from bench.scoreboard import RESULTS, texts
from myllm import LLM
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import atomic_write
from myllm.model.transformer import Transformer
from myllm.quantization.affine import Group, quantize_affine
from myllm.quantization.int8 import DynamicInt8Linear, Int8Linear
from myllm.quantization.rotation import rotate
from myllm.quantization.swap import replace_linears

FILE = RESULTS / "int8.json"
BITS, GROUPS = (8, 7, 6, 5, 4, 3, 2), ("tensor", "row", 32)
PASSAGE = 4097  # tokens of Hamlet that a page scores again
REAL, WINDOW, LONG = 1025, 512, 4097


@cache
def load(name: str) -> tuple[LLM, Tensor]:
    """A model in float32, and the ids of the held-out text."""
    llm = LLM.from_pretrained(name, dtype=torch.float32)
    assert llm.tokenizer is not None
    text = texts()[1] if name == "course-base" else texts()[1][: 8 * LONG]
    return llm, torch.tensor(llm.tokenizer.encode(text))


def score(model: nn.Module, name: str, n: int | None = None) -> float:
    """Bits per byte of a model on the first n held-out tokens, all by default."""
    llm, ids = load(name)
    assert llm.tokenizer is not None
    ids = ids[:n]
    size = len(llm.tokenizer.decode(ids[1:].tolist()).encode())
    window = None if name == "course-base" else WINDOW
    return round(bits_per_byte(nll(model, ids, block_size=window), size), 4)


@torch.no_grad()
def rounded(
    model: Transformer, bits: int, group: Group, *, symmetric: bool = True, all_: bool
) -> Transformer:
    """A copy with rounded matrices: all of them, a tied table once, or all but embedding and head."""
    model = copy.deepcopy(model)
    for name, w in model.named_parameters():
        if w.ndim == 2 and (all_ or name.startswith("layers")):
            w.copy_(quantize_affine(w, bits, symmetric=symmetric, group=group).dequantize())
    return model


def dial() -> dict[str, Any]:
    """All matrices of course-base, its table too, at 32 and at 8 to 2 bits."""
    model = load("course-base")[0].model
    rows: list[dict[str, Any]] = []
    for bits, group in [(32, "row"), *((bits, group) for bits in BITS for group in GROUPS)]:
        changed = model if bits == 32 else rounded(model, bits, group, all_=True)
        row = {"bits": bits, "group": group, "bits_per_byte": score(changed, "course-base")}
        rows.append(row | {"passage": score(changed, "course-base", PASSAGE)})
        print(rows[-1], flush=True)
    return {"rows": rows}


@torch.inference_mode()
def peaks(model: Transformer, ids: Tensor) -> dict[str, list[float]]:
    """For each layer max / rms of the residual stream that enters it, and of the inputs of two projections.

    ``stream`` and the others take the median over positions, ``worst`` the largest one of the stream.
    ``channel`` is the largest rms of a channel of the stream, over the median one; ``first`` the length of
    the first token's vector, over the median length.
    """
    found: dict[str, list[float]] = {}

    def look(name: str, x: Tensor) -> None:
        length = x.norm(dim=-1)
        x = x.flatten(0, -2)
        peak = x.abs().amax(-1) / x.square().mean(-1).sqrt()
        found.setdefault(name, []).append(round(peak.median().item(), 2))
        if name == "stream":
            found.setdefault("worst", []).append(round(peak.max().item(), 2))
            first = (length[:, 0].mean() / length.median()).item()
            found.setdefault("first", []).append(round(first, 2))
            rms = x.square().mean(0).sqrt()
            found.setdefault("channel", []).append(round((rms.max() / rms.median()).item(), 2))

    hooks = [
        part.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0]))
        for layer in model.layers
        for name, part in {
            "stream": layer.input_layernorm,
            "attention": layer.self_attn.q_proj,
            "mlp": layer.mlp.gate_proj,
            "down": layer.mlp.down_proj,
        }.items()
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return found


def outliers() -> dict[str, Any]:
    """Peaks of both models on 512 tokens of Hamlet, before and after a rotation of the residual stream."""
    found: list[dict[str, Any]] = []
    for name, B, T in (("course-base", 2, 256), ("smollm2", 1, 512)):
        llm, ids = load(name)
        for rotated in (False, True):
            model = turned(name) if rotated else llm.model
            found.append({"model": name, "rotated": rotated, **peaks(model, ids[: B * T].view(B, T))})
            print({k: v if isinstance(v, str | bool) else v[::5] for k, v in found[-1].items()}, flush=True)
    return {"outliers": found}


@cache
def turned(name: str) -> Transformer:
    """The model after a rotation with seed 0."""
    model = copy.deepcopy(load(name)[0].model)
    rotate(model, seed=0)
    return model


class OneScale(Int8Linear):
    """The mistake: one activation scale for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N)."""
        step = x.abs().max() / 127
        return (x / step).round() @ self.codes.to(x.dtype).T * (step * self.scale.T)


def real() -> dict[str, Any]:
    """Int8 and 4 bits on both models, before and after the rotation: bits per byte on held-out text."""
    rows: list[dict[str, Any]] = []
    for name, n in (("course-base", PASSAGE), ("smollm2", REAL)):
        for rotated in (False, True):
            start = turned(name) if rotated else load(name)[0].model
            for scheme in ("float32", "int8", "int8-dynamic", "one scale", "int4"):
                if scheme == "float32":
                    model = start
                elif scheme.startswith("int"):
                    bits = 4 if scheme == "int4" else 8
                    model = rounded(start, bits, 32 if bits == 4 else "row", symmetric=bits == 8, all_=False)
                if scheme in ("int8-dynamic", "one scale"):
                    model = copy.deepcopy(start)
                    replace_linears(model, DynamicInt8Linear if scheme == "int8-dynamic" else OneScale)
                rows.append({"model": name, "rotated": rotated, "scheme": scheme, "tokens": n - 1})
                rows[-1]["bits_per_byte"] = score(model, name, n)
                print(rows[-1], flush=True)
    model = load("smollm2")[0].model
    for scheme, group in (("float32", None), ("int8", "row"), ("int8 by 32", 32)):
        if group is not None:
            model = rounded(load("smollm2")[0].model, 8, group, all_=False)
        rows.append({"model": "smollm2", "rotated": False, "scheme": scheme, "tokens": LONG - 1})
        rows[-1]["bits_per_byte"] = score(model, "smollm2", LONG)
        print(rows[-1], flush=True)
    llm, ids = load("smollm2")
    assert llm.tokenizer is not None
    per_token = len(llm.tokenizer.decode(ids[1:LONG].tolist()).encode()) / (LONG - 1)
    return {"real": rows, "bytes_per_token": round(per_token, 4)}


def main() -> None:
    """Measure the parts named on the command line, all by default, and write the file."""
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    parts = {"dial": dial, "outliers": outliers, "real": real}
    for name in sys.argv[1:] or parts:
        found |= parts[name]()
        found |= {"command": "python -m bench.int8", **origin(), "cpu": machine()["cpu"]}
        atomic_write(FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
