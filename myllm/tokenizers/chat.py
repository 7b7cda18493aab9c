"""Chat formats: converting messages to the ids that a chat model is trained on, and to a loss mask."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from myllm.files import UserError, read_text
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.jinja import Conversation, Message, Span

ROLES = ("system", "user", "assistant")
#: Matches the control tokens in the source of a template in `TEMPLATES`.
CONTROL = re.compile(r"bos_token|eos_token|<\|\w+\|>|<(?:start|end)_of_turn>")

_TABLE = tomllib.loads(read_text(Path(__file__).with_name("templates.toml")))
#: The chat formats that the course teaches, as Jinja sources by name.
TEMPLATES: dict[str, str] = {
    name: _TABLE["order"] + source if name in _TABLE["alternating"] else source
    for name, source in _TABLE["formats"].items()
}


def render(
    messages: Iterable[Message],
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Convert a conversation to ids and a loss mask.

    The ids are those of the text that the template renders, with two exceptions. A special token that is
    spelled out in a message is encoded as text. And no token spans the boundary between what the model is
    given and what it generates: where encoding the whole text would merge the two, each side is encoded
    separately. So the ids of a prompt are always a prefix of the ids of the conversation.

    Args:
        messages: Dicts with a "role", a "content" and any other strings that the template reads. The formats
            in `TEMPLATES` take the roles "system", "user" and "assistant"; in alpaca, gemma, llama2 and
            mistral there is at most one system message, at the start, then user and assistant alternate.
        tokenizer: A tokenizer that has the special tokens of the format.
        template: The name of a format in `TEMPLATES`, or Jinja source; None for the tokenizer's own template.
        add_generation_prompt: Whether to append the generation prompt, which opens the model's next answer.

    Returns:
        ids and loss mask, of equal length; the mask is 1 on what the model generates, that is, each answer
        with its end token, and 0 elsewhere.

    Raises:
        UserError: The tokenizer lacks one of the format's tokens; or the format is unknown, does not accept
            the messages, or renders earlier messages differently once others follow, so that there is no
            correct mask (see `prompt_ids`).
    """
    conversation = _conversation(messages, tokenizer, template, add_generation_prompt)
    return _encode(conversation, conversation.answers(), tokenizer)


def prompt_ids(messages: Iterable[Message], tokenizer: Tokenizer, template: str | None = None) -> list[int]:
    """The ids of a conversation with the generation prompt, as `render` returns them.

    Because no mask is needed, templates that shorten earlier answers, such as those of reasoning models, are
    accepted too.

    Raises:
        UserError: As in `render`.
    """
    conversation = _conversation(messages, tokenizer, template, True)
    answers: list[Span] = []
    with suppress(UserError):
        answers = conversation.answers()
    return _encode(conversation, answers, tokenizer)[0]


def end_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a generated answer: those of the tokenizer, and the end token of its chat format."""
    ends = tokenizer.end_ids
    with suppress(UserError):  # without a chat format, or with one that fails, text can still be continued
        conversation = _conversation([{"role": "user", "content": "Hello"}], tokenizer, None, False)
        if token := conversation.end_token(1):
            ends |= {tokenizer.special_tokens[token]}
    return ends


def _conversation(
    messages: Iterable[Message], tokenizer: Tokenizer, template: str | None, prompt: bool
) -> Conversation:
    source, known = tokenizer.chat_template if template is None else template, ", ".join(TEMPLATES)
    if source is None:
        raise UserError(
            f"Tokenizer {tokenizer.name} has no chat format of its own; give a template: {known}."
        )
    source = TEMPLATES.get(source, source)
    if "{" not in source:
        raise UserError(f"There is no chat format {source!r:.40}; take one of {known}.")
    is_taught = source in TEMPLATES.values()
    roles = "|".join(ROLES) if is_taught else r"[\w-]+"
    plain = [_message(n, message, roles) for n, message in enumerate(messages, 1)]
    if not plain:
        raise UserError("There are no messages; give at least one.")
    variables = {f"{role}_token": token for role, token in tokenizer.roles().items()}
    for token in CONTROL.findall(source) if is_taught else ():
        if token not in variables and token not in tokenizer.special_tokens:
            raise UserError(f"{tokenizer.name} has no {token}, which this chat format needs.")
    return Conversation(source, plain, prompt, variables, tokenizer.special_tokens)


def _message(n: int, message: Any, roles: str) -> Message:
    """Message `n` as a dict of strings, so that a template cannot reach into the caller's objects."""
    if not isinstance(message, Mapping):
        raise UserError(f"Message {n} must be a dict with a role and a content, not {message!r:.40}.")
    fields = {"content": None, **cast("Mapping[str, Any]", message)}
    role = fields.get("role")
    if not isinstance(role, str) or not re.fullmatch(roles, role):
        raise UserError(f"Message {n} has the role {role!r:.40}; take one of {', '.join(ROLES)}.")
    for name, value in fields.items():
        if not isinstance(value, str) and (name == "content" or value is not None):
            raise UserError(f"Message {n} must have a text as its {name}, not {type(value).__name__}.")
    return {name: str(value) for name, value in fields.items() if value is not None}


def _encode(
    conversation: Conversation, answers: list[Span], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of the text, with a token boundary at both ends of each answer.

    The text is encoded up to each boundary in turn, always from the last control token on. If that changes
    the ids up to the previous boundary, a token would span it, so encoding restarts there.
    """
    text, control = conversation.text, dict(conversation.control_tokens())
    starts = {start for start, _ in answers}

    def encode(start: int, stop: int) -> list[int]:
        """The ids of a part of the text whose only control token, if any, is at its start."""
        if start and start not in control:
            return tokenizer.encode_text(text[start:stop], continued=True)
        body = control.get(start, start)
        if conversation.special.search(text, body, stop):  # spelled out in a message
            front = [tokenizer.special_tokens[text[start:body]]] if body > start else []
            return front + tokenizer.encode_text(text[body:stop])
        # The next control token may remove the white space before it, unless the prompt ends there.
        end = stop if stop in starts else control.get(stop, stop)
        ids = tokenizer.encode(text[start:end], allowed_special="all")
        return ids[:-1] if end > stop else ids

    ids: list[int] = []
    mask: list[int] = []
    base, first = 0, 0  # ids[first:] encode the text from base on
    last = 0
    for border in sorted({*control, *(end for answer in answers for end in answer), len(text)} - {0}):
        new = encode(base, border)
        if new[: len(ids) - first] != ids[first:]:
            base, first = last, len(ids)
            new = encode(base, border)
        ids[first:] = new
        is_written = any(start <= last < stop for start, stop in answers)
        mask += [int(is_written)] * (len(ids) - len(mask))
        if border in control:
            base, first = border, len(ids)
        last = border
    return ids, mask
