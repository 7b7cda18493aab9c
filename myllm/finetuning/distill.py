"""Learning from the model's own samples without policy gradients: rejection sampling and distillation."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from myllm.checks import check
from myllm.files import UserError
from myllm.finetuning.grpo import length_weights
from myllm.finetuning.on_policy import OnPolicy
from myllm.finetuning.rollout import Completion, Prompt, logits_of, states_before
from myllm.finetuning.sft import Example
from myllm.model.transformer import Transformer
from myllm.training.step import Loss


def select(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    rewards: Sequence[Sequence[float]],
    *,
    keep: Literal["best", "random"] = "best",
    least: float | None = None,
    seed: int = 0,
) -> list[Example]:
    """Rejection sampling: one completion of each prompt as an example for supervised fine-tuning.

    The control, which isolates the effect of the reward, keeps a random completion of each of the *same*
    prompts: both train on equally many of the policy's own texts.

    Args:
        prompts: The prompts.
        completions: N completions of each prompt.
        rewards: The reward of each completion.
        keep: "best", the completion with the highest reward, the first one if several have it; or "random".
        least: A prompt whose best completion has a lower reward is left out, also for the control.
        seed: The seed of the random choice.
    """
    check("keep", keep, "best", "random")
    generator, found = random.Random(seed), list[Example]()
    for prompt, written, scores in zip(prompts, completions, rewards, strict=True):
        if least is not None and max(scores) < least:
            continue
        best = max(range(len(written)), key=lambda i: (scores[i], -i))
        ids = written[best if keep == "best" else generator.randrange(len(written))].ids
        found.append(Example([*prompt.ids, *ids], [0] * len(prompt.ids) + [1] * len(ids)))
    return found


class Distill(OnPolicy):
    """On-policy distillation: the student samples, and learns the teacher's distribution at each token.

    The loss of a token is KL(student ‖ teacher) over the whole vocabulary (Agarwal et al., 2024). Every
    record has ``kl``, its mean over the tokens of a phase in nats, and ``reward``, the mean reward of the
    completions, which does not affect training.

    Args:
        prompts, reward, tokenizer: See `OnPolicy`.
        teacher: A model with the same vocabulary.
        options: Those of `OnPolicy`.
    """

    def __init__(self, *args: Any, teacher: Transformer, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.beta:
            raise UserError("Distillation has its teacher as the reference; leave out beta.")
        self.teacher = teacher.eval().requires_grad_(False)

    def learn(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add ``weights`` (R, T)."""
        return buffer | {"weights": length_weights(buffer["mask"], "token", self.max_new_tokens)}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Loss:
        """The summed divergence, weighted so that the mean over completions becomes one over tokens."""
        ids, mask = batch["ids"], batch["mask"]
        with torch.no_grad():
            teacher = self._logs(self.teacher, ids, mask)
        student = self._logs(model, ids, mask)
        losses = (student.exp() * (student - teacher)).sum(-1) * batch["weights"][mask]
        return Loss(losses.sum(), {"kl": losses.sum().detach(), "reward": batch["rewards"].sum()})

    def _logs(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """The log-probabilities of the whole vocabulary at each position in a mask, (N, V)."""
        logits = logits_of(model, states_before(model, ids, mask))
        return torch.log_softmax(logits / self.temperature, -1)
