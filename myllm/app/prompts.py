"""Encoding messages and texts as token ids."""

from collections.abc import Mapping
from typing import Any, cast

from myllm.app.refusal import Refusal, checked, need
from myllm.checks import shown
from myllm.files import UserError
from myllm.llm import LLM
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import end_tokens, prompt_ids

MAX_PROMPTS = 64
#: The role in the chat formats for each role in a message.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def conversation(body: Mapping[str, Any], llm: LLM) -> list[int]:
    """The ids of the messages, up to the point where the answer begins."""
    messages = need(body, "messages")
    checked("messages", messages, list)
    plain = [_message(f"messages[{n}]", one) for n, one in enumerate(messages)]
    refuse_too_long(llm, *(one["content"] for one in plain))
    try:
        return prompt_ids(plain, _tokenizer(llm))
    except UserError as error:
        raise Refusal(str(error), param="messages") from None


def _message(where: str, message: Any) -> dict[str, str]:
    checked(where, message, dict)
    if unknown := [name for name in message if name not in ("role", "content")]:
        raise Refusal(f"{where} has {shown(unknown[0])}, which is not supported.", param="messages")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refusal(
            f"{where} has the role {shown(role)}; take one of {', '.join(ROLES)}.", param="messages"
        )
    if isinstance(content, list):
        content = "".join(_part(where, one) for one in cast("list[Any]", content))
    checked(f"{where}.content", content, str)
    return {"role": ROLES[role], "content": content}


def _part(where: str, part: Any) -> str:
    if isinstance(part, dict):
        fields = cast("dict[str, Any]", part)
        if fields.keys() == {"type", "text"} and fields["type"] == "text" and type(fields["text"]) is str:
            return fields["text"]
    raise Refusal(f"{where} has a part that is not text, which is not supported.", param="messages")


def texts(body: Mapping[str, Any], llm: LLM) -> list[list[int]]:
    """The ids of each prompt, given as a text, as ids, or as a list of either."""
    given = checked("prompt", need(body, "prompt"), str, list)
    found: list[Any] = [given] if isinstance(given, str) or [*map(type, given[:1])] == [int] else given
    if not 1 <= len(found) <= MAX_PROMPTS:
        raise Refusal(f"prompt must be 1 to {MAX_PROMPTS} texts.", param="prompt")
    return [_ids(f"prompt[{n}]", one, llm) for n, one in enumerate(found)]


def _ids(where: str, prompt: Any, llm: LLM) -> list[int]:
    checked(where, prompt, str, list)
    if isinstance(prompt, str):
        refuse_too_long(llm, prompt)
        tokenizer = _tokenizer(llm)
        return tokenizer.encode(prompt, bos=tokenizer.add_bos)
    for i in prompt:
        checked(where, i, int, bounds=(0, llm.config.vocab_size - 1))
    return prompt


def refuse_too_long(llm: LLM, *texts: str) -> None:
    """Refuse texts that cannot fit into the context, however they are tokenized, before encoding them.

    Raises:
        Refusal: The texts have more bytes than a context full of the longest token.
    """
    size, context = sum(len(text.encode(errors="replace")) for text in texts), llm.config.block_size
    if llm.tokenizer is None or size <= context:  # a token stands for at least one byte
        return
    longest = max(len(llm.tokenizer.decode_bytes([i])) for i in range(llm.tokenizer.vocab_size))
    if size > context * (longest + 1):  # a token that is decoded alone may lose a space
        raise Refusal(
            f"{size:,} bytes do not fit into a context of {context:,} tokens; shorten the text.",
            code="context_length_exceeded",
        )


def use_template(llm: LLM, template: str) -> None:
    """Set the chat format of a model.

    Raises:
        UserError: There is no such format, or the tokenizer lacks its tokens.
    """
    if llm.tokenizer is not None:
        llm.tokenizer.chat_template = template
    llm.chat_ids([{"role": "user", "content": "Hello"}])
    if llm.tokenizer is not None:
        llm.stop_ids |= end_tokens(llm.tokenizer)


def _tokenizer(llm: LLM) -> Tokenizer:
    if llm.tokenizer is None:
        raise Refusal("This model came without a tokenizer; give ids to /v1/completions.")
    return llm.tokenizer
