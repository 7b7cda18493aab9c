"""Writing with SmolLM2: the first token and each later one, against transformers and the linears alone.

Run ``python -m bench.decode_baseline`` after ``myllm download smollm2``. Both sides write greedily, one text
at a time, in float32 and with a cache of keys and values. The limit is the matrix products with the model's
weights and nothing else: no attention, norm or activation.
"""

import argparse
import sys
import tempfile
from statistics import median

import bench.common as common  # before torch: it sets the threads

GOAL = 1.0
PROMPT, NEW = 64, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    from myllm import LLM, generate
    from myllm.data import corpus, downloads
    from myllm.inference.generate import new_cache

    if downloads.find("smollm2") is None:
        sys.exit("Run `myllm download smollm2` first.")
    torch.set_num_threads(1)
    llm = LLM.from_pretrained("smollm2")
    with tempfile.TemporaryDirectory() as folder:  # the same weights; reading the GGUF file takes them longer
        llm.save_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    row = llm.tokenizer.encode(corpus.text("sotu")[100_000:101_000])[:PROMPT]
    ids = torch.tensor([row])
    linears = [module for module in llm.model.layers.modules() if isinstance(module, torch.nn.Linear)]

    def ours(n: int) -> list[int]:
        cache = new_cache(llm.model, 1, PROMPT + n)
        return [*generate(llm.model, row, max_new_tokens=n, cache=cache)]

    @torch.inference_mode()
    def others(n: int) -> list[int]:
        mask = torch.ones_like(ids)
        out = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0
        )
        return out[0, PROMPT:].tolist()

    inputs = {
        (T, width): torch.randn(T, width)
        for T in (1, PROMPT)
        for width in (llm.config.n_embd, llm.config.intermediate_size)
    }

    @torch.inference_mode()
    def floor(n: int) -> None:
        for step in range(n):
            T = 1 if step else PROMPT
            for linear in linears:
                F.linear(inputs[T, linear.in_features], linear.weight)
            F.linear(inputs[1, llm.config.n_embd], llm.model.lm_head.weight)

    assert ours(NEW + 1) == others(NEW + 1)
    names = {"generate": ours, "transformers' generate": others, "the linears alone": floor}
    sides = {
        f"{name}, {n} new": (lambda run=run, n=n: run(n)) for name, run in names.items() for n in (1, NEW + 1)
    }
    cpu, wall = common.paired(sides, options.rounds)

    def split(seconds: common.Seconds, first: bool) -> common.Seconds:
        """Seconds of the first token, or of each later one."""
        result: common.Seconds = {}
        for name in names:
            start, whole = seconds[f"{name}, 1 new"], seconds[f"{name}, {NEW + 1} new"]
            later = [(b - a) / NEW for a, b in zip(start, whole, strict=True)]
            result[name] = start if first else later
        return result

    for title, first in ((f"the first token after {PROMPT}", True), ("each later token", False)):
        c, w = split(cpu, first), split(wall, first)
        mine, rival, limit = names
        common.record(
            "Writing with SmolLM2",
            f"{title}, 135M parameters in float32, one text at a time",
            machine=common.machine("torch", "transformers"),
            comparisons=[
                common.compare(c, w, mine, rival, goal=GOAL),
                common.compare(c, w, mine, limit, limit=True),
                common.compare(c, w, rival, limit, limit=True),
            ],
            milliseconds={name: round(1000 * median(s), 2) for name, s in c.items()},
        )


if __name__ == "__main__":
    main()
