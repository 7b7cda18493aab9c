"""Chapter 7, GPT: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from myllm.grading import exercise


@exercise("07.1", "Test a layer norm", points=6, minutes=25, difficulty=3, section="layernorm")
def is_layer_norm(norm: Callable[[Tensor, Tensor, Tensor | None, float], Any]) -> bool:
    """Decide whether a function that computes layer normalization is right.

    ``norm(x, weight, bias, eps)`` should bring each position (the last dimension) of x to mean 0 and variance
    1, multiply it by ``weight`` and add ``bias``, or nothing if ``bias`` is None; ``eps`` is added to the
    variance, inside the root. The result has the shape and the dtype of x, and x stays as it is. In float32,
    the gradient of x is within 0.01 of the exact one, where the gradients of the results are of size 1. For
    16-bit inputs, the function computes in float32 and rounds once, at the end.

    Your answer is a test, and it is graded as one: it must accept right functions, however they compute, and
    reject wrong ones. All arguments of a call have the same dtype. Every wrong function shows its fault on
    random arguments of one of these kinds:

    - float32, numbers around 0 of size 1: right functions are within 0.0001 of the exact values.
    - float32, numbers around 3,000 that differ by about 1: right functions are within 0.01.
    - bfloat16, numbers around 0 of size 1: right functions have at least 95 of 100 numbers equal to the exact
      ones, rounded.
    - float16, numbers around 0 of size 300: the same.

    In each kind, x has the shape (C,), (T, C) or (B, T, C), with C from 40 to 60 and B and T from 3 to 6, the
    numbers of ``weight`` and ``bias`` are of size 1, ``bias`` may be None, and ``eps`` is 0.00001 or 0.5.

    Args:
        norm: The function to test.

    Returns:
        True if it is right. False if it is wrong, raises an exception or does not return a tensor.

    ``F.layer_norm`` is right and may be used; the functions of `myllm.model` may not.

    Example:
        >>> is_layer_norm(lambda x, weight, bias, eps: x - x.mean(-1, keepdim=True))
        False
    """
    # May not be called: myllm.model.*.
    raise NotImplementedError


@exercise("07.2", "Load a layer of GPT-2", points=7, minutes=30, difficulty=3, section="residual")
def gpt2_layer(x: Tensor, state: Mapping[str, Tensor], layer: int, n_head: int) -> Tensor:
    """Compute what one block of GPT-2 computes, with the tensors of OpenAI's file.

    The names of block l begin with ``h.l.``, that is ``h.0.``, ``h.1.`` …, without the prefix
    ``transformer.`` of other files. The next parts of the names are, in the order in which they are used:
    ``ln_1``, ``attn.c_attn`` (queries, keys and values side by side, in this order, each with its heads one
    after the other), ``attn.c_proj``, ``ln_2``, ``mlp.c_fc`` and ``mlp.c_proj``. Each of the six has a
    ``.weight`` and a ``.bias``. The matrices are stored as (in, out). There may also be ``attn.bias`` and
    ``attn.masked_bias``, which are not biases: old files keep the causal mask and its fill value there. With
    or without them, attention is causal. The activation is GPT-2's GELU; the eps of the norms is 1e-5.

    Args:
        x: (B, T, C), float32 or float64, B and T 1 or more: the residual stream before the block.
        state: All tensors of a GPT-2 by name, including those of other blocks. Their dtype may differ from
            that of ``x``; then each is converted to that of ``x`` before it is used.
        layer: l, the number of the block, which may have more than one digit.
        n_head: H, which divides C.

    Returns:
        (B, T, C), with the dtype of ``x``: the stream after the block. Gradients flow back to ``x`` and to
        the tensors of ``state``. For full points, the number of tensor operations does not grow with B or T.

    The functions of `myllm.model`, `myllm.weights` and `transformers` may not be used; those of PyTorch may.

    Example:
        A block whose matrices are all 0 adds its last bias, and nothing else.

        >>> names = {"ln_1": 1, "attn.c_attn": 3, "attn.c_proj": 1, "ln_2": 1, "mlp.c_fc": 4}
        >>> state = {f"h.0.{name}.bias": torch.zeros(n) for name, n in names.items()}
        >>> state |= {f"h.0.{name}.weight": torch.zeros(1, n) for name, n in names.items()}
        >>> state |= {f"h.0.ln_{n}.weight": torch.ones(1) for n in (1, 2)}
        >>> state |= {"h.0.mlp.c_proj.weight": torch.zeros(4, 1), "h.0.mlp.c_proj.bias": torch.ones(1)}
        >>> gpt2_layer(torch.tensor([[[2.0], [5.0]]]), state, 0, 1)
        tensor([[[3.],
                 [6.]]])
    """
    # May not be called: myllm.model.*, myllm.weights.*, transformers.*.
    raise NotImplementedError


@exercise("07.3", "Count parameters and FLOPs", points=5, minutes=15, difficulty=2, section="parameters")
def gpt_cost(
    vocab_size: int,
    block_size: int,
    n_layer: int,
    n_embd: int,
    inner: int,
    bias: bool,
    tied: bool,
    tokens: int,
) -> tuple[int, int]:
    """Count the parameters of a GPT and the floating-point operations of one pass, without building it.

    The model is that of the chapter with three choices. ``inner`` is the width inside the feed-forward
    network. Without ``bias``, no linear layer and no layer norm has a bias. If the head is not ``tied``, it
    has a table of its own. The head never has a bias.

    The pass goes from the ids of one text to logits at each of its positions. Count the matrix products and
    nothing else; the product of an (m, k) and a (k, n) matrix takes 2mkn operations. Attention computes all
    T * T pairs, including masked ones. Looking up an embedding is not a product.

    Args:
        vocab_size: V, the number of tokens, 1 or more.
        block_size: How many positions have a row in the table of positions, 1 or more.
        n_layer: The number of blocks, 0 or more.
        n_embd: C, 1 or more. The number of heads changes nothing.
        inner: F, the width of the feed-forward network, 1 or more.
        bias: Whether linear layers and layer norms have biases.
        tied: Whether the head uses the table of the token embedding.
        tokens: T, the length of the text, 1 to ``block_size``.

    Returns:
        The number of parameters and the number of operations, both exact, however large. For full points the
        work does not grow with the model.

    The functions of `myllm.config`, `myllm.accounting` and `myllm.model` may not be used.

    Example:
        >>> gpt_cost(50_257, 1024, 12, 768, 3072, True, True, 1024)
        (124439808, 291648307200)
    """
    # May not be called: myllm.model.*, myllm.config.*, myllm.accounting.*.
    raise NotImplementedError


@exercise("07.4", "Fix a GPT", points=6, minutes=20, difficulty=2, section="tying")
def gpt2_logits(ids: Tensor, state: Mapping[str, Tensor], n_head: int) -> Tensor:
    """Debug a GPT-2 that runs from a file of weights: the shapes are right, the logits are not.

    Besides the blocks, for which your own ``gpt2_layer`` is called, the file has ``wte.weight`` (V, C), the
    tokens; ``wpe.weight``, the positions; and ``ln_f.weight`` and ``ln_f.bias``, the norm before the head,
    with an eps of 1e-5. A tied head has no tensor of its own; an untied one is stored as
    ``lm_head.weight`` (V, C). This version has four mistakes::

        layers = sorted({name.split(".")[1] for name in state if name.startswith("h.")})
        x = state["wte.weight"][ids] + state["wpe.weight"][ids]
        for layer in layers:
            x = gpt2_layer(x, state, int(layer), n_head)
            x = F.layer_norm(x, x.shape[-1:], state["ln_f.weight"], state["ln_f.bias"])
        return x @ state["wte.weight"].T

    Args:
        ids: (B, T), int64, B and T 1 or more, T not larger than the table of positions.
        state: The tensors by name, in any order, all of one dtype. The blocks are numbered from 0, without
            gaps; there may be any number of them, including none and more than 10.
        n_head: H.

    Returns:
        (B, T, V): the logits, with the dtype of the weights. Gradients flow back to the tensors of ``state``.

    The functions of `myllm.model`, `myllm.weights` and `transformers` may not be used.

    Example:
        A model without blocks: two rows, (1, 0) and (0, 1), which the norm makes (1, -1) and (-1, 1).

        >>> state = {"wte.weight": torch.eye(2), "wpe.weight": torch.zeros(2, 2)}
        >>> state |= {"ln_f.weight": torch.ones(2), "ln_f.bias": torch.zeros(2)}
        >>> gpt2_logits(torch.tensor([[0, 1]]), state, 1).round()
        tensor([[[ 1., -1.],
                 [-1.,  1.]]])
    """
    # May not be called: myllm.model.*, myllm.weights.*, transformers.*.
    raise NotImplementedError
