"""Hostile and damaged folders: one sentence each, no memory taken, nothing executed."""

import json
import pickle
import tracemalloc
from pathlib import Path

import pytest
import torch

from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.weights import hub, tensors

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
    refused(folder, "claims a header")


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
    refused(folder, f"{name} is a pickle, which can run any code")
    with pytest.raises(UserError, match="is a pickle"):
        hub.resolve(folder / name)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "There is no model.safetensors")


@pytest.mark.parametrize("kind", ["I64", "U8", "BOOL", "F8_E4M3"])
def test_numbers_that_are_no_weights_are_refused(folder, kind):
    path = folder / "model.safetensors"
    header, data = header_of(path)
    size = header[NORM]["data_offsets"][1] - header[NORM]["data_offsets"][0]
    header[NORM] |= {"dtype": kind, "shape": [size // (8 if kind == "I64" else 1)]}
    rewrite(path, header, data)
    refused(folder, f"is {kind}; weights must be one of F64, F32, F16, BF16")


def test_missing_unexpected_and_misshapen_weights_are_named(folder):
    path = folder / "model.safetensors"
    state = tensors.read(path)
    norm = state.pop(NORM)
    tensors.write(path, {**state, "model.layers.2.input_layernorm.weight": norm})
    refused(folder, f"missing: {NORM}; unexpected: model.layers.2.input_layernorm.weight")
    tensors.write(path, {**state, NORM: norm, "model.embed_tokens.weight": torch.zeros(12, 8)})
    refused(folder, r"misshapen: model.embed_tokens.weight \(12, 8\) instead of \(11, 8\)")
    tensors.write(path, {**state, NORM: norm.view(2, 4)})
    refused(folder, "misshapen")
    tensors.write(path, state)
    refused(folder, "parameters and the weights beside it hold only")


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**15},
        {"num_hidden_layers": 10_000},
        {"num_hidden_layers": 10**12},
        {"hidden_size": 2**40, "num_attention_heads": 1},
        {"intermediate_size": 10**18},
    ],
)
def test_a_configuration_that_claims_a_giant_takes_no_memory(folder, changes):
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**hf, **changes}))
    refused(folder, "describes .* parameters|layers|n_kv_head")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\0", '{"model_type": {}}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json|family")


# Shards


@pytest.fixture
def sharded(folder):
    """The same model in two files; returns the folder and the index."""
    state = tensors.read(folder / "model.safetensors")
    names, places = sorted(state), {}
    for i, part in enumerate([names[:5], names[5:]]):
        file = f"model-0000{i}-of-00002.safetensors"
        tensors.write(folder / file, {name: state[name] for name in part})
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
    refused(folder, "no safetensors of this folder")


def test_an_index_and_its_shards_must_agree(sharded):
    folder, places = sharded
    first, second = sorted({*places.values()})
    reindex(folder, {**places, "model.extra.weight": first})
    refused(folder, "lack model.extra.weight, which the index names")
    reindex(folder, {**places, NORM: second if places[NORM] == first else first})
    refused(folder, "which the index has elsewhere")
    reindex(folder, {name: file for name, file in places.items() if name != NORM})
    refused(folder, "which the index has elsewhere")
    reindex(folder, places)
    (folder / second).unlink()
    refused(folder, f"{second}: there is no such file")


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_an_index_that_is_none_is_refused(sharded, index):
    (sharded[0] / "model.safetensors.index.json").write_text(index)
    refused(sharded[0], "index|hold only")
