"""Supervised fine-tuning: learn to predict the answers in example conversations, and nothing else.

An example is a sequence of tokens with a loss mask, which is 1 on the tokens to be learned. Examples share
rows (`myllm.data.packing`) but do not attend to each other, and the positions of each start at 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from myllm.checks import shown
from myllm.data.loader import PackedLoader
from myllm.data.packing import IGNORE, Packed, pack
from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import render
from myllm.training.pretrain import Pretrain

TooLong = Literal["raise", "drop", "cut"]


class Example(NamedTuple):
    """One training example.

    Attributes:
        ids: The token ids.
        mask: 1 for each token to be learned, 0 for each one that is only given; as long as `ids`.
    """

    ids: Sequence[int]
    mask: Sequence[int]


def encode(item: Mapping[str, Any], tokenizer: Tokenizer, template: str | None = None) -> Example:
    """The `Example` that a dict describes.

    Args:
        item: It has either ``messages``, a conversation for `render`, whose answers are learned; or
            ``prompt`` and ``response``, plain text that is concatenated as it is. The end token after a
            response is learned, too, or the model would never stop.
        tokenizer: The tokenizer of the model.
        template: The chat format of ``messages``; by default the tokenizer's own.

    Raises:
        UserError: The dict has neither form, the tokenizer has no end token, or `render` refuses the
            messages.
    """
    if "messages" in item:
        return Example(*render(item["messages"], tokenizer, template))
    prompt, response = item.get("prompt"), item.get("response")
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise UserError(
            f"An example has messages, or a prompt and a response, both texts, not {shown(item)}."
        )
    if tokenizer.eos_id is None:
        raise UserError(
            f"The tokenizer {tokenizer.name} has no end token, so a model could not learn to stop; pretrain "
            "with one that has <|endoftext|> (myllm tokenizer train --special)."
        )
    given = tokenizer.encode(prompt, bos=tokenizer.add_bos)
    learned = [*tokenizer.encode(response), tokenizer.eos_id]
    return Example(given + learned, [0] * len(given) + [1] * len(learned))


def check_masks(examples: Sequence[Example]) -> None:
    """Refuse masks with mistakes that no loss curve would reveal.

    Raises:
        UserError: There are no examples; one is empty, has a mask of another length or of other values than 0
            and 1, or has no token to learn; or all tokens of all examples are learned, which is pretraining.
    """
    if not examples:
        raise UserError("There are no examples; give at least one.")
    for n, (ids, mask) in enumerate(examples, 1):
        if len(ids) != len(mask) or not {*mask} <= {0, 1}:
            raise UserError(
                f"Example {n} has {len(ids)} tokens and a mask of {len(mask)}; it needs 0s and 1s."
            )
        if not any(mask[1:]):  # the first token is never predicted
            raise UserError(f"Example {n} has no token to learn: its mask is 0; look at roles and answers.")
    if all(all(mask) for _, mask in examples):
        raise UserError(
            "All masks are 1: prompts would be learned, too; use Pretrain if that is what you want."
        )


def show_mask(example: Example, tokenizer: Tokenizer) -> str:
    """The text of an example, its learned parts between ``⟦`` and ``⟧``, to be inspected before training."""
    text = ""
    for learned, run in groupby(zip(example.ids, example.mask, strict=True), key=lambda pair: pair[1]):
        piece = tokenizer.decode([i for i, _ in run])
        text += f"⟦{piece}⟧" if learned else piece
    return text


class SFT(Pretrain):
    """Supervised fine-tuning as an objective; its unit is the learned token.

    The loss of a batch is the sum over all learned tokens, divided by their number. So a long answer weighs
    more than a short one, and padding and packing change nothing.

    Args:
        examples: The training examples; see `encode`.
        block_size: T, the length of a row.
        packing: Whether short examples share rows; otherwise each has its own row, padded at the end.
        too_long: What to do with an example of more than `block_size` tokens: "raise" an error, "drop" it, or
            "cut" off its end, and drop it if no learned token is left.
        pad_id: The id that pads rows; it affects no result.
        z_loss: See `myllm.training.losses.cross_entropy`.
        options: Those of `myllm.data.loader.Loader`: ``batch_size`` in rows, ``seed``, ``shuffle``.

    Attributes:
        dropped: The indices of the examples that were dropped, from 0.
        loader: The batches: ids, targets, document numbers and positions, each (B, T).

    Raises:
        UserError: `check_masks` refuses the examples, or one is too long.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        *,
        block_size: int,
        packing: bool = True,
        too_long: TooLong = "raise",
        pad_id: int = 0,
        z_loss: float = 0.0,
        **options: Any,
    ) -> None:
        given = [*examples]
        check_masks(given)
        kept: list[Example] = []
        self.dropped: list[int] = []
        for n, (ids, mask) in enumerate(given):
            if len(ids) > block_size and too_long == "raise":
                longer = f"Example {n + 1} has {len(ids)} tokens, a row {block_size}"
                raise UserError(f'{longer}; raise block_size, or set too_long to "drop" or "cut".')
            if len(ids) > block_size and (too_long == "drop" or not any(mask[1:block_size])):
                self.dropped.append(n)
            else:
                kept.append(Example(ids[:block_size], mask[:block_size]))
        if not kept:
            raise UserError(f"All examples are longer than {block_size} tokens; raise block_size.")
        super().__init__(_MaskedLoader(kept, block_size, packing, pad_id, **options), z_loss=z_loss)


class _MaskedLoader(PackedLoader):
    """Packed rows in which only the learned tokens are targets."""

    def __init__(
        self, examples: Sequence[Example], block_size: int, packing: bool, pad_id: int, **options: Any
    ) -> None:
        rows = _rows([one.ids for one in examples], block_size, packing, pad_id)
        # Packing depends on lengths alone, so each mask is packed exactly as its tokens are.
        self.learned = _rows([one.mask for one in examples], block_size, packing, 0).ids > 0  # (R, T)
        super().__init__(rows, **options)

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """The rows with these numbers: ids, targets, document numbers, positions."""
        ids, targets, *rest = super().batch(items)
        learned = torch.from_numpy(self.learned[items])[:, 1:]
        targets[:, :-1][~learned] = IGNORE
        return ids, targets, *rest

    def _identity(self) -> dict[str, int]:
        return super()._identity() | {"learned": int(self.learned.sum()), "block_size": self.learned.shape[1]}


def _rows(documents: Sequence[Sequence[int]], block_size: int, packing: bool, pad_id: int) -> Packed:
    if packing:
        return pack(documents, block_size, pad_id=pad_id)
    single = [pack([document], block_size, pad_id=pad_id) for document in documents]
    return Packed(*(np.concatenate(parts) for parts in zip(*single, strict=True)))
