"""The commands of "A model of your own, from a text" are run as they stand on the page, without a network."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from myllm import LLM
from myllm.data import corpus

ROOT = Path(__file__).parents[2]
MYLLM = str(Path(sys.executable).with_name("myllm"))
SECTION = re.search(
    r"^\(own-model\)=\n### [^\n]*\n(.*?)^### ", (ROOT / "book/run-it.md").read_text("utf-8"), re.M | re.S
)[1]
EXAMPLE = [json.loads(line) for line in re.search(r"```text\n(.*?)```", SECTION, re.S)[1].splitlines()]
COMMANDS = [shlex.split(line) for line in re.search(r"```sh\n(.*?)```", SECTION, re.S)[1].splitlines()]
#: No request can leave the machine, nor hide in a cache of another library.
OFFLINE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def place(tmp_path):
    """A folder with a space in its name, a text and the two files of examples, in the form of the page."""
    folder = tmp_path / "my model"
    folder.mkdir()
    text = corpus.text("sotu")[:200_000]
    (folder / "my-text.txt").write_text(text, "utf-8")
    sentences = re.findall(r"[A-Z][^.]{40,120}\.", text)
    prompts = [f"Say something about {max(s.split(), key=len).strip(',')}." for s in sentences]
    learned, preferred = EXAMPLE
    for file, names, count, other in (("examples", learned, 200, ()), ("pairs", preferred, 60, (" No.",))):
        rows = [(p, f" {s}", *other) for p, s in zip(prompts[:count], sentences, strict=False)]
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        (folder / f"{file}.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_text_becomes_a_model_that_is_tuned_compressed_exported_and_served(place):
    environment = {**os.environ, **OFFLINE, "OMP_NUM_THREADS": "1"}
    options = {"cwd": place, "env": environment, "stdin": subprocess.DEVNULL, "text": True}
    *commands, served = COMMANDS
    assert [c[1] for c in COMMANDS] == ["speedrun", "sft", "dpo", "quantize", "export", "serve"]
    for _, *arguments in commands:
        depth = ["--depth", "1"] if arguments[0] == "speedrun" else []  # the last one counts
        done = subprocess.run([MYLLM, *arguments, *depth], capture_output=True, timeout=600, **options)
        assert done.returncode == 0, done.stderr
        if arguments[0] in ("sft", "dpo"):  # each has learned something
            before, after = map(
                float, re.search(r"([\d.]+) before, ([\d.]+) after", done.stdout + done.stderr).groups()
            )
            assert after < before

    loaded = LLM.from_pretrained(place / "small")
    assert loaded.tokenizer.vocab_size == loaded.config.vocab_size == 1024
    assert "<html" in (place / "my-model.html").read_text("utf-8")

    prompt = {"model": "small", "prompt": "Say something about America.", "max_tokens": 12, "temperature": 0}
    server = subprocess.Popen([MYLLM, *served[1:], "--port", "0"], stdout=subprocess.PIPE, **options)
    try:
        address = server.stdout.readline().split()[-1]
        answer = httpx.post(f"{address}/completions", json=prompt, trust_env=False).json()
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    assert answer["choices"][0]["text"] == loaded.generate(prompt["prompt"], max_new_tokens=12)
