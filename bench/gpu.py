"""Training and decoding on one GPU: `Trainer` against compiled transformers, a decode step in a CUDA graph.

    python -m bench.gpu             under five minutes on a GPU; one line of JSON for each result
    python -m bench.gpu --smoke     the same code with tiny models on a CPU, without compiling and CUDA graphs

The parts run in the order of their importance: training in three sizes, decoding, and a check that the GPU
gives the CPU's logits, compiled or not, with windows and documents. A part that would begin after
``--seconds`` is left out, which is said, since a part takes less than a minute and a half.
"""

import argparse
import gc
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import bench.common as common
from myllm.config import ModelConfig
from myllm.model.attention import prepare
from myllm.model.cache import StaticCache
from myllm.model.masks import causal, document
from myllm.model.transformer import Transformer
from myllm.training.loop import TrainConfig, Trainer
from myllm.training.pretrain import Pretrain

SMALL = {"vocab_size": 199, "block_size": 512, "n_layer": 4, "n_head": 4, "n_embd": 128}
KINDS = {
    "gpt2": ModelConfig.preset("gpt2", **SMALL),
    "llama": ModelConfig(**SMALL, n_kv_head=2),
    "window": ModelConfig(**SMALL, n_kv_head=2, window=100),
    "gemma2": ModelConfig(**SMALL, n_kv_head=2, window=100, full_attention_every=2, attention_softcap=20.0),
}
LLAMA = {"vocab_size": 32_000, "rope_theta": 10_000.0}
TRAINING = {  # family in transformers, configuration, rows, least share of the peak
    "124M": ("gpt2", ModelConfig.preset("gpt2", vocab_size=50_304), 32, 0.65),
    "0.46B": (
        "llama",
        ModelConfig(**LLAMA, block_size=1024, n_layer=24, n_head=16, n_embd=1024, intermediate_size=4096),
        16,
        0.65,
    ),
    "1.3B": (
        "llama",
        ModelConfig(**LLAMA, block_size=2048, n_layer=24, n_head=16, n_embd=2048, intermediate_size=5504),
        8,
        0.73,
    ),
}
DECODING = ModelConfig.preset("tinyllama-1.1b", n_kv_head=8)
TINY = {"vocab_size": 199, "block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}
SMOKE = {
    "GPT-2": ("gpt2", ModelConfig.preset("gpt2", **TINY), 2, None),
    "LLaMA": ("llama", ModelConfig(**TINY, intermediate_size=64), 2, None),
}
OURS, RIVAL, FASTER = "myllm", "transformers", 1.25
UPDATES = 4
"""Updates that are timed as one."""


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Of one round, after warm-up."""
    for _ in range(3):
        run()
    wait()
    start = time.perf_counter()
    for _ in range(rounds):
        run()
    wait()
    return (time.perf_counter() - start) / rounds


def ceilings(device: str) -> tuple[float, float]:
    """FLOP/s of a large bf16 product, bytes per second of reading."""
    n, size = (8192, 1 << 30) if device == "cuda" else (256, 1 << 20)
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    flops = 2 * n**3 / seconds(lambda: a @ a, 20)
    x = torch.ones(size, device=device, dtype=torch.int64)
    read = x.nbytes / seconds(lambda: x.sum(), 20)
    say(what="ceilings", tflops=round(flops / 1e12, 3), read_tb=round(read / 1e12, 3))
    return flops, read


def ours(model: Transformer, ids: Tensor, compiled: bool) -> Callable[[], float]:
    """One update of our loop, in bf16 with fp32 masters, always on the same batch; its loss."""

    class Same(Pretrain):
        """One batch in place of a loader's."""

        def __init__(self) -> None:
            self.z_loss = 0.0

        def share(self, rank: int, world: int) -> None: ...
        def state_dict(self) -> dict[str, Any]:
            return {}

    options = TrainConfig(steps=10**6, lr=3e-4, schedule="constant", precision="bf16", compile=compiled)
    trainer = Trainer(model, Same(), options)
    assert not trainer.notes, trainer.notes
    stream = itertools.repeat((ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
    return lambda: trainer.update(stream)["loss"]


def rival(model: Transformer, family: str, ids: Tensor, compiled: bool) -> Callable[[], float]:
    """One update of transformers' model of the same weights, compiled, in autocast; its loss."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from myllm.weights import convert

    settings = {k: v for k, v in model.config.to_hf().items() if k != "model_type"}
    settings |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0) if family == "gpt2" else {}
    config = AutoConfig.for_model(family, **settings, use_cache=False)
    with ids.device:
        other = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    other.load_state_dict(convert.to_hf(model.state_dict(), model.config, family), strict=False)
    other.tie_weights()
    other.train()
    optimizer = torch.optim.AdamW(other.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
    call: Any = torch.compile(other) if compiled else other
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def update() -> float:
        with torch.autocast(ids.device.type, torch.bfloat16):
            loss = call(x, labels=x, shift_labels=y).loss
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return update


def training(
    name: str, family: str, config: ModelConfig, rows: int, goal: float | None, *, flops: float, device: str
) -> None:
    """One size: equal first losses, then both sides in turns."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Transformer(config)
        ids = torch.randint(config.vocab_size, (rows, config.block_size + 1))
    compiled = device == "cuda"
    sides = {RIVAL: rival(model, family, ids, compiled), OURS: ours(model, ids, compiled)}
    losses = {side: run() for side, run in sides.items()}
    assert abs(losses[OURS] - losses[RIVAL]) < 2e-2, losses

    def clock(run: Callable[[], float]) -> tuple[float, float]:
        def updates() -> None:
            for _ in range(UPDATES):
                run()
            wait()

        return common.timed(updates)

    _, wall = common.paired(sides, 5, clock)
    tokens = UPDATES * rows * config.block_size
    rates = {side: tokens / sorted(found)[len(found) // 2] for side, found in wall.items()}
    work = 3 * config.flops_per_token(config.block_size) / flops
    say(
        what=f"training {name}, {rows} x {config.block_size} tokens",
        parameters=config.n_params,
        compiled=compiled,
        losses=losses,
        tokens_per_s={side: round(rate) for side, rate in rates.items()},
        of_peak={side: round(work * rate, 3) for side, rate in rates.items()},
        goal_of_peak=goal,
        times_as_fast=common.ratio(wall, OURS, RIVAL),
        goal_times=FASTER,
    )


@torch.no_grad()
def decoding(config: ModelConfig, *, read: float, device: str) -> None:
    """Tokens per second at batch 1: eager, in a CUDA graph, compiled and in a CUDA graph."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Transformer(config).bfloat16().eval()
        prompt = torch.randint(config.vocab_size, (1, 64))
    held = sum(p.nbytes for p in model.parameters()) - model.embed_tokens.weight.nbytes
    texts = {}
    for how in ("eager", "CUDA graph", "compiled in a CUDA graph"):
        if how != "eager" and device != "cuda":
            say(what="left out", part=f"decoding, {how}", why="there is no GPU")
            continue
        step = torch.compile(model, fullgraph=True) if how.startswith("compiled") else model
        cache = StaticCache(config, 1, 512, dtype=torch.bfloat16, device=device)
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
        say(
            what=f"decoding {config.n_params:,} parameters, bf16, batch 1",
            how=how,
            tokens_per_s=round(rate),
            of_bytes_read=share,
        )
        torch._dynamo.reset()
    if device != "cuda":
        return
    equal = texts["eager"] == texts["CUDA graph"]
    begin_alike = len({tuple(text[:16]) for text in texts.values()}) == 1
    say(what="the same greedy text", eager_and_graph=equal, first_16_of_all=begin_alike)


def check(device: str) -> None:
    """The CPU's logits, eager and compiled, in at most two graphs over five lengths."""
    from torch._dynamo.utils import counters

    for name, config in KINDS.items():
        torch.manual_seed(0)
        model = Transformer(config).eval()
        ids = torch.randint(199, (2, 512))
        numbers = torch.arange(512).expand(2, 512) // 70
        with torch.no_grad():
            expected = [model(ids), model(ids, mask=causal & document(numbers))]
            model, there, numbers = model.to(device), ids.to(device), numbers.to(device)
            runs: dict[str, Any] = {"eager": model}
            if device == "cuda":
                runs["compiled"] = torch.compile(model, fullgraph=True)
            for how, run in runs.items():
                found = [run(there), run(there, mask=causal & document(numbers))]
                far = max((a.cpu() - b).abs().max().item() for a, b in zip(found, expected, strict=True))
                say(what="difference from the CPU", kind=name, how=how, largest=far)
                assert far < 1e-3, (name, how, far)
            if device != "cuda":
                continue
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--seconds", type=float, default=200.0, help="no part begins later")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        raise SystemExit("This measures a GPU, and there is none here; --smoke runs it on the CPU.")
    begun, device = time.monotonic(), "cpu" if options.smoke else "cuda"
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    say(what="machine", gpu=gpu, smoke=options.smoke, **common.machine("torch", "transformers"))
    if device == "cpu":
        say(what="left out", part="compiling", why="it takes minutes on a CPU")
    flops, read = ceilings(device)
    sizes = SMOKE if options.smoke else TRAINING
    parts: dict[str, Callable[[], None]] = {
        f"training {name}": partial(training, name, *size, flops=flops, device=device)
        for name, size in sizes.items()
    }
    config = ModelConfig(**TINY).replace(block_size=512) if options.smoke else DECODING
    parts["decoding"] = partial(decoding, config, read=read, device=device)
    parts["check"] = partial(check, device)
    for name, part in parts.items():
        if time.monotonic() - begun > options.seconds:
            say(what="left out", part=name, why=f"{options.seconds:g} seconds are over")
            continue
        try:
            part()
        except torch.OutOfMemoryError as error:
            say(what="left out", part=name, why=str(error).partition("\n")[0])
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    say(what="done", seconds=round(time.monotonic() - begun))


if __name__ == "__main__":
    main()
