"""Speculative decoding: a cheap draft proposes several tokens, and the model checks them in one forward pass.

What is generated follows the distribution of the model alone, whatever the draft proposes (Leviathan et al.,
2023; Chen et al., 2023).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from myllm.files import UserError
from myllm.inference.generate import check_room, generators, last_logits
from myllm.inference.sampling import Sampler, SamplingConfig
from myllm.model.basics import device_of
from myllm.model.cache import KVCache
from myllm.model.transformer import Transformer


class Draft(Protocol):
    """Proposes how a text may continue."""

    def propose(self, text: Sequence[int], k: int) -> tuple[list[int], Tensor]:
        """Propose up to k tokens.

        Args:
            text: The ids so far.
            k: The most that may be proposed.

        Returns:
            The ids, and for each the full distribution from which it was sampled, (n, V), after any filter.
            If it is wrong, the text no longer follows the model's distribution.
        """
        ...


class PromptLookup:
    """Proposes what followed an earlier occurrence of the text's last tokens (Saxena, 2023).

    Args:
        vocab_size: V of the model.
        n: How many last tokens to look up; where they did not occur before, fewer are tried.
    """

    def __init__(self, vocab_size: int, n: int = 3) -> None:
        self.vocab_size, self.n = vocab_size, n

    def propose(self, text: Sequence[int], k: int) -> tuple[list[int], Tensor]:
        """What followed the latest earlier occurrence, with probability 1 on each of its tokens."""
        row, found = [*text], list[int]()
        for n in range(min(self.n, len(row) - 1), 0, -1):
            starts = range(len(row) - n - 1, -1, -1)
            if (at := next((i for i in starts if row[i : i + n] == row[-n:]), None)) is not None:
                found = row[at + n : at + n + k]
                break
        return found, _certain(found, self.vocab_size)


class BigramDraft:
    """Proposes tokens from the bigrams of chapter 1.

    Args:
        probabilities: (V, V), for each token the distribution of the next one; rows sum to 1.
        seed: Seeds its random choices; without one it proposes the most likely token.
    """

    def __init__(self, probabilities: Tensor, seed: int | None = None) -> None:
        self.probabilities, self.greedy = probabilities, seed is None
        self._generator = torch.Generator(probabilities.device).manual_seed(seed or 0)

    def propose(self, text: Sequence[int], k: int) -> tuple[list[int], Tensor]:
        """A chain of k tokens, each from the row of the one before it."""
        ids, last = list[int](), text[-1]
        for _ in range(k):
            row = self.probabilities[last]
            last = int(row.argmax() if self.greedy else torch.multinomial(row, 1, generator=self._generator))
            ids.append(last)
        if self.greedy:
            return ids, _certain(ids, len(self.probabilities))
        return ids, self.probabilities[[text[-1], *ids[:-1]]]


class ModelDraft:
    """Proposes tokens with a smaller model of the same vocabulary.

    Args:
        model: The smaller model.
        seed: Seeds its random choices.
        sampling: The fields of `SamplingConfig`. The nearer the distribution is to the large model's, the
            more is accepted: the same options are a good choice.
    """

    def __init__(self, model: Transformer, seed: int | None = None, **sampling: Any) -> None:
        self.model = model
        rows = generators(seed, 1, device_of(model))
        self._sampler = Sampler(SamplingConfig(**sampling), generators=rows)
        self._cache, self._seen = KVCache(model.config, device=device_of(model)), list[int]()

    @torch.inference_mode()
    def propose(self, text: Sequence[int], k: int) -> tuple[list[int], Tensor]:
        """Up to k tokens of the smaller model, fewer where its context ends."""
        row = [*text]
        # What it proposed may have been rejected, and its last proposal was never its input.
        same = next(
            (i for i, (a, b) in enumerate(zip(self._seen, row, strict=False)) if a != b), len(self._seen)
        )
        self._cache.truncate(min(same, len(row) - 1))
        found: list[Tensor] = []
        for _ in range(min(k, self.model.config.block_size - len(row))):
            ids = torch.tensor([row], device=device_of(self.model))
            logits = last_logits(self.model, ids[:, self._cache.length :], cache=self._cache)
            found.append(self._sampler.distribution(logits, ids, len(text))[0])
            row.append(int(self._sampler.choose(found[-1][None])))
        self._seen = row
        if not found:
            return [], _certain([], self.model.config.vocab_size)
        return row[len(text) :], torch.stack(found)


def _certain(ids: Sequence[int], V: int) -> Tensor:
    """Distributions with all probability on one id each, (n, V)."""
    return torch.nn.functional.one_hot(torch.tensor([*ids], dtype=torch.int64), V).float()


@dataclass
class Counts:
    """What speculative decoding has done.

    Attributes:
        proposed: Tokens that the draft proposed.
        accepted: Those that the model accepted.
        passes: Forward passes of the model.
    """

    proposed: int = 0
    accepted: int = 0
    passes: int = 0


def acceptance(p: Tensor, q: Tensor) -> Tensor:
    """The probability (V,) of accepting each token if proposed, given the model's p and the draft's q."""
    return torch.where(q > 0, p / q, 1.0).clamp(max=1)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """The distribution (V,) from which a token is sampled instead of a rejected one.

    A proposal is accepted with probability sum(min(p, q)); what p has above q makes up for the rest.
    """
    rest = (p - q).clamp(min=0)
    return rest / rest.sum() if rest.any() else p  # rounding can leave nothing


@torch.inference_mode()
def speculate(
    model: Transformer,
    ids: Sequence[int],
    draft: Draft,
    *,
    max_new_tokens: int,
    k: int = 4,
    stop_ids: Iterable[int] = (),
    seed: int | None = None,
    cache: KVCache | None = None,
    counts: Counts | None = None,
    **sampling: Any,
) -> Iterator[int]:
    """Continue one text as `generate` does, with fewer forward passes.

    At temperature 0 the ids are those of `generate`. Otherwise they follow the same distribution, but a seed
    gives other ids than there, since random numbers are used in another order.

    Args:
        model: The model.
        ids: The prompt, at least one id.
        draft: Proposes tokens.
        max_new_tokens: The most tokens to generate.
        k: The most tokens proposed for one forward pass.
        stop_ids: Ids that end the text; they are not yielded.
        seed: Makes sampling repeatable.
        cache: An empty cache; by default one that is just large enough.
        counts: Updated with each forward pass.
        sampling: The fields of `SamplingConfig`.

    Raises:
        UserError: As `generate`, or a k below 1.
    """
    text, stops, counts = [*ids], frozenset(stop_ids), counts or Counts()
    if k < 1:
        raise UserError(f"k must be at least 1, not {k}.")
    check_room(model, len(text), max_new_tokens)
    device, start, end = device_of(model), len(text), len(text) + max_new_tokens
    sampler = Sampler(SamplingConfig(**sampling), stop_ids=stops, generators=generators(seed, 1, device))
    cache = cache or KVCache(model.config, size=end, device=device)
    while len(text) < end:
        proposed, q = draft.propose(text, min(k, end - len(text) - 1))
        row = torch.tensor([text + proposed], device=device)
        n = len(proposed)
        keep = torch.arange(-n - 1, 0, device=device)
        logits = model(row[:, cache.length :], cache=cache, keep=keep)[0]  # (n + 1, V)
        counts.passes, counts.proposed = counts.passes + 1, counts.proposed + n
        for i in range(n + 1):
            p = sampler.distribution(logits[i : i + 1], row[:, : len(text)], start)[0]
            accepted = False
            if i < n:
                u = torch.rand((), generator=next(iter(sampler.generators), None), device=device)
                accepted = bool(u < acceptance(p, q[i].to(p))[proposed[i]])
                p = p if accepted else residual(p, q[i].to(p))
            if accepted:
                chosen, counts.accepted = proposed[i], counts.accepted + 1
            else:
                chosen = int(sampler.choose(p[None]))
            if chosen in stops:
                return
            text.append(chosen)
            yield chosen
            if not accepted:
                break
        cache.truncate(len(text) - 1)
