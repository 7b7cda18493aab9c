"""Chapter 8, LLaMA: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from myllm.grading import exercise


@exercise("08.1", "Rotate a part of each head", points=6, minutes=20, difficulty=2, section="rope")
def rotate_part(x: Tensor, positions: Tensor, theta: float, rotary_dim: int) -> Tensor:
    """Rotate the first numbers of each query or key by its position, and leave the others as they are.

    Some families, such as Phi, rotate only the first R numbers of a head. Of these, number i and number
    ``i + R / 2`` are a pair, a point in the plane (i is 0 to ``R / 2 - 1``). At position p it is rotated by
    the angle ``p * theta ** (-2 * i / R)``, in radians, anticlockwise: (1, 0) goes towards (0, 1). The texts
    of a batch are padded on the left, so each has positions of its own.

    Args:
        x: (B, H, T, D), floating point; B, H, T and D are 1 or more.
        positions: (B, T), int64, the position of each token of each text, 0 or more. The heads share them.
        theta: The base, larger than 1.
        rotary_dim: R, even, 0 to D.

    Returns:
        (B, H, T, D), with the dtype of ``x``. The angles are computed in float64, so that they are right at
        position 100,000, too. In float16 and bfloat16, the result is computed in float32 or better and
        rounded once, at the end. Gradients flow back to ``x``. For full points, the number of tensor
        operations does not grow with B, H or T.

    The functions of `myllm.model` and `transformers` may not be used.

    Example:
        The first two of three numbers are a pair, and its angle is the position itself.

        >>> x = torch.tensor([[[[1.0, 0.0, 5.0], [1.0, 0.0, 5.0]]]])
        >>> rotate_part(x, torch.tensor([[0, 2]]), 10_000.0, 2)
        tensor([[[[ 1.0000,  0.0000,  5.0000],
                  [-0.4161,  0.9093,  5.0000]]]])
    """
    # SOLUTION
    half = rotary_dim // 2
    freq = theta ** -(torch.arange(half, dtype=torch.float64) / max(half, 1))
    angles = positions[:, None, :, None] * freq  # (B, 1, T, R / 2)
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    cos, sin = angles.cos().to(y.dtype), angles.sin().to(y.dtype)
    a, b, rest = y[..., :half], y[..., half:rotary_dim], y[..., rotary_dim:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1).to(x.dtype)
    # END SOLUTION


@exercise("08.2", "Convert pairs of neighbours", points=5, minutes=20, difficulty=2, section="rope")
def to_halves(weight: Tensor, n_head: int, rotary_dim: int) -> Tensor:
    """Reorder the weights of a projection that was trained with neighbours as pairs.

    The model that the weights come from rotates neighbours, as the paper does: of the first R numbers of each
    head, 0 and 1 are a pair, then 2 and 3, and so on, and pair i has frequency i. Our code rotates halves:
    number i and number ``i + R / 2`` are pair i. Reorder the rows of the projection so that our code computes
    the same scores. In each pair, the first number stays the first. Numbers that are not rotated keep their
    place.

    Args:
        weight: (H * D, C), the weight of the projection of queries or keys, as ``nn.Linear`` stores it; head
            h has rows ``h * D`` to ``(h + 1) * D - 1``. Or its bias, (H * D,). Any dtype.
        n_head: H. For keys, that is the number of key heads.
        rotary_dim: R, even, 0 to D.

    Returns:
        A tensor of the same shape and dtype: the same rows in another order. Gradients flow back to
        ``weight``, if it is floating point.

    The functions of `myllm.weights` and `myllm.model` may not be used.

    Example:
        Two heads of five numbers, of which four are rotated.

        >>> to_halves(torch.arange(10), 2, 4)
        tensor([0, 2, 1, 3, 4, 5, 7, 6, 8, 9])
    """
    # SOLUTION
    heads = weight.reshape(n_head, -1, *weight.shape[1:])  # (H, D, …)
    rotated, rest = heads[:, :rotary_dim], heads[:, rotary_dim:]
    return torch.cat([rotated[:, 0::2], rotated[:, 1::2], rest], dim=1).flatten(0, 1)
    # END SOLUTION


@exercise("08.3", "Fix attention with a cache", points=7, minutes=30, difficulty=3, section="gqa")
def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor], theta: float, rotary_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Debug attention that continues a text, with a cache of the earlier keys and values.

    The cache holds the keys of the earlier positions, already rotated, and their values. The new tokens
    follow, at positions P to P + T - 1. They attend to everything in the cache, to themselves and to new
    tokens before them. Query head h uses key head ``h // (H / K)``. The cache that is returned is the
    ``past`` of the next call. Your answer may call your own ``rotate_part``. This version has five mistakes.
    With one key head for each query head, its results are right as long as the cache is empty::

        keys, values = past
        B, H, T, D = q.shape
        q = rotate_part(q, torch.arange(T).expand(B, T), theta, rotary_dim)
        keys = torch.cat([keys, k], dim=2)
        S = keys.shape[2]
        keys = rotate_part(keys, torch.arange(S).expand(B, S), theta, rotary_dim)
        values = torch.cat([values, v], dim=2)
        keys = keys.repeat(1, H // keys.shape[1], 1, 1)
        values = values.repeat(1, H // values.shape[1], 1, 1)
        y = F.scaled_dot_product_attention(q, keys, values, is_causal=True)
        return y, keys, values

    Args:
        q: Queries of the new tokens, not rotated, (B, H, T, D), float32 or float64, T 1 or more.
        k: Their keys, not rotated, (B, K, T, D); K divides H.
        v: Their values, (B, K, T, D).
        past: The cache: keys and values, each (B, K, P, D), P 0 or more.
        theta: The base of the rotation, as in ``rotate_part``.
        rotary_dim: How many numbers of a head are rotated.

    Returns:
        The results, (B, H, T, D), and the new cache: keys and values, each (B, K, P + T, D). Gradients flow
        back to all five tensors.

    The functions of `myllm.model` and `transformers` may not be used; those of PyTorch may.

    Example:
        A query of zeros gives the mean of the values. The key at position 1 is rotated by 1 radian.

        >>> row = torch.tensor([[[[1.0, 0.0]]]])
        >>> y, keys, values = cached_attention(0 * row, row, 4 * row, (row, 2 * row), 10_000.0, 2)
        >>> y, keys
        (tensor([[[[3., 0.]]]]), tensor([[[[1.0000, 0.0000],
                  [0.5403, 0.8415]]]]))
    """
    # SOLUTION
    keys, values = past
    B, H, T, _ = q.shape
    P, group = keys.shape[2], H // k.shape[1]
    positions = torch.arange(P, P + T).expand(B, T)
    q, k = rotate_part(q, positions, theta, rotary_dim), rotate_part(k, positions, theta, rotary_dim)
    keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
    allowed = torch.ones(T, P + T, dtype=torch.bool).tril(P)
    shared = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    return F.scaled_dot_product_attention(q, *shared, allowed), keys, values
    # END SOLUTION


@exercise("08.4", "Spend a budget", points=5, minutes=15, difficulty=2, section="swiglu")
def widest(
    vocab_size: int,
    n_layer: int,
    n_embd: int,
    n_head: int,
    n_kv_head: int,
    head_dim: int,
    tied: bool,
    multiple: int,
    budget: int,
) -> tuple[int, int] | None:
    """Find the widest feed-forward network with which a LLaMA stays within a budget of parameters.

    The model is that of the chapter, with all four swaps and without biases: per block, two norms, the
    projections of attention and the three matrices of SwiGLU; one norm before the head; no table of
    positions. ``n_head * head_dim`` need not be C.

    Args:
        vocab_size: V.
        n_layer: The number of blocks, 1 or more.
        n_embd: C.
        n_head: The number of query heads.
        n_kv_head: The number of heads of keys and values.
        head_dim: D, how many numbers a head has.
        tied: Whether the head uses the table of the token embedding.
        multiple: The inner width has to be a multiple of this, 1 or more.
        budget: The number of parameters that may not be exceeded.

    Returns:
        The largest inner width and the number of parameters of that model, both exact, however large. None if
        not even a width of ``multiple`` fits. For full points, the work does not grow with the budget.

    The functions of `myllm.config`, `myllm.accounting` and `myllm.model` may not be used.

    Example:
        SmolLM2 with 135 million parameters.

        >>> widest(49_152, 30, 576, 9, 3, 64, True, 256, 135_000_000)
        (1536, 134515008)
    """
    # SOLUTION
    tables = vocab_size * n_embd * (1 if tied else 2)
    attention = 2 * n_embd * (n_head + n_kv_head) * head_dim  # queries and output, keys and values
    fixed = tables + n_layer * (attention + 2 * n_embd) + n_embd
    step = n_layer * 3 * n_embd * multiple  # what one more multiple of width costs
    steps = (budget - fixed) // step
    return (steps * multiple, fixed + steps * step) if steps > 0 else None
    # END SOLUTION


@exercise("08.5", "Choose a scaling", points=6, minutes=20, difficulty=2, section="scaling")
def choose_scaling(
    rows: list[dict[str, Any]], trained: int, needed: int
) -> tuple[str | None, dict[str, str]]:
    """Choose how the frequencies of a model are scaled, from a table of measured losses.

    Each row is one method, measured with several seeds at several lengths of text. One row has the name
    ``"none"``: the model as it was trained. A set of losses is *clearly worse* than another one if its lowest
    loss is higher than the highest of the other; otherwise, the difference may be due to the seeds. The
    rules, in this order:

    1. ``"unmeasured"``: drop a method that has no losses at the length ``trained`` or none at ``needed``.
    2. ``"short"``: drop a method that is clearly worse than ``"none"`` at the length ``trained``; users have
       short texts, too.
    3. ``"long"``: of the methods left, the best has the lowest mean loss at the length ``needed``. Drop a
       method that is clearly worse than the best at that length.
    4. ``"order"``: of the methods left, choose the first in the table. Drop the others.

    Args:
        rows: The table; a row is a dict with ``name`` and ``losses``, a dict from a length to a list with one
            loss for each seed. A length may be missing, or its list empty: then there are no losses.
        trained: The length of texts in training; ``"none"`` has losses there.
        needed: The length that is needed.

    Returns:
        The name of the chosen method, or None if rules 1 and 2 drop all methods, and a dict from the name of
        each other method to the rule that dropped it. ``"none"`` is a method like any other, and can be
        chosen or dropped.

    The functions of `myllm.config` and `myllm.model` may not be used.

    Example:
        >>> rows = [{"name": "none", "losses": {64: [1.5, 1.6], 256: [3.0, 3.1]}}]
        >>> rows += [{"name": "linear", "losses": {64: [1.7, 1.8], 256: [1.8, 1.9]}}]
        >>> rows += [{"name": "yarn", "losses": {64: [1.5, 1.7], 256: [1.9, 2.0]}}]
        >>> choose_scaling(rows, 64, 256)
        ('yarn', {'linear': 'short', 'none': 'long'})
    """
    # SOLUTION
    reasons, left = dict[str, str](), list[dict[str, Any]]()
    reference = next(row["losses"][trained] for row in rows if row["name"] == "none")
    for row in rows:
        if not row["losses"].get(trained) or not row["losses"].get(needed):
            reasons[row["name"]] = "unmeasured"
        elif min(row["losses"][trained]) > max(reference):
            reasons[row["name"]] = "short"
        else:
            left.append(row)
    if not left:
        return None, reasons
    long = {row["name"]: row["losses"][needed] for row in left}
    best = min(long.values(), key=lambda losses: sum(losses) / len(losses))
    good = [name for name, losses in long.items() if min(losses) <= max(best)]
    reasons |= {name: "order" if name in good else "long" for name in long if name != good[0]}
    return good[0], reasons
    # END SOLUTION
