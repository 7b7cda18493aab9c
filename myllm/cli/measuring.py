"""What a model costs on this machine: memory, and speed beside a limit from the same process."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from myllm.files import UserError
from myllm.inference.generate import decode, last_logits, new_cache
from myllm.llm import LLM
from myllm.model.basics import device_of

PEAK = "from myllm.cli.measuring import print_peak; print_peak()"  # runs in a fresh process


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the software of a measurement, by which two reports may differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    found = {"device": device.type, "processor": name, "threads": torch.get_num_threads()}
    return found | {"python": platform.python_version(), "torch": torch.__version__}


def speeds(llm: LLM, *, prompt: int, new: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Prefill and decoding, in tokens per second, beside the model's matrix products alone.

    Each round times the model and its limit one after the other, so that other work of the machine affects
    both; `share` is the limit's time over the model's.

    Args:
        llm: The model.
        prompt: Tokens of each prompt.
        new: Tokens that are generated after it.
        batch: Prompts that are computed together.
        rounds: How often each is timed, after one round to warm up.

    Returns:
        A row for each: ``name``, ``tokens``, ``seconds`` and ``limit_seconds`` of each round, ``rate``, and
        ``share`` (median, least, most).
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(llm.config.vocab_size, (batch, prompt), generator=generator)
    ids = ids.to(device_of(llm.model))
    writer: list[Any] = []

    def prefill() -> object:
        return last_logits(llm.model, ids, cache=new_cache(llm.model, batch, prompt))

    def start() -> None:  # the prompt and the first token are not part of what is timed
        steps = decode(llm.model, ids, steps=new + 1, cache=new_cache(llm.model, batch, prompt + new + 1))
        next(steps)
        writer[:] = [steps]

    def write() -> object:
        return [*writer[0]]

    reading, writing = _products(llm.model, batch * prompt, batch), _products(llm.model, batch, batch)

    def products() -> object:
        return [writing() for _ in range(new)]

    device = ids.device
    return [
        _row("prefill", batch * prompt, *_paired([(prefill, None), (reading, None)], rounds, device)),
        _row("decode", batch * new, *_paired([(write, start), (products, None)], rounds, device)),
    ]


def memory(name: str, options: dict[str, Any], device: torch.device, llm: LLM) -> dict[str, int | None]:
    """The bytes of the weights and of the cache, and the peak memory of the work.

    The peak is that of a fresh process, without what the libraries take, or on a GPU that of this process;
    None if the system does not report it.
    """
    weights = {x.data_ptr(): x.nbytes for x in llm.model.state_dict().values()}
    size = options["prompt"] + options["new"] + 1
    dtype = llm.model.embed_tokens.weight.dtype
    found: dict[str, int | None] = {"weights": sum(weights.values())}
    found["kv_cache"] = llm.config.kv_bytes(options["batch"], size, dtype)
    if device.type == "cuda":
        return found | {"peak": torch.cuda.max_memory_allocated(device)}
    task = {"name": name, "dtype": options["dtype"], "threads": torch.get_num_threads()}
    task |= {key: options[key] for key in ("prompt", "new", "batch")}
    done = subprocess.run(
        [sys.executable, "-c", PEAK], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    return found | {"peak": json.loads(done.stdout)["peak"] if done.returncode == 0 else None}


def print_peak() -> None:
    """Read a task from standard input, run it, and print by how much the peak memory of this process rose."""
    task, before = json.load(sys.stdin), _high_water()
    torch.set_num_threads(task["threads"])
    llm = load(task["name"], task["dtype"], None)
    ids = torch.zeros(task["batch"], task["prompt"], dtype=torch.int64)
    cache = new_cache(llm.model, task["batch"], task["prompt"] + task["new"] + 1)
    list(decode(llm.model, ids, steps=task["new"] + 1, cache=cache))
    after = _high_water()
    print(json.dumps({"peak": None if before is None or after is None else after - before}))


def _high_water() -> int | None:
    """The peak memory of this process in bytes, if the system reports it."""
    with suppress(OSError):  # on Linux, right after the start, `resource` reports that of the parent
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load(name: str, dtype: str | None, device: str | None) -> LLM:
    """The model, in the dtype and on the device with these names."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU on this machine; leave out --device cuda.")
    return LLM.from_pretrained(name, dtype=None if dtype is None else getattr(torch, dtype), device=device)


def _products(model: Any, rows: int, heads: int) -> Callable[[], object]:
    """A function that runs only a model's matrix products, on `rows` rows (the head: on `heads` rows)."""
    layers: list[tuple[Any, Tensor]] = []
    inputs: dict[tuple[int, int], Tensor] = {}
    weight = next(model.parameters())
    for name, layer in model.named_modules():
        if (width := getattr(layer, "in_features", None)) is not None:
            key = heads if name == "lm_head" else rows, width
            inputs.setdefault(key, torch.randn(key, device=weight.device).to(weight.dtype))
            layers.append((layer, inputs[key]))

    def run() -> object:
        return [layer(x).shape for layer, x in layers]

    return run


@torch.inference_mode()
def _paired(
    sides: Iterable[tuple[Callable[[], object], Callable[[], None] | None]], rounds: int, device: torch.device
) -> list[list[float]]:
    """The seconds of each side in each round: A, B, A, B …, after a round that is not counted."""
    pairs = [*sides]
    found: list[list[float]] = [[] for _ in pairs]
    for i in range(rounds + 1):
        for (run, prepare), seconds in zip(pairs, found, strict=True):
            if prepare is not None:
                prepare()
            begin = _now(device)
            run()
            taken = _now(device) - begin
            if i:
                seconds.append(taken)
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _row(name: str, tokens: int, ours: list[float], limit: list[float]) -> dict[str, Any]:
    shares = [b / a for a, b in zip(ours, limit, strict=True)]
    row = {"name": name, "tokens": tokens, "seconds": ours, "limit_seconds": limit}
    return row | {"rate": tokens / median(ours), "share": [f(shares) for f in (median, min, max)]}


def load_average() -> float | None:
    """The average number of runnable processes in the last minute, if the system reports it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
