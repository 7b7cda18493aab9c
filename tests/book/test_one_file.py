"""The program of appendix A: copied into a file, alone, it runs what the package and transformers save."""

import re
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from myllm import LLM

PAGE = Path(__file__).parents[2] / "book" / "a-one-diff.md"
RUN = """
import sys
folder, ids = sys.argv[1], [int(i) for i in sys.argv[2].split(",")]
print(generate(torch.tensor([ids]), 20, *load(folder))[0].tolist())
assert not any(name.startswith(("myllm", "transformers")) for name in sys.modules)
"""


def run(folder, ids, place):
    [program] = re.findall(
        r"^\(one-file\)=$.*?^```{code-cell}[^\n]*\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S
    )
    (place / "llama.py").write_text(program + RUN, "utf-8")
    command = [sys.executable, "-I", "llama.py", str(folder), ",".join(map(str, ids))]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_writes_what_the_package_writes(tmp_path):
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    llm.save_pretrained(tmp_path / "saved")
    ids = llm.tokenizer.encode("My lord, ")
    text = llm.generate("My lord, ", max_new_tokens=20, temperature=0)
    written = run(tmp_path / "saved", ids, tmp_path)
    assert llm.tokenizer.decode([int(i) for i in re.findall(r"\d+", written)]) == "My lord, " + text


def test_it_writes_what_transformers_writes(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "saved")
    ids = torch.randint(97, (1, 7))
    expected = theirs.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert run(tmp_path / "saved", ids[0].tolist(), tmp_path) == f"{expected[0].tolist()}\n"
