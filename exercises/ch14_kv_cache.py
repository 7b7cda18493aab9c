"""Chapter 14, The KV cache: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("14.1", "Evict from a window with sinks", points=6, minutes=20, difficulty=2, section="ring")
def evict(positions: list[int], new: int, window: int, sinks: int) -> tuple[list[int], list[int]]:
    """Find the slots for new tokens in a cache that keeps a window and the first tokens of the text.

    The cache keeps the first ``sinks`` positions of the text, 0 to ``sinks - 1``, and its last ``window``
    positions, and has a slot for each of them. A position may be in any slot: drafts that were rejected have
    been removed, and entries have been moved. Only the table says where a position is, and no formula does.

    Now several new tokens come at once, perhaps more than the window holds. Their positions follow the
    largest one in the table. When all of them are there:

    - A position that is still to be kept stays in its slot.
    - All other slots are free, those that were empty and those of positions that are evicted. A free slot
      that gets no new token is -1 in the table.
    - Each new token that is to be kept goes into a free slot: the earliest token into the first free slot,
      the next one into the next, and so on. A new token that would be evicted at once is not written at all.

    Args:
        positions: The table, ``sinks + window`` long: the position in each slot, or -1 if the slot is empty.
            No position is there twice. Positions of the window may be missing; then there are empty slots.
        new: How many tokens are new, 0 or more. If the table is empty, the first of them has position 0.
        window: 1 or more.
        sinks: 0 or more. The sinks come on top of the window.

    Returns:
        Two lists: for each new token its slot, or -1 if it is not written; and the table afterwards. The
        one that you are given stays as it is. For full points, do not loop over all positions of the text.

    Example:
        The new tokens have positions 6 and 7. The last three positions are then 5, 6 and 7, so 3 and 4 are
        evicted.

        >>> evict([0, 5, 1, 3, 4], 2, window=3, sinks=2)
        ([3, 4], [0, 5, 1, 6, 7])
    """
    raise NotImplementedError


@exercise("14.2", "Accept or reject", points=7, minutes=30, difficulty=3, section="speculative")
def verify(draft_ids: list[tuple[int, int]], q: Tensor, p: Tensor, u: list[float]) -> tuple[list[int], int]:
    """Verify a draft that has two candidates for each place, without changing the target's distribution.

    At each place, the draft has sampled two candidates from the same distribution q, independently of each
    other, and continued after the *first*. One pass of the target has given its distribution p at each place,
    also after the first candidates. Go through the places in order. At each place:

    1. Accept the first candidate x with probability min(1, p(x) / q(x)). If it is accepted, go on to the
       next place.
    2. If it is rejected, the token must now follow the residual distribution: p minus q, negative numbers
       set to 0, divided by their sum. Test the second candidate as the first one, with the residual in place
       of p. If it is accepted, the pass ends with it.
    3. If both are rejected, the token is sampled from what the second candidate leaves of the residual,
       computed as the residual was computed from p. The pass ends with this token.

    If the first candidates of all places are accepted, the pass ends with one more token, sampled from p of
    the place after the last one.

    Uniform numbers are given and used up in order, one for each decision. A candidate is accepted if the
    number is less than the probability of acceptance. To sample, take the smallest id at which the cumulative
    sum of the probabilities, this id included, exceeds the number. The tests avoid the rare cases in
    which rounding leaves an empty residual, or a cumulative sum that never exceeds the number.

    Args:
        draft_ids: The two candidates for each of k places; k may be 0. Both may be the same token.
        q: (k, V) float64, the distribution that both candidates of a place were sampled from, so it is
            larger than 0 at both.
        p: (k + 1, V) float64, the target's distributions. Their entries may be 0.
        u: At least 2 k + 1 numbers from 0 up to, not including, 1.

    Returns:
        The tokens of this pass, and how many of them are candidates that were accepted.

    Example:
        The first place accepts its first candidate, as 0.3 is less than 0.5 / 1. The second place rejects
        its first candidate, since p is 0 there; the residual is [0, 1], and the second one is accepted.

        >>> q = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
        >>> p = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
        >>> verify([(1, 1), (0, 1)], q, p, [0.3, 0.0, 0.9, 0.2, 0.2])
        ([1, 1], 2)
    """
    raise NotImplementedError


@exercise("14.3", "Batched is not single", points=7, minutes=30, difficulty=2, section="batches")
def decode_batch(
    model: Callable[..., Any], prompts: list[list[int]], limits: list[int], stop_id: int, pad_id: int
) -> list[list[int]]:
    """Debug the generation of several texts at once: each should be the text that its prompt gives alone.

    Shorter prompts are padded on the left. Each text ends before its first stop id, or as soon as it has as
    many new tokens as its own limit allows. The batch goes on until all have ended; a row that ended earlier
    is still computed, but nothing more is written to its text. This version has six faults; find and fix
    them::

        longest = max(map(len, prompts))
        ids = torch.tensor([[pad_id] * (longest - len(one)) + one for one in prompts])
        texts, ended, cache = [[] for _ in prompts], [False for _ in prompts], None
        for step in range(max(limits)):
            T, slots = ids.shape[1], torch.arange(longest + step)
            positions = slots[-T:].expand(len(ids), T)
            mask = (slots <= slots[-T:, None]).expand(len(ids), T, len(slots))
            logits, cache = model(ids, positions, mask, cache)
            ids = logits[:, -1:].argmax(-1)
            for row, token in enumerate(ids[:, 0].tolist()):
                texts[row].append(token)
                ended[row] = token == stop_id
            if all(ended):
                break
        return texts

    Args:
        model: ``model(ids, positions, mask, cache)`` returns the logits, (B, T, V), and the new cache. The
            new tokens are ``ids``, (B, T) int64. ``positions``, (B, T) int64, count the tokens of a row's
            own text from 0. Each has an embedding of its own, so none may be negative; those of padding do
            not matter, and those of a row that has ended may run on: there are enough embeddings. ``mask``,
            (B, T, S) bool, is true where a new token may attend to one of the S tokens: those in the cache,
            then the new ones. If a token may attend to none, its logits are arbitrary. ``cache`` is what
            the last call returned, and None in the first.
        prompts: One or more prompts, of one or more ids each.
        limits: For each prompt, the most new tokens; may be 0.
        stop_id: The id that ends a text. It may occur in a prompt, where it ends nothing.
        pad_id: What shorter prompts are padded with. It is an id as all others: it may occur in a prompt, be
            generated, or be the stop id.

    Returns:
        For each prompt the new ids, without the stop id: always the most likely one. For full points, all
        rows share one pass per step over the new tokens only, and there is no pass after the last one that
        is needed.

    Example:
        A model that always predicts the next larger id. The second text stops before 5.

        >>> def model(ids, positions, mask, cache):
        ...     return torch.nn.functional.one_hot(ids + 1, 10).double(), cache
        >>> decode_batch(model, [[7, 1], [3]], [2, 4], stop_id=5, pad_id=0)
        [[2, 3], [4]]
    """
    raise NotImplementedError


@exercise("14.4", "Blocks", points=6, minutes=20, difficulty=2, section="paged")
def blocks_needed(
    requests: list[tuple[list[int], int]], block_size: int, config: dict[str, int]
) -> dict[str, int]:
    """Count the blocks and bytes that a paged cache needs for requests that share prefixes.

    The requests come one after the other and all stay in the cache. When one comes, the prompts of all
    earlier ones are computed. What a block holds depends on all tokens before it, too. So a request shares a
    block of an earlier one if the block is full of prompt tokens and both prompts are equal up to the end of
    this block. Generated tokens are not known in advance; no block with one of them is shared.

    The last token of a prompt is always computed, since its logits give the first new token. Therefore the
    block with it is always the request's own, even if an equal one exists. Later requests may share it.

    A generated token enters the cache when it is fed to the model to get the next one, so the last one never
    does. A block is allocated as soon as its first slot is used.

    Args:
        requests: In the order in which they come: pairs of a prompt, one or more ids, and the number of
            tokens that are generated, 1 or more.
        block_size: The slots of a block, 1 or more; a slot holds one token.
        config: The model: ``layers``; ``heads``, of queries; ``kv_heads``, of keys and values; ``head_dim``;
            and ``bits``, of a stored number: 32, 16 or 8. With 8 bits, each vector of ``head_dim`` numbers
            also has a scale of 4 bytes.

    Returns:
        A dict of four ints. ``blocks``: how many different blocks are in use at the end. ``bytes``: their
        size, empty slots included. ``empty``: their slots without a token. ``reused``: how many tokens of all
        prompts together need not be computed, because their block is shared.

    Example:
        Each request stores 6 tokens in 2 blocks of 4 and leaves 2 slots empty; the first block is shared.

        >>> config = {"layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "bits": 16}
        >>> blocks_needed([([1, 2, 3, 4, 5], 2), ([1, 2, 3, 4, 6], 2)], 4, config)
        {'blocks': 3, 'bytes': 768, 'empty': 4, 'reused': 4}
    """
    raise NotImplementedError


@exercise("14.5", "Admit, wait or preempt", points=7, minutes=30, difficulty=3, section="engine")
def plan(
    waiting: list[dict[str, int]], running: list[dict[str, Any]], free: int, block_size: int, reserve: int
) -> dict[str, list[int]]:
    """Design one step of a scheduler: which requests are preempted, and which are admitted.

    In a step, each request that runs feeds its newest token to the model, and needs a slot for it. If its
    blocks are full, that takes a new block. A request that is preempted gives blocks back, needs none, and
    waits again. A request that is admitted needs blocks for all its tokens.

    Any decision that keeps these rules is right:

    1. *Fit*: the blocks that are needed are free, or given back by those that are preempted.
    2. *Oldest first*: nobody is admitted while an older request stays waiting.
    3. *Progress*: the oldest request that runs is not preempted; so it ends one day, and then the next one.
    4. *Need*: each preempted request is needed. If it went on running, with the others preempted, blocks
       would be missing.
    5. *Sharing*: a ``shared`` request has blocks that others use, too; preempting it does not give those
       back. It is preempted only if it would not be enough to preempt all that are not shared, except the
       oldest.
    6. *Decoding first*: nobody is admitted in a step that preempts.
    7. *Reserve*: after an admission, at least ``reserve`` blocks are left, so that those that run do not need
       to preempt each other in the next steps. Only if nothing runs at all, the first one that is admitted
       may also use the reserve.
    8. *No waiting in vain*: the oldest that wait are admitted, as many as the other rules allow.

    Args:
        waiting: Dicts with ``id`` and ``tokens``, the oldest first. Ids are numbered by arrival: of two
            requests, the one with the smaller id is older.
        running: Dicts with ``id``; ``tokens``, the newest one included, which has no slot yet; ``frees``, how
            many blocks it gives back if it is preempted, 1 or more, its shared blocks already left out; and
            ``shared``, a bool. In any order.
        free: Blocks that are free.
        block_size: The slots of a block.
        reserve: Blocks, 0 or more.

    Returns:
        A dict of two lists of ids, in any order: ``admit`` and ``preempt``. There is always a right decision:
        all requests but the oldest together give back enough.

    Example:
        Request 1 begins a new block with its ninth token. Of the other 3, request 3 needs 2.

        >>> one = {"id": 1, "tokens": 9, "frees": 2, "shared": False}
        >>> two = {"id": 2, "tokens": 6, "frees": 2, "shared": False}
        >>> plan([{"id": 3, "tokens": 5}], [two, one], free=4, block_size=4, reserve=1)
        {'admit': [3], 'preempt': []}

        With no free block, request 1 still needs one. Request 2 is preempted, so request 3 has to wait.

        >>> plan([{"id": 3, "tokens": 5}], [two, one], free=0, block_size=4, reserve=1)
        {'admit': [], 'preempt': [2]}
    """
    raise NotImplementedError
