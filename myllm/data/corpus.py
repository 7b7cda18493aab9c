"""Corpora: the four texts that come with the package, cleaning, and a split that never cuts a document."""

import hashlib
import json
import lzma
import re
import unicodedata
from collections.abc import Collection, Iterable, Set
from pathlib import Path
from typing import NamedTuple

from myllm.files import UserError


class Document(NamedTuple):
    """One document of a corpus: a play, a chapter, a book, a speech.

    Attributes:
        id: A unique name within the corpus.
        text: The text as in the source; see `clean`.
    """

    id: str
    text: str


Documents = list[Document]


class Corpus(NamedTuple):
    """A corpus in the package: its file in ``assets``, a short description and its licence."""

    file: str
    about: str
    licence: str


#: The corpora that come with the package, by name.
CORPORA = {
    "kjv": Corpus("kjv.txt.xz", "King James Bible, 66 books", "public domain"),
    "moby-dick": Corpus("moby-dick.txt.xz", "Moby-Dick, 135 chapters", "CC0-1.0"),
    "shakespeare": Corpus("shakespeare_works.jsonl.xz", "Shakespeare, 42 works", "public domain"),
    "sotu": Corpus("sotu.jsonl.xz", "State of the Union speeches", "CC0-1.0"),
}

#: The works of Shakespeare that no model of this course is trained on; they are its validation set.
HELD_OUT = ("hamlet", "sonnets", "tempest")


def path(name: str) -> Path:
    """The path of a corpus's file; raises the same error as `load`."""
    if name not in CORPORA:
        raise UserError(f"There is no corpus {name!r}; take one of {', '.join(CORPORA)}.")
    return Path(__file__).with_name("assets") / CORPORA[name].file


def load(name: str) -> Documents:
    """The documents of a corpus, in the order of the source.

    Raises:
        UserError: There is no corpus of that name.
    """
    file = path(name)
    raw = lzma.decompress(file.read_bytes()).decode()
    if ".jsonl" in file.suffixes:
        return [Document(**json.loads(line)) for line in raw.splitlines()]
    # In the two plain texts, a chapter begins with its heading and a book with its first verse ("Ge1:1 ").
    heading = r"^CHAPTER (\d+)\." if name == "moby-dick" else r"^([1-3]?[A-Za-z]+)1:1 "
    starts = [*re.finditer(heading, raw, re.MULTILINE)]
    ends = [*(match.start() for match in starts[1:]), len(raw)]
    return [Document(match[1], raw[match.start() : end]) for match, end in zip(starts, ends, strict=True)]


def text(name: str) -> str:
    """The whole text of a corpus: its documents, joined by newlines; raises the same error as `load`."""
    return "\n".join(document.text for document in load(name))


def clean(text: str) -> str:
    r"""Clean a text without changing its words; the operation is idempotent.

    Characters are normalized to their composed form (Unicode NFC), and every line break becomes ``\n``.
    Control characters other than tab and newline, lone surrogates, byte-order marks, trailing white space
    and repeated blank lines are removed. If Project Gutenberg delimits a book by the lines ``*** START OF``
    and ``*** END OF``, its notices before and after the book are removed.
    """
    text = re.sub(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff]", "", text)
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[^\S\n]+$", "", text, flags=re.MULTILINE)
    text = _without_notices(text)
    return re.sub(r"\n{3,}", "\n\n", text)


def _without_notices(text: str) -> str:
    """The text between the markers of Project Gutenberg, or the whole text if there are none."""
    mark = r"^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*\n?"
    front, *parts = re.split(mark, text, flags=re.MULTILINE)  # alternately START or END and the text after it
    books = [body for mark, body in zip(parts[::2], parts[1::2], strict=True) if mark == "START"]
    return "".join(books if parts[:1] == ["START"] else [front, *books])


def split(
    documents: Iterable[Document], *, validation: float | Collection[str] = 0.1, seed: int = 0
) -> tuple[Documents, Documents]:
    """Split documents into a training and a validation set, without cutting any.

    Documents are held out in an order that depends only on the seed and the ids. So the order of
    ``documents`` does not matter, and adding a document moves few others to the other set.

    Args:
        documents: At least two, with different ids.
        validation: The fraction of all characters to hold out, approximated as closely as the order allows;
            or the ids of the documents to hold out, such as `HELD_OUT`.
        seed: Any integer; determines the order.

    Returns:
        train and validation, each in the order given; neither is empty, unless ids are given.

    Raises:
        UserError: A duplicate id, a fraction of fewer than two documents or not between 0 and 1, or an id
            that no document has.
    """
    documents = [*documents]
    if len({document.id for document in documents}) < len(documents):
        raise UserError("Two documents have the same id; give each its own.")
    if not isinstance(validation, float | int):
        return _split_by_id(documents, set(validation))
    if not 0 < validation < 1:
        raise UserError(f"The validation share must lie between 0 and 1, not {validation}.")
    if len(documents) < 2:
        raise UserError("A split needs at least two documents.")
    target = validation * sum(len(document.text) for document in documents)
    held_out, size = set[str](), 0
    for document in sorted(documents, key=lambda document: _rank(seed, document.id))[:-1]:
        larger = size + len(document.text)
        if held_out and abs(larger - target) > abs(size - target):
            break
        held_out.add(document.id)
        size = larger
    return _split_by_id(documents, held_out)


def _split_by_id(documents: Documents, held_out: Set[str]) -> tuple[Documents, Documents]:
    if missing := held_out - {document.id for document in documents}:
        raise UserError(f"No document has the id {min(missing)!r}.")
    train = [document for document in documents if document.id not in held_out]
    return train, [document for document in documents if document.id in held_out]


def _rank(seed: int, id: str) -> bytes:
    return hashlib.sha256(f"{seed} {id}".encode()).digest()
