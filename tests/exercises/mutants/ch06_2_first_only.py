# exercise: 06.2
# hint: only the first set corrected
"""Chapter 6, Fast attention: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("06.1", "Repeat key heads", points=4, minutes=10, difficulty=1, section="grouped")
def repeat_kv(x: Tensor, groups: int) -> Tensor:
    """Give every query head its own copy of the key head that its group shares.

    ``repeat_interleave`` and ``repeat`` may not be used: build it from views, indices or stacks.

    Args:
        x: (B, K, S, D), the keys or values of K heads; any dtype, any memory layout.
        groups: how many neighbouring query heads share a key head, 1 or more.

    Returns:
        (B, K * groups, S, D). Head h is head ``h // groups`` of ``x``. For full points the number of tensor
        operations does not grow with the number of heads, and no tensor is larger than the result.

    Example:
        >>> repeat_kv(torch.tensor([10, 20]).view(1, 2, 1, 1), 2).flatten()
        tensor([10, 10, 20, 20])
    """
    # SOLUTION
    B, K, S, D = x.shape
    return x[:, :, None].expand(B, K, groups, S, D).reshape(B, K * groups, S, D)
    # END SOLUTION


@exercise("06.2", "Merge two softmaxes", points=7, minutes=20, difficulty=3, section="online-softmax")
def merge_softmax(
    a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Join what is known of the softmax over two sets of keys.

    What is known of a set is a triple ``(maximum, total, values)``: the largest score; the sum of
    exp(score - maximum); and the sum of exp(score - maximum) times value. A set may be empty, or hold only
    scores of ``-inf``, which must not be seen. Its triple is then ``(-inf, 0, zeros)``.

    Args:
        a: the triple of the first set: maximum (…), total (…) and values (…, D), floating point. Each place
            of the leading dimensions, if there are any, is a query of its own.
        b: the triple of the second set, of the same shapes and dtype.

    Returns:
        The triple of both sets together, by the same definition, also where both are empty. Scores may be of
        any finite size: nothing overflows, and nothing is NaN.

    Example:
        The first query has a score of 2 and one of 0 in different sets. Nothing has been seen of the second.

        >>> nothing = float("-inf")
        >>> a = torch.tensor([2.0, nothing]), torch.tensor([1.0, 0.0]), torch.tensor([[3.0], [0.0]])
        >>> b = torch.tensor([0.0, nothing]), torch.tensor([1.0, 0.0]), torch.tensor([[5.0], [0.0]])
        >>> for part in merge_softmax(a, b):
        ...     print(part)
        tensor([2., -inf])
        tensor([1.1353, 0.0000])
        tensor([[3.6767],
                [0.0000]])
    """
    # SOLUTION
    maximum = torch.maximum(a[0], b[0])
    # Where both are empty there is nothing to correct, and -inf - -inf would be NaN.
    common = maximum.where(maximum > -torch.inf, 0)
    old, new = torch.exp(a[0] - common), torch.ones_like(common)
    return maximum, old * a[1] + new * b[1], old[..., None] * a[2] + new[..., None] * b[2]
    # END SOLUTION


@exercise("06.3", "Window with a sink", points=5, minutes=15, difficulty=2, section="window")
def window_mask(queries: int, keys: int, offset: int, size: int, first: int) -> Tensor:
    """Say which keys each query may see: its neighbours, and the beginning of the text.

    Key j is the token at position j. Query i is the token at position ``offset + i``. A token sees the last
    ``size`` positions up to and including its own. It also sees the first ``first`` positions of the text,
    however far back they are. It never sees anything that comes after it.

    Args:
        queries: T, 0 or more.
        keys: S, 0 or more.
        offset: the position of the first query, 0 or more.
        size: how many positions the window holds, the token's own among them, 1 or more.
        first: how many positions at the beginning stay visible, 0 or more.

    Returns:
        (T, S) bool, true where the query may see the key. For full points the number of tensor operations
        does not grow with T.

    Example:
        The queries are the tokens at 3 and 4. Each sees itself, the one before it, and token 0.

        >>> window_mask(2, 5, 3, 2, 1)
        tensor([[ True, False,  True,  True, False],
                [ True, False, False,  True,  True]])
    """
    # SOLUTION
    q = torch.arange(offset, offset + queries)[:, None]
    k = torch.arange(keys)
    return (k <= q) & ((q - k < size) | (k < first))
    # END SOLUTION


@exercise("06.4", "Bytes of a cache", points=7, minutes=20, difficulty=3, section="cost")
def kv_bytes(
    context: int, windows: list[int | None], n_kv_head: int, head_dim: int, number: int, budget: int
) -> tuple[int, int | None]:
    """Count the bytes of a KV cache, and say how long a text fits into a given memory.

    A layer keeps the keys and the values of all positions, or, if it has a window, of the last positions
    only, as many as the window holds. It takes memory only for positions that exist.

    Args:
        context: how many tokens the text has, 0 or more.
        windows: for each layer the size of its window, 1 or more, or None for a layer that sees everything.
        n_kv_head: K, the heads that have keys and values of their own; the query heads do not matter.
        head_dim: D, how many numbers a key has; a value has as many.
        number: the bytes of one number, such as 2.
        budget: bytes of memory, 0 or more.

    Returns:
        The bytes of the cache for ``context`` tokens, and the largest number of tokens whose cache takes no
        more than ``budget`` bytes; None if any number of tokens fits. For full points, find the second
        number without trying one length after the other.

    Example:
        One layer sees everything and one has a window of 4. With one head of 8 numbers of 2 bytes, a layer
        keeps 32 bytes a token. Ten tokens take 10 * 32 + 4 * 32 bytes; 28 tokens would take 1,024.

        >>> kv_bytes(10, [None, 4], 1, 8, 2, 1000)
        (448, 27)
    """
    # SOLUTION
    each = 2 * n_kv_head * head_dim * number  # keys and values of one token in one layer

    def size(tokens: int) -> int:
        return each * sum(tokens if window is None else min(tokens, window) for window in windows)

    most = max((window for window in windows if window is not None), default=0)
    if None not in windows and size(most) <= budget:
        return size(context), None
    low, high = 0, most + 1  # low always fits, high never will
    while size(high) <= budget:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    return size(context), low
    # END SOLUTION
