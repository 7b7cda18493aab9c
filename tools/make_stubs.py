"""Generate ``exercises/`` from ``solutions/``; with ``--check``, only say whether they agree."""

import sys
from pathlib import Path

from myllm.files import atomic_write
from myllm.grading.catalogue import stub
from myllm.grading.engine import exam

ROOT = Path(__file__).parents[1]


def main(check: bool) -> int:
    """Write every stub, or name those that are missing, stale or without a source; 1 where there are any."""
    wanted = {
        path.name: stub(path.read_text("utf-8"), lambda id: exam(id).announced)
        for path in sorted((ROOT / "solutions").glob("ch*.py"))
    }
    target = ROOT / "exercises"
    found = {path.name: path.read_text("utf-8") for path in sorted(target.glob("*.py"))}
    stale = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    for name in stale:
        if check:
            print(f"exercises/{name} does not match solutions/{name}; run `python tools/make_stubs.py`.")
        elif name in wanted:
            atomic_write(target / name, wanted[name])
        else:
            (target / name).unlink()
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
