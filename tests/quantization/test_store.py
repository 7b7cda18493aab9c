"""Quantized models in folders: they come back bit for bit, and a foreign or changed file is refused."""

import json
import random
import tracemalloc

import pytest
import torch
from quantization_cases import IDS, VARIANTS, C, V, make, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from myllm import LLM, perplexity
from myllm.files import UserError
from myllm.quantization import store
from myllm.quantization.layer import QuantizedLinear
from myllm.quantization.schemes import footprint, quantize
from myllm.weights import hub


def same_bits(left, right):
    a, b = left.state_dict(), right.state_dict()
    assert a.keys() == b.keys()
    for name, x in a.items():
        y = b[name]
        assert x.dtype == y.dtype and x.shape == y.shape, name
        assert torch.equal(x.flatten().view(torch.uint8), y.flatten().view(torch.uint8)), name


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_every_scheme_comes_back_bit_for_bit(tmp_path, variant):
    model = make(variant)
    store.save(model, tmp_path / "new" / "folder")
    found = store.load(tmp_path / "new" / "folder")
    same_bits(model, found)
    assert torch.equal(found(IDS), model(IDS)) and not found.training and found.config == model.config
    assert (found.lm_head is not None) and footprint(found) == footprint(model)
    for old, new in zip(model.modules(), found.modules(), strict=True):
        assert type(old) is type(new) and getattr(old, "options", 0) == getattr(new, "options", 0)
    store.save(found, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        first, second = (tmp_path / "new/folder" / name, tmp_path / "again" / name)
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("scheme", ["llm.int8", "bnb-nf4"])
def test_the_layers_of_another_library_are_not_saved(tmp_path, scheme):
    pytest.importorskip("bitsandbytes")
    model = quantize(tiny(n_embd=64, intermediate_size=192), scheme)
    with pytest.raises(UserError, match=r"only Int8Linear, DynamicInt8Linear, Int4Linear, NF4Linear can be"):
        LLM(model).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("tie", [True, False])
def test_a_head_stays_tied_or_untied(tmp_path, tie):
    store.save(quantize(tiny(tie), "int8"), tmp_path)
    found = store.load(tmp_path)
    assert (found.lm_head.weight is found.embed_tokens.weight) == tie == found.config.tie_embeddings
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tie
    size = (tmp_path / "model.safetensors").stat().st_size
    assert footprint(found) < size < footprint(found) + 8_000  # the header is all that is added


def test_mixed_precision_and_a_quantized_head(tmp_path):
    model = quantize(tiny(), "int4", match=lambda name, linear: "mlp" in name)
    quantize(model, "int8", group=16, match=lambda name, linear: "self_attn" in name)
    with pytest.warns(UserWarning, match="copy of its own"):
        quantize(model, "int8", match=lambda name, linear: name == "lm_head")
    store.save(model, tmp_path)
    found = store.load(tmp_path)
    same_bits(model, found)
    kinds = {name: entry[0] for name, entry in store.quantized_layers(found).items()}
    assert kinds["lm_head"] == kinds["layers.1.self_attn.v_proj"] == "Int8Linear"
    assert kinds["layers.0.mlp.up_proj"] == "Int4Linear" and len(kinds) == 15
    assert found.layers[0].self_attn.q_proj.options == {"group": 16} and found.lm_head.options == {
        "group": "row"
    }


def test_dtype_changes_what_is_not_quantized(tmp_path):
    model = quantize(tiny(dtype=torch.bfloat16), "int8")
    store.save(model, tmp_path)
    same_bits(store.load(tmp_path), model)
    wide = store.load(tmp_path / "model.safetensors", dtype=torch.float32, device="cpu")
    assert wide.norm.weight.dtype == wide.embed_tokens.weight.dtype == torch.float32
    for new, old in zip(wide.buffers(), store.load(tmp_path).buffers(), strict=True):
        assert new.dtype == old.dtype and torch.equal(new, old)
    for dtype in (torch.int8, torch.float8_e4m3fn, torch.complex64):
        with pytest.raises(UserError, match=f"cannot become {dtype}"):
            store.load(tmp_path, dtype=dtype)
    assert {x.device.type for x in store.load(tmp_path, device="meta").state_dict().values()} == {"meta"}


def test_biases_and_learned_positions(tmp_path):
    from myllm import ModelConfig, Transformer

    torch.manual_seed(0)
    gpt2 = {"norm": "layernorm", "mlp": "plain", "activation": "gelu_tanh", "bias": True}
    config = ModelConfig(
        vocab_size=V, block_size=32, n_layer=2, n_head=2, n_embd=C, position="learned", **gpt2
    )
    model = Transformer(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight)
    store.save(quantize(model, "int8"), tmp_path)
    same_bits(store.load(tmp_path), model)
    assert torch.equal(store.load(tmp_path)(IDS), model(IDS))


# Under generate, chat and perplexity


def test_the_model_of_the_course_in_eight_bits(tmp_path):
    text = "ROMEO:\nWhat light through yonder window breaks?\n"
    model = LLM.from_pretrained("course-base", dtype=torch.float32)
    plain, size = perplexity(model, text), footprint(model.model)
    quantize(model.model, "int8")
    model.save_pretrained(tmp_path)
    found = LLM.from_pretrained(tmp_path)
    assert found.stop_ids == model.stop_ids and found.tokenizer.encode(text) == model.tokenizer.encode(text)
    written = found.generate(text, max_new_tokens=8)
    assert written == model.generate(text, max_new_tokens=8) != ""
    assert perplexity(found, text) == perplexity(model, text) != plain
    assert 0.97 < perplexity(found, text) / plain < 1.03 and footprint(found.model) < 0.4 * size


@pytest.mark.parametrize("variant", VARIANTS)
def test_generating_and_chatting_with_every_scheme(tmp_path, variant):
    from myllm.tokenizers.gguf import from_gguf
    from myllm.tokenizers.ranks import byte_symbols

    words = [*byte_symbols(), "<|im_start|>", "<|im_end|>"]
    values = {"model": "gpt2", "tokens": words, "token_type": [1] * 256 + [3] * 2, "merges": []}
    values = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    template = "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}<|im_start|>"
    tokenizer = from_gguf(values | {"tokenizer.chat_template": template}, "tiny")
    model = LLM(make(variant, vocab_size=258), tokenizer)
    model.save_pretrained(tmp_path)
    found = LLM.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "Hi"}]
    answer = found.chat(messages, max_new_tokens=8)
    assert answer == model.chat(messages, max_new_tokens=8) != ""
    one, two = found.complete(["abc", "a"], max_new_tokens=4)
    assert [one, two] == [
        *found.complete(["abc"], max_new_tokens=4),
        *found.complete(["a"], max_new_tokens=4),
    ]
    assert perplexity(found, "What light") == perplexity(model, "What light")


# What others and we refuse


def test_other_libraries_refuse_it(tmp_path):
    from transformers import AutoModelForCausalLM

    store.save(quantize(tiny(), "int8"), tmp_path)
    with pytest.raises(ValueError, match="myllm-quantized"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="'myllm-quantized' is not known"):
        hub.load_folder(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert [*file.metadata()] == [store.FORMAT]


def test_a_model_that_cannot_be_saved_leaves_the_folder_as_it_was(tmp_path):
    store.save(quantize(tiny(), "int8"), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    odd = quantize(tiny(), "int8")
    odd.layers[0].mlp.extra = nn.Linear(2, 2)
    own = quantize(tiny(), "int8")
    own.layers[0].mlp = nn.Identity()
    for model in (odd, own):
        with pytest.raises(UserError, match=r"The model does not match its description: layers\.0\.mlp\."):
            store.save(model, tmp_path)

    class Own(QuantizedLinear):
        pass

    mine = tiny()
    mine.layers[0].mlp.up_proj = Own(mine.layers[0].mlp.up_proj)
    with pytest.raises(UserError, match=r"no layer 'layers\.0\.mlp\.up_proj' of the kind 'Own'"):
        store.save(mine, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_over_another_model(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    hub.save(tiny(), tmp_path)
    store.save(quantize(tiny(), "int4"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert LLM.from_pretrained(tmp_path).model.layers[0].mlp.up_proj.options["group"] == 32
    LLM(tiny()).save_pretrained(tmp_path)
    same_bits(LLM.from_pretrained(tmp_path).model, tiny())


NAME = "layers.1.mlp.down_proj"


def rewrite(folder, tensors=lambda state: None, layers=lambda table: None, metadata=None, config=None):
    """Change a saved model from outside."""
    path = folder / "model.safetensors"
    state = load_file(path)
    with safe_open(path, "pt") as file:
        found = file.metadata()
    table = json.loads(found[store.FORMAT])
    tensors(state)
    layers(table)
    save_file(state, path, {store.FORMAT: json.dumps(table)} if metadata is None else metadata)
    if config is not None:
        hf = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config(hf)))


def setting(name, value):
    return lambda found: found.update({name: value})


def dropping(name):
    return lambda found: found.pop(name)


def inside(change):
    return lambda hf: {**hf, "model": change(hf["model"])}


CHANGES = {
    "a class that is not known": ({"layers": setting(NAME, ["Linear", {}])}, "of the kind 'Linear'"),
    "a class of ours that is no layer": ({"layers": setting(NAME, ["QuantizedLinear", {}])}, "of the kind"),
    "a function": ({"layers": setting(NAME, ["gptq_model", {}])}, "of the kind 'gptq_model'"),
    "a layer of another library": (
        {"layers": setting(NAME, ["LLMInt8", {}])},
        "'LLMInt8': only Int8Linear, DynamicInt8Linear, Int4Linear, NF4Linear can be stored",
    ),
    "a block out of range": ({"layers": setting(NAME, ["NF4Linear", {"block": 0}])}, "NF4Linear"),
    "a block of text": ({"layers": setting(NAME, ["NF4Linear", {"block": "x"}])}, "NF4Linear"),
    "a block in halves": ({"layers": setting(NAME, ["NF4Linear", {"block": 64.0}])}, "NF4Linear"),
    "a module by its path": ({"layers": setting(NAME, ["os.system", {"group": "row"}])}, "of the kind"),
    "a list for a class": ({"layers": setting(NAME, [["Int8Linear"], {}])}, "of the kind"),
    "an option that is not known": (
        {"layers": setting(NAME, ["Int8Linear", {"bits": 3}])},
        "no option 'bits'",
    ),
    "a group out of range": ({"layers": setting(NAME, ["Int8Linear", {"group": 7}])}, "divides 96, not 7"),
    "a group without end": (
        {"layers": setting(NAME, ["Int8Linear", {"group": 10**30}])},
        "divides 96, not 10",
    ),
    "a group of none": ({"layers": setting(NAME, ["Int8Linear", {"group": 0}])}, "divides 96, not 0"),
    "a group of text": ({"layers": setting(NAME, ["Int8Linear", {"group": "x"}])}, "not 'x'"),
    "a group of null": ({"layers": setting(NAME, ["Int8Linear", {"group": None}])}, "not None"),
    "another group": ({"layers": setting(NAME, ["Int8Linear", {"group": 32}])}, rf"{NAME}\.scale is \(32, 1"),
    "another class": ({"layers": setting(NAME, ["Int4Linear", {}])}, rf"{NAME}\.codes is"),
    "options that are no object": ({"layers": setting(NAME, ["Int8Linear", 3])}, "does not describe"),
    "an entry that is no pair": ({"layers": setting(NAME, "Int8Linear")}, "does not describe"),
    "a layer that is not there": (
        {"layers": setting("layers.7.mlp", ["Int8Linear", {}])},
        "no layer 'layers.7",
    ),
    "the whole model as a layer": ({"layers": setting("", ["Int8Linear", {}])}, "no layer ''"),
    "a norm as a layer": ({"layers": setting("norm", ["Int8Linear", {}])}, "no layer 'norm'"),
    "the embedding as a layer": ({"layers": setting("embed_tokens", ["Int8Linear", {}])}, "no layer 'embed"),
    "a tied head as a layer": (
        {"layers": setting("lm_head", ["Int8Linear", {}])},
        r"embed_tokens\.weight is .* instead of None",
    ),
    "a layer left out": ({"layers": dropping(NAME)}, rf"{NAME}\.codes is .* instead of None"),
    "no format": ({"metadata": {"format": "pt", "layers": "{}"}}, "no model in the format myllm-quantized"),
    "a description that is no JSON": ({"metadata": {store.FORMAT: "{"}}, "does not describe its layers"),
    "a description nested without end": ({"metadata": {store.FORMAT: "[" * 100_000}}, "does not describe"),
    "a description that is a list": ({"metadata": {store.FORMAT: "[]"}}, "does not describe its layers"),
    "no norm": ({"tensors": dropping("norm.weight")}, r"norm\.weight is None"),
    "no codes": ({"tensors": dropping(f"{NAME}.codes")}, rf"{NAME}\.codes is None"),
    "no scale": ({"tensors": dropping(f"{NAME}.scale")}, rf"{NAME}\.scale is None"),
    "no embedding": ({"tensors": dropping("embed_tokens.weight")}, r"embed_tokens\.weight is None"),
    "an unknown tensor": ({"tensors": setting("x", torch.ones(2))}, r"x is \(2, 'float'\) instead of None"),
    "a name without end": ({"tensors": setting("x" * 9_999, torch.ones(2))}, "x{80} is"),
    "codes of another shape": (
        {"tensors": setting(f"{NAME}.codes", torch.zeros(1, 96, dtype=torch.int8))},
        r"is \(1, 96, 'torch.int8'\) instead of \(32, 96, 'torch.int8'\)",
    ),
    "codes that are floats": ({"tensors": setting(f"{NAME}.codes", torch.zeros(C, 96))}, "'float'"),
    "codes of another kind": (
        {"tensors": setting(f"{NAME}.codes", torch.zeros(C, 96, dtype=torch.uint8))},
        r"'torch\.uint8'\) instead of",
    ),
    "a scale in whole numbers": (
        {"tensors": setting(f"{NAME}.scale", torch.ones(C, 1, dtype=torch.int32))},
        r"'torch\.int32'\) instead of",
    ),
    "a weight in eight bits": (
        {"tensors": setting("norm.weight", torch.ones(C).to(torch.float8_e4m3fn))},
        r"'torch\.float8_e4m3fn'\) instead of",
    ),
    "more layers": ({"config": inside(lambda hf: {**hf, "num_hidden_layers": 3})}, r"layers\.2\.\S+ is None"),
    "layers without end": (
        {"config": inside(lambda hf: {**hf, "num_hidden_layers": 999})},
        "is too small for",
    ),
    "a width without end": ({"config": inside(lambda hf: {**hf, "hidden_size": 2**30})}, "is too small for"),
    "another width": ({"config": inside(lambda hf: {**hf, "intermediate_size": 64})}, "down_proj"),
    "a head of its own": ({"config": inside(lambda hf: {**hf, "tie_word_embeddings": False})}, "lm_head"),
    "another family": ({"config": inside(lambda hf: {**hf, "model_type": "x"})}, "family"),
    "settings without end": (
        {"config": inside(lambda hf: {**hf, "num_hidden_layers": 10**30})},
        "whole number",
    ),
    "a configuration without a format": ({"config": lambda hf: hf["model"]}, "no model in the format"),
    "a configuration of another format": (
        {"config": lambda hf: {**hf, "model_type": "llama"}},
        "no model in the format",
    ),
    "a configuration without a model": (
        {"config": lambda hf: {"model_type": store.FORMAT}},
        "config.json holds no object",
    ),
    "a configuration that is a list": ({"config": lambda hf: [hf]}, "no model in the format"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused_in_one_sentence(tmp_path, change):
    changes, message = CHANGES[change]
    store.save(quantize(tiny(), "int8"), tmp_path)
    rewrite(tmp_path)  # the file written again by the library loads
    store.load(tmp_path)
    rewrite(tmp_path, **changes)
    tracemalloc.start()
    with pytest.raises(UserError, match=message) as raised:
        store.load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600 and peak < 10_000_000


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    store.save(quantize(tiny(), "int4"), tmp_path)
    path, rng = tmp_path / "model.safetensors", random.Random(0)
    whole = path.read_bytes()
    for size in [0, 1, 8, 9, *(rng.randrange(len(whole)) for _ in range(20)), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            LLM.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        LLM.from_pretrained(tmp_path)


def test_with_any_byte_of_the_header_changed_it_loads_or_is_refused(tmp_path):
    store.save(quantize(tiny(), "int8", match=lambda name, linear: "v_proj" in name), tmp_path)
    path, rng = tmp_path / "model.safetensors", random.Random(0)
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            store.load(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_folder_of_another_kind(tmp_path):
    hub.save(tiny(), tmp_path)
    with pytest.raises(UserError, match="no model in the format"):
        store.load(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        store.load(tmp_path / "none")
    assert store.read_config(tmp_path) is None and store.read_config(tmp_path / "none") is None
