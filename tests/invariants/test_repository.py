"""What lies in the repository: no clash of names, nothing lost to .gitignore, every asset with its papers."""

import hashlib
import re
import subprocess
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from myllm.data.corpus import CORPORA
from myllm.data.downloads import REMOTE

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "myllm" / "data" / "assets"
FOLDERS = sorted((ROOT / "myllm").rglob("assets"))
CACHES = (
    r"(^|/)(__pycache__|\.(ipynb_checkpoints|pytest_cache|ruff_cache|hypothesis|import_linter_cache))/|\.pyc$"
)
# Joined from pieces, so that this list does not find itself.
REGISTRIES = [
    ".".join(host) for host in (("pypi", "org"), ("npmjs", "org"), ("npmjs", "com"), ("debian", "org"))
]
REGISTRIES.append("python" + "hosted")


def git(*args):
    result = subprocess.run(["git", *args, "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return [name for name in result.stdout.split("\0") if name]


def test_no_names_differ_only_in_case():
    files = git("ls-files")
    names = {*files, *(str(folder) for name in files for folder in PurePosixPath(name).parents)}
    assert [name for name, n in Counter(name.lower() for name in names).items() if n > 1] == []


def test_nothing_tracked_is_ignored():
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def test_gitignore_eats_nothing_but_caches():
    folders = ["myllm", "book", "exercises", "solutions", "tests", "bench", "tools"]
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "--", *folders)
    assert [name for name in ignored if not re.search(CACHES, name)] == []


@pytest.mark.parametrize("name", ["data", "build", "dist", "models", "env", "lib", "weights", "logs", "tmp"])
def test_a_folder_of_any_usual_name_may_be_added(name):
    paths = [
        f"{room}/{name}/file.{ext}"
        for room in ("myllm", "tests", "book")
        for ext in ("py", "md", "json", "gz")
    ]
    command = ["git", "check-ignore", "--no-index", *paths]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 128:
        pytest.skip("not a git checkout")
    assert result.stdout == ""


def test_no_registry_is_named():
    found = list[str]()
    for name in git("ls-files"):
        if "/vendor/" in name or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {host}" for host in REGISTRIES if host in text]
    assert found == []


def test_no_notebook_and_no_lock_file_is_tracked():
    files = git("ls-files")
    assert [name for name in files if name.endswith(".ipynb") and "canary" not in name] == []
    assert "uv.lock" not in files


def rows(folder):
    """The table of a folder's ATTRIBUTION.md, by the first column."""
    lines = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    return {row[0]: row for row in cells if not re.fullmatch(r"file|name|-+", row[0])}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_asset_has_its_papers(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    attributed = {name: row for name, row in rows(folder).items() if "." in name}
    assert {*attributed} == files - {"ATTRIBUTION.md"}
    for name, row in attributed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in row
        assert re.search("public domain|CC0|MIT|Apache|BSD", "|".join(row)), row
        assert all(row)


def test_the_corpora_are_the_assets_of_data():
    sets = {"chats.jsonl.xz", "spam.jsonl.xz"}  # of examples
    assert {name for name in rows(ASSETS) if "." in name} == {
        corpus.file for corpus in CORPORA.values()
    } | sets


def test_every_download_has_its_papers():
    attributed = {name: row for name, row in rows(ASSETS).items() if "." not in name}
    assert {name: row[4] for name, row in attributed.items()} == {
        name: remote.sha256 for name, remote in REMOTE.items()
    }
    for name, remote in REMOTE.items():
        assert remote.licence.split()[0] in attributed[name][2]
        assert remote.size > 0 and re.fullmatch("[0-9a-f]{64}", remote.sha256)


def test_assets_stay_small():
    """Texts and tokenizers 12 MB together, each of the course's own models 4 MB."""
    assert ASSETS in FOLDERS
    sizes = {path: path.stat().st_size for folder in FOLDERS for path in folder.rglob("*") if path.is_file()}
    models = {path for path in sizes if path.suffix == ".safetensors"}
    assert sum(size for path, size in sizes.items() if path not in models) <= 12_000_000
    assert all(sizes[path] <= 4_000_000 for path in models)
