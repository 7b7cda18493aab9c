"""How long it takes to quantize SmolLM2, and what a token then takes, bitsandbytes' layers included.

Run ``python -m bench.quantizing`` after ``myllm download smollm2``; needs the extra ``quant``. GPTQ measures
the inputs of the layers on 16,384 tokens, as ``myllm quantize`` does. The head stays in float32. A token is
written after 64 others, one text at a time; each side is timed once a round, after one to warm up. All get
activations in float32; bitsandbytes' path for bfloat16 is not used. Each scheme writes another text.
"""

import argparse
from importlib import import_module
from statistics import median
from typing import Any

import bench.common as common  # before torch: it sets the threads

PROMPT, NEW, CALIBRATION = 64, 16, 16_384
SCHEMES = ("int8", "int8-dynamic", "int4", "nf4", "gptq", "llm.int8", "bnb-nf4")


def main() -> None:
    """Quantize once with each scheme, then time all in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    import torch

    from myllm import LLM, generate, quantize
    from myllm.data import corpus
    from myllm.inference.generate import new_cache

    torch.set_num_threads(1)
    tokenizer = LLM.from_pretrained("smollm2").tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(corpus.text("sotu")[: 8 * CALIBRATION])
    batches = torch.tensor(ids[:CALIBRATION]).view(-1, 1024)
    models: dict[str, Any] = {"float32": LLM.from_pretrained("smollm2").model}
    seconds = dict[str, float]()
    import_module("bitsandbytes")
    for scheme in SCHEMES:
        model = LLM.from_pretrained("smollm2").model
        extra: dict[str, Any] = {"calibration": batches.split(4)} if scheme == "gptq" else {}
        seconds[f"quantize by {scheme}"] = common.timed(
            lambda m=model, s=scheme, e=extra: quantize(m, s, **e)
        )[0]
        models[scheme] = model.eval()
        print(scheme, round(seconds[f"quantize by {scheme}"], 2), "s", flush=True)

    def write(model: Any, new: int) -> None:
        row = ids[-PROMPT:]
        assert (
            len([*generate(model, row, max_new_tokens=new, cache=new_cache(model, 1, PROMPT + new))]) == new
        )

    sides = {
        f"{name}, {new}": (lambda m=model, n=new: write(m, n))
        for name, model in models.items()
        for new in (1, NEW + 1)
    }
    cpu, wall = common.paired(sides, options.rounds)

    def later(times: common.Seconds) -> common.Seconds:
        pairs = {name: zip(times[f"{name}, 1"], times[f"{name}, {NEW + 1}"], strict=True) for name in models}
        return {name: [(b - a) / NEW for a, b in pair] for name, pair in pairs.items()}

    c, w = later(cpu), later(wall)
    common.record(
        "Quantizing SmolLM2",
        f"time to quantize and time of each later token, the head in float32; GPTQ on {CALIBRATION:,} tokens",
        machine=common.machine("torch", "bitsandbytes"),
        comparisons=[common.compare(c, w, scheme, "float32") for scheme in SCHEMES],
        cpu_seconds={name: round(one, 2) for name, one in seconds.items()},
        milliseconds={name: round(1000 * median(s), 2) for name, s in c.items()},
    )


if __name__ == "__main__":
    main()
