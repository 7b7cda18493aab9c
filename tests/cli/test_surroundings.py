"""Closed streams, other encodings, no home folder, strange paths, absurd numbers, no memory: no traceback."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from myllm import cli
from myllm.files import expand

MYLLM = str(Path(sys.executable).with_name("myllm"))
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def execute(*args, closed=(), env=None, cwd=None, limit=None):
    """Run the executable with some of its streams closed, as ``<&- >&- 2>&-`` in a shell."""

    def prepare():
        for descriptor in closed:
            os.close(descriptor)
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return subprocess.run(
        [MYLLM, *args], capture_output=True, stdin=subprocess.DEVNULL, cwd=cwd, preexec_fn=prepare,
        env={name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None},
    )  # fmt: skip


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams(closed):
    works, fails = execute("version", closed=closed), execute("download", "gpt5", closed=closed)
    misspelt = execute("nonsense", closed=closed)
    assert [one.returncode for one in (works, fails, misspelt)] == [0, 1, 2]
    assert works.stdout.startswith(b"" if 1 in closed else b"myllm ")
    assert fails.stderr.startswith(b"" if 2 in closed else b"myllm: ") and fails.stderr.count(b"\n") <= 1
    assert not any(b"Traceback" in one.stderr for one in (works, fails, misspelt))


def test_a_result_is_written_although_nobody_listens(tmp_path):
    """No file may get the number of a closed stream, or what is printed would end up in it."""
    (tmp_path / "a.txt").write_text("hello hello hello")
    build = ("data", "build", "a.txt", "--tokenizer", "bytes", "--out")
    assert execute(*build, "loud", cwd=tmp_path).returncode == 0
    assert execute(*build, "mute", cwd=tmp_path, closed=(0, 1, 2)).returncode == 0
    for path in (tmp_path / "loud").iterdir():
        assert (tmp_path / "mute" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "latin-1"},
        C_LOCALE,
    ],
    ids=["ascii", "cp1252", "latin-1", "C"],
)
@pytest.mark.parametrize("args", [["exercises", "list"], ["tokenizer", "--help"], ["download", "東京🙂"]])
def test_text_that_the_output_cannot_encode_is_escaped(env, args):
    result = execute(*args, env=env)
    assert result.returncode == (args[0] == "download")
    assert b"Error" not in result.stderr
    if args[0] == "download" and env is not C_LOCALE:
        assert rb"'\u6771\u4eac\U0001f642'" in result.stderr


def test_torn_utf_8_on_standard_input_is_replaced():
    code = "import sys, myllm.cli; myllm.cli.main(['version']); print(ascii(input()), ascii(input()))"
    for env in ({}, C_LOCALE):
        run = subprocess.run(
            [sys.executable, "-c", code], input=b"H\xc3\nok\n", capture_output=True, env={**os.environ, **env}
        )
        assert run.stdout.endswith(b"'H\\ufffd' 'ok'\n"), run.stderr


def test_without_a_home_folder(monkeypatch, capsys, tmp_path):
    """As for a user without an entry in the passwd file; only a download needs a place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MYLLM_CACHE", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert [cli.main([command]) for command in ("models", "download", "version")] == [0, 0, 0]
    assert "run `myllm download smollm2` first" in capsys.readouterr().out
    assert cli.main(["download", "smollm2"]) == 1
    assert capsys.readouterr().err == (
        "myllm: There is no home folder for downloads; set MYLLM_CACHE to a folder.\n"
    )
    assert not [*tmp_path.iterdir()]


def test_a_home_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    env = {"HOME": str(tmp_path / "file"), "MYLLM_CACHE": None, "PIP_NO_INDEX": "1"}
    assert execute("models", env=env).returncode == 0
    result = execute("download", "smollm2", env=env)
    assert result.returncode == 1 and result.stderr.endswith(b"choose another MYLLM_CACHE.\n")


# Paths and numbers; the root folder is only read, lest a broken version fill it

PATHS = ["", "/", ".", "sub", "missing", "no/where", "~nosuchuser", "~/missing", "n\udcff\udcfe", "x" * 300]
COMMANDS = [
    ["info", "PATH"],
    ["data", "info", "PATH"],
    ["data", "build", "PATH", "--tokenizer", "bytes", "--out", "new"],
    ["data", "build", "a.txt", "--tokenizer", "PATH", "--out", "new"],
    ["tokenizer", "train", "PATH", "--vocab-size", "257", "--out", "new"],
    ["tokenizer", "encode", "text", "--tokenizer", "PATH"],
]
PLACES = [
    ["data", "build", "a.txt", "--tokenizer", "bytes", "--out", "PATH"],
    ["tokenizer", "train", "a.txt", "--vocab-size", "257", "--out", "PATH"],
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "sub"))
    (tmp_path / "a.txt").write_text("hello hello hello")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", PATHS, ids=ascii)
@pytest.mark.parametrize("command", COMMANDS + PLACES, ids=" ".join)
def test_a_strange_path_is_one_sentence_or_works(folder, capsys, command, path):
    if path == "/" and command in PLACES:
        path = ".."
    code = cli.main([path if part == "PATH" else part for part in command])
    message = capsys.readouterr().err
    works = command in PLACES and path in ("missing", "~nosuchuser", "~/missing", "n\udcff\udcfe")
    assert code == (not works), message
    if works:
        assert message == "" and expand(path).exists()
    else:
        assert message.startswith("myllm: ") and message.endswith(".\n") and message.count("\n") == 1
        assert sorted(one.name for one in folder.rglob("*")) == ["a.txt", "b.txt", "sub"]


@pytest.mark.parametrize("number", ["1e30", "nan", "inf", "-1", "0", "1.5", "9" * 30, "9" * 5_000, "٣x", ""])
@pytest.mark.parametrize("option", ["--batch", "--context"])
def test_absurd_numbers_are_refused(capsys, option, number):
    code = cli.main(["info", "gpt2", option, number])
    message = capsys.readouterr().err
    assert code in (1, 2) and "Traceback" not in message
    if code == 1:
        assert message.startswith("myllm: Numbers are out of range") and message.count("\n") == 1


# Memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_a_memory_limit_is_one_sentence():
    result = execute("info", "gpt2", limit=400_000_000)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.splitlines()[-1].startswith(b"myllm: There is not enough memory; ")
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 1),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), 1),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), 1),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 1),
        (RuntimeError("can't start new thread"), 1),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), None),
    ],
)
def test_only_a_lack_of_memory_is_explained(monkeypatch, capsys, error, code):
    """Another error is a fault of the package, and its traceback says where."""

    def fail(args):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    if code is None:
        with pytest.raises(RuntimeError):
            cli.main(["version"])
    else:
        assert cli.main(["version"]) == code
        assert "not enough memory" in capsys.readouterr().err
