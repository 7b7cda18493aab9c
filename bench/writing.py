"""A text that the book's GPT writes, for the landing page: book/_results/writing.json.

    python -m bench.writing

Needs book/_results/gpt.safetensors, which `python -m bench.scoreboard --train gpt` makes.
"""

import json

from safetensors.torch import load_file

from bench.scoreboard import CONFIGS, RESULTS, origin
from myllm import LLM, Transformer, load_tokenizer
from myllm.files import atomic_write

OPTIONS = {"max_new_tokens": 60, "temperature": 0.7, "seed": 1}
PROMPT = "To be, or not to be"


def main() -> None:
    """Sample one text and write it with its origin."""
    model = Transformer(CONFIGS["gpt"])
    state = {name: tensor.float() for name, tensor in load_file(RESULTS / "gpt.safetensors").items()}
    model.load_state_dict(state, strict=False)
    text = LLM(model, load_tokenizer("shakespeare")).generate(PROMPT, **OPTIONS)
    run = {"command": "python -m bench.writing", **origin(), **OPTIONS, "prompt": PROMPT, "text": text}
    atomic_write(RESULTS / "writing.json", json.dumps(run, indent=1) + "\n")
    print(PROMPT + text)


if __name__ == "__main__":
    main()
