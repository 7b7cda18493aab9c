"""``myllm version`` and ``myllm download``."""

import json as js
import platform
from importlib.metadata import version as installed
from typing import Annotated, Any

from tyro.conf import Positional, arg


def version(*, json: bool = False) -> None:
    """Say which version this is, and what it stands on.

    Examples:
        myllm version
        myllm version --json

    Args:
        json: Print one JSON object.
    """
    import myllm

    found = {"myllm": myllm.__version__, "python": platform.python_version()}
    found |= {name: installed(name) for name in ("torch", "numpy", "tiktoken")}
    print(js.dumps(found) if json else ", ".join(f"{name} {number}" for name, number in found.items()))


def download(
    name: Annotated[str | None, Positional, arg(metavar="[NAME]")] = None, /, *, json: bool = False
) -> None:
    """Fetch a named file and print its path; without a name, list what there is.

    A file is fetched once into ~/.cache/myllm, or into the folder that MYLLM_CACHE names, and its SHA-256 is
    checked. The corpora come with the package and need no fetching.

    Examples:
        myllm download
        myllm download smollm2

    Args:
        name: What to fetch.
        json: Print JSON.
    """
    from myllm.data import downloads

    rows = _rows()
    if name is None:
        return print(js.dumps(rows, indent=2)) if json else _print(rows)
    included = {row["name"]: row["path"] for row in rows if row["included"]}
    try:
        path = included.get(name) or str(downloads.download(name))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run the same command again to go on") from None
    print(js.dumps({"name": name, "path": path}) if json else path)


commands = {"version": version, "download": download}


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

    table = Table(
        "Name", "What", "Licence", Column("Size", justify="right"), "Here", box=None, header_style="bold"
    )
    for row in rows:
        here = "yes" if row["path"] else "not yet"
        table.add_row(row["name"], row["about"], row["licence"], f"{row['bytes'] / 1e6:.1f} MB", here)
    Console(highlight=False).print(table)
