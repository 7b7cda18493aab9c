"""One JSON file: what is saved comes back, and nothing else is ever taken for a tokenizer."""

import hashlib
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from myllm.files import UserError
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.patterns import GPT2, GPT4

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind to suffer " * 4


def state(bpe: BPE) -> tuple[Any, ...]:
    """All that a tokenizer is."""
    roles = (bpe.bos_id, bpe.eos_id, bpe.pad_id)
    return (
        bpe.name,
        bpe.pattern,
        list(bpe.merges.items()),
        bpe.tokens,
        bpe.special_tokens,
        roles,
        bpe.vocab_size,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    merges = BPE.train(TEXT, 300, pattern=GPT4).merges
    special = ["<|endoftext|>", "<ende>", "<anfang>", "<füll>", "<|pad|>"]
    bpe = BPE(
        merges, pattern=GPT4, special_tokens=special, name="to be", bos="<anfang>", eos="<ende>", pad="<füll>"
    )
    bpe.save(tmp_path / "bpe.json")
    assert state(BPE.load(tmp_path / "bpe.json")) == state(bpe)
    return tmp_path / "bpe.json"


def test_what_is_saved_comes_back(saved: Path):
    bpe = BPE.load(saved)
    assert (bpe.name, bpe.pattern) == ("to be", GPT4)
    assert (bpe.bos_id, bpe.eos_id, bpe.pad_id) == (302, 301, 303)
    before = saved.read_bytes()
    bpe.save(saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("special", [[], ["<|endoftext|>"], ["<|pad|>", '\\ "quoted" \n']])
def test_default_roles_come_back_too(tmp_path: Path, special: list[str]):
    bpe = BPE.train(TEXT, 280, pattern=GPT2, special_tokens=special)
    bpe.save(str(tmp_path / "bpe.json"))
    loaded = BPE.load(str(tmp_path / "bpe.json"))
    assert state(loaded) == state(bpe)
    assert loaded.encode(TEXT) == bpe.encode(TEXT)


def test_a_torn_file_is_refused_wherever_it_is_torn(saved: Path):
    whole = saved.read_bytes()
    for percent in range(100):
        saved.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(UserError, match=r"bpe\.json"):
            BPE.load(saved)
    saved.write_bytes(whole[:-1])
    with pytest.raises(UserError):
        BPE.load(saved)


def test_a_changed_file_is_refused_or_means_the_same(saved: Path):
    whole, true = saved.read_text(), state(BPE.load(saved))
    draw, refused = random.Random(0), 0
    for _ in range(600):
        at = draw.randrange(len(whole))
        changed = (
            whole[:at] + draw.choice('0123456789abef{}[],:" \\-.eE\0é') + whole[at + draw.randrange(2) :]
        )
        saved.write_text(changed)
        try:
            assert state(BPE.load(saved)) == true, f"silently different after a change at {at}"
        except UserError:
            refused += 1
    assert refused > 400


def test_flipped_bits_are_refused(saved: Path):
    whole, true = saved.read_bytes(), state(BPE.load(saved))
    draw = random.Random(1)
    for _ in range(300):
        torn = bytearray(whole)
        torn[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        saved.write_bytes(torn)
        with suppress(UserError):
            assert state(BPE.load(saved)) == true


@pytest.mark.parametrize(
    "content",
    [
        *["", " ", "null", "1", "NaN", '"myllm-bpe-1"', "[]", "{}", "[[1, 2]]", "[" * 100_000, "1" * 10_000],
        *['{"format": "other"}', '{"format": ["myllm-bpe-1"]}', '{"format": "myllm-bpe-1"}'],
        '{"format": "myllm-bpe-1", "merges": [[1e999, 1]], "sha256": 1}',
        '{"format": "myllm-bpe-1", "x": ' + "[" * 500 + "]" * 500 + "}",
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',  # another library's tokenizer
    ],
    ids=lambda content: content[:40],
)
def test_other_json_is_refused(tmp_path: Path, content: str):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(UserError, match=r"other\.json"):
        BPE.load(tmp_path / "other.json")


def sealed(**changes: Any) -> str:
    """A file with other fields but the right checksum: made by hand, or by a newer version."""
    fields = dict(format="myllm-bpe-1", name="bpe", pattern=GPT2, special_tokens=[], merges=[[97, 98]])
    fields |= dict.fromkeys(("bos", "eos", "pad")) | changes
    fields = {name: value for name, value in fields.items() if value != "absent"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return json.dumps({**fields, "sha256": digest})


def test_the_checksum_is_over_the_other_fields(tmp_path: Path):
    (tmp_path / "hand.json").write_text(sealed())
    assert BPE.load(tmp_path / "hand.json").encode("ab") == [256]


@pytest.mark.parametrize(
    "changes",
    [
        {"merges": [[97, 98], [97, 98]]},
        {"merges": [[97, 98], [97, 257]]},
        {"merges": [[97, 10**300]]},
        {"merges": [[97, -1]]},
        {"merges": [[97, 98, 99]]},
        {"merges": [["a", "b"]]},
        {"merges": [97, 98]},
        {"merges": "ab"},
        {"merges": {"ab": 256}},
        {"merges": None},
        {"merges": "absent"},
        {"merges": [[97.0, 98.0]]},
        {"merges": [[97, 97]] + [[i, i] for i in range(256, 400)]},  # tokens of 2**145 bytes
        {"pattern": "("},
        {"pattern": "(a)|b"},
        {"pattern": 5},
        {"pattern": None},
        {"special_tokens": "<s>"},
        {"special_tokens": [""]},
        {"special_tokens": ["x", "x"]},
        {"special_tokens": [1]},
        {"special_tokens": [["x"]]},
        {"special_tokens": None},
        {"special_tokens": ["\ud800"]},
        {"bos": "<s>"},
        {"eos": ["x"]},
        {"pad": 256},
        {"newer_field": 1},
        {"format": "myllm-bpe-2"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_fields_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any]):
    (tmp_path / "hand.json").write_text(sealed(**changes))
    with pytest.raises(UserError):
        BPE.load(tmp_path / "hand.json")


def test_missing_folder_and_foreign_files_are_refused(tmp_path: Path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(UserError, match=path.name):
            BPE.load(path)
    with pytest.raises(UserError, match="no folder"):
        BPE([]).save(tmp_path / "no" / "bpe.json")


def test_a_name_that_utf8_cannot_express_is_kept(tmp_path: Path):
    BPE([], name="\ud800").save(tmp_path / "bpe.json")
    assert BPE.load(tmp_path / "bpe.json").name == "\ud800"
