"""Chapter 3, Byte-pair encoding: exercises. Replace each ``raise NotImplementedError`` with your answer."""

import re
from collections.abc import Callable
from itertools import pairwise

from myllm.grading import exercise


@exercise("03.1", "Count pairs", points=5, minutes=10, difficulty=1, section="counting-pairs-bpe")
def count_pairs(words: dict[tuple[int, ...], int]) -> dict[tuple[int, int], int]:
    """Count the pairs of neighbouring ids in all words of a text.

    Args:
        words: each different word of the text, as a tuple of ids, with the number of times it occurs (1 or
            more). Words may be empty. Pairs do not reach from one word into the next.

    Returns:
        How often each pair ``(left, right)`` occurs in the text. Every neighbouring place counts, also where
        two places overlap: ``(7, 7, 7)`` holds ``(7, 7)`` twice. Pairs that do not occur are left out; the
        order of the dict is free. For full points a word is read once, however often it occurs in the text.

    Example:
        >>> count_pairs({(1, 2, 3): 5, (2, 3): 1})
        {(1, 2): 5, (2, 3): 6}
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.2", "Merge a pair", points=5, minutes=10, difficulty=2, section="merging")
def merge(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace a pair of neighbouring ids by one new id, everywhere.

    Go from left to right. An id that has gone into a merge is used up: it cannot be part of the next one.

    Args:
        ids: any number of ids, none of them ``new_id``. The list is not changed.
        pair: the two ids to replace, left and right; they may be equal.
        new_id: the id that takes their place.

    Returns:
        A new list.

    Example:
        >>> merge([1, 2, 3, 1, 2], (1, 2), 9)
        [9, 3, 9]
        >>> merge([7, 7, 7], (7, 7), 9)
        [9, 7]
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.3", "Encode a chunk", points=6, minutes=15, difficulty=2, section="encoding")
def encode_chunk(chunk: bytes, merges: dict[tuple[int, int], int]) -> list[int]:
    """Turn the bytes of a chunk into ids, with merges that were learned before.

    Start with one id a byte (0 to 255). Then, as long as some neighbouring pair is in ``merges``: of all such
    pairs take the one with the lowest new id, which was learned first, and merge it wherever it occurs. You
    may call your ``merge`` for that.

    Args:
        chunk: any bytes, also none at all.
        merges: the new id that each pair turns into, in no particular order. A new id is 256 or more, and
            larger than both ids of its pair. The dict is not changed.

    Returns:
        The ids that are left when no neighbouring pair can be merged any more. For full points, look up the
        pairs that the chunk holds and do not go through all merges: a real tokenizer has 50,000 of them.

    Example:
        ``b"abc"`` is ``[97, 98, 99]``. Two pairs could be merged; 256 is lower than 257.

        >>> encode_chunk(b"abc", {(97, 98): 257, (98, 99): 256})
        [97, 256]
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.4", "Encode with special tokens", points=6, minutes=20, difficulty=3, section="special-tokens")
def encode_with_special(text: str, special: dict[str, int], encode: Callable[[str], list[int]]) -> list[int]:
    """Encode a text in which some strings are special tokens with ids of their own.

    Go from left to right. Where a special token starts, it becomes its id; where several start at the same
    place, the longest one counts. Each piece of text between two of them, before the first and after the last
    is given to ``encode``, whole and unchanged.

    Args:
        text: any text, also none at all.
        special: the id of each special token, in no particular order; possibly none. A token is a non-empty
            string of any characters.
        encode: turns ordinary text into ids. It must never be called on an empty string.

    Returns:
        The ids of the whole text, in order.

    Example:
        This ``encode`` puts the length of a piece before its bytes, so the ids show where the text was cut.
        The checks use the same.

        >>> def encode(text):
        ...     return [len(text), *text.encode()]
        >>> encode_with_special("hi<|end|>", {"<|end|>": 300}, encode)
        [2, 104, 105, 300]
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError
