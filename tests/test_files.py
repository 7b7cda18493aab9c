"""Nothing half-written, nothing trusted unchecked, nothing believed that a file claims about itself."""

import errno
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myllm import files
from myllm.files import (
    UserError,
    atomic_write,
    atomic_writer,
    cache_dir,
    download,
    expand,
    read_bytes,
    read_json,
    read_text,
    read_text_blocks,
    sha256,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def unprivileged():
    """A folder, and the rights of a user who is not root, who may do anything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


# Writing


@pytest.mark.parametrize("data", [b"", b"\x00\xff", "Zürich\r\n", "x" * 300_000])
def test_write_puts_exactly_the_bytes(tmp_path, data):
    atomic_write(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert names(tmp_path) == ["a"]


def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path):
    path = tmp_path / "a"
    path.write_text("old" * 100_000)
    with path.open() as reader:
        assert reader.read(3) == "old"
        atomic_write(path, "new")
        assert len(reader.read()) == 299_997
    assert path.read_text() == "new"


def test_write_keeps_the_mode_of_the_file_and_else_follows_umask(tmp_path):
    old = tmp_path / "old"
    old.write_text("old")
    old.chmod(0o604)
    umask = os.umask(0o027)
    try:
        atomic_write(old, "new")
        atomic_write(tmp_path / "new", "new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(old.stat().st_mode) == 0o604
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_write_goes_through_a_symbolic_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, UserError("stop")])
def test_whatever_ends_the_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(BaseException) as raised, atomic_writer(path) as file:
        file.write(b"half")
        raise error
    assert raised.type in (error, type(error))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("where", ["fsync", "write"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch, where, number):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"^Cannot write .*a: .*\.$"), atomic_writer(path) as file:
        file.write(b"new") if where == "fsync" else fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_an_error_of_the_callers_own_is_not_explained_away(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_writer(tmp_path / "a"):
        Path(tmp_path / "elsewhere").read_text()


def test_a_folder_a_device_and_a_missing_folder_are_refused(tmp_path):
    pipe = tmp_path / "pipe"  # stands for /dev/null, which a mistake here, made as root, would destroy
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, tmp_path / "no" / "a", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="Cannot write"):
            atomic_write(path, "new")
    assert names(tmp_path) == ["pipe"]
    assert pipe.is_fifo()


def test_without_permission_nothing_is_replaced(unprivileged):
    path = unprivileged / "a"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(UserError, match="permission denied"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(unprivileged) == ["a"]


# Reading


UNREADABLE = {
    "missing": (None, "there is no such file"),
    ".": (None, "it is a folder"),
    "binary": (b"PK\x03\x04\x00\x00", "binary, not text"),
    "latin-1": (b"a" * 70_000 + "Zürich".encode("latin-1"), r"not UTF-8 text \(byte 70,001\)"),
    "latin-1 after a mark": (b"\xef\xbb\xbf" + b"a" * 9 + b"\xe9.", r"not UTF-8 text \(byte 12\)"),
    "utf-16": ("\ufeffZürich".encode("utf-16-le"), "utf-16 is UTF-16 or UTF-32 text; convert it to UTF-8"),
    "utf-16-be": ("\ufeffZürich".encode("utf-16-be"), "utf-16-be is UTF-16 or UTF-32 text"),
    "utf-32": ("\ufeffZürich".encode("utf-32-le"), "is UTF-16 or UTF-32 text"),
    "half a character at the end": ("Zü".encode()[:-1], r"not UTF-8 text \(byte 1\)"),
    "half a character at a block's end": (b"a" * 65_535 + b"\xc3", r"not UTF-8 text \(byte 65,535\)"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("read", [read_text, lambda path: read_json(path, "a tokenizer")])
def test_unreadable_text_is_one_sentence(tmp_path, name, read):
    content, why = UNREADABLE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=why) as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)


@given(st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8")), st.integers(1, 7))
def test_text_is_read_as_it_stands_wherever_blocks_end(text, block):
    files.BLOCK, usual = block, files.BLOCK
    try:
        blocks = [*read_text_blocks(io.BytesIO(text.encode()))]
    finally:
        files.BLOCK = usual
    assert "".join(blocks) == text.removeprefix("\ufeff")
    assert all(blocks)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 1 << 16])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, monkeypatch, block):
    """One mark at the beginning goes; a second one, or one further on, is a character of the text."""
    monkeypatch.setattr(files, "BLOCK", block)
    path = tmp_path / "marked.json"
    for text in ("", "é", "\ufeff", "a\ufeffb"):
        path.write_bytes(text.encode("utf-8-sig"))
        assert read_text(path) == text
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path, "a list") == [1]


# Names of files


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    atomic_write("~/a", "text")
    assert read_text("~/a") == (tmp_path / "a").read_text() == "text"
    assert files.sha256("~/a") == hashlib.sha256(b"text").hexdigest()
    with pytest.raises(UserError, match=r"Cannot read ~nosuchuser/a: there is no such file"):
        read_text("~nosuchuser/a")
    atomic_write("~nosuchuser", "a name like any other")
    assert names(tmp_path) == ["a", "~nosuchuser"]


def test_without_a_home_folder_a_tilde_is_a_character(tmp_path, monkeypatch):
    """As for a user without an entry in the passwd file and without HOME."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("MYLLM_CACHE", raising=False)
    with pytest.raises(UserError, match="no home folder for downloads; set MYLLM_CACHE"):
        files.cache_dir()
    monkeypatch.setenv("MYLLM_CACHE", str(tmp_path))
    assert files.cache_dir() == tmp_path


@pytest.mark.parametrize("path", ["", "a\0b"])
@pytest.mark.parametrize("use", [read_text, files.sha256, lambda path: atomic_write(path, "")])
def test_a_path_that_names_nothing(path, use):
    with pytest.raises(UserError, match="names no file; give a name"):
        use(path)


def test_the_root_of_all_folders_is_no_file():
    with pytest.raises(UserError, match="Cannot write /: it is not an ordinary file"):
        atomic_write("/", "")


@pytest.mark.parametrize(
    "text", ["", "  \n", "{", '{"a": 1', "[1,]", "[" * 100_000, "1" * 5_000, "<html>", '{"a": 1} {']
)
def test_what_is_not_whole_json_is_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a tokenizer"):
        read_json(tmp_path / "a.json", "a tokenizer")


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.json").write_text(" \n")
    with pytest.raises(UserError, match="is empty; it should be a tokenizer"):
        read_json(tmp_path / "a.json", "a tokenizer")


def test_json_torn_at_any_byte_is_refused(tmp_path):
    whole = json.dumps({"merges": [[104, 105]], "name": "bpe", "ü": "ß"}, ensure_ascii=False).encode()
    path = tmp_path / "a.json"
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(UserError):
            read_json(path, "a tokenizer")
    path.write_bytes(whole)
    assert read_json(path, "a tokenizer")["ü"] == "ß"


def test_reading_is_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", limit=5) == b"12345"
    with pytest.raises(UserError, match="larger than 4 bytes"):
        read_bytes(tmp_path / "a", limit=4)
    with pytest.raises(UserError, match=r"larger than 1,000,000 bytes"):
        read_bytes("/dev/zero", limit=1_000_000)


def test_sha256_of_the_standards_example(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-4, example 1
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("MYLLM_CACHE", "/somewhere/else")
    assert cache_dir() == Path("/somewhere/else")
    monkeypatch.delenv("MYLLM_CACHE")
    monkeypatch.setenv("HOME", "/home/reader")
    assert cache_dir() == Path("/home/reader/.cache/myllm")


def test_a_tilde_is_expanded_where_the_user_is_known(monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    assert expand("~/a b") == Path("/home/reader/a b")
    assert expand(Path("~")) == Path("/home/reader")
    for path in ("a/~/b", "~nosuchuser/x", "/x"):
        assert expand(path) == Path(path)
    for path in ("", "a\0b"):
        with pytest.raises(UserError, match="names no file"):
            expand(path)


def test_a_library_that_replaces_the_open_file_is_welcome(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_writer(path) as file:
        other = tmp_path / "other"
        other.write_text("new")
        other.chmod(0o600)
        other.replace(file.name)
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["a"]


# Downloads


@pytest.fixture
def fetch(server, tmp_path):
    right = hashlib.sha256(server.data).hexdigest()
    return lambda habit="plain", checksum=right: download(
        f"{server.url}/{habit}", tmp_path / "cache" / "a.bin", sha256=checksum
    )


def test_download_once(server, fetch, tmp_path):
    path = fetch()
    assert path == tmp_path / "cache" / "a.bin"
    assert path.read_bytes() == server.data
    assert fetch() == path
    assert server.asked == [None]
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("habit", ["plain", "norange"])
def test_a_broken_connection_is_resumed(server, fetch, tmp_path, habit):
    part = tmp_path / "cache" / "a.bin.part"
    with pytest.raises(UserError, match="the connection broke"):
        fetch("short")
    half = len(server.data) // 2
    assert part.read_bytes() == server.data[:half]
    assert fetch(habit).read_bytes() == server.data
    assert server.asked == [None, f"bytes={half}-"]
    assert names(part.parent) == ["a.bin"]


def test_a_part_that_is_already_whole_needs_no_network(server, fetch, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.bin.part").write_bytes(server.data)
    assert fetch("missing").read_bytes() == server.data
    assert server.asked == []


@pytest.mark.parametrize("part", [b"x" * 1_000, b"x" * 300_003, b"x" * 600_000])
def test_a_spoilt_part_is_dropped_and_the_next_try_starts_afresh(server, fetch, tmp_path, part):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.bin.part").write_bytes(part)
    with pytest.raises(UserError, match="wrong checksum"):
        fetch()
    assert names(tmp_path / "cache") == []
    assert fetch().read_bytes() == server.data


def test_wrong_bytes_are_not_kept(server, fetch, tmp_path):
    with pytest.raises(UserError, match="wrong checksum"):
        fetch("wrong")
    assert names(tmp_path / "cache") == []


def test_a_spoilt_file_is_fetched_again(server, fetch, tmp_path):
    fetch().write_bytes(b"spoilt")
    assert fetch().read_bytes() == server.data
    assert len(server.asked) == 2


def test_no_such_file_no_server_no_name(server, fetch, tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(UserError, match="404") as raised:
        fetch("missing")
    assert "check" in str(raised.value)
    with pytest.raises(UserError, match="Connection refused"):
        download("http://127.0.0.1:1/a", path, sha256="0" * 64)
    with pytest.raises(UserError, match="Cannot fetch"):
        download("http://there-is-no-such-host.invalid/a", path, sha256="0" * 64)
    assert not path.exists()


def test_a_disk_that_fills_up_keeps_the_part(server, fetch, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patched,
        pytest.raises(UserError, match=r"Cannot write .* the disk is full"),
    ):
        patched.setattr(os, "fsync", full)
        fetch()
    assert names(tmp_path / "cache") == ["a.bin.part"]
    assert fetch().read_bytes() == server.data


def test_two_processes_do_not_write_one_part(server, fetch, tmp_path):
    import fcntl

    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache" / "a.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            fetch()
    assert fetch().read_bytes() == server.data


def test_a_file_that_another_process_finished_meanwhile_is_taken(server, fetch, monkeypatch, tmp_path):
    """It renames its part between our first look and our lock: our handle is then the file itself."""
    import fcntl

    target, part = tmp_path / "cache" / "a.bin", tmp_path / "cache" / "a.bin.part"
    target.parent.mkdir()
    part.write_bytes(server.data)
    monkeypatch.setattr(fcntl, "flock", lambda *_: part.replace(target))
    assert fetch("norange").read_bytes() == server.data
    assert server.asked == []


# Sudden death: a helper forks children that kill themselves (SIGKILL) at the n-th line of files.py they run

HELPER = """
import os, random, signal, sys
from pathlib import Path
from http.client import HTTPException
from urllib.request import urlopen
import rich.progress, rich.console
from myllm import files

def run(action, deadly=0):
    "Fork, act, die at the deadly-th line; the exit status and, where the child lived, the lines it ran."
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        lines = os.read(reader, 100)
        os.close(reader)
        return os.waitpid(child, 0)[1], int(lines or 0)
    count = 0
    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            count += 1
            if count == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    try:
        action()
    except files.UserError:
        os._exit(1)
    sys.settrace(None)
    os.write(writer, str(count).encode())
    os._exit(0)

random.seed(0)
folder, mode, *rest = sys.argv[1:]
path, deaths = Path(folder) / "a", 0
if mode == "save":
    old, new = b"old" * 1_000, b"new" * 100_000
    def save():
        with files.atomic_writer(path) as file:
            for start in range(0, len(new), 10_000):
                file.write(new[start : start + 10_000])
    path.write_bytes(old)
    status, lines = run(save)
    assert status == 0 and path.read_bytes() == new
    finished = set()
    for n in range(1, lines + 1):
        path.write_bytes(old)
        status, _ = run(save, deadly=n)
        assert status == signal.SIGKILL, status
        deaths += 1
        assert path.read_bytes() in (old, new), n
        finished.add(path.read_bytes() == new)
    assert finished == {False, True}
    for _ in range(30):  # between two writes of the caller
        path.write_bytes(old)
        stop = random.randrange(30)
        def half():
            with files.atomic_writer(path) as file:
                for i in range(30):
                    if i == stop:
                        os.kill(os.getpid(), signal.SIGKILL)
                    file.write(b"x" * 10_000)
        assert run(half)[0] == signal.SIGKILL
        deaths += 1
        assert path.read_bytes() == old
else:
    url, checksum = rest
    fetch = lambda: files.download(url, path, sha256=checksum)
    status, lines = run(fetch)
    assert status == 0
    path.unlink()
    whole = resumed = 0
    while deaths < 60:
        part = path.with_name("a.part")
        resumed += part.exists() and part.stat().st_size > 0
        status, _ = run(fetch, deadly=random.randrange(1, lines))
        deaths += status == signal.SIGKILL
        if path.exists():
            assert files.sha256(path) == checksum
            path.unlink()
            whole += 1
    assert resumed > 10, resumed
    assert run(fetch)[0] == 0 and files.sha256(path) == checksum
print(deaths)
"""


def die(*args):
    result = subprocess.run(
        [sys.executable, "-c", HELPER, *map(str, args)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_a_save_killed_anywhere_leaves_the_old_file_or_the_new(tmp_path):
    assert die(tmp_path, "save") >= 50
    left = [name for name in names(tmp_path) if name != "a"]
    assert left and all(name.startswith(".a.") and name.endswith(".tmp") for name in left)


@pytest.mark.parametrize("habit", ["plain", "norange"])
def test_a_download_killed_anywhere_is_never_trusted_and_resumes(server, tmp_path, habit):
    right = hashlib.sha256(server.data).hexdigest()
    assert die(tmp_path, "download", f"{server.url}/{habit}", right) >= 50
    assert names(tmp_path) == ["a"]
