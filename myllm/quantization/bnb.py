"""The layers of bitsandbytes, swapped in like the others; they need the extra ``quant``."""

import logging
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.quantization.layer import QuantizedLinear


class _Bnb(QuantizedLinear):
    """A layer of bitsandbytes, which computes the product and its gradient with respect to `x`."""

    layer: Any

    def hold(self, linear: nn.Linear, layer: Any, weight: Any) -> None:
        """Let a layer of the library quantize the weight, in the mode of the layer that it replaces."""
        self.layer, layer.weight = layer, weight.to(linear.weight.device)  # moving it quantizes it
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N). Gradients reach `x`, never the weight."""
        y = self.layer(x)
        return y if self.bias is None else y + self.bias  # pyright: ignore[reportUnnecessaryComparison]

    @torch.no_grad()
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K) that the codes stand for: the outputs for the unit vectors."""
        return self.layer(torch.eye(self.in_features, device=self.layer.weight.device)).T.to(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes stored for the weight: its codes and scales, not the codebooks that all layers share."""
        stored = self.layer.state_dict()
        return sum(stored[name].nbytes for name in stored if name.endswith(("weight", "absmax", "SCB")))


class LLMInt8(_Bnb):
    """LLM.int8: int8 times int8, except for the columns of `x` with outliers (Dettmers et al., 2022).

    `x` is rounded to float16, then to int8 with a scale for each row. A column with a magnitude of at least
    `threshold` is multiplied by the dequantized weights instead. In training mode the library does so for all
    columns on a CPU; the layer therefore starts in the mode of the one that it replaces.

    Args:
        linear: The layer to quantize, with one scale per output.
        threshold: The magnitude from which a number counts as an outlier.

    Raises:
        UserError: bitsandbytes is not installed.
    """

    def __init__(self, linear: nn.Linear, threshold: float = 6.0) -> None:
        super().__init__(linear, threshold=threshold)
        bnb, size = _library(), (self.in_features, self.out_features)
        settings = {"bias": False, "has_fp16_weights": False, "threshold": threshold, "device": "meta"}
        layer = bnb.nn.Linear8bitLt(*size, **settings)
        self.hold(linear, layer, bnb.nn.Int8Params(linear.weight.detach(), requires_grad=False))


class BnbNF4(_Bnb):
    """NF4 as bitsandbytes stores and multiplies it; see `myllm.quantization.nf4.NF4Linear`.

    Args:
        linear: The layer to quantize, in blocks of 64.
        double: Whether the scales are quantized as well.

    Raises:
        UserError: bitsandbytes is not installed, or rows do not consist of whole blocks: its AVX-512 kernel
            multiplies such rows by wrong scales.
    """

    def __init__(self, linear: nn.Linear, double: bool = True) -> None:
        super().__init__(linear, double=double)
        if self.in_features % 64:
            raise UserError(
                f"bitsandbytes needs rows of whole blocks of 64, not of {self.in_features} numbers; take nf4."
            )
        bnb, size = _library(), (self.in_features, self.out_features)
        layer = bnb.nn.Linear4bit(*size, bias=False, device="meta")
        # Where a CPU multiplies bfloat16, the library would round x and the scales to it in evaluation mode.
        layer.support_avx512bf16_for_cpu = False
        nf4 = {"quant_type": "nf4", "compress_statistics": double, "module": layer}
        self.hold(linear, layer, bnb.nn.Params4bit(linear.weight.detach(), **nf4))


def _library() -> Any:
    # It would log in every product that x is rounded to float16, and that some CPU kernels come separately.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise UserError("bitsandbytes is not installed; run pip install 'myllm-course[quant]'.") from error
