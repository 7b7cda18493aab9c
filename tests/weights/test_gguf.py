"""GGUF files: written by the library of that name, read by ours; every claim of a hostile one is checked."""

import os
import struct
import sys
import tracemalloc

import gguf as library
import numpy as np
import pytest
import torch
from gguf_cases import (
    CHANGING,
    HARMLESS,
    HOSTILE,
    IDS,
    SCALINGS,
    SHAPES,
    D,
    adding,
    interleaved,
    llama,
    model_file,
    raw,
    rope_settings,
    write,
)

from myllm.files import UserError
from myllm.weights import gguf
from myllm.weights.gguf_file import GGUFFile


@pytest.mark.parametrize("tie", [False, True])
@torch.inference_mode()
def test_logits_are_those_of_the_model_that_was_written(tmp_path, tie):
    theirs = llama(tie)
    model, values = gguf.load(write(tmp_path / "a.gguf", theirs))
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
    assert values["general.architecture"] == "llama" and not model.training
    assert model.config.norm_eps == 1e-5 and model.config.rope_theta == 5000.0
    assert (model.lm_head.weight is model.embed_tokens.weight) == tie
    assert sum(weight.numel() for weight in model.parameters()) == model.config.n_params


@torch.inference_mode()
def test_heads_that_are_wider_than_their_share(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = llama().config.to_dict()
    theirs = LlamaForCausalLM(LlamaConfig(**{**base, "head_dim": 10})).eval()

    def change(writer):
        writer.add_key_length(10)
        writer.add_rope_dimension_count(10)

    model, _ = gguf.load(write(tmp_path / "a.gguf", theirs, change=change))
    assert model.config.head_dim == 10
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_factors_of_llama3(tmp_path):
    settings = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    theirs = llama(scaling={**settings, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0})
    plain = 500_000.0 ** -(torch.arange(0, D, 2) / D)
    factors = (plain / theirs.model.rotary_emb.inv_freq).float().numpy()
    assert factors.max() == 32 and factors.min() == 1
    model, _ = gguf.load(write(tmp_path / "a.gguf", theirs, factors=factors))
    assert model.config.rope_scaling.kind == "llama3" and model.config.rope_scaling.factor == 32
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
    odd = factors * np.float32([1, 1, 1.5, 1])
    with pytest.raises(UserError, match="with factors of its own"):
        gguf.load(write(tmp_path / "b.gguf", theirs, factors=odd))


@pytest.mark.parametrize(("said", "meant"), SCALINGS)
@torch.inference_mode()
def test_scalings_of_the_rotary_frequencies(tmp_path, said, meant):
    theirs = llama(scaling=meant)
    model, _ = gguf.load(write(tmp_path / "a.gguf", theirs, change=rope_settings(said)))
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
    if meant:  # it does change the logits
        assert (llama()(IDS).logits - theirs(IDS).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    "said",
    [
        {"type": "longrope", "factor": 4.0},
        {"type": "linear", "factor": 4.0, "attn_factor": 1.5},
        {"attn_factor": 1.5},
        {"type": "yarn", "factor": 4.0, "yarn_ext_factor": 0.5},
        {"type": "linear", "yarn_ext_factor": 1.0},
        {"type": "yarn", "factor": 4.0, "yarn_attn_factor": 1.5},
        {"type": "yarn", "factor": 4.0, "yarn_log_multiplier": 0.1},
        {"type": "yarn", "factor": 4.0, "yarn_beta_fast": 0.5},
        {"type": "yarn", "factor": 0.5},
        {"type": "yarn", "factor": -4.0},
        {"type": "linear", "factor": 0.25},
        {"type": "linear", "factor": float("inf")},
        {"type": "linear", "factor": "4"},
        {"factor": 4.0, "original_context_length": 0},
        {"alpha": 1000.0},
    ],
)
def test_a_scaling_that_cannot_be_computed_is_refused_in_a_sentence_about_the_file(tmp_path, said):
    path = write(tmp_path / "a.gguf", llama(), change=rope_settings(said))
    with pytest.raises(UserError) as error:
        gguf.load(path)
    assert str(path) in str(error.value) and str(error.value).count("\n") == 0


def test_factors_of_llama3_beside_another_scaling_are_refused(tmp_path):
    factors = np.ones(D // 2, np.float32)
    assert gguf.load(write(tmp_path / "a.gguf", llama(), factors=factors))[0].config.rope_scaling.factor == 1
    for said in ({"factor": 2.0}, {"type": "yarn"}, {"attn_factor": 2.0}):
        path = write(tmp_path / "b.gguf", llama(), factors=factors, change=rope_settings(said))
        with pytest.raises(UserError, match="with factors of its own"):
            gguf.load(path)


@pytest.mark.parametrize("name", CHANGING)
def test_a_setting_that_changes_the_model_is_refused_by_name(tmp_path, name):
    path = write(tmp_path / "a.gguf", llama(), change=adding({name: CHANGING[name]}))
    with pytest.raises(UserError, match=rf"{path} has llama\.{name} .*, which is not supported\.$"):
        gguf.load(path)


@torch.inference_mode()
def test_settings_that_change_nothing_are_passed_over(tmp_path):
    theirs = llama()
    model, _ = gguf.load(write(tmp_path / "a.gguf", theirs, change=adding(HARMLESS)))
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)


# Formats of numbers, each against the definition written out


def f16(data):
    return float(np.frombuffer(data, "<f2")[0])


def q4_0(block):
    d, packed = f16(block[:2]), block[2:]
    return [d * ((byte & 15) - 8) for byte in packed] + [d * ((byte >> 4) - 8) for byte in packed]


def q4_1(block):
    d, low, packed = f16(block[:2]), f16(block[2:4]), block[4:]
    return [d * (byte & 15) + low for byte in packed] + [d * (byte >> 4) + low for byte in packed]


def q8_0(block):
    return [f16(block[:2]) * number for number in struct.unpack("32b", block[2:])]


def q6_k(block):
    low, high, scales, d = block[:128], block[128:192], struct.unpack("16b", block[192:208]), f16(block[208:])
    numbers = []
    for i in range(256):
        half, place = divmod(i, 128)
        quarter, j = divmod(place, 32)
        four = low[64 * half + 32 * (quarter % 2) + j] >> (4 * (quarter // 2)) & 15
        two = high[32 * half + j] >> (2 * quarter) & 3
        numbers.append(d * scales[i // 16] * ((four | two << 4) - 32))
    return numbers


FORMATS = {
    "F32": (1, 4, lambda block: struct.unpack("<f", block)),
    "F16": (1, 2, lambda block: [f16(block)]),
    "BF16": (1, 2, lambda block: struct.unpack("<f", b"\0\0" + block)),
    "Q4_0": (32, 18, q4_0),
    "Q4_1": (32, 20, q4_1),
    "Q8_0": (32, 34, q8_0),
    "Q6_K": (256, 210, q6_k),
}


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_what_their_format_says(tmp_path, name):
    block, size, widen = FORMATS[name]
    kind, draw = library.GGMLQuantizationType[name], np.random.default_rng(0)
    rows, columns = 3, 2 * block
    data = draw.integers(0, 256, (rows * 2, size), dtype=np.uint8)
    for place in {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q6_K": [208]}.get(name, []):
        data[:, place : place + 2] = draw.normal(size=(6, 1)).astype("<f2").view(np.uint8)  # no NaN
    if not block > 1:
        data = draw.normal(size=(6, 1)).astype("<f4").view(np.uint8)[:, 4 - size :]
    path = tmp_path / "a.gguf"
    path.write_bytes(raw(tensors=[("x", (columns, rows), kind.value, 0)], data=data.tobytes()))
    expected = [number for one in data for number in widen(one.tobytes())]
    found = GGUFFile(path).tensor("x")
    assert found.dtype == torch.float32 and found.shape == (rows, columns)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    found += 1  # it is memory of our own
    assert not torch.equal(found, GGUFFile(path).tensor("x"))


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_0", "Q4_1"])
def test_a_model_in_few_bits(tmp_path, name):
    kind, theirs = library.GGMLQuantizationType[name], llama()
    model, _ = gguf.load(write(tmp_path / "a.gguf", theirs, kind))
    weights, layer = theirs.state_dict(), "layers.1.self_attn"
    for part in ("v_proj", "k_proj"):
        rows = weights[f"model.{layer}.{part}.weight"]  # quantizing is row by row: their order is no matter
        rounded = torch.from_numpy(library.dequantize(library.quantize(rows.numpy(), kind), kind))
        assert torch.equal(model.state_dict()[f"{layer}.{part}.weight"], rounded)
        assert (rounded - rows).abs().max() > 1e-6


def test_dtype(tmp_path):
    path = write(tmp_path / "a.gguf", llama(tie=True))
    model, _ = gguf.load(path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in gguf.load(path)[0].parameters()} == {torch.float32}


def test_unpermuting_each_with_its_own_heads():
    weight = torch.arange(16.0)[:, None].expand(16, 3)
    assert torch.equal(gguf.unpermute(interleaved(weight, 2), 2), weight)
    assert gguf.unpermute(weight, 1)[:, 0].tolist() == [*range(0, 16, 2), *range(1, 16, 2)]
    assert not torch.equal(gguf.unpermute(interleaved(weight, 2), 4), weight)


# Files that lie


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    path.write_bytes(model_file())
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_sentence_and_no_memory(tmp_path, sound, case):
    content, message = HOSTILE[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    gguf.load(sound)  # so that all is imported
    tracemalloc.start()
    with pytest.raises(UserError, match=message) as raised:
        gguf.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(raised.value) and "\n" not in str(raised.value) and peak < 10_000_000


@pytest.mark.parametrize(
    ("changes", "shapes", "message"),
    [
        ({"llama.block_count": 10_000}, {}, "describes 10,000 layers and holds 11 tensors"),
        ({"llama.block_count": 4_000_000_000}, {}, "n_layer must be a whole number from 1 to 10,000, not 40"),
        ({"llama.block_count": (1 << 64) - 1}, {}, "n_layer must be a whole number from 1 to 10,000, not 18"),
        ({"llama.block_count": 11}, {}, "parameters and holds 236 numbers"),
        ({"llama.attention.key_length": 65_536}, {}, "parameters and holds 236 numbers"),
        (
            {"llama.attention.key_length": 1_000_000_000},
            {},
            "head_dim must be a whole number from 1 to 65,536",
        ),
        (
            {"llama.attention.key_length": 1_000_000_000, "llama.rope.freq_base": 10_000.0},
            {"rope_freqs": (2,)},
            "head_dim must be a whole number from 1 to 65,536",
        ),
        ({"llama.block_count": None}, {}, "llama.block_count is None"),
        ({"llama.block_count": "many"}, {}, "llama.block_count is 'many'"),
        ({"llama.attention.head_count": 0}, {}, "head_count is 0"),
        ({"llama.attention.head_count": 9}, {}, "n_head 9 must divide n_embd 4"),
        ({"llama.attention.head_count_kv": 3}, {}, "n_kv_head 3 must divide n_head 2"),
        ({"llama.embedding_length": 2_000_000_000}, {}, "head_dim must be a whole number"),
        ({"llama.feed_forward_length": 2_000_000_000}, {}, "describes 24,000,000,140 parameters"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, {}, "epsilon is nan"),
        ({"llama.rope.freq_base": "x"}, {}, "freq_base is 'x'"),
        ({"llama.rope.freq_base": -1.0}, {}, "rope_theta must be a number from"),
        ({"llama.rope.dimension_count": 1}, {}, "llama.rope.dimension_count 1, which is not supported"),
        ({"llama.rope.scaling.type": "longrope"}, {}, "longrope"),
        ({"llama.expert_count": 8}, {}, "llama.expert_count 8, which is not supported"),
        ({"split.count": 3}, {}, "one part of several"),
        ({}, {"token_embd": None}, "no token_embd.weight"),
        (
            {},
            {"blk.0.ffn_up": None, "x": (32,)},
            "missing: layers.0.mlp.up_proj.weight; unexpected: x.weight",
        ),
        (
            {},
            {"blk.0.attn_q": (4, 5)},
            r"misshapen: layers.0.self_attn.q_proj.weight \(5, 4\) instead of \(4, 4\)",
        ),
        (
            {},
            {"blk.0.attn_q": (2, 8)},
            r"misshapen: layers.0.self_attn.q_proj.weight \(8, 2\) instead of \(4, 4\)",
        ),
        ({}, {"blk.1.attn_q": (4, 4)}, "unexpected: layers.1.self_attn.q_proj.weight"),
        ({}, {"nonsense": (4,)}, "unexpected: nonsense.weight"),
    ],
)
def test_a_model_that_is_not_what_it_says(tmp_path, changes, shapes, message):
    path = tmp_path / "a.gguf"
    path.write_bytes(model_file())
    assert gguf.load(path)[0].config.n_layer == 1
    shapes = {name: shape for name, shape in {**SHAPES, **shapes}.items() if shape}
    path.write_bytes(model_file(changes, shapes))
    tracemalloc.start()
    with pytest.raises(UserError, match=message) as raised:
        gguf.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(raised.value) and peak < 10_000_000


def test_cut_anywhere_or_with_any_byte_changed_it_loads_or_is_refused(tmp_path):
    content, path = model_file(), tmp_path / "a.gguf"
    draw = np.random.default_rng(0)
    end = content.rindex(b"ffn_down") + 40  # behind the header a change is only another number
    for _ in range(250):
        damaged = bytearray(content)
        damaged[draw.integers(end)] = draw.integers(256)
        path.write_bytes(damaged[: draw.integers(len(content))] if draw.random() < 0.3 else damaged)
        try:
            gguf.load(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_missing_file_a_folder_and_a_missing_library(tmp_path, monkeypatch):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(UserError, match="There is no file"):
            GGUFFile(path)
    path = tmp_path / "a.gguf"
    path.write_bytes(model_file())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"\[book\]"):
        gguf.load(path)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")  # noqa: PTH110
def test_no_more_than_one_copy_in_memory(tmp_path, sound):
    """Beside the weights there is room for one tensor of the largest size twice, not for all of them."""
    import subprocess

    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from myllm.weights import gguf\n"
        "def now(field):\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024\n"
        "gguf.load(sys.argv[2])\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"
        "before = now('VmRSS')\n"
        "model, _ = gguf.load(sys.argv[1])\n"
        "print(now('VmHWM') - before, sum(w.nbytes for w in model.parameters()))\n"
    )
    wide = {"ffn_gate": (256, 4096), "ffn_up": (256, 4096), "ffn_down": (4096, 256)}
    wide |= {"attn_norm": (256,), "ffn_norm": (256,)}
    wide |= {f"attn_{part}": (256, 256) for part in ("q", "k", "v", "output")}
    shapes = {"token_embd": (256, 1024), "output_norm": (256,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(8) for name, shape in wide.items()}
    changes = {"llama.block_count": 8, "llama.embedding_length": 256, "llama.feed_forward_length": 4096}
    path = tmp_path / "a.gguf"
    path.write_bytes(model_file(changes, shapes))
    command = [sys.executable, "-c", code, str(path), str(sound)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, weights = map(int, done.stdout.split())
    assert weights > 100e6 and peak < weights + 25e6


@pytest.mark.parametrize(
    "name",
    ["general.architecture", "general.alignment", "split.count", "tokenizer.ggml.tokens"]
    + [
        f"llama.{name}"
        for name in ("block_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor")
    ]
    + ["llama.vocab_size", "llama.logit_scale"],
)
@pytest.mark.parametrize("array", [[], [1], [1, 2], [1.5, 2.5]])
def test_an_array_in_the_place_of_a_value_is_one_sentence_or_no_matter(tmp_path, name, array):
    code, form = (4, "I") if all(isinstance(x, int) for x in array) else (6, "f")
    value = struct.pack(f"<IIQ{len(array)}{form}", 9, code, len(array), *array)
    path = tmp_path / "a.gguf"
    path.write_bytes(model_file({name: value}))
    try:
        gguf.load(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert name == "tokenizer.ggml.tokens"  # which is the business of the tokenizer
