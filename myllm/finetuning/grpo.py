"""Policy gradients without a value model: REINFORCE, RLOO, GRPO and its successors as settings of one loss.

All of them raise the log-probability of a completion in proportion to its advantage over a baseline. They
differ in the baseline, in what the advantage is divided by, in how much a long completion counts, and in what
they do where the policy has moved since it sampled.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from myllm.checks import check
from myllm.files import UserError
from myllm.finetuning.on_policy import OnPolicy
from myllm.finetuning.rollout import token_log_probs
from myllm.training.step import Loss

#: The settings in which each method differs from GRPO. DAPO's dynamic sampling is the argument `tries` of
#: `GRPO`; its penalty for overlong completions belongs in the reward.
METHODS: dict[str, dict[str, Any]] = {
    "reinforce": {"baseline": "none", "scale": False, "length": "sum", "clip": None},
    "rloo": {"baseline": "others", "scale": False, "length": "sum", "clip": None},
    "grpo": {},
    "dr-grpo": {"scale": False, "length": "constant"},
    "dapo": {"length": "token", "clip": (0.2, 0.28)},
    "gspo": {"ratio": "sequence", "clip": (3e-4, 4e-4)},
    "cispo": {"surrogate": "cispo", "length": "token", "clip": (1.0, 4.0)},
}

Baseline = Literal["none", "mean", "others"]
Length = Literal["sum", "sequence", "token", "constant"]
Estimator = Literal["k1", "k2", "k3"]
REPORTED: tuple[Estimator, ...] = ("k1", "k3")  # the estimates of the divergence in the records


def advantages(rewards: Tensor, *, baseline: Baseline = "mean", scale: bool = True) -> Tensor:
    """The advantage of each completion over a baseline, (P, G), from the rewards (P, G) of groups.

    Args:
        rewards: One row for each prompt.
        baseline: "none"; "mean", that of the group, which includes the completion itself, so that the
            expected gradient is multiplied by 1 - 1/G; or "others", the mean of the other completions (RLOO,
            Ahmadian et al., 2024).
        scale: Divide by the standard deviation of the group (GRPO, Shao et al., 2024), which gives more
            weight to prompts that are almost always or almost never solved (Liu et al., 2025).
    """
    check("baseline", baseline, "none", "mean", "others")
    G = rewards.shape[1]
    if (baseline != "none" or scale) and G < 2:
        raise UserError("A group of 1 has nothing to be compared with; take 2, or no baseline and no scale.")
    centred = rewards
    if baseline != "none":
        centred = rewards - rewards.mean(1, keepdim=True)
        centred = centred * G / (G - 1) if baseline == "others" else centred
        centred = centred.where((rewards != rewards[:, :1]).any(1, keepdim=True), 0.0)  # no rounding error
    return centred / (rewards.std(1, keepdim=True) + 1e-4) if scale else centred


def policy_loss(
    log_probs: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ratio: Literal["token", "sequence"] = "token",
    clip: tuple[float, float] | None = (0.2, 0.2),
    surrogate: Literal["ppo", "cispo"] = "ppo",
) -> tuple[Tensor, Tensor]:
    """The loss of each token, (B, T), and where clipping took effect, (B, T) bool.

    Args:
        log_probs: (B, T), under the current policy.
        old: (B, T), under the policy that sampled the tokens; in the first update both are equal.
        advantages: (B, T).
        mask: (B, T) bool, the tokens that were sampled.
        ratio: "token", the importance ratio of each token, or "sequence", that of the whole completion to the
            power of 1/length (GSPO, Zheng et al., 2025).
        clip: How far below and above 1 the ratio is clipped; None leaves it unclipped.
        surrogate: "ppo" takes the smaller of the clipped and the unclipped gain (Schulman et al., 2017);
            "cispo" keeps the gradient of every token and clips its weight (MiniMax, 2025).
    """
    check("ratio", ratio, "token", "sequence")
    check("surrogate", surrogate, "ppo", "cispo")
    change = (log_probs - old) * mask
    if ratio == "sequence":
        mean = change.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        change = mean.expand_as(change)
    weight = change.exp()
    low, high = (0.0, torch.inf) if clip is None else (1 - clip[0], 1 + clip[1])
    limited = weight.clamp(low, high)
    if surrogate == "cispo":
        gain = limited.detach() * advantages * log_probs
        outside = weight != limited
    else:
        gain = torch.minimum(weight * advantages, limited * advantages)
        outside = weight * advantages > limited * advantages
    return -gain * mask, outside & mask


def divergence(log_probs: Tensor, reference: Tensor, estimator: Estimator = "k3") -> Tensor:
    """An estimate of KL(policy ‖ reference) from tokens sampled from the policy (Schulman, 2020).

    k1 = log π - log π_ref is unbiased, and often negative. k2 = k1² / 2 is biased, but its *gradient* is
    unbiased. k3 = π_ref/π - 1 + k1 is unbiased and never negative, but its gradient is that of another
    divergence. The gradient of k1 has mean 0 (Tang and Munos, 2025; Liu et al., 2025). All this holds for one
    token, given the text before it: the gradient of such a loss does not see that a token leads to texts in
    which the policies differ more. The gradient from a reward that contains k1 does, as in PPO.

    Args:
        log_probs: Of the tokens under the policy, of any shape.
        reference: Of the same tokens under the reference policy.
        estimator: Which of the three.
    """
    k1 = log_probs - reference
    if estimator == "k1":
        return k1
    return k1.square() / 2 if estimator == "k2" else torch.expm1(-k1) + k1


def length_weights(mask: Tensor, length: Length, limit: int) -> Tensor:
    """The weight of each sampled token, (B, T), in a loss that is a mean over completions.

    Args:
        mask: (B, T) bool, the tokens of *all* completions that are averaged.
        length: "sum", 1, which gives the gradient of the expected reward itself; "sequence", 1 over the
            completion's length (GRPO), so that a token of a long one counts less; "token", 1 over the mean
            length (DAPO, Yu et al., 2025); "constant", 1 over `limit` (Dr. GRPO, Liu et al., 2025).
        limit: The most tokens that a completion may have.
    """
    check("length", length, "sum", "sequence", "token", "constant")
    lengths = mask.sum(1, keepdim=True)  # (B, 1)
    per = {"sum": torch.ones(()), "sequence": lengths, "token": lengths.float().mean()}
    return mask / per.get(length, torch.tensor(float(limit))).to(mask.device)


class GRPO(OnPolicy):
    """Policy gradients with a baseline from the group of completions of each prompt.

    Every record has these means over completions: ``reward``; ``equal``, the share of those whose group has
    equal rewards, from which a baseline leaves nothing to learn; ``length`` in tokens; ``entropy`` in nats
    per token, at the time of sampling; ``clipped``, the share of tokens on which clipping took effect. With
    beta, ``k1`` and ``k3`` are two estimates of the divergence from the reference in nats per token: k1 is
    the noisier one near the reference, and k3 is far too small once the policy is nearly deterministic; if
    they disagree for long, trust k1. With tries, ``written`` is the number of completions sampled for each
    one used, and ``earned`` the mean reward of all that were sampled, since ``reward`` is that of a
    selection.

    Args:
        prompts, reward, tokenizer: See `OnPolicy`.
        method: A key of `METHODS`, which sets the defaults of the next six arguments.
        baseline, scale: See `advantages`.
        length: See `length_weights`.
        ratio, clip, surrogate: See `policy_loss`.
        tries: How many times a phase may sample P prompts until it has P groups whose rewards differ: DAPO's
            dynamic sampling (Yu et al., 2025). Surplus groups are dropped. If there are too few after the
            last try, groups of equal rewards fill the phase, as ``equal`` shows. With 1, every group is used.
        kl: How the divergence enters the loss: as "k2", or as "k3" times the importance ratio; both have its
            gradient for a token, given the text before it. "k3-plain", without the ratio, does not; it is
            what GRPO's paper uses.
        options: Those of `OnPolicy`.
    """

    def __init__(
        self,
        *args: Any,
        method: str = "grpo",
        tries: int = 1,
        kl: Literal["k2", "k3", "k3-plain"] = "k2",
        **options: Any,
    ) -> None:
        if method not in METHODS or kl not in ("k2", "k3", "k3-plain"):
            raise UserError(f"The method is one of {', '.join(METHODS)}, kl k2, k3 or k3-plain.")
        settings: dict[str, Any] = {"baseline": "mean", "scale": True, "length": "sequence", "ratio": "token"}
        settings |= {"clip": (0.2, 0.2), "surrogate": "ppo"} | METHODS[method]
        settings |= {name: options.pop(name) for name in [*settings] if name in options}
        super().__init__(*args, **options)
        if kl != "k2" and not self.beta:
            raise UserError(f"kl {kl} has no effect without beta; give one.")
        for bound in settings["clip"] or ():
            check("clip", bound, float, bounds=(0, 1e30))
        check("tries", tries, int)
        if tries > 1 and (self.group == 1 or settings["baseline"] == "none"):
            raise UserError("tries replaces groups that teach nothing; it needs groups of 2 and a baseline.")
        self.tries, self.kl, self.length = tries, kl, settings.pop("length")
        self.estimate: dict[str, Any] = {name: settings.pop(name) for name in ("baseline", "scale")}
        self.surrogate = settings
        zero = torch.zeros(1, self.group)  # unknown names are refused now, not after a phase
        advantages(zero, **self.estimate)
        length_weights(zero == 0, self.length, 1)
        policy_loss(zero, zero, zero, zero == 0, **self.surrogate)

    def settings(self) -> dict[str, Any]:
        """See `OnPolicy.settings`."""
        own = {"tries": self.tries, "kl": self.kl, "length": self.length, **self.estimate, **self.surrogate}
        return super().settings() | own | {"clip": list(self.surrogate["clip"] or ())}

    def rows(self, model: nn.Module, phase: int) -> list[dict[str, Tensor]]:
        """The completions that a phase learns from, of all processes, in the order of sampling."""
        if self.tries == 1:
            return super().rows(model, phase)
        written, equal = list[dict[str, Tensor]](), list[bool]()
        while equal.count(False) < self.prompts_per_phase and len(written) < self.tries * self.size:
            drawn = super().rows(model, phase + len(written) // self.size)
            rewards = torch.stack([row["rewards"] for row in drawn]).view(-1, self.group)
            written, equal = written + drawn, equal + (rewards == rewards[:, :1]).all(1).tolist()
        groups = sorted(range(len(equal)), key=equal.__getitem__)  # those with different rewards come first
        used = sorted(groups[: self.prompts_per_phase])
        chosen = [written[i * self.group + j] for i in used for j in range(self.group)]
        rewards = torch.stack([row["rewards"] for row in written])
        note = {"written": torch.tensor(len(written) / self.size), "earned": rewards.mean()}
        return [row | note for row in chosen]

    def learn(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add ``advantages`` and ``equal`` (R,), and ``weights`` (R, T)."""
        groups = buffer["rewards"].view(-1, self.group)
        equal = (groups == groups[:, :1]).all(1, keepdim=True).expand_as(groups)
        weights = length_weights(buffer["mask"], self.length, self.max_new_tokens)
        return buffer | {
            "advantages": advantages(groups, **self.estimate).flatten(),
            "equal": equal.flatten(),
            "weights": weights,
        }

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Loss:
        """The summed loss of the completions, and the metrics."""
        mask, old, weights = batch["mask"], batch["log_probs"], batch["weights"]
        logs = token_log_probs(model, batch["ids"], mask, self.temperature)
        self.check(model, logs, batch)
        losses, clipped = policy_loss(logs, old, batch["advantages"][:, None], mask, **self.surrogate)
        lengths = mask.sum(1)

        def mean(x: Tensor) -> Tensor:  # the sum over completions of their means over tokens
            return ((x * mask).sum(1) / lengths).sum().detach()

        metrics = {
            "reward": batch["rewards"].sum(),
            "equal": batch["equal"].sum(),
            "length": lengths.sum(),
            "entropy": mean(-old),
            "clipped": mean(clipped),
        } | {name: batch[name].sum() for name in ("written", "earned") if name in batch}
        if self.beta:
            reference = batch["reference"]
            metrics |= {name: mean(divergence(logs, reference, name)) for name in REPORTED}
            penalty = divergence(logs, reference, "k2" if self.kl == "k2" else "k3")
            if self.kl == "k3":
                penalty = penalty * (logs - old).exp()
            losses = losses + self.beta * penalty * mask
        return Loss((losses * weights).sum(), metrics)
