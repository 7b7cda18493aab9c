"""The command line as a person meets it, on a text we did not write, and with mistakes.

What depends on the process (streams, signals, start-up, a full disk) goes through the real executable, and so
does one example of each command; the rest runs in this process, for speed.
"""

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import myllm
from myllm import cli
from myllm.data import corpus

MYLLM = str(Path(sys.executable).with_name("myllm"))
LICENCE = Path("/usr/share/common-licenses/GPL-3")  # on every Debian system


def default_signals():
    """In a child: let Ctrl-C work even where it is ignored for the tests (nohup, cron, a job after &)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def execute(*args, input=None, **options):
    """Run the executable; standard input is empty unless given."""
    input = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([MYLLM, *map(str, args)], capture_output=True, timeout=120, **input, **options)


def run(*args, input=b"", cwd=".", env=None):
    """The same in this process."""
    stdin, stdout, stderr = (io.TextIOWrapper(io.BytesIO(data), "utf-8") for data in (input, b"", b""))
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(mock.patch.dict(os.environ, env or {}))
        stack.enter_context(mock.patch.multiple(sys, stdin=stdin, stdout=stdout, stderr=stderr))
        code = cli.main([*map(str, args)])
        stdout.flush(), stderr.flush()
    return subprocess.CompletedProcess(args, code, stdout.buffer.getvalue(), stderr.buffer.getvalue())


def say(*args, by=run, **options):
    """Run a command that must succeed; its output."""
    result = by(*args, **options)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stderr == b""
    return result.stdout.decode()


def complain(*args, why, by=run, **options):
    """Run a command that must be refused in one sentence that says why."""
    result = by(*args, **options)
    is_one_sentence(result.returncode, result.stdout.decode(), result.stderr.decode(), why)


def is_one_sentence(code, output, message, why):
    assert (code, output) == (1, ""), message
    assert message.startswith("myllm: ") and message.endswith(".\n") and message.count("\n") == 1, message
    assert "Traceback" not in message
    assert why in message


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """A text that nobody here wrote, with letters beyond ASCII."""
    path = tmp_path_factory.mktemp("book") / "book.txt"
    text = LICENCE.read_text() if LICENCE.exists() else corpus.load("moby-dick")[0].text
    path.write_text(text + "Zürich 東京 🙂 naïve\r\n\tend without a line end", newline="")
    return path


@pytest.fixture(scope="session")
def tokenizer(book):
    """A tokenizer trained on it."""
    path = book.with_name("book.json")
    args = ("tokenizer", "train", book, "--vocab-size", 600, "--special", "<|endoftext|>", "--out", path)
    say(*args, by=execute)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What works


@pytest.mark.parametrize(
    ("by", "args"),
    [(execute, ()), (run, ("--help",)), (run, ("tokenizer", "--help")), (run, ("exercises", "--help"))],
)
def test_help(by, args):
    assert say(*args, by=by).startswith("usage: myllm")


@pytest.mark.parametrize(
    "args", ["version", "download", "tokenizer train", "tokenizer encode", "tokenizer decode"]
)
def test_help_has_examples(args):
    text = say(*args.split(), "--help")
    assert f"Examples:\n    myllm {args}" in text
    assert "Args:" not in text


def test_help_loads_neither_torch_nor_the_libraries_of_the_commands():
    code = "import sys, myllm.cli; myllm.cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "tiktoken", "regex", "urllib.request"} & {*result.stderr.split()}


def test_version():
    assert say("version").startswith(f"myllm {myllm.__version__}, python 3.")
    assert say("--version") == say("version", by=execute)
    assert json.loads(say("version", "--json"))["myllm"] == myllm.__version__


def test_what_there_is_to_download(tmp_path):
    env = {**os.environ, "MYLLM_CACHE": str(tmp_path)}
    table = say("download", env=env)
    rows = {row["name"]: row for row in json.loads(say("download", "--json", env=env))}
    assert {*corpus.CORPORA, "smollm2"} == {*rows}
    for name, row in rows.items():
        [line] = [line for line in table.splitlines() if line.split()[0] == name]
        assert row["licence"] in line and f"{row['bytes'] / 1e6:.1f} MB" in line
        assert Path(row["path"]).stat().st_size == row["bytes"] if row["included"] else True
    assert say("download", "kjv", by=execute).strip() == rows["kjv"]["path"]
    assert json.loads(say("download", "kjv", "--json")) == {"name": "kjv", "path": rows["kjv"]["path"]}
    assert names(tmp_path) == []


def test_train_says_what_it_made(book, tokenizer, tmp_path):
    out = tmp_path / "again.json"
    special = ["--special", "<|endoftext|>"]
    result = json.loads(
        say("tokenizer", "train", book, "--vocab-size", 600, *special, "--out", out, "--json")
    )
    assert result == {
        "path": str(out),
        "vocab_size": 600,
        "merges": 343,
        "pattern": "gpt2",
        "special_tokens": {"<|endoftext|>": 599},
    }
    assert out.read_bytes() == tokenizer.read_bytes()
    assert names(tmp_path) == ["again.json"]


def test_training_on_a_stream_equals_the_library_on_the_whole_text(book, tmp_path):
    for pattern in ("gpt2", "gpt4", "smollm2"):
        out = tmp_path / f"{pattern}.json"
        args = ("tokenizer", "train", "--vocab-size", 500, "--pattern", pattern, "--out", out)
        assert say(*args, input=book.read_bytes()) == f"{out}: 500 ids, 244 of them merges\n"
        from myllm.tokenizers import patterns

        whole = myllm.BPE.train(
            book.read_bytes().decode(), 500, pattern=patterns.PATTERNS[pattern], progress=False
        )
        assert myllm.BPE.load(out).merges == whole.merges


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_a_large_file_is_not_held_in_memory(tmp_path):
    """Training on 8 MB takes hardly more memory than training on 2 MB."""
    code = (
        "import sys, myllm.cli\n"
        "assert myllm.cli.main(sys.argv[1:]) == 0\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    peaks = list[int]()
    for times in (160, 660):
        path = tmp_path / "large.txt"
        path.write_text(corpus.load("moby-dick")[0].text * times)
        args = ["tokenizer", "train", path, "--vocab-size", "300", "--out", tmp_path / "a.json"]
        result = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
        )
        peaks.append(int(result.stdout.split()[-1]))
    assert path.stat().st_size > 8_000_000
    assert peaks[1] - peaks[0] < 4_000  # kB


@pytest.mark.parametrize(("by", "as_json"), [(execute, []), (run, ["--json"])])
def test_there_and_back_byte_for_byte(book, tokenizer, by, as_json):
    use = ("--tokenizer", tokenizer)
    ids = say("tokenizer", "encode", *use, "--file", book, *as_json, by=by)
    assert ids == say("tokenizer", "encode", *use, *as_json, input=book.read_bytes(), by=by)
    numbers = json.loads(ids) if as_json else [int(word) for word in ids.split()]
    assert numbers == myllm.BPE.load(tokenizer).encode(book.read_bytes().decode())
    assert len(numbers) < len(book.read_bytes())
    back = by("tokenizer", "decode", *use, input=ids.encode())
    assert (back.returncode, back.stdout) == (0, book.read_bytes())


def test_small_texts_on_the_command_line(tokenizer):
    use = ("--tokenizer", tokenizer)
    assert say("tokenizer", "encode", *use, "") == "\n"
    assert say("tokenizer", "encode", *use, "", "--json") == "[]\n"
    assert say("tokenizer", "encode", *use, "é") == "195 169\n"
    assert say("tokenizer", "encode", *use, "é", "--json") == "[195, 169]\n"
    assert 599 not in json.loads(say("tokenizer", "encode", *use, "<|endoftext|>", "--json"))
    assert say("tokenizer", "decode", *use, 195, 169) == "é"
    assert say("tokenizer", "decode", *use, "[195,", "169,", "599]") == "é<|endoftext|>"
    assert json.loads(say("tokenizer", "decode", *use, 195, 65, "--json")) == "\ufffdA"
    assert run("tokenizer", "decode", *use, 195).stdout == b"\xc3"


def test_pieces_are_the_text_of_the_ids(tokenizer):
    use = ("--tokenizer", tokenizer, "--pieces")
    text = "the licence's terms\n"
    bpe = myllm.BPE.load(tokenizer)
    pieces = [bpe.decode([i]) for i in bpe.encode(text)]
    assert 1 < len(pieces) < len(text) and "".join(pieces) == text
    assert json.loads(say("tokenizer", "encode", *use, text, "--json")) == pieces
    assert say("tokenizer", "encode", *use, text) == " ".join(map(repr, pieces)) + "\n"
    assert say("tokenizer", "encode", *use, "é") == "b'\\xc3' b'\\xa9'\n"
    assert json.loads(say("tokenizer", "encode", *use, "é", "--json")) == ["\ufffd", "\ufffd"]


def test_a_tokenizer_is_named_after_its_file(tokenizer):
    where = f"outside the vocabulary of {Path(tokenizer).stem}, "
    complain("tokenizer", "decode", "--tokenizer", tokenizer, "99999", why=where)


def test_exercises_are_registered():
    assert "check" in say("exercises", "--help")


# What does not


@pytest.mark.parametrize(
    ("by", "args"),
    [
        (execute, ["nonsense"]),
        (run, ["tokenizer"]),
        (run, ["tokenizer", "train", "a.txt"]),
        (run, ["tokenizer", "train", "a.txt", "--vocab-size", "many", "--out", "a.json"]),
        (run, ["tokenizer", "train", "a.txt", "--vocab-size", "300", "--out", "a.json", "--pattern", "gpt9"]),
        (run, ["version", "--nonsense"]),
    ],
)
def test_a_command_that_cannot_be_understood_exits_2(by, args, tmp_path):
    result = by(*args, cwd=tmp_path)
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr and b"--help" in result.stderr
    assert names(tmp_path) == []


BAD_FILES = {
    "empty": b"",
    "blank": b"",
    "binary": bytes(range(256)),
    "latin-1": "Zürich".encode("latin-1") * 100,
    "cut": "Zü".encode()[:-1],
    "utf-16": "text".encode("utf-16"),
    "number.json": b"17",
    "list.json": b"[1, 2]",
    "foreign.json": b'{"model": {"type": "Nonsense", "vocab": {}, "merges": []}}',
    "unfinished.json": b'{"format": "myllm-bpe-1", "merges": [[1, 2',
    "no-merges.json": b'{"format": "myllm-bpe-1"}',
    "bad-merge.json": b'{"format": "myllm-bpe-1", "name": "a", "pattern": "a", "merges": [[1, 2000]]}',
    "bad-pattern.json": b'{"format": "myllm-bpe-1", "name": "a", "pattern": "(", "merges": [[1, 2]]}',
    "deep.json": b"[" * 200_000,
}


@pytest.fixture
def folder(tmp_path, book, tokenizer):
    """A folder of bad files, one good text and one good tokenizer, whose contents must not change."""
    contents = {**BAD_FILES, "book.txt": book.read_bytes(), "good.json": tokenizer.read_bytes()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sub").mkdir()
    yield tmp_path
    assert names(tmp_path) == sorted([*contents, "sub"])
    assert all((tmp_path / name).read_bytes() == content for name, content in contents.items())


TRAIN = ["tokenizer", "train", "--out", "new.json", "--vocab-size"]
ENCODE = ["tokenizer", "encode", "--tokenizer"]
DECODE = ["tokenizer", "decode", "--tokenizer"]
MISTAKES = {
    "train: missing": ([*TRAIN, 300, "missing"], "there is no such file"),
    "train: a folder": ([*TRAIN, 300, "sub"], "it is a folder"),
    "train: empty": ([*TRAIN, 300, "empty"], "no text to learn from"),
    "train: nothing piped in": ([*TRAIN, 300], "no text to learn from"),
    "train: binary": ([*TRAIN, 300, "binary"], "binary, not text"),
    "train: Latin-1": ([*TRAIN, 300, "latin-1"], "not UTF-8"),
    "train: cut": ([*TRAIN, 300, "cut"], "not UTF-8"),
    "train: UTF-16": ([*TRAIN, 300, "utf-16"], "utf-16 is UTF-16 or UTF-32 text; convert it"),
    "train: a good and a bad file": ([*TRAIN, 300, "book.txt", "latin-1"], "latin-1 is not UTF-8"),
    "train: 255 ids": ([*TRAIN, 255, "book.txt"], "at least 256"),
    "train: no room for special tokens": ([*TRAIN, 256, "--special", "<s>", "book.txt"], "at least 257"),
    "train: -1 ids": ([*TRAIN, -1, "book.txt"], "at least 256"),
    "train: more ids than the text fills": ([*TRAIN, 10_000_000, "book.txt"], "ask for at most"),
    "train: a special token twice": (
        [*TRAIN, 300, "--special", "a", "--special", "a", "book.txt"],
        "different",
    ),
    "train: an empty special token": ([*TRAIN, 300, "--special", "", "book.txt"], "not empty"),
    "train: into a folder": (["tokenizer", "train", "--out", "sub", "--vocab-size", 300, "book.txt"], "sub"),
    "train: into a missing folder": (
        ["tokenizer", "train", "--out", "no/a.json", "--vocab-size", 300, "book.txt"],
        "make it first",
    ),
    "encode: no tokenizer": ([*ENCODE, "missing", "a"], "There is no tokenizer"),
    "encode: a text as tokenizer": ([*ENCODE, "book.txt", "a"], "book.txt is no tokenizer"),
    "encode: a folder as tokenizer": ([*ENCODE, "sub", "a"], "sub holds neither"),
    "encode: missing file": ([*ENCODE, "good.json", "--file", "missing"], "there is no such file"),
    "encode: binary": ([*ENCODE, "good.json", "--file", "binary"], "binary"),
    "encode: text and file": ([*ENCODE, "good.json", "a", "--file", "book.txt"], "not both"),
    "decode: beyond the vocabulary": ([*DECODE, "good.json", 65, 600], "600 is outside the vocabulary"),
    "decode: negative": ([*DECODE, "good.json", 65, -1], "-1 is outside the vocabulary"),
    "decode: a word": ([*DECODE, "good.json", 65, "x"], "'x' is not an id"),
    "decode: a fraction": ([*DECODE, "good.json", "65.0"], "'65.0' is not an id"),
    "decode: an underscore": ([*DECODE, "good.json", "6_5"], "'6_5' is not an id"),
    "decode: a very large number": ([*DECODE, "good.json", "9" * 5000], "is not an id"),
    "decode: foreign digits": ([*DECODE, "good.json", "٣"], "is not an id"),
    "download: unknown": (["download", "gpt5"], "smollm2"),
    **{
        f"encode: {name} as tokenizer": ([*ENCODE, name, "a"], name)
        for name in BAD_FILES
        if name.endswith(".json") or name == "empty"
    },
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_changes_nothing(folder, mistake):
    args, why = MISTAKES[mistake]
    complain(*args, why=why, cwd=folder)


@pytest.mark.parametrize("mistake", ["train: binary", "download: unknown"])
def test_a_mistake_through_the_executable(folder, mistake):
    args, why = MISTAKES[mistake]
    complain(*args, why=why, cwd=folder, by=execute)


def test_a_bad_file_named_after_output_began_still_exits_1(folder):
    result = execute(*ENCODE, "good.json", "--file", "latin-1", cwd=folder)
    assert result.returncode == 1
    assert result.stderr.startswith(b"myllm: latin-1 is not UTF-8") and result.stderr.count(b"\n") == 1


def test_a_result_is_not_renamed_over_a_pipe(folder, tmp_path_factory):
    pipe = tmp_path_factory.mktemp("pipe") / "pipe"
    os.mkfifo(pipe)
    args = ["tokenizer", "train", "--out", pipe, "--vocab-size", 300, "book.txt"]
    complain(*args, why="not an ordinary file", cwd=folder)
    assert pipe.is_fifo()


def test_a_full_disk_keeps_the_old_tokenizer(folder):
    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))

    args = ["tokenizer", "train", "--out", "good.json", "--vocab-size", 600, "book.txt"]
    complain(*args, why="Cannot write good.json", cwd=folder, by=execute, preexec_fn=little_room)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "args", [["version"], ["download", "--json"], [*ENCODE, "good.json", "--file", "book.txt"]]
)
def test_output_that_cannot_be_written(folder, args):
    with Path("/dev/full").open("wb") as full:
        command = [MYLLM, *map(str, args)]
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, cwd=folder, stdin=subprocess.DEVNULL
        )
    assert result.returncode == 1
    assert result.stderr.decode() == "myllm: Cannot go on: No space left on device; fix that and run again.\n"


@pytest.mark.parametrize(
    "args", [["--help"], ["download", "--json"], [*ENCODE, "good.json", "--file", "book.txt"]]
)
def test_a_reader_who_leaves_early_hears_nothing(folder, args):
    reader, writer = os.pipe()
    os.close(reader)
    command = [MYLLM, *map(str, args)]
    try:
        result = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, cwd=folder, stdin=subprocess.DEVNULL
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("wait_for", ["reading", "merging"])
def test_ctrl_c_during_training_writes_nothing(folder, wait_for):
    """A pipe that stays open holds the process in reading; a patched trainer tells us when it merges."""
    code = (
        "import sys, myllm.cli, myllm.tokenizers.bpe as bpe\n"
        "def train(*args, **options):\n"
        "    print('merging', flush=True)\n"
        "    while True: pass\n"
        "bpe.train = train\n"
        "blocks = myllm.files.read_text_blocks\n"
        "import myllm.cli.tokenizer as group\n"
        "def announce(source):\n"
        "    for block in blocks(source):\n"
        "        print('reading', flush=True)\n"
        "        yield block\n"
        "group.read_text_blocks = announce\n"
        "sys.exit(myllm.cli.main(sys.argv[1:]))\n"
    )
    args = ["tokenizer", "train", "--out", "good.json", "--vocab-size", "300"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    ) as process:
        process.stdin.write("some words to learn from, " * 10_000)
        process.stdin.flush()
        if wait_for == "merging":
            process.stdin.close()
            process.stdin = None
        for line in process.stdout:
            if line == f"{wait_for}\n":
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "myllm: interrupted; nothing was written\n"


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    """Half a file arrives; Ctrl-C; the next run asks for the rest alone."""
    right = hashlib.sha256(server.data).hexdigest()
    code = (
        "import sys, myllm.cli\n"
        "from myllm.data import downloads\n"
        "address, size, right = sys.argv[1:]\n"
        "downloads.REMOTE['a'] = downloads.Remote(address, 'sub/a.bin', int(size), right, 'MIT', 'a test')\n"
        "sys.exit(myllm.cli.main(['download', 'a']))\n"
    )
    env = {**os.environ, "MYLLM_CACHE": str(tmp_path)}

    def start(habit):
        command = [sys.executable, "-c", code, f"{server.url}/{habit}", str(len(server.data)), right]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=env, preexec_fn=default_signals, **pipes)

    part = tmp_path / "sub" / "a.bin.part"
    with start("stall") as process:
        while not (part.exists() and part.stat().st_size):  # until the first block is on the disk
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "myllm: interrupted; run the same command again to resume\n")
    assert names(part.parent) == ["a.bin.part"]
    kept = part.stat().st_size
    assert 0 < kept < len(server.data) and server.data.startswith(part.read_bytes())
    with start("plain") as process:
        output, errors = process.communicate()
    assert (process.returncode, errors, output) == (0, "", f"{tmp_path / 'sub' / 'a.bin'}\n")
    assert (tmp_path / "sub" / "a.bin").read_bytes() == server.data
    assert server.asked == [None, f"bytes={kept}-"]


def test_without_a_network_a_download_says_so(tmp_path):
    env = {**os.environ, "MYLLM_CACHE": str(tmp_path), "PIP_NO_INDEX": "1"}
    complain("download", "smollm2", why="check the network", env=env, by=execute)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
