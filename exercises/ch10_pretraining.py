"""Chapter 10, Pretraining: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("10.1", "AdamW for the rows that occur", points=6, minutes=20, difficulty=2, section="adamw")
def adamw_step(
    p: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    counts: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Update those rows of a table of embeddings whose tokens occur in the batch, and leave the others alone.

    Plain AdamW also moves the row of a token that does not occur: by its old average m, and by weight decay.
    Here such a row keeps p, m, v and its count exactly. A row that occurs is updated as AdamW does, with
    decoupled decay: what is taken away is ``lr * decay`` times the row as it was before. As rows are updated
    at different times, each has a count of its own, and its averages are corrected with that count.

    Args:
        p: Parameters, (n, d), float32 or float64. n and d may be 0.
        grad: Their gradient, of the shape and dtype of ``p``, as are ``m`` and ``v``. In rows that do not
            occur it may be anything, even NaN.
        m: The moving average of the gradient; 0 in a row that was never updated.
        v: The moving average of the squared gradient; 0 in a row that was never updated.
        counts: (n,) int64, how many updates each row has had so far, this one not included.
        lr: Learning rate.
        betas: The decay rates of m and v; each is 0 or more and less than 1.
        eps: Larger than 0, outside the root: it is added to the root of the corrected v.
        decay: Weight decay.
        rows: (n,) bool, true for the rows that occur.

    Returns:
        The new p, m, v and counts, with the shapes and dtypes of the old ones, which stay as they are. For
        full points, the number of tensor operations does not grow with n.

    ``torch.optim.AdamW``, ``torch.optim.Adam`` and the functions of `myllm.training` may not be used.

    Example:
        Two tokens, of which the first occurs. In the first update, the corrected m is the gradient and the
        root of the corrected v its size, so the row loses 0.1 * (1 + 0.5 * 1).

        >>> p, grad, none = torch.ones(2, 1), torch.full((2, 1), 2.0), torch.zeros(2, 1)
        >>> counts, rows = torch.tensor([0, 7]), torch.tensor([True, False])
        >>> p, m, v, counts = adamw_step(p, grad, none, none, counts, 0.1, (0.9, 0.99), 1e-8, 0.5, rows)
        >>> p.flatten(), m.flatten(), v.flatten(), counts
        (tensor([0.8500, 1.0000]), tensor([0.2000, 0.0000]), tensor([0.0400, 0.0000]), tensor([1, 7]))
    """
    # May not be called: torch.optim.AdamW, torch.optim.Adam, myllm.training.*.
    raise NotImplementedError


@exercise("10.2", "Name the illness", points=7, minutes=30, difficulty=3, section="ward")
def diagnose(log: dict[str, Any]) -> str:
    """Name what is wrong with a training run, from its log. A log has one illness at most.

    The logs are generated so that their signs are clear; those of real runs, as in the ward, are less so.

    The labels and what they mean:

    - ``"unshifted labels"``: the target of each token is the token itself, in training and in evaluation.
    - ``"bad initialization"``: the weights were far too large at the start.
    - ``"rate too high"``: from the peak rate on, all updates are far too large. The loss stays near that of
      guessing, climbs back to it, or becomes NaN.
    - ``"no warm-up"``: the first updates use the peak rate and are so large that the model gets worse than
      guessing. Then it recovers.
    - ``"rate too low"``: all updates are far too small.
    - ``"overfitting"``: a few batches are repeated until the model knows them by heart.
    - ``"evaluation in train mode"``: dropout is active in the evaluations, too.
    - ``"healthy"``: none of these.

    What you can rely on:

    - Guessing gives ln V nats per token. A healthy start is within 5 % of it, a bad initialization above it
      by a half or more. No honest model gets below 1 nat on held-out text; one that sees its targets ends
      below 0.1.
    - At the peak rate, healthy updates of these small models are 0.005 to 0.05 of the weights. Far too large
      is above 0.2, far too small is below 0.001. If the weights are too large, the ratio is small as well.
    - An evaluation without dropout gives the same number twice. Two evaluations with dropout differ by 0.002
      or more.
    - A model that overfits ends above its lowest held-out loss by 0.3 or more. Up to 0.05 is noise.

    What is harmless: a held-out loss that is higher or lower than that of the batches by an amount that stays
    about the same; a peak rate from the start that does no damage; a rate that falls to 0 at the end; and a
    single bad batch, with a loss and a gradient far above the others, of which no other entry shows anything.

    Args:
        log: A dict with ``vocab_size``, V, and six lists of the same length, six entries or more. The first
            entry belongs to the first update; its losses are those before it. The lists are: ``train``, the
            loss of the batch; ``validation``, the loss on held-out text; ``again``, the same evaluation once
            more, with the same weights and text; ``norm``, of the gradient; ``ratio``, the size of the update
            divided by that of the weights; and ``rate``, the learning rate. Losses are in nats per token.
            After a NaN, everything but the rate is NaN. Optimizers differ, so the size of the rate says
            nothing; its course may.

    Returns:
        One of the eight labels.

    Example:
        >>> losses = [4.2, 0.9, 0.2, 0.06, 0.03, 0.02]
        >>> log = {"vocab_size": 64, "train": losses, "validation": losses, "again": losses}
        >>> log["norm"] = [2.1, 1.5, 0.4, 0.1, 0.05, 0.04]
        >>> log["ratio"] = [0.01, 0.02, 0.02, 0.02, 0.016, 0.008]
        >>> log["rate"] = [0.05, 0.1, 0.1, 0.1, 0.08, 0.04]
        >>> diagnose(log)
        'unshifted labels'
    """
    raise NotImplementedError


@exercise("10.3", "Spend a budget of FLOPs", points=6, minutes=20, difficulty=2, section="forecast")
def spend(
    flops: float, unique_tokens: float, fit: dict[str, float], table: int
) -> tuple[float, float, float, float]:
    """Choose the size of a model and the number of its tokens for a budget of FLOPs and little text.

    Micro-runs gave the law ``L(N, D) = E + A / N**a + B / D**b``. Here N counts the parameters that multiply:
    the matrices of the layers and the head, which has its own matrix. It does not count the embedding table,
    which is only looked up. For each token, a parameter that multiplies takes part in one multiplication and
    one addition in the forward pass, and in twice as many in the backward pass.

    Choose N and D so that the predicted loss is lowest and the training takes ``flops``. D counts tokens with
    repetitions. Up to four epochs, a repeated token is worth as much as a new one (Muennighoff et al., 2023);
    beyond that, it is assumed to be worth nothing. So D is at most four times ``unique_tokens``, and if that
    is less than you would choose otherwise, spend all FLOPs on a larger model.

    Args:
        flops: The budget, larger than 0.
        unique_tokens: Tokens of text that there are, larger than 0.
        fit: E, A, a, B and b, each larger than 0.
        table: The numbers in the embedding table, which you cannot choose.

    Returns:
        The parameters of the whole model with the table; the tokens D; the number of epochs, not rounded; and
        the predicted loss, in nats per token. Neither N nor D is rounded. A relative error of 0.0001 is
        accepted, so a search will do as well as a formula.

    Example:
        With this law, N and D would both be 10 million. There are only 1 million tokens, so D is 4 million.

        >>> fit = {"E": 1.5, "A": 1000.0, "a": 0.5, "B": 1000.0, "b": 0.5}
        >>> spend(6e14, 1e6, fit, 1_000_000)
        (26000000.0, 4000000.0, 4.0, 2.2)
    """
    raise NotImplementedError


@exercise("10.4", "Muon or AdamW?", points=6, minutes=25, difficulty=2, section="race")
def compare(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare two optimizers fairly: each at its own best rate, at equal FLOPs, with the spread of the seeds.

    1. The budget is what the shortest run took: the smallest product of the number of updates and the FLOPs
       of one. The loss of a run is that after the last update with which it stays within the budget.
    2. The best rate of an optimizer is that with the lowest mean loss over its seeds. A rate with a loss that
       is not finite cannot be the best. Of equal means, the smaller rate is the better one.
    3. An optimizer wins if, each at its best rate, all its losses are lower than all losses of the other.
    4. If the best rate is the smallest or the largest that was tried with this optimizer, including those
       that were not finite, a better one may lie outside.

    Args:
        runs: A table in any order, in which each row is a dict: ``optimizer``, ``"adamw"`` or ``"muon"``;
            ``rate``; ``seed``; ``flops``, an int, those of one update; and ``losses``, the loss on held-out
            text after each update, of which there may be any number from one on. The budget is enough for
            one update of every run. Both optimizers occur, each
            with at least one rate whose losses are finite. The rates and numbers of seeds may differ.

    Returns:
        A dict: ``rates``, a dict that gives the best rate of each optimizer; ``difference``, the mean loss of
        AdamW minus that of Muon, each at its best rate; ``winner``, the name of the optimizer that wins, or
        None; and ``edge``, the names of the optimizers to which the fourth rule applies, in alphabetical
        order.

    Example:
        The shortest run took 30 FLOPs. With these, AdamW makes three updates, Muon two.

        >>> adamw = {"optimizer": "adamw", "rate": 0.1, "seed": 0, "flops": 10, "losses": [3.0, 2.5, 2.0]}
        >>> muon = {"optimizer": "muon", "rate": 0.2, "seed": 0, "flops": 14, "losses": [3.0, 2.25, 1.5]}
        >>> compare([adamw, muon])
        {'rates': {'adamw': 0.1, 'muon': 0.2}, 'difference': -0.25, 'winner': 'adamw',
         'edge': ['adamw', 'muon']}
    """
    raise NotImplementedError


@exercise("10.5", "Fix a schedule without an end", points=6, minutes=20, difficulty=2, section="schedules")
def anneal(step: int, peak: float, warmup: int, finishes: list[tuple[int, int]]) -> float:
    """Debug the learning rate of a run whose end nobody knows.

    The run warms up, and then stays at the peak rate. Whenever a finished model is wanted, somebody announces
    a *finish*: from update ``start`` on, the rate falls for ``length`` updates, and after that, training goes
    on. The rules:

    1. Outside of finishes, the rate of update s, counted from 0, is the peak, or ``(s + 1) / warmup`` of it
       if that is less. So after a finish it returns to that rate at once.
    2. During a finish, the rate falls linearly from the rate r that update ``start`` would have without it.
       The first of its updates already falls, to ``(length - 1) / length`` of r, and the last one uses 0.
    3. A finish may start within the one before it, because plans change. From the start of the later one on,
       the earlier one is void, also after the later one has ended.
    4. What is announced changes no rate before its start.

    This version breaks all four rules, some of them more than once::

        if step < warmup:
            return peak * step / warmup
        for start, length in finishes:
            if start <= step < start + length:
                return peak * (1 - (step - start) / length)
            if step >= start + length:
                since = step - (start + length)
                return peak * min(1, (since + 1) / warmup)
        end = max(start + length for start, length in finishes)
        return peak * (1 + math.cos(math.pi * step / end)) / 2

    Args:
        step: The number of the update, 0 or more.
        peak: The peak rate.
        warmup: Updates of the warm-up; may be 0.
        finishes: What has been announced: pairs of ``start``, 0 or more, and ``length``, 1 or more. Each
            start is larger than the one before. May be empty.

    Returns:
        The rate of the update. For full points, the work does not grow with ``step``.

    Example:
        >>> [anneal(step, 1.0, 2, [(3, 4)]) for step in range(8)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 1.0]
    """
    raise NotImplementedError
