"""Chat templates in Jinja, the language in which they are published with models: rendered in a sandbox."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import Template as Compiled
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from myllm.files import UserError

if TYPE_CHECKING:
    from myllm.tokenizers.chat import Template

Message = Mapping[str, str]
Span = tuple[int, int]
PRIVATE = range(0xF0000, 0xFFFFE)  # code points that Unicode assigns to nothing
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class Conversation:
    """Messages in a chat template: the text, and where answers and special tokens stand in it.

    Rendering follows `transformers.PreTrainedTokenizerBase.apply_chat_template` without tools or documents. A
    template is foreign code: it runs in Jinja's sandbox, which hides Python from it and bounds each single
    ``range``; nested loops are not bounded.

    Args:
        source: The template in Jinja.
        messages: The messages.
        prompt: The template's ``add_generation_prompt``.
        variables: What else the template can read, such as ``bos_token``.
        special_tokens: The tokenizer's special tokens.

    Attributes:
        text: What the template renders.
        special: Finds special tokens.

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
        self._template, self._constants = _compile(source)
        self._has_blocks = GENERATION.search(source) is not None
        self._messages, self._prompt = messages, prompt
        now = datetime.now()  # once, so that all renderings agree
        functions = {"strftime_now": partial(datetime.strftime, now), "raise_exception": _raise_exception}
        self._variables = dict[str, Any](variables) | functions
        self.special = _any_of(tuple(special_tokens))
        self.text = self._render(messages, prompt)

    def _render(self, messages: Sequence[Message], prompt: bool, marks: tuple[str, str] = ("", "")) -> str:
        """The text; `marks` enclose each ``{% generation %}`` block."""
        known = {"messages": messages, "add_generation_prompt": prompt, "tools": None, "documents": None}
        try:
            return self._template.render(known, generation_marks=marks, **self._variables)
        except Exception as error:  # foreign code can raise anything
            why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            raise UserError(
                f"The chat template does not render these messages ({why:.150}); change them or the template."
            ) from error

    def answers(self) -> list[Span]:
        """Where in the text stands what the model writes: the assistant's words and the token that ends them.

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
        if marked.replace(first, "").replace(last, "") != self.text:
            raise UserError("The chat template changes its own generation blocks; give another template.")
        blocks = enumerate(re.finditer(f"{first}([^{first}{last}]*){last}", marked))
        spans = ((block.start() - 2 * n, len(block[1])) for n, block in blocks)  # without the marks before
        return [(start, start + length) for start, length in spans]

    def _answer(self, n: int) -> Span:
        given = self._render(self._messages[:n], prompt=True)
        done = self._render(self._messages[: n + 1], prompt=False)
        token = self.end_token(n)
        end = done.rfind(token) + len(token) if token else len(done)
        if (
            not done.startswith(given)
            or end < len(given) + len(token)
            or not self.text.startswith(done[:end])
        ):
            raise UserError(
                f"What the model writes of message {n + 1} is not clear, since the chat template renders "
                "messages differently once more follow; give a template with generation blocks."
            )
        return len(given), end

    def end_token(self, n: int) -> str:
        """The first special token behind an answer to the first `n` messages, or "" where there is none.

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
        """Where in the text stand the special tokens that the template wrote, none of a message's characters.

        The messages are rendered a second time with every character but white space veiled; what stays is the
        template's. Where a template decides by what a message says, such as a ``</think>`` in it, the strings
        that occur in its source are left unveiled.

        Raises:
            UserError: A message spells a special token, and the two renderings differ in more than the veil.
        """
        (veil,) = _unused(self.text, 1)
        for kept in ([], [word for word in self._constants if not self.special.search(word)]):
            veiled = [
                {name: text if name == "role" else _veil(text, kept, veil) for name, text in message.items()}
                for message in self._messages
            ]
            with suppress(UserError):
                shown = self._render(veiled, self._prompt)
                same = (a in (b, veil) for a, b in zip(shown, self.text, strict=False))
                if len(shown) == len(self.text) and all(same) and not self._spelled(veiled):
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


def to_jinja(template: "Template") -> str:
    """The Jinja source of a `Template`, with generation blocks; `transformers` reads it, too."""
    text = "m['content']" + ("|trim" if template.strip else "")
    system = _frame(template.system, "messages[0]['content']")
    front = f"({system} if system and loop.first else '')"
    user = f"({front} + m['content'])|trim" if template.strip == "turn" else f"({front} + {text})"
    default = template.default is not None
    return (
        f"{{{{ {_frame(template.begin)} }}}}"
        f"{{% if {default} and messages[0]['role'] != 'system' %}}"
        f"{{{{ {_frame(template.system.replace('{}', template.default or ''))} }}}}{{% endif %}}"
        f"{{% set system = {template.inside} and messages[0]['role'] == 'system' %}}"
        "{% for m in (messages[1:] if system else messages) %}"
        f"{{% if m['role'] == 'assistant' %}}{{{{ {_frame(template.prompt)} }}}}"
        f"{{% generation %}}{{{{ {_frame(template.answer, text)} }}}}{{% endgeneration %}}"
        f"{{{{ {_frame(template.after)} }}}}"
        f"{{% elif m['role'] == 'system' %}}{{{{ {_frame(template.system, text)} }}}}"
        f"{{% else %}}{{{{ {_frame(template.user, user)} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {_frame(template.prompt)} }}}}{{% endif %}}"
    )


def _frame(frame: str, text: str = "''") -> str:
    """A frame as a Jinja expression, `text` in the place of ``{}``."""
    names = {"{}": text, "<bos>": "bos_token", "<eos>": "eos_token"}
    pieces = re.split(r"(\{\}|<bos>|<eos>)", frame)
    return " + ".join(names.get(one) or json.dumps(one, ensure_ascii=False) for one in pieces if one) or "''"


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


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


@lru_cache(maxsize=32)
def _compile(source: str) -> tuple[Compiled, list[str]]:
    """The template, and the strings that occur in its expressions."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    try:
        constants = environment.parse(source).find_all(nodes.Const)
        words = {one.value for one in constants if isinstance(one.value, str) and one.value.strip()}
        return environment.from_string(source), sorted(words)
    except Exception as error:  # such as Python's own limit on nested blocks
        raise UserError(f"The chat template is not valid Jinja ({error}); give another template.") from error


@lru_cache(maxsize=32)
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")


def _unused(text: str, n: int) -> list[str]:
    """`n` characters that do not occur in the text."""
    used = set(text)
    unused = (char for char in map(chr, PRIVATE) if char not in used)
    return [next(unused) for _ in range(n)]


def _veil(text: str, kept: Sequence[str], veil: str) -> str:
    pieces = enumerate(_any_of(tuple(kept)).split(text))  # every second one is kept
    return "".join(piece if i % 2 else re.sub(r"\S", veil, piece) for i, piece in pieces)
