"""Learning from one's own samples without a gradient through them: rejection sampling and distillation."""

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

    The control, without which nothing is known of the reward's part, keeps a random completion of the *same*
    prompts: both train on the policy's own texts, and on equally many.

    Args:
        prompts: What was asked.
        completions: N of each.
        rewards: Theirs.
        keep: The completion of the highest reward, the first of equals; or a random one.
        least: A prompt is left out, also by the control, if its best completion has less.
        seed: Of the random choice.
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
    """On-policy distillation: the student writes, and learns the teacher's distribution at each token.

    The loss of a token is KL(student ‖ teacher) over the whole vocabulary (Agarwal et al., 2024). Every
    record has ``kl``, its mean over the tokens of a phase in nats, and ``reward``, that of the completions,
    which has no influence.

    Args:
        prompts, reward, tokenizer: See `OnPolicy`.
        teacher: A model with the same tokens.
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
        """The summed divergence, each completion's tokens weighted so that the mean is over tokens."""
        ids, mask = batch["ids"], batch["mask"]
        with torch.no_grad():
            teacher = self._logs(self.teacher, ids, mask)
        student = self._logs(model, ids, mask)
        losses = (student.exp() * (student - teacher)).sum(-1) * batch["weights"][mask]
        return Loss(losses.sum(), {"kl": losses.sum().detach(), "reward": batch["rewards"].sum()})

    def _logs(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all tokens at the places of those in the mask, (N, V)."""
        logits = logits_of(model, states_before(model, ids, mask))
        return torch.log_softmax(logits / self.temperature, -1)
