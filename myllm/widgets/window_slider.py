"""Windows cut from a text: inputs, targets one token later, and the tokens that no window reaches."""

from __future__ import annotations

import traitlets

from .base import Widget, check_integer, check_text, source

MAX_CHARACTERS = 400
MAX_SPAN = 32


class WindowSlider(Widget):
    """Slides a window of tokens over a text; one character of the text is one token.

    Windows and tokens are counted from 0, so window i begins at token i · stride. As in
    `myllm.data.loader.windows`, a window needs its inputs and the one token that follows, its last target.

    Args:
        text: 2 to 400 characters.
        block_size: Tokens T of a window, 1 to 32 and fewer than the text has.
        stride: Tokens from the beginning of a window to that of the next, 1 to 32.
        window: The window shown first.

    Raises:
        ValueError: If an argument lies outside its bounds.
    """

    _esm = source("layout.mjs", "text.mjs", "window_slider.mjs")

    text = traitlets.Unicode().tag(sync=True)
    block_size = traitlets.Int().tag(sync=True)
    stride = traitlets.Int().tag(sync=True)
    window = traitlets.Int().tag(sync=True)

    def __init__(self, text: str, block_size: int = 8, stride: int = 8, *, window: int = 0) -> None:
        check_text("text", text, 2, MAX_CHARACTERS)
        largest = min(MAX_SPAN, len(text) - 1)
        check_integer("block size", block_size, 1, largest)
        check_integer("stride", stride, 1, MAX_SPAN)
        check_integer("window", window, 0, (len(text) - 1 - block_size) // stride)
        super().__init__(text=text, block_size=block_size, stride=stride, window=window)

    def __repr__(self) -> str:
        return f"WindowSlider({len(self.text)} characters, {self.block_size} by {self.stride})"
