"""From logits to a token: each option against the processor of transformers that does the same.

Run ``python -m bench.sampling``: 8 rows of 50,257 logits in float32, after texts of 512 tokens.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
import transformers as t

from bench.common import compare, machine, paired, record
from myllm.inference import sampling
from myllm.inference.sampling import Sampler, SamplingConfig

B, V, N, REPEATS = 8, 50_257, 512, 10
GOAL = 1.0
VALUES = {"top_k": 50, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.2}
VALUES |= {"no_repeat_ngram": 3, "temperature": 0.8}
THEIRS = {
    "top_k": t.TopKLogitsWarper(50),
    "top_p": t.TopPLogitsWarper(0.9),
    "min_p": t.MinPLogitsWarper(0.05),
    "typical_p": t.TypicalLogitsWarper(0.9),
    "repetition_penalty": t.RepetitionPenaltyLogitsProcessor(1.2),
    "no_repeat_ngram": t.NoRepeatNGramLogitsProcessor(3),
    "temperature": t.TemperatureLogitsWarper(0.8),
}
CHAIN = ("repetition_penalty", "temperature", "top_k", "top_p")


def repeat(run: Callable[[], object]) -> Callable[[], None]:
    """Call it several times. Results are not kept: room for them would be new, and cost page faults."""

    def several() -> None:
        for _ in range(REPEATS):
            run()

    return several


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    logits, text = torch.randn(B, V) * 3, torch.randint(V, (B, N))
    sides = {}
    with torch.inference_mode():
        for name, value in VALUES.items():
            ours, their = getattr(sampling, name), THEIRS[name]
            rest = [text] if name in sampling.OF_TEXT else []
            same = ours(logits, value, *rest).softmax(-1), their(text, logits).softmax(-1)
            torch.testing.assert_close(*same, rtol=1e-4, atol=1e-4)  # a token on the border may differ
            sides[name] = repeat(lambda f=ours, v=value, r=rest: f(logits, v, *r))
            sides[f"transformers {name}"] = repeat(lambda f=their: f(text, logits))
        config = SamplingConfig(**{name: VALUES[name] for name in CHAIN}, order=CHAIN)
        sampler, processors = Sampler(config), t.LogitsProcessorList([THEIRS[name] for name in CHAIN])

        def their_choice() -> torch.Tensor:
            return torch.multinomial(processors(text, logits).softmax(-1), 1)

        sides["a token by four options"] = repeat(lambda: sampler(logits, text, N - 9))
        sides["transformers a token by four options"] = repeat(their_choice)
        cpu, wall = paired(sides, options.rounds)
    names = [*VALUES, "a token by four options"]
    record(
        "Sampling",
        f"{B} rows of {V:,} logits in float32, texts of {N} tokens, {REPEATS} times",
        machine=machine("torch", "transformers"),
        cpu_seconds={side: round(median(numbers), 4) for side, numbers in cpu.items()},
        comparisons=[compare(cpu, wall, name, f"transformers {name}", GOAL) for name in names],
    )


if __name__ == "__main__":
    main()
