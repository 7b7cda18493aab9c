"""Bad input: one sentence, the right exit code, and nothing printed, changed or left behind.

``bad_inputs.toml`` is the list, ``bad_place.py`` makes the files that it names. What the HTTP endpoint
refuses is listed in ``tests/app/test_serve_refusals.py``.
"""

import importlib.util
import io
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch

from myllm import cli

HERE = Path(__file__).parent
LIST = tomllib.loads((HERE / "bad_inputs.toml").read_text("utf-8"))
ROWS = [(f"{command} {line}".strip(), why) for command, rows in LIST.items() for line, why in rows.items()]
PROCESSES = [
    "generate tiny-torn Hi",
    "merge tiny adapter-tiny --out tiny",
    "quantize tiny --scheme gptq --out new --text word.txt --calibration binary.bin",
    "serve tiny --port 70000",
    "sft tiny --data half.jsonl --out new",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The files, in the current folder, and one thread, as sums of so little gain nothing by more."""
    spec = importlib.util.spec_from_file_location("bad_place", HERE / "bad_place.py")
    bad_place = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bad_place)
    folder, threads = tmp_path_factory.mktemp("place"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("RANK", "WORLD_SIZE", "MYLLM_SERVE_KEY"):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "200")  # in a narrow window, tyro's sentences have several lines
        torch.set_num_threads(1)
        bad_place.make(folder)
        yield folder
        torch.set_num_threads(threads)


@pytest.fixture
def untouched(place):
    """Fails if a file was made, changed or removed, and puts all as it was."""
    before = contents(place)
    yield
    after = contents(place)
    for name in sorted(after.keys() - before.keys(), reverse=True):
        new = place / name
        shutil.rmtree(new) if new.is_dir() and not new.is_symlink() else new.unlink()
    assert after == before


def contents(place):
    """When each file was changed, and its size."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in folders + files:
            path = Path(folder, name)
            facts = path.lstat()
            is_file = not path.is_dir() or path.is_symlink()
            found[str(path.relative_to(place))] = is_file and (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return found


def run(line):
    """The exit code of a command, what it printed, what it said, and what it warned of."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(3)]
    names = dict(zip(("stdin", "stdout", "stderr"), streams, strict=True))
    with mock.patch.multiple(sys, **names), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        code = cli.main(shlex.split(line))
        for stream in streams[1:]:
            stream.flush()
    printed, said = (stream.buffer.getvalue().decode() for stream in streams[1:])
    return code, printed, said, [str(one.message) for one in warned]


def check(code, printed, said, why):
    assert printed == "" and "Traceback" not in said
    if isinstance(why, dict):
        assert code == 2 and why["usage"] in said and "--help" in said
    else:
        assert code == 1 and why in said
        assert said.startswith("myllm: ") and said.endswith((".\n", "?\n")) and said.count("\n") == 1


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("line", "why"), ROWS, ids=[line for line, _ in ROWS])
def test_bad_input_is_one_sentence_and_changes_nothing(line, why):
    code, printed, said, warned = run(line)
    check(code, printed, said, why)
    assert warned == []


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("line", PROCESSES)
def test_bad_input_to_a_process(line):
    command = [sys.executable, "-m", "myllm", *shlex.split(line)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    check(done.returncode, done.stdout, done.stderr, dict(ROWS)[line])


def test_every_command_has_bad_input():
    groups = {group: import_commands(group) for group in cli.GROUPS}
    known = {name for module in cli.MODULES for name in import_commands(module)} - {"version", "models"}
    known |= {f"{group} {name}" for group, names in groups.items() for name in names}
    assert known <= LIST.keys() and len(ROWS) >= 300


def import_commands(module):
    return importlib.import_module(f"myllm.cli.{module}").COMMANDS
