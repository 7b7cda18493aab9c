"""Folders of models: read without a copy, written so that transformers reads them, fetched with checksums."""

import hashlib
import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from myllm.config import ModelConfig
from myllm.files import UserError, safetensors_header
from myllm.model.transformer import Transformer
from myllm.weights import hub, tensors

FAMILIES = ["gpt2", "llama-3", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3"]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])


def tiny(**changes):
    sizes = {"vocab_size": 11, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
    return Transformer(ModelConfig(**sizes | changes))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The format


def test_what_is_written_safetensors_reads_and_the_other_way_round(tmp_path):
    state = {
        "a": torch.randn(3, 5).bfloat16(),
        "odd": torch.randn(7).half(),
        "b": torch.randn(2, 3, dtype=torch.float64),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "across": torch.randn(4, 3).T,
    }
    tensors.write(tmp_path / "ours", state)
    assert same(load_file(tmp_path / "ours"), state)
    save_file({name: x.contiguous() for name, x in state.items()}, tmp_path / "theirs")
    assert same(tensors.read(tmp_path / "theirs"), state)
    begins = [
        entry["data_offsets"][0]
        for entry in safetensors_header(tmp_path / "ours").values()
        if "dtype" in entry
    ]
    assert all(begin % 2 == 0 for begin in begins)


@pytest.mark.parametrize("padding", range(8))
def test_numbers_that_lie_at_odd_places_are_read(tmp_path, padding):
    header = (
        json.dumps({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode() + b" " * padding
    )
    data = torch.tensor([1.5, -2.0], dtype=torch.float64)
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + data.numpy().tobytes())
    assert torch.equal(tensors.read(tmp_path / "x")["x"], data)


def test_a_change_of_a_tensor_does_not_reach_the_file(tmp_path):
    tensors.write(tmp_path / "x", {"x": torch.zeros(3)})
    tensors.read(tmp_path / "x")["x"].fill_(7)
    assert torch.equal(tensors.read(tmp_path / "x")["x"], torch.zeros(3))


def test_reading_maps_the_file_and_copies_nothing(tmp_path):
    header = json.dumps(
        {"x": {"dtype": "F16", "shape": [1 << 15, 1 << 14], "data_offsets": [0, 1 << 30]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "x").open("wb") as file:  # a gigabyte that takes no place on the disk
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 30))
    before = resident()
    x = tensors.read(tmp_path / "x")["x"]
    assert x[-1, -1].item() == 0 and x.numel() == 1 << 29
    assert resident() - before < 50e6


def resident():
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("only Linux tells how much memory is in use")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Folders


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_what_is_saved_and_what_it_saves_comes_back_bitwise(oracle, tmp_path, name):
    from transformers import AutoModelForCausalLM

    oracle(name, torch.float32).save_pretrained(tmp_path / "theirs")
    first = hub.load_folder(tmp_path / "theirs")
    hub.save(first, tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert not theirs.training and theirs.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(first(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            theirs(IDS).logits, oracle(name, torch.float32)(IDS).logits, atol=1e-6, rtol=1e-6
        )
    if name != "phi3":  # which is written as a Mistral: the same model, its matrices apart
        assert same(theirs.state_dict(), oracle(name, torch.float32).state_dict())
    theirs.save_pretrained(tmp_path / "again")
    again = hub.load_folder(tmp_path / "again")
    assert same(first.state_dict(), again.state_dict()) and again.config == first.config


def test_shards_give_the_same_model_as_one_file(oracle, tmp_path):
    theirs = oracle("llama", torch.float32)
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len([*(tmp_path / "many").glob("*.safetensors")]) > 2
    assert same(
        hub.load_folder(tmp_path / "one").state_dict(), hub.load_folder(tmp_path / "many").state_dict()
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_is_ready_tied_and_of_the_dtype_asked_for(tmp_path, tied):
    model = tiny(tie_embeddings=tied).bfloat16()
    hub.save(model, tmp_path)
    loaded = hub.load_folder(tmp_path)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert (loaded.lm_head.weight is loaded.embed_tokens.weight) == tied
    assert sum(p.numel() for p in loaded.parameters()) == model.config.n_params
    assert same(loaded.state_dict(), model.state_dict())
    wider = hub.load_folder(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in wider.parameters()} == {torch.float64}
    assert (wider.lm_head.weight is wider.embed_tokens.weight) == tied
    assert torch.equal(wider.embed_tokens.weight, model.embed_tokens.weight.double())
    ids = torch.tensor([[1, 2, 3]])
    loaded(ids).float().sum().backward()  # and it can be trained on
    assert all(p.grad is not None for p in loaded.parameters())


def test_a_file_with_numbers_of_two_kinds_becomes_one(tmp_path):
    model = tiny().bfloat16()
    hub.save(model, tmp_path)
    state = tensors.read(tmp_path / "model.safetensors")
    tensors.write(
        tmp_path / "model.safetensors", {k: x.float() if "norm" in k else x for k, x in state.items()}
    )
    assert {p.dtype for p in hub.load_folder(tmp_path).parameters()} == {torch.bfloat16}


def test_saving_over_the_folder_that_a_model_was_loaded_from_is_safe(tmp_path):
    model = tiny()
    hub.save(model, tmp_path)
    loaded = hub.load_folder(tmp_path)
    hub.save(loaded, tmp_path)
    assert same(hub.load_folder(tmp_path).state_dict(), model.state_dict())


def test_tokenizer_files_travel_along(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    hub.save(tiny(), tmp_path / "new" / "folder", tokenizer_files=[tmp_path / "tokenizer.json"])
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no such file"):
        hub.save(tiny(), tmp_path / "other", tokenizer_files=[tmp_path / "absent.json"])
    assert not (tmp_path / "other").exists()


def test_a_model_of_no_family_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="No family"):
        hub.save(tiny(post_norms=True), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_was_left_half_written_is_refused(tmp_path, monkeypatch):
    hub.save(tiny(), tmp_path)

    def full(*args):
        raise UserError("The disk is full.")

    monkeypatch.setattr(tensors, "write", full)
    with pytest.raises(UserError, match="full"):
        hub.save(tiny(rope_theta=5.0), tmp_path)
    with pytest.raises(UserError, match=r"config\.json: there is no such file"):
        hub.load_folder(tmp_path)


# Names


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A stand-in for the hub's library: its snapshot links to blobs named by their checksums."""
    monkeypatch.setenv("MYLLM_CACHE", str(tmp_path / "cache"))
    hub.save(tiny(), tmp_path / "published")
    blobs, snapshot, calls = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee", []
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in (tmp_path / "published").iterdir():
        data = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data)
        digest = git if file.suffix == ".json" else hashlib.sha256(data)
        (blobs / digest.hexdigest()).write_bytes(data)
        (snapshot / file.name).symlink_to(blobs / digest.hexdigest())

    def snapshot_download(name, **options):
        calls.append((name, options))
        return str(snapshot)

    library = types.ModuleType("huggingface_hub")
    library.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return snapshot, calls, library


def test_a_name_is_fetched_at_its_revision_and_only_what_is_no_code(store):
    snapshot, calls, _ = store
    folder = hub.resolve("owner/model", "c0ffee")
    assert folder == snapshot and hub.load_folder(folder).config == tiny().config
    [(name, options)] = calls
    assert (name, options["revision"]) == ("owner/model", "c0ffee")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in options["allow_patterns"])
    assert {"*.json", "*.safetensors"} <= {*options["allow_patterns"]}


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_refused_and_the_file_removed(store, file):
    snapshot, _, _ = store
    blob = (snapshot / file).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=f"{file} .* wrong checksum"):
        hub.resolve("owner/model")
    assert not blob.exists()


def test_checksums_are_computed_once(store, monkeypatch):
    hub.resolve("owner/model")
    monkeypatch.setattr(hub, "sha256", lambda path: pytest.fail("computed again"))
    hub.resolve("owner/model")


def test_without_the_library_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"extra hub.*myllm download smollm2"):
        hub.resolve("owner/model")


def test_without_a_network_the_sentence_says_so(store):
    def broken(name, **options):
        raise ConnectionError("Name or service not known\nand more")

    store[2].snapshot_download = broken
    with pytest.raises(
        UserError, match="Cannot fetch owner/model: Name or service not known; check"
    ) as error:
        hub.resolve("owner/model")
    assert "\n" not in str(error.value)


def test_folders_and_files_are_found(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "model.gguf").touch()
    assert hub.resolve(tmp_path) == hub.resolve(tmp_path / "model.safetensors") == tmp_path
    assert hub.resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


@pytest.mark.parametrize(
    "name", ["no-such-folder", "/no/such/folder", "../up", "a/b/c", "", "owner/../model"]
)
def test_what_is_neither_folder_nor_name_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    if name:
        with pytest.raises(UserError, match="There is no folder"):
            hub.resolve(name)
