"""Chapter 20, Learning from rewards: the exercises. Replace ``raise NotImplementedError`` with your answer."""

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("20.1", "Advantages with tools between", points=7, minutes=30, difficulty=3, section="gae")
def episode_advantages(
    rewards: Tensor,
    values: Tensor,
    after: Tensor,
    episode: Tensor,
    written: Tensor,
    ended: Tensor,
    discount: float,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Compute the advantages of rows that hold several episodes, in which a policy takes turns with tools.

    A row holds episodes one after the other. The tokens of an episode are adjacent and have its number; the
    numbers of a row's episodes differ, and padding, which may stand anywhere between episodes, has -1. In an
    episode, tokens that the policy wrote alternate with tokens that it was given: the question, what a tool
    answered. Both may begin an episode, and both may end it; it may also have no written token.

    Only written tokens are steps. What follows a step is the next written token of its episode, however many
    given tokens lie between: they cost neither discount nor decay.

    - The error of a step is its reward, plus ``discount`` times the value that follows, minus its own value.
    - Its raw advantage is its error, plus ``discount`` times ``decay`` times the raw advantage of the step
      that follows.
    - After the last step of an episode comes no step, so no advantage. The value that follows is 0 if the
      episode has ended. If it was cut, ``after`` at the last step is the value that follows.
    - The return of a step is its raw advantage plus its value.

    At the end, the raw advantages are whitened over all steps of all rows together: less their mean, divided
    by their standard deviation plus 1e-8. The standard deviation is the root of the mean squared deviation
    (``correction=0``). The returns are not whitened.

    Args:
        rewards: (B, T) float64, like ``values`` and ``after``. At tokens that are not written, all three hold
            anything, including NaN; so does ``after`` at all steps but the last one of an episode that was
            cut.
        values: (B, T), what is expected before each token.
        after: (B, T), what is expected after it.
        episode: (B, T) int64.
        written: (B, T) bool, true at one token at least, and never at padding.
        ended: (B, T) bool, the same at all tokens of an episode: true if it has ended, false if it was cut.
        discount: From 0 to 1, both included.
        decay: From 0 to 1, both included.

    Returns:
        The whitened advantages and the returns, (B, T) each, 0 at tokens that are not written.

    A loop over the T tokens is fine, one over rows is not. The functions of `myllm.finetuning` may not be
    used.

    Example:
        The raw advantages are 0.75 and 0.25; the token between them is given.

        >>> row = [[0.0, 9.0, 1.0]], [[0.25, 9.0, 0.75]], [[9.0, 9.0, 9.0]]
        >>> rewards, values, after = (torch.tensor(x, dtype=torch.float64) for x in row)
        >>> written, ended = torch.tensor([[True, False, True]]), torch.tensor([[True, True, True]])
        >>> number = torch.tensor([[4, 4, 4]])
        >>> white, returns = episode_advantages(rewards, values, after, number, written, ended, 1.0, 1.0)
        >>> white.round(decimals=4).tolist(), returns.tolist()
        ([[1.0, 0.0, -1.0]], [[1.0, 0.0, 1.0]])
    """
    # May not be called: myllm.finetuning.*.
    raise NotImplementedError
