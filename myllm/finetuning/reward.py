"""Rewards: functions that verify an answer, and a reward model that learns from preferences."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from myllm.data.loader import Loader
from myllm.files import UserError
from myllm.finetuning.classify import Classifier, Labelled, pad
from myllm.finetuning.rollout import Completion, Reward
from myllm.model.basics import device_of, upcast
from myllm.model.transformer import Transformer
from myllm.training.pretrain import FromLoader
from myllm.training.step import Loss


def verify(is_right: Callable[[Any, str], bool]) -> Reward:
    """A reward of 1 for each completion that has ended and is right, and of 0 for every other.

    Args:
        is_right: Called with the item of the prompt and the text of the completion.
    """

    def reward(items: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        pairs = zip(items, completions, strict=True)
        return [float(one.ended and is_right(item, one.text)) for item, one in pairs]

    return reward


class RewardModel(Classifier):
    """A `Transformer` that gives a text a scalar reward, computed at its last token.

    Args:
        model: The pretrained or tuned model; its own head is not used.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__(model, 2)  # the head for two classes is replaced below
        self.score = nn.Linear(model.config.n_embd, 1, bias=False).to(self.score.weight)
        nn.init.normal_(self.score.weight, std=model.config.init_std)

    @torch.no_grad()
    def rewards(self, texts: Sequence[Sequence[int]], batch_size: int = 64) -> list[float]:
        """The rewards of texts, each given as the ids of a prompt and its completion."""
        training, found = self.training, list[float]()
        self.eval()
        for start in range(0, len(texts), batch_size):
            ids, keep, _ = pad([Labelled(ids, 0) for ids in texts[start : start + batch_size]])
            found += self(ids.to(device_of(self)), keep.to(device_of(self)))[:, 0].tolist()
        self.train(training)
        return found


class BradleyTerry(FromLoader):
    """Learning rewards from preferences as an objective; its unit is the pair.

    The probability that one text is preferred to another is σ of the difference of their rewards (Bradley and
    Terry, 1952), so adding a constant to all rewards changes nothing. Every record has ``accuracy``, how
    often the chosen text has the larger reward, and ``margin``, by how much.

    Args:
        pairs: The ids of the chosen and of the rejected text, prompts included.
        options: Those of `Loader`: ``batch_size`` in pairs, ``seed``, ``shuffle``.

    Raises:
        UserError: No pairs, or an empty text.
    """

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], **options: Any) -> None:
        if not pairs or not all(len(text) for pair in pairs for text in pair):
            raise UserError("There are no pairs, or one has an empty text; give each at least one token.")
        super().__init__(_TextPairs(pairs, **options))

    def count(self, batch: tuple[Tensor, ...]) -> int:
        """The number of pairs."""
        return len(batch[0]) // 2

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Loss:
        """The summed negative log-likelihood of the preferences."""
        chosen, rejected = upcast(model(*batch[:2])[:, 0]).chunk(2)
        margin = chosen - rejected
        metrics = {"accuracy": (margin > 0).sum(), "margin": margin.sum().detach()}
        return Loss(-F.logsigmoid(margin).sum(), metrics)


class _TextPairs(Loader):
    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], **options: Any) -> None:
        self.pairs = pairs
        super().__init__(len(pairs), **options)

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and which are not padding, (2 B, T): the chosen texts, then the rejected ones."""
        return pad([Labelled(self.pairs[int(i)][side], 0) for side in (0, 1) for i in items])
