"""GGUF files that we write: blocks are the library's byte for byte, and both readers read the files."""

import gguf as library
import numpy as np
import pytest
import torch
from gguf_cases import IDS, C, V, interleaved
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from myllm import BPE, LLM, ModelConfig, Transformer, load_tokenizer
from myllm.files import UserError
from myllm.quantization.schemes import quantize
from myllm.tokenizers.gguf import from_gguf, to_gguf
from myllm.tokenizers.patterns import GPT4, LLAMA3, SMOLLM2
from myllm.weights import gguf, gguf_writer

LONG = {"vocab_size": V, "block_size": 128, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": C}
LONG |= {"intermediate_size": 96, "rope_theta": 5000.0, "norm_eps": 1e-6, "init_std": 0.2}
QUANTIZED = {"q8_0": library.GGMLQuantizationType.Q8_0, "q4_0": library.GGMLQuantizationType.Q4_0}


def tiny(**changes):
    torch.manual_seed(0)
    return Transformer(ModelConfig(**{**LONG, **changes})).eval()


# Blocks

odd = st.sampled_from([0.0, -0.0, 1.0, -1.0, 127.0, 63.5, -0.5, 8.0, 3.5, 1e-8, 65504.0, 0.1, 1 / 3, 1e-30])
numbers = st.floats(-500_000, 500_000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)
blocks = arrays.arrays(np.float32, (2, 32), elements=st.one_of(odd, numbers))


@pytest.mark.parametrize("kind", QUANTIZED)
@given(blocks=blocks)
@example(blocks=np.zeros((2, 32), np.float32))
@example(blocks=np.float32([[127, *[0.5, 1.5, -0.5, -2.5] * 7, 3.49999976, -0.49999997, 0]]))
@example(blocks=np.float32([[-8, *[0.5, 7.5, -0.5, 3.5] * 7, 8, 8, 0], [8, -8, *[6.5, -6.5] * 15]]))
def test_blocks_are_those_of_the_library(kind, blocks):
    found, expected = gguf_writer.KINDS[kind](blocks), library.quantize(blocks, QUANTIZED[kind])
    assert found.dtype == np.uint8 and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_random_weights_are_those_of_the_library(kind):
    weights = np.random.default_rng(0).normal(size=(4_000, 32)).astype(np.float32)
    weights *= 10.0 ** np.random.default_rng(1).integers(-6, 4, (4_000, 1))
    found = gguf_writer.KINDS[kind](weights)
    assert found.tobytes() == library.quantize(weights, QUANTIZED[kind]).tobytes()
    assert found.shape == (4_000, {"q8_0": 34, "q4_0": 18}[kind])


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.filterwarnings("error")
def test_numbers_that_float16_cannot_hold(kind):
    small = np.full((1, 32), 1e-40, np.float32)  # the scale is 0 in float16
    assert not library.dequantize(gguf_writer.KINDS[kind](small), QUANTIZED[kind]).any()
    for large in (1e38, np.inf, np.nan):
        with pytest.raises(UserError, match="beyond the range of float16; write the kind f32"):
            gguf_writer.KINDS[kind](np.full((1, 32), large, np.float32))


# Models


@pytest.mark.parametrize("tie", [False, True])
@torch.inference_mode()
def test_a_file_in_32_bits_holds_the_model(tmp_path, tie):
    model = tiny(tie_embeddings=tie)
    gguf_writer.write(model, tmp_path / "a.gguf", "f32")
    found, values = gguf.load(tmp_path / "a.gguf")
    assert torch.equal(found(IDS), model(IDS)) and not found.training
    assert found.config == model.config.replace(init_std=0.02)
    assert values["llama.rope.dimension_count"] == values["llama.attention.value_length"] == 8
    assert values["llama.vocab_size"] == V and values["general.quantization_version"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize("kind", gguf_writer.KINDS)
def test_the_library_reads_what_was_written(tmp_path, kind):
    model = tiny()
    gguf_writer.write(model, tmp_path / "a.gguf", kind)
    reader = library.GGUFReader(tmp_path / "a.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-6)
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, 2)
    heads = {"q_proj": 4, "k_proj": 2}
    tensors = {one.name: one for one in reader.tensors}
    assert len(tensors) == len(model.state_dict())
    for name, weight in model.state_dict().items():
        whole = name if name.startswith("lm_head") else f"model.{name}"
        found = tensors[names.get_name(whole, (".weight",))]
        part = name.split(".")[-2]
        rows = interleaved(weight, heads[part]) if part in heads else weight
        if weight.ndim == 1:
            assert found.tensor_type.name == "F32"
            expected = weight.numpy()
        elif kind in QUANTIZED:
            assert found.tensor_type == QUANTIZED[kind]
            expected = library.quantize(rows.numpy(), QUANTIZED[kind])
        else:
            assert found.tensor_type.name == kind.upper()
            expected = rows.numpy().astype({"f32": np.float32, "f16": np.float16}[kind])
        assert np.asarray(found.data).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_weights_come_back_as_their_blocks_say(tmp_path, kind):
    model = tiny(tie_embeddings=True)
    gguf_writer.write(model, tmp_path / "a.gguf", kind)
    found = gguf.load(tmp_path / "a.gguf")[0].state_dict()
    for name, weight in model.state_dict().items():
        if weight.ndim == 2:  # blocks are of one row, so the order of rows is no matter
            blocks = library.quantize(weight.numpy(), QUANTIZED[kind])
            weight = torch.from_numpy(library.dequantize(blocks, QUANTIZED[kind]))
        assert torch.equal(found[name], weight), name


def test_rows_that_fill_no_blocks_stay_in_float16(tmp_path):
    model = tiny(intermediate_size=48)
    gguf_writer.write(model, tmp_path / "a.gguf", "q4_0")
    types = {one.name: one.tensor_type.name for one in library.GGUFReader(tmp_path / "a.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == types["blk.1.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q4_0" and types["blk.0.ffn_norm.weight"] == "F32"
    found = gguf.load(tmp_path / "a.gguf")[0].layers[0].mlp.down_proj.weight
    assert torch.equal(found, model.layers[0].mlp.down_proj.weight.half().float())


def test_bytes_of_each_kind(tmp_path):
    n = sum(x.numel() for x in tiny().parameters() if x.ndim == 2)
    sizes = {}
    for kind, bits in {"f32": 32, "f16": 16, "q8_0": 8.5, "q4_0": 4.5}.items():
        gguf_writer.write(tiny(), tmp_path / "a.gguf", kind)
        sizes[kind] = (tmp_path / "a.gguf").stat().st_size
        assert n * bits / 8 < sizes[kind] < n * bits / 8 + 4_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_dtypes(tmp_path, dtype):
    model = tiny().to(dtype)
    gguf_writer.write(model, tmp_path / "a.gguf", "f32")
    found = gguf.load(tmp_path / "a.gguf", dtype=dtype)[0].state_dict()
    assert all(torch.equal(found[name], x) for name, x in model.state_dict().items())


@torch.inference_mode()
def test_heads_wider_than_their_share_and_the_scaling_of_llama3(tmp_path):
    from myllm.config import RopeScaling

    model = tiny(head_dim=10, rope_scaling=RopeScaling("llama3", 8.0, 8192), rope_theta=500_000.0)
    gguf_writer.write(model, tmp_path / "a.gguf", "f32")
    found, _ = gguf.load(tmp_path / "a.gguf")
    assert torch.equal(found(IDS), model(IDS)) and found.config.rope_scaling == model.config.rope_scaling
    assert (tiny(head_dim=10, rope_theta=500_000.0)(IDS) - model(IDS)).abs().max() > 1e-6


OTHERS = {
    "norm": {"norm": "layernorm"},
    "mlp": {"mlp": "plain"},
    "activation": {"activation": "gelu"},
    "bias": {"bias": True},
    "qkv_bias": {"qkv_bias": True},
    "position": {"position": "none", "rope_theta": 10_000.0},
    "rotary_fraction": {"rotary_fraction": 0.5},
    "qk_norm": {"qk_norm": True},
    "window": {"window": 8},
    "scale_embeddings": {"scale_embeddings": True},
    "logit_softcap": {"logit_softcap": 30.0},
    "attention_scale": {"attention_scale": 0.5},
    "rope_scaling": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 32}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_of_another_form_is_refused_by_the_name_of_what_differs(tmp_path, name):
    from myllm.config import RopeScaling

    changes = dict(OTHERS[name])
    if name == "rope_scaling":
        changes = {name: RopeScaling(**changes[name])}
    with pytest.raises(UserError, match=rf"cannot express .*\b{name}") as raised:
        gguf_writer.write(tiny(**changes), tmp_path / "a.gguf")
    assert "\n" not in str(raised.value) and not [*tmp_path.iterdir()]


def test_mistakes_write_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match="no kind 'q5_0' of GGUF files; take one of f32, f16, q8_0, q4_0"):
        gguf_writer.write(tiny(), path, "q5_0")
    with pytest.raises(UserError, match="parts of its own"):
        gguf_writer.write(quantize(tiny(), "int8"), path)
    huge = tiny()
    huge.layers[1].mlp.down_proj.weight.data[3, 5] = 1e9
    for kind in ("f16", "q8_0", "q4_0"):
        with pytest.raises(UserError, match="beyond the range of float16"):
            gguf_writer.write(huge, path, kind)
    with pytest.raises(UserError, match="there is no folder"):
        gguf_writer.write(tiny(), tmp_path / "none" / "a.gguf")
    with pytest.raises(UserError, match="known split"):
        LLM(tiny(vocab_size=32_000), load_tokenizer("mistral")).save_gguf(path)
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["a.gguf"]
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"\[book\]"):
        gguf_writer.write(tiny(), path)


# Tokenizers

TEXTS = [
    "",
    " ",
    "Hello, World!\n",
    "  two  spaces\t\n\n x",
    "I'll can't O'ER 12345 x1y22",
    "ne\u0301 é 你好  12 \n 3   4 😀 \u3000",
]
JINJA = "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% endfor %}"


def written(tokenizer, tmp_path):
    """The tokenizer of a file, written and read with a small model."""
    model = Transformer(
        ModelConfig(**{**LONG, "vocab_size": tokenizer.vocab_size + 3, "n_layer": 1, "n_embd": 8})
    )
    LLM(model, tokenizer).save_gguf(tmp_path / "a.gguf", kind="q4_0")
    return LLM.from_pretrained(tmp_path / "a.gguf").tokenizer


def alike(found, known):
    assert found.special_tokens == known.special_tokens and found.end_ids == known.end_ids
    for name in ("bos_id", "eos_id", "pad_id", "add_bos", "chat_template"):
        assert getattr(found, name) == getattr(known, name), name
    for text in [*TEXTS, " ".join(known.special_tokens)]:
        ids = known.encode(text)
        assert found.encode(text) == ids and found.decode(ids) == known.decode(ids)
        assert found.encode(text, allowed_special="all") == known.encode(text, allowed_special="all")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "shakespeare"])
def test_published_tokenizers_come_back(tmp_path, name):
    known = load_tokenizer(name)
    found = written(known, tmp_path)
    alike(found, known)
    assert found.vocab_size == known.vocab_size + 3  # those of the padding are listed
    types = library.GGUFReader(tmp_path / "a.gguf").fields["tokenizer.ggml.token_type"].contents()
    assert types[-3:] == [5, 5, 5] and types.count(3) == len(known.special_tokens)


@pytest.mark.parametrize("pattern", [SMOLLM2, LLAMA3])
def test_tokenizers_of_our_own(tmp_path, pattern):
    text = "It's 12345 and 67890, isn't it? 12 and 123 and 1234 are numbers, and the rest are words.\n" * 4
    known = BPE.train(text, 285, pattern=pattern, special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"])
    known.chat_template = JINJA
    alike(written(known, tmp_path), known)


@pytest.mark.slow
def test_an_end_of_turn_and_a_begin_token(tmp_path):
    values = to_gguf(load_tokenizer("smollm2"), 49_152)
    known = from_gguf(values | {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.add_bos_token": True}, "x")
    assert known.extra_end_ids == {5} and known.add_bos
    alike(written(known, tmp_path), known)


@pytest.mark.slow
def test_every_split_is_told_from_those_that_encode_another_text():
    values = to_gguf(load_tokenizer("smollm2"), 49_152)
    for pre in ("gpt-2", "llama-bpe", "qwen2", "stablelm2", "smollm"):
        known = from_gguf(values | {"tokenizer.ggml.pre": pre}, "x")
        named = to_gguf(known, 49_152)["tokenizer.ggml.pre"]
        assert named == pre or {pre, named} <= {"llama-bpe", "qwen2", "stablelm2"}
        alike(from_gguf(values | {"tokenizer.ggml.pre": named}, "x"), known)


def test_tokenizers_that_a_file_cannot_describe(tmp_path):
    twice = BPE([(97, 98), (98, 99), (256, 99), (97, 257)])  # "abc" by two ways
    for one in (BPE.train("abc" * 9, 257, pattern=GPT4), load_tokenizer("gpt2"), twice):
        with pytest.raises(UserError, match="no byte-level BPE with a known split"):
            written(one, tmp_path)
        assert not [*tmp_path.iterdir()]


def test_an_llm_comes_back_and_writes_the_same(tmp_path):
    model = LLM.from_pretrained("course-base", dtype=torch.float32)
    model.save_gguf(tmp_path / "a.gguf", kind="f32")
    found = LLM.from_pretrained(tmp_path / "a.gguf")
    assert found.stop_ids == model.stop_ids
    assert found.generate("ROMEO:\n", max_new_tokens=9) == model.generate("ROMEO:\n", max_new_tokens=9)
    assert found.config == model.config.replace(init_std=0.02)
    model.save_gguf(tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").stat().st_size < 0.3 * model.config.n_params * 4
