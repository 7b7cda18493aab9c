"""Chapter 4: the naive references, and the wrong answers that the checks recognise."""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.checks.ch03_answers import Encode, Spell
from myllm.grading.compare import kind
from myllm.grading.exam import Function, expect

Padded = tuple[Tensor, Tensor]
Message = dict[str, str]
Special = dict[str, int]
Rendered = tuple[list[int], list[int]]

START, END = "<|im_start|>", "<|im_end|>"
VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def table(
    visible: Iterable[int] = VISIBLE, other: Callable[[int, int], int] = lambda i, byte: 256 + i
) -> dict[int, str]:
    """``visible`` bytes stand for themselves; ``other`` gives the i-th other byte its character's number."""
    visible, numbers = set(visible), count()
    return {byte: chr(byte if byte in visible else other(next(numbers), byte)) for byte in range(256)}


def naive_table() -> dict[int, str]:
    """Count the invisible bytes."""
    return table()


def characters(found: Any) -> dict[int, str]:
    """A result that gives bytes characters; the check fails where it is anything else."""
    expect(isinstance(found, dict), f"the result is {kind(found)}")
    some = cast("dict[Any, Any]", found)
    expect(all(type(byte) is int for byte in some), "not every key is a byte")
    expect(all(type(one) is str and len(one) == 1 for one in some.values()), "not every value is a character")
    return some


def naive_padded(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Put one id of padding after the other."""
    if side not in ("left", "right"):
        raise ValueError("unknown side")
    longest = max(map(len, rows)) if rows else 0
    ids, mask = [list(row) for row in rows], [[1] * len(row) for row in rows]
    for both, empty in ((ids, pad_id), (mask, 0)):
        for row in both:
            while len(row) < longest:
                row.insert(0 if side == "left" else len(row), empty)
    shape = len(rows), longest
    return torch.tensor(ids, dtype=torch.int64).view(shape), torch.tensor(mask, dtype=torch.int64).view(shape)


def opposite(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Wrong: the other side."""
    return naive_padded(rows, pad_id, {"left": "right", "right": "left"}.get(side, side))


def backwards(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Wrong: rows are turned round for padding on the left, and so they stay."""
    return naive_padded([row[::-1] for row in rows] if side == "left" else rows, pad_id, side)


def cut_to_shortest(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Wrong: nothing is padded, longer rows lose their end."""
    shortest = min(map(len, rows), default=0)
    return naive_padded([row[:shortest] for row in rows], pad_id, side)


def compared(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Wrong: the mask is where ids differ from the padding's."""
    ids, _ = naive_padded(rows, pad_id, side)
    return ids, (ids != pad_id).long()


def with_mask(change: Callable[[Tensor], Tensor]) -> Function:
    """Wrong: right ids with another mask."""

    def wrong(rows: list[list[int]], pad_id: int, side: str) -> Padded:
        ids, mask = naive_padded(rows, pad_id, side)
        return ids, change(mask)

    return wrong


def mask_on_right(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Wrong: the mask of padding on the right, whatever the side."""
    return naive_padded(rows, pad_id, side)[0], naive_padded(rows, pad_id, "right")[1]


def zeros_as_padding(rows: list[list[int]], pad_id: int, side: str) -> Padded:
    """Wrong: ``pad_id`` is not used."""
    return naive_padded(rows, 0, side)


def any_side(otherwise: str) -> Function:
    """Wrong: an unknown side is taken for ``otherwise``."""

    def wrong(rows: list[list[int]], pad_id: int, side: str) -> Padded:
        return naive_padded(rows, pad_id, side if side in ("left", "right") else otherwise)

    return wrong


class SpellAny(Spell):
    """A string as its length and its bytes, so that the ids show what was encoded as one string."""

    def __call__(self, text: str) -> list[int]:
        """The ids of a string, none for an empty one."""
        return super().__call__(text) if text else []


encode = SpellAny()


Piece = tuple[list[int], str]


def two_lists(found: Any) -> Rendered:
    """A result of two lists of equal length; the check fails where it is anything else."""
    parts = cast("list[Any]", [*found] if isinstance(found, tuple) else [found])
    expect([type(one) for one in parts] == [list, list], "the result is not a tuple of two lists")
    expect(len(parts[0]) == len(parts[1]), "ids and mask do not have the same length")
    return parts[0], parts[1]


def pieces(message: Message, encode: Encode, special: Special) -> list[Piece]:
    """The five parts of a message in ChatML, each with its name."""
    return [
        ([special[START]], "start"),
        (encode(message["role"] + "\n"), "role"),
        (encode(message["content"]), "content"),
        ([special[END]], "end"),
        (encode("\n"), "newline"),
    ]


def learned(message: Message, part: str) -> bool:
    """Is this part of this message something that a model shall learn?"""
    return message["role"] == "assistant" and part in ("content", "end")


def rendered(
    parts: Callable[[Message, Encode, Special], list[Piece]] = pieces,
    mark: Callable[[Message, str], bool] = learned,
) -> Callable[[list[Message], Encode, Special], Rendered]:
    """Render message by message; with other ``parts`` or another ``mark``, a wrong answer."""

    def render(messages: list[Message], encode: Encode, special: Special) -> Rendered:
        marked = [
            (id, int(mark(message, part)))
            for message in messages
            for ids, part in parts(message, encode, special)
            for id in ids
        ]
        return [id for id, _ in marked], [one for _, one in marked]

    return render


naive_chat = rendered()


def marking(*parts: str, who: Callable[[str], bool] = lambda role: role == "assistant") -> Function:
    """Wrong: other parts are learned, or those of other roles."""
    return rendered(mark=lambda message, part: who(message["role"]) and part in parts)


def replaced(part: str, by: Callable[[Message, Encode], list[list[int]]]) -> Function:
    """Wrong: in place of one part of each message, others."""

    def parts(message: Message, encode: Encode, special: Special) -> list[Piece]:
        return [
            piece
            for ids, name in pieces(message, encode, special)
            for piece in ([(new, part) for new in by(message, encode)] if name == part else [(ids, name)])
        ]

    return rendered(parts)


def last_only(messages: list[Message], encode: Encode, special: Special) -> Rendered:
    """Wrong: only the last message is learned."""
    before, last = messages[:-1], messages[-1:]
    one, other = (
        rendered(mark=lambda message, part: False)(before, encode, special),
        naive_chat(last, encode, special),
    )
    return one[0] + other[0], one[1] + other[1]


def at_once(message: Message, encode: Encode, special: Special) -> list[Piece]:
    """Wrong: role and content are encoded as one string."""
    both = encode(message["role"] + "\n" + message["content"])
    return [
        ([special[START]], "start"),
        (both, "content"),
        ([special[END]], "end"),
        (encode("\n"), "newline"),
    ]


def as_text(message: Message, encode: Encode, special: Special) -> list[Piece]:
    """Wrong: special tokens spelled out."""
    words = {"start": START, "end": END}
    return [
        (encode(words[name]) if name in words else ids, name)
        for ids, name in pieces(message, encode, special)
    ]


def searched(message: Message, encode: Encode, special: Special) -> list[Piece]:
    """Wrong: special tokens in the content become their ids."""
    ids, text = list[int](), message["content"]
    while found := [token for token in special if token in text]:
        token = min(found, key=text.index)
        before, _, text = text.partition(token)
        ids += [*encode(before), special[token]]
    content = ids + encode(text)
    return [(content if name == "content" else old, name) for old, name in pieces(message, encode, special)]
