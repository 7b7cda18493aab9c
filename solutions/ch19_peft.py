"""Chapter 19, Low-rank adapters: the exercises. Replace ``raise NotImplementedError`` with your answer."""

import math
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("19.1", "An adapter that starts late", points=6, minutes=25, difficulty=2, section="lora-scale")
def late_adapter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    changes: list[tuple[int, Tensor, Tensor, float]],
    root: bool,
    start: Tensor,
) -> Tensor:
    """Compute a layer of GPT-2 with low-rank changes that act on some outputs, from some position on.

    GPT-2 stores a weight with a row for each *input*, so that y = x W + b. Queries, keys and values are one
    layer: they are neighbouring columns of y, and each may have changes of its own.

    A change is a tuple of ``first``, A, B and ``alpha``. A is (r, K) and B is (n, r), as in the chapter. It
    adds scale · x Aᵀ Bᵀ to n columns of y, from the column ``first`` on. The scale is alpha / r, or
    alpha / sqrt(r) if ``root``; the ranks of the changes may differ. Changes of the same columns add up.

    All changes act on the text m from the position ``start[m]`` on, this one included. At the positions
    before it, the output is that of the base, so that what is cached of them serves every adapter; this
    holds even if training has made a change NaN or infinite.

    Args:
        x: (M, T, K), the inputs of M texts, float32 or float64, like all other tensors except ``start``.
        weight: (K, N).
        bias: (N,).
        changes: Any number of changes, also none.
        root: Which scale all changes have.
        start: (M,) int64, from 0 to T, both included.

    Returns:
        (M, T, N), of the dtype of ``x``. A and B are trained, so gradients must reach them.

    No loop over texts or positions, and A and B are never multiplied with each other. The functions of
    `myllm.finetuning` may not be used.

    Example:
        The change acts on the second column, and from position 1 on: 1 + 6 / 2 · (1 + 1) = 7.

        >>> x, weight, bias = torch.ones(1, 2, 1), torch.ones(1, 2), torch.zeros(2)
        >>> change = (1, torch.ones(2, 1), torch.ones(1, 2), 6.0)
        >>> late_adapter(x, weight, bias, [change], False, torch.tensor([1]))
        tensor([[[1., 1.],
                 [1., 7.]]])
    """
    # SOLUTION
    base = x @ weight + bias
    change = torch.zeros_like(base)
    for first, A, B, alpha in changes:
        scale = alpha / (math.sqrt(len(A)) if root else len(A))
        change[..., first : first + len(B)] += scale * (x @ A.T @ B.T)
    late = torch.arange(x.shape[1]) >= start[:, None]  # (M, T)
    return torch.where(late[..., None], base + change, base)
    # END SOLUTION


@exercise("19.2", "A loss that stays flat", points=6, minutes=25, difficulty=2, section="flat-loss")
def train_adapters(
    weights: list[Tensor], starts: list[Tensor], x: Tensor, y: Tensor, alpha: float, rate: float, steps: int
) -> tuple[list[Tensor], list[float]]:
    """Debug the training of adapters: its loss stays flat, and when it falls at last, it falls wrongly.

    Linear layers without biases follow each other, with tanh between them and not after the last one. Each
    layer has an adapter: A begins as the tensor in ``starts``, B as zeros, and the change of the weight is
    scale · B A, with a scale of alpha / r; the ranks of the layers may differ. The loss is the mean squared
    error over all numbers of the output. Each step is one of plain gradient descent (`torch.optim.SGD` with
    its defaults) on all of ``x``. Only A and B are trained, those of all layers.

    This version has six faults, and some of them hide others; find and fix them::

        base = [weight.clone().requires_grad_() for weight in weights]
        A = [torch.zeros_like(start) for start in starts]
        B = [torch.zeros(len(w), len(a)).to(w) for w, a in zip(weights, starts)]
        optimizer = torch.optim.SGD([*base, *A, *B], lr=rate)
        A, B = ([one.clone().requires_grad_() for one in part] for part in (A, B))
        losses = []
        for step in range(steps + 1):
            h = x
            for i, (w, a, b) in enumerate(zip(base, A, B)):
                with torch.no_grad():
                    frozen = h @ w.T
                h = frozen + alpha * (h @ a.T @ b.T)
                if i < len(base) - 1:
                    h = torch.tanh(h)
            loss = (h - y).square().mean()
            losses.append(loss.item())
            if step < steps:
                loss.backward()
                optimizer.step()
        return [(alpha * b @ a).detach() for a, b in zip(A, B)], losses

    Args:
        weights: One or more, (N, K) float64 each; the N of a layer is the K of the next.
        starts: For each layer (r, K) float64.
        x: (M, K) float64, the inputs of the first layer.
        y: (M, N) float64, what the last layer should give.
        alpha: More than 0.
        rate: The learning rate, more than 0.
        steps: 0 or more.

    Returns:
        The changes of the weights after the last step, (N, K) each, and ``steps`` + 1 losses: before the
        first step and after each step.

    All arguments stay as they are. The functions of `myllm.finetuning` may not be used.

    Example:
        The first gradient of B is -2, so B becomes 0.5, and the output 0.5 instead of 0.

        >>> zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        >>> train_adapters([zero], [one], one, one, 1.0, 0.25, 1)
        ([tensor([[0.5000]], dtype=torch.float64)], [1.0, 0.25])
    """
    # SOLUTION
    A = [start.clone().requires_grad_() for start in starts]
    B = [w.new_zeros(len(w), len(a)).requires_grad_() for w, a in zip(weights, A, strict=True)]
    scales = [alpha / len(a) for a in A]
    optimizer = torch.optim.SGD([*A, *B], lr=rate)
    losses: list[float] = []
    for step in range(steps + 1):
        h = x
        for i, (w, a, b, scale) in enumerate(zip(weights, A, B, scales, strict=True)):
            h = h @ w.T + scale * (h @ a.T @ b.T)
            if i < len(weights) - 1:
                h = torch.tanh(h)
        loss = (h - y).square().mean()
        losses.append(loss.item())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [(scale * b @ a).detach() for a, b, scale in zip(A, B, scales, strict=True)], losses
    # END SOLUTION


@exercise("19.3", "The memory of three plans", points=6, minutes=30, difficulty=2, section="lora-memory")
def memory(model: dict[str, int], plan: dict[str, Any]) -> dict[str, int]:
    """Count what full tuning, LoRA and QLoRA keep in memory for the parameters of a model.

    The model:

    - Each layer has seven matrices, with these numbers of inputs and outputs. ``q``: width, heads · head_dim.
      ``k`` and ``v``: width, kv_heads · head_dim each. ``o``: heads · head_dim, width. ``gate`` and ``up``:
      width, hidden each. ``down``: hidden, width.
    - Each layer has two norms, and one more norm follows the last layer; a norm has ``width`` weights.
    - The tables ``embed`` and ``head`` have vocab · width weights each. If ``tied``, both are one and the
      same table, which is stored once.

    The method of the plan:

    - ``"full"``: all of the model is trained; the rest of the plan does not count.
    - ``"lora"``: all of the model is frozen. In every layer, each matrix that is named in ``ranks`` gets A
      (rank · inputs weights) and B (outputs · rank) and, if ``dora``, a magnitude for each output. They are
      trained. So are copies of the tables that are named in ``whole``. The frozen tables stay in memory, too,
      and a copy is a table of its own even if the model's are tied.
    - ``"qlora"``: as "lora", but the matrices of the layers are frozen in NF4. A row has the weights of one
      output; it begins a new block. Blocks have 64 weights, and the last one of a row may have fewer. Each
      weight takes half a byte, each block a scale of one byte. Of the scales of a matrix, 256 at a time share
      one more of 4 bytes; the last of these may serve fewer.

    What is trained takes 4 bytes for each weight, 4 for its gradient and 8 for the moments of AdamW. What is
    frozen has neither gradient nor moments, and takes 2 bytes for each weight if it is not in NF4.
    Activations do not count here.

    Args:
        model: ``layers``, ``width``, ``heads``, ``kv_heads``, ``head_dim``, ``hidden``, ``vocab`` and
            ``tied`` (1 or 0). The number of inputs is even for all matrices.
        plan: ``method``; ``ranks``, from names of matrices to ranks, may be empty; ``dora`` (1 or 0); and
            ``whole``, a list that holds "embed", "head", both or neither.

    Returns:
        ``trained``, the number of weights that are trained; and the bytes of all ``weights``, of their
        ``gradients`` and of their ``moments``.

    The functions of `myllm.accounting` and `myllm.finetuning` may not be used.

    Example:
        A has 4 weights and B has 4. Frozen are 4 · 16 + 3 · 32 weights of matrices, 3 · 4 of norms, and 40 of
        the table: 212 · 2 + 8 · 4 bytes.

        >>> model = dict(layers=1, width=4, heads=2, kv_heads=2, head_dim=2, hidden=8, vocab=10, tied=1)
        >>> memory(model, dict(method="lora", ranks={"q": 1}, dora=0, whole=[]))
        {'trained': 8, 'weights': 456, 'gradients': 32, 'moments': 64}
    """
    # SOLUTION
    width, hidden, layers = model["width"], model["hidden"], model["layers"]
    queries, keys = model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
    table = model["vocab"] * width
    shapes = {"q": (width, queries), "k": (width, keys), "v": (width, keys), "o": (queries, width)}
    shapes |= {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    matrices = layers * sum(inputs * outputs for inputs, outputs in shapes.values())
    others = (2 * layers + 1) * width + table * (1 if model["tied"] else 2)
    if plan["method"] == "full":
        trained, frozen = matrices + others, 0
    else:
        trained, frozen = table * len(plan["whole"]), 2 * (matrices + others)
        for name, rank in plan["ranks"].items():
            inputs, outputs = shapes[name]
            trained += layers * (rank * (inputs + outputs) + outputs * plan["dora"])
    if plan["method"] == "qlora":
        scales = [outputs * math.ceil(inputs / 64) for inputs, outputs in shapes.values()]
        frozen += matrices // 2 - 2 * matrices
        frozen += layers * sum(count + 4 * math.ceil(count / 256) for count in scales)
    return {
        "trained": trained,
        "weights": frozen + 4 * trained,
        "gradients": 4 * trained,
        "moments": 8 * trained,
    }
    # END SOLUTION


@exercise("19.4", "A rank and a rate", points=7, minutes=25, difficulty=2, section="choose-rank-rate")
def choose(runs: list[dict[str, Any]], seeds: int, budget: int) -> tuple[int, float, bool]:
    """Choose the rank and the learning rate of an adapter by runs with several seeds.

    A plan is a rank with a rate. Each run tried a plan with one seed, and was asked the same questions.

    1. A plan counts if it was run with at least ``seeds`` seeds, if none of its runs diverged, and if its
       adapter has at most ``budget`` parameters.
    2. Of the plans of a rank that count, the one with the highest mean of right answers stands for the rank;
       of equal ones, the one with the lowest rate.
    3. Of the plans that stand for a rank, the best one has the highest mean; of equal ones, the one with the
       lowest rank. Another is as good unless each run of the best one has more right answers than each of
       its runs. Of the best and those that are as good, choose the one with the lowest rank.
    4. Say whether the chosen rate lies at an edge: whether it is the lowest or the highest of all rates that
       were tried at this rank, also in runs that diverged and in plans that do not count. Beyond an edge,
       there may be a better rate.

    Args:
        runs: In any order, each with ``r``; ``rate``; ``seed``; ``parameters``, which is the same for all
            runs of a rank; and ``right``, the number of right answers, or None if the run diverged. There
            are no two runs of a plan with the same seed.
        seeds: 1 or more.
        budget: The most parameters; as many are allowed.

    Returns:
        The rank, its rate, and whether it lies at an edge.

    Raises:
        ValueError: No plan counts.

    Example:
        At rank 4, a run with the rate 0.01 diverged. Rank 8 has the higher mean, but its worst run is no
        better than the best one of rank 4.

        >>> table = {(4, 0.001): [50, 54], (4, 0.01): [60, None], (8, 0.001): [54, 58]}
        >>> runs = [
        ...     {"r": r, "rate": rate, "seed": seed, "parameters": 100 * r, "right": right}
        ...     for (r, rate), rights in table.items()
        ...     for seed, right in enumerate(rights)
        ... ]
        >>> choose(runs, 2, 800)
        (4, 0.001, True)
    """
    # SOLUTION
    plans: dict[tuple[int, float], list[int | None]] = {}
    for run in runs:
        if run["parameters"] <= budget:
            plans.setdefault((run["r"], run["rate"]), []).append(run["right"])
    counted: dict[tuple[int, float], list[int]] = {}
    for plan, results in plans.items():
        rights = [right for right in results if right is not None]
        if len(rights) == len(results) >= seeds:
            counted[plan] = rights
    if not counted:
        raise ValueError(f"no plan with {seeds} seeds has at most {budget} parameters")

    def mean(plan: tuple[int, float]) -> float:
        return sum(counted[plan]) / len(counted[plan])

    ranked = sorted(counted, key=lambda plan: (-mean(plan), plan))
    best, stands = ranked[0], dict[int, tuple[int, float]]()
    for plan in ranked:
        stands.setdefault(plan[0], plan)
    r, rate = min(plan for plan in stands.values() if max(counted[plan]) >= min(counted[best]))
    tried = [run["rate"] for run in runs if run["r"] == r]
    return r, rate, rate in (min(tried), max(tried))
    # END SOLUTION


@exercise("19.5", "A mixture for each request", points=7, minutes=30, difficulty=3, section="many-adapters")
def serve(
    x: Tensor,
    weight: Tensor,
    adapters: dict[str, tuple[Tensor, Tensor, float]],
    requests: list[tuple[int, dict[str, float]]],
) -> Tensor:
    """Design a layer for a batch in which each request mixes adapters in its own way.

    The tokens of the requests follow each other without padding. A request is a pair of the number of its
    tokens and a dict, which gives the strengths of the adapters that it wants by their names. Its tokens go
    through the weight W + Σ strength · alpha / r · B A, a sum over its adapters. The strengths are
    used as they are: they need not add up to 1, and may be negative. An empty dict means the base alone.

    The ranks of the adapters and their alphas may differ. Some adapters may be wanted by nobody, others by
    several requests.

    The design is free, but its cost is limited: the number of tensor operations may grow with the number of
    adapters, but not with that of requests or tokens. A and B are never multiplied with each other, and
    neither is copied for each request or token.

    Args:
        x: (M, K), float32 or float64, like all other tensors. All tokens of the batch.
        weight: (N, K), as in `torch.nn.Linear`.
        adapters: By name: A, (r, K); B, (N, r); and alpha. May be empty.
        requests: One or more. The numbers of tokens are 1 or more each, and add up to M.

    Returns:
        (M, N), of the dtype of ``x``.

    The functions of `myllm.finetuning` may not be used.

    Example:
        The base gives 1. The second request adds 3 · 4 / 2 · (1 + 1) to it.

        >>> adapters = {"a": (torch.ones(2, 1), torch.ones(1, 2), 4.0)}
        >>> serve(torch.ones(3, 1), torch.ones(1, 1), adapters, [(2, {}), (1, {"a": 3.0})])
        tensor([[ 1.],
                [ 1.],
                [13.]])
    """
    # SOLUTION
    table = [[wanted.get(name, 0.0) for name in adapters] for _, wanted in requests]
    lengths = torch.tensor([length for length, _ in requests])
    strengths = torch.tensor(table, dtype=x.dtype).repeat_interleave(lengths, 0)  # (M, adapters)
    y = x @ weight.T
    for column, (A, B, alpha) in zip(strengths.T, adapters.values(), strict=True):
        y = y + (alpha / len(A) * column)[:, None] * (x @ A.T) @ B.T
    return y
    # END SOLUTION
