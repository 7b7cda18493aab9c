"""From logits to the next token: small functions on logits, applied in order, and a random choice."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from myllm.checks import LARGEST, check
from myllm.files import UserError
from myllm.model.basics import upcast

Grammar = Callable[[Sequence[int]], Tensor]
"""Maps the new ids of a row to the tokens that may follow them, (V,) bool; ids beyond its end may not."""

TINY = 1e-6  # divided by a lower temperature, logits might overflow
BOUNDS: dict[str, tuple[type[int | float], float, float]] = {
    "temperature": (float, 0, 1e30),
    "top_k": (int, 1, LARGEST),
    **dict.fromkeys(("top_p", "min_p", "typical_p"), (float, 1e-30, 1)),
    "repetition_penalty": (float, 1e-30, 1e30),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), (float, -1e30, 1e30)),
    **dict.fromkeys(("no_repeat_ngram", "min_new_tokens"), (int, 0, LARGEST)),
}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen; without any option it is the most likely one.

    Attributes:
        logit_bias: Numbers to add to the logits of some ids; ``-inf`` forbids an id.
        repetition_penalty: Divide the positive logits of all tokens in the text, prompt included, by this
            number and multiply the negative ones by it (Keskar et al., 2019); 1 changes nothing.
        presence_penalty: Subtract this number from the logits of tokens that have been generated.
        frequency_penalty: Subtract this number once for each time that a token has been generated.
        no_repeat_ngram: No sequence of this many tokens occurs twice in the text, prompt included
            (Paulus et al., 2018); 0 allows all.
        min_new_tokens: No stop id is generated before this many tokens.
        grammar: Which tokens may follow the new ones.
        temperature: 0 takes the most likely token. Otherwise the logits are divided by it and a token is
            sampled; 1 is the model's own distribution. By default 0, or 1 if one of the next four is given.
        top_k: Keep the k most likely tokens, and those as likely as the last of them.
        top_p: Keep the smallest set of most likely tokens whose probabilities sum to at least this number
            (nucleus sampling, Holtzman et al., 2020).
        min_p: Keep the tokens that are at least this fraction as likely as the most likely one
            (Nguyen et al., 2025).
        typical_p: Keep the smallest set of tokens whose surprise is nearest to the entropy and whose
            probabilities sum to at least this number (Meister et al., 2023).
        order: The names of the options in the order in which they act, including all that are set; by default
            as above.

    Raises:
        UserError: A value out of range, an option that has no effect, or an order without one that is set.
    """

    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    min_new_tokens: int = 0
    grammar: Grammar | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    order: Sequence[str] = ()

    def __post_init__(self) -> None:
        filters = [name for name in FILTERS if getattr(self, name) is not None]
        if self.temperature is None:
            object.__setattr__(self, "temperature", 1.0 if filters else 0.0)
        for name, (kind, least, largest) in BOUNDS.items():
            if (value := getattr(self, name)) is not None:
                check(name, value, kind, bounds=(least, largest))
        for i, bias in self.logit_bias.items():
            check("an id of logit_bias", i, int, bounds=(0, LARGEST))
            check(f"logit_bias[{i}]", bias, float, -math.inf, bounds=(-1e30, 1e30))
        if self.greedy and filters:
            raise UserError(
                f"{filters[0]} has no effect at temperature 0, which takes the most likely token; "
                "give a positive temperature."
            )
        if unknown := [name for name in self.order if name not in ORDER]:
            raise UserError(f"The order has no option {unknown[0]!r}; it may name {', '.join(ORDER)}.")
        if len({*self.order}) < len(self.order):
            raise UserError("The order names an option twice; name each once.")
        if missing := [name for name in self.active if self.order and name not in self.order]:
            raise UserError(f"{missing[0]} is set, but the order does not name it.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    @property
    def active(self) -> list[str]:
        """The options that change logits, in the order in which they act."""
        neutral: dict[str, Any] = {one.name: one.default for one in fields(self)}
        neutral |= {"logit_bias": {}, "temperature": 0 if self.greedy else 1}
        names = dict.fromkeys([*self.order, *ORDER])
        return [name for name in names if getattr(self, name) != neutral[name]]


#: The options in the order in which they act, unless a configuration names another.
ORDER = tuple(one.name for one in fields(SamplingConfig) if one.name != "order")
FILTERS = ORDER[-4:]


def logit_bias(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add numbers to the logits (B, V) of some ids.

    Raises:
        UserError: An id that does not exist.
    """
    V = logits.shape[-1]
    if outside := [i for i in bias if not 0 <= i < V]:
        raise UserError(f"logit_bias names id {outside[0]}; the model has ids from 0 to {V - 1}.")
    ids = torch.tensor([*bias], device=logits.device)
    return logits.index_add(-1, ids, logits.new_tensor([*bias.values()]).expand(len(logits), -1))


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divide the logits (B, V) by the temperature; if it is tiny, first shift the largest logit to 0."""
    if value < TINY:
        return (logits - logits.amax(-1, keepdim=True)) / max(value, torch.finfo(logits.dtype).tiny)
    return logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits of (B, V), and those equal to the last of them."""
    smallest = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.where(logits >= smallest, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens of (B, V) whose probabilities sum to at least p."""
    return _smallest_set(logits, logits, p)


def min_p(logits: Tensor, share: float) -> Tensor:
    """Keep the tokens of (B, V) that are at least this share as likely as the most likely one."""
    return logits.where(logits >= logits.amax(-1, keepdim=True) + math.log(share), -math.inf)


def typical_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens of (B, V) with surprise nearest to the entropy that sum to at least p."""
    logs = torch.log_softmax(logits, -1)
    entropy = -(logs.exp() * logs).nansum(-1, keepdim=True)  # 0 log 0 is nan here, and 0 in the entropy
    return _smallest_set(logits, -(-logs - entropy).abs(), p)


def _smallest_set(logits: Tensor, preference: Tensor, mass: float) -> Tensor:
    """Keep the most preferred tokens, as few as have at least probability `mass`; set the others to -inf."""
    order = preference.sort(descending=True, stable=True).indices
    probabilities = torch.softmax(logits, -1).gather(-1, order)
    before = probabilities.cumsum(-1) - probabilities  # of the tokens preferred to each one
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < mass)
    return logits.where(keep, -math.inf)


def _columns(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of the logits with a spare column, (B, V + 1), and the ids, with padding (-1) moved to it."""
    return torch.nn.functional.pad(logits, (0, 1)), ids.where(ids >= 0, logits.shape[-1])


def repetition_penalty(logits: Tensor, value: float, text: Tensor) -> Tensor:
    """Make the tokens of the text, (B, N), less likely, whatever the sign of their logits; -1 is padding."""
    table, places = _columns(logits, text)
    old = table.gather(-1, places)
    return table.scatter_(-1, places, torch.where(old > 0, old / value, old * value))[:, :-1]


def presence_penalty(logits: Tensor, value: float, new: Tensor) -> Tensor:
    """Subtract a number from the logits of the new tokens, (B, N); -1 is padding."""
    table, places = _columns(logits, new)
    return table.scatter_(-1, places, table.gather(-1, places) - value)[:, :-1]


def frequency_penalty(logits: Tensor, value: float, new: Tensor) -> Tensor:
    """Subtract a number from the logits of the new tokens, (B, N), once for each time that they occur."""
    table, places = _columns(logits, new)
    return table.scatter_add_(-1, places, table.new_full(places.shape, -value))[:, :-1]


def no_repeat_ngram(logits: Tensor, n: int, text: Tensor) -> Tensor:
    """Forbid the tokens that would complete a sequence of n tokens that the text, (B, N), already has."""
    if text.shape[1] < n:
        return logits
    grams = text.unfold(1, n, 1)  # (B, N - n + 1, n)
    same = (grams[..., :-1] == text[:, None, text.shape[1] - n + 1 :]).all(-1)
    table, places = _columns(logits, grams[..., -1].where(same, -1))
    return table.scatter_(-1, places, -math.inf)[:, :-1]


OF_LOGITS = {f.__name__: f for f in (logit_bias, temperature, top_k, top_p, min_p, typical_p)}
OF_TEXT = {f.__name__: f for f in (repetition_penalty, no_repeat_ngram)}
OF_NEW = {f.__name__: f for f in (presence_penalty, frequency_penalty)}


def finite(logits: Tensor) -> Tensor:
    """Check logits (B, V), and return them in at least float32; -inf may forbid single tokens.

    Raises:
        UserError: Logits that are NaN or infinite, or nothing but -inf.
    """
    if not logits.amax(-1).isfinite().all():
        raise UserError(
            "The model's logits are not finite: its weights contain NaN or infinite numbers, or overflow "
            "in this dtype; load it again, or in float32."
        )
    return upcast(logits)


class Sampler:
    """Chooses the next token of each row as a `SamplingConfig` specifies.

    Args:
        config: The options.
        stop_ids: Ids that end a text, for ``min_new_tokens``.
        generators: The source of randomness of each row; by default PyTorch's own for all.
    """

    def __init__(
        self,
        config: SamplingConfig,
        *,
        stop_ids: Collection[int] = (),
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.config, self.stop_ids, self.generators = config, [*stop_ids], generators

    def select(self, rows: Sequence[int]) -> None:
        """Keep only some rows of the batch."""
        self.generators = [self.generators[row] for row in rows if self.generators]

    def __call__(self, logits: Tensor, text: Tensor, start: int) -> Tensor:
        """Choose a token for each row; see `distribution`.

        Returns:
            (B,) int64.
        """
        return self.choose(self.distribution(logits, text, start))

    def choose(self, probabilities: Tensor) -> Tensor:
        """A random token of each row, from (B, V); at temperature 0 the most likely one."""
        if self.config.greedy:
            return probabilities.argmax(-1)
        if not self.generators:
            return torch.multinomial(probabilities, 1).squeeze(-1)
        rows = zip(probabilities, self.generators, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])

    def distribution(self, logits: Tensor, text: Tensor, start: int) -> Tensor:
        """The probabilities from which the next token is sampled.

        Args:
            logits: (B, V), the model's.
            text: (B, N) int64, the text so far; -1 is padding.
            start: The index of the first generated token in `text`.

        Returns:
            (B, V), float32 or float64; at temperature 0, all of it on one token.

        Raises:
            UserError: Logits that are not finite, or options that leave no token.
        """
        logits = finite(logits)
        for name in self.config.active:
            logits = self._apply(name, logits, text, start)
        largest = logits.amax(-1, keepdim=True)
        if not largest.isfinite().all():
            raise UserError("The sampling options leave no token to choose from; allow more of them.")
        if self.config.greedy:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        return torch.softmax(logits - largest, -1)

    def _apply(self, name: str, logits: Tensor, text: Tensor, start: int) -> Tensor:
        value: Any = getattr(self.config, name)
        if name in OF_LOGITS:
            return OF_LOGITS[name](logits, value)
        if name in OF_TEXT:
            return OF_TEXT[name](logits, value, text)
        new = text[:, start:]
        if name in OF_NEW:
            return OF_NEW[name](logits, value, new)
        if name == "grammar":
            allowed = torch.stack([value(row.tolist()) for row in new]).to(logits.device)
            missing = logits.shape[1] - allowed.shape[1]  # ids of the model that its tokenizer does not have
            return logits.where(torch.nn.functional.pad(allowed, (0, missing)), -math.inf)
        if new.shape[1] < value:  # min_new_tokens
            stops = [i for i in self.stop_ids if i < logits.shape[1]]
            return logits.index_fill(-1, torch.tensor(stops, device=logits.device).long(), -math.inf)
        return logits
