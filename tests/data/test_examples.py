"""Example sets: what comes with the package, and readers' files with everything that can be wrong in them."""

import json
from collections import Counter

import pytest

from myllm.data import examples
from myllm.files import UserError


def test_the_sets_of_the_package():
    mails = examples.mails()
    assert Counter(mail.spam for mail in mails) == {False: 4149, True: 1874}
    assert Counter(mail.source for mail in mails)["spam-2"] == 1376
    assert all(mail.spam == mail.source.startswith("spam") for mail in mails)
    assert mails[0].text.startswith("Re: New Sequences Window\nDate: Wed, 21 Aug 2002")
    chats = examples.chats()
    assert len(chats) == 2026
    assert chats[2]["messages"] == [
        {"role": "user", "content": "Are you sentient?"},
        {"role": "assistant", "content": "Sort of."},
    ]
    roles = {tuple(message["role"] for message in chat["messages"]) for chat in chats}
    assert all(role[::2] == ("user",) * len(role[::2]) for role in roles)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_readers_files(tmp_path):
    rows = [{"prompt": "a", "response": "b", "extra": 1}, {"prompt": "ü\n", "response": "≠"}]
    lines = "\n\n".join(json.dumps(row) for row in [*rows, rows[0]])
    assert examples.read(write(tmp_path / "a.jsonl", "\ufeff" + lines + "\n")) == rows
    crlf = 'text,label\r\n"one, ""two""\r\nthree",ham\r\nfour,spam\r\nfour,spam\r\n'
    found = examples.read(write(tmp_path / "b.CSV", crlf))
    assert found == [{"text": 'one, "two"\r\nthree', "label": "ham"}, {"text": "four", "label": "spam"}]
    chat = {"messages": [{"role": "user", "content": "x"}], "text": "", "label": ""}
    assert examples.read(write(tmp_path / "c.jsonl", json.dumps(chat))) == [chat]
    long = {"text": "word " * 10_000, "label": "a"}
    assert examples.read(write(tmp_path / "d.jsonl", json.dumps(long))) == [long]


def test_files_of_other_programs(tmp_path):
    """A byte-order mark, line ends of Windows and of old Macs, rows given twice, numbers as labels."""
    rows = [{"prompt": "é", "response": "b"}, {"prompt": "c", "response": "d\r\ne"}]
    lines = ["prompt,response", "é,b", "é,b", 'c,"d\r\ne"', "é,b", ""]
    for mark, end in (("\ufeff", "\r\n"), ("", "\r"), ("\ufeff", "\n")):
        assert examples.read(write(tmp_path / "a.csv", mark + end.join(lines))) == rows
        if end != "\r":
            text = mark + end.join(map(json.dumps, [rows[0], *rows])) + 2 * end
            assert examples.read(write(tmp_path / "a.jsonl", text)) == rows
    first = [{"prompt": "a", "response": "b", "by": 1}, {"prompt": "a", "response": "c"}]
    text = "\n".join(map(json.dumps, [*first, first[0] | {"by": 2}]))
    assert examples.read(write(tmp_path / "e.jsonl", text)) == first
    strange = [{"prompt": "a\u2028b\x85c", "response": "x"}]  # no line ends in JSON
    text = json.dumps(strange[0], ensure_ascii=False)
    assert examples.read(write(tmp_path / "b.jsonl", text)) == strange
    numbered = [{"text": "a", "label": 0}, {"text": "a", "label": 1}, {"text": "b", "label": False}]
    text = "\n".join(map(json.dumps, [*numbered, numbered[0]]))
    assert examples.read(write(tmp_path / "c.jsonl", text)) == numbered
    assert examples.read(write(tmp_path / "d.csv", "text,label\na,0\n")) == [{"text": "a", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", b'{"prompt": "a\xe4", "response": "b"}', "not UTF-8"),
        ("a.jsonl", '{"prompt": "a", "response": "b"}'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"prompt": "a", "response": " \\n"}', "Line 1 .* none of them empty"),
        ("a.jsonl", '{"prompt": "a", "response": null}', "Line 1 .* none of them empty"),
        ("a.jsonl", '{"messages": []}', "Line 1 .* none of them empty"),
        ("a.csv", "prompt,response\na,b\nc,\n", "Line 3 .* none of them empty"),
        ("a.csv", "prompt;response\na;b", "Line 2 .* none of them empty"),
        ("a.jsonl", "", "no examples"),
        ("a.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": "a"', "Line 2 .* not JSON"),
        ("a.jsonl", "[" * 100_000, "Line 1 .* not JSON"),
        ("a.jsonl", "\n[1]", "Line 2 .* not an object"),
        ("a.jsonl", '{"prompt": "a", "response": ""}', "Line 1 .* none of them empty"),
        ("a.jsonl", '{"Prompt": "a", "response": "b"}', "needs messages, or prompt and response, or"),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}\n{"messages": [1]}',
            "Line 2 .* has messages, the first label",
        ),
        ("a.csv", "text,label\n", "no examples"),
        ("a.csv", "text,label\na", "Line 2 .* as many fields"),
        ("a.csv", "text,label\na,b,c", "Line 2 .* as many fields"),
        ("a.csv", 'text,label\n"a,b', "not CSV"),
        ("a.csv", "ein,zwei\na,b", "Line 2"),
        ("a.csv", b"text,label\n\xe4,b", "not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        examples.read(write(tmp_path / name, text))
    with pytest.raises(UserError, match="no such file"):
        examples.read(tmp_path / "missing.jsonl")


def test_near_duplicates_are_in_one_group():
    base = "the quick brown fox jumps over the lazy dog and then it sleeps in the warm sun all day long"
    texts = [
        base,
        "something else",
        base + " again",
        "short",
        "something else",
        base.replace("warm", "hot"),
        "short",
    ]
    found = examples.groups(texts, threshold=0.5)
    assert found[0] == found[2] == found[5] == 0
    assert found[1] == found[4] == 1 and found[3] == found[6] == 3
    words = [f"word{i}" for i in range(60)]
    halves = [" ".join(words[:40]), " ".join(words[20:]), "?!", " ".join(words), "?!", ""]
    assert examples.groups(halves, threshold=0.5) == [0, 0, 2, 0, 2, 2]  # the fourth joins the first two
    assert examples.groups(halves[:2], threshold=0.5) == [0, 1]
