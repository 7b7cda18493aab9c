"""Conversations in a chat format: which tokens are learned, and which see each other in a shared row."""

from __future__ import annotations

import traitlets

from .base import Widget, check_choice, check_text, source

MAX_CHARACTERS = 400
FORMATS = ("alpaca", "chatml", "gemma", "llama2", "llama3", "mistral", "smollm2")


class MaskViewer(Widget):
    """Shows the loss mask of conversations and the attention between them in a packed row.

    Each message is a line such as ``user: Hello``; a line of ``---`` begins another conversation, and lines
    without a role continue the previous message. Tokens are characters, and each control token of a format is
    one token.

    Args:
        text: The conversations shown first; the reader can replace them. At most 400 characters.
        template: The format shown first: alpaca, chatml, gemma, llama2, llama3, mistral or smollm2.
        separate: Whether a document mask initially keeps the conversations apart.

    Raises:
        ValueError: If the text is out of bounds or the format unknown.
    """

    _css = source("layout.css", "mask_viewer.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "mask_viewer.mjs")

    text = traitlets.Unicode().tag(sync=True)
    template = traitlets.Unicode().tag(sync=True)
    separate = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        text: str = "user: Hello\nassistant: Hi\n---\nuser: 2+2?\nassistant: 4\nuser: 3+3?\nassistant: 6",
        template: str = "chatml",
        *,
        separate: bool = True,
    ) -> None:
        check_text("text", text, 1, MAX_CHARACTERS)
        check_choice("template", template, FORMATS)
        super().__init__(text=text, template=template, separate=bool(separate))

    def __repr__(self) -> str:
        return f"MaskViewer({self.template}, {len(self.text)} characters)"
