"""Classification: a linear head on a pretrained model, and the objective that trains it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from myllm.data.loader import Loader
from myllm.files import UserError
from myllm.model.basics import upcast
from myllm.model.masks import causal, padding
from myllm.model.transformer import Transformer
from myllm.training.pretrain import FromLoader
from myllm.training.step import Loss

Pooling = Literal["last", "mean"]


class Classifier(nn.Module):
    """A `Transformer` whose hidden states are pooled to one vector per text, with a linear layer on top.

    Args:
        model: The pretrained model; its own head is not used, and is frozen unless it is tied to the
            embedding.
        n_classes: The number of classes.
        pooling: "last", the hidden state of each text's last token, which has attended to the whole text, or
            "mean", the mean over all its tokens.
    """

    def __init__(self, model: Transformer, n_classes: int, *, pooling: Pooling = "last") -> None:
        super().__init__()
        if n_classes < 2:
            raise UserError(f"A classifier needs texts of at least 2 classes, not {n_classes}.")
        if pooling not in ("last", "mean"):
            raise UserError(f'Pooling is "last" or "mean", not {pooling!r}.')
        self.model, self.pooling = model, pooling
        if not model.config.tie_embeddings:
            model.lm_head.requires_grad_(False)
        self.score = nn.Linear(model.config.n_embd, n_classes)
        nn.init.normal_(self.score.weight, std=model.config.init_std)
        nn.init.zeros_(self.score.bias)
        self.score.to(model.embed_tokens.weight)

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """The class logits (B, n_classes).

        Args:
            ids: (B, T) int64, padded on either side.
            keep: (B, T), true for real tokens, false for padding; None if there is no padding.
        """
        if keep is None:
            keep = torch.ones_like(ids, dtype=torch.bool)
        keep = keep.bool()
        positions = (keep.long().cumsum(1) - 1).clamp(min=0)  # (B, T): from 0 in each text, past any padding
        options: dict[str, Any] = {"mask": causal & padding(keep), "positions": positions}
        if self.pooling == "last":
            last = (keep * torch.arange(ids.shape[1], device=ids.device)).argmax(1)  # (B,)
            return self.model(ids, keep=last[:, None], head=self.score, **options)[:, 0]
        hidden = self.model(ids, head=nn.Identity(), **options)  # (B, T, C)
        weights = keep / keep.sum(1, keepdim=True)
        return self.score((hidden * weights[..., None].to(hidden.dtype)).sum(1))


def freeze(classifier: Classifier, trained: int | Literal["head", "all"]) -> int:
    """Choose what is trained: the head alone, the head with the last layers, or everything.

    Args:
        classifier: The classifier.
        trained: "head"; the number of last layers to train along with the head and the final norm; or "all".

    Returns:
        The number of trained parameters.

    Raises:
        UserError: The number of layers is less than 1 or more than the model has.
    """
    model = classifier.model
    layers = len(model.layers)
    if trained not in ("head", "all", *range(1, layers + 1)):
        raise UserError(f'Train "head", "all" or the last 1 to {layers} layers, not {trained!r}.')
    model.requires_grad_(trained == "all")
    model.lm_head.requires_grad_(trained == "all" and model.config.tie_embeddings)
    if isinstance(trained, int):
        for module in (*model.layers[-trained:], model.norm):
            module.requires_grad_(True)
    return sum(p.numel() for p in classifier.parameters() if p.requires_grad)


class Labelled(NamedTuple):
    """A text and its class.

    Attributes:
        ids: The tokens.
        label: The number of the class, from 0.
    """

    ids: Sequence[int]
    label: int


class LabelledLoader(Loader):
    """Batches ``(ids, keep, labels)`` of texts, padded on the right to the longest in the batch.

    Args:
        examples: The texts.
        options: Those of `Loader`.
    """

    def __init__(self, examples: Sequence[Labelled], **options: Any) -> None:
        self.examples = examples
        super().__init__(len(examples), **options)

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """The texts with these numbers."""
        return pad([self.examples[int(i)] for i in items])


def pad(examples: Sequence[Labelled]) -> tuple[Tensor, Tensor, Tensor]:
    """The ids (B, T) of a batch of texts, which of them are not padding (B, T) bool, and the labels (B,)."""
    rows = [torch.tensor([*one.ids]) for one in examples]
    ids = pad_sequence(rows, batch_first=True)
    keep = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    return ids, keep, torch.tensor([one.label for one in examples])


class Classify(FromLoader):
    """Classification as an objective; its unit is the text.

    Args:
        examples: Texts with their classes.
        block_size: Longer texts are cut to their first `block_size` tokens.
        weights: A factor for the loss of each class, for classes of unequal size; by default 1. Weights bias
            the predicted probabilities on purpose, so calibrate afterwards.
        label_smoothing: Share of each target that is spread evenly over all classes (Szegedy et al., 2016).
        options: Those of `Loader`: ``batch_size``, ``seed``, ``shuffle``.

    Raises:
        UserError: There are no texts, one is empty, a label is negative or has no weight, or
            `label_smoothing` is out of range.
    """

    def __init__(
        self,
        examples: Sequence[Labelled],
        *,
        block_size: int,
        weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing is from 0 to below 1, not {label_smoothing}.")
        kept = [Labelled(ids[:block_size], label) for ids, label in examples]
        for n, (ids, label) in enumerate(kept, 1):
            if not len(ids) or label < 0 or (weights is not None and label >= len(weights)):
                raise UserError(f"Example {n} is empty or has the label {label}, which no class has.")
        super().__init__(LabelledLoader(kept, **options))
        self.weights, self.label_smoothing = weights, label_smoothing

    def count(self, batch: tuple[Tensor, ...]) -> int:
        """The number of texts in the batch."""
        return len(batch[2])

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Loss:
        """The summed cross-entropy, and the number of texts classified correctly."""
        ids, keep, labels = batch
        logits = upcast(model(ids, keep))
        weights = None if self.weights is None else logits.new_tensor(self.weights)
        total = F.cross_entropy(
            logits, labels, weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        return Loss(total, {"accuracy": (logits.argmax(-1) == labels).sum()})
