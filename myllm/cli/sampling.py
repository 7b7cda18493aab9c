"""The sampling options, which ``myllm generate`` and ``myllm chat`` share."""

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Annotated, Any

from tyro.conf import UseAppendAction, arg

from myllm.files import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model generates text: the fields of `SamplingConfig`, and where the text ends."""

    max_new_tokens: Annotated[int | None, arg(metavar="N")] = None
    """The most tokens to generate; by default 256, or as many as the context holds."""
    temperature: Annotated[float | None, arg(metavar="X")] = None
    """0 takes the most likely token each time, 1 samples from the model's own distribution; by default 0, or
    1 with one of the next four options."""
    top_k: Annotated[int | None, arg(metavar="K")] = None
    """Keep the K most likely tokens."""
    top_p: Annotated[float | None, arg(metavar="P")] = None
    """Keep the fewest most likely tokens that have probability P together."""
    min_p: Annotated[float | None, arg(metavar="P")] = None
    """Keep the tokens that are at least P times as likely as the most likely one."""
    typical_p: Annotated[float | None, arg(metavar="P")] = None
    """Keep the fewest tokens, with surprise nearest to the entropy, that have probability P together."""
    repetition_penalty: Annotated[float, arg(metavar="X")] = 1.0
    """Above 1, makes tokens already in the text less likely, including those of the prompt."""
    presence_penalty: Annotated[float, arg(metavar="X")] = 0.0
    """Subtract X from the logits of the tokens that have been generated."""
    frequency_penalty: Annotated[float, arg(metavar="X")] = 0.0
    """Subtract X from the logit of a token for each time that it has been generated."""
    no_repeat_ngram: Annotated[int, arg(metavar="N")] = 0
    """Let no sequence of N tokens occur twice."""
    min_new_tokens: Annotated[int, arg(metavar="N")] = 0
    """Do not end before N tokens."""
    logit_bias: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="ID=X")] = ()
    """Add X to the logit of a token; -inf forbids it."""
    regex: Annotated[str | None, arg(metavar="PATTERN")] = None
    """Generate only text that matches this regular expression."""
    order: Annotated[str | None, arg(metavar="NAME,NAME…")] = None
    """The order in which the options above act, such as top-p,temperature."""
    stop: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="TEXT")] = ()
    """Stop before this text."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Makes sampling repeatable; 0 or more."""
    json: bool = False
    """Print JSON: for each prompt its new text, the ids, and their log-probabilities."""

    def options(self) -> dict[str, Any]:
        """The options that were given, as `LLM.stream` takes them.

        Raises:
            UserError: An option out of range or without effect, or a bias that is not ID=X or given twice.
        """
        from myllm.inference.sampling import SamplingConfig

        if (self.max_new_tokens or 0) < 0:
            raise UserError(f"--max-new-tokens must be 0 or more, not {self.max_new_tokens}.")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"--seed must be 0 or more, not {self.seed}.")
        values = {one.name: getattr(self, one.name) for one in fields(Sampling)}
        given = {one.name: values[one.name] for one in fields(Sampling) if values[one.name] != one.default}
        given.pop("json", None)
        if self.order is not None:
            given["order"] = [name.strip().replace("-", "_") for name in self.order.split(",")]
        if self.logit_bias:
            given["logit_bias"] = dict(map(_bias, self.logit_bias))
            if len(given["logit_bias"]) < len(self.logit_bias):
                raise UserError("--logit-bias names an id twice; give one number for it.")
        names = {one.name for one in fields(SamplingConfig)}
        config = SamplingConfig(**{name: value for name, value in given.items() if name in names})
        if config.greedy and self.seed is not None:
            raise UserError("--seed has no effect without chance; add --temperature 1, or leave it out.")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise UserError(f"--min-new-tokens {self.min_new_tokens} is more than --max-new-tokens allows.")
        if "" in self.stop:
            raise UserError("A stop string is empty; leave it out.")
        return given


def _bias(text: str) -> tuple[int, float]:
    """The id and the number of a ``--logit-bias``."""
    name, _, value = text.partition("=")
    with suppress(ValueError):
        return int(name), float(value)
    raise UserError(f"--logit-bias must be ID=X, such as 7=-2.5 or 7=-inf, not {text!r}.")
