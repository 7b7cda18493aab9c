"""``myllm tokenizer compare`` as a person meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from myllm import BPE, load_tokenizer

MYLLM = str(Path(sys.executable).with_name("myllm"))


def run(*args: object, text: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [MYLLM, "tokenizer", "compare", *map(str, args)]
    return subprocess.run(command, capture_output=True, timeout=120, input=text or b"", check=False)


def say(*args: object, text: bytes | None = None) -> str:
    done = run(*args, text=text)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_the_table_shows_each_tokenizer_and_its_pieces():
    table = say("Tokyo is\t東京")
    rows = [line.split() for line in table.splitlines()]
    names = [row[0] for row in rows if len(row) > 2]  # a long row goes on below, in the last column
    assert names == ["Tokenizer", "gpt2", "mistral", "smollm2"]
    assert r"Tok|yo|␣is|\t|\xe6\x9d|\xb1|\xe4\xba|\xac" in rows[1][-1] + rows[2][-1]
    assert "50,257" in table and "32,000" in table and "49,152" in table


def test_the_numbers_are_right(tmp_path: Path):
    path = tmp_path / "own.json"
    BPE.train("to be or not to be " * 5, 262, progress=False).save(path)
    text = "to be, or not [bold]é"
    rows = json.loads(say("--tokenizer", path, "--tokenizer", "gpt2", "--json", text=text.encode()))
    assert [row["tokenizer"] for row in rows] == [str(path), "gpt2"]
    for row in rows:
        one = load_tokenizer(row["tokenizer"])
        assert row["ids"] == one.encode(text) and row["vocab_size"] == one.vocab_size
        assert row["tokens"] == len(row["ids"]) == len(row["pieces"])
        assert row["bytes_per_token"] == round(len(text.encode()) / len(row["ids"]), 2)
        assert "".join(row["pieces"]).replace("\ufffd\ufffd", "é") == text
    file = tmp_path / "text.txt"
    file.write_text(text)
    assert say("--file", file, "--tokenizer", "gpt2") == say(text, "--tokenizer", "gpt2")


def test_no_text_and_a_long_text():
    assert [line.split()[2] for line in say("").splitlines()[1:]] == ["0", "0", "0"]
    table = say("a" + " b" * 5_000, "--tokenizer", "gpt2")
    assert "5,001" in table and "|…" in table and table.count("|") == 60


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["x", "--tokenizer", "gpt5"], "There is no tokenizer 'gpt5'; take gpt2, llama3, mistral, smollm2"),
        (["x", "--file", "y"], "Give a text or --file, not both"),
        (["--file", "missing.txt"], "there is no such file"),
    ],
)
def test_mistakes_are_one_sentence(args: list[str], why: str):
    done = run(*args)
    message = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert message.startswith("myllm: ") and message.count("\n") == 1 and why in message
