"""A small model, and one quantized by each scheme with options that matter to its layers."""

import torch

from myllm import ModelConfig, Transformer
from myllm.quantization.schemes import quantize

C, F, V, L = 32, 96, 64, 2  # width, width inside the feed-forward network, vocabulary, layers
IDS = torch.arange(40).view(2, 20) * 7 % V


def tiny(tie=True, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = {"vocab_size": V, "block_size": 32, "n_layer": L, "n_head": 2, "n_embd": C}
    config |= {"intermediate_size": F, "tie_embeddings": tie, "init_std": 0.2, **changes}
    return Transformer(ModelConfig(**config)).eval().to(dtype)


VARIANTS = [
    ("int8", {}),
    ("int8", {"group": 16}),
    ("int8", {"group": "tensor"}),
    ("int8-dynamic", {}),
    ("int4", {}),
    ("int4", {"group": 16, "symmetric": True}),
    ("nf4", {}),
    ("nf4", {"block": 32, "double": False}),
    ("gptq", {}),
    ("gptq", {"act_order": True}),
    ("gptq", {"group": 16, "symmetric": True}),
]


def make(variant, **changes):
    """A model quantized by a scheme."""
    scheme, options = variant
    calibration = [IDS] if scheme == "gptq" else None
    return quantize(tiny(**changes), scheme, calibration=calibration, **options)
