"""Chapter 3, Byte-pair encoding: exercises. Replace each ``raise NotImplementedError`` with your answer."""

import math
import re
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

from myllm.grading import exercise

Pair = tuple[int, int]


@exercise("03.1", "Encode with dropout", points=6, minutes=15, difficulty=2, section="encoding")
def encode_with_dropout(chunk: bytes, merges: dict[Pair, int], drop: Callable[[], bool]) -> list[int]:
    """Encode a chunk with merges that are left out at random, so that a text has many encodings.

    A model that always sees the same pieces never learns what they are made of. In training, BPE-dropout
    therefore skips merges at random. Start with one id per byte (0 to 255). Then, in each round:

    1. Go through the places where two neighbours are a pair of ``merges``, from left to right, and call
       ``drop()`` once for each. A place is left out of this round, and of no other, if the answer is true.
    2. Of the places that remain, merge the one whose new id is lowest; if several places have that id, the
       leftmost. One place is merged, not all. If no place remains, you are done.

    Args:
        chunk: Any bytes; it may be empty.
        merges: The new id for each pair, in no particular order. A new id is 256 or more, and larger than
            both ids of its pair.
        drop: Decides whether to skip one place. If it always returns false, the result is the chapter's
            encoding.

    Returns:
        The ids. For full points, look up the pairs of the chunk and do not go through all merges.

    The functions of `myllm.tokenizers` may not be used.

    Example:
        The first place is dropped, so ``(97, 98)`` is merged at the second one. In the next round the first
        place is dropped again, and nothing is left.

        >>> answers = iter([True, False, True])
        >>> encode_with_dropout(b"abab", {(97, 98): 256}, lambda: next(answers))
        [97, 98, 256]
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.2", "Fix the pair counts", points=7, minutes=25, difficulty=3, section="indexed-training")
def merge_and_count(
    words: dict[tuple[int, ...], int], counts: dict[Pair, int], pair: Pair, new_id: int
) -> tuple[dict[tuple[int, ...], int], dict[Pair, int]]:
    """Debug one step of a trainer: its counts are wrong after a merge.

    ``words`` holds the words that the index of a text lists for ``pair``; ``counts`` holds the pair counts of
    *all* words of the text, including those you do not see. So the counts cannot be recomputed from scratch:
    they have to be updated. This version has five faults; find and fix them::

        counts = dict(counts)
        merged = {}
        for ids, n in words.items():
            new = []
            for i in range(len(ids)):
                if new and (new[-1], ids[i]) == pair:
                    if i >= 2:
                        counts[ids[i - 2], pair[0]] -= 1
                        counts[ids[i - 2], new_id] = counts.get((ids[i - 2], new_id), 0) + 1
                    if i + 1 < len(ids):
                        counts[pair[1], ids[i + 1]] -= 1
                        counts[new_id, ids[i + 1]] = counts.get((new_id, ids[i + 1]), 0) + 1
                    new[-1] = new_id
                else:
                    new.append(ids[i])
            if new != list(ids):
                merged[tuple(new)] = n
        del counts[pair]
        return merged, counts

    Args:
        words: Words as tuples of ids, with the number of times that each occurs in the text. Some may have
            lost the pair in an earlier merge. Ids may be of any size.
        counts: How often each pair occurs in the text, all its words together.
        pair: The pair to merge, from left to right and without overlap. Its two ids may be equal.
        new_id: The new id, which occurs nowhere yet.

    Returns:
        All the words after the merge, each with its number; and the counts of the whole text after
        the merge, without pairs that no longer occur. The dicts may be in any order.

    The functions of `myllm.tokenizers` may not be used.

    Example:
        Besides this word, the text has another one with the pair (2, 3).

        >>> merge_and_count({(1, 2, 3): 5}, {(1, 2): 5, (2, 3): 6}, (1, 2), 9)
        ({(9, 3): 5}, {(2, 3): 1, (9, 3): 5})
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.3", "Write the test of an encoder", points=6, minutes=20, difficulty=2, section="encoding")
def is_encoder(encode: Callable[[bytes, dict[Pair, int]], Any]) -> bool:
    """Decide whether a function that encodes chunks is right.

    ``encode(chunk, merges)`` should start with one id a byte, then merge, as long as there is one, the
    neighbouring pair of ``merges`` with the lowest new id, wherever it occurs, from left to right and without
    overlap. It should return a list of ids, also for the empty chunk, and leave ``merges`` as it was.

    Your function is tried on right encoders and on wrong ones. Every wrong one shows its fault somewhere when
    it is called for all chunks of 0 to 4 letters from ``b"ab"`` and all dicts with two merges: a pair of
    these letters that becomes 256, and another pair, of letters and 256, that becomes 257, in either order
    in the dict. Some are wrong for a few of them only.

    Args:
        encode: The function to test. It may keep state between calls, correctly or not.

    Returns:
        True if it is right. False if it is wrong: if for some of these arguments it returns anything but the
        list of the right ids, changes ``merges``, or raises an exception.

    The functions of `myllm.tokenizers` may not be used.

    Example:
        >>> is_encoder(lambda chunk, merges: list(chunk))
        False
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.4", "Encode with special tokens", points=6, minutes=20, difficulty=3, section="special-tokens")
def encode_with_special(text: str, special: dict[str, int], encode: Callable[[str], list[int]]) -> list[int]:
    """Encode a text in which some strings are special tokens with ids of their own.

    Go from left to right. Where a special token starts, replace it by its id; where several start at the same
    place, take the longest. Each piece of text before, between and after them is given to ``encode``, whole
    and unchanged.

    Args:
        text: Any text; it may be empty.
        special: The id of each special token, in no particular order; it may be empty. A token is a non-empty
            string of any characters.
        encode: Turns ordinary text into ids. It must never be called on an empty string.

    Returns:
        The ids of the whole text, in order.

    The functions of `myllm.tokenizers` may not be used.

    Example:
        This ``encode`` puts the length of a piece before its bytes, so the ids show where the text was cut.
        The checks use the same function.

        >>> def encode(text):
        ...     return [len(text), *text.encode()]
        >>> encode_with_special("hi<|end|>", {"<|end|>": 300}, encode)
        [2, 104, 105, 300]
    """
    # May not be called: myllm.tokenizers.*, tiktoken.*, tokenizers.*.
    raise NotImplementedError


@exercise("03.5", "Choose a vocabulary size", points=7, minutes=25, difficulty=3, section="measure-bpe")
def choose_vocabulary(
    rows: list[dict[str, Any]], n_bytes: int, width: int, tied: bool, budget: int, document: int, context: int
) -> tuple[int | None, dict[int, str]]:
    """Choose the size of a vocabulary from a table of trained models, and say why the others were not chosen.

    The rules, in this order:

    1. ``"memory"``: drop a size if its tables take more than ``budget`` bytes. To read an id, a model looks
       up its *embedding*, a row of ``width`` numbers of 4 bytes; the table has a row for each id. At the
       output there is a second such table, unless the two are *tied*: one table that serves for both.
    2. ``"context"``: drop a size if a document of ``document`` bytes takes more than ``context`` tokens, at
       the bytes per token of the validation text; the number of tokens is an average and is not rounded.
    3. ``"bits"``: of what is left, the best has the fewest bits per byte. Drop a size that needs more than
       1.01 times as many.
    4. ``"size"``: of what is left, choose the smallest size and drop the others.

    Args:
        rows: A table, in which each row is a dict: ``size``, the number of ids, each size once; ``tokens``,
            how many tokens the validation text has; and ``perplexity``, that of the model on these tokens.
        n_bytes: Bytes of the validation text, which is the same for all, 1 or more. All tokens are scored.
        width: C, the numbers in an embedding.
        tied: Whether the output uses the embeddings as its matrix.
        budget: Bytes of memory for the embeddings and the output table.
        document: Bytes of a document that the model must see whole.
        context: Tokens that the model can see.

    Returns:
        The chosen size, or None if rules 1 and 2 drop all, and a dict that maps every other size to the
        rule that dropped it.

    The functions of `myllm.evaluation` may not be used.

    Example:
        Both fit. The larger vocabulary has the higher perplexity, but 5 tokens of log2(32) = 5 bits are fewer
        bits than 10 of log2(16) = 4.

        >>> rows = [{"size": 300, "tokens": 10, "perplexity": 16.0}]
        >>> rows += [{"size": 600, "tokens": 5, "perplexity": 32.0}]
        >>> choose_vocabulary(rows, 10, 8, True, 20000, 10, 10)
        (600, {300: 'bits'})
    """
    # May not be called: myllm.evaluation.*.
    raise NotImplementedError
