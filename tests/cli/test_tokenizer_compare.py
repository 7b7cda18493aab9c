"""``myllm tokenizer compare`` as a person meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from myllm import BPE, cli, load_tokenizer

MYLLM = str(Path(sys.executable).with_name("myllm"))


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]):
    def run(*args: object) -> str:
        code = cli.main(["tokenizer", "compare", *map(str, args)])
        output, message = capfd.readouterr()
        assert (code, message) == (0, "")
        return output

    return run


def test_the_table_shows_each_tokenizer_and_its_pieces(say):
    table = say("Tokyo is\t東京")
    rows = [line.split() for line in table.splitlines()]
    names = [row[0] for row in rows if len(row) > 2]  # a long row goes on below, in the last column
    assert names == ["Tokenizer", "gpt2", "mistral", "smollm2"]
    assert r"Tok|yo|␣is|\t|\xe6\x9d|\xb1|\xe4\xba|\xac" in rows[1][-1] + rows[2][-1]
    assert "50,257" in table and "32,000" in table and "49,152" in table


def test_the_numbers_are_right(say, tmp_path: Path):
    path = tmp_path / "own.json"
    BPE.train("to be or not to be " * 5, 262, progress=False).save(path)
    text = "to be, or not [bold]é"
    command = [MYLLM, "tokenizer", "compare", "--tokenizer", path, "--tokenizer", "gpt2", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=120, input=text.encode(), check=True)
    rows = json.loads(done.stdout)
    assert done.stderr == b""
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


def test_no_text_and_a_long_text(say):
    assert [line.split()[2] for line in say("").splitlines()[1:]] == ["0", "0", "0"]
    table = say("a" + " b" * 5_000, "--tokenizer", "gpt2")
    assert "5,001" in table and "|…" in table and table.count("|") == 60


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (
            ["x", "--tokenizer", "gpt5"],
            "There is no tokenizer 'gpt5'; take gpt2, llama3, mistral, shakespeare, smollm2",
        ),
        (["x", "--file", "y"], "Give a text or --file, not both"),
        (["--file", "missing.txt"], "there is no such file"),
    ],
)
def test_mistakes_are_one_sentence(capfd: pytest.CaptureFixture[str], args: list[str], why: str):
    code = cli.main(["tokenizer", "compare", *args])
    output, message = capfd.readouterr()
    assert (code, output) == (1, "")
    assert message.startswith("myllm: ") and message.count("\n") == 1 and why in message
