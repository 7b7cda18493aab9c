"""The weights of a model as compact text, which the page unpacks."""

import base64
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.quantization.affine import Affine, quantize_affine

BITS = range(2, 9)


def quantize_rows(model: Transformer, bits: int) -> dict[str, Affine | Tensor]:
    """The matrices of a model quantized with one scale per row, and its vectors in float32.

    Raises:
        UserError: The number of bits is not supported, the layers are not those of the configuration, or a
            weight is not finite.
    """
    if bits not in BITS:
        raise UserError(f"{bits} bits are not supported; take {BITS[0]} to {BITS[-1]}.")
    with torch.device("meta"):
        wanted = Transformer(model.config).state_dict()
    state = model.state_dict()
    if {key: one.shape for key, one in state.items()} != {key: one.shape for key, one in wanted.items()}:
        raise UserError(
            "The model has other layers than its configuration says; merge its adapters with `myllm merge`, "
            "and export a model before it is quantized."
        )
    if model.config.tie_embeddings:
        del state["lm_head.weight"]
    if not all(one.isfinite().all() for one in state.values()):
        raise UserError("A weight of the model is not a finite number; train it again.")
    floats = {key: one.detach().cpu().float() for key, one in state.items()}
    dtype = None if bits == 8 else torch.float16  # of the scales, as in `Int8Linear` and `Int4Linear`
    return {
        key: one if one.ndim == 1 else quantize_affine(one, bits, scale_dtype=dtype)
        for key, one in floats.items()
    }


def dequantize(model: Transformer, bits: int) -> Transformer:
    """A model in float32 with the weights that the page computes with."""
    copy = Transformer(model.config)
    tensors = quantize_rows(model, bits)
    state = {key: one.dequantize() if isinstance(one, Affine) else one for key, one in tensors.items()}
    if model.config.tie_embeddings:
        state["lm_head.weight"] = state["embed_tokens.weight"]
    copy.load_state_dict(state)
    return copy.eval()


def layout(tensors: Mapping[str, Affine | Tensor]) -> list[list[str | int]]:
    """The name, the rows, and the columns (0 for a vector) of each tensor, in the order of `pack`."""
    shapes = {key: (one.codes if isinstance(one, Affine) else one).shape for key, one in tensors.items()}
    return [[key, *shape, 0][:3] for key, shape in shapes.items()]


def pack(tensors: Mapping[str, Affine | Tensor]) -> str:
    """All vectors and row scales as float32, then the codes, one byte each; deflated, in base 85.

    The alphabet is that of RFC 1924 with a full stop in place of ``<``, which could begin a tag.
    """
    floats = [one.scale.float() if isinstance(one, Affine) else one for one in tensors.values()]
    codes = [one.codes for one in tensors.values() if isinstance(one, Affine)]
    parts = [b"".join(one.numpy().astype("<f4").tobytes() for one in floats)]
    parts += [one.numpy().tobytes() for one in codes]
    return base64.b85encode(deflate(parts)).decode().replace("<", ".")


def deflate(parts: Sequence[bytes]) -> bytes:
    """The joined parts in the zlib format (RFC 1950), each with the strategy that compresses it best.

    Weights do not repeat themselves as texts do: Huffman coding alone brings codes of few bits close to their
    entropy, and a search for repetitions only gets in its way.
    """
    joined, blocks = b"".join(parts), list[bytes]()
    for part in parts:
        found: list[bytes] = []
        for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY):
            compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
            found.append(compressor.compress(part) + compressor.flush(zlib.Z_FULL_FLUSH))
        blocks.append(min(found, key=len))
    last = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()
    return b"".join([b"\x78\xda", *blocks, last, zlib.adler32(joined).to_bytes(4, "big")])
