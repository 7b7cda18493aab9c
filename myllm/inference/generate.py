"""Generating text: the model predicts the next token again and again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from myllm.files import UserError
from myllm.inference.regex import regex_grammar
from myllm.inference.sampling import Sampler, SamplingConfig
from myllm.model.basics import block_size_of, device_of
from myllm.model.cache import Cache, KVCache
from myllm.model.masks import Mask, causal
from myllm.model.transformer import Transformer
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.pretrained import decode_stream

Model = Callable[..., Tensor]
"""Any function from ids (B, T) int64 to logits (B, T, V); called ``model(ids, cache=…)`` with a cache."""

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Chooses tokens (B,) int64 from logits (B, V), the text so far (B, N) and where its new part starts."""


def new_cache(model: Model, rows: int, size: int, pads: Tensor | None = None) -> Cache | None:
    """An empty cache for a batch.

    Args:
        model: The model.
        rows: B, how many texts are continued together.
        size: The most tokens that any of them will have in the end.
        pads: (B,) int64, by how many tokens each row is padded on the left.

    Returns:
        The cache, or None for a model whose configuration is not known.
    """
    config = getattr(model, "config", None)
    return None if config is None else KVCache(config, rows, size, pads=pads, device=device_of(model))


@torch.inference_mode()
def decode(
    model: Model,
    ids: Tensor,
    *,
    steps: int,
    sampler: Choose | None = None,
    pads: Tensor | None = None,
    cache: Cache | None = None,
) -> Iterator[Tensor]:
    """Continue the rows of a batch, by one token each per step.

    No token ends a row: the caller decides when to stop iterating.

    Args:
        model: Any function from ids (B, T) to logits (B, T, V).
        ids: The prompts, (B, T) int64.
        steps: How many tokens are generated for each row.
        sampler: Chooses the next tokens: a `Sampler` or another function of the same form. By default each
            is the most likely one.
        pads: (B,) int64, by how many tokens each row is padded on the left; only without a cache, which gets
            them itself, as `KVCache` does.
        cache: An empty cache. Without one the whole text is computed again at each step.

    Returns:
        The new ids of each step, (B,) int64.

    Raises:
        UserError: Logits that are NaN or infinite, a model that ignores its cache, or `pads` with a cache.
    """
    if cache is not None and pads is not None:
        raise UserError("With a cache, give the padding to the cache: KVCache(config, rows, pads=…).")
    pads = getattr(cache, "pads", pads)
    sampler = sampler or Sampler(SamplingConfig())
    start, new, text = ids.shape[1], ids, _marked(ids, pads)
    for _ in range(steps):
        chosen = sampler(_next_logits(model, text, new, pads, cache), text, start)
        yield chosen
        new = chosen[:, None]
        text = torch.cat([text, new], dim=1)


def _next_logits(model: Model, text: Tensor, new: Tensor, pads: Tensor | None, cache: Cache | None) -> Tensor:
    """The logits (B, V) after a text (B, N), whose last tokens, `new`, are not in the cache yet."""
    if cache is not None:
        logits = last_logits(model, new, cache=cache)
        if _length(cache) == 0:
            raise UserError("This model does not use the cache; generate without one.")
        return logits
    if pads is not None:
        return last_logits(model, text.clamp(min=0), **_padded(text, pads))
    return last_logits(model, text)


def _marked(ids: Tensor, pads: Tensor | None) -> Tensor:
    """The ids (B, T) with -1 as padding."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    return ids if pads is None else ids.where(columns >= pads[:, None], -1)


def _length(cache: Cache | None) -> int | None:
    """The tokens in a cache's longest row; None if it has no ``length`` (a number, or one for each row)."""
    length = getattr(cache, "length", None)
    return None if length is None else int(torch.as_tensor(length).max())


def _padded(ids: Tensor, pads: Tensor) -> dict[str, Any]:
    """The arguments of `Transformer.forward` for rows that are padded on the left."""
    positions = torch.arange(ids.shape[1], device=ids.device) - pads[:, None]
    return {"positions": positions, "mask": causal & Mask(lambda b, h, q, k: k >= pads[b])}


def generate(
    model: Model,
    ids: Sequence[int] | Tensor,
    *,
    max_new_tokens: int,
    stop_ids: Iterable[int] = (),
    seed: int | None = None,
    cache: Cache | None = None,
    **sampling: Any,
) -> Iterator[int]:
    """Continue one text, one token at a time: `decode` for a batch of one.

    Args:
        model: Any function from ids (B, T) to logits (B, T, V).
        ids: The prompt, at least one id: a sequence, or a tensor (T,).
        max_new_tokens: The most tokens to generate.
        stop_ids: Ids that end the text; they are not yielded.
        seed: Makes sampling repeatable; by default PyTorch's own generator is used.
        cache: An empty cache of keys and values, so that only the new token is computed each time. Without
            one the whole text is computed again for each token.
        sampling: The fields of `SamplingConfig`, such as ``temperature`` and ``top_p``.

    Returns:
        The new ids, each as soon as it is known.

    Raises:
        UserError: Options outside their range, a text that would outgrow the model's context, or logits that
            are not finite.
    """
    row = [int(i) for i in ids]
    config, stops = SamplingConfig(**sampling), frozenset(stop_ids)
    check_room(model, len(row), max_new_tokens)
    if _length(cache):
        raise UserError("The cache already holds keys and values; give an empty one.")
    device = device_of(model)
    sampler = Sampler(config, stop_ids=stops, generators=generators(seed, 1, device))
    prompt = torch.tensor([row], device=device)
    new = decode(model, prompt, steps=max_new_tokens, sampler=sampler, cache=cache)
    return takewhile(lambda i: i not in stops, (int(i) for i in new))


@torch.inference_mode()
def generate_batch(
    model: Model,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Iterable[int] = (),
    seed: int | None = None,
    cache: Callable[..., Any] = new_cache,
    **sampling: Any,
) -> list[list[int]]:
    """Continue several texts together; each gets the tokens that it would get alone.

    Shorter rows are padded on the left. A row that has ended leaves the batch. The last digits of a logit may
    depend on the size of the batch, so that another token wins where two are almost equally likely.

    Args:
        model: A `Transformer` or, for rows of equal length, any function from ids (B, T) to (B, T, V).
        rows: The prompts, each of at least one id.
        max_new_tokens: The most tokens to generate for each.
        stop_ids: Ids that end a text; they are not returned.
        seed: Row i is sampled with the seed ``seed + i``; by default PyTorch's own generator is used.
        cache: Makes an empty cache as `new_cache` does, or returns None to compute all tokens in each step.
        sampling: The fields of `SamplingConfig`.

    Returns:
        The new ids of each row.

    Raises:
        UserError: As `generate`.
    """
    if not rows:
        return []
    device, stops, width = device_of(model), frozenset(stop_ids), max(map(len, rows))
    for row in rows:
        check_room(model, len(row), max_new_tokens)
    sources = generators(seed, len(rows), device)
    sampler = Sampler(SamplingConfig(**sampling), stop_ids=stops, generators=sources)
    found: list[list[int]] = [[] for _ in rows]
    new = torch.tensor([[0] * (width - len(row)) + [*map(int, row)] for row in rows], device=device)
    padding = torch.tensor([width - len(row) for row in rows], device=device)
    pads = padding if padding.any() else None
    held = cache(model, len(rows), width + max_new_tokens, pads)
    text, active = _marked(new, pads), [*range(len(rows))]
    for _ in range(max_new_tokens):
        chosen = sampler(_next_logits(model, text, new, pads, held), text, width)
        going = [n for n, i in enumerate(chosen) if int(i) not in stops]
        for n in going:
            found[active[n]].append(int(chosen[n]))
        if not going:
            break
        new = chosen[:, None]
        text = torch.cat([text, new], dim=1)
        if len(going) < len(active):
            keep, active = torch.tensor(going, device=device), [active[n] for n in going]
            text, new, pads = text[keep], new[keep], None if pads is None else pads[keep]
            sampler.select(going)
            if held is not None:
                held.select(keep)
    return found


def check_room(model: Model, length: int, max_new_tokens: int) -> None:
    """Refuse a prompt of this length whose continuation would not fit into the model's context."""
    limit = block_size_of(model)
    if length == 0:
        raise UserError("There is nothing to continue; give at least one id, such as the begin token.")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens must be 0 or more, not {max_new_tokens}.")
    if limit is not None and length + max_new_tokens > limit:
        room = limit - length
        advice = f"ask for at most {room}" if room > 0 else "shorten the text"
        text = f"{length} tokens and {max_new_tokens} new ones"
        raise UserError(f"{text} do not fit into a context of {limit}; {advice}.")


def generators(seed: int | None, rows: int, device: torch.device) -> list[torch.Generator]:
    """A generator for each row: row i has the seed ``seed + i``, so that equal prompts differ."""
    if seed is None:
        return []
    seeds = ((seed + i) % (1 << 64) for i in range(rows))  # PyTorch takes 64 bits
    return [torch.Generator(device).manual_seed(one) for one in seeds]


def last_logits(model: Model, ids: Tensor, **options: Any) -> Tensor:
    """The logits (B, V) of the token that follows `ids`, (B, T); a `Transformer` computes no others."""
    if isinstance(getattr(model, "_orig_mod", model), Transformer):  # compiled or not
        options["keep"] = -1
    return model(ids, **options)[:, -1]


def stream(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    stop: str | Sequence[str] = (),
    regex: str | None = None,
    write: Callable[..., Iterator[int]] = generate,
    **options: Any,
) -> Iterator[str]:
    """Continue a text, and return the continuation piece by piece.

    Args:
        model: Any function from ids (B, T) to logits (B, T, V).
        tokenizer: Its tokenizer.
        prompt: A text, or ids. Nothing is put in front of it.
        stop: Strings that end the text, even if they begin or end inside a token; they are not yielded.
        regex: A regular expression that the new text matches once a stop id ends it; see `regex_grammar`.
        write: What generates the ids: `generate`, or a function with the same interface, such as
            ``functools.partial(speculate, draft=…)``.
        options: Those of `generate`.

    Returns:
        The new text, in pieces of whole characters.

    Raises:
        UserError: As `generate`, or an empty stop string.
    """
    before = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    grammar: dict[str, Any] = {}
    if regex is not None:
        start, stop_ids = tokenizer.starts_after(before), options.get("stop_ids", ())
        grammar = {"grammar": regex_grammar(regex, tokenizer, stop_ids, start=start)}
    new = write(model, before, **grammar, **options)
    pieces = decode_stream(tokenizer, new, after=before)
    return cut_at_stop(pieces, [stop] if isinstance(stop, str) else stop)


def cut_at_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """A text up to the first complete stop string, without it.

    What may be the beginning of a stop string is held back until more text follows. Of several that end at
    the same place, the longest is removed.

    Args:
        pieces: The text in any pieces.
        stops: The stop strings.

    Raises:
        UserError: A stop string is empty.
    """
    if not all(stops):
        raise UserError("A stop string is empty; leave it out.")
    return _cut(pieces, stops)


def _cut(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        ready, held = split_at_stop(held + piece, stops)
        if ready:
            yield ready
        if held is None:
            return
    if held:
        yield held


def split_at_stop(held: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """A text in two parts: what may be shown, and what may be the beginning of a stop string.

    Where the text contains a whole stop string, the first part ends before it and the second is None.
    """
    if found := [(held.find(stop) + len(stop), held.find(stop)) for stop in stops if stop in held]:
        return held[: min(found)[1]], None
    beginnings = (stop[:n] for stop in stops for n in range(1, len(stop)))
    keep = max((len(part) for part in beginnings if held.endswith(part)), default=0)
    return held[: len(held) - keep], held[len(held) - keep :]
