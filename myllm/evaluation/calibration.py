"""How far the probabilities of a classifier can be trusted: calibration and conformal prediction."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from myllm.files import UserError


def temperature_scale(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that gives ``softmax(logits / T)`` the highest likelihood (Guo et al., 2017).

    It changes no decision, only the stated confidence. Fit it on data unseen in training.

    Args:
        logits: (N, classes).
        labels: (N,) int64.

    Returns:
        T, between 1/100 and 100, found to a relative precision of 1e-6 by bisection on 1 / T, in which the
        log-likelihood is concave.
    """
    logits = logits.double()
    chosen = logits.gather(1, labels[:, None])[:, 0].mean()
    low, high = 0.01, 100.0
    while high - low > 1e-6 * low:
        beta = (low * high) ** 0.5  # the derivative of the log-likelihood with respect to 1 / T:
        slope = chosen - (F.softmax(beta * logits, -1) * logits).sum(-1).mean()
        low, high = (beta, high) if slope > 0 else (low, beta)
    return 1 / low


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error of the most likely class (Naeini et al., 2015; Guo et al., 2017).

    Examples are grouped into `bins` intervals of confidence of equal width; the error is the mean of
    ``|accuracy - mean confidence|`` over them, weighted by how many examples each holds.

    Args:
        probabilities: (N, classes).
        labels: (N,) int64.
        bins: The number of intervals (k / bins, (k + 1) / bins].
    """
    confidence, chosen = probabilities.double().max(-1)
    gap = confidence - (chosen == labels).double()  # (N,)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return torch.zeros(bins, dtype=gap.dtype).index_add(0, which, gap).abs().sum().item() / len(gap)


def conformal_threshold(probabilities: Tensor, labels: Tensor, miss: float = 0.1) -> float:
    """The threshold of split conformal prediction (Vovk et al., 2005; Angelopoulos and Bates, 2021).

    The prediction set of a new example, all classes with ``1 - probability <= threshold``, contains its true
    class with probability at least ``1 - miss``, whatever the model, if that example and these are
    exchangeable.

    Args:
        probabilities: (N, classes), of data that was not trained on.
        labels: (N,) int64.
        miss: The share of sets that may miss the true class, between 0 and 1.

    Returns:
        The ⌈(N + 1)(1 - miss)⌉-th smallest of ``1 - probability of the true class``; 1, which admits every
        class, if N is too small for the guarantee.
    """
    if not 0 < miss < 1:
        raise UserError(f"miss is between 0 and 1, not {miss}.")
    scores = 1 - probabilities.gather(1, labels[:, None])[:, 0]
    k = math.ceil((len(scores) + 1) * (1 - miss) - 1e-9)
    return 1.0 if k > len(scores) else scores.sort().values[k - 1].item()


def prediction_sets(probabilities: Tensor, threshold: float) -> Tensor:
    """Which classes each set contains, (N, classes) bool; none, or more than one, means "I don't know"."""
    return 1 - probabilities <= threshold
