"""The grader as a wheel lays it out: no repository beside it, an empty folder, no network."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = (
    "import socket; socket.socket.connect = None; import sys; from myllm.cli import main; sys.exit(main())"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds what the wheel's settings in pyproject.toml put there."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    site, skip = tmp_path / "site", shutil.ignore_patterns("__pycache__")
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, site / package, ignore=skip)
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, site / target, ignore=skip)
    return site


def test_start_solve_and_check_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    def myllm(*args: str) -> tuple[int, str]:
        command = [sys.executable, "-c", OFFLINE, "exercises", *args]
        env = {**os.environ, "PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, encoding="utf-8")
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    stubs = {path.name for path in (ROOT / "exercises").glob("*.py")}
    assert myllm("start", ".")[0] == 0
    assert {path.name for path in empty.glob("*.py")} == stubs
    assert myllm("check", "01.1") == (
        1,
        "01.1 Count bigrams: not started\n\n0 of 1 exercises passed, 0 of 5 points.\n",
    )
    for path in (installed / "myllm/grading/solutions").glob("ch*.py"):
        shutil.copy(path, empty)
    code, out = myllm("check", "01.1")
    assert code == 0 and "01.1 Count bigrams: passed" in out
    assert myllm("hint", "01.1")[0] == 0
