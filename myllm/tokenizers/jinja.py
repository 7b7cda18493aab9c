"""Chat templates in Jinja, the language in which they are published with models, rendered in a sandbox."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from myllm.files import UserError
from myllm.tokenizers.base import any_of

Message = Mapping[str, str]
Span = tuple[int, int]
PRIVATE = range(0xF0000, 0xFFFFE)  # code points that Unicode assigns to nothing
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
VISIBLE = re.compile(r"(</?think>)|\S")
LONGEST = 1 << 20  # characters or bits of what a template multiplies


class Conversation:
    """Messages in a chat template: the text, and where answers and special tokens stand in it.

    Rendering follows `transformers.PreTrainedTokenizerBase.apply_chat_template` without tools or documents. A
    template is foreign code: it runs in Jinja's sandbox, which hides Python from it and bounds each ``range``
    and each product; nested loops are not bounded.

    Args:
        source: The template in Jinja.
        messages: The messages.
        prompt: The template's ``add_generation_prompt``.
        variables: What else the template can read, such as ``bos_token``.
        special_tokens: The tokenizer's special tokens.

    Attributes:
        text: What the template renders.
        special: A pattern that finds special tokens.

    Raises:
        UserError: The source is not valid Jinja, or the template refuses the messages or fails.
    """

    def __init__(
        self,
        source: str,
        messages: Sequence[Message],
        prompt: bool,
        variables: Mapping[str, str],
        special_tokens: Iterable[str],
    ) -> None:
        self._template = _compile(source)
        self._has_blocks = GENERATION.search(source) is not None
        self._messages, self._prompt = messages, prompt
        now = datetime.now()  # once, so that all renderings agree
        functions = {"strftime_now": partial(datetime.strftime, now), "raise_exception": _raise_exception}
        self._variables: dict[str, Any] = {**variables, **functions, "tools": None, "documents": None}
        self.special = any_of(special_tokens)
        self.text = self._render(messages, prompt)

    def _render(self, messages: Sequence[Message], prompt: bool, marks: tuple[str, str] = ("", "")) -> str:
        """The text; `marks` enclose each ``{% generation %}`` block."""
        given = {"messages": messages, "add_generation_prompt": prompt, "generation_marks": marks}
        try:
            return self._template.render(given, **self._variables)
        except Exception as error:  # foreign code can raise anything
            why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            why = f"The chat template does not render these messages ({why:.150})"
            raise UserError(f"{why}; change them or the template.") from error

    def answers(self) -> list[Span]:
        """The spans of the text that the model writes: each answer with the token that ends it.

        These are the ``{% generation %}`` blocks, where a template has them. Otherwise an answer is what the
        template adds to the rendering of the messages before it, which ends with the generation prompt.

        Raises:
            UserError: The template renders a message differently once others follow, so that an answer in the
                text is not what the model writes when asked.
        """
        if not self._has_blocks:
            roles = [message["role"] for message in self._messages]
            return [self._answer(n) for n, role in enumerate(roles) if role == "assistant"]
        first, last = _unused(self.text, 2)
        marked = self._render(self._messages, self._prompt, (first, last))
        parts = re.split(f"[{first}{last}]", marked)
        if "".join(parts) != self.text or len(parts) % 2 == 0:
            raise UserError("The chat template changes its own generation blocks; give another template.")
        ends = [*accumulate(map(len, parts))]
        return [*zip(ends[::2], ends[1::2], strict=False)]

    def _answer(self, n: int) -> Span:
        given = self._render(self._messages[:n], prompt=True)
        done = self._render(self._messages[: n + 1], prompt=False)
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
        """The first special token after an answer to the first `n` messages, or "" where there is none.

        Raises:
            UserError: The template does not write the content of an answer, or fails.
        """
        (probe,) = _unused(self.text, 1)
        answer = {"role": "assistant", "content": probe}
        text = self._render([*self._messages[:n], answer], prompt=False)
        if probe not in text:
            raise UserError("The chat template leaves out the content of an answer; give another template.")
        found = self.special.search(text, text.rindex(probe))
        return found[0] if found else ""

    def control_tokens(self) -> list[Span]:
        """The spans of the special tokens that the template itself wrote, without any message's characters.

        The messages are rendered a second time with every visible character replaced by one that they do not
        contain. What stays the same is the template's. The marks of a thought, by which templates decide, are
        kept.

        Raises:
            UserError: A message spells a special token, and the two renderings differ in more than this.
        """
        (veil,) = _unused(self.text, 1)
        veiled = [
            {
                name: text if name == "role" else VISIBLE.sub(lambda found: found[1] or veil, text)
                for name, text in message.items()
            }
            for message in self._messages
        ]
        shown = ""
        with suppress(UserError):
            shown = self._render(veiled, self._prompt)
        is_same = len(shown) == len(self.text) and all(
            new in (old, veil) for new, old in zip(shown, self.text, strict=True)
        )
        if is_same and not self._spelled(veiled):
            return [found.span() for found in self.special.finditer(shown)]
        if token := self._spelled(self._messages):
            raise UserError(
                f"A message spells the special token {token}, and since the chat template changes messages, "
                "it cannot be told from the template's own; take it out of the message."
            )
        return [found.span() for found in self.special.finditer(self.text)]

    def _spelled(self, messages: Sequence[Message]) -> str | None:
        texts = (text for message in messages for text in message.values())
        return next((found[0] for found in map(self.special.search, texts) if found), None)


class _Generation(Extension):
    """The tag ``{% generation %}…{% endgeneration %}``, which encloses what the model writes."""

    tags = {"generation"}  # noqa: RUF012, the attribute that Jinja reads

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = nodes.Name("generation_marks", "load")
        return nodes.CallBlock(self.call_method("enclosed", [marks]), [], [], body).set_lineno(line)

    @staticmethod
    def enclosed(marks: tuple[str, str], caller: Callable[[], str]) -> str:
        return marks[0] + caller() + marks[1]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without products and powers that fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        lengths = [len(value) if hasattr(value, "__len__") else abs(value) for value in (left, right)]
        size = lengths[0] * lengths[1]
        if operator == "**":
            size = math.log2(lengths[0] + 1) * lengths[1]  # bits of the result
        elif not (hasattr(left, "__len__") or hasattr(right, "__len__")):
            size = 0  # a product of two numbers
        if size > LONGEST:
            raise TemplateError("it has a power or a product that is too large")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    try:
        return environment.from_string(source)
    except Exception as error:  # such as Python's own limit on nested blocks
        raise UserError(f"The chat template is not valid Jinja ({error}); give another template.") from error


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _unused(text: str, n: int) -> list[str]:
    """`n` characters that do not occur in the text."""
    used = set(text)
    unused = (char for char in map(chr, PRIVATE) if char not in used)
    return [next(unused) for _ in range(n)]
