"""`myllm data`: what it builds is what the library would, and mistakes are one sentence."""

import json
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from myllm import cli
from myllm.data import corpus
from myllm.data.shards import Shards, hash_vocabulary
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.gguf import from_gguf
from myllm.tokenizers.pretrained import load_tokenizer
from myllm.tokenizers.ranks import byte_symbols

TEXTS = {"a.txt": "Ein Text.\r\n\r\n\r\n\r\nZürich 東京 🙂\n", "b.txt": "short", "empty.txt": ""}
LINES = [{"text": "first"}, {"id": 7, "text": "second\nline \ud800"}, {"text": ""}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of a small tokenizer."""
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.json"
    text = corpus.load("moby-dick")[0].text
    BPE.train(text, 400, special_tokens=["<|endoftext|>"], progress=False).save(path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch, trained):
    """A folder of texts, one tokenizer, and bad files; commands run in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in TEXTS.items():
        Path(name).write_text(text, encoding="utf-8", newline="")
    Path("c.jsonl").write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    Path("bpe.json").write_bytes(trained)
    Path("binary.txt").write_bytes(bytes(range(256)))
    Path("utf-16.txt").write_text("text", encoding="utf-16")
    Path("torn.jsonl").write_text('{"text": "fine"}\n{"text": "to')
    Path("list.jsonl").write_text("[1, 2]\n")
    Path("number.jsonl").write_text('\n{"text": 17}')
    return tmp_path


def say(capfd, *args):
    """Run a command that must succeed; its output."""
    code = cli.main([*map(str, args)])
    output, message = capfd.readouterr()
    assert (code, message) == (0, "")
    return output


def documents(path):
    shards = Shards(path)
    return [shards[a:b].tolist() for a, b in pairwise(shards.documents)]


# What works


def test_each_file_and_each_line_is_a_document(folder, capfd):
    output = say(capfd, "data", "build", *TEXTS, "c.jsonl", "--tokenizer", "bytes", "--out", "out")
    texts = [*TEXTS.values(), "first", "second\nline \ufffd", ""]
    assert documents("out") == [[*text.encode()] for text in texts]
    vocabulary = hash_vocabulary(BPE([]))
    n = sum(len(text.encode()) for text in texts)
    assert (
        output == f"out: {n} tokens as uint16, documents: 6, shards: 1\nvocabulary: 256 ids, {vocabulary}\n"
    )
    assert say(capfd, "data", "info", "out") == output
    facts = {"path": "out", "tokens": n, "documents": 6, "shards": 1, "dtype": "uint16"}
    facts |= {"vocab_size": 256, "vocab_hash": vocabulary}
    assert json.loads(say(capfd, "data", "info", "out", "--json")) == facts
    build = ("data", "build", *TEXTS, "c.jsonl", "--tokenizer", "bytes", "--json", "--out")
    assert json.loads(say(capfd, *build, "again")) == facts | {"path": "again"}


def test_clean(folder, capfd):
    say(capfd, "data", "build", "a.txt", "c.jsonl", "--tokenizer", "bytes", "--out", "out", "--clean")
    texts = ["Ein Text.\n\nZürich 東京 🙂\n", "first", "second\nline", ""]
    assert documents("out") == [[*text.encode()] for text in texts]


def test_a_trained_tokenizer_ends_each_document(folder, capfd):
    say(capfd, "data", "build", "a.txt", "b.txt", "empty.txt", "--tokenizer", "bpe.json", "--out", "out")
    bpe = BPE.load("bpe.json")
    assert documents("out") == [[*bpe.encode(text), bpe.eos_id] for text in TEXTS.values()]
    assert say(capfd, "data", "info", "out", "--tokenizer", "bpe.json").startswith("out: ")


@pytest.mark.parametrize("name", ["bpe.json", "gpt2", "smollm2", "mistral"])
def test_a_long_text_read_in_pieces_gives_the_ids_of_the_whole(folder, capfd, monkeypatch, name):
    """The file comes in three blocks, and is cut into pieces of 2,000 characters here."""
    from myllm.tokenizers import patterns

    cut, whole = patterns.pieces, corpus.text("moby-dick")[:150_000]
    monkeypatch.setattr(patterns, "pieces", lambda texts: cut(texts, 2_000))
    Path("long.txt").write_text(whole)
    say(capfd, "data", "build", "long.txt", "--tokenizer", name, "--out", "out")
    tokenizer = load_tokenizer(name)
    assert documents("out") == [tokenizer.encode(whole, eos=True)]
    assert Shards("out", tokenizer=tokenizer).vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("odd", ["pattern", "normalize"])
def test_a_text_is_not_cut_where_that_would_change_ids(folder, capfd, monkeypatch, odd):
    """Chunks of seven characters wherever they fall; or letters that join the accent behind the border."""
    from myllm.tokenizers import patterns, pretrained

    tokenizer = {
        "pattern": BPE([(101, 32), (256, 101)], pattern=r"[\s\S]{1,7}"),
        "normalize": from_gguf(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "qwen2",  # which brings text into normal form C
                "tokenizer.ggml.tokens": byte_symbols(),
                "tokenizer.ggml.merges": [],
            },
            "nfc",
        ),
    }[odd]
    cut, text = patterns.pieces, "e\u0301 e e" * 100
    assert tokenizer.encode(text) != [i for piece in cut([text], 50) for i in tokenizer.encode(piece)]
    monkeypatch.setattr(patterns, "pieces", lambda texts: cut(texts, 50))
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda name: tokenizer)
    Path("odd.txt").write_text(text, encoding="utf-8")
    say(capfd, "data", "build", "odd.txt", "--tokenizer", "odd", "--out", "out")
    assert documents("out") == [tokenizer.encode(text)]


def test_a_corpus_of_the_course_by_name(folder, capfd):
    say(capfd, "data", "build", "moby-dick", "--tokenizer", "gpt2", "--out", "out")
    encode = load_tokenizer("gpt2").encode
    assert documents("out") == [encode(document.text, eos=True) for document in corpus.load("moby-dick")]
    Path("kjv").write_text("a file of that name comes first")
    say(capfd, "data", "build", "kjv", "--tokenizer", "bytes", "--out", "file")
    assert len(documents("file")) == 1


def test_a_long_json_line_and_one_without_an_end(folder, capfd):
    Path("long.jsonl").write_text(json.dumps({"text": "x" * 200_000}) + '\n{"text": "end"}')
    say(capfd, "data", "build", "long.jsonl", "--tokenizer", "bytes", "--out", "out")
    assert [len(document) for document in documents("out")] == [200_000, 3]


def test_byte_order_marks_and_capitals_in_a_name(folder, capfd):
    """As Windows editors save files; a mark in the middle stands where two such files were joined."""
    text, line = "\ufeffhello".encode(), '\ufeff{"text": "hello"}\n'.encode()
    for name, content in {"a.txt": text, "b.jsonl": line, "C.JSONL": line * 2}.items():
        Path(name).write_bytes(content)
    say(capfd, "data", "build", "a.txt", "b.jsonl", "C.JSONL", "--tokenizer", "bytes", "--out", "out")
    assert documents("out") == [[*b"hello"]] * 4


def test_a_home_folder_by_its_short_name(folder, capfd, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    say(capfd, "data", "build", "~/a.txt", "--tokenizer", "bytes", "--out", "~/out")
    assert say(capfd, "data", "info", "~/out") == say(capfd, "data", "info", "out").replace("out", "~/out", 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_a_large_file_is_not_held_in_memory(folder):
    """5 MB take hardly more memory than 2 MB."""
    code = (
        "import sys, myllm.cli\n"
        "assert myllm.cli.main(sys.argv[1:]) == 0\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    for times in (20, 50):
        Path("large.txt").write_text("To be, or not to be, that is the question. " * 2_400 * times)
        args = ["data", "build", "large.txt", "--tokenizer", "gpt2", "--out", f"out{times}"]
        run = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout.split()[-1]))
    assert Path("large.txt").stat().st_size > 5_000_000
    assert peaks[1] - peaks[0] < 12_000  # kB, of it 2,000 of the file that is mapped to be checked


def test_help(capfd):
    for command in ("build", "info"):
        output = say(capfd, "data", command, "--help")
        assert f"Examples:\n    myllm data {command}" in output


# What does not

BUILD = ["data", "build", "--out", "new", "--tokenizer"]
MISTAKES = {
    "no file": ([*BUILD, "bytes"], "Name at least one file"),
    "a missing file": ([*BUILD, "bytes", "a.txt", "missing.txt"], "missing.txt: there is no such file"),
    "a folder": ([*BUILD, "bytes", "."], "it is a folder"),
    "binary": ([*BUILD, "bytes", "a.txt", "binary.txt"], "binary.txt is binary, not text"),
    "torn JSON": ([*BUILD, "bytes", "torn.jsonl"], 'no JSON object with a "text" in line 2 of torn.jsonl'),
    "JSON of another kind": ([*BUILD, "bytes", "list.jsonl"], "line 1 of list.jsonl"),
    "a text that is a number": ([*BUILD, "bytes", "number.jsonl"], "line 2 of number.jsonl"),
    "nothing to write": ([*BUILD, "bytes", "empty.txt"], "There are no tokens to write"),
    "no such tokenizer": ([*BUILD, "gpt5", "a.txt"], "There is no tokenizer 'gpt5'"),
    "a text as tokenizer": ([*BUILD, "a.txt", "a.txt"], "a.txt is no tokenizer"),
    "into a folder in use": (["data", "build", "a.txt", "--tokenizer", "bytes", "--out", "."], "is in use"),
    "into nowhere": (
        ["data", "build", "a.txt", "--tokenizer", "bytes", "--out", "no/new"],
        "Cannot write no/new",
    ),
    "UTF-16": ([*BUILD, "bytes", "utf-16.txt"], "utf-16.txt is UTF-16 or UTF-32 text; convert it to UTF-8"),
    "the root": (["data", "build", "a.txt", "--tokenizer", "bytes", "--out", "/"], "/ is in use"),
    "no name": (["data", "build", "a.txt", "--tokenizer", "bytes", "--out", ""], "names no file"),
    "a file in its place": (["data", "build", "a.txt", "--tokenizer", "bytes", "--out", "b.txt"], "in use"),
    "info: nothing there": (["data", "info", "missing"], "There are no shards in missing"),
    "info: a file": (["data", "info", "a.txt"], "There are no shards in a.txt"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(folder, capfd, mistake):
    args, why = MISTAKES[mistake]
    before = sorted(folder.iterdir())
    code = cli.main(args)
    output, message = capfd.readouterr()
    assert (code, output) == (1, "")
    assert message.startswith("myllm: ") and message.endswith(".\n") and message.count("\n") == 1
    assert why in message
    assert sorted(folder.iterdir()) == before


def test_info_notices_what_is_wrong(folder, capfd):
    say(capfd, "data", "build", "a.txt", "--tokenizer", "bytes", "--out", "out")
    assert cli.main(["data", "info", "out", "--tokenizer", "gpt2"]) == 1
    assert "were not made with gpt2" in capfd.readouterr().err
    shard = Path("out") / "shard-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert cli.main(["data", "info", "out"]) == 1
    assert "shard-00000.npy is torn" in capfd.readouterr().err


def test_a_full_disk_leaves_nothing(folder):
    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    before = sorted(folder.iterdir())
    code = "import sys, myllm.cli; sys.exit(myllm.cli.main(sys.argv[1:]))"
    args = [sys.executable, "-c", code, "data", "build", "moby-dick", "--tokenizer", "bytes", "--out", "new"]
    run = subprocess.run(args, preexec_fn=little_room, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("myllm: Cannot write ") and run.stderr.count("\n") == 1
    assert sorted(folder.iterdir()) == before
