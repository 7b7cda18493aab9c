"""Parsing the body of a request into options of the engine; every mistake raises a `Refusal`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from myllm.app import options, prompts
from myllm.app.refusal import Refusal, need
from myllm.checks import shown
from myllm.llm import LLM


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a client requests.

    Attributes:
        chat: Whether it is a chat completion.
        prompts: The token ids of each prompt.
        n: The number of texts to generate for each prompt.
        options: Those of `Engine.add`, except the seed.
        seed: The seed of the first text; each further text has the next one.
        stops: Strings that end a text.
        top: How many of the most likely tokens to list for each token; None for no log-probabilities.
        regex: The regular expression that the texts must match.
        stream: Whether pieces are sent as they are generated.
        usage: Whether the token counts are sent at the end of a stream.
    """

    chat: bool
    prompts: list[list[int]]
    n: int
    options: dict[str, Any]
    seed: int | None
    stops: list[str]
    top: int | None
    regex: str | None
    stream: bool
    usage: bool


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; a value of null counts as missing.

    Raises:
        Refusal: The body is not UTF-8, not JSON, or not an object.
    """
    try:
        found = json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8: byte {error.start} is wrong."
    except RecursionError:
        message = "The body is nested too deeply."
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg} at position {error.pos}."
    except ValueError as error:
        message = f"The body is not JSON: {error!s:.100}."
    else:
        if isinstance(found, dict):
            given = cast("dict[str, Any]", found)
            return {name: value for name, value in given.items() if value is not None}
        message = "The body must be a JSON object."
    raise Refusal(message, code="bad_body")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names {shown(double)} twice")
    return found


def read(body: Mapping[str, Any], llm: LLM, model: str, *, chat: bool) -> Wanted:
    """What a body requests.

    Args:
        body: The parsed body.
        llm: The model.
        model: The name under which it is served.
        chat: Whether it was sent to ``/v1/chat/completions`` rather than to ``/v1/completions``.

    Raises:
        Refusal: An option is missing, unknown or invalid, or there are too many texts.
    """
    options.refuse_unknown(body, chat=chat)
    if (asked := need(body, "model")) != model:
        message = f"There is no model {shown(asked)} here; this is {shown(model)}."
        raise Refusal(message, status=404, param="model", code="model_not_found")
    found = [prompts.conversation(body, llm)] if chat else prompts.texts(body, llm)
    n = body.get("n", 1)
    if n * len(found) > options.MAX_CHOICES:
        raise Refusal(f"Ask for {options.MAX_CHOICES} texts at a time, not {n * len(found)}.", param="n")
    sampling = options.sampling(body)
    return Wanted(
        chat=chat,
        prompts=found,
        n=n,
        options=sampling | {"max_new_tokens": options.length(body, llm, found), "stop_ids": llm.stop_ids},
        seed=body.get("seed"),
        stops=options.stops(body),
        top=options.top(body, chat=chat),
        regex=options.regex(body),
        stream=body.get("stream", False),
        usage=options.usage(body),
    )
