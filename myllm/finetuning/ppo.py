"""PPO: policy gradients with a value model that predicts the return at each token (Schulman et al., 2017).

The reward is given at the last token of a completion; the divergence from the reference policy is charged at
every token, as k1, which is unbiased in a reward (Ouyang et al., 2022).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.checks import check
from myllm.files import UserError
from myllm.finetuning.grpo import REPORTED, divergence, length_weights, policy_loss
from myllm.finetuning.on_policy import OnPolicy
from myllm.finetuning.rollout import log_probs_of, spread, states_before
from myllm.model.basics import upcast
from myllm.model.transformer import Transformer
from myllm.training.step import Loss


class ActorCritic(nn.Module):
    """A `Transformer` as the policy, and a linear layer on its hidden states as the value head.

    Args:
        policy: The model, which is called directly for everything but values.
    """

    def __init__(self, policy: Transformer) -> None:
        super().__init__()
        self.policy, self.config = policy, policy.config
        self.value = nn.Linear(policy.config.n_embd, 1)
        nn.init.zeros_(self.value.weight)  # all values are 0 at first
        nn.init.zeros_(self.value.bias)
        self.value.to(policy.embed_tokens.weight)

    def forward(self, ids: Tensor, **options: Any) -> Tensor:
        """The policy's logits (B, T, V)."""
        return self.policy(ids, **options)


def token_rewards(
    rewards: Tensor, log_probs: Tensor, reference: Tensor | None, mask: Tensor, beta: float
) -> Tensor:
    """The reward of each token (B, T): the completion's at its last token, less beta times k1 at every one.

    Args:
        rewards: (B,).
        log_probs: (B, T), of the tokens when they were sampled.
        reference: (B, T), of the same tokens under the reference policy; None where beta is 0.
        mask: (B, T) bool, the tokens that were sampled, which are contiguous.
        beta: The weight of the divergence.
    """
    last = mask & ~F.pad(mask[:, 1:], (0, 1))
    paid = last * rewards[:, None]
    return paid if reference is None else (paid - beta * divergence(log_probs, reference, "k1")) * mask


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> Tensor:
    """The advantage of each token, (B, T), by generalized advantage estimation (Schulman et al., 2016).

    ``A_t = Σ_k (discount · decay)ᵏ δ_{t+k}`` with ``δ_t = r_t + discount · V_{t+1} - V_t``. Nothing follows
    the last token of a completion, whether it ended or was cut off, so the value after it is 0.

    Args:
        rewards: (B, T), of each token.
        values: (B, T), the value before each token.
        mask: (B, T) bool, the tokens that were sampled, which are contiguous.
        discount: γ, how much a reward one token later is worth relative to one now.
        decay: λ, from 0, which relies on the values, to 1, which relies on the observed rewards.
    """
    values = values * mask
    found, advantage = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    later = torch.zeros_like(advantage)  # the value after the current token
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * later - values[:, t]
        advantage = (delta + discount * decay * advantage) * mask[:, t]
        found[:, t], later = advantage, values[:, t]
    return found


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (B, T) with mean 0 and standard deviation 1 over the tokens in a mask, and 0 elsewhere."""
    inside = x[mask]
    std = inside.std() if len(inside) > 1 else 0.0
    return (x - inside.mean()) / (std + 1e-8) * mask


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half the squared error of the values; with `clip`, the larger of it and that of the clipped values."""
    error = (values - returns).square()
    if clip is not None:
        error = torch.maximum(error, (old + (values - old).clamp(-clip, clip) - returns).square())
    return error / 2


class PPO(OnPolicy):
    """Proximal policy optimization of an `ActorCritic`.

    Every record has the means over completions of ``reward`` and of ``length`` in tokens, and these means
    over the tokens of a phase: ``entropy`` in nats, at the time of sampling; ``clipped``, the share on which
    clipping took effect; ``value``, the value loss; and with beta, ``k1`` and ``k3``, estimates of the
    divergence from the reference in nats, which `GRPO` explains.

    Args:
        prompts, reward, tokenizer: See `OnPolicy`.
        clip: How far from 1 the importance ratio is clipped.
        value_clip: How far from its value at the time of sampling a value is clipped; None for no clipping.
        value_weight: The weight of the value loss.
        discount, decay: See `gae`.
        options: Those of `OnPolicy`.
    """

    def __init__(
        self,
        *args: Any,
        clip: float = 0.2,
        value_clip: float | None = 0.2,
        value_weight: float = 0.5,
        discount: float = 1.0,
        decay: float = 0.95,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        for name, bound in {"clip": clip, "value_clip": value_clip, "value_weight": value_weight}.items():
            check(name, bound, float, *([None] if name == "value_clip" else []), bounds=(0, 1e30))
        check("discount", discount, float, bounds=(0, 1))
        check("decay", decay, float, bounds=(0, 1))
        self.clip, self.value_clip, self.value_weight = clip, value_clip, value_weight
        self.discount, self.decay = discount, decay

    def settings(self) -> dict[str, Any]:
        """See `OnPolicy.settings`."""
        names = ("clip", "value_clip", "value_weight", "discount", "decay")
        return super().settings() | {name: getattr(self, name) for name in names}

    def policy(self, model: nn.Module) -> nn.Module:
        """The policy of an `ActorCritic`."""
        return _known(model).policy

    def extra(self, model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The value before each token, and what `OnPolicy.extra` adds."""
        known = _known(model)
        values = upcast(known.value(states_before(known.policy, ids, mask)))[:, 0]
        return {"values": spread(values, mask)} | super().extra(model, ids, mask)

    def learn(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add ``returns``, then ``advantages``, which are whitened, and ``weights``, all (R, T)."""
        mask, values = buffer["mask"], buffer["values"]
        rewards = token_rewards(
            buffer["rewards"], buffer["log_probs"], buffer.get("reference"), mask, self.beta
        )
        raw = gae(rewards, values, mask, discount=self.discount, decay=self.decay)
        return buffer | {
            "advantages": whiten(raw, mask),
            "returns": raw + values,
            "weights": length_weights(mask, "token", self.max_new_tokens),
        }

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Loss:
        """The summed loss of the completions, and the metrics."""
        known, mask, weights, old = _known(model), batch["mask"], batch["weights"], batch["log_probs"]
        states = states_before(known.policy, batch["ids"], mask)
        logs = spread(log_probs_of(known.policy, states, batch["ids"][mask], self.temperature), mask)
        self.check(model, logs, batch)
        gains, clipped = policy_loss(logs, old, batch["advantages"], mask, clip=(self.clip, self.clip))
        values = spread(upcast(known.value(states))[:, 0], mask)
        errors = value_loss(values, batch["values"], batch["returns"], self.value_clip) * mask
        total = (gains + self.value_weight * errors) * weights
        metrics = {"reward": batch["rewards"].sum(), "length": mask.sum()}
        tokens = {"entropy": -old, "clipped": clipped, "value": errors}
        if self.beta:
            tokens |= {name: divergence(logs, batch["reference"], name) * mask for name in REPORTED}
        return Loss(total.sum(), metrics | {name: (x * weights).sum().detach() for name, x in tokens.items()})


def _known(model: nn.Module) -> ActorCritic:
    if not isinstance(model, ActorCritic):
        raise UserError("PPO trains an ActorCritic: wrap the policy, ActorCritic(model).")
    if not model.value.weight.requires_grad:
        raise UserError("The value is frozen; apply adapters to the policy before ActorCritic(model).")
    return model
