"""One text through five tokenizers, encoded in the page as the reader types."""

from __future__ import annotations

import re
from typing import Any

import traitlets

from .base import Widget, check_text, source
from .vocabularies import NAMES, merge_table, vocabulary

MAX_CHARACTERS = 500


class TokenComparer(Widget):
    """Cuts a text into bytes and into the tokens of our own BPE, GPT-2, Mistral and SmolLM2.

    The published vocabularies are loaded when the reader first types or chooses a sentence: in the book from
    files of the site, in a notebook from the kernel. If one cannot be loaded, the others are shown.

    Args:
        text: The text shown first; the reader can replace it. At most 500 characters.
        own: A trained `myllm.tokenizers.bpe.BPE` of about 4,096 ids, or None; special tokens are not used.
        name: Its displayed name.

    Raises:
        ValueError: If the text is out of bounds, or `own` is too large or not a BPE that the page can run.
    """

    _esm = source("layout.mjs", "text.mjs", "fetch.mjs", "byte_pairs.mjs", "token_comparer.mjs")

    text = traitlets.Unicode().tag(sync=True)
    own = traitlets.Dict().tag(sync=True)  # empty, or what `vocabulary` returns, with its pattern
    name = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        text: str = "All human beings are born free and equal in dignity and rights.",
        own: Any = None,
        *,
        name: str = "Our BPE",
    ) -> None:
        check_text("text", text, 1, MAX_CHARACTERS)
        super().__init__(text=text, own={} if own is None else _own(own), name=name)
        self.on_msg(self._send_vocabulary)

    def _send_vocabulary(self, _: object, message: dict[str, Any], buffers: object) -> None:
        """Send a vocabulary to a notebook's page that requests it; without data if it is not available."""
        if (name := message.get("vocabulary")) in NAMES:
            try:
                data = vocabulary(name)
            except (ImportError, OSError):
                data = None
            self.send({"vocabulary": name, "data": data})

    def __repr__(self) -> str:
        return f"TokenComparer({len(self.text)} characters)"


def _own(tokenizer: Any) -> dict[str, Any]:
    """The merges of a `BPE`, in the form that the page reads."""
    merges: dict[tuple[int, int], int] = getattr(tokenizer, "merges", {})
    pattern: str = getattr(tokenizer, "pattern", "")
    if not pattern or [*merges.values()] != [*range(256, 256 + len(merges))]:
        raise ValueError("Our own tokenizer must be a BPE: bytes, then its merges in order.")
    if re.search(r"\(\?i|[+*?]\+", pattern):
        raise ValueError("A page cannot run the pattern of this BPE; train it with GPT2 or SMOLLM2.")
    return {"bytes": [*range(256)], "pattern": pattern, **merge_table(merges, 256)}
