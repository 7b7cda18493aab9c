"""Pretraining as an objective: predict each next token of a text."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from myllm.data.loader import Loader
from myllm.files import UserError
from myllm.model.masks import causal, document
from myllm.model.transformer import Transformer
from myllm.training.losses import chunked_loss, cross_entropy
from myllm.training.step import Loss


class FromLoader:
    """The base of objectives whose batches come from a loader, which divides and resumes them.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def share(self, rank: int, world: int) -> None:
        """From now on, return only the part of one process."""
        self.loader.rank, self.loader.world = rank, world

    def batches(self, model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """The batches of the loader, on the model's device."""
        device = next(model.parameters()).device
        for batch in self.loader:
            yield tuple(part.to(device, non_blocking=True) for part in batch)

    def state_dict(self) -> dict[str, Any]:
        """The loader's position in its data."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from another loader's position."""
        self.loader.load_state_dict(state)


class Pretrain(FromLoader):
    """Next-token prediction on the batches of a loader; its unit is the token.

    Args:
        loader: A `WindowLoader`, or a `PackedLoader`, whose documents do not attend to each other.
        z_loss: See `myllm.training.losses.cross_entropy`.
    """

    def __init__(self, loader: Loader, *, z_loss: float = 0.0) -> None:
        super().__init__(loader)
        self.z_loss = z_loss

    def count(self, batch: tuple[Tensor, ...]) -> int:
        """The number of targets that have a loss."""
        return int((batch[1] >= 0).sum())

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Loss:
        """The summed negative log-likelihood; logits are never held for the whole batch.

        A model that is not a `Transformer` is called with the ids alone, and returns logits.
        """
        ids, targets, *packed = batch
        if not isinstance(model, Transformer):
            if packed:
                raise UserError("Packed rows need a Transformer, which masks documents; use a WindowLoader.")
            return Loss(cross_entropy(model(ids), targets, z_loss=self.z_loss), {})
        options: dict[str, Any] = {}
        if packed:
            others = (packed[0] != packed[0][:, :1]) & (packed[0] >= 0)
            mask = causal & document(packed[0]) if others.any() else causal  # faster; padding is last anyway
            options = {"mask": mask, "positions": packed[1]}
        lm_head: Any = model.lm_head
        if not isinstance(lm_head, nn.Linear):  # quantized or adapted: its logits come all at once
            return Loss(cross_entropy(model(ids, **options), targets, z_loss=self.z_loss), {})

        def head(hidden: Tensor) -> Tensor:
            cap = model.config.logit_softcap
            return chunked_loss(hidden, targets, lm_head, softcap=cap, z_loss=self.z_loss)

        return Loss(model(ids, head=head, **options), {})
