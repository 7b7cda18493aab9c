"""Decoding with quantized weights, by scheme and batch: book/_results/quantized_decode.json.

    python -m bench.quantized_decode      SmolLM2 must have been downloaded

A step computes one token for each row of a batch after 64 tokens in a cache. The schemes take turns, and each
time is the median over the rounds.
"""

import argparse
import json
import sys
import time
from statistics import median

import bench.common as common  # before torch: it sets the threads

PROMPT, ROWS = 64, (1, 4, 16, 64)


def main() -> None:
    """Time all schemes and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    import torch

    from bench.scoreboard import RESULTS
    from myllm import LLM, KVCache, quantize
    from myllm.data import downloads
    from myllm.files import atomic_write
    from myllm.quantization.schemes import footprint

    if downloads.find("smollm2") is None:
        sys.exit("Run `myllm download smollm2` first.")
    torch.set_num_threads(1)
    schemes = {
        "float32": {},
        "bfloat16": {},
        "int8": {"scheme": "int8", "head": "int8"},
        "int8-dynamic": {"scheme": "int8-dynamic", "head": "int8-dynamic"},
        "int4": {"scheme": "int4", "head": "int8"},
    }
    dtypes = {"bfloat16": torch.bfloat16}
    models = {name: LLM.from_pretrained("smollm2", dtype=dtypes.get(name)).model for name in schemes}
    for name, how in schemes.items():
        if how:
            quantize(models[name], **how)
    generator = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def step(name: str, rows: int) -> float:
        model = models[name]
        ids = torch.randint(48_000, (rows, PROMPT), generator=generator)
        cache = KVCache(model.config, rows, PROMPT + 4)
        model(ids, cache=cache, keep=-1)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            model(ids[:, :1], cache=cache, keep=-1)
            best = min(best, time.perf_counter() - start)
        return 1000 * best

    found = {(name, rows): [] for rows in ROWS for name in schemes}
    for _ in range(options.rounds):
        for name, rows in found:
            found[name, rows].append(step(name, rows))
    rows = [{"scheme": name, "rows": n, "ms": round(median(ms), 2)} for (name, n), ms in found.items()]
    content = {
        "command": "python -m bench.quantized_decode",
        **common.origin(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "model": "SmolLM2-135M",
        "bytes": {name: footprint(model) for name, model in models.items()},
        "rows": rows,
    }
    atomic_write(RESULTS / "quantized_decode.json", json.dumps(content, indent=1) + "\n")
    for row in rows:
        print(f"{row['rows']:3} rows  {row['scheme']:12} {row['ms']:8.2f} ms")


if __name__ == "__main__":
    main()
