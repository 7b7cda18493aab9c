"""Converting the options of a request into those of the engine."""

from collections.abc import Mapping
from typing import Any, cast

from myllm.app.refusal import Refusal, checked
from myllm.app.schema import MAX_PATTERN, any_object, pattern
from myllm.checks import LARGEST, shown
from myllm.files import UserError
from myllm.inference.generate import check_room
from myllm.inference.sampling import BOUNDS, SamplingConfig
from myllm.llm import LLM

MAX_CHOICES, MAX_TOP, MAX_STOPS, MAX_STOP, MAX_BIASES = 64, 20, 16, 256, 1_024

NUMBERS: dict[str, tuple[type[int | float], float, float]] = {
    **BOUNDS,
    "max_tokens": (int, 1, LARGEST),
    "max_completion_tokens": (int, 1, LARGEST),
    "n": (int, 1, MAX_CHOICES),
    "seed": (int, -(2**63), 2**63 - 1),
}
#: The options of both endpoints, of chat alone, and of completions alone.
COMMON = {
    *("model", "stream", "stream_options", "stop", "logprobs", "logit_bias", "order", "regex"),
    *("response_format", "user", *NUMBERS),
}
CHAT, COMPLETION = {"messages", "top_logprobs"}, {"prompt"}
#: Options that are accepted only with values that ask for what happens anyway.
USUAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "parallel_tool_calls": (True, False),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}


def refuse_unknown(body: Mapping[str, Any], *, chat: bool) -> None:
    """Refuse options that do not exist or are not supported, and values of a wrong type or out of range."""
    known = COMMON | (CHAT if chat else COMPLETION)
    for name, value in body.items():
        if name in USUAL:
            if not any(value == usual and type(value) is type(usual) for usual in USUAL[name]):
                raise Refusal(f"{name} = {shown(value)} is not supported.", param=name, code="unsupported")
        elif name not in known:
            raise Refusal(f"There is no option {shown(name)}.", param=f"{name:.80}", code="unknown_option")
    for name, (kind, least, largest) in NUMBERS.items():
        if name in body:
            checked(name, body[name], kind, bounds=(least, largest))
    for name, kind in (("stream", bool), ("user", str), ("regex", str), ("order", list), ("model", str)):
        if name in body:
            checked(name, body[name], kind)


def sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SamplingConfig`; the default temperature is 1."""
    found: dict[str, Any] = {name: body[name] for name in (*BOUNDS, "order") if name in body}
    for name in ("top_p", "typical_p"):
        if found.get(name) == 1:  # changes nothing, at temperature 0 too
            del found[name]
    found.setdefault("temperature", 1.0)
    if "logit_bias" in body:
        found["logit_bias"] = _biases(checked("logit_bias", body["logit_bias"], dict))
    try:
        SamplingConfig(**found)
    except (UserError, TypeError) as error:
        name = str(error).partition(" ")[0]
        raise Refusal(str(error), param=name if name in body else None) from None
    return found


def _biases(given: Mapping[str, Any]) -> dict[int, float]:
    found: dict[int, float] = {}
    if len(given) > MAX_BIASES:
        raise Refusal(f"logit_bias may name {MAX_BIASES:,} ids, not {len(given):,}.", param="logit_bias")
    for name, value in given.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise Refusal(f"logit_bias must name ids, not {shown(name)}.", param="logit_bias")
        found[int(name)] = checked(f"logit_bias[{name}]", value, float, bounds=(-1e30, 1e30))
    return found


def length(body: Mapping[str, Any], llm: LLM, prompts: list[list[int]]) -> int:
    """The most tokens to generate: as requested, else 256, or as many as the context holds."""
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise Refusal("Give max_tokens or max_completion_tokens, not both.", param="max_tokens")
    longest = max(map(len, prompts))
    room = max(1, min(256, llm.config.block_size - longest))
    asked = body.get("max_completion_tokens", body.get("max_tokens", room))
    for prompt in prompts:
        try:
            check_room(llm.model, len(prompt), asked)
        except UserError as error:
            raise Refusal(str(error), code="context_length_exceeded") from None
    return asked


def stops(body: Mapping[str, Any]) -> list[str]:
    """The strings that end a text."""
    given: Any = body.get("stop", [])
    found = [given] if isinstance(given, str) else checked("stop", given, str, list)
    if len(found) > MAX_STOPS:
        raise Refusal(f"stop may name {MAX_STOPS} texts, not {len(found)}.", param="stop")
    for one in found:
        checked("stop", one, str)
        if not 1 <= len(one) <= MAX_STOP:
            raise Refusal(f"A text of stop must have 1 to {MAX_STOP} characters.", param="stop")
    return found


def top(body: Mapping[str, Any], *, chat: bool) -> int | None:
    """How many of the most likely tokens to list for each token; None without log-probabilities."""
    asked = body.get("logprobs", False if chat else None)
    if not chat:
        return None if asked is None else checked("logprobs", asked, int, bounds=(0, MAX_TOP))
    checked("logprobs", asked, bool)
    likely = checked("top_logprobs", body.get("top_logprobs", 0), int, bounds=(0, MAX_TOP))
    if "top_logprobs" in body and not asked:
        raise Refusal("top_logprobs has no effect without logprobs.", param="top_logprobs")
    return likely if asked else None


def usage(body: Mapping[str, Any]) -> bool:
    """Whether the token counts are sent at the end of a stream."""
    given = checked("stream_options", body.get("stream_options", {}), dict)
    if unknown := [name for name in given if name != "include_usage"]:
        raise Refusal(f"stream_options has no option {shown(unknown[0])}.", param="stream_options")
    if given and not body.get("stream"):
        raise Refusal("stream_options has no effect without stream.", param="stream_options")
    return checked("stream_options", given.get("include_usage", False), bool)


def regex(body: Mapping[str, Any]) -> str | None:
    """The regular expression that the texts must match, given as such or as a format of JSON."""
    found, form = body.get("regex"), checked("response_format", body.get("response_format", {}), dict)
    kind = form.get("type", "text" if not form else None)
    if kind in ("json_schema", "json_object") and found is not None:
        raise Refusal("Give regex or response_format, not both.", param="regex")
    if kind == "json_object":
        found = any_object()
    elif kind == "json_schema":
        inner = checked("response_format.json_schema", form.get("json_schema"), dict)
        found = pattern(cast("dict[str, Any]", inner).get("schema"))
    elif kind != "text":
        advice = "take text, json_object, or json_schema with a schema"
        raise Refusal(
            f"The response_format {shown(kind)} is not supported; {advice}.", param="response_format"
        )
    if found is not None and len(found) > MAX_PATTERN:
        raise Refusal(f"A regular expression may have {MAX_PATTERN:,} characters, not {len(found):,}.")
    return found
