"""Chapter 11, The engine: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from myllm.grading import exercise


@exercise("11.1", "Accumulate by weight", points=7, minutes=25, difficulty=2, section="accumulation")
def gradients(
    model: nn.Module, micro_batches: list[tuple[Tensor, Tensor, Tensor]], ignore: int
) -> tuple[float, list[Tensor]]:
    """Compute the loss of a batch and its gradients, one micro-batch after the other.

    Each token has a weight, as in a mixture of good and less good text. The loss of the whole batch is the
    weighted mean of the cross-entropies of all its tokens: the sum of weight times cross-entropy, divided by
    the sum of weights. A token whose target is ``ignore`` counts in neither sum, whatever its weight is.

    Args:
        model: Maps ids (B, T) to logits (B, T, V). Its parameters are all float32, all float64 or all
            bfloat16, and all require gradients. Their ``.grad`` may be anything when you are called: it does
            not count, and you may change it.
        micro_batches: Triples of ids (B, T), int64; targets (B, T), int64; and weights (B, T), float32, 0 or
            more. B and T may differ between micro-batches. A micro-batch may have no token that counts.
        ignore: A target that does not count: a negative number such as -100, or the id of a padding token.

    Returns:
        The loss, a float, and a list with one gradient for each of ``model.parameters()``, in that order, and
        of its shape: float64 for a float64 model, otherwise float32. It is zeros where the loss does not
        depend on a parameter. Gradients of micro-batches are summed in that dtype, not in bfloat16.
        For full points, each micro-batch goes through the model once, and its backward pass runs before
        the forward pass of the next one, so that the memory of a single micro-batch suffices.

    Raises:
        ValueError: The weights that count have the sum 0.

    The functions of `myllm.training` may not be used.

    Example:
        The model is a table of logits. The loss of each token is ln 2; the weights are 3 and 1.

        >>> model = nn.Embedding.from_pretrained(torch.zeros(2, 2), freeze=False)
        >>> one = torch.tensor([[0, 0]]), torch.tensor([[1, -1]]), torch.tensor([[3.0, 9.0]])
        >>> two = torch.tensor([[1]]), torch.tensor([[0]]), torch.tensor([[1.0]])
        >>> gradients(model, [one, two], -1)
        (0.6931471824645996, [tensor([[ 0.3750, -0.3750],
                [-0.1250,  0.1250]])])
    """
    # SOLUTION
    total = sum(float(weights[y != ignore].double().sum()) for _, y, weights in micro_batches)
    if total == 0:
        raise ValueError("no token counts")
    parameters = [*model.parameters()]
    sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    loss = 0.0
    for x, y, weights in micro_batches:
        logits = model(x).flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, y.flatten(), ignore_index=ignore, reduction="none")
        part = (losses * weights.flatten()).sum() / total
        loss += part.item()
        for i, gradient in enumerate(torch.autograd.grad(part, parameters, allow_unused=True)):
            if gradient is not None:
                sums[i] += gradient
    return loss, sums
    # END SOLUTION


@exercise("11.2", "A resume that jumps", points=7, minutes=25, difficulty=2, section="state")
def resume(checkpoint: dict[str, Any], data: Tensor, until: int) -> dict[str, Any]:
    """Debug a run that goes on from a checkpoint: it is right until it is interrupted for the first time.

    A small training run with momentum, dropout of gradients, a warm-up and a moving average. A checkpoint is
    a dict, and a new run is one as well: with ``done`` 0, an empty ``order``, a ``moment`` of zeros and an
    ``average`` equal to the weights. From a new run to its end, this version is right. It has five faults
    that show only when a run goes on where another one stopped; find and fix them::

        def resume(checkpoint, data, until):
            weights, average = checkpoint["weights"], checkpoint["weights"]
            moment = torch.zeros_like(weights)
            order = checkpoint["order"]
            generator = torch.Generator().manual_seed(checkpoint["seed"])
            for i in range(until - checkpoint["done"]):
                if i % len(data) == 0:
                    order = torch.randperm(len(data), generator=generator)
                row = data[order[i % len(data)]]
                kept = torch.rand(len(weights), generator=generator) < 0.75
                moment = 0.9 * moment + kept * (weights - row)
                rate = 0.1 * min(1, (i + 1) / 20)
                weights = weights - rate * moment
                average = 0.95 * average + 0.05 * weights
            return {
                "done": max(until, checkpoint["done"]),
                "weights": weights,
                "moment": moment,
                "average": average,
                "order": order,
                "generator": generator.get_state(),
                "seed": checkpoint["seed"],
            }

    Args:
        checkpoint: ``done``, the number of updates so far; ``weights``, ``moment`` and ``average``, each
            (D,), float32 or float64; ``order``, int64, the order of the rows in the epoch at hand, sampled at
            its first update, (N,), or (0,) before the first update of all; ``generator``, the state of the
            run's generator, which ``set_state`` takes; ``seed``, an int, with which that generator was made.
        data: (N, D), the rows to train on, N 1 or more.
        until: How many updates the run has when it ends. If that is ``done`` or less, nothing happens.

    Returns:
        The checkpoint at the end, with the same seven entries. However often a run is interrupted, and
        wherever, its last checkpoint is that of a run which was never interrupted.

    The functions of `myllm.training` may not be used.

    Example:
        After 30 updates, with one row of data, one more: the moment is 0.9 * 1.0, plus 2.0 where a gradient
        is kept.

        >>> state = torch.Generator().manual_seed(0).get_state()
        >>> old = {"done": 30, "weights": torch.tensor([3.0, 3.0, 3.0]), "moment": torch.ones(3)}
        >>> old |= {"average": torch.zeros(3), "order": torch.tensor([0]), "generator": state, "seed": 0}
        >>> new = resume(old, torch.ones(1, 3), 31)
        >>> new["moment"], new["average"]
        (tensor([2.9000, 0.9000, 2.9000]), tensor([0.1355, 0.1455, 0.1355]))
    """
    # SOLUTION
    weights, moment, average = (checkpoint[name] for name in ("weights", "moment", "average"))
    order = checkpoint["order"]
    generator = torch.Generator()
    generator.set_state(checkpoint["generator"])
    for step in range(checkpoint["done"], until):
        if step % len(data) == 0:
            order = torch.randperm(len(data), generator=generator)
        row = data[order[step % len(data)]]
        kept = torch.rand(len(weights), generator=generator) < 0.75
        moment = 0.9 * moment + kept * (weights - row)
        rate = 0.1 * min(1, (step + 1) / 20)
        weights = weights - rate * moment
        average = 0.95 * average + 0.05 * weights
    new = {"weights": weights, "moment": moment, "average": average, "order": order}
    done = max(until, checkpoint["done"])
    return checkpoint | new | {"done": done, "generator": generator.get_state()}
    # END SOLUTION


@exercise("11.3", "MFU and activation bytes", points=7, minutes=30, difficulty=3, section="flops")
def account(
    config: dict[str, int], B: int, T: int, seconds: float, peak: float, recompute: bool
) -> dict[str, float]:
    """Account for one training step of a LLaMA: the share of the peak it uses, and the bytes it keeps.

    Operations, in this convention:

    - Only matrix products count, with two operations for a multiply-add: those with the seven matrices of a
      layer (queries, keys, values, output; gate, up, down), those of the head, and in attention the scores
      and the weighted sums of values. Looking up an embedding is no product.
    - Attention counts only the pairs that the causal mask allows: the first token has one, the second has
      two, the last has T.
    - The backward pass takes twice the operations of the forward pass.
    - With ``recompute``, the backward pass does the forward pass of all layers once more, but not the head's.
      MFU counts the operations that are needed without recomputation; HFU counts all that are done.

    Bytes kept for the backward pass, two for each number and four for each logit:

    - For each token, a layer keeps the input and the output of each of its two norms, each C numbers; the
      rotated queries, the rotated keys and the values; the output of attention, as wide as the queries; and
      four vectors of the inner width: gate, up, silu(gate) and their product.
    - Behind the layers, the last norm keeps its input and output, and the loss keeps the logits.
    - Without ``recompute``, all of this is kept when the backward pass begins.
    - With ``recompute``, the forward pass keeps only the input of each layer, which is the input of its first
      norm, and everything behind the layers. The backward pass frees first what is behind the layers. Then it
      goes from the last layer to the first: it computes all that the layer keeps again, uses it, and frees it
      together with the layer's input.

    Args:
        config: ``n_layer``, ``n_embd`` (C), ``n_head``, ``n_kv_head``, ``head_dim``, ``inner`` and
            ``vocab_size``. ``n_head * head_dim`` need not be C. There are no biases.
        B: Sequences in the batch, 1 or more.
        T: Tokens in each, 1 or more.
        seconds: The duration of the step.
        peak: Operations that the machine can do in a second.
        recompute: Whether layers are computed again in the backward pass.

    Returns:
        ``mfu`` and ``hfu``, the operations counted as said, divided by those that the machine could have done
        in the time; and ``bytes``, an exact int, the largest number of bytes kept at one time.

    The functions of `myllm.config`, `myllm.accounting` and `myllm.model` may not be used.

    Example:
        A layer has 34 weights, and its attention three pairs; for two tokens, its forward pass takes
        160 operations and the head's 40. The layer keeps 56 bytes a token; behind it are 28.

        >>> config = {"n_layer": 1, "n_embd": 2, "n_head": 1, "n_kv_head": 1, "head_dim": 2, "inner": 3}
        >>> account(config | {"vocab_size": 5}, 1, 2, 1.0, 1000.0, True)
        {'mfu': 0.6, 'hfu': 0.76, 'bytes': 112}
    """
    # SOLUTION
    C, L, inner, V = (config[name] for name in ("n_embd", "n_layer", "inner", "vocab_size"))
    queries, keys = (config[name] * config["head_dim"] for name in ("n_head", "n_kv_head"))
    matrices = C * (2 * queries + 2 * keys + 3 * inner)
    layers = L * (2 * B * T * matrices + 2 * queries * B * T * (T + 1))  # 4 operations a pair and number
    useful = 3 * (layers + 2 * B * T * C * V)
    done = useful + layers * recompute

    entry = 2 * C  # bytes a token of a layer's input
    layer = 2 * (4 * C + 2 * queries + 2 * keys + 4 * inner)
    behind = 4 * C + 4 * V
    kept = L * entry + max(behind, layer - entry) if recompute else L * layer + behind
    possible = seconds * peak
    return {"mfu": useful / possible, "hfu": done / possible, "bytes": B * T * kept}
    # END SOLUTION


@exercise("11.4", "Which rungs of the ladder to keep", points=6, minutes=20, difficulty=2, section="ladder")
def keep(rungs: list[dict[str, Any]], updates: int) -> tuple[list[str], dict[str, str]]:
    """Choose the changes that make a training run faster, from measurements with and without each of them.

    Measurements come in pairs (without, with). The two of a pair were made one right after the other, or with
    the same seed, so what matters is their difference, the first minus the second. Differences are *clear* if
    their mean, without its sign, is larger than their spread, the largest minus the smallest. A single
    difference has the spread 0. The rules, in this order:

    1. ``"needs"``: drop a rung that needs another one if that was dropped.
    2. ``"loss"``: drop a rung if the differences of the losses are clear, in whichever direction. A change
       that only makes a run faster does not change the loss, not even for the better.
    3. ``"noise"``: drop a rung unless the seconds are less with it (in the mean) and the differences of the
       seconds are clear. The first pair of seconds contains what happens only once, such as compilation, and
       does not count.
    4. ``"setup"``: drop a rung unless the mean difference of the seconds, times ``updates``, is more than the
       seconds of ``setup``.

    Args:
        rungs: A table, in which each row is a dict: ``name``, different for each row; ``needs``, the name of
            a row further up, or None; ``losses``, one pair or more, one for each seed; ``seconds`` of an
            update, two pairs or more; and ``setup``, the seconds that the rung takes once, when a run begins.
        updates: The length of the planned run.

    Returns:
        The names of the rungs that are kept, in the order of the table, and a dict that gives for the name of
        each other rung the rule that dropped it.

    The functions of `myllm.training` may not be used.

    Example:
        Both save about 0.2 seconds an update, which is clear. The second one needs 30 seconds first.

        >>> seconds, losses = [(9.0, 5.0), (1.0, 0.8), (1.3, 1.1), (1.1, 0.8)], [(2.0, 2.0)]
        >>> fused = {"name": "fused", "needs": None, "losses": losses, "seconds": seconds, "setup": 0.0}
        >>> compiled = fused | {"name": "compiled", "setup": 30.0}
        >>> keep([fused, compiled], 100)
        (['fused'], {'compiled': 'setup'})
    """
    # SOLUTION
    kept, reasons = list[str](), dict[str, str]()

    def mean_and_spread(pairs: list[tuple[float, float]]) -> tuple[float, float]:
        differences = [before - after for before, after in pairs]
        return sum(differences) / len(differences), max(differences) - min(differences)

    for rung in rungs:
        change, loss_spread = mean_and_spread(rung["losses"])
        gain, spread = mean_and_spread(rung["seconds"][1:])
        if rung["needs"] in reasons:
            reasons[rung["name"]] = "needs"
        elif abs(change) > loss_spread:
            reasons[rung["name"]] = "loss"
        elif gain <= spread:
            reasons[rung["name"]] = "noise"
        elif gain * updates <= rung["setup"]:
            reasons[rung["name"]] = "setup"
        else:
            kept.append(rung["name"])
    return kept, reasons
    # END SOLUTION


@exercise("11.5", "How often to save", points=6, minutes=30, difficulty=3, section="state")
def interval(step_seconds: float, save_seconds: float, mtbf: float, total: int) -> int:
    """Choose after how many updates a run saves a checkpoint, so that saves and lost work cost least.

    The machine fails at random, on average once in ``mtbf`` seconds, whatever it does and whenever it failed
    last. A failure takes the run back to its last finished checkpoint; the run goes on from there at once. A
    stretch is n updates and then one save: w = n * step_seconds + save_seconds without a failure. With
    failures, it takes mtbf * (exp(w / mtbf) - 1) seconds on average. Divided by n, that is the time of an
    update, which you are to make small.

    Args:
        step_seconds: Seconds of an update, larger than 0.
        save_seconds: Seconds of a save, 0 or more, perhaps more than ``mtbf``. Training waits for it.
        mtbf: The mean time between failures in seconds, larger than 0; ``inf`` if the machine never fails.
        total: Updates in the run, 1 or more, perhaps very many. It always saves at its end.

    Returns:
        An int n, 1 to ``total``: updates between checkpoints. It need not be the best one: the time of an
        update may be up to a thousandth above the least that any n from 1 to ``total`` gives. If the machine
        never fails, n is ``total``. For full points, the work does not grow with ``total``.

    Example:
        An update takes ten minutes, a save one, and the machine fails every 10,000 seconds: with n from 1 to
        4, an update takes 682.3, 671.4, 681.4 and 697.2 seconds on average.

        >>> interval(600.0, 60.0, 10_000.0, 1000)
        2
    """
    # SOLUTION
    if math.isinf(mtbf):
        return total
    # Where the time of an update is least, y = n * step / mtbf solves y = 1 - exp(-(y + save / mtbf)).
    low, high = 0.0, 1.0
    for _ in range(100):
        y = (low + high) / 2
        low, high = (y, high) if y < -math.expm1(-(y + save_seconds / mtbf)) else (low, y)
    n = min(total, max(1, int(low * mtbf / step_seconds)))

    def cost(n: int) -> float:  # the logarithm, since the time itself may be too large for a float
        x = (n * step_seconds + save_seconds) / mtbf
        return x + math.log(-math.expm1(-x)) - math.log(n)

    return min(n, min(n + 1, total), key=cost)
    # END SOLUTION
