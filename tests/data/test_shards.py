"""Shards give back what was written, refuse everything else, and hold little in memory."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(folder, why, **options):
    with pytest.raises(UserError, match=why) as error:
        Shards(folder, **options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


# What comes back


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
    assert names(folder) == ["documents.npy", "index.json", *(path.name for path in paths)]
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
    assert len(shards.parts) == 4
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
    shards = Shards(tmp_path)
    assert [len(part) for part in shards.parts] == [4 + 5 + 1, 1 + 30, 10, 9]
    assert shards.documents.tolist() == [0, 4, 9, 10, 11, 41, 51, 60]


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


def test_the_files_are_numpys_own_and_the_index_is_json(tmp_path):
    """As the documentation says, read without the module that wrote them."""
    write([[1, 2, 70_000], [], [3], []], tmp_path, vocab_size=100_000, shard_tokens=3)
    assert names(tmp_path) == ["documents.npy", "index.json", "shard-00000.npy", "shard-00001.npy"]
    arrays = {"shard-00000.npy": [1, 2, 70_000], "shard-00001.npy": [3], "documents.npy": [0, 3, 3, 4, 4]}
    for name, expected in arrays.items():
        array = np.load(tmp_path / name, allow_pickle=False)
        assert array.tolist() == expected
        assert array.dtype == ("<i8" if name == "documents.npy" else "<u4")
    index = json.loads((tmp_path / "index.json").read_text())
    files = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in arrays}
    facts = {"n_tokens": 4, "vocab_size": 100_000, "vocab_hash": HASH, "files": files}
    checksum = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert index == {"format": "myllm-shards-2", **facts, "checksum": checksum}


def test_a_header_has_room_for_the_length_of_any_shard(tmp_path):
    """The length is written over a zero: the header of a long shard must not be longer."""
    [path] = write([bytes(123_456)], tmp_path)
    assert path.stat().st_size == 128 + 2 * 123_456
    assert np.load(path).shape == (123_456,)


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
@pytest.mark.parametrize("name", ["shard-00000.npy", "shard-00002.npy", "documents.npy", "index.json"])
def test_torn_at_every_percent(three, name, verify):
    path = three / name
    whole = path.read_bytes()
    for size in [*every_percent(len(whole)), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(three, f"{name} is ", verify=verify)
    path.write_bytes(whole)
    assert len(Shards(three)) == 360


@pytest.mark.parametrize("name", ["shard-00000.npy", "shard-00002.npy", "documents.npy", "index.json"])
def test_a_changed_byte_is_noticed_wherever_it_is(three, name):
    path = three / name
    whole = path.read_bytes()
    for i in [*range(128), *every_percent(len(whole)), len(whole) - 1]:
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        refused(three, name)
    path.write_bytes(whole + b"\0")
    refused(three, name)


@pytest.mark.parametrize("change", [{"vocab_size": 300}, {"vocab_hash": "0" * 64}, {"n_tokens": 359}])
def test_a_changed_index_is_noticed_without_reading_the_shards(three, change):
    path = three / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(three, "index.json was changed or damaged", verify=False)


@pytest.mark.parametrize("content", ["[]", "1", "null", "{}", '{"format": "myllm-shards-1"}'])
def test_a_foreign_index(three, content):
    (three / "index.json").write_text(content)
    refused(three, "index.json is not an index of the format myllm-shards-2")


def test_a_pickle_is_not_opened(three, tmp_path):
    """An array of Python objects would run code when it is read."""
    array = np.array([print], dtype=object)
    np.save(three / "shard-00000.npy", array, allow_pickle=True)
    refused(three, "shard-00000.npy is torn", verify=False)


def test_a_folder_in_the_place_of_a_shard(three):
    (three / "shard-00000.npy").unlink()
    (three / "shard-00000.npy").mkdir()
    refused(three, r"Cannot read .*shard-00000.npy: it is a folder")
    refused(three, r"shard-00000.npy is torn, or not an array", verify=False)


@pytest.mark.parametrize("name", ["shard-00000.npy", "shard-00002.npy", "documents.npy"])
def test_a_missing_file(three, name):
    (three / name).unlink()
    refused(three, "are not those of its index.json", verify=False)


def test_a_shard_too_many(three):
    shutil.copy(three / "shard-00000.npy", three / "shard-00003.npy")
    refused(three, "are not those of its index.json", verify=False)


def test_no_shards(tmp_path):
    refused(tmp_path, "There are no shards in .* `myllm data build`")
    refused(tmp_path / "nowhere", "There are no shards in")
    (tmp_path / "file").write_text("text")
    refused(tmp_path / "file", "There are no shards in")


def test_shards_in_another_order(three):
    first, second = three / "shard-00000.npy", three / "shard-00001.npy"
    first.rename(three / "x"), second.rename(first), (three / "x").rename(second)
    refused(three, "shard-00000.npy is torn, damaged or from another build")


@pytest.mark.parametrize("name", ["shard-00001.npy", "documents.npy", "index.json"])
def test_a_file_of_another_build(three, tmp_path, name):
    """Same vocabulary, same sizes, other text; both builds are sound by themselves."""
    write([[i] * (59 + i % 2 * 2) for i in range(6)], tmp_path / "others")
    shutil.copy(tmp_path / "others" / name, three)
    refused(three, "damaged or from another build")


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
    with pytest.raises(UserError, match=r"outside a vocabulary of 256|sequence of integers"):
        write([[1] * 300, [1], bad], tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("documents", [[], [[]], [[], [], []]])
def test_no_token_at_all(tmp_path, documents):
    with pytest.raises(UserError, match="There are no tokens to write"):
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


def test_a_folder_in_use_is_left_alone(tmp_path, monkeypatch):
    """The current folder is in use even when it is empty: replacing it would leave its users nowhere."""
    (tmp_path / "used").mkdir(), (tmp_path / "here").mkdir()
    (tmp_path / "used" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    asked = []
    monkeypatch.chdir(tmp_path / "here")
    for name in ("used", "file", ".", "/"):
        with pytest.raises(UserError, match="is in use; choose another name"):
            write(([asked.append(1)] for _ in range(9)), name if name in "./" else tmp_path / name)
    assert not asked  # noticed before the work
    assert (tmp_path / "used" / "diary.txt").read_text() == "dear"
    with pytest.raises(UserError, match=r"Cannot write .*new: "):
        write([[1]], tmp_path / "nowhere" / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["diary.txt", "file", "here", "used"]


def test_an_empty_folder_or_a_link_to_one_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    paths = write([[1]], tmp_path / "link")
    assert paths == [tmp_path / "link" / "shard-00000.npy"]
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
    assert looks.count("none") > 10 and {*looks} <= {"none", 5}


def test_a_disk_that_fills_up_is_one_sentence(tmp_path):
    code = f"""
    import resource
    from myllm.data.shards import write_shards
    from myllm.files import UserError

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        write_shards([range(200_000)], "new", vocab_size=1 << 20, vocab_hash="{HASH}")
    except UserError as error:
        print(error, end="")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.stdout == "Cannot write new: File too large; choose another place." and not run.stderr
    assert not [*tmp_path.iterdir()]


def test_a_home_folder_by_its_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert write([[1]], "~/new") == [tmp_path / "new" / "shard-00000.npy"]
    assert len(Shards("~/new")) == 1


# Memory


def peak(work):
    """The most bytes that were held at once while working."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_corpus_nor_with_a_document(tmp_path, monkeypatch):
    for module in ("myllm.data.shards", "myllm.files"):
        monkeypatch.setattr(f"{module}.BLOCK", 1 << 10)

    def ids(n):
        return (i % 50_000 for i in range(n))

    write([ids(1)], tmp_path / "warm", 50_000)
    small = peak(lambda: write([ids(3_000)], tmp_path / "small", 50_000))
    large = peak(lambda: write([ids(100_000)], tmp_path / "large", 50_000))
    many = peak(lambda: write((ids(3_000) for _ in range(33)), tmp_path / "many", 50_000, 10_000))
    assert max(large, many) < 1.1 * small < 200_000
    shards = []
    assert peak(lambda: shards.append(Shards(tmp_path / "large"))) < 60_000
    assert peak(lambda: shards[0][10:-10].max()) < 10_000
    assert len(shards[0]) == 100_000
