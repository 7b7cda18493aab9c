"""Chat templates in Jinja, the language in which they are published with models, rendered in a sandbox."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, NoReturn

import regex
from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from myllm.files import UserError
from myllm.tokenizers.base import any_of

Message = Mapping[str, str]
Span = tuple[int, int]
PRIVATE = range(0xF0000, 0xFFFFE)  # code points of a private use area, which ordinary text does not contain
GENERATION = regex.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
VISIBLE = regex.compile(r"(</?think>)|\S")
LONGEST = 1 << 20  # the largest size of a product or power in a template, in characters or bits


@dataclass
class Conversation:
    """Messages rendered by a chat template, with the positions of answers and special tokens in the text.

    Rendering follows `transformers.PreTrainedTokenizerBase.apply_chat_template` without tools or documents. A
    template is untrusted code: it runs in Jinja's sandbox, which gives it no access to Python and bounds each
    ``range`` and each product; nested loops are not bounded.

    Args:
        source: The Jinja source of the template.
        messages: The messages.
        prompt: The value of ``add_generation_prompt`` in the template.
        variables: Further variables of the template, such as ``bos_token``.
        special_tokens: The special tokens of the tokenizer.

    Attributes:
        text: The rendered text.
        special: A pattern that matches any special token.

    Raises:
        UserError: The source is not valid Jinja, or the template rejects the messages or fails.
    """

    source: str
    messages: Sequence[Message]
    prompt: bool
    variables: Mapping[str, str]
    special_tokens: Iterable[str]

    def __post_init__(self) -> None:
        now = datetime.now()  # once, so that all renderings agree
        functions = {"strftime_now": partial(datetime.strftime, now), "raise_exception": _raise_exception}
        self._globals: dict[str, Any] = {**self.variables, **functions, "tools": None, "documents": None}
        self._template = _compile(self.source)
        self.special = any_of(self.special_tokens)
        self.text = self._render(self.messages, self.prompt)

    def _render(self, messages: Sequence[Message], prompt: bool, mark: str = "") -> str:
        """Render messages, with `mark` at both ends of each ``{% generation %}`` block."""
        given = {"messages": messages, "add_generation_prompt": prompt, "generation_mark": mark}
        try:
            return self._template.render(given, **self._globals)
        except Exception as error:  # a template can raise anything
            why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            why = f"The chat template does not render these messages ({why:.150})"
            raise UserError(f"{why}; change them or the template.") from error

    def answers(self) -> list[Span]:
        """The spans of the text that the model writes: each answer with the token that ends it.

        These are the ``{% generation %}`` blocks of the template. In a template without blocks, an answer is
        what the template adds to the preceding messages rendered with the generation prompt.

        Raises:
            UserError: The template renders a message differently once others follow, so that an answer in the
                text is not what the model would write after the generation prompt.
        """
        if not GENERATION.search(self.source):
            roles = [message["role"] for message in self.messages]
            return [self._answer(n) for n, role in enumerate(roles) if role == "assistant"]
        mark = _unused(self.text)
        parts = self._render(self.messages, self.prompt, mark).split(mark)
        if "".join(parts) != self.text or len(parts) % 2 == 0:
            raise UserError("The chat template changes its own generation blocks; give another template.")
        ends = [*accumulate(map(len, parts))]
        return [*zip(ends[::2], ends[1::2], strict=False)]

    def _answer(self, n: int) -> Span:
        """The span of message `n` in a template without generation blocks."""
        given = self._render(self.messages[:n], prompt=True)
        done = self._render(self.messages[: n + 1], prompt=False)
        token = self.end_token(n)
        done = done[: done.rfind(token) + len(token)]
        is_stable = done.startswith(given) and self.text.startswith(done)
        if not is_stable or len(done) < len(given) + len(token):
            raise UserError(
                f"What the model writes of message {n + 1} is not clear, since the chat template renders "
                "messages differently once more follow; give a template with generation blocks."
            )
        return len(given), len(done)

    def end_token(self, n: int) -> str:
        """The first special token after an answer to the first `n` messages, or "" if there is none.

        Raises:
            UserError: The template omits the content of an answer, or fails.
        """
        probe = _unused(self.text)
        answer = {"role": "assistant", "content": probe}
        _, written, rest = self._render([*self.messages[:n], answer], prompt=False).rpartition(probe)
        if not written:
            raise UserError("The chat template leaves out the content of an answer; give another template.")
        found = self.special.search(rest)
        return found[0] if found else ""

    def control_tokens(self) -> list[Span]:
        """The spans of the special tokens that the template itself wrote, not of those spelled in messages.

        The messages are rendered once more with every visible character replaced by a placeholder that does
        not occur in them; the special tokens that still appear come from the template. Reasoning tags
        (``<think>``) are not replaced, because templates test for them.

        Raises:
            UserError: A message contains a special token, and the two renderings differ in more than the
                replaced characters.
        """
        veil = _unused(self.text)
        veiled = [{name: _veil(name, text, veil) for name, text in m.items()} for m in self.messages]
        shown = ""
        with suppress(UserError):
            shown = self._render(veiled, self.prompt)
        is_same = len(shown) == len(self.text) and all(
            new in (old, veil) for new, old in zip(shown, self.text, strict=True)
        )
        if is_same and not self._spelled(veiled):
            return [found.span() for found in self.special.finditer(shown)]
        if found := self._spelled(self.messages):
            raise UserError(
                f"A message spells the special token {found[0]}, and since the chat template changes "
                "messages, it cannot be told from the template's own; take it out of the message."
            )
        return [found.span() for found in self.special.finditer(self.text)]

    def _spelled(self, messages: Sequence[Message]) -> regex.Match[str] | None:
        texts = (text for message in messages for text in message.values())
        return next(filter(None, map(self.special.search, texts)), None)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which here also refuses products and powers that would exhaust memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        is_repetition = hasattr(left, "__len__") or hasattr(right, "__len__")
        a, b = (len(value) if hasattr(value, "__len__") else abs(value) for value in (left, right))
        size = math.log2(a + 1) * b if operator == "**" else a * b * is_repetition
        if size > LONGEST:
            raise TemplateError("it has a power or a product that is too large")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    try:
        return environment.from_string(GENERATION.sub(_marked, source))
    except Exception as error:  # such as Python's own limit on nested blocks
        raise UserError(f"The chat template is not valid Jinja ({error}); give another template.") from error


def _marked(tag: regex.Match[str]) -> str:
    """Replace a ``generation`` or ``endgeneration`` tag with tags that Jinja knows."""
    mark = "print generation_mark"
    return tag[1] + (mark + " %}{% endwith" if tag[2] else "with %}{% " + mark) + tag[3]


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _veil(name: str, text: str, veil: str) -> str:
    return text if name == "role" else VISIBLE.sub(lambda found: found[1] or veil, text)


def _unused(text: str) -> str:
    """A character that does not occur in the text."""
    used = {*text}
    return next(char for char in map(chr, PRIVATE) if char not in used)
