"""Learning from preferences without a reward model or sampling: DPO, IPO, KTO and SimPO.

A pair is a prompt with a chosen and a rejected answer. The implicit reward of an answer is
``β (log π(y|x) - log π_ref(y|x))``, where π_ref is the reference policy; the policy that is optimal for a
reward r is ``π* ∝ π_ref exp(r / β)``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from myllm.checks import check
from myllm.data.loader import Loader
from myllm.files import UserError
from myllm.finetuning.lora import adapters_disabled, lora_layers
from myllm.finetuning.on_policy import whole
from myllm.finetuning.rollout import token_log_probs
from myllm.finetuning.sft import Example, check_masks, encode
from myllm.model.basics import device_of
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import prompt_ids
from myllm.training.pretrain import FromLoader
from myllm.training.step import Loss

Method = Literal["dpo", "ipo", "kto", "simpo"]
MEANS = ("ipo", "simpo")  # the methods that divide by the length of the answer


class Pair(NamedTuple):
    """Two answers to one prompt.

    Attributes:
        chosen: The better answer, after the prompt; the mask is 1 on the answer.
        rejected: The other answer, after the same prompt.
    """

    chosen: Example
    rejected: Example


def encode_pair(item: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None) -> Pair:
    """The pair in a dict of ``prompt``, ``chosen`` and ``rejected``, all texts or all lists of messages.

    The end token is part of each answer, as in `myllm.finetuning.sft.encode`.

    Raises:
        UserError: A part is missing, or the parts are of different kinds.
    """
    prompt, answers = item.get("prompt"), [item.get("chosen"), item.get("rejected")]
    parts: list[Any] = [prompt, *answers]
    if all(isinstance(one, str) for one in parts):
        return Pair(*(encode({"prompt": prompt, "response": one}, tokenizer) for one in answers))
    if not all(isinstance(one, list) for one in parts):
        raise UserError("A pair has a prompt, chosen and rejected, all texts or all lists of messages.")
    given = len(prompt_ids(parts[0], tokenizer, template))
    found = [encode({"messages": parts[0] + one}, tokenizer, template) for one in parts[1:]]
    return Pair(*(Example(ids, [0] * given + [*mask[given:]]) for ids, mask in found))


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    method: Method = "dpo",
    beta: float = 0.1,
    margin: float = 0.0,
    smoothing: float = 0.0,
) -> Tensor:
    """The loss of each pair, (B,), for a method that needs only the rewards of the two answers.

    - dpo: ``-log σ(β (chosen - rejected))`` (Rafailov et al., 2023), with `smoothing` as the probability that
      a label is wrong (Mitchell, 2023).
    - ipo: ``(chosen - rejected - 1 / (2 β))²``, which, unlike DPO's loss, has a finite minimum (Azar et al.,
      2024).
    - simpo: as dpo, without a reference and with `margin` subtracted inside σ (Meng et al., 2024).

    Args:
        chosen: (B,), log π - log π_ref of the chosen answers: sums over their tokens for dpo, means for ipo
            and simpo. For simpo, π_ref is 1.
        rejected: (B,), the same for the rejected answers.
        method: The method.
        beta: β.
        margin: What SimPO subtracts from ``β (chosen - rejected)``, its target for the difference.
        smoothing: The assumed probability that a label is wrong, from 0 to below 1/2.
    """
    difference = chosen - rejected
    if method == "ipo":
        return (difference - 1 / (2 * beta)).square()
    x = beta * difference - margin
    return -(1 - smoothing) * F.logsigmoid(x) - smoothing * F.logsigmoid(-x)


def kto_loss(rewards: Tensor, chosen: Tensor, divergence: Tensor, beta: float = 0.1) -> Tensor:
    """The loss of each answer, (B,), labelled good or bad on its own (KTO, Ethayarajh et al., 2024).

    Args:
        rewards: (B,), log π - log π_ref, summed over the answer.
        chosen: (B,) bool, which answers are good.
        divergence: A scalar, an estimate of KL(π ‖ π_ref) from answers to other prompts; it gets no gradient.
            It is a mean over a micro-batch, so this loss, unlike the others, depends on how a batch is split.
        beta: β.
    """
    gain = beta * (rewards - divergence.clamp(min=0).detach())
    return 1 - torch.sigmoid(torch.where(chosen, gain, -gain))


class _PairLoader(Loader):
    """Batches of pairs: rows with the chosen answers, then the rejected and, for KTO, mismatched ones."""

    def __init__(self, groups: Sequence[Sequence[Example]], **options: Any) -> None:
        self.groups = groups  # all of the same length
        self.reference = torch.zeros(len(groups), len(groups[0]))
        super().__init__(len(groups[0]), **options)

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Ids and mask (2 B, T), or (3 B, T) for KTO, and log π_ref, (2 B,) or (3 B,)."""
        rows = [group[int(i)] for group in self.groups for i in items]
        ids = pad_sequence([torch.tensor([*row.ids]) for row in rows], batch_first=True)
        mask = pad_sequence([torch.tensor([*row.mask]) > 0 for row in rows], batch_first=True)
        mask[:, 0] = False  # nothing predicts the first token
        return ids, mask, self.reference[:, torch.from_numpy(items)].flatten()


class DPO(FromLoader):
    """Learning from pairs of answers as an objective; its unit is the pair.

    The reference's log-probabilities are computed once, before the first update, so that the reference takes
    no memory during training. Every record has these means over pairs: ``accuracy``, how often the chosen
    answer has the larger implicit reward; ``margin``, by how much, in nats times beta; ``chosen`` and
    ``rejected``, the implicit rewards. ``chosen`` may well fall while the margin grows.

    Args:
        pairs: The pairs; see `encode_pair`.
        reference: The reference policy; by default the model itself, without its adapter if it has one, as it
            is before the first update. SimPO has none.
        method: See `preference_loss` and `kto_loss`.
        beta, margin, smoothing: See `preference_loss`.
        block_size: The most tokens of a prompt with its answer; longer examples are refused.
        options: Those of `Loader`: ``batch_size`` in pairs, ``seed``, ``shuffle``.

    Raises:
        UserError: Masks that `check_masks` refuses, an example that is too long, a pair of equal answers or
            of two prompts, or settings that are out of range or have no effect.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        reference: nn.Module | None = None,
        *,
        block_size: int,
        method: Method = "dpo",
        beta: float = 0.1,
        margin: float = 0.0,
        smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
        check_masks([example for pair in pairs for example in pair])
        check("method", method, "dpo", "ipo", "kto", "simpo")
        check("beta", beta, float)
        check("margin", margin, float, bounds=(-1e30, 1e30))
        check("smoothing", smoothing, float, bounds=(0, 0.499))
        for n, pair in enumerate(pairs, 1):
            if [*pair.chosen.ids] == [*pair.rejected.ids] or _prompt(pair.chosen) != _prompt(pair.rejected):
                raise UserError(
                    f"Pair {n} has equal answers, or two prompts; give two answers to one prompt."
                )
        if method == "simpo" and reference is not None:
            raise UserError("SimPO has no reference; leave it out.")
        if (margin and method != "simpo") or (smoothing and method not in ("dpo", "simpo")):
            raise UserError(f"margin belongs to simpo, smoothing to dpo and simpo, not to {method}.")
        if (longest := max(len(one.ids) for one in [*chosen, *rejected])) > block_size:
            raise UserError(f"An example has {longest} tokens, the limit is {block_size}; leave it out.")
        groups = [chosen, rejected] + ([_mismatched(chosen, block_size)] if method == "kto" else [])
        self.pairs = _PairLoader(groups, **options)
        super().__init__(self.pairs)
        self.method: Method = method
        self.beta, self.margin, self.smoothing = beta, margin, smoothing
        self.referred = method == "simpo"
        digest = hashlib.sha256(repr([(*one.ids, *one.mask) for group in groups for one in group]).encode())
        self.settings = {"method": method, "pairs": digest.hexdigest()[:16], "beta": beta, "margin": margin}
        self.settings |= {"smoothing": smoothing}
        if reference is not None and not self.referred:
            self.refer(reference)

    @torch.no_grad()
    def refer(self, model: nn.Module) -> None:
        """Store the log-probabilities of a reference policy, in evaluation mode and without its adapter.

        Raises:
            UserError: This process holds only a part of the model's weights.
        """
        if not whole(model):
            raise UserError("This strategy holds no whole model to be its own reference; give one.")
        training, device = model.training, device_of(model)
        model.eval()
        adapted = any(True for _ in lora_layers(model))
        with adapters_disabled(model) if adapted else nullcontext():
            for start in range(0, self.pairs.n, self.pairs.batch_size):
                items = np.arange(start, min(start + self.pairs.batch_size, self.pairs.n))
                ids, mask, _ = self.pairs.batch(items)
                sums = self.scores(model, ids.to(device), mask.to(device))
                self.pairs.reference[:, items] = sums.view(-1, len(items)).float().cpu()
        model.train(training)
        self.referred = True

    def batches(self, model: nn.Module) -> Any:
        """Batches of pairs; if no reference was given, the model as it is now becomes the reference.

        If this process holds only a part of the model, `refer` comes first, which the loop calls with the
        whole model.
        """
        batches = super().batches(model)
        if not self.referred and not whole(model):
            return chain([self.refer], batches)
        if not self.referred:
            self.refer(model)
        return batches

    def scores(self, model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        """The log-probability of each answer, (rows,), divided by its length if the method takes means."""
        sums = token_log_probs(model, ids, mask).sum(1)
        return sums / mask.sum(1) if self.method in MEANS else sums

    def count(self, batch: tuple[Tensor, ...]) -> int:
        """The number of pairs."""
        return len(batch[0]) // len(self.pairs.groups)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Loss:
        """The summed loss of the pairs, and the metrics."""
        ids, mask, reference = batch
        B = self.count(batch)
        rewards = self.scores(model, ids[: 2 * B], mask[: 2 * B]) - reference[: 2 * B]
        chosen, rejected = rewards[:B], rewards[B:]
        if self.method == "kto":
            with torch.no_grad():
                drift = (self.scores(model, ids[2 * B :], mask[2 * B :]) - reference[2 * B :]).mean()
            good = torch.arange(2 * B, device=ids.device) < B
            losses = kto_loss(rewards, good, drift, self.beta) / 2  # the mean over the two answers of a pair
        else:
            options: dict[str, Any] = {"margin": self.margin, "smoothing": self.smoothing}
            losses = preference_loss(chosen, rejected, method=self.method, beta=self.beta, **options)
        metrics = {
            "accuracy": (chosen > rejected).sum(),
            "margin": self.beta * (chosen - rejected).sum().detach(),
            "chosen": self.beta * chosen.sum().detach(),
            "rejected": self.beta * rejected.sum().detach(),
        }
        return Loss(losses.sum(), metrics)

    def state_dict(self) -> dict[str, Any]:
        """The position of the loader, the settings, and the log-probabilities of the reference."""
        known = {"reference": self.pairs.reference} if self.referred else {}
        return super().state_dict() | {"settings": self.settings} | known

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another objective stopped, with its reference."""
        for name, value in self.settings.items():
            if (old := state["settings"].get(name)) != value:
                raise UserError(f"The run had {name} {old}, not {value}; go on as it began.")
        super().load_state_dict(state)
        if "reference" in state:
            self.pairs.reference, self.referred = state["reference"].clone(), True


def _prompt(example: Example) -> list[int]:
    """The tokens before the first learned one."""
    return [*example.ids[: [*example.mask].index(1)]]


def _mismatched(examples: Sequence[Example], block_size: int) -> list[Example]:
    """Each prompt with the answer to the next different prompt, cut off after `block_size` tokens."""
    found, n = list[Example](), len(examples)
    for i, one in enumerate(examples):
        others = (examples[(i + k) % n] for k in range(1, n))
        other = next((x for x in others if _prompt(x) != _prompt(one)), None)
        if other is None:
            raise UserError("KTO compares with answers to other prompts; give pairs of two prompts or more.")
        prompt, start = [*one.mask].index(1), [*other.mask].index(1)
        ids = [*one.ids[:prompt], *other.ids[start:]][:block_size]
        mask = [0] * prompt + [*other.mask[start:]]
        found.append(Example(ids, mask[:block_size]))
    return found
