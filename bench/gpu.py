"""What the model's seams are worth on one GPU: compiled training, and a decode step in a CUDA graph.

Run ``python -m bench.gpu``; it needs CUDA, and prints what it measures as JSON, one line each. First it
checks that the GPU gives the CPU's logits, compiled or not, with windows and documents.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from myllm.config import ModelConfig
from myllm.model.attention import prepare
from myllm.model.masks import causal, document
from myllm.model.transformer import Transformer

SMALL = {"vocab_size": 199, "block_size": 512, "n_layer": 4, "n_head": 4, "n_embd": 128}
KINDS = {
    "gpt2": ModelConfig.preset("gpt2", **SMALL),
    "llama": ModelConfig(**SMALL, n_kv_head=2),
    "window": ModelConfig(**SMALL, n_kv_head=2, window=100),
    "gemma2": ModelConfig(**SMALL, n_kv_head=2, window=100, full_attention_every=2, attention_softcap=20.0),
}
LLAMA_1B = ModelConfig.preset("tinyllama-1.1b", n_kv_head=8)
GPT2 = ModelConfig.preset("gpt2", vocab_size=50_304)


class WholeBuffer:
    """A buffer of fixed size, its length a tensor on the device: what a CUDA graph can be captured with."""

    def __init__(self, config: ModelConfig, rows: int, size: int, dtype: torch.dtype) -> None:
        shape = (config.n_layer, rows, config.n_kv_head, size, config.head_dim)
        self.k, self.v = (torch.zeros(shape, dtype=dtype, device="cuda") for _ in "kv")
        self.length = torch.zeros((), dtype=torch.int64, device="cuda")
        self.slots = torch.arange(size, device="cuda")

    def positions(self, T: int) -> Tensor:
        """The whole buffer's, -1 where it is empty."""
        self.new = self.length + self.slots[:T]
        self.length.add_(T)
        return torch.where(self.slots < self.length, self.slots, -1)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes in place; returns the whole buffer."""
        self.k[layer].index_copy_(2, self.new, k)
        self.v[layer].index_copy_(2, self.new, v)
        return self.k[layer], self.v[layer]


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Of one round, after warm-up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / rounds


def ceilings() -> tuple[float, float]:
    """FLOP/s of a large bf16 product, bytes per second of reading."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    flops = 2 * 8192**3 / seconds(lambda: a @ a, 20)
    x = torch.empty(1 << 30, device="cuda", dtype=torch.int64)
    read = x.nbytes / seconds(lambda: x.sum(), 20)
    say(what="ceilings", tflops=round(flops / 1e12), read_tb=round(read / 1e12, 2))
    return flops, read


def check() -> None:
    """The CPU's logits, eager and compiled, in at most two graphs over five lengths."""
    from torch._dynamo.utils import counters

    for name, config in KINDS.items():
        torch.manual_seed(0)
        model = Transformer(config).eval()
        ids = torch.randint(199, (2, 512))
        numbers = torch.arange(512).expand(2, 512) // 70
        with torch.no_grad():
            expected = [model(ids), model(ids, mask=causal & document(numbers))]
            model, there, numbers = model.cuda(), ids.cuda(), numbers.cuda()
            runs = {"eager": model, "compiled": torch.compile(model, fullgraph=True)}
            for how, run in runs.items():
                found = [run(there), run(there, mask=causal & document(numbers))]
                far = max((a.cpu() - b).abs().max().item() for a, b in zip(found, expected, strict=True))
                say(what="difference from the CPU", kind=name, how=how, largest=far)
                assert far < 1e-3, (name, how, far)
            if config.window is None:
                ready = prepare(
                    causal & document(numbers), torch.arange(512, device="cuda"), batch=2, heads=4
                )
                far = (runs["compiled"](there, mask=ready).cpu() - expected[1]).abs().max().item()
                say(what="difference from the CPU", kind=name, how="compiled, blocks", largest=far)
                assert ready.blocks is not None and far < 1e-3
            torch._dynamo.reset()
            counters.clear()
            run = torch.compile(model, fullgraph=True)
            for T in (300, 310, 400, 450, 512):
                run(there[:, :T])
            say(what="graphs over five lengths", kind=name, graphs=counters["stats"]["unique_graphs"])
        torch._dynamo.reset()


@torch.no_grad()
def decoding(read: float) -> None:
    """Tokens per second at batch 1: eager, in a CUDA graph, compiled and in a CUDA graph."""
    config, dtype = LLAMA_1B, torch.bfloat16
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Transformer(config).to(dtype).eval()
    prompt = torch.randint(32_000, (1, 64), device="cuda")
    held = sum(p.nbytes for p in model.parameters()) - model.embed_tokens.weight.nbytes
    texts = {}
    for how in ("eager", "CUDA graph", "compiled in a CUDA graph"):
        step = torch.compile(model, fullgraph=True) if how.startswith("compiled") else model
        cache = WholeBuffer(config, 1, 512, dtype)
        token = model(prompt, cache=cache, keep=-1).argmax(-1)

        def once(step=step, cache=cache, token=token) -> None:
            token.copy_(step(token, cache=cache, keep=-1).argmax(-1))

        run, written = once, []
        if how != "eager":
            start = cache.length.clone(), token.clone()
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(3):
                    once()
            torch.cuda.synchronize()
            cache.length.copy_(start[0]), token.copy_(start[1])
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                once()
            cache.length.copy_(start[0]), token.copy_(start[1])
            run = graph.replay
        for _ in range(24):
            run()
            written.append(token.item())
        texts[how] = written
        rate = 1 / seconds(run, 100)
        share = round(rate * held / read, 3)
        say(what="decoding 1.2B, bf16, batch 1", how=how, tokens_per_s=round(rate), of_bytes_read=share)
        torch._dynamo.reset()
    equal = texts["eager"] == texts["CUDA graph"]
    begin_alike = len({tuple(text[:16]) for text in texts.values()}) == 1
    say(what="the same greedy text", eager_and_graph=equal, first_16_of_all=begin_alike)


def training(flops: float) -> None:
    """GPT-2 small, compiled, weights held in bf16, fused AdamW; plain and with documents."""
    torch.manual_seed(0)
    B, T = 32, 1024
    with torch.device("cuda"):
        model = Transformer(GPT2).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    step = torch.compile(model, fullgraph=True)
    ids = torch.randint(50_257, (B, T + 1), device="cuda")
    numbers = torch.arange(T, device="cuda").expand(B, T) // 256

    def once(mask: Any = None) -> None:
        logits = step(ids[:, :-1], mask=mask)
        F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    rule, at = causal & document(numbers), torch.arange(T, device="cuda")
    blocks = prepare(rule, at, batch=B, heads=GPT2.n_head)
    for name, mask in (("causal", None), ("documents", rule), ("documents, prepared outside", blocks)):
        rate = B * T / seconds(lambda mask=mask: once(mask), 10)
        share = 3 * GPT2.flops_per_token(T) * rate / flops
        say(
            what="training GPT-2 small, batch 32 x 1024",
            mask=name,
            tokens_per_s=round(rate),
            of_peak=round(share, 3),
        )


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("This measures a GPU; there is none here.")
    say(what="machine", gpu=torch.cuda.get_device_name(), torch=torch.__version__)
    check()
    flops, read = ceilings()
    decoding(read)
    training(flops)


if __name__ == "__main__":
    main()
