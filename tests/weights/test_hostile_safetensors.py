"""Hostile and damaged folders: one sentence each, no memory taken, nothing executed."""

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.weights import hub

CONFIG = ModelConfig(
    vocab_size=11, block_size=8, n_layer=2, n_head=2, n_kv_head=1, n_embd=8, intermediate_size=6
)
NORM = "model.layers.1.input_layernorm.weight"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    hub.save(Transformer(CONFIG), tmp_path / "model")
    return tmp_path / "model"


def refused(folder, words):
    tracemalloc.start()
    with pytest.raises(UserError, match=words) as error:
        hub.load_folder(folder)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 20e6
    assert str(error.value).endswith(".") and "\n" not in str(error.value) and len(str(error.value)) < 600


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def reindex(folder, places):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_every_truncation_is_refused(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    for end in {0, 1, 7, 8, 9, length // 2, length - 1, length, length + 1, len(data) - 1}:
        path.write_bytes(data[:end])
        refused(folder, "not a whole safetensors file")
    path.write_bytes(data + b"\0")
    refused(folder, "not a whole safetensors file")


@pytest.mark.parametrize("claim", [2**63, 2**40, 2**64 - 1, 100_000_001])
def test_a_header_that_claims_terabytes_is_refused(folder, claim):
    path = folder / "model.safetensors"
    path.write_bytes(claim.to_bytes(8, "little") + path.read_bytes()[8:])
    refused(folder, "not a whole safetensors file .*header too large")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [2**40, 2**40]),
        ("shape", [2**62, 4]),
        ("shape", [-8]),
        ("shape", [8.0]),
        ("shape", [True] * 8),
        ("shape", None),
        ("shape", [1] * 1000),
        ("dtype", "F8"),
        ("dtype", "F64"),
        ("dtype", ["F32"]),
        ("data_offsets", [0, 2**50]),
        ("data_offsets", [-32, 0]),
        ("data_offsets", [0, 32]),
        ("data_offsets", [8]),
    ],
)
def test_claims_that_do_not_fit_the_bytes_are_refused(folder, field, value):
    path = folder / "model.safetensors"
    header, data = header_of(path)
    header[NORM][field] = value
    rewrite(path, header, data)
    refused(folder, "not a whole safetensors file")


def test_a_pickle_under_the_name_of_safetensors_is_not_executed(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(folder, "not a whole safetensors file")
    torch.save({"model.norm.weight": Trap(tmp_path / "sprung")}, folder / "model.safetensors")
    refused(folder, "not a whole safetensors file")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_a_pickle_is_refused_unread(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    torch.save(Trap(tmp_path / "sprung"), folder / name)
    refused(folder, f"{name} is a pickle, which can run arbitrary code")
    with pytest.raises(UserError, match="is a pickle"):
        hub.resolve(folder / name)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "There is no model.safetensors")


@pytest.mark.parametrize(
    "kind", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_numbers_that_are_no_weights_are_refused(folder, kind):
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({**state, NORM: state[NORM].to(kind)}, path)
    refused(folder, f"{NORM} is stored as {kind}; weights must be torch.float16, torch.bfloat16, ")


def test_missing_unexpected_and_misshapen_weights_are_named(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    norm = state.pop(NORM)
    save_file({**state, "model.layers.2.input_layernorm.weight": norm}, path)
    refused(folder, f"missing: {NORM}; unexpected: model.layers.2.input_layernorm.weight")
    save_file({**state, NORM: norm, "model.embed_tokens.weight": torch.zeros(12, 8)}, path)
    refused(folder, r"misshapen: model.embed_tokens.weight \(12, 8\) instead of \(11, 8\)")
    save_file({**state, NORM: norm.view(2, 4)}, path)
    refused(folder, "misshapen")
    save_file({**state, NORM: norm.view([1] * 8 + [8] + [1] * 50)}, path)
    refused(folder, "misshapen")
    save_file(state, path)
    refused(folder, f"missing: {NORM}\\.")
    save_file({"model.embed_tokens.weight": state["model.embed_tokens.weight"]}, path)
    refused(folder, "describes 888 parameters and the weights beside it are only 88 numbers")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 10**15}, "vocab_size must be a whole number from 1 to 2,147,483,647, not 1000"),
        ({"vocab_size": 2**31 - 1}, "describes 34,359,739,064 parameters"),
        ({"num_hidden_layers": 10_000}, r"describes 3,5[\d,]+ parameters"),
        (
            {"num_hidden_layers": 10_001},
            "num_hidden_layers must be a whole number from 1 to 10,000, not 10001",
        ),
        (
            {"num_hidden_layers": 10**12},
            "num_hidden_layers must be a whole number from 1 to 10,000, not 1000000000000",
        ),
        ({"hidden_size": 2**40}, "hidden_size must be a whole number from 1 to 2,147,483,647, not 1099"),
        ({"hidden_size": 2**31 - 1}, r"describes [\d,]+ parameters"),
        ({"intermediate_size": 10**18}, "intermediate_size must be a whole number from 1 to 2,147,483,647"),
        ({"intermediate_size": 2**31 - 1}, r"describes [\d,]+ parameters"),
    ],
)
def test_a_configuration_that_claims_a_giant_takes_no_memory(folder, changes, words):
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**hf, **changes}))
    refused(folder, words)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\0", '{"model_type": {}}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json|family")


def claiming(dtype="U8", shape=(2,), offsets=(0, 2)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {  # headers, as JSON or as they stand, and how many bytes follow
    "nothing": (b"", 0),
    "not JSON": (b"{" * 8, 0),
    "nested without end": (b'{"a":' + b"[" * 100_000, 0),
    "not UTF-8": (b'{"\xff": 1}', 0),
    "a list": ([], 0),
    "a number": (17, 0),
    "an entry that is a list": ({"a": []}, 0),
    "an entry without a shape": ({"a": {"dtype": "U8", "data_offsets": [0, 2]}}, 2),
    "metadata that are numbers": ({"__metadata__": {"format": 1}}, 0),
    "metadata that are a list": ({"__metadata__": ["format"]}, 0),
    "a shape of text": ({"a": claiming(shape="2")}, 2),
    "a shape beyond 63 bits": ({"a": claiming(shape=[1 << 63, 0], offsets=[0, 0])}, 0),
    "a shape beyond 64 bits": ({"a": claiming(shape=[1 << 64, 0], offsets=[0, 0])}, 0),
    "a product beyond 64 bits": ({"a": claiming(shape=[1 << 32] * 3 + [0], offsets=[0, 0])}, 0),
    "half a byte": ({"a": claiming("F4", [3], [0, 1])}, 1),
    "numbers of six bits": ({"a": claiming("F6_E2M3", [4], [0, 3])}, 3),
    "one name twice": (
        json.dumps({"a": claiming(), "b": claiming(offsets=[2, 4])}).replace('"b"', '"a"').encode(),
        4,
    ),
    "an overlap": ({"a": claiming(), "b": claiming(offsets=[1, 3])}, 3),
    "a hole": ({"a": claiming(), "b": claiming(offsets=[3, 5])}, 5),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(folder, lie):
    header, size = LIES[lie]
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    refused(folder, "not a whole safetensors file")


@pytest.mark.parametrize("in_file", [2, 100_000_001])
def test_a_header_of_100_mb_in_a_file_of_zeros_takes_no_memory(folder, in_file):
    path = folder / "model.safetensors"
    path.write_bytes((100_000_001 if in_file > 2 else 100_000_000).to_bytes(8, "little") + b"{}")
    os.truncate(path, 8 + in_file)  # sparse: it takes no place on the disk
    refused(folder, "not a whole safetensors file")


def test_files_that_cannot_be_read_are_one_sentence(folder):
    path = folder / "model.safetensors"
    path.unlink()
    path.mkdir()
    refused(folder, "There is no model.safetensors")
    path.rmdir()
    os.mkfifo(path)  # opening it would wait for ever
    refused(folder, "There is no model.safetensors")
    path.unlink()
    path.symlink_to(folder / "absent")
    refused(folder, "There is no model.safetensors")


# Shards


@pytest.fixture
def sharded(folder):
    """The same model in two files; returns the folder and the index."""
    state = load_file(folder / "model.safetensors")
    names, places = sorted(state), {}
    for i, part in enumerate([names[:5], names[5:]]):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    reindex(folder, places)
    return folder, places


def test_shards_are_joined(sharded):
    assert hub.load_folder(sharded[0]).config == CONFIG


@pytest.mark.parametrize(
    "outside",
    [
        "../other.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "C:\\x.safetensors",
        "pytorch_model.bin",
        ".safetensors",
        "x.safetensors\n",
        5,
        None,
    ],
)
def test_an_index_that_points_outside_the_folder_is_refused(sharded, outside):
    folder, places = sharded
    (folder.parent / "other.safetensors").write_bytes((folder / places[NORM]).read_bytes())
    reindex(folder, {**places, NORM: outside})
    refused(folder, "not a safetensors file of this folder")


def test_tensors_that_the_index_does_not_list_are_left_out(sharded):
    folder, places = sharded
    first, second = sorted({*places.values()})
    expected = {name: x.clone() for name, x in hub.load_folder(folder).state_dict().items()}
    state = {name: x.clone() for name, x in load_file(folder / first).items()}
    elsewhere = next(name for name in places if places[name] == second)
    strays = {"a.stray": torch.zeros(3), elsewhere: torch.full((11, 8), 7.0)}
    save_file(state | strays, folder / first)
    reindex(folder, dict(reversed(places.items())))
    found = hub.load_folder(folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_index_and_its_shards_must_agree(sharded):
    folder, places = sharded
    first, second = sorted({*places.values()})
    reindex(folder, {**places, "model.extra.weight": first})
    refused(folder, "lack model.extra.weight, which the index names")
    reindex(folder, {**places, NORM: second if places[NORM] == first else first})
    refused(folder, f"lack {NORM}, which the index names")
    reindex(folder, places)
    (folder / second).unlink()
    refused(folder, f"{second}: there is no such file")


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_an_index_that_is_none_is_refused(sharded, index):
    (sharded[0] / "model.safetensors.index.json").write_text(index)
    refused(sharded[0], "index|are only 0 numbers")
