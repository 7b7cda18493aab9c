"""GGUF files: written by the library of that name, read by ours; every claim of a hostile one is checked."""

import os
import struct
import sys
import tracemalloc

import gguf as library
import numpy as np
import pytest
import torch

from myllm.files import UserError
from myllm.weights import gguf
from myllm.weights.gguf_file import GGUFFile

H, K, D, C, V = 4, 2, 8, 32, 64  # as many heads times numbers as the width, as in LLaMA


def llama(tie=False, scaling=None):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=C,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=H,
        num_key_value_heads=K,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tie,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0, **(scaling or {})},
    )
    return LlamaForCausalLM(config).eval()


def interleaved(weight, heads):
    """Rows as llama.cpp has them: of each head 0, half, 1, half + 1, …, written out one by one."""
    dim = weight.shape[0] // heads
    order = [h * dim + i + half for h in range(heads) for i in range(dim // 2) for half in (0, dim // 2)]
    return weight[order]


def write(path, model, kind=library.GGMLQuantizationType.F32, change=lambda writer: None, factors=None):
    """A model of `transformers` as a GGUF file; what must stay float32, such as norms, does."""
    config, writer = model.config, library.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    change(writer)
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, H if "q_proj" in name else K)
        numbers = weight.numpy()
        if numbers.ndim == 2 and kind is not library.GGMLQuantizationType.F32:
            packed = library.quantize(numbers, kind)
            writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
        else:
            writer.add_tensor(names.get_name(name, (".weight",)), numbers)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


IDS = torch.arange(60).view(2, 30) * 7 % V


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
    with pytest.raises(UserError, match="by its own factors"):
        gguf.load(write(tmp_path / "b.gguf", theirs, factors=odd))


@torch.inference_mode()
def test_a_linear_scaling(tmp_path):
    theirs = llama(scaling={"rope_type": "linear", "factor": 4.0})

    def change(writer):
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    model, _ = gguf.load(write(tmp_path / "a.gguf", theirs, change=change))
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


def text(word):
    return struct.pack("<Q", len(word)) + word.encode()


def value(name, number):
    kinds = {int: (4, "<I"), float: (6, "<f")}
    if isinstance(number, str):
        return text(name) + struct.pack("<I", 8) + text(number)
    code, form = kinds[type(number)]
    return text(name) + struct.pack("<I", code) + struct.pack(form, number)


def raw(values=b"", n_values=0, tensors=(), n_tensors=None, data=b"", magic=b"GGUF", version=3):
    """A file put together by hand; tensors are (name, innermost dimension first, kind, offset)."""
    head = magic + struct.pack("<I", version)
    head += struct.pack("<QQ", len(tensors) if n_tensors is None else n_tensors, n_values) + values
    for name, shape, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return head + b"\0" * (-len(head) % 32) + data


BIG = 1 << 62
HOSTILE = {
    "empty": (b"", "begins with b''"),
    "a zip": (b"PK\3\4" + bytes(100), r"begins with b'PK"),
    "magic alone": (b"GGUF", "cut off"),
    "counts cut off": (raw()[:20], "cut off"),
    "version 1": (raw(version=1), "version 1"),
    "big-endian": (raw(version=3 << 24), "version 50331648"),
    "tensors without end": (raw(n_tensors=BIG), "4,611,686,018,427,387,904 tensors"),
    "values without end": (raw(n_values=BIG), "4,611,686,018,427,387,904 values"),
    "values that do not come": (raw(n_values=1), "claims 1 values"),
    "a name without end": (raw(struct.pack("<Q", BIG), 1, data=bytes(64)), "bytes of text"),
    "a text without end": (raw(text("a") + struct.pack("<IQ", 8, BIG), 1, data=bytes(64)), "bytes of text"),
    "numbers without end": (raw(text("a") + struct.pack("<IIQ", 9, 4, BIG), 1, data=bytes(64)), "numbers"),
    "texts without end": (raw(text("a") + struct.pack("<IIQ", 9, 8, BIG), 1, data=bytes(64)), "strings"),
    "lists of lists": (raw(text("a") + struct.pack("<IIQ", 9, 9, 1) * 9, 1, data=bytes(64)), "of the type 9"),
    "a value of no type": (raw(text("a") + struct.pack("<I", 99), 1, data=bytes(64)), "unknown type 99"),
    "a name in no UTF-8": (raw(struct.pack("<Q", 1) + b"\xff" + bytes(32), 1), "damaged"),
    "a value twice": (raw(value("a", 1) * 2, 2), "'a' twice"),
    "alignment 0": (raw(value("general.alignment", 0), 1), "alignment is 0"),
    "alignment of text": (raw(value("general.alignment", "x"), 1), "alignment is 'x'"),
    "no dimension": (raw(tensors=[("x", (), 0, 0)], data=bytes(64)), "0 dimensions"),
    "dimensions without end": (raw(tensors=[("x", (1,) * 9, 0, 0)], data=bytes(64)), "9 dimensions"),
    "an empty tensor": (raw(tensors=[("x", (0,), 0, 0)], data=bytes(64)), "outside"),
    "a huge tensor": (raw(tensors=[("x", (BIG, BIG), 0, 0)], data=bytes(64)), "outside"),
    "an offset outside": (raw(tensors=[("x", (4,), 0, BIG)], data=bytes(64)), "outside"),
    "data cut off": (raw(tensors=[("x", (17,), 0, 0)], data=bytes(64)), "outside"),
    "half a block": (raw(tensors=[("x", (33,), 2, 0)], data=bytes(64)), "whole blocks"),
    "an unknown format": (raw(tensors=[("x", (4,), 999, 0)], data=bytes(64)), "unknown format 999"),
    "a tensor twice": (raw(tensors=[("x", (4,), 0, 0), ("x", (4,), 0, 32)], data=bytes(64)), "one name"),
    "tensors that overlap": (raw(tensors=[("x", (9,), 0, 0), ("y", (4,), 0, 32)], data=bytes(64)), "overlap"),
    "no architecture": (raw(), "architecture None"),
    "another architecture": (raw(value("general.architecture", "qwen2moe"), 1), "'qwen2moe'; known is llama"),
}


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


SOUND = {
    "block_count": 1,
    "context_length": 8,
    "embedding_length": 4,
    "feed_forward_length": 8,
    "attention.head_count": 2,
}
SHAPES = {
    "token_embd": (4, 16),
    "output_norm": (4,),
    "blk.0.attn_norm": (4,),
    "blk.0.ffn_norm": (4,),
    **{f"blk.0.attn_{part}": (4, 4) for part in ("q", "k", "v", "output")},
    "blk.0.ffn_gate": (4, 8),
    "blk.0.ffn_up": (4, 8),
    "blk.0.ffn_down": (8, 4),
}


def model_file(changes=None, shapes=SHAPES):
    """The smallest sound model, with some values or shapes changed."""
    said = {"general.architecture": "llama"} | {f"llama.{name}": x for name, x in SOUND.items()}
    said = {name: x for name, x in {**said, **(changes or {})}.items() if x is not None}
    tensors, at = [], 0
    for name, shape in shapes.items():
        tensors.append((f"{name}.weight", shape, 0, at))
        at += -(-4 * int(np.prod(shape)) // 32) * 32
    return raw(b"".join(value(*item) for item in said.items()), len(said), tensors, data=bytes(at))


@pytest.mark.parametrize(
    ("changes", "shapes", "message"),
    [
        ({"llama.block_count": 4_000_000_000}, {}, "n_layer must be a whole number from 1 to 10,000"),
        ({"llama.block_count": None}, {}, "llama.block_count is None"),
        ({"llama.block_count": "many"}, {}, "llama.block_count is 'many'"),
        ({"llama.attention.head_count": 0}, {}, "head_count is 0"),
        ({"llama.attention.head_count": 9}, {}, "key_length is 0"),
        ({"llama.attention.head_count_kv": 3}, {}, "n_kv_head 3 must divide n_head 2"),
        ({"llama.embedding_length": 2_000_000_000}, {}, "head_dim must be a whole number"),
        ({"llama.feed_forward_length": 2_000_000_000}, {}, "describes 24,000,000,140 parameters"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, {}, "epsilon is nan"),
        ({"llama.rope.freq_base": "x"}, {}, "freq_base is 'x'"),
        ({"llama.rope.freq_base": -1.0}, {}, "rope_theta must be a number from"),
        ({"llama.rope.dimension_count": 1}, {}, "part of each head"),
        ({"llama.rope.scaling.type": "longrope"}, {}, "longrope"),
        ({"llama.expert_count": 8}, {}, "mixture of experts"),
        ({"split.count": 3}, {}, "one part of several"),
        ({}, {"token_embd": None}, "no token_embd.weight"),
        ({}, {"blk.0.ffn_up": None, "x": (32,)}, "lacks 1 tensors, layers.0.mlp.up_proj.weight"),
        ({}, {"blk.0.attn_q": (4, 5)}, r"attn_q.weight has the shape \(5, 4\), not \(4, 4\)"),
        ({}, {"blk.0.attn_q": (2, 8)}, r"attn_q.weight has the shape \(8, 2\), not \(4, 4\)"),
        ({}, {"blk.1.attn_q": (4, 4)}, "no place for: blk.1.attn_q.weight"),
        ({}, {"nonsense": (4,)}, "no place for: nonsense.weight"),
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
