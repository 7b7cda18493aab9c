"""GGUF files, made by the library of that name or by hand, sound ones and hostile ones."""

import math
import struct

import gguf as library
import numpy as np
import torch

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


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0}
SCALINGS = [  # the settings of a file, as llama.cpp reads them, and those of transformers for the same model
    ({"type": "linear", "factor": 4.0}, LINEAR),
    ({"factor": 4.0}, LINEAR),  # without a type
    ({"scale_linear": 4.0}, LINEAR),  # the older name
    ({"factor": 4.0, "scale_linear": 2.0}, LINEAR),
    ({"type": "none", "factor": 4.0}, {}),
    ({"type": "linear", "factor": 0.0}, {}),
    ({"type": "linear", "factor": 4.0, "original_context_length": 32, "finetuned": True}, LINEAR),
    ({"type": "linear", "factor": 4.0, "yarn_beta_fast": 5.0, "yarn_ext_factor": 0.0}, LINEAR),
    ({"type": "yarn", "factor": 4.0, "original_context_length": 32, "yarn_ext_factor": 1.0}, YARN),
    (
        {"type": "yarn", "factor": 4.0, "original_context_length": 32, "attn_factor": 1.5},
        YARN | {"attention_factor": 1.5 * (0.1 * math.log(4) + 1)},
    ),
    (
        {
            "type": "yarn",
            "factor": 4.0,
            "original_context_length": 32,
            "yarn_beta_fast": 3.0,
            "yarn_beta_slow": 0.5,
        },
        YARN | {"beta_fast": 3.0, "beta_slow": 0.5},
    ),
    ({"type": "yarn", "factor": 4.0}, YARN | {"original_max_position_embeddings": 128}),
]


def rope_settings(said):
    """Writes them under their whole names."""
    adders = {str: "add_string", int: "add_uint32", float: "add_float32", bool: "add_bool"}

    def change(writer):
        for name, value in said.items():
            name = f"llama.rope.{name}" if name == "scale_linear" else f"llama.rope.scaling.{name}"
            getattr(writer, adders[type(value)])(name, value)

    return change


CHANGING = {
    "attention.sliding_window": 16,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "attention.scale": 0.5,
    "attention.clamp_kqv": 8.0,
    "attention.max_alibi_bias": 8.0,
    "attention.causal": False,
    "attention.value_length": D + 2,
    "attention.layer_norm_epsilon": 1e-5,
    "logit_scale": 0.5,
    "residual_scale": 0.5,
    "embedding_scale": 12.0,
    "expert_count": 8,
    "use_parallel_residual": True,
    "rope.dimension_count": D - 2,
    "vocab_size": V + 1,
    "nobody.knows": 1,
    "leading_dense_block_count": [1, 2],
}
HARMLESS = {
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0.0,
    "attention.causal": True,
    "attention.value_length": D,
    "logit_scale": 1.0,
    "expert_count": 0,
    "use_parallel_residual": False,
    "rope.dimension_count": D,
    "vocab_size": V,
    "tensor_data_layout": "Meta AI original pth",
}


def adding(values):
    adders = {str: "string", int: "uint32", float: "float32", bool: "bool", list: "array"}

    def change(writer):
        for name, value in values.items():
            getattr(writer, f"add_{adders[type(value)]}")(f"llama.{name}", value)

    return change


def text(word):
    return struct.pack("<Q", len(word)) + word.encode()


def value(name, number):
    kinds = {int: (4, "<I"), float: (6, "<f")}
    if isinstance(number, bytes):  # as it stands, with its type
        return text(name) + number
    if isinstance(number, str):
        return text(name) + struct.pack("<I", 8) + text(number)
    code, form = kinds[type(number)] if number != (1 << 64) - 1 else (10, "<Q")
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
    "empty": (b"", "empty"),
    "a zip": (b"PK\3\4" + bytes(100), r"begins with b'PK"),
    "magic alone": (b"GGUF", "cut off"),
    "counts cut off": (raw()[:20], "cut off"),
    "version 1": (raw(version=1), "version 1"),
    "big-endian": (raw(version=3 << 24), "version 50331648"),
    "tensors without end": (raw(n_tensors=BIG), "cut off"),
    "values without end": (raw(n_values=BIG), "cut off"),
    "values that do not come": (raw(n_values=1), "cut off"),
    "a name without end": (
        raw(struct.pack("<Q", BIG), 1, data=bytes(64)),
        "4,611,686,018,427,387,904 more bytes",
    ),
    "a text without end": (
        raw(text("a") + struct.pack("<IQ", 8, BIG), 1, data=bytes(64)),
        "4,611,686,018,427,387,904 more bytes",
    ),
    "numbers without end": (
        raw(text("a") + struct.pack("<IIQ", 9, 4, BIG), 1, data=bytes(64)),
        "18,446,744,073,709,551,616 more bytes",
    ),
    "texts without end": (raw(text("a") + struct.pack("<IIQ", 9, 8, BIG), 1, data=bytes(64)), "cut off"),
    "lists of lists": (
        raw(text("a") + struct.pack("<IIQ", 9, 9, 1) * 9, 1, data=bytes(64)),
        "unknown type 9",
    ),
    "a value of no type": (raw(text("a") + struct.pack("<I", 99), 1, data=bytes(64)), "unknown type 99"),
    "a name in no UTF-8": (raw(struct.pack("<Q", 1) + b"\xff" + bytes(32), 1), "utf-8"),
    "a value twice": (raw(value("a", 1) * 2, 2), "'a' twice"),
    "alignment 0": (raw(value("general.alignment", 0), 1), "alignment is 0"),
    "alignment of text": (raw(value("general.alignment", "x"), 1), "alignment is 'x'"),
    "no dimension": (raw(tensors=[("x", (), 0, 0)], data=bytes(64)), "0 dimensions"),
    "dimensions without end": (raw(tensors=[("x", (1,) * 9, 0, 0)], data=bytes(64)), "9 dimensions"),
    "an empty tensor": (raw(tensors=[("x", (0,), 0, 0)], data=bytes(64)), "empty"),
    "a huge tensor": (raw(tensors=[("x", (BIG, BIG), 0, 0)], data=bytes(64)), "outside"),
    "an offset outside": (raw(tensors=[("x", (4,), 0, BIG)], data=bytes(64)), "outside"),
    "data cut off": (raw(tensors=[("x", (17,), 0, 0)], data=bytes(64)), "outside"),
    "half a block": (raw(tensors=[("x", (33,), 2, 0)], data=bytes(64)), "whole blocks"),
    "an unknown format": (raw(tensors=[("x", (4,), 999, 0)], data=bytes(64)), "unknown type 999"),
    "a tensor twice": (raw(tensors=[("x", (4,), 0, 0), ("x", (4,), 0, 32)], data=bytes(64)), "twice"),
    "tensors that overlap": (
        raw(tensors=[("x", (9,), 0, 0), ("y", (4,), 0, 32)], data=bytes(64)),
        "overlaps",
    ),
    "no architecture": (raw(), "architecture None"),
    "another architecture": (
        raw(value("general.architecture", "qwen2moe"), 1),
        "'qwen2moe'; only llama is known",
    ),
}


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
