"""Models written as GGUF files, llama.cpp's format, with 32, 16, 8.5 or 4.5 bits per weight."""

from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from myllm.config import ModelConfig, RopeScaling
from myllm.files import StrPath, UserError, atomic_writer
from myllm.model.rope import frequencies, llama3
from myllm.model.transformer import Transformer
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.gguf import to_gguf
from myllm.weights import convert
from myllm.weights.gguf import FACTORS, FIELDS, GGUF_NAMES, LLAMA3_CONTEXT, parameter_name

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]
BLOCK = 32  # consecutive weights of a row that share a scale
_ADD = {str: "string", bool: "bool", int: "uint32", float: "float32", list: "array"}


def q8_0(blocks: Floats) -> Bytes:
    """Quantize blocks (B, 32) to bytes (B, 34): a float16 scale, then int8 codes from -127 to 127.

    The scale is max|w| / 127; halves are rounded away from zero, as in llama.cpp.
    """
    scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float32)
    stored = _half(scale)
    exact = blocks * _inverse(scale)
    whole = np.trunc(exact)
    codes = whole + np.trunc(2 * (exact - whole))
    return np.hstack([stored, codes.astype(np.int8).view(np.uint8)])


def q4_0(blocks: Floats) -> Bytes:
    """Quantize blocks (B, 32) to bytes (B, 18): a float16 scale, then codes 0 … 15, of which 8 is zero.

    The scale is w / -8, where w is the weight of largest magnitude, which therefore has code 0 exactly;
    weights of its sign may reach 8 steps, those of the other sign 7. Byte i holds code i in its low four bits
    and code i + 16 in its high four bits.
    """
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    scale = largest / np.float32(-8)
    stored = _half(scale)
    codes = (blocks * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(max=15)
    return np.hstack([stored, codes[:, :16] | codes[:, 16:] << np.uint8(4)])


#: The function that packs the blocks of a matrix, for each kind of file; None for kinds without blocks.
KINDS: dict[str, Any] = {"f32": None, "f16": None, "q8_0": q8_0, "q4_0": q4_0}


def _inverse(scale: Floats) -> Floats:
    """1 / scale, or 0 for scales that are 0 or so small that their inverse would overflow."""
    usable = np.abs(scale) >= np.finfo(np.float32).tiny
    return np.where(usable, 1 / np.where(usable, scale, 1), 0).astype(np.float32)


def _half(scale: Floats) -> Bytes:
    """The bytes of the numbers in float16."""
    with np.errstate(over="ignore"):
        half = scale.astype("<f2")
    if not np.isfinite(half).all():
        raise UserError("The weights have numbers beyond the range of float16; write the kind f32.")
    return half.view(np.uint8)


def write(model: Transformer, path: StrPath, kind: str = "q8_0", tokenizer: Tokenizer | None = None) -> None:
    """Write a model of LLaMA's architecture and its tokenizer; the file appears complete or not at all.

    Matrices, the embedding included, are written in the file's kind, norms in float32. A matrix whose row
    length is not a multiple of 32 cannot be split into blocks: it is written in float16.

    Args:
        model: The model, not quantized: the codes of this package's own schemes would be lost.
        path: The file.
        kind: A key of `KINDS`.
        tokenizer: Its tokenizer, a byte-level BPE.

    Raises:
        UserError: The kind is unknown; a GGUF file of the architecture llama cannot express the model or the
            tokenizer; a number is out of float16's range; the `gguf` library is missing; or the file cannot
            be written.
    """
    if kind not in KINDS:
        raise UserError(f"There is no kind {kind!r} of GGUF files; take one of {', '.join(KINDS)}.")
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise UserError("GGUF files need: pip install 'myllm-course[book]'.") from error
    config = model.config
    tensors = convert.to_hf(model.state_dict(), config, "llama")  # our names with the prefix "model."
    values = _values(config) | ({} if tokenizer is None else to_gguf(tokenizer, config.vocab_size))
    parts = [*GGUF_NAMES, *(f"blk.{i}.{part}" for i in range(config.n_layer) for part in GGUF_NAMES)]
    names = {parameter_name(f"{part}.weight"): f"{part}.weight" for part in parts}
    with atomic_writer(path) as file:
        writer = gguf.GGUFWriter(file.name, "llama")
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, value in values.items():
            getattr(writer, f"add_{_ADD[type(value)]}")(name, value)
        if config.rope_scaling:
            plain = frequencies(config.head_dim, config.rope_theta)
            writer.add_tensor(FACTORS, (plain / llama3(plain, config.rope_scaling)).float().numpy())
        for name, weight in tensors.items():
            name = name.removeprefix("model.")
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight = permute(weight, config.n_head if "q_proj" in name else config.n_kv_head)
            data, stored = _pack(weight.detach().float().cpu().numpy(), kind)
            writer.add_tensor(names[name], data, raw_dtype=gguf.GGMLQuantizationType[stored])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def permute(weight: Tensor, n_head: int) -> Tensor:
    """Reorder the rows of a query or key projection as llama.cpp stores them; see `unpermute`."""
    return weight.view(n_head, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _pack(weight: Floats, kind: str) -> tuple[NDArray[Any], str]:
    """The numbers of a tensor as stored, (rows, bytes per row) if in blocks, and the name of their type."""
    pack = KINDS[kind]
    if weight.ndim == 1 or kind == "f32":
        return weight, "F32"
    if pack is None or weight.shape[1] % BLOCK:
        return _half(weight).view("<f2"), "F16"
    return pack(weight.reshape(-1, BLOCK)).reshape(len(weight), -1), kind.upper()


def _values(config: ModelConfig) -> dict[str, Any]:
    """The metadata values that `myllm.weights.gguf.config` and llama.cpp read."""
    scaling, own = config.rope_scaling, {field: getattr(config, field) for field in FIELDS}
    if scaling:  # the only kind that is stored, as the divisors of the frequencies
        scaling = RopeScaling("llama3", scaling.factor, LLAMA3_CONTEXT)
    others = {name: getattr(config, name) for name in ("vocab_size", "tie_embeddings", "init_std")}
    plain = vars(ModelConfig(**own, **others, rope_scaling=scaling))
    names = [one.name for one in fields(config) if one.compare]
    if lacks := [name for name in names if plain[name] != getattr(config, name)]:
        raise UserError(f"A GGUF file of the architecture llama cannot express {', '.join(lacks)}.")
    values = {key: own[field] for field, (key, *_) in FIELDS.items()} | {"vocab_size": config.vocab_size}
    values |= dict.fromkeys(("rope.dimension_count", "attention.value_length"), config.head_dim)
    return {f"llama.{key}": value for key, value in values.items()}
