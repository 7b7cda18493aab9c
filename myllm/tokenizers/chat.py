"""Chat formats: messages to the ids that a chat model is trained on, and the mask of what it has to write."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from myllm.files import UserError, read_text
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.jinja import Conversation, Message, Span, to_jinja

ROLES = ("system", "user", "assistant")
CONTROL = re.compile(r"<bos>|<eos>|<\|\w+\|>|<(?:start|end)_of_turn>")
"""The special tokens in the strings of a `Template`."""


class Template(NamedTuple):
    """A chat format: what stands around the text of each message, which is written ``{}``.

    ``<bos>`` and ``<eos>`` are the tokenizer's begin and end token; ``<|…|>`` and Gemma's marks are special
    tokens by name. Only these strings can put special tokens into the ids, never a message.

    Attributes:
        user: Around a user's message.
        prompt: What asks the model to write.
        answer: Around what the model writes, with the end token; the loss mask covers it.
        after: What follows an answer.
        begin: What comes first of all.
        system: Around the system message.
        default: The system message where there is none.
        inside: The system message stands inside the first user's, in front of the text.
        alternate: After one system message at most, user and assistant must take turns.
        strip: What loses the white space around it: each "message", or each "turn" with the system message
            inside it.
    """

    user: str
    prompt: str
    answer: str
    after: str = ""
    begin: str = ""
    system: str = ""
    default: str | None = None
    inside: bool = False
    alternate: bool = False
    strip: Literal["message", "turn"] | None = None


_FORMATS = read_text(Path(__file__).with_name("templates.toml"))
TEMPLATES = {name: Template(**fields) for name, fields in tomllib.loads(_FORMATS).items()}


def render(
    messages: Iterable[Message],
    tokenizer: Tokenizer,
    template: str | Template | None = None,
    *,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Convert messages to ids, and mark which of them the model has to write.

    The text is what the template renders, and the ids are those of the text, with two exceptions. A special
    token that a message spells stays text. And no token spans the border between what the model is given and
    what it writes: where encoding the whole text would merge the two, each side is encoded by itself. So the
    ids of a prompt are the beginning of the ids of the conversation.

    Args:
        messages: Dicts with a "role" and a "content", both strings; what else they hold, a Jinja template can
            read. The formats of `TEMPLATES` know the roles "system", "user" and "assistant"; alpaca, gemma,
            llama2 and mistral take one system message at most, at the start, then user and assistant in turn.
        tokenizer: One that has the special tokens of the format.
        template: The format: one of `TEMPLATES` by name, a `Template`, or Jinja source; None for the
            tokenizer's own.
        add_generation_prompt: End with what asks the model for the next answer.

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


def prompt_ids(
    messages: Iterable[Message], tokenizer: Tokenizer, template: str | Template | None = None
) -> list[int]:
    """The ids that ask a model for the next answer.

    They are those of `render` with ``add_generation_prompt``. As there is no mask, templates that shorten
    earlier answers, such as those of models that think first, are taken, too.

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
    messages: Iterable[Message], tokenizer: Tokenizer, template: str | Template | None, prompt: bool
) -> Conversation:
    source = _source(tokenizer, template)
    plain = [_message(n, message, source) for n, message in enumerate(messages, 1)]
    if not plain:
        raise UserError("There are no messages; give at least one.")
    names = {i: token for token, i in tokenizer.special_tokens.items()}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    variables = {name: names[i] for name, i in ids.items() if i in names}
    if isinstance(source, Template):
        _check_order([message["role"] for message in plain], source, prompt)
        for token in CONTROL.findall("".join(map(str, source))):
            if f"{token[1:-1]}_token" not in variables and token not in tokenizer.special_tokens:
                raise UserError(f"{tokenizer.name} has no {token} token, which this chat format needs.")
        source = to_jinja(source)
    return Conversation(source, plain, prompt, variables, tokenizer.special_tokens)


def _source(tokenizer: Tokenizer, template: str | Template | None) -> Template | str:
    known = ", ".join(TEMPLATES)
    if template is None:
        if tokenizer.chat_template is None:
            raise UserError(f"{tokenizer.name} has no chat format of its own; give a template: {known}.")
        return tokenizer.chat_template
    if isinstance(template, str) and "{{" not in template and "{%" not in template:
        if template not in TEMPLATES:
            raise UserError(f"There is no chat format {template!r}; take one of {known}.")
        return TEMPLATES[template]
    return template


def _message(n: int, message: Any, source: str | Template) -> Message:
    """A message that holds nothing but texts, so that a template cannot reach into the caller's objects."""
    if not isinstance(message, Mapping):
        raise UserError(f"Message {n} must be a dict with a role and a content, not {message!r:.40}.")
    given = {name: value for name, value in cast("Mapping[str, Any]", message).items() if value is not None}
    role, known = given.get("role"), "|".join(ROLES) if isinstance(source, Template) else r"[\w-]+"
    if not isinstance(role, str) or not re.fullmatch(known, role):
        raise UserError(f"Message {n} has the role {role!r:.40}; take one of {', '.join(ROLES)}.")
    for name, value in ({"content": None} | given).items():
        if not isinstance(value, str):
            raise UserError(f"Message {n} must have a text as its {name}, not {type(value).__name__}.")
    return {name: str(value) for name, value in given.items()}


def _check_order(roles: list[str], form: Template, prompt: bool) -> None:
    turns = roles[roles[0] == "system" :]
    in_turn = [ROLES[1 + i % 2] for i in range(len(turns))]
    if form.alternate and (not turns or turns != in_turn or (prompt and turns[-1] != "user")):
        last = ", the user last" if prompt else ""
        raise UserError(
            "This chat format wants one system message at most, at the start, then user and assistant in "
            f"turn{last}; these messages are {', '.join(roles):.80}."
        )


def _encode(
    conversation: Conversation, answers: list[Span], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of the text, with a border between tokens at both ends of each answer."""
    text, control = conversation.text, dict(conversation.control_tokens())
    starts = {start for start, _ in answers}

    def encode(start: int, stop: int) -> list[int]:
        """The ids of a stretch with no control token, save one that it may begin with."""
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
