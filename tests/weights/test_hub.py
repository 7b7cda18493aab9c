"""Folders of models: read without a copy, written so that transformers reads them, found on the hub."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model

from myllm import LLM, tensors
from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.weights import convert, hub

FAMILIES = ["gpt2", "llama-3", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3"]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])


def tiny(**changes):
    sizes = {"vocab_size": 11, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
    return Transformer(ModelConfig(**sizes | changes))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_loading_does_not_import_the_compiler(tmp_path):
    """PyTorch imports it, for seconds, where something is computed on the meta device."""
    LLM(tiny()).save_pretrained(tmp_path)
    code = "import sys; from myllm import LLM; LLM.from_pretrained(sys.argv[1])"
    code += "; print('torch._dynamo' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# The format


@pytest.mark.parametrize("padding", range(8))
def test_numbers_that_are_stored_at_odd_places_are_read(tmp_path, padding):
    header = (
        json.dumps({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode() + b" " * padding
    )
    data = torch.tensor([1.5, -2.0], dtype=torch.float64)
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + data.numpy().tobytes())
    assert torch.equal(hub.read_weights(tmp_path / "x")["x"], data)


def test_a_change_of_a_tensor_does_not_reach_the_file(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "x")
    hub.read_weights(tmp_path / "x")["x"].fill_(7)
    assert torch.equal(hub.read_weights(tmp_path / "x")["x"], torch.zeros(3))


def test_reading_maps_the_file_and_copies_nothing(tmp_path):
    header = json.dumps(
        {"x": {"dtype": "F16", "shape": [1 << 15, 1 << 14], "data_offsets": [0, 1 << 30]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "x").open("wb") as file:  # a gigabyte that takes no place on the disk
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 30))
    before = resident()
    x = hub.read_weights(tmp_path / "x")["x"]
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
    state = {k: x.float() if "norm" in k else x for k, x in hub.read_weights(tmp_path).items()}
    save_file(state, tmp_path / "model.safetensors")
    assert {p.dtype for p in hub.load_folder(tmp_path).parameters()} == {torch.bfloat16}


def test_saving_over_the_folder_that_a_model_was_loaded_from_is_safe(tmp_path):
    model = tiny()
    hub.save(model, tmp_path)
    loaded = hub.load_folder(tmp_path)
    hub.save(loaded, tmp_path)
    assert same(hub.load_folder(tmp_path).state_dict(), model.state_dict())


@pytest.mark.parametrize("kept", ["lm_head.weight", "transformer.wte.weight"])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"lm_head.weight": "transformer.wte.weight"}])
def test_tied_weights_that_are_stored_under_one_name(oracle, tmp_path, kept, metadata):
    theirs = oracle("gpt2", torch.float32)
    theirs.save_pretrained(tmp_path)
    state = hub.read_weights(tmp_path)
    table = state.pop("transformer.wte.weight")
    save_file(state | {kept: table}, tmp_path / "model.safetensors", metadata)
    model = hub.load_folder(tmp_path)
    assert model.lm_head.weight is model.embed_tokens.weight
    assert torch.equal(model.embed_tokens.weight, theirs.transformer.wte.weight)


@pytest.mark.parametrize("kept", ["lm_head.weight", "model.embed_tokens.weight"])
def test_weights_that_the_metadata_call_shared_need_no_tie_in_the_configuration(tmp_path, kept):
    model = tiny()
    model.lm_head.weight = model.embed_tokens.weight
    hub.save(model, tmp_path)
    state = hub.read_weights(tmp_path)
    both = {"lm_head.weight", "model.embed_tokens.weight"}
    [other] = both - {kept}
    del state[other]
    save_file(state, tmp_path / "model.safetensors", {other: kept, "format": "pt"})
    assert same(hub.load_folder(tmp_path).state_dict(), model.state_dict())
    save_file(state, tmp_path / "model.safetensors", {other: "no such tensor"})
    with pytest.raises(UserError, match=f"missing: {other}"):
        hub.load_folder(tmp_path)


def test_the_library_and_transformers_write_what_loads_back(oracle, tmp_path):
    theirs = oracle("gpt2", torch.float32)
    theirs.save_pretrained(tmp_path)
    save_model(
        theirs, str(tmp_path / "model.safetensors"), {"format": "pt"}
    )  # it names the tie in its own way
    expected = convert.from_hf(theirs.state_dict(), hub.load_folder(tmp_path).config, "gpt2")
    assert same(hub.load_folder(tmp_path).state_dict(), expected)


def test_the_file_that_is_named_is_read(tmp_path):
    hub.save(tiny(), tmp_path)
    state = hub.read_weights(tmp_path)
    save_file({name: torch.full_like(x, 2.0) for name, x in state.items()}, tmp_path / "best.safetensors")
    best = hub.load_folder(tmp_path / "best.safetensors")
    assert all((x == 2).all() for x in best.parameters())
    assert LLM.from_pretrained(str(tmp_path / "best.safetensors")).model.norm.weight[0] == 2
    assert LLM.from_pretrained(tmp_path).model.norm.weight[0] != 2
    save_file({"model.norm.weight": state["model.norm.weight"]}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="are only 8 numbers"):
        LLM.from_pretrained(tmp_path / "part.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_written_under_both_names_and_kept(tmp_path, dtype):
    from transformers import AutoConfig

    hub.save(tiny().to(dtype), tmp_path)
    hf = json.loads((tmp_path / "config.json").read_text())
    assert hf["dtype"] == hf["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert AutoConfig.from_pretrained(tmp_path).dtype == dtype
    assert {x.dtype for x in hub.load_folder(tmp_path).parameters()} == {dtype}


def test_a_file_that_is_written_anew_keeps_its_permissions(tmp_path):
    hub.save(tiny(), tmp_path)
    modes = {(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1  # those of any new file
    (tmp_path / "model.safetensors").chmod(0o640)
    hub.save(tiny(), tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_disk_that_is_full_is_one_sentence_and_leaves_no_half_file(tmp_path):
    code = (
        "import resource, sys\n"
        "from myllm import ModelConfig, Transformer\n"
        "from myllm.files import UserError\n"
        "from myllm.weights import hub\n"
        "model = Transformer(ModelConfig(vocab_size=999, block_size=8, n_layer=1, n_head=2, n_embd=256))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: hub.save(model, sys.argv[1])\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"Cannot write {tmp_path / 'x' / 'model.safetensors'}: File too large.\n"
    assert [*(tmp_path / "x").iterdir()] == []


def test_a_model_of_no_family_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="No family"):
        hub.save(tiny(post_norms=True), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_was_left_half_written_is_refused(tmp_path, monkeypatch):
    hub.save(tiny(), tmp_path)

    def full(*args):
        raise UserError("The disk is full.")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(UserError, match="full"):
        hub.save(tiny(rope_theta=5.0), tmp_path)
    with pytest.raises(
        UserError, match=r"There is no config\.json in .*; name a folder that contains a model"
    ):
        hub.load_folder(tmp_path)


# Names


@pytest.fixture
def library(monkeypatch):
    """A stand-in for the library of the hub, whose calls are recorded."""
    calls, module = [], types.ModuleType("huggingface_hub")

    def snapshot_download(name, **options):
        calls.append((name, options))
        return "/a/snapshot"

    module.snapshot_download, module.calls = snapshot_download, calls
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_name_is_fetched_at_its_revision_and_only_what_is_no_code(library):
    assert hub.resolve("owner/model", "c0ffee") == Path("/a/snapshot")
    [(name, options)] = library.calls
    assert (name, options["revision"]) == ("owner/model", "c0ffee")


PUBLISHED = {  # the files of a repository, and whether they are wanted
    **dict.fromkeys(["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"], True),
    **dict.fromkeys(["model-00001-of-00002.safetensors", "model.safetensors.index.json"], True),
    **dict.fromkeys(["tokenizer.model", "special_tokens_map.json", "added_tokens.json"], True),
    **dict.fromkeys(["tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja"], True),
    **dict.fromkeys(["pytorch_model.bin", "modeling_x.py", "consolidated.safetensors", "README.md"], False),
    **dict.fromkeys(["model.gguf", "onnx/model.onnx", "original/params.json", "tf_model.h5"], False),
}


def test_only_configuration_tokenizer_and_safetensors_are_fetched():
    from huggingface_hub.utils import filter_repo_objects

    found = filter_repo_objects(PUBLISHED, allow_patterns=hub.WANTED, ignore_patterns=hub.UNWANTED)
    assert [*found] == [name for name, wanted in PUBLISHED.items() if wanted]


def test_what_was_fetched_once_is_found_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository = tmp_path / "models--owner--model"
    hub.save(tiny(), repository / "snapshots" / ("c0ffee" * 7)[:40])
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(("c0ffee" * 7)[:40])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert LLM.from_pretrained("owner/model").config == tiny().config
    assert hub.resolve("owner/model", ("c0ffee" * 7)[:40]) == hub.resolve("owner/model")
    with pytest.raises(UserError, match=r"^Cannot fetch owner/other: .* check the name and the network\.$"):
        hub.resolve("owner/other")


def test_without_the_library_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"extra hub.*myllm download smollm2"):
        hub.resolve("owner/model")


def test_without_a_network_the_sentence_says_so(library):
    def broken(name, **options):
        raise ConnectionError("Name or service not known\nand more")

    library.snapshot_download = broken
    with pytest.raises(
        UserError, match="Cannot fetch owner/model: Name or service not known; check"
    ) as error:
        hub.resolve("owner/model")
    assert "\n" not in str(error.value)


def test_folders_and_files_are_found(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "model.gguf").touch()
    assert hub.resolve(tmp_path) == tmp_path
    for name in ("model.safetensors", "model.gguf"):
        assert hub.resolve(str(tmp_path / name)) == tmp_path / name


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    llm = LLM(tiny())
    llm.save_pretrained("~/m")
    assert (tmp_path / "m" / "config.json").exists()
    for name in ("~/m", Path("~/m"), "~/m/model.safetensors"):
        assert LLM.from_pretrained(name).config == llm.config
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="is not a readable GGUF file"):
        LLM.from_pretrained("~/m.gguf")


@pytest.mark.parametrize(
    "name",
    [
        "~nosuchuser/x",
        "~nosuchuser/x.gguf",
        "~nosuchuser/x.safetensors",
        "x" * 5000,
        "a\0b",
        "a\0b.gguf",
        "/x.bin",
    ],
)
def test_a_path_that_cannot_be_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        LLM.from_pretrained(name)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_paths_that_are_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    hub.save(tiny(), tmp_path / "x")
    for file in (tmp_path / "x").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="not valid UTF-8"):
        hub.load_folder(folder)


def test_a_file_of_weights_is_read_whatever_its_name(tmp_path):
    model = tiny()
    hub.save(model, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.st")
    found = LLM.from_pretrained(tmp_path / "weights.st").model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())


def test_a_folder_or_another_file_in_the_place_of_one(tmp_path):
    hub.save(tiny(), tmp_path)
    with pytest.raises(UserError, match=r"config\.json is not a whole safetensors file"):
        LLM.from_pretrained(tmp_path / "config.json")
    (tmp_path / "a.gguf").mkdir()
    with pytest.raises(UserError, match=r"There is no file .*a\.gguf"):
        LLM.from_pretrained(tmp_path / "a.gguf")
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(UserError, match=r"There is no config\.json in .*a\.safetensors"):
        LLM.from_pretrained(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "name", ["no-such-folder", "/no/such/folder", "../up", "a/b/c", "", "owner/../model"]
)
def test_what_is_neither_folder_nor_name_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    if name:
        with pytest.raises(UserError, match="There is no folder"):
            hub.resolve(name)
