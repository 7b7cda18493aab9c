"""Chapter 17, Classification: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("17.1", "Between the last and the mean", points=6, minutes=20, difficulty=2, section="pooling")
def pool(hidden: Tensor, keep: Tensor, decay: float) -> Tensor:
    """Pool hidden states to one vector for each text, with weights that decay towards its beginning.

    A text's vector is a weighted mean of the hidden states of its real tokens. The last real token has the
    weight 1, the real token before it ``decay``, the one before that ``decay`` squared, and so on; then all
    weights of a text are divided by their sum. So a decay of 0 is last-token pooling, and 1 is the mean.

    Padding may lie on either side of a text and also inside it: only ``keep`` says what is real, and padding
    does not count as a step. Hidden states of padding hold anything, including NaN and infinity.

    Args:
        hidden: (B, T, C), float32 or float64.
        keep: (B, T) bool, true for real tokens.
        decay: From 0 to 1, both included.

    Returns:
        (B, C), of the dtype of ``hidden``. The vector of a text without a real token is 0.

    Without a loop over texts or tokens. The classifiers of `myllm.finetuning` may not be used.

    Example:
        The padding in the middle is no step: the weights are 1 and one half, divided by their sum.

        >>> hidden = torch.tensor([[[3.0], [9.0], [6.0]]])
        >>> pool(hidden, torch.tensor([[True, False, True]]), 0.5)
        tensor([[5.]])
    """
    # SOLUTION
    after = keep.flip(1).cumsum(1).flip(1) - 1  # (B, T): the real tokens that follow
    weights = torch.where(keep, decay ** after.clamp(min=0).to(hidden), 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)  # the last token's is 1
    return torch.where(keep[..., None], hidden * weights[..., None], 0.0).sum(1)
    # END SOLUTION


@exercise("17.2", "The neighbour decides", points=7, minutes=25, difficulty=2, section="padding-attack")
def collate(
    texts: list[list[int]], pad: int, left: bool, longest: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Debug the batches of a classifier whose answer to a mail depends on the other mails of the batch.

    Each text is cut to its first ``longest`` tokens and then padded to the length T of the longest text in
    the batch, as it is after the cut. The padding stands before the text if ``left``, and after it otherwise.
    The number that fills it up, ``pad``, may also be a real token: many models pad with the token that ends
    a text.

    This version has six faults; find and fix them::

        B, T = len(texts), max(len(text) for text in texts)
        ids = torch.full((B, T), pad)
        for row, text in zip(ids, texts):
            text = text[-longest:]
            row[T - len(text) if left else 0 :][: len(text)] = torch.tensor(text)
        keep = ids != pad
        positions = torch.arange(T).expand(B, T)
        mask = torch.ones(T, T, dtype=torch.bool).tril() & keep[:, None]
        return ids, positions, mask, torch.full((B,), T - 1)

    Args:
        texts: One text or more, with one token or more each.
        pad: The token of the padding.
        left: The side.
        longest: 1 or more.

    Returns:
        The ids, (B, T); the positions, (B, T), which for the real tokens count from 0 and for padding are 0;
        the mask, (B, T, T) bool, true where a query (the second axis) may attend to a key; and the column of
        the last real token of each text, (B,). All but the mask are int64.

    A real token attends to itself and to all real tokens before it. Padding attends to itself alone: a query
    with nothing to attend to would be NaN. The functions of `myllm.finetuning` and `myllm.model.masks` may
    not be used.

    Example:
        The first text ends with a token that equals the padding.

        >>> ids, positions, mask, last = collate([[5, 0], [7, 8, 9]], 0, True, 9)
        >>> ids.tolist(), positions.tolist(), last.tolist()
        ([[0, 5, 0], [7, 8, 9]], [[0, 0, 1], [0, 1, 2]], [2, 2])
        >>> mask[0].int().tolist()
        [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    # SOLUTION
    texts = [text[:longest] for text in texts]
    lengths = torch.tensor([len(text) for text in texts])
    B, T = len(texts), max(map(len, texts))
    start = T - lengths if left else torch.zeros_like(lengths)
    ids = torch.full((B, T), pad)
    for row, text, first in zip(ids, texts, start.tolist(), strict=True):
        row[first : first + len(text)] = torch.tensor(text)
    positions = torch.arange(T) - start[:, None]  # (B, T)
    keep = (positions >= 0) & (positions < lengths[:, None])
    mask = torch.ones(T, T, dtype=torch.bool).tril() & keep[:, None] & keep[:, :, None]
    mask |= torch.eye(T, dtype=torch.bool)
    return ids, positions * keep, mask, start + lengths - 1
    # END SOLUTION


@exercise("17.3", "What freezing saves", points=7, minutes=30, difficulty=3, section="freezing")
def training_cost(model: dict[str, int], trained: list[str], run: dict[str, int]) -> dict[str, int]:
    """Count what a fine-tuning run costs when any parts of a classifier are trained and the others frozen.

    The parts follow each other: ``embed``; for each layer i from 0 ``attention i`` and ``mlp i``; ``norm``;
    ``head``. Their weights:

    - ``embed``: vocab × width. No FLOPs.
    - ``attention i``: the weights of a norm, width; then the matrices of queries (width × heads · head_dim),
      of keys and of values (width × kv_heads · head_dim each), and of the output (heads · head_dim × width).
    - ``mlp i``: the weights of a norm, width; then three matrices of width × hidden.
    - ``norm``: width.
    - ``head``: a matrix of width × classes, and classes biases. It sees one token of each text.

    A matrix costs 2 FLOPs for each weight and token, forwards; as many for the gradient of its input, and as
    many for that of its weights. Attention itself costs 4 · heads · head_dim · length² for each text and
    layer forwards (the mask saves nothing), and twice that backwards. Norms, biases and all else cost
    nothing.

    Backwards, only what is needed is computed: gradients of the weights that are trained, and the gradients
    through which the loss reaches them. The norm of a part comes first in it, so its gradient runs through
    all of this part.

    Forwards, what lies before the first trained part gives the same in each epoch: it is computed once and
    cached.

    Args:
        model: ``layers``, ``width``, ``heads``, ``kv_heads``, ``head_dim``, ``hidden``, ``vocab`` and
            ``classes``.
        trained: The names of the trained parts, at least one, in any order.
        run: ``texts``, of ``length`` tokens each, and ``epochs``.

    Returns:
        ``parameters``, those that are trained; ``bytes`` for their gradients and the two moments of AdamW, in
        float32; and ``forward`` and ``backward``, the FLOPs of the whole run.

    The functions of `myllm.accounting` and `myllm.finetuning` may not be used.

    Example:
        Only the head is trained: 3 × 2 weights and 2 biases. Backwards, it needs 2 · 6 FLOPs for each of 10
        texts, twice.

        >>> model = dict(layers=0, width=3, heads=1, kv_heads=1, head_dim=3, hidden=5, vocab=9, classes=2)
        >>> training_cost(model, ["head"], dict(texts=10, length=4, epochs=2))
        {'parameters': 8, 'bytes': 96, 'forward': 240, 'backward': 240}
    """
    # SOLUTION
    width, inner = model["width"], model["heads"] * model["head_dim"]
    tokens, length = run["texts"] * run["length"], run["length"]
    matrices = 2 * width * (inner + model["kv_heads"] * model["head_dim"])
    attention = (width, matrices, tokens, 4 * inner * length**2 * run["texts"])
    mlp = (width, 3 * width * model["hidden"], tokens, 0)
    # other weights, weights of matrices, tokens, FLOPs without weights
    parts = {"embed": (width * model["vocab"], 0, 0, 0)}
    for i in range(model["layers"]):
        parts |= {f"attention {i}": attention, f"mlp {i}": mlp}
    parts["norm"] = (width, 0, 0, 0)
    parts["head"] = (model["classes"], width * model["classes"], run["texts"], 0)

    parameters = forward = backward = 0
    reached = False  # is anything trained, up to here
    for name, (other, matrices, seen, core) in parts.items():
        below, here = reached, name in trained
        reached = below or here
        flops = 2 * matrices * seen
        forward += (flops + core) * (run["epochs"] if reached else 1)
        needed = below or (here and name != "head")  # nothing stands before the head's matrix
        backward += run["epochs"] * (flops * (needed + here) + 2 * core * needed)
        parameters += here * (other + matrices)
    return {"parameters": parameters, "bytes": 12 * parameters, "forward": forward, "backward": backward}
    # END SOLUTION


@exercise("17.4", "Spam, ham or ask", points=7, minutes=30, difficulty=2, section="threshold-costs")
def choose_thresholds(rows: list[dict[str, Any]], costs: dict[str, int]) -> tuple[float, float, float]:
    """Choose two thresholds of a spam filter by what its answers cost, and report their cost honestly.

    A mail is rejected if its probability of spam is at least ``high``, else left to a person if it is at
    least ``low``, and otherwise delivered. A ham that is rejected costs ``lost``, a spam that is delivered
    ``through``, and each mail that is left to a person ``person``. All else is free.

    1. The thresholds are chosen on the validation rows alone. Each of them is one of their probabilities, or
       infinity, and ``low`` is not above ``high``. A row stands for as many mails as its ``count``: where one
       class was sampled down, its rows count more.
    2. Choose the pair with the lowest total cost. Of several, choose the one that leaves the fewest mails to
       a person; then the one that loses the fewest ham; then the one with the highest ``high``; then the
       highest ``low``.
    3. Report what this pair costs on the test rows: the total cost, divided by the number of mails that these
       rows stand for, the sum of their counts.

    Args:
        rows: Dicts of ``split`` ("train", "validation" or "test"), ``probability``, ``spam`` (bool) and
            ``count``. At least one row is for validation, and one for the test.
        costs: ``lost``, ``through`` and ``person``, 0 or more each.

    Returns:
        ``low``, ``high``, and the cost of a mail of the test.

    Example:
        On the validation rows nothing goes wrong and nobody is asked. In the test, one of four mails is a ham
        that is lost.

        >>> rows = [dict(split="validation", probability=p, spam=p > 0.5, count=1) for p in (0.2, 0.7)]
        >>> rows += [dict(split="test", probability=p, spam=p > 0.8, count=1) for p in (0.1, 0.6, 0.75, 0.9)]
        >>> choose_thresholds(rows, dict(lost=10, through=1, person=2))
        (0.7, 0.7, 2.5)
    """
    # SOLUTION
    mails = {split: [row for row in rows if row["split"] == split] for split in ("validation", "test")}

    def outcome(part: list[dict[str, Any]], low: float, high: float) -> tuple[int, int, int]:
        lost = sum(row["count"] for row in part if not row["spam"] and row["probability"] >= high)
        through = sum(row["count"] for row in part if row["spam"] and row["probability"] < low)
        person = sum(row["count"] for row in part if low <= row["probability"] < high)
        total = lost * costs["lost"] + through * costs["through"] + person * costs["person"]
        return total, person, lost

    known = mails["validation"]
    candidates = sorted({math.inf, *(row["probability"] for row in known)})
    pairs = [(low, high) for high in candidates for low in candidates if low <= high]
    low, high = min(pairs, key=lambda pair: (*outcome(known, *pair), -pair[1], -pair[0]))
    test = mails["test"]
    return low, high, outcome(test, low, high)[0] / sum(row["count"] for row in test)
    # END SOLUTION


@exercise("17.5", "A split that survives drift", points=6, minutes=25, difficulty=2, section="mail-split")
def split(times: list[int], pairs: list[tuple[int, int]], share: float) -> list[str]:
    """Split mails into older ones to train on and later ones to test on, with no near-duplicate in both.

    Near-duplicates are given as pairs of mails. They chain: if the mails 1 and 2 are a pair, and 2 and 3 are
    one, all three are in one group.

    A cut is the time of some mail. Given a cut, each mail is in one of three parts:

    - ``"train"``: mails that are not later than the cut.
    - ``"drop"``: later mails of a group that also has a mail in ``"train"``. What was trained on would be
      tested.
    - ``"test"``: all other later mails.

    Of all cuts for which the test has at least ``share`` of the mails that are not dropped, the latest is
    taken, so that training has as many mails as possible.

    Args:
        times: The time of each mail, in any order; several mails may have the same.
        pairs: Pairs of numbers of mails, from 0, in any order; may be empty.
        share: More than 0 and less than 1.

    Returns:
        For each mail "train", "drop" or "test".

    Raises:
        ValueError: No cut gives such a test.

    The functions of `myllm.data` may not be used.

    Example:
        The cut is the time 3. The mail of the time 7 repeats one of the time 1: it is dropped.

        >>> split([7, 1, 9, 3, 8], [(0, 1)], 0.5)
        ['drop', 'train', 'test', 'train', 'test']
    """
    # SOLUTION
    group = [*range(len(times))]
    for a, b in pairs:
        group = [group[a] if one == group[b] else one for one in group]
    for cut in sorted({*times}, reverse=True):
        known = {one for one, time in zip(group, times, strict=True) if time <= cut}
        parts = [
            "train" if time <= cut else "drop" if one in known else "test"
            for one, time in zip(group, times, strict=True)
        ]
        if parts.count("test") >= share * (len(parts) - parts.count("drop")):
            return parts
    raise ValueError(f"no cut leaves {share:.0%} of the mails for the test")
    # END SOLUTION
