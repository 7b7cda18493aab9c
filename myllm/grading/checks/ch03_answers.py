"""Chapter 3: the naive references, and the wrong answers that the checks recognise."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from myllm.grading.exam import Rng

Pair = tuple[int, int]
Words = dict[tuple[int, ...], int]
Merges = dict[Pair, int]
Encode = Callable[[str], list[int]]


def naive_pairs(words: Words) -> dict[Pair, int]:
    """Write every pair down as often as it occurs, then count the list."""
    return dict(Counter(pair for word, n in words.items() for pair in [*pairwise(word)] * n))


def weighted(words: Words, pairs: Callable[[tuple[int, ...]], list[Pair]]) -> dict[Pair, int]:
    """Wrong counts: of other pairs than the neighbouring ones."""
    return dict(Counter(pair for word, n in words.items() for pair in pairs(word) * n))


def without_overlap(word: tuple[int, ...]) -> list[Pair]:
    """Wrong: a pair that shares an id with the same pair before it is passed over."""
    found, last = list[Pair](), -2
    for i, pair in enumerate(pairwise(word)):
        if found and i == last + 1 and found[-1] == pair:
            continue
        found.append(pair)
        last = i
    return found


def unordered(word: tuple[int, ...]) -> list[Pair]:
    """Wrong: the smaller id first, whatever the order."""
    return [(min(pair), max(pair)) for pair in pairwise(word)]


def every_second(word: tuple[int, ...]) -> list[Pair]:
    """Wrong: an id that was in a pair is used up."""
    return list(zip(word[::2], word[1::2], strict=False))


def last_word_only(words: Words) -> dict[Pair, int]:
    """Wrong: a later word overwrites what earlier ones have counted."""
    return {pair: n for word, n in words.items() for pair in pairwise(word)}


def naive_merge(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Replace the first occurrence, then do the same with what is right of it."""
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new_id, *naive_merge(ids[i + 2 :], pair, new_id)]
    return list(ids)


def places(ids: list[int], pair: Pair) -> set[int]:
    """Where the pair starts, overlapping or not."""
    return {i for i, found in enumerate(pairwise(ids)) if found == pair}


def from_the_right(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: the same, mirrored."""
    return naive_merge(ids[::-1], (pair[1], pair[0]), new_id)[::-1]


def overlapping(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: an id may go into two merges."""
    at = places(ids, pair)
    return [new_id if i in at else old for i, old in enumerate(ids) if i in at or i - 1 not in at]


def second_kept(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: a step of one after a merge."""
    at = places(ids, pair)
    return [new_id if i in at else old for i, old in enumerate(ids)]


def first_only(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: one merge, then the end."""
    at = min(places(ids, pair), default=None)
    return list(ids) if at is None else [*ids[:at], new_id, *ids[at + 2 :]]


def last_lost(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: the loop over pairs forgets an id that ends the list unmerged."""
    merged = naive_merge(ids, pair, new_id)
    return merged[:-1] if merged and merged[-1] != new_id else merged


def either_order(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: ``(right, left)`` is merged, too."""
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) in (pair, pair[::-1]):
            return [*ids[:i], new_id, *either_order(ids[i + 2 :], pair, new_id)]
    return list(ids)


def naive_encode(chunk: bytes, merges: Merges) -> list[int]:
    """Apply all merges once, in the order they were learned."""
    ids = list(chunk)
    for new_id, pair in sorted((new_id, pair) for pair, new_id in merges.items()):
        ids = naive_merge(ids, pair, new_id)
    return ids


def chosen(
    chunk: bytes, merges: Merges, key: Callable[[Pair, list[int]], Any], rounds: int = 999
) -> list[int]:
    """Wrong where ``key`` is: of the pairs that can be merged, the one with the least key goes first."""
    ids = list(chunk)
    for _ in range(rounds):
        if not (known := [pair for pair in pairwise(ids) if pair in merges]):
            break
        best = min(known, key=lambda pair: key(pair, ids))
        ids = naive_merge(ids, best, merges[best])
    return ids


def most_frequent(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: the order in which training chose."""
    return chosen(chunk, merges, lambda pair, ids: (-len(places(ids, pair)), merges[pair]))


def leftmost(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: always the first pair from the left, one place at a time."""
    ids = list(chunk)
    while at := [i for i, pair in enumerate(pairwise(ids)) if pair in merges]:
        ids[at[0] : at[0] + 2] = [merges[ids[at[0]], ids[at[0] + 1]]]
    return ids


def leftmost_everywhere(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: always the first pair from the left, at all its places."""
    return chosen(chunk, merges, lambda pair, ids: 0)


def longest(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: from the left, the longest token of the vocabulary that fits."""
    tokens = {i: bytes([i]) for i in range(256)}
    for new_id, (left, right) in sorted((new_id, pair) for pair, new_id in merges.items()):
        tokens[new_id] = tokens[left] + tokens[right]
    ids, rest = list[int](), chunk
    while rest:
        best = max((i for i in tokens if rest.startswith(tokens[i])), key=lambda i: len(tokens[i]))
        ids.append(best)
        rest = rest[len(tokens[best]) :]
    return ids


def bytes_only(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: the pairs are looked up once, before the first merge."""
    ids = list(chunk)
    for new_id, pair in sorted((merges[pair], pair) for pair in set(pairwise(ids)) if pair in merges):
        ids = naive_merge(ids, pair, new_id)
    return ids


def dict_order(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: each merge once, in the order of the dict."""
    ids = list(chunk)
    for pair, new_id in merges.items():
        ids = naive_merge(ids, pair, new_id)
    return ids


def naive_special(text: str, special: dict[str, int], encode: Encode) -> list[int]:
    """At every character, see which special tokens start there."""
    return cut(text, special, encode)


def cut(
    text: str,
    special: dict[str, int],
    encode: Encode,
    *,
    choose: Callable[[list[str]], str] = lambda found: max(found, key=len),
) -> list[int]:
    """Cut at the token that ``choose`` takes of those that start at one place."""
    ids, piece = list[int](), ""
    while text:
        if found := [token for token in special if text.startswith(token)]:
            token = choose(found)
            ids += [*(encode(piece) if piece else []), special[token]]
            text, piece = text[len(token) :], ""
        else:
            text, piece = text[1:], piece + text[0]
    return ids + (encode(piece) if piece else [])


def shortest_first(text: str, special: dict[str, int], encode: Encode) -> list[int]:
    """Wrong: the shortest token of those that start at one place."""
    return cut(text, special, encode, choose=lambda found: min(found, key=len))


def in_turn(text: str, special: dict[str, int], encode: Encode, tokens: list[str]) -> list[int]:
    """Wrong: the whole text is cut at the first token, then what is left at the next."""
    if not tokens:
        return encode(text) if text else []
    ids = list[int]()
    for i, piece in enumerate(text.split(tokens[0])):
        ids += [special[tokens[0]]] * (i > 0) + in_turn(piece, special, encode, tokens[1:])
    return ids


def longest_first(text: str, special: dict[str, int], encode: Encode) -> list[int]:
    """Wrong: the longest token of the whole text first, wherever it stands."""
    return in_turn(text, special, encode, sorted(special, key=len, reverse=True))


def by_pattern(
    text: str,
    special: dict[str, int],
    encode: Encode,
    *,
    escape: Callable[[str], str] = re.escape,
    keep: bool = True,
    change: Callable[[str], str] = str,
    empty: bool = False,
) -> list[int]:
    """Cut with a regular expression, as most answers do; the arguments make it wrong in one way each."""
    tokens = sorted(special, key=len, reverse=True)
    ids = list[int]()
    for piece in re.split(f"({'|'.join(map(escape, tokens))})", text) if tokens else [text]:
        if piece in special:
            ids += [special[piece]] * keep
        elif empty or change(piece):
            ids += encode(change(piece))
    return ids


def last_piece_lost(text: str, special: dict[str, int], encode: Encode) -> list[int]:
    """Wrong: ordinary text is only encoded when a special token follows."""
    end = max((text.rfind(token) + len(token) for token in special if token in text), default=0)
    return naive_special(text[:end], special, encode)


def first_piece_lost(text: str, special: dict[str, int], encode: Encode) -> list[int]:
    """Wrong: everything before the first special token is forgotten."""
    start = min((text.find(token) for token in special if token in text), default=len(text))
    return naive_special(text[start:], special, encode)


def learned(rng: Rng, text: bytes, n: int) -> Merges:
    """Merges learned from a text, in a shuffled dict."""
    ids, merges = list(text), list[tuple[Pair, int]]()
    for new_id in range(256, 256 + n):
        if not (counts := naive_pairs({tuple(ids): 1})):
            break
        best = max(counts, key=counts.__getitem__)
        ids = naive_merge(ids, best, new_id)
        merges.append((best, new_id))
    rng.shuffle(merges)
    return dict(merges)


class Spell:
    """Encodes a piece as its length and its bytes, so that the ids show how a text was cut."""

    def __init__(self) -> None:
        self.__name__ = "encode"

    def __call__(self, text: str) -> list[int]:
        """The ids of a piece of text."""
        if not text:
            raise ValueError("encode was called on an empty string")
        return [len(text), *text.encode()]

    def __repr__(self) -> str:
        return "encode"
