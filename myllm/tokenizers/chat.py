"""Chat formats: from messages to the ids that a chat model is trained on, and the mask of what it writes."""

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
CONTROL = re.compile(r"bos_token|eos_token|<\|\w+\|>|<(?:start|end)_of_turn>")  # in the taught formats
_TABLE = tomllib.loads(read_text(Path(__file__).with_name("templates.toml")))
TEMPLATES: dict[str, str] = {
    name: _TABLE["order"] + source if name in _TABLE["alternating"] else source
    for name, source in _TABLE["formats"].items()
}
"""The chat formats that the course teaches, as Jinja sources by name."""


def render(
    messages: Iterable[Message],
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Convert messages to ids, and mark which of them the model has to write.

    The ids are those of the text that the template renders, with two exceptions. A special token that a
    message spells stays text. And no token spans the border between what the model is given and what it
    writes: where encoding the whole text would merge the two, each side is encoded by itself. So the ids of a
    prompt are the beginning of the ids of the conversation.

    Args:
        messages: Dicts with a "role", a "content" and any other strings that a Jinja template reads. The
            formats of `TEMPLATES` know the roles "system", "user" and "assistant"; alpaca, gemma,
            llama2 and mistral take one system message at most, at the start, then user and assistant in turn.
        tokenizer: One that has the special tokens of the format.
        template: The format: one of `TEMPLATES` by name, or Jinja source; None for the tokenizer's own.
        add_generation_prompt: Whether to end with what asks the model for the next answer.

    Returns:
        ids and loss mask, equally long; the mask is 1 on all that the model has to write, each answer with
        its end token, and 0 elsewhere.

    Raises:
        UserError: The format is not known, the tokenizer lacks a token of it, the messages do not fit it, or
            it renders earlier messages differently as others follow, so that no mask is right; see
            `prompt_ids`.
    """
    conversation = _conversation(messages, tokenizer, template, add_generation_prompt)
    return _encode(conversation, conversation.answers(), tokenizer)


def prompt_ids(messages: Iterable[Message], tokenizer: Tokenizer, template: str | None = None) -> list[int]:
    """The ids that ask a model for the next answer: those of `render` with ``add_generation_prompt``.

    As there is no mask, templates that shorten earlier answers, such as those of models that think first, are
    accepted, too.

    Raises:
        UserError: As `render`.
    """
    conversation = _conversation(messages, tokenizer, template, True)
    try:
        answers = conversation.answers()
    except UserError:
        answers = []
    return _encode(conversation, answers, tokenizer)[0]


def end_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end what a model writes: the tokenizer's, and what ends an answer in its chat format."""
    ends: set[int | None] = {*tokenizer.end_ids}
    with suppress(UserError):  # without a chat format, or with one that fails, text can still be continued
        conversation = _conversation([{"role": "user", "content": "Hello"}], tokenizer, None, False)
        ends.add(tokenizer.special_tokens.get(conversation.end_token(1)))
    return frozenset(i for i in ends if i is not None)


def _conversation(
    messages: Iterable[Message], tokenizer: Tokenizer, template: str | None, prompt: bool
) -> Conversation:
    source, known = tokenizer.chat_template if template is None else template, ", ".join(TEMPLATES)
    if source is None:
        raise UserError(f"{tokenizer.name} has no chat format of its own; give a template: {known}.")
    source = TEMPLATES.get(source, source)
    if "{" not in source:
        raise UserError(f"There is no chat format {source!r:.40}; take one of {known}.")
    is_taught = source in TEMPLATES.values()
    roles = "|".join(ROLES) if is_taught else r"[\w-]+"
    plain = [_message(n, message, roles) for n, message in enumerate(messages, 1)]
    if not plain:
        raise UserError("There are no messages; give at least one.")
    names = {i: token for token, i in tokenizer.special_tokens.items()}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    variables = {name: names[i] for name, i in ids.items() if i in names}
    for token in CONTROL.findall(source) if is_taught else ():
        if token not in variables and token not in tokenizer.special_tokens:
            raise UserError(f"{tokenizer.name} has no {token}, which this chat format needs.")
    return Conversation(source, plain, prompt, variables, tokenizer.special_tokens)


def _message(n: int, message: Any, roles: str) -> Message:
    """A message that holds nothing but strings, so that a template cannot reach into the caller's objects."""
    if not isinstance(message, Mapping):
        raise UserError(f"Message {n} must be a dict with a role and a content, not {message!r:.40}.")
    given = {name: value for name, value in cast("Mapping[str, Any]", message).items() if value is not None}
    role = given.get("role")
    if not isinstance(role, str) or not re.fullmatch(roles, role):
        raise UserError(f"Message {n} has the role {role!r:.40}; take one of {', '.join(ROLES)}.")
    for name, value in ({"content": None} | given).items():
        if not isinstance(value, str):
            raise UserError(f"Message {n} must have a text as its {name}, not {type(value).__name__}.")
    return {name: str(value) for name, value in given.items()}


def _encode(
    conversation: Conversation, answers: list[Span], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of the text, with a border between tokens at both ends of each answer."""
    text, control = conversation.text, dict(conversation.control_tokens())
    starts = {start for start, _ in answers}

    def encode(start: int, stop: int) -> list[int]:
        """The ids of a stretch without control tokens, except for one at its start."""
        if start and start not in control:
            return tokenizer.encode_text(text[start:stop], continued=True)
        body = control.get(start, start)
        if not conversation.special.search(text, body, stop):
            # A control token may take the white space in front of it, unless that ends a prompt.
            end = stop if stop in starts else control.get(stop, stop)
            ids = tokenizer.encode(text[start:end], allowed_special="all")
            return ids[:-1] if end > stop else ids
        front = [tokenizer.special_tokens[text[start:body]]] if body > start else []
        return front + tokenizer.encode_text(text[body:stop])  # a message spells a special token here

    ids: list[int] = []  # up to base
    count = {0: 0}  # of the ids before each border
    base, last, known = 0, 0, list[int]()  # known: the ids from base to the last border
    for border in sorted({*control, *(end for answer in answers for end in answer), len(text)} - {0}):
        new = encode(base, border)
        if new[: len(known)] != known:  # a token would span the last border
            ids, base = ids + known, last
            new = encode(base, border)
        known, last = new, border
        count[border] = len(ids) + len(known)
        if border in control:
            ids, base, known = ids + known, border, []
    ids += known
    mask = [0] * len(ids)
    for start, stop in answers:
        mask[count[start] : count[stop]] = [1] * (count[stop] - count[start])
    return ids, mask
