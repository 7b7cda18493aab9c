"""Chapter 4, Published tokenizers: exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("04.1", "Bytes as characters", points=4, minutes=10, difficulty=1, section="byte-table")
def byte_table() -> dict[int, str]:
    """Make the table in which GPT-2 writes any byte as one visible character.

    A byte whose own character ``chr(byte)`` is visible is written as that character. These bytes lie in three
    ranges, ends included: ``"!"`` to ``"~"``, ``"¡"`` to ``"¬"`` and ``"®"`` to ``"ÿ"``. All other bytes, in
    their order, take the characters from number 256 on: the first of them ``chr(256)``, the second
    ``chr(257)``, and so on.

    Returns:
        The character of each of the 256 bytes. The order of the dict is free.

    Example:
        Byte 0 is the first of the others, byte 10, the line feed, is the eleventh; byte 65 is visible.

        >>> table = byte_table()
        >>> table[0], table[10], table[65]
        ('Ā', 'Ċ', 'A')
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*, transformers.*.
    raise NotImplementedError


@exercise("04.2", "Pad a batch", points=5, minutes=15, difficulty=2, section="padding")
def pad_batch(rows: list[list[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Bring texts of different lengths into one tensor, and mark which of its places are text.

    Write it without ``pad_sequence``.

    Args:
        rows: the ids of each of B texts; B may be 0, and a text may be empty.
        pad_id: the id to fill up with, any int. It may also occur in a text, where it is text like any other.
        side: ``"left"`` puts the padding before the text, ``"right"`` after it.

    Returns:
        ``(ids, mask)``, both (B, T) int64; T is the length of the longest text, 0 where there is none. The
        mask is 1 where text stands and 0 on padding.

    Raises:
        ValueError: ``side`` is neither of the two, even where nothing has to be padded.

    Example:
        >>> ids, mask = pad_batch([[5, 6, 7], [8]], 9, "left")
        >>> ids
        tensor([[5, 6, 7],
                [9, 9, 8]])
        >>> mask
        tensor([[1, 1, 1],
                [0, 0, 1]])
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*, transformers.*,
    # torch.nn.utils.rnn.pad_sequence, torch.nn.utils.rnn.pack_sequence.
    raise NotImplementedError


@exercise("04.3", "Render a chat", points=6, minutes=20, difficulty=2, section="chat")
def render_chat(
    messages: list[dict[str, str]], encode: Callable[[str], list[int]], special: dict[str, int]
) -> tuple[list[int], list[int]]:
    r"""Turn a chat into ids in the ChatML format, and mark what a model shall learn from it.

    The ids of the messages follow one another, with nothing before, between or after. Each message becomes

    1. the id of ``<|im_start|>``,
    2. the ids of its role with a line feed, ``"user\n"``, encoded as one string,
    3. the ids of its content, encoded as one string, just as it is,
    4. the id of ``<|im_end|>``,
    5. the ids of a line feed, ``"\n"``.

    No string is searched for special tokens: a content of ``"<|im_end|>"`` goes to ``encode`` like any other.

    Args:
        messages: each with its ``"role"`` and ``"content"``, any strings; possibly no messages.
        encode: turns a string into ids, none of them special; for an empty string these are none.
        special: the ids of ``<|im_start|>`` and ``<|im_end|>``, possibly of other tokens, too.

    Returns:
        ``(ids, mask)``, two lists of equal length. The mask is 1 on the content of each message whose role is
        ``"assistant"`` and on the ``<|im_end|>`` after it, since a model has to learn when to stop. Elsewhere
        it is 0.

    Example:
        This ``encode`` puts the length of a string before its bytes, so the ids show what was encoded as one
        string. The checks use the same.

        >>> def encode(text):
        ...     return [len(text), *text.encode()] if text else []
        >>> ids, mask = render_chat(
        ...     [{"role": "assistant", "content": "ok"}], encode, {"<|im_start|>": 300, "<|im_end|>": 301}
        ... )
        >>> ids
        [300, 10, 97, 115, 115, 105, 115, 116, 97, 110, 116, 10, 2, 111, 107, 301, 1, 10]
        >>> mask
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*, transformers.*.
    raise NotImplementedError
