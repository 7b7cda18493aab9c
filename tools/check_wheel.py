"""Build the sdist and the wheel, install the wheel into an empty environment, and use it there: `make wheel`.

    python tools/check_wheel.py torch==2.13.0

The environment has the core dependencies only. It lies outside the repository, in a folder with a space in
its name. What needs an extra must say so, in one sentence.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {"myllm": "myllm", "book/_results": "myllm/_results"} | {
    part: f"myllm/grading/{part}" for part in ("exercises", "solutions")
}
# A module either imports or, being a widget, lacks the libraries of the extra `book`.
IMPORTS = """
import importlib, pkgutil, myllm, myllm.cli
names = [m.name for m in pkgutil.walk_packages(myllm.__path__, "myllm.") if m.name != "myllm.__main__"]
assert len(names) > 100, names
missing = set()
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert name.startswith("myllm.widgets.") and "vocabularies" not in name, f"{name}: {error}"
        missing.add(name)
print(len(names) - len(missing), "modules import;", len(missing), "widgets wait for the extra book")
"""
# What is missing, and a command that needs it.
REFUSALS = {
    "quant": "quantize course-base --scheme bnb-nf4 --out quantized",
    "logging": "pretrain shakespeare --tensorboard --out run",
    "serve": "serve course-base",
    "book": "quantize course-sft --scheme q8_0 --out sft.gguf",
}


def main(torch: str) -> None:
    """Check everything, or stop with the first thing that does not hold."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "a place"
        wheel = build(place / "dist")
        same_files(wheel)
        python = install(place / "venv", wheel, torch)
        use(python.with_name("myllm"), place / "empty")
    print(f"The wheel holds, in {time.monotonic() - begin:.0f} s.")


def build(dist: Path) -> Path:
    """Build both into `dist`, the wheel from the sdist; return the wheel."""
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT, cwd=ROOT)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    print(*(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB" for path in (sdist, wheel)), sep="\n")
    return wheel


def same_files(wheel: Path) -> None:
    """The wheel must hold the files that git knows, and no others."""
    known: set[str] = set()
    for source, target in PLACES.items():
        listed = run("git", "ls-files", "-co", "--exclude-standard", source, cwd=ROOT).splitlines()
        known |= {target + name.removeprefix(source) for name in listed if (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == known, f"only in the wheel or only in git: {sorted(packed ^ known)}"
    print(len(packed), "files, as in git")


def install(folder: Path, wheel: Path, torch: str) -> Path:
    """Make an environment with PyTorch and the wheel, without extras; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    pip = (python, "-m", "pip")
    run(*pip, "install", "-q", *shlex.split(torch), cwd=folder)
    run(*pip, "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    run(*pip, "check", cwd=folder)
    print(run(python, "-c", IMPORTS, cwd=folder), end="")
    return python


def use(myllm: Path, folder: Path) -> None:
    """Run commands in an empty folder: a model, an exercise, and what is refused for want of an extra."""
    folder.mkdir()
    print(run(myllm, "version", cwd=folder), end="")
    run(myllm, "generate", "course-base", "Once", "--max-new-tokens", "4", cwd=folder)
    run(myllm, "exercises", "start", ".", cwd=folder)
    stubs = {path.name for path in (ROOT / "exercises").glob("*.py")}
    assert stubs == {path.name for path in folder.glob("*.py")}
    assert "not started" in run(myllm, "exercises", "check", "01.1", cwd=folder, code=1)
    shutil.copy(ROOT / "solutions/ch01_first_model.py", folder)
    assert "01.1 Count bigrams: passed" in run(myllm, "exercises", "check", "01.1", cwd=folder)
    assert "01.1 Count bigrams: passed" in run(myllm, "exercises", "report", cwd=folder)
    for extra, command in REFUSALS.items():
        said = run(myllm, *command.split(), cwd=folder, code=1)
        assert said.count("\n") == 1 and f"myllm-course[{extra}]" in said, f"{command}: {said}"
        print(said, end="")


def run(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a command that must end with `code`; return what it printed."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
