"""Examples for fine-tuning: two datasets that come with the package, and your own JSONL and CSV files."""

import csv
import io
import json
import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from myllm.data.corpus import Document
from myllm.data.dedup import near_duplicates
from myllm.files import StrPath, UserError, read_text

FORMS = (
    {"messages"},
    {"prompt", "response"},
    {"text", "label"},
    {"prompt", "chosen", "rejected"},
    {"prompt", "answer"},
)
"""The fields of an example: a conversation, a prompt with its response, a text with its class, a preference,
or a task with its right answer."""
_ASSETS = Path(__file__).with_name("assets")


class Mail(NamedTuple):
    """An email from the SpamAssassin corpus.

    Attributes:
        text: The subject, a line break, and the first 600 characters of the body.
        spam: Whether it is spam.
        source: The part of the corpus: easy-ham-1, easy-ham-2, hard-ham-1, spam-1 or spam-2. Those that end
            in 2 were collected later.
    """

    text: str
    spam: bool
    source: str


def mails() -> list[Mail]:
    """The 6,023 emails of the SpamAssassin corpus, in the order of the source."""
    rows = _asset("spam.jsonl.xz")
    return [Mail(f"{one['subject']}\n{one['text']}", one["label"] == "spam", one["set"]) for one in rows]


def chats() -> list[dict[str, Any]]:
    """The 2,026 short English conversations of the ChatterBot corpus, as ``messages`` with a ``topic``."""
    found: list[dict[str, Any]] = []
    for row in _asset("chats.jsonl.xz"):
        roles = [("user", "assistant")[i % 2] for i in range(len(row["turns"]))]
        messages = [{"role": role, "content": x} for role, x in zip(roles, row["turns"], strict=True)]
        found.append({"messages": messages, "topic": row["topic"]})
    return found


def _asset(name: str) -> list[dict[str, Any]]:
    raw = lzma.decompress((_ASSETS / name).read_bytes()).decode()
    return [json.loads(line) for line in raw.splitlines()]


def read(path: StrPath) -> list[dict[str, Any]]:
    """The examples in a file: one JSON object per line (``.jsonl``), or CSV with a header line (``.csv``).

    Each has the fields of one of `FORMS`, none of them empty or blank; other fields are kept but ignored.
    Rows that repeat an earlier one are left out.

    Raises:
        UserError: A missing or empty file, text that is not UTF-8, a line that is not an example (the message
            gives its number), or examples of different forms.
    """
    text = read_text(path)
    rows = _csv(text, path) if str(path).lower().endswith(".csv") else _jsonl(text, path)
    found: dict[str, dict[str, Any]] = {}
    form: set[str] | None = None
    for number, row in rows:
        given = {field for field, value in row.items() if value not in (None, []) and str(value).strip()}
        fitting = [one for one in FORMS if one <= given]
        if not fitting:
            forms = ", or ".join(map(_fields, FORMS))
            raise UserError(f"Line {number} of {path} needs {forms}, and none of them empty.")
        if form is not None and form != fitting[0]:
            raise UserError(f"Line {number} of {path} has {_fields(fitting[0])}, the first {_fields(form)}.")
        form = fitting[0]
        found.setdefault(json.dumps([row[field] for field in sorted(form)]), row)
    if not found:
        raise UserError(f"There are no examples in {path}; give one a line.")
    return [*found.values()]


def _jsonl(text: str, path: StrPath) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"Line {number} of {path} is not JSON; each line is one object.") from error
            if not isinstance(row, dict):
                raise UserError(f"Line {number} of {path} is not an object with named fields.")
            yield number, row


def _csv(text: str, path: StrPath) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"Line {reader.line_num} of {path} has not as many fields as the first line.")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} of {path} is not CSV: {error}.") from error


def _fields(form: set[str]) -> str:
    return " and ".join(sorted(form))


def groups(texts: Iterable[str], *, threshold: float = 0.8) -> list[int]:
    """The number of each text's group: near-duplicates, and their own near-duplicates, share a group.

    A split that divides a group would test on what the model was trained on.

    Args:
        texts: The texts.
        threshold: See `near_duplicates`.
    """
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    root = [*range(len(documents))]

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    for a, b, _ in near_duplicates(documents, threshold):
        high, low = sorted((find(int(a)), find(int(b))), reverse=True)
        root[high] = low
    return [find(i) for i in range(len(documents))]
