"""``myllm version`` and ``myllm download``."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from tyro.conf import Positional, arg

import myllm


@dataclass(frozen=True)
class Version:
    """Print the version of this package and of the libraries it is built on.

    Examples:
        myllm version
        myllm version --json
    """

    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Print the versions."""
        found = {"myllm": myllm.__version__, "python": platform.python_version()}
        found |= {name: version(name) for name in ("torch", "numpy", "tiktoken")}
        line = ", ".join(f"{name} {number}" for name, number in found.items())
        print(json.dumps(found) if self.json else line)
        return 0


@dataclass(frozen=True)
class Download:
    """Download a named file and print its path; without a name, list the files.

    A file is downloaded once, into ~/.cache/myllm or the folder that MYLLM_CACHE names, and its SHA-256 is
    checked. The corpora come with the package.

    Examples:
        myllm download
        myllm download smollm2
    """

    name: Annotated[str | None, Positional, arg(metavar="[NAME]")] = None
    """The file to download."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Download the file and print its path, or print the table."""
        from myllm.data.downloads import download

        rows = _rows()
        if self.name is None:
            print(json.dumps(rows, indent=2)) if self.json else _print(rows)
            return 0
        included = {row["name"]: row["path"] for row in rows if row["included"]}
        try:
            path = included.get(self.name) or str(download(self.name))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; run the same command again to resume") from None
        print(json.dumps({"name": self.name, "path": path}) if self.json else path)
        return 0


COMMANDS = {"version": Version, "download": Download}


def _rows() -> list[dict[str, Any]]:
    from myllm.data import corpus, downloads

    rows: list[dict[str, Any]] = []
    for name, one in corpus.CORPORA.items():
        path = corpus.path(name)
        facts = {"about": one.about, "licence": one.licence, "bytes": path.stat().st_size}
        rows.append({"name": name, **facts, "included": True, "path": str(path)})
    for name, one in downloads.REMOTE.items():
        path = downloads.find(name)
        facts = {"about": one.about, "licence": one.licence, "bytes": one.size}
        rows.append({"name": name, **facts, "included": False, "path": str(path) if path else None})
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    size = Column("Size", justify="right")
    table = Table("Name", "What", "Licence", size, "Here", box=None, header_style="bold")
    for row in rows:
        here = "yes" if row["path"] else "not yet"
        table.add_row(row["name"], row["about"], row["licence"], f"{row['bytes'] / 1e6:.1f} MB", here)
    Console(highlight=False).print(table)
