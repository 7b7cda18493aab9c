"""Chapter 5, Attention: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("05.1", "Stable softmax", points=6, minutes=15, difficulty=2, section="softmax")
def softmax(x: Tensor) -> Tensor:
    """Turn scores into weights: e to the power of each score, divided by the sum over its row.

    A row is the last dimension. PyTorch's own softmax and its relatives may not be used.

    Args:
        x: (…, S) floating point, S 1 or more. The scores may be of any size that the dtype holds. A score of
            ``-inf`` marks a hidden position; there is no ``+inf`` and no NaN.

    Returns:
        (…, S), with the dtype of ``x``. Each row sums to 1, and the weight of a hidden position is exactly 0.
        In a row that is hidden throughout, all weights are 0. In float16 and bfloat16, the result is computed
        in float32 and rounded once, at the end; float64 stays float64. For full points, the number of tensor
        operations does not grow with the number of rows, and no gradient is NaN, whatever ``x`` holds.

    Example:
        >>> hidden = float("-inf")
        >>> softmax(torch.tensor([[1000.0, 1000.0, hidden], [hidden, hidden, hidden]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    # May not be called: myllm.model.*, torch.softmax, torch.log_softmax, torch.logsumexp,
    # torch.Tensor.softmax, torch.Tensor.log_softmax, torch.Tensor.logsumexp, torch.special.softmax,
    # torch.special.log_softmax, torch.special.logsumexp, torch.nn.functional.softmax,
    # torch.nn.functional.log_softmax, torch.nn.functional.softmin, torch.nn.functional.gumbel_softmax,
    # torch.sparse.softmax, torch.nn.functional.scaled_dot_product_attention.
    raise NotImplementedError


@exercise("05.2", "Find the leak", points=5, minutes=20, difficulty=2, section="causal-mask")
def finds_leak(f: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> bool:
    """Test whether a function is causal, by calling it.

    Your answer is a test, and it is graded as one: it must pass functions that are causal and fail functions
    that leak, however small or rare the leak is. ``f`` maps (B, T, C) to (B, T, D), and it is causal when the
    output at position t of row b depends on positions 0 to t of row b and on nothing else.

    Args:
        f: The function under test. It is deterministic: equal inputs give equal outputs, bit for bit. Where
            an output depends on an input position, replacing the C numbers at that position with other random
            numbers changes this output. The change may be as small as 0.0001, and it need not show in the
            gradient, for ``f`` may round or detach.
        shape: (B, T, C), the shape of the float32 inputs that ``f`` takes; each number is 1 or more.

    Returns:
        True if some output depends on a later position of its row or on another row of the batch, otherwise
        False. For full points, ``f`` is called at most B * T + 1 times.

    Example:
        >>> finds_leak(lambda x: x.flip(1), (1, 2, 3)), finds_leak(lambda x: x.cumsum(1), (1, 2, 3))
        (True, False)
    """
    # May not be called: myllm.model.*.
    raise NotImplementedError


@exercise("05.3", "Fix the layer", points=6, minutes=20, difficulty=2, section="heads")
def multi_head(
    x: Tensor, past: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_head: int
) -> Tensor:
    """Debug multi-head attention that continues a text: its shapes are right, but its results are wrong.

    ``past`` holds the inputs of the positions before ``x``. They have keys and values, but their outputs are
    not computed again. Each position of ``x`` attends to all of ``past``, to itself and to everything before
    it in ``x``. The scores of a head are divided by the square root of the dimension of its queries. This
    version has six mistakes (``F.scaled_dot_product_attention`` may not be used to get around them)::

        B, T, C = x.shape
        whole = torch.cat([x, past], dim=1)
        S = whole.shape[1]
        q = (x @ w_q.T).view(B, n_head, T, -1)
        k = (whole @ w_k.T).view(B, n_head, S, -1)
        v = (whole @ w_v.T).view(B, n_head, S, -1)
        weights = torch.softmax(q @ k.transpose(-2, -1) / C**0.5, dim=-1)
        weights = weights * torch.ones(T, S).tril()
        return (weights @ v).reshape(B, T, -1) @ w_o.T

    Args:
        x: (B, T, C), B and T 1 or more.
        past: (B, P, C), P 0 or more.
        w_q: (H * D, C), as ``nn.Linear`` stores it. Head h has rows ``h * D`` to ``(h + 1) * D``.
        w_k: (H * D, C), in the same order.
        w_v: (H * E, C), in the same order; E may differ from D.
        w_o: (any number, H * E), with columns in the same order.
        n_head: H.

    Returns:
        (B, T, rows of ``w_o``), with the dtype of ``x``. Gradients flow back to all tensors. For full points,
        the number of tensor operations does not grow with B, T or H.

    Example:
        >>> x, one = torch.tensor([[[3.0], [5.0]]]), torch.ones(1, 1)
        >>> multi_head(x, torch.tensor([[[1.0]]]), 0 * one, one, one, one, 1)
        tensor([[[2.],
                 [3.]]])
    """
    # May not be called: myllm.model.*, torch.nn.functional.scaled_dot_product_attention.
    raise NotImplementedError


@exercise("05.4", "Scale the scores", points=3, minutes=10, difficulty=2, section="scale")
def score_scale(head_dim: int, q_std: float, k_std: float) -> float:
    """Compute the factor that gives random scores a variance of 1.

    A score is the dot product of a query and a key. All their numbers are independent of each other, those of
    the queries with mean 0 and standard deviation ``q_std``, those of the keys with mean 0 and standard
    deviation ``k_std``.

    Args:
        head_dim: D, how many numbers each query and each key has, 1 or more.
        q_std: 0, or anything from 1e-6 to 1e6.
        k_std: The same.

    Returns:
        The positive factor for which ``factor * (q @ k)`` has variance 1: computed, not estimated, and in the
        double precision of Python's floats.

    Raises:
        ValueError: A standard deviation is 0, so no factor exists.

    Example:
        >>> score_scale(64, 1.0, 2.0)
        0.0625
    """
    # May not be called: myllm.model.*.
    raise NotImplementedError


@exercise("05.5", "Load PyTorch's layer", points=5, minutes=20, difficulty=3, section="attention-check")
def packed_attention(x: Tensor, state: Mapping[str, Tensor], n_head: int) -> Tensor:
    """Compute what a trained ``nn.MultiheadAttention`` computes under the causal mask, from its weights.

    Neither that layer nor ``F.multi_head_attention_forward`` nor ``F.scaled_dot_product_attention`` may be
    used. You may call your own ``multi_head``. It takes no biases, but a bias is the weight of one more input
    that is always 1.

    Args:
        x: (B, T, C); B and T are 1 or more.
        state: The ``state_dict()`` of the layer: ``in_proj_weight`` (3C, C), which holds the matrices of
            queries, keys and values stacked vertically, ``in_proj_bias`` (3C,) in the same order,
            ``out_proj.weight`` (C, C) and ``out_proj.bias`` (C,). A layer that was made with ``bias=False``
            has only the two weights.
        n_head: H, which divides C.

    Returns:
        (B, T, C): the output of the layer where each position attends to itself and to earlier ones.

    Raises:
        ValueError: The names in ``state`` are neither those four nor the two weights. Their order does not
            matter.

    Example:
        >>> weights = torch.cat([torch.zeros(2, 1), torch.ones(1, 1)])
        >>> state = {"in_proj_weight": weights, "out_proj.weight": torch.ones(1, 1)}
        >>> packed_attention(torch.tensor([[[2.0], [4.0]]]), state, 1)
        tensor([[[2.],
                 [3.]]])
    """
    # May not be called: myllm.model.*, torch.nn.functional.scaled_dot_product_attention,
    # torch.nn.MultiheadAttention, torch.nn.functional.multi_head_attention_forward.
    raise NotImplementedError
