"""Lines that course-base writes, shown on the landing page at first: book/_results/writing.json.

python -m bench.writing
"""

import json

import torch

from bench.common import origin
from bench.scoreboard import RESULTS
from myllm import LLM
from myllm.files import atomic_write

PROMPT = "To be, or not to be"
OPTIONS = {"max_new_tokens": 60, "temperature": 0.7, "seed": 1}


def write() -> str:
    """What the model writes after the prompt."""
    return LLM.from_pretrained("course-base", dtype=torch.float32).generate(PROMPT, **OPTIONS)


def main() -> None:
    """Write the file."""
    run = {"command": "python -m bench.writing", **origin(), **OPTIONS, "prompt": PROMPT, "text": write()}
    atomic_write(RESULTS / "writing.json", json.dumps(run, indent=1) + "\n")
    print(run["prompt"] + run["text"])


if __name__ == "__main__":
    main()
