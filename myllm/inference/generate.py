"""Writing: a model is asked for the next token again and again."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from myllm.files import UserError
from myllm.model.cache import Cache
from myllm.model.transformer import Transformer
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.pretrained import decode_stream

Model = Callable[..., Tensor]
"""Any function from ids (B, T) int64 to logits (B, T, V); called ``model(ids, cache=…)`` with a cache."""


class GrowingCache:
    """The simplest cache: the keys and values of each layer, joined to those that were there.

    Args:
        n_layer: Layers of the model.
    """

    def __init__(self, n_layer: int) -> None:
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * n_layer

    @property
    def length(self) -> int:
        """How many positions it held before the forward pass that is running: the last layer's comes last."""
        return 0 if self._held[-1] is None else self._held[-1][0].shape[2]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (B, K, T, D); return all there are, (B, K, S, D)."""
        if (old := self._held[layer]) is not None:
            k, v = torch.cat([old[0], k], dim=2), torch.cat([old[1], v], dim=2)
        self._held[layer] = k, v
        return k, v


def generate(
    model: Model,
    ids: Sequence[int] | Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    stop_ids: Iterable[int] = (),
    seed: int | None = None,
    cache: Cache | None = None,
) -> Iterator[int]:
    """Continue a row of ids, one token at a time.

    Args:
        model: Any function from ids (B, T) to logits (B, T, V).
        ids: What stands before, at least one id: a sequence, or a tensor (T,).
        max_new_tokens: The most that is written.
        temperature: 0 takes the likeliest token each time; otherwise the logits are divided by it and a token
            is drawn, from the model's own distribution at 1.
        stop_ids: Ids that end the text; they are not passed on.
        seed: Makes the draws repeatable; by default PyTorch's own generator is used.
        cache: Remembers keys and values, so that only the new token is computed; it must be empty.
            Without one the whole text is computed anew for each token.

    Returns:
        The new ids, each as soon as it is chosen.

    Raises:
        UserError: Options outside their range, or a text that would outgrow the model's context.
    """
    row = [int(i) for i in ids]
    limit = getattr(getattr(model, "config", None), "block_size", None)
    if not row:
        raise UserError("There is nothing to continue; give at least one id, such as the begin token.")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens must be 0 or more, not {max_new_tokens}.")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature must be 0 or a positive number, not {temperature}.")
    if cache is not None and cache.length:
        raise UserError(f"The cache already holds {cache.length} positions; give an empty one.")
    if limit is not None and len(row) + max_new_tokens > limit:
        raise UserError(
            f"{len(row)} tokens and {max_new_tokens} new ones do not fit into a context of {limit}; "
            + (f"ask for at most {limit - len(row)}." if len(row) < limit else "shorten the text.")
        )
    return _generate(model, row, max_new_tokens, temperature, frozenset(stop_ids), seed, cache)


@torch.inference_mode()
def _generate(
    model: Model,
    row: list[int],
    max_new_tokens: int,
    temperature: float,
    stop_ids: frozenset[int],
    seed: int | None,
    cache: Cache | None,
) -> Iterator[int]:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = torch.device("cpu") if first is None else first.device
    draw = None if seed is None else torch.Generator(device).manual_seed(seed)
    new = torch.tensor([row], device=device)  # (1, T), what the model has not seen yet
    text = new
    for _ in range(max_new_tokens):
        logits = last_logits(model, text) if cache is None else last_logits(model, new, cache=cache)
        if cache is not None and cache.length != text.shape[1]:
            raise UserError("This model does not use the cache; generate without one.")
        new = choose(logits, temperature, draw)[:, None]  # (1, 1)
        if (i := int(new)) in stop_ids:
            return
        yield i
        text = torch.cat([text, new], dim=1)


def last_logits(model: Model, ids: Tensor, **options: Any) -> Tensor:
    """The logits (B, V) of the token that follows `ids`, (B, T); a `Transformer` computes no others."""
    if isinstance(model, Transformer):
        return model.head(model.hidden(ids, **options)[:, -1])
    return model(ids, **options)[:, -1]


def choose(logits: Tensor, temperature: float, draw: torch.Generator | None = None) -> Tensor:
    """The next token of each row: the likeliest at temperature 0, else a draw.

    Args:
        logits: (B, V).
        temperature: See `generate`.
        draw: Where the chance comes from.

    Returns:
        (B,) int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    temperature = max(temperature, torch.finfo(logits.dtype).tiny)  # not 0 in this dtype
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # nothing overflows upwards
    return torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=draw).squeeze(-1)


def stream(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    stop: str | Sequence[str] = (),
    **options: Any,
) -> Iterator[str]:
    """Continue a text, piece by piece.

    Args:
        model: Any function from ids (B, T) to logits (B, T, V).
        tokenizer: Its tokenizer.
        prompt: What stands before: a text, or ids. Nothing is put in front of it.
        stop: Strings that end the text, wherever tokens begin and end; they are not passed on.
        options: Those of `generate`.

    Returns:
        Pieces of the new text, never half a character; joined they are the whole.

    Raises:
        UserError: As `generate`, or an empty string to stop at.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise UserError("An empty string cannot be stopped at; leave it out.")
    before = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    ids = generate(model, before, **options)
    return until(decode_stream(tokenizer, ids, after=before), stops)


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """A text up to where the first of some strings is complete, without that string.

    What may be the beginning of one is held back until the text goes on. Of several that end at the same
    place the longest is cut.

    Args:
        pieces: The text in any pieces.
        stops: The strings.
    """
    held = ""
    for piece in pieces:
        held += piece
        if found := [(start + len(stop), start) for stop in stops if (start := held.find(stop)) >= 0]:
            if text := held[: min(found)[1]]:
                yield text
            return
        keep = max((n for stop in stops for n in range(len(stop)) if held.endswith(stop[:n])), default=0)
        if text := held[: len(held) - keep]:
            yield text
        held = held[len(held) - keep :]
    if held:
        yield held
