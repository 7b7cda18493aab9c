"""Sixty-four mixed requests on SmolLM2: the engine, the same one by one, and transformers' padded batches.

Run ``python -m bench.serving`` after ``myllm download smollm2``. Prompts of 8 to 96 tokens, half of them with
the same beginning of 48 tokens, ask for 4 to 48 new ones, greedily, in float32. transformers gets them in
batches of as many rows as the engine runs, in the order of arrival, and writes each batch until its longest
request is done. All sides must give the same tokens, but for ties: a row of a batch is computed by another
product than a row alone, so two tokens that are equally likely may change places.
"""

import argparse
import random
import sys
import tempfile

import bench.common as common  # before torch: it sets the threads

ROWS, GOAL = 16, 3.0


def requests(tokenizer, text: str, count: int, rng: random.Random) -> list[tuple[list[int], int]]:
    """Prompts with the number of tokens that each asks for."""
    ids, found = tokenizer.encode(text), []
    shared = ids[:48]
    for i in range(count):
        start, n = rng.randrange(100, len(ids) - 100), rng.randint(8, 48)
        own = ids[start : start + n]
        found.append(((shared + own) if i % 2 else own, rng.randint(4, 48)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from myllm import LLM, generate
    from myllm.data import corpus, downloads
    from myllm.inference.generate import new_cache
    from myllm.inference.scheduler import Engine

    if downloads.find("smollm2") is None:
        sys.exit("Run `myllm download smollm2` first.")
    torch.set_num_threads(1)
    llm = LLM.from_pretrained("smollm2")
    with tempfile.TemporaryDirectory() as folder:
        llm.save_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    todo = requests(llm.tokenizer, corpus.text("sotu")[:40_000], options.count, random.Random(0))

    def engine() -> list[list[int]]:
        pool = Engine(llm.model, blocks=512, rows=ROWS, chunk=128)
        running = [pool.add(ids, max_new_tokens=n) for ids, n in todo]
        pool.run()
        return [request.new for request in running]

    def one_by_one() -> list[list[int]]:
        return [
            [*generate(llm.model, ids, max_new_tokens=n, cache=new_cache(llm.model, 1, len(ids) + n))]
            for ids, n in todo
        ]

    @torch.inference_mode()
    def padded() -> list[list[int]]:
        found = []
        for start in range(0, len(todo), ROWS):
            batch = todo[start : start + ROWS]
            width, new = max(len(ids) for ids, _ in batch), max(n for _, n in batch)
            ids = torch.tensor([[0] * (width - len(row)) + row for row, _ in batch])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row, _ in batch])
            out = theirs.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )
            found += [row[width : width + n].tolist() for row, (_, n) in zip(out, batch, strict=True)]
        return found

    results = [run() for run in (engine, one_by_one, padded)]
    for other in results[1:]:
        different = sum(a != b for a, b in zip(results[0], other, strict=True))
        print(f"requests with another token somewhere: {different} of {len(todo)}")
        assert different <= len(todo) // 10
    sides = {"the engine": engine, "one by one": one_by_one, "transformers in padded batches": padded}
    cpu, wall = common.paired(sides, options.rounds)
    common.record(
        "Serving many requests",
        f"SmolLM2, {options.count} requests of mixed lengths, at most {ROWS} at once, float32",
        machine=common.machine("torch", "transformers"),
        comparisons=[
            common.compare(cpu, wall, "the engine", "one by one", goal=GOAL),
            common.compare(cpu, wall, "the engine", "transformers in padded batches"),
        ],
        new_tokens=sum(n for _, n in todo),
    )


if __name__ == "__main__":
    main()
