"""Chapter 20, Learning from rewards: the exercises. Replace ``raise NotImplementedError`` by your answer."""

import math
import re
from fractions import Fraction
from statistics import fmean, stdev
from typing import Any

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

    A row holds episodes one after the other. The tokens of an episode are adjacent and have its number, 0 or
    more; the numbers of a row's episodes differ. Padding, which may stand before, between and after episodes,
    has -1. In an episode, tokens that the policy wrote alternate with tokens that it was given: the question,
    what a tool answered. Both may begin an episode, and both may end it; it may also have no written token.

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
            At padding it says nothing.
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
    # SOLUTION
    raw = torch.zeros_like(values)
    advantage, value = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])  # of the next step
    number = torch.full_like(episode[:, 0], -1)  # and its episode
    for t in reversed(range(values.shape[1])):
        here, same = written[:, t], episode[:, t] == number
        last = torch.where(ended[:, t], 0.0, after[:, t])
        error = rewards[:, t] + discount * torch.where(same, value, last) - values[:, t]
        step = error + discount * decay * torch.where(same, advantage, 0.0)
        raw[:, t] = torch.where(here, step, 0.0)
        advantage = torch.where(here, step, advantage)
        value = torch.where(here, values[:, t], value)
        number = torch.where(here, episode[:, t], number)
    steps = raw[written]
    white = (raw - steps.mean()) / (steps.std(correction=0) + 1e-8)
    return torch.where(written, white, 0.0), torch.where(written, raw + values, 0.0)
    # END SOLUTION


@exercise("20.2", "The first ratio is not 1", points=7, minutes=30, difficulty=3, section="first-ratio")
def diagnose(
    noted: Tensor,
    ids: Tensor,
    written: Tensor,
    logits: dict[str, Tensor],
    stop: int,
    temperatures: list[float],
    nuclei: list[float],
) -> tuple[str, float, float]:
    """Debug the first update of a phase: say why the importance ratios are not 1.

    A policy wrote completions, and the log-probability of each token was noted when it was drawn. Then the
    training step computes logits for the same tokens. The *score* of a token, under some logits, is the
    log-softmax of the logits at its position, taken at the token.

    Two numbers agree if they are at most 1e-5 nats apart. What was noted agrees with scores if it does at all
    written tokens. In each call, exactly one of these eight verdicts is right:

    - ``"none"``: What was noted agrees with the scores under the logits of the training step.
    - ``"mask"``: It agrees at all written tokens up to the first written end token of each completion, this
      one included, and it does not agree at some written token after an end token.
    - ``"late"``: It was noted one token late. At each written token but the first one of its completion, it
      agrees with the score of the token before. What was noted at the first one says nothing.
    - ``"dropout"``: It agrees with the scores of the same weights without dropout.
    - ``"stale"``: It agrees with the scores of the weights before the last update.
    - ``"temperature"``: It agrees with the scores under the logits divided by one of the temperatures, the
      same one for all completions.
    - ``"top-p"``: It agrees with the scores when all logits outside the nucleus of one of the ``nuclei`` are
      minus infinity. The nucleus of p: the most probable tokens, as few of them as have p or more together.
    - ``"unknown"``: None of these.

    Where a verdict names no logits, those of the training step are meant.

    Args:
        noted: (R, T) float64. At tokens that are not written it holds anything, including NaN.
        ids: (R, T) int64: a prompt, a completion and padding in each row. ``logits[...][r, t]`` are the ones
            from which ``ids[r, t]`` is predicted: nothing is to be shifted.
        written: (R, T) bool, what the loss takes for the tokens of the completion: in each row one block of
            two or more adjacent tokens.
        logits: (R, T, V) float64 each, all finite and with no two equal numbers at a position: ``"train"`` of
            the training step, ``"eval"`` of the same weights without dropout, ``"old"`` of those before the
            last update, without dropout.
        stop: The end token. It may also stand in a prompt and in the padding.
        temperatures: More than 0 each, none of them 1.
        nuclei: More than 0 and less than 1 each.

    Returns:
        The verdict; the temperature or the p of the nucleus, and 1.0 for all other verdicts; and the largest
        distance between what was noted and the scores of the training step at all written tokens, in nats,
        whatever the verdict.

    The functions of `myllm.finetuning` and `myllm.inference` may not be used.

    Example:
        Both tokens were drawn with a probability of 0.9, and are trained with one of 0.75.

        >>> logits = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]], dtype=torch.float64).log()
        >>> noted = torch.tensor([[0.9, 0.9]], dtype=torch.float64).log()
        >>> ids, written = torch.tensor([[1, 1]]), torch.tensor([[True, True]])
        >>> three = dict(train=logits, eval=logits, old=-logits)
        >>> cause, setting, worst = diagnose(noted, ids, written, three, 5, [0.5, 0.7], [0.9])
        >>> cause, setting, round(worst, 4)
        ('temperature', 0.5, 0.1823)
    """
    # SOLUTION

    def scores(found: Tensor) -> Tensor:
        return torch.log_softmax(found, -1).gather(-1, ids[..., None])[..., 0]

    def agrees(found: Tensor, at: Tensor = written) -> bool:
        return bool(((found - noted)[at].abs() <= 1e-5).all())

    train = logits["train"]
    score = scores(train)
    worst = (score - noted)[written].abs().max().item()
    ends = (written & (ids == stop)).long()
    until = written & (ends.cumsum(1) - ends == 0)  # the end token included
    before = written & written.roll(1, 1)
    before[:, 0] = False
    known = {
        "none": agrees(score),
        "mask": agrees(score, until),
        "late": agrees(score.roll(1, 1), before),
        "dropout": agrees(scores(logits["eval"])),
        "stale": agrees(scores(logits["old"])),
    }
    for cause, fits in known.items():
        if fits:
            return cause, 1.0, worst
    for temperature in temperatures:
        if agrees(scores(train / temperature)):
            return "temperature", temperature, worst
    order = train.argsort(-1, descending=True)
    likely = torch.softmax(train, -1).gather(-1, order)
    above = torch.zeros_like(train).scatter(-1, order, likely.cumsum(-1) - likely)  # more probable ones
    for p in nuclei:
        if agrees(scores(train.masked_fill(above >= p, -torch.inf))):
            return "top-p", p, worst
    return "unknown", 1.0, worst
    # END SOLUTION


@exercise("20.3", "Better, or another seed", points=6, minutes=25, difficulty=2, section="measure-rl")
def choose_method(
    rows: list[dict[str, Any]], base: str, budget: int, factor: float
) -> tuple[str, tuple[float, float], str]:
    """Choose a method of policy gradients by paired seeds, at equal cost, and say by how much it is better.

    A run is a method with a seed. Each row is one measurement of a run; a run has one or more, each after
    another number of completions.

    1. The cost of a run is the number of completions that it has written up to then, those included that it
       has thrown away. Of each run, one measurement counts: of those with at most ``budget`` completions, the
       one with the most. A run without one is left out. All that follows is about measurements that count.
    2. The score of a run is its share of right answers, ``right / asked``.
    3. A method is compared with the base where both have a run with the same seed. From the n differences of
       scores (the method's less the base's) with mean m and standard deviation s (with n - 1), the interval
       of the method is m ± ``factor`` · s / sqrt(n). With fewer than two such seeds, it is not compared.
    4. A method is better if the lower end of its interval is above 0. Of the better ones, choose the one with
       the highest m; of equal ones, the first by name. If none is better, keep the base, with the interval
       (0.0, 0.0).
    5. Say also which method the reward in training would have chosen: of all methods with a run that is not
       left out, the base among them and those that are not compared, the one with the highest mean of
       ``reward`` over these runs; of equal ones, the first by name.

    Args:
        rows: In any order, each with ``method``, ``seed``, ``completions``, ``reward``, ``right`` and
            ``asked``.
        base: A method. At least one of its runs is not left out.
        budget: The most completions.
        factor: More than 0.

    Returns:
        The method, the lower and the upper end of its interval, and the method by reward.

    Example:
        The differences are 0.25 and 0.5. The third row has cost too much.

        >>> names = "method", "seed", "completions", "reward", "right", "asked"
        >>> table = [("a", 1, 90, 0.9, 1, 8), ("a", 2, 90, 0.8, 2, 8), ("b", 1, 95, 0.1, 8, 8)]
        >>> table += [("b", 1, 80, 0.6, 3, 8), ("b", 2, 90, 0.7, 6, 8)]
        >>> choose_method([dict(zip(names, row)) for row in table], "a", 90, 1.0)
        ('b', (0.25, 0.5), 'a')
    """
    # SOLUTION
    counted: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["completions"]):
        if row["completions"] <= budget:
            counted[row["method"], row["seed"]] = row
    score = {run: row["right"] / row["asked"] for run, row in counted.items()}
    names = sorted({name for name, _ in counted})

    chosen, top, interval = base, 0.0, (0.0, 0.0)
    for name in names:
        seeds = [seed for other, seed in score if other == name != base and (base, seed) in score]
        if len(seeds) < 2:
            continue
        differences = [score[name, seed] - score[base, seed] for seed in seeds]
        mean = fmean(differences)
        half = factor * stdev(differences) / math.sqrt(len(differences))
        if mean - half > 0 and mean > top:
            chosen, top, interval = name, mean, (mean - half, mean + half)

    def reward(name: str) -> float:
        return fmean(row["reward"] for (other, _), row in counted.items() if other == name)

    return chosen, interval, max(names, key=reward)  # the first of equal ones
    # END SOLUTION


@exercise("20.4", "The bill of a phase", points=7, minutes=30, difficulty=2, section="group-advantages")
def phase_bill(plan: dict[str, Any], shares: list[float]) -> dict[str, float]:
    """Count what one phase of PPO or GRPO keeps in memory and computes, and what of it teaches nothing.

    The models, with their numbers of weights:

    - The policy has ``policy`` weights. If ``adapter`` is 0, all of them are trained. Otherwise they are
      frozen, and an adapter of ``adapter`` weights is trained in addition.
    - If ``beta`` is not 0, a reference policy is needed: a frozen copy of the policy. With an adapter, it is
      no copy but the policy itself without the adapter, which costs no memory.
    - "ppo" trains all weights of a value model of its own, ``value`` of them. "grpo" has none, whatever
      ``value`` says.
    - The reward model has ``reward`` weights, all frozen. A 0 means a program that verifies answers; it costs
      nothing.

    Trained weights take 16 bytes each (with gradient and moments), frozen ones 2 bytes. All else takes none.

    A forward pass costs 2 FLOPs for each weight of a model and each token that it sees; the policy's adapter
    counts as weights of it, except where the policy is its own reference. A backward pass costs as much
    again for the gradients of inputs, and 2 FLOPs more for each *trained* weight and token. All else costs
    nothing.

    A phase:

    1. Write: the policy continues each prompt ``group`` times. All prompts have ``prompt`` tokens and all
       completions ``length`` tokens. With a cache, a prompt is seen once for its whole group, and each
       written token once, except the last one of each completion: nothing is written after it. The
       log-probabilities are noted on the way.
    2. Score: as far as they are there, the reference, the value model and the reward model each see every
       prompt with each of its completions, ``prompt`` + ``length`` tokens, in one forward pass.
    3. Update: the policy, and the value model if there is one, see the same tokens forwards and backwards,
       ``epochs`` times.

    A completion is right with the probability of its prompt, independently of the others. In GRPO, all
    advantages of a group are 0 if all of its completions are right, or all are wrong: these completions are
    silent. In PPO no completion is silent.

    Args:
        plan: ``method`` ("ppo" or "grpo"), and the numbers ``policy``, ``adapter``, ``value``, ``reward``,
            ``beta``, ``group``, ``prompt``, ``length`` and ``epochs``. The last four are 1 or more.
        shares: One or more probabilities: that of each prompt of the phase.

    Returns:
        ``bytes``; the FLOPs to ``write``, to ``score`` and to ``update``; and ``silent``, the expected number
        of silent completions of the phase.

    The functions of `myllm.accounting` and `myllm.finetuning` may not be used.

    Example:
        Two completions of one prompt: with a probability of 0.5 · 0.5 + 0.5 · 0.5, both are silent.

        >>> sizes = dict(policy=10, adapter=0, value=10, reward=5, beta=0.0, group=2, prompt=3, length=4)
        >>> phase_bill(dict(method="grpo", epochs=1) | sizes, [0.5])
        {'bytes': 170, 'write': 180, 'score': 140, 'update': 840, 'silent': 1.0}
    """
    # SOLUTION
    policy, adapter, group = plan["policy"], plan["adapter"], plan["group"]
    value = plan["value"] if plan["method"] == "ppo" else 0
    reference = policy if plan["beta"] else 0
    whole, trained = policy + adapter, adapter or policy

    held = 16 * (trained + value) + 2 * plan["reward"]
    held += 2 * policy if adapter else 2 * reference
    completions = len(shares) * group
    tokens = completions * (plan["prompt"] + plan["length"])
    cached = len(shares) * plan["prompt"] + completions * (plan["length"] - 1)
    silent = sum(group * (p**group + (1 - p) ** group) for p in shares)
    return {
        "bytes": held,
        "write": 2 * whole * cached,
        "score": 2 * (reference + value + plan["reward"]) * tokens,
        "update": plan["epochs"] * tokens * (4 * whole + 2 * trained + 6 * value),
        "silent": silent if plan["method"] == "grpo" else 0.0,
    }
    # END SOLUTION


@exercise("20.5", "A verifier that cannot be fooled", points=8, minutes=35, difficulty=3, section="verifier")
def verified(numbers: list[int], target: int, text: str, ended: bool) -> float:
    """Design the reward of a number game. Then try to break it: a policy finds everything that pays.

    The game: reach the target with the given numbers, each used once, with + - * / and parentheses. The
    reward is 1.0 if all of the following holds, and 0.0 otherwise:

    1. The completion has ended.
    2. Its text has ``<answer>`` exactly once and ``</answer>`` exactly once, in this order, and nothing but
       white space (as `str.strip` removes it) after ``</answer>``. What comes before ``<answer>`` is free.
    3. The answer is what stands between the two: at most 100 characters, spaces included, each of them one of
       ``0123456789+-*/()`` or a space. A line break is no space.
    4. The answer is an expression: a number; or an expression in parentheses; or two expressions with one of
       ``+ - * /`` between them. So there are no signs before numbers or parentheses, ``**`` and ``//`` are no
       operators, and ``2(3)`` is no product. Spaces are allowed everywhere but inside a number.
    5. Its numbers are written in decimal without leading zeros, and are the given ones, each exactly as often
       as it is given, in any order.
    6. Its value is the target. Products and quotients come before sums and differences, and otherwise the
       order is from left to right. The value is exact: 8 / (3 - 8 / 3) is 24, and 5 + 1 / 1000000007 is not
       5. What divides by 0 has no value.

    No text makes the function raise an exception, or run for long.

    Args:
        numbers: One number or more, each 0 or more.
        target: Any whole number.
        text: The completion without its end token.
        ended: Whether the end token was written.

    Returns:
        1.0 or 0.0.

    The functions of `myllm.finetuning` may not be used, nor `eval` and `exec`.

    Example:
        >>> verified([3, 3, 8, 8], 24, "I try this: <answer>8 / (3 - 8 / 3)</answer>", True)
        1.0
        >>> verified([3, 3, 8, 8], 24, "<answer>3 * 8</answer>", True)
        0.0
    """
    # SOLUTION
    if not ended or text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return 0.0
    answer, closed, tail = text.partition("<answer>")[2].partition("</answer>")
    if not closed or tail.strip() or len(answer) > 100 or not re.fullmatch("[0-9+*/() -]*", answer):
        return 0.0
    tokens = [*re.findall("[0-9]+|[^ ]", answer), ""]  # the last one ends every loop
    used: list[str] = []

    def factor() -> Fraction:
        token = tokens.pop(0)
        if token != "(":
            used.append(token)
            return Fraction(token)  # a ValueError if it is no number
        value = whole()
        if tokens.pop(0) != ")":
            raise ValueError
        return value

    def product() -> Fraction:
        value = factor()
        while tokens[0] in ("*", "/"):
            value = value * factor() if tokens.pop(0) == "*" else value / factor()
        return value

    def whole() -> Fraction:
        value = product()
        while tokens[0] in ("+", "-"):
            value = value + product() if tokens.pop(0) == "+" else value - product()
        return value

    try:
        value = whole()
    except (ValueError, ZeroDivisionError):
        return 0.0
    right = value == target and sorted(used) == sorted(map(str, numbers))
    return float(right and tokens == [""])
    # END SOLUTION
