"""Cleaning takes the notices of Project Gutenberg away, and nothing from a text that has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myllm.data.corpus import clean

START = "*** START OF THE PROJECT GUTENBERG EBOOK HAMLET ***\n"
END = "*** END OF THE PROJECT GUTENBERG EBOOK HAMLET ***\n"


def test_what_stands_around_the_book_goes():
    assert clean(f"Title: Hamlet\n\nLicence.\n{START}Who's there?\n{END}Donate.\n") == "Who's there?\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"notice\n{START}the book", "the book"),
        (f"the book\n{END}notice", "the book\n"),
        (f"notice\n{START}one\n{END}notice\nnotice\n{START}two\n{END}notice", "one\ntwo\n"),
        (f"one\n{END}notice\n{START}two\n", "one\ntwo\n"),
        ("notice\n***START OF THIS PROJECT GUTENBERG EBOOK X***\nbook\n", "book\n"),
        (f"\ufeffnotice\r\n{START[:-1]}  \r\nbook\r\n{END}", "book\n"),
        (f"He wrote {START}", f"He wrote {START}"),
        ("*** START OF ACT ONE ***\nbook\n*** END OF ACT ONE ***\n", None),
        ("*** START OF THE PROJECT ***", None),
    ],
)
def test_only_whole_lines_are_marks(text, left):
    assert clean(text) == (text if left is None else left)


@given(st.lists(st.sampled_from([START, END, START[4:], "***\n", "a book\n", "\n", "*** "])).map("".join))
def test_cleaning_twice_changes_nothing_more(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert START not in cleaned.splitlines(keepends=True)
    assert set(cleaned) <= set(text)
