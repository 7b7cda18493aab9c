"""Chapter 7, GPT: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math

import torch
from torch import Tensor, nn

from myllm.grading import exercise


@exercise("07.1", "Layer normalization", points=6, minutes=15, difficulty=2, section="layernorm")
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Bring each position to mean 0 and variance 1, then stretch and shift it by learned numbers.

    A position is the last dimension. PyTorch's own normalizations may not be used.

    Args:
        x: (…, C) floating point. The numbers of a position may lie close together and far from 0, such as
            2,990 to 3,010.
        weight: (C,), with the dtype of ``x``. Each number of a normalized position is multiplied by it.
        bias: (C,), with the dtype of ``x``; then it is added. None: nothing is added.
        eps: added to the variance, inside the root. The variance is that of the C numbers themselves, their
            mean squared distance from the mean.

    Returns:
        (…, C), with the dtype of ``x``. Numbers of 16 bits are computed in float32 and rounded once, at the
        end. For full points the number of tensor operations does not grow with the number
        of positions or texts.

    Example:
        The numbers 0 and 2 have a variance of 1, and 1 + 3 has the root 2.

        >>> weight, bias = torch.tensor([1.0, 10.0]), torch.tensor([0.0, 1.0])
        >>> layer_norm(torch.tensor([[0.0, 2.0], [5.0, 5.0]]), weight, bias, 3.0)
        tensor([[-0.5000,  6.0000],
                [ 0.0000,  1.0000]])
    """
    # May not be called: myllm.model.*, torch.layer_norm, torch.native_layer_norm, torch.rms_norm,
    # torch.group_norm, torch.native_group_norm, torch.batch_norm, torch.instance_norm,
    # torch.nn.functional.layer_norm, torch.nn.functional.rms_norm, torch.nn.functional.group_norm,
    # torch.nn.functional.batch_norm, torch.nn.functional.instance_norm.
    raise NotImplementedError


@exercise("07.2", "Feed-forward network", points=5, minutes=15, difficulty=2, section="feed-forward")
def feed_forward(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, down_weight: Tensor, down_bias: Tensor
) -> Tensor:
    """Widen each position, bend its numbers by GPT-2's GELU, and narrow it again.

    The GELU of a number h is ``h / 2 * (1 + tanh(sqrt(2 / pi) * (h + 0.044715 * h**3)))``. PyTorch's own
    ``gelu`` and ``linear`` may not be used, nor the layers that call them.

    Args:
        x: (…, C) floating point, of any size.
        up_weight: (F, C), as ``nn.Linear`` keeps it: row j makes number j of the F numbers in between.
        up_bias: (F,).
        down_weight: (C, F): row i makes number i of the result.
        down_bias: (C,).

    Returns:
        (…, C). For full points each of the two matrix products is computed once, for all positions together.

    Example:
        The number in between is 1 * 3 - 1 * 1 + 0 = 2, and the GELU of 2 is about 1.9546.

        >>> up_weight, up_bias = torch.tensor([[1.0, -1.0]]), torch.tensor([0.0])
        >>> down_weight, down_bias = torch.tensor([[1.0], [10.0]]), torch.tensor([0.0, 1.0])
        >>> feed_forward(torch.tensor([3.0, 1.0]), up_weight, up_bias, down_weight, down_bias)
        tensor([ 1.9546, 20.5460])
    """
    # May not be called: myllm.model.*, torch.nn.functional.gelu, torch.nn.functional.linear.
    raise NotImplementedError


@exercise("07.3", "Count GPT-2", points=4, minutes=15, difficulty=2, section="parameters")
def gpt2_parameters(vocab_size: int, block_size: int, n_layer: int, n_embd: int) -> int:
    """Say how many parameters a GPT-2 has, without building it.

    It has an embedding for each token and one for each position, ``n_layer`` blocks, and a layer norm after
    the last block. A block has two layer norms, attention (the projections for queries, keys and values, and
    the one for the output, each from C to C), and a feed-forward network (from C to 4 C and back to C). All
    linear layers and layer norms of the blocks, and the last norm, have biases. The head, from C to the
    logits, has no bias, and its weight is tied: it is that of the token embedding.

    Args:
        vocab_size: V, how many tokens there are.
        block_size: how many positions there are.
        n_layer: 0 or more.
        n_embd: C.

    Returns:
        The number of different trainable numbers, exactly, however large the model is. For full points the
        work does not grow with the model.

    Example:
        >>> gpt2_parameters(50_257, 1024, 12, 768)
        124439808
    """
    # May not be called: myllm.model.*, myllm.config.*, transformers.*.
    raise NotImplementedError


@exercise("07.4", "Tie the head", points=4, minutes=10, difficulty=2, section="tying")
def tie(embedding: nn.Embedding, head: nn.Linear) -> None:
    """Make the embedding and the head share one table, for good.

    Afterwards there is one parameter where there were two: it is counted once, both uses add their gradients
    to it, and after a step of the optimizer both still have the same numbers.

    Args:
        embedding: V tokens, C numbers each. It is not changed: its table is the one that stays.
        head: from C to V. Its weight becomes the table of the embedding. Its bias, if there is one, stays.

    Raises:
        ValueError: the weights have different shapes. Then nothing has been changed.

    Example:
        >>> embedding, head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
        >>> tie(embedding, head)
        >>> sum(p.numel() for p in nn.ModuleList([embedding, head]).parameters())
        10
    """
    # May not be called: myllm.model.*.
    raise NotImplementedError
