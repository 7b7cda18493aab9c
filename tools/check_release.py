"""Check that the version is the same wherever it stands; print what the changelog says of it.

    python tools/check_release.py v1.0.0

With a tag everything must be ready for its release. Without one, as the tests ask every day, the version in
preparation must agree with itself. It needs nothing but Python.
"""

import re
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## (\S+)(?: - (\S+))?\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def field(text: str, name: str) -> str:
    """The value of a line `name: value` or `name = value`; empty where there is none."""
    found = re.search(rf"^{name} ?[:=] ?[\"']?(.*?)[\"']?$", text, re.MULTILINE)
    return found[1] if found else ""


def check(root: Path, tag: str = "") -> tuple[str, list[str]]:
    """What the changelog says of this version, and a sentence for each thing that does not agree."""
    package, citation, changelog = (
        (root / name).read_text("utf-8") for name in ("myllm/__init__.py", "CITATION.cff", "CHANGELOG.md")
    )
    version, cited = field(package, "__version__"), field(citation, "version")
    dates = {name: (day or "", text) for name, day, text in SECTION.findall(changelog)}
    day, notes = dates.get(version, ("", ""))
    wrong = list[str]()
    if cited != version:
        wrong.append(f"CITATION.cff is of version {cited}, the package of {version}: change one of them.")
    if (released := field(citation, "date-released")) != day:
        wrong.append(
            f"CITATION.cff says date-released {released or '(nothing)'}, CHANGELOG.md dates {version} "
            f"{day or '(not yet)'}: change one of them."
        )
    if version in dates:
        try:
            date.fromisoformat(day)
        except ValueError:
            wrong.append(f"CHANGELOG.md has no date such as 2026-01-31 in the heading of {version}: add one.")
    if tag and tag != f"v{version}":
        wrong.append(f"The tag is {tag}, the package is {version}: tag v{version}, or change __version__.")
    if tag and version not in dates:
        wrong.append(f"CHANGELOG.md has no heading ## {version} - YYYY-MM-DD: rename ## Unreleased.")
    if tag and dates.get("Unreleased", ("", ""))[1].strip():
        wrong.append(f"CHANGELOG.md has lines under ## Unreleased: move them to {version}.")
    return notes.strip(), wrong


def main(tag: str = "") -> int:
    """Print the notes of the release, or what is wrong."""
    notes, wrong = check(ROOT, tag)
    print("\n".join(wrong) if wrong else notes, file=sys.stderr if wrong else sys.stdout)
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
