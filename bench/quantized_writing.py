"""Writing with a quantized SmolLM2, against transformers in bfloat16 and in float32.

Run ``python -m bench.quantized_writing`` after ``myllm download smollm2``. All write greedily, one text at a
time, with a cache of keys and values; what is timed is each token after the first. Quantized models round, so
they write other texts; that each has its numbers right is proved in tests/quantization.
"""

import argparse
import sys
import tempfile
from statistics import median
from typing import Any

import bench.common as common  # before torch: it sets the threads

GOAL = 2.0
PROMPT, NEW = 64, 32


def main() -> None:
    """Time all sides and record the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from myllm import LLM, generate, quantize
    from myllm.data import corpus, downloads
    from myllm.inference.generate import new_cache

    if downloads.find("smollm2") is None:
        sys.exit("Run `myllm download smollm2` first.")
    torch.set_num_threads(1)
    llm = LLM.from_pretrained("smollm2")
    assert llm.tokenizer is not None
    row = llm.tokenizer.encode(corpus.text("sotu")[100_000:101_000])[:PROMPT]
    ids = torch.tensor([row])
    theirs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        llm.save_pretrained(folder)
        for dtype in (torch.bfloat16, torch.float32):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
            theirs[f"transformers in {str(dtype).removeprefix('torch.')}"] = model
    mine = {
        f"{scheme}, head int8": quantize(LLM.from_pretrained("smollm2").model, scheme, head="int8")
        for scheme in ("int8", "int4")
    }
    mine["bfloat16"] = LLM.from_pretrained("smollm2", dtype=torch.bfloat16).model

    def ours(model: Any, n: int) -> None:
        assert len([*generate(model, row, max_new_tokens=n, cache=new_cache(model, 1, PROMPT + n))]) == n

    @torch.inference_mode()
    def others(model: Any, n: int) -> None:
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0
        )
        assert out.shape[1] == PROMPT + n

    sides = {
        f"{name}, {n} new": (lambda run=run, model=model, n=n: run(model, n))
        for run, models in ((ours, mine), (others, theirs))
        for name, model in models.items()
        for n in (1, NEW + 1)
    }
    cpu, wall = common.paired(sides, options.rounds)

    def later(seconds: common.Seconds) -> common.Seconds:
        result: common.Seconds = {}
        for name in (*mine, *theirs):
            pairs = zip(seconds[f"{name}, 1 new"], seconds[f"{name}, {NEW + 1} new"], strict=True)
            result[name] = [(b - a) / NEW for a, b in pairs]
        return result

    c, w = later(cpu), later(wall)
    common.record(
        "Writing with a quantized SmolLM2",
        "each later token, 135M parameters, one text at a time",
        machine=common.machine("torch", "transformers")
        | {"instructions": torch.backends.cpu.get_cpu_capability()},
        comparisons=[
            common.compare(c, w, name, rival, goal=None if name == "bfloat16" else GOAL)
            for rival in theirs
            for name in mine
        ],
        milliseconds={name: round(1000 * median(s), 2) for name, s in c.items()},
    )


if __name__ == "__main__":
    main()
