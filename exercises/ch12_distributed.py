"""Chapter 12, Distributed training: the exercises. Replace ``raise NotImplementedError`` with your answer."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from myllm.grading import exercise


@exercise("12.1", "Average on a ring", points=7, minutes=25, difficulty=2, section="all-reduce")
def reduce_scatter(
    chunks: list[Tensor], rank: int, world: int, exchange: Callable[[int, int, Tensor], Tensor]
) -> Tensor:
    """Do one rank's part of a reduce-scatter on a ring: rank r ends with the mean of chunk r over all ranks.

    Each rank calls this function with its own gradients, cut into as many chunks as there are ranks. Chunks
    with the same index have the same length on all ranks; chunks with different indices may differ in length.

    Args:
        chunks: The gradients of this rank: ``world`` vectors, float32 or float64, of any lengths, 0 too. They
            stay as they are.
        rank: The number of this rank, 0 to ``world - 1``.
        world: The number of ranks, 1 or more.
        exchange: ``exchange(to, source, x)`` sends the tensor ``x`` to the rank ``to``, waits, and returns
            the tensor that the rank ``source`` has sent to this rank: its first one in the first exchange
            with that source, its second one in the second, and so on.

    Returns:
        The mean over all ranks (not the sum) of chunk number ``rank``. The ring has one direction: a rank
        sends to the next rank only, ``(rank + 1) % world``, and receives from the previous one only. Each
        exchange carries one chunk. For full points there are ``world - 1`` exchanges on each rank; with one
        rank there is none.

    Example:
        The last message to rank 0 of two ranks: the other rank's chunk 0.

        >>> def exchange(to, source, x):
        ...     return torch.tensor([5.0, 6.0])
        >>> reduce_scatter([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], 0, 2, exchange)
        tensor([3., 4.])
    """
    raise NotImplementedError


@exercise("12.2", "Fix ranks that drift apart", points=7, minutes=30, difficulty=3, section="six-bugs")
def update(
    model: nn.Module,
    micro_batches: list[tuple[Tensor, Tensor]],
    all_sum: Callable[[float], float],
    world: int,
    rate: float,
    max_norm: float,
) -> tuple[float, float]:
    """Debug one data-parallel update: the ranks begin with equal weights, and soon differ.

    Each rank calls this function with its own micro-batches. Afterwards every rank should have the weights
    that one process would have that trains on the micro-batches of all ranks. This version has five faults;
    find and fix them::

        model.zero_grad()
        loss = 0.0
        for i, (x, y) in enumerate(micro_batches):
            scores = model(x)
            model.require_backward_grad_sync = i == len(micro_batches) - 1
            part = F.cross_entropy(scores, y, ignore_index=-100) / len(micro_batches)
            part.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            loss += part.item()
        if math.isfinite(loss):
            with torch.no_grad():
                for p in model.parameters():
                    p -= rate * p.grad
        return loss, norm.item()

    The model behaves as PyTorch's ``DistributedDataParallel``: a forward pass decides whether the backward
    pass that follows it is synchronized. It is, if ``model.require_backward_grad_sync`` is True at that
    moment, as it is before the call. Then ``p.grad`` of each parameter, with all that it has accumulated, is
    replaced by its *mean over the ranks*; otherwise it stays that of this rank.

    Args:
        model: A wrapped model that returns scores, (n, classes), float64.
        micro_batches: One or more pairs of inputs, (n, d), and targets, (n,) int64; a target -100 does not
            count. The numbers of micro-batches, of rows and of targets that count may differ between ranks,
            and a rank may have no target that counts; all ranks together have at least one.
        all_sum: Returns the sum of a number over all ranks. It waits for them, so each rank must call it
            equally often.
        world: The number of ranks.
        rate: The learning rate of the update ``p -= rate * p.grad``.
        max_norm: The norm of all gradients together to which they are clipped.

    Returns:
        The loss and the norm before clipping, equal on all ranks: the loss is the mean over all targets that
        count in the micro-batches of all ranks, the norm that of its gradient. If the norm is not finite, no
        rank changes its weights, and the loss and the norm are returned as they are. For full points each
        rank synchronizes in one backward pass only.

    Example:
        One rank, with one micro-batch. Two equal scores give a loss of ln 2.

        >>> model = nn.Linear(1, 2, bias=False, dtype=torch.float64)
        >>> _ = nn.init.zeros_(model.weight)
        >>> x, y = torch.ones(1, 1, dtype=torch.float64), torch.tensor([1])
        >>> update(model, [(x, y)], lambda number: number, 1, 0.1, 5.0)
        (0.6931471805599453, 0.7071067811865476)
    """
    raise NotImplementedError


@exercise("12.3", "Bytes of ZeRO", points=6, minutes=20, difficulty=2, section="zero")
def zero_bytes(layers: list[int], world: int, stage: int, micro_batches: int, bf16: bool) -> tuple[int, int]:
    """Count the bytes that a rank holds, and the bytes that it sends for one update, in each stage of ZeRO.

    In fp32, weights and gradients are numbers of 4 bytes, and AdamW keeps two moments of 4 bytes for each
    parameter. With ``bf16``, weights and gradients are numbers of 2 bytes, and the optimizer keeps the two
    moments and a master of the weight, of 4 bytes each. Gradients and weights are sent as they are held.

    What is sharded is cut layer by layer into ``world`` shards of equal size, for which a layer is padded
    with zeros. Stage 0 (data parallel) shards nothing, stage 1 shards the optimizer, stage 2 the gradients,
    too, and stage 3 the weights, too. Where the gradients are sharded, the rank holds beside its shards the
    whole gradient of one layer, padded, until it is reduced; where the weights are sharded, the whole weights
    of one layer, padded, too. At the worst moment that is the largest layer.

    All traffic runs on rings: in a reduce-scatter or an all-gather of a layer, a rank sends all shards but
    one, padding included, also in stage 0. Per layer:

    - Stage 0: one all-reduce of the gradients per update (a reduce-scatter and an all-gather).
    - Stage 1: one reduce-scatter of the gradients and one all-gather of the new weights per update.
    - Stage 2: one reduce-scatter of the gradients per *micro-batch*, since a rank cannot accumulate what it
      does not hold, and one all-gather of the new weights per update.
    - Stage 3: per micro-batch an all-gather of the weights in the forward pass, another one in the backward
      pass, and a reduce-scatter of the gradients.

    Args:
        layers: The number of parameters of each layer, of which there is at least one; however large.
        world: The number of ranks, 2 or more.
        stage: 0 to 3.
        micro_batches: How many a rank accumulates before an update, 1 or more.
        bf16: Whether weights and gradients have 2 bytes.

    Returns:
        The most bytes that a rank holds at any moment (weights, gradients and optimizer; no activations), and
        the bytes that it sends for one update. Both are exact.

    The functions of `myllm.config` and `myllm.accounting` may not be used.

    Example:
        Layers of 10 and 6 numbers have shards of 3 and 2 numbers on 4 ranks. In stage 2 a rank holds 16
        weights, 5 gradients, 5 times 3 numbers of the optimizer and a padded gradient of 12 numbers. It sends
        3 * 5 gradients twice and 3 * 5 weights once.

        >>> zero_bytes([10, 6], 4, 2, 2, True)
        (126, 90)
    """
    # May not be called: myllm.config.*, myllm.accounting.*.
    raise NotImplementedError


@exercise("12.4", "Choose a strategy", points=7, minutes=30, difficulty=3, section="choose")
def choose(job: dict[str, Any], plans: list[dict[str, Any]]) -> tuple[str | None, dict[str, str | float]]:
    """Choose the plan that trains a model fastest on given machines, and give the evidence for each plan.

    A plan uses ``data * tensor`` GPUs. Each group of ``tensor`` neighbouring GPUs computes the same sequences
    with a part of each layer (tensor parallelism). The groups share the sequences of a batch equally, and
    each computes its sequences in one pass (data parallelism); if the plan is ``sharded``, weights, gradients
    and optimizer are spread over the groups as well (FSDP). The rules, in this order:

    1. ``"batch"``: drop a plan if the sequences of a batch cannot be shared equally by ``data`` groups.
    2. ``"memory"``: drop a plan if a GPU needs more than ``memory`` bytes. It needs 16 bytes for each of its
       parameters, of which it has a part of ``1 / tensor``, or ``1 / (tensor * data)`` if the plan is
       sharded; and a part of ``1 / tensor`` of the activations of its group's sequences.
    3. Of what is left, choose the plan with the fewest seconds per update; if several have the fewest, the
       first in the list. The seconds are the sum of three:

       - computing: ``seconds`` for each sequence of a group, divided by ``tensor``.
       - tensor traffic: each sequence takes 4 all-reduces per layer, each of ``tokens * width`` numbers of 2
         bytes, within the group of ``tensor`` GPUs. A group sits in one node if it is no larger than a node.
       - data traffic: the gradients of the parameters of a GPU, ``parameters / tensor`` numbers of 2 bytes.
         They take one all-reduce over ``data`` GPUs per update, or, if the plan is sharded, two all-gathers
         of the weights, which have the same size, and one reduce-scatter. All this runs within a node only if
         the whole plan fits in one.

       An all-reduce of S bytes over n GPUs takes ``2 * (n - 1) / n * S`` divided by the speed of the link, an
       all-gather or a reduce-scatter half of that. The link is ``fast`` within a node, and ``slow`` as soon
       as one of the GPUs that take part is in another node.

    Args:
        job: The model and the machines: ``parameters``, ``layers``, ``width``, ``tokens`` (of a sequence),
            ``batch`` (sequences of an update), ``activations`` (bytes for one sequence in all layers
            together), ``seconds`` (for one sequence, forward and backward, on one GPU), and ``machines``, a
            dict of its own: ``memory`` (bytes of a GPU), ``node`` (GPUs in a node), ``fast`` and ``slow``
            (bytes per second).
        plans: Dicts with ``name``, ``data``, ``tensor`` and ``sharded``. Sizes of tensor groups divide the
            size of a node or are multiples of it.

    Returns:
        The name of the chosen plan, or None if rules 1 and 2 drop all; and a dict that gives for the name of
        each plan the rule that dropped it, or its seconds per update, a float.

    Example:
        Two GPUs halve the second of computing; sending 2 * 1/2 * 200 bytes takes 0.2 seconds.

        >>> job = {"parameters": 100, "layers": 1, "width": 5, "tokens": 10, "batch": 2}
        >>> job |= {"activations": 50, "seconds": 0.5}
        >>> job |= {"machines": {"memory": 1700, "node": 2, "fast": 1000, "slow": 100}}
        >>> one = {"name": "one", "data": 1, "tensor": 1, "sharded": False}
        >>> ddp = {"name": "ddp", "data": 2, "tensor": 1, "sharded": False}
        >>> choose(job, [one, ddp, {"name": "many", "data": 3, "tensor": 1, "sharded": True}])
        ('ddp', {'one': 1.0, 'ddp': 0.7, 'many': 'batch'})
    """
    # May not be called: myllm.config.*, myllm.accounting.*.
    raise NotImplementedError


@exercise("12.5", "An elastic sampler", points=6, minutes=20, difficulty=2, section="data-parallel")
def shard(n: int, seed: int, epoch: int, rank: int, world: int, start: int) -> list[int]:
    """Design a sampler that goes on with another number of ranks as if nothing had happened.

    An epoch has one order of the items 0 to ``n - 1``, which all ranks agree on without a message. In each
    step the ranks together use the next ``world`` items of it, one each: rank 0 the first, rank 1 the second,
    and so on. Any order is right that satisfies this contract:

    - It depends on n, the seed and the epoch alone, so that a run may stop after any step and go on with
      another number of ranks: nothing is repeated, nothing is left out.
    - Two different pairs of seed and epoch give different orders, also (0, 1) and (1, 0).
    - It is well shuffled: any item may come first, and any other item may follow it.
    - PyTorch's, NumPy's and Python's global random generators are neither used nor changed.

    Args:
        n: The number of items, 1 or more.
        seed: Of the run, 0 or more.
        epoch: 0 or more.
        rank: The number of this rank, 0 to ``world - 1``.
        world: The number of ranks now, 1 or more.
        start: How many items of this epoch all ranks together have used already, 0 to n; it need not be a
            multiple of ``world``.

    Returns:
        The items that this rank will use, one for each step that is left, as Python's integers. All ranks
        have equally many: the last items of the order, fewer than ``world``, that do not fill a step, are
        used by none.

    Example:
        There is only one order of one item.

        >>> shard(1, 0, 0, 0, 1, 0)
        [0]
    """
    raise NotImplementedError
