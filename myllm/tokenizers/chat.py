"""Chat formats: messages to the ids that a chat model is trained on, and the mask of what it has to write."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Literal, NamedTuple

from myllm.files import UserError
from myllm.tokenizers.base import Tokenizer

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
MARK = re.compile(r"(<bos>|<eos>|<\|\w+\|>|<(?:start|end)_of_turn>|\{\})")


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


CHATML = Template(
    system="<|im_start|>system\n{}<|im_end|>\n",
    user="<|im_start|>user\n{}<|im_end|>\n",
    prompt="<|im_start|>assistant\n",
    answer="{}<|im_end|>",
    after="\n",
)
TEMPLATES = {
    "alpaca": Template(
        system="{}",
        user="\n\n### Instruction:\n{}",
        prompt="\n\n### Response:\n",
        answer="{}<eos>",
        default="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
        alternate=True,
    ),
    "chatml": CHATML,
    "gemma": Template(
        begin="<bos>",
        system="{}\n\n",
        user="<start_of_turn>user\n{}<end_of_turn>\n",
        prompt="<start_of_turn>model\n",
        answer="{}<end_of_turn>",
        after="\n",
        inside=True,
        alternate=True,
        strip="message",
    ),
    "llama2": Template(
        system="<<SYS>>\n{}\n<</SYS>>\n\n",
        user="<bos>[INST] {} [/INST]",
        prompt="",
        answer=" {} <eos>",
        inside=True,
        alternate=True,
        strip="turn",
    ),
    "llama3": Template(
        begin="<|begin_of_text|>",
        system="<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="{}<|eot_id|>",
        strip="message",
    ),
    "mistral": Template(
        begin="<bos>",
        system="{}\n\n",
        user="[INST] {} [/INST]",
        prompt="",
        answer=" {}<eos>",
        inside=True,
        alternate=True,
    ),
    "smollm2": CHATML._replace(
        default="You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    ),
}


def render(
    messages: Iterable[Message],
    tokenizer: Tokenizer,
    template: str | Template | None = None,
    *,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Turn messages into ids, and say which of them the model has to write.

    Text that looks like a special token stays text. No token spans the border between what the model is given
    and what it writes, so the ids of a prompt are the beginning of the ids of the whole conversation.

    Args:
        messages: Dicts with a "role" ("system", "user" or "assistant") and a "content", both strings. The
            formats alpaca, gemma, llama2 and mistral take one system message at most, at the start, then user
            and assistant in turn; chatml, llama3 and smollm2 take any order.
        tokenizer: One that has the special tokens of the format.
        template: The format: one of `TEMPLATES` by name, or one of your own; None for the tokenizer's own.
        add_generation_prompt: End with what asks the model for the next answer.

    Returns:
        ids and loss mask, equally long; the mask is 1 on all that the model has to write, each answer with
        its end token, and 0 elsewhere.

    Raises:
        UserError: The format is not known, the tokenizer lacks a token of it, or the messages do not fit it.
    """
    form = _template(template, tokenizer)
    turns = _turns(messages, form, add_generation_prompt)
    ids: list[int] = []
    mask: list[int] = []
    continued = False  # whether text stands directly before
    parts = _parts(turns, form, tokenizer, add_generation_prompt)
    for (is_text, loss), group in groupby(parts, key=lambda part: (isinstance(part[0], str), part[1])):
        if is_text:
            new = tokenizer.encode_text("".join(str(text) for text, _ in group), continued=continued)
        else:
            new = [int(i) for i, _ in group]
        ids += new
        mask += [loss] * len(new)
        continued = is_text
    return ids, mask


def end_tokens(tokenizer: Tokenizer) -> set[int]:
    """The ids that end what a model writes: the end token, and what ends an answer in its chat format."""
    ends: set[int] = set() if tokenizer.eos_id is None else {tokenizer.eos_id}
    if tokenizer.chat_template is not None:
        after = _template(None, tokenizer).answer.split("{}")[1]
        ends |= {i for i, _ in _fill(after, "", 1, tokenizer) if isinstance(i, int)}
    return ends


def _template(template: str | Template | None, tokenizer: Tokenizer) -> Template:
    name = tokenizer.chat_template if template is None else template
    if isinstance(name, Template):
        return name
    known = ", ".join(TEMPLATES)
    if name is None:
        raise UserError(f"{tokenizer.name} has no chat format of its own; give a template: {known}.")
    if name not in TEMPLATES:
        raise UserError(f"There is no chat format {name!r}; take one of {known}.")
    return TEMPLATES[name]


def _turns(messages: Iterable[Message], form: Template, prompt: bool) -> list[tuple[str, str]]:
    """Role and text of each turn, checked, a system message joined to the first user's where it belongs."""
    turns: list[tuple[str, str]] = []
    for n, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"Message {n} must be a dict with a role and a content, not {message!r:.40}.")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"Message {n} has the role {role!r:.40}; take one of {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise UserError(f"Message {n} must have a text as its content, not {type(content).__name__}.")
        turns.append((role, content))
    if not turns:
        raise UserError("There are no messages; give at least one.")
    if form.default is not None and turns[0][0] != "system":
        turns.insert(0, ("system", form.default))
    if form.alternate:
        roles = [role for role, _ in turns]
        start = int(roles[0] == "system")
        in_turn = [ROLES[1 + i % 2] for i in range(len(roles) - start)]
        if not in_turn or roles[start:] != in_turn or (prompt and in_turn[-1] != "user"):
            last = ", the user last" if prompt else ""
            raise UserError(
                "This chat format wants one system message at most, at the start, then user and assistant in "
                f"turn{last}; these messages are {', '.join(roles):.80}."
            )
    return _stripped(turns, form)


def _stripped(turns: list[tuple[str, str]], form: Template) -> list[tuple[str, str]]:
    inside = form.inside and turns[0][0] == "system"
    front = form.system.replace("{}", turns.pop(0)[1]) if inside else ""
    if form.strip == "message":
        turns = [(role, text.strip()) for role, text in turns]
    if front:
        turns[0] = (turns[0][0], front + turns[0][1])
    if form.strip == "turn":
        turns = [(role, text.strip()) for role, text in turns]
    return turns


def _parts(
    turns: Iterable[tuple[str, str]], form: Template, tokenizer: Tokenizer, prompt: bool
) -> Iterator[tuple[str | int, int]]:
    """The conversation in pieces, strings for text and ids for special tokens, each with its loss mask."""
    yield from _fill(form.begin, "", 0, tokenizer)
    for role, text in turns:
        if role == "assistant":
            yield from _fill(form.prompt, "", 0, tokenizer)
            yield from _fill(form.answer, text, 1, tokenizer)
            yield from _fill(form.after, "", 0, tokenizer)
        else:
            yield from _fill(form.system if role == "system" else form.user, text, 0, tokenizer)
    if prompt:
        yield from _fill(form.prompt, "", 0, tokenizer)


def _fill(frame: str, text: str, loss: int, tokenizer: Tokenizer) -> Iterator[tuple[str | int, int]]:
    for piece in MARK.split(frame):
        if piece == "{}":
            yield text, loss
        elif MARK.fullmatch(piece):
            own = {"<bos>": tokenizer.bos_id, "<eos>": tokenizer.eos_id}
            i = own[piece] if piece in own else tokenizer.special_tokens.get(piece)
            if i is None:
                raise UserError(f"{tokenizer.name} has no {piece} token, which this chat format needs.")
            yield i, loss
        elif piece:
            yield piece, loss
