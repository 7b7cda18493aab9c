"""Shards give back what was written, refuse everything else, and hold little in memory."""

import hashlib
import shutil
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myllm.data.shards import Shards, hash_vocabulary, write_shards
from myllm.files import UserError
from myllm.tokenizers.bpe import BPE

HASH = hashlib.sha256(b"a vocabulary").hexdigest()


def write(documents, folder, vocab_size=256, shard_tokens=100, vocab_hash=HASH):
    return write_shards(
        documents, folder, vocab_size=vocab_size, vocab_hash=vocab_hash, shard_tokens=shard_tokens
    )


@pytest.fixture
def three(tmp_path):
    """Three shards of two documents each, 60 ids a document, and their folder."""
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, 256, 60).tolist() for _ in range(6)]
    folder = tmp_path / "three"
    assert len(write(documents, folder)) == 3
    assert Shards(folder)[:].tolist() == [*chain(*documents)]
    return folder


def refused(folder, why, **options):
    with pytest.raises(UserError, match=why) as error:
        Shards(folder, **options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


# What comes back


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 255), max_size=8), max_size=12).filter(any),
    st.integers(1, 20),
    st.sampled_from([256, 65_536, 65_537, 1 << 32]),
    st.data(),
)
def test_there_and_back(tmp_path_factory, documents, shard_tokens, vocab_size, data):
    documents = [[i * (vocab_size - 1) // 255 for i in ids] for ids in documents]  # the largest id among them
    folder = tmp_path_factory.mktemp("shards")
    paths = write(iter(documents), folder, vocab_size, shard_tokens)
    assert sorted(folder.iterdir()) == paths
    shards = Shards(folder)
    row = [*chain(*documents)]
    assert len(shards) == len(row)
    assert [*shards] == row
    assert shards[:].dtype == (np.uint16 if vocab_size <= 65_536 else np.uint32)
    starts = shards.documents.tolist()
    assert [row[a:b] for a, b in pairwise(starts)] == documents
    assert (shards.vocab_size, shards.vocab_hash) == (vocab_size, HASH)
    start, stop = data.draw(st.integers(-99, 99)), data.draw(st.integers(-99, 99) | st.none())
    assert shards[start:stop].tolist() == row[start:stop]
    assert shards[start:stop].dtype == shards[:].dtype


def test_every_slice_across_four_shards(tmp_path):
    row = [*range(200, 240)]
    write([row[i : i + 5] for i in range(0, 40, 5)], tmp_path, shard_tokens=10)
    shards = Shards(tmp_path)
    assert len(shards.headers) == 4
    for start in range(41):
        for stop in range(41):
            assert shards[start:stop].tolist() == row[start:stop]
    assert [shards[i] for i in range(-40, 40)] == row + row
    for outside in (40, -41):
        with pytest.raises(IndexError):
            shards[outside]
    for gaps in (slice(None, None, 2), slice(None, None, -1)):
        with pytest.raises(UserError, match="forwards and without gaps"):
            shards[gaps]


def test_a_shard_ends_with_the_document_that_fills_it(tmp_path):
    sizes = [4, 5, 1, 1, 30, 10, 9]
    write([[7] * size for size in sizes], tmp_path, shard_tokens=10)
    headers = Shards(tmp_path).headers
    assert [(header.n_documents, header.n_tokens) for header in headers] == [
        (3, 10),
        (2, 31),
        (1, 10),
        (1, 9),
    ]


@pytest.mark.parametrize(
    "document",
    [bytes([1, 2]), (1, 2), np.array([1, 2], np.uint16), (i for i in (1, 2)), {1: "a", 2: "b"}.keys()],
)
def test_any_iterable_of_numbers_is_a_document(tmp_path, document):
    write([document], tmp_path)
    assert Shards(tmp_path)[:].tolist() == [1, 2]


def test_a_view_where_it_can_be(three):
    shards = Shards(three)
    assert np.shares_memory(shards[10:100], shards[50:60])
    assert not np.shares_memory(shards[100:130], shards[100:130])  # across a border
    assert not shards[10:100].flags.writeable


def test_the_layout_byte_by_byte(tmp_path):
    """As the documentation says, read without the module that wrote it."""
    first, second = write([[1, 2, 70_000], [], [3]], tmp_path, vocab_size=100_000, shard_tokens=3)
    assert [first.name, second.name] == ["shard-00000-of-00002.bin", "shard-00001-of-00002.bin"]
    before = bytes(32)
    for path, ids, ends in ((first, [1, 2, 70_000], [3]), (second, [3], [0, 1])):
        data = path.read_bytes()
        assert data[:8] == b"myllmtok"
        assert [int.from_bytes(data[i : i + 4], "little") for i in (8, 12)] == [1, 4]
        counts = [int.from_bytes(data[i : i + 8], "little") for i in (16, 24, 32)]
        assert counts == [len(ends), len(ids), 100_000]
        assert data[40:72].hex() == HASH
        payload = b"".join(i.to_bytes(4, "little") for i in ids) + b"".join(
            end.to_bytes(8, "little") for end in ends
        )
        assert data[104:] == payload
        assert data[72:104] == hashlib.sha256(payload + data[:72] + before).digest()
        before = data[72:104]


def test_the_hash_of_a_vocabulary():
    one, same = BPE([(97, 98)], name="one"), BPE([(97, 98)], name="other")
    digest = hashlib.sha256()
    for token in [*(bytes([i]) for i in range(256)), b"ab"]:
        digest.update(len(token).to_bytes(8, "little") + token)
    assert hash_vocabulary(one) == hash_vocabulary(same) == digest.hexdigest()
    others = [BPE([]), BPE([(97, 99)]), BPE([(97, 98), (256, 256)]), BPE([(97, 98)], special_tokens=["<s>"])]
    reordered = BPE([(97, 98), (99, 100)]), BPE([(99, 100), (97, 98)])
    assert len({hash_vocabulary(bpe) for bpe in (one, *others, *reordered)}) == 7


# What is refused


def every_percent(size):
    return sorted({size * percent // 100 for percent in range(100)})


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_torn_at_every_percent(three, which, verify):
    path = sorted(three.iterdir())[which]
    whole = path.read_bytes()
    for size in [*every_percent(len(whole)), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(three, f"{path.name}.*build the shards again", verify=verify)
    path.write_bytes(whole + b"\0")
    refused(three, "is torn", verify=verify)
    path.write_bytes(whole)
    assert len(Shards(three)) == 360


@pytest.mark.parametrize("which", [0, 2])
def test_a_changed_byte_is_noticed_wherever_it_is(three, which):
    path = sorted(three.iterdir())[which]
    whole = path.read_bytes()
    for i in [*range(104), *every_percent(len(whole)), len(whole) - 1]:
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        refused(three, path.name)


@pytest.mark.parametrize("content", [b"", b"\0", b"text\n" * 100, b"\x93NUMPY" + bytes(200)])
def test_a_foreign_file(tmp_path, content):
    (tmp_path / "shard-00000-of-00001.bin").write_bytes(content)
    refused(tmp_path, "shard-00000-of-00001.bin is no shard, or cut off")


def test_a_folder_in_the_place_of_a_shard(tmp_path):
    (tmp_path / "shard-00000-of-00001.bin").mkdir()
    refused(tmp_path, r"Cannot read .*shard-00000-of-00001.bin: .*directory")


def test_another_version(three):
    path = sorted(three.iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + (2).to_bytes(4, "little") + whole[12:])
    refused(three, "has layout 2, this package reads layout 1")


def test_ids_of_a_size_that_is_none(tmp_path):
    """One byte an id and twice as many ids: the same number of bytes, but no layout of ours."""
    [path] = write([[1] * 60], tmp_path)
    whole = path.read_bytes()
    item_size, n_tokens = (1).to_bytes(4, "little"), (120).to_bytes(8, "little")
    path.write_bytes(whole[:12] + item_size + whole[16:24] + n_tokens + whole[32:])
    refused(tmp_path, path.name, verify=False)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard(three, missing):
    sorted(three.iterdir())[missing].unlink()
    refused(three, "is not complete", verify=False)


def test_a_shard_too_many(three):
    shutil.copy(sorted(three.iterdir())[0], three / "shard-00003-of-00004.bin")
    refused(three, "is not complete")


def test_no_shards(tmp_path):
    refused(tmp_path, "There are no shards in .* `myllm data build`")
    refused(tmp_path / "nowhere", "There are no shards in")
    (tmp_path / "file").write_text("text")
    refused(tmp_path / "file", "There are no shards in")


def test_shards_in_another_order(three):
    first, second, _ = sorted(three.iterdir())
    first.rename(three / "x"), second.rename(first), (three / "x").rename(second)
    refused(three, f"{first.name} is damaged or from another build")


def test_a_shard_of_another_build(three, tmp_path):
    """Same vocabulary, same sizes, other text; both are sound by themselves."""
    others = write([[i] * 60 for i in range(6)], tmp_path / "others")
    shutil.copy(others[1], three)
    refused(three, f"{others[1].name} is damaged or from another build")


@pytest.mark.parametrize("change", [{"vocab_size": 100_000}, {"vocab_size": 300}, {"vocab_hash": "0" * 64}])
def test_a_shard_of_another_kind(three, tmp_path, change):
    others = write([[i] * 60 for i in range(6)], tmp_path / "others", **change)
    shutil.copy(others[1], three)
    refused(three, "come from different builds", verify=False)


def test_another_tokenizer(tmp_path):
    made, other = BPE([(97, 98)]), BPE([(97, 99)], name="the other")
    write([made.encode("abc")], tmp_path, vocab_size=257, vocab_hash=hash_vocabulary(made))
    assert len(Shards(tmp_path, tokenizer=made)) == 2
    refused(tmp_path, "were not made with the other; name the tokenizer", tokenizer=other)


# Writing: all or nothing


@pytest.mark.parametrize(
    "bad",
    [[1, 256], [-1], [1 << 70], [1.5], ["a"], "text", [[1]], [True, False], [None]],
)
def test_an_id_that_is_none(tmp_path, bad):
    with pytest.raises(UserError, match=r"outside a vocabulary of 256|row of whole numbers"):
        write([[1] * 300, [1], bad], tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("documents", [[], [[]], [[], [], []]])
def test_no_token_at_all(tmp_path, documents):
    with pytest.raises(UserError, match="There is no token to write"):
        write(documents, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


def test_an_error_in_the_documents_is_passed_on_and_leaves_nothing(tmp_path):
    def documents():
        yield [1] * 300
        raise FileNotFoundError(2, "gone", "corpus.txt")

    with pytest.raises(FileNotFoundError, match=r"corpus.txt"):
        write(documents(), tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "numbers", [{"vocab_size": 0}, {"vocab_size": 1 << 33}, {"shard_tokens": 0}, {"vocab_hash": "12"}]
)
def test_numbers_that_make_no_sense(tmp_path, numbers):
    with pytest.raises(UserError, match="must"):
        write([[0]], tmp_path / "new", **numbers)


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    asked = []
    for name in ("used", "file"):
        with pytest.raises(UserError, match=f"{name} is in use; choose another name"):
            write(([asked.append(1)] for _ in range(9)), tmp_path / name)
    assert not asked  # noticed before the work
    assert (tmp_path / "used" / "diary.txt").read_text() == "dear"
    with pytest.raises(UserError, match=r"Cannot write .*new: "):
        write([[1]], tmp_path / "nowhere" / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["diary.txt", "file", "used"]


def test_an_empty_folder_or_a_link_to_one_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    paths = write([[1]], tmp_path / "link")
    assert paths == [tmp_path / "link" / "shard-00000-of-00001.bin"]
    assert len(Shards(tmp_path / "empty")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


@pytest.mark.parametrize("moment", [1, 150, 250])
def test_killed_while_writing_nothing_can_be_trusted(tmp_path, moment):
    """Killed in the first, second or third shard: there is no folder, nor what passes for one."""
    code = f"""
    import os, signal
    from myllm.data.shards import write_shards

    def ids(n):
        for i in range(n):
            if i == {moment}:
                os.kill(os.getpid(), signal.SIGKILL)
            yield 1

    documents = ([1] * 100 for _ in range({moment} // 100))
    write_shards([*documents, ids(300)], "new", vocab_size=9, vocab_hash="{HASH}", shard_tokens=100)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "new").exists()
    refused(tmp_path / "new", "There are no shards")
    [rest] = tmp_path.iterdir()  # what a killed process could not remove
    refused(rest, "There are no shards")
    assert len(write([[1]], tmp_path / "new")) == 1  # and it is not in the way


def test_at_no_moment_is_there_half_a_folder(tmp_path):
    """Looked at before every step that Python takes on the file system."""
    folder, looks, looking = tmp_path / "new", [], True

    def look(event, _):
        if looking and event in ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"):
            looks.append(len([*folder.iterdir()]) if folder.exists() else "none")

    sys.addaudithook(look)
    write([[1] * 60] * 6, folder)
    looking = False
    assert looks.count("none") > 10 and {*looks} <= {"none", 3}


# Memory


def peak(work):
    """The most bytes that were held at once while working."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_corpus_nor_with_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr("myllm.data.shards.BLOCK", 1 << 10)

    def ids(n):
        return (i % 50_000 for i in range(n))

    write([ids(1)], tmp_path / "warm", 50_000)
    small = peak(lambda: write([ids(3_000)], tmp_path / "small", 50_000))
    large = peak(lambda: write([ids(100_000)], tmp_path / "large", 50_000))
    many = peak(lambda: write((ids(3_000) for _ in range(33)), tmp_path / "many", 50_000, 10_000))
    assert max(large, many) < 1.1 * small < 200_000
    shards = []
    assert peak(lambda: shards.append(Shards(tmp_path / "large"))) < 30_000
    assert peak(lambda: shards[0][10:-10].max()) < 10_000
    assert len(shards[0]) == 100_000
