"""Checks of chapter 3: a naive reference, known mistakes and checks for each exercise."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from myllm.grading.compare import kind
from myllm.grading.exam import Exam, Function, Rng, Spell, expect, same
from myllm.grading.meters import WatchedDict, WatchedTuple

# 03.1


Pair = tuple[int, int]


Words = dict[tuple[int, ...], int]


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


PACKAGES = ("myllm.tokenizers.*", "tiktoken.*", "tokenizers.*")


pairs_exam = Exam(
    "03.1",
    naive_pairs,
    hints=(
        "Take a single word first: `zip(word, word[1:])` gives its neighbours. "
        "By how much does each of them raise a count, when the word occurs 5 times?",
        "The section on counting pairs runs this count over a small text. Look at what `n` does there.",
        "counts = empty dict\n"
        "for each word and its number n:\n"
        "    for each neighbouring (left, right) in the word:\n"
        "        counts[left, right] = what stands there so far, or 0, plus n",
    ),
)


pairs_exam.example(1, ({(1, 2, 3): 5, (2, 3): 1},), {(1, 2): 5, (2, 3): 6})


@pairs_exam.oracle(
    1.5,
    mistakes={
        "every word counted once": (
            lambda words: naive_pairs(dict.fromkeys(words, 1)),
            "What do the values of `words` say?",
        ),
        "a pair counted once a word": (
            lambda words: weighted(words, lambda word: list(dict.fromkeys(pairwise(word)))),
            "A pair can stand at several places of one word; count every place.",
        ),
        "overlapping pairs left out": (
            lambda words: weighted(words, without_overlap),
            "Nothing is used up while you count: three equal ids have two neighbouring places.",
        ),
        "both orders of a pair counted as one": (
            lambda words: weighted(words, unordered),
            "(1, 2) and (2, 1) are two different pairs.",
        ),
        "only every second pair counted": (
            lambda words: weighted(words, every_second),
            "Pairs overlap: each id but the ends is the right one of a pair and the left one of another.",
        ),
        "the count of the last word that holds the pair": (
            last_word_only,
            "The same pair occurs in several words: does your assignment keep what was counted before?",
        ),
        "the last pair of each word left out": (
            lambda words: weighted(words, lambda word: list(pairwise(word))[:-1]),
            "A word of n ids has n - 1 pairs; look at where your loop ends.",
        ),
        "pairs that reach from one word into the next": (
            lambda words: dict(Counter(pairwise(i for word, n in words.items() for i in word * n))),
            "Do not join the words: each is counted by itself.",
        ),
    },
)
def random_words(rng: Rng) -> Iterator[tuple[Words]]:
    """A small case with everything in it, then random words over few ids."""
    x, y, z = rng.sample(range(300), 3)
    yield ({(x, y, x, y): 2, (z, x, y): 3, (z, z, z): 4, (y, z): 1},)
    for size in (2, 4, 9):
        words = [tuple(rng.choices(range(97, 97 + size), k=rng.randint(2, 12))) for _ in range(4 * size)]
        yield ({word: rng.randint(1, 50) for word in words},)


@pairs_exam.property(0.5)
def all_places(f: Function, rng: Rng) -> None:
    """The counts add up to the neighbouring places of the text: n - 1 in each word of n ids."""
    words = {tuple(rng.choices(range(5), k=rng.randint(2, 9))): rng.randint(1, 99) for _ in range(20)}
    found = f(words)
    expect(isinstance(found, dict), f"the result is {kind(found)}")
    same(
        sum(found.values()),
        sum(n * (len(word) - 1) for word, n in words.items()),
        "the sum of your counts",
    )


@pairs_exam.edge(1)
def short_words(rng: Rng) -> Iterator[tuple[Words]]:
    """No word, words without a pair, one id only, the id 0."""
    x = rng.randrange(1, 300)
    yield from [({},), ({(): 3, (x,): 2},), ({(x, x): 1},), ({(0, 0, 0, 0): 2, (0, x): 1, (x,): 9},)]


@pairs_exam.cost(0.5)
def read_once(f: Function, rng: Rng) -> None:
    """A word is read once, however often it occurs."""
    word, times = WatchedTuple(rng.choices(range(9), k=8)), rng.randint(500, 1000)
    WatchedTuple.read = 0
    f({word: times})
    expect(
        WatchedTuple.read <= 8 * len(word),
        f"a word that occurs {times} times was read {WatchedTuple.read // len(word)} times.",
    )


pairs_exam.conduct(0.5, *PACKAGES)


# 03.2


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


merge_exam = Exam(
    "03.2",
    naive_merge,
    hints=(
        "After a merge, where does the next pair begin? A `for` loop over all places cannot leave one out.",
        "The section on merging walks through a list with an index of its own. Try [7, 7, 7] on paper.",
        "i = 0\n"
        "while i is inside the list:\n"
        "    if ids[i] and a next id are the pair: append new_id, go on by two\n"
        "    else: append ids[i], go on by one",
    ),
)


merge_exam.example(0.5, ([1, 2, 3, 1, 2], (1, 2), 9), [9, 3, 9])


merge_exam.example(0.5, ([7, 7, 7], (7, 7), 9), [9, 7])


@merge_exam.oracle(
    2,
    mistakes={
        "overlapping pairs merged twice": (
            overlapping,
            "An id that has gone into a merge is used up. How far do you go on after a merge?",
        ),
        "the second id of the pair left behind": (
            second_kept,
            "The new id takes the place of *two* ids. How far do you go on after a merge?",
        ),
        "merging from right to left": (
            from_the_right,
            "In a run of three equal ids, which two belong together? Look at the direction of your loop.",
        ),
        "only the first occurrence merged": (first_only, "What happens after your first merge?"),
        "the last id lost": (
            last_lost,
            "The last id has no right neighbour, but it belongs to the result. Look at where your loop ends.",
        ),
        "both orders of the pair merged": (
            either_order,
            "The pair has a left and a right id; compare in this order.",
        ),
    },
)
def random_ids(rng: Rng) -> Iterator[tuple[list[int], Pair, int]]:
    """Small cases in which every mistake shows, then longer lists over three ids."""
    x, y, z, new = rng.sample(range(400), 4)
    yield [x, y, z, x, y], (x, y), new
    yield [y, x, y, z], (x, y), new
    yield [x, x, x, z, x, x], (x, x), new
    for length in (12, 40):
        yield rng.choices((x, y, z), k=length), (x, y), new
        yield rng.choices((x, y), k=length), (x, x), new


@merge_exam.property(0.5)
def spelled_out(f: Function, rng: Rng) -> None:
    """With each new id spelled out as its pair, the list is the old one; and no pair is left over."""
    ids = rng.choices((1, 2), k=12)
    for pair in ((1, 2), (2, 2)):
        found = f(ids, pair, 3)
        expect(isinstance(found, list), f"the result is {kind(found)}")
        spelled = [old for i in found for old in (pair if i == 3 else (i,))]
        same(spelled, ids, f"{ids} with {pair} merged, then spelled out")
        expect(pair not in pairwise(found), f"{pair} can still be merged in {found}")


@merge_exam.edge(1)
def short_lists(rng: Rng) -> Iterator[tuple[list[int], Pair, int]]:
    """Nothing to merge, everything merged, ids whose digits look like others."""
    yield from [([], (1, 2), 9), ([1], (1, 2), 9), ([1, 2], (1, 2), 9), ([2, 1], (1, 2), 9), ([1], (1, 1), 9)]
    yield [0, 0, 0, 0, 0], (0, 0), rng.randrange(256, 999)
    yield [11, 2, 1, 21, 1, 2, 12], (1, 2), 300


merge_exam.conduct(0.5, *PACKAGES)


# 03.3


Merges = dict[Pair, int]


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


encode_exam = Exam(
    "03.3",
    naive_encode,
    hints=(
        "Several pairs of the chunk may be in `merges`. Which of them was learned first? After it is merged, "
        "are there new pairs?",
        "The section on encoding says which merge comes first, and why. Your `merge` does one step; what is "
        "left is to choose the pair, and to know when to stop.",
        "ids = the bytes as a list\n"
        "repeat:\n"
        "    known = the neighbouring pairs of ids that are in merges\n"
        "    none: return ids\n"
        "    best = the one of known whose new id is lowest\n"
        "    ids = merge(ids, best, its new id)",
    ),
)


encode_exam.example(1, (b"abc", {(97, 98): 257, (98, 99): 256}), [97, 256])


@encode_exam.oracle(
    2,
    mistakes={
        "the leftmost pair merged first": (
            leftmost,
            "Where a pair stands does not matter. What decides which merge comes first?",
        ),
        "the leftmost pair merged first, wherever it occurs": (
            leftmost_everywhere,
            "Where a pair stands does not matter. What decides which merge comes first?",
        ),
        "the longest token taken from the left": (
            longest,
            "Encoding repeats the training, merge by merge. Which merge was learned first?",
        ),
        "the most frequent pair merged first": (
            most_frequent,
            "Frequency decided while the merges were learned. Now their new ids say which comes first.",
        ),
        "the highest new id merged first": (
            lambda chunk, merges: chosen(chunk, merges, lambda pair, ids: -merges[pair]),
            "Is a merge with a high id one that was learned early, or late?",
        ),
        "the pair with the smallest ids merged first": (
            lambda chunk, merges: chosen(chunk, merges, lambda pair, ids: pair),
            "Look at what your minimum compares: the pairs, or the new ids that they turn into?",
        ),
        "the merges tried in the order of the dict": (
            dict_order,
            "The specification promises no order. What says which merge was learned first?",
        ),
        "only one merge made": (
            lambda chunk, merges: chosen(chunk, merges, lambda pair, ids: merges[pair], rounds=1),
            "After a merge there are new neighbours. When is the work done?",
        ),
        "pairs with new ids never merged": (
            bytes_only,
            "After a merge the list has pairs that it did not have before; look them up again.",
        ),
        "no merge at all": (
            lambda chunk, merges: list(chunk),
            "Is anything in `merges` found? Print a pair you look up.",
        ),
    },
)
def random_chunks(rng: Rng) -> Iterator[tuple[bytes, Merges]]:
    """Small cases in which every mistake shows, then merges learned from random text."""
    a, b, c = sorted(rng.sample(range(97, 123), 3))
    merges = {(a, b): 257, (b, c): 256}
    yield bytes([a, b, c]), merges
    yield bytes([a, b, c, a, b]), merges
    yield bytes([a, b, c]), {(a, b): 258, (b, c): 256, (a, 256): 257}
    yield bytes([b, a, b]), {(a, b): 257, (b, a): 256}
    yield bytes([b, a, b]), {(b, a): 257, (a, b): 256}
    yield bytes([a, b, c, a, b, c, a, b]), {(257, 257): 258, (a, b): 256, (256, c): 257}
    yield bytes([c, c, c, b, c, c]), {(c, c): 256, (256, 256): 257, (256, c): 258}
    for size in (2, 3, 4):
        letters = rng.sample(range(256), size)
        known = learned(rng, bytes(rng.choices(letters, k=150)), 10 * size)
        yield bytes(rng.choices(letters, k=15 * size)), known


@encode_exam.property(1)
def same_bytes(f: Function, rng: Rng) -> None:
    """The ids spell the bytes of the chunk, and no neighbouring pair can be merged any more."""
    merges = learned(rng, bytes(rng.choices(b"abcd", k=200)), 25)
    tokens = {i: bytes([i]) for i in range(256)}
    for new_id, (left, right) in sorted((new_id, pair) for pair, new_id in merges.items()):
        tokens[new_id] = tokens[left] + tokens[right]
    for length in (1, 7, 40):
        chunk = bytes(rng.choices(b"abcde", k=length))
        found = f(chunk, merges)
        expect(isinstance(found, list), f"the result is {kind(found)}")
        unknown = [i for i in found if i not in tokens]
        expect(not unknown, f"{unknown[:3]} in the result are neither bytes nor new ids")
        same(b"".join(tokens[i] for i in found), chunk, "the bytes that your ids spell")
        left_over = [pair for pair in pairwise(found) if pair in merges]
        expect(not left_over, f"{left_over[:1]} can still be merged in {found}")


@encode_exam.edge(1)
def short_chunks(rng: Rng) -> Iterator[tuple[bytes, Merges]]:
    """No byte, one byte, no merges, runs, bytes that are no text."""
    a, b = rng.sample(range(256), 2)
    yield from [(b"", {}), (b"", {(a, b): 256}), (bytes([a]), {(a, a): 256}), (bytes([a, b, a]), {})]
    for length in range(2, 8):
        yield bytes([a] * length), {(256, 256): 257, (a, a): 256}
    yield bytes([0, 255, 0, 255]), {(0, 255): 256, (255, 0): 257}


@encode_exam.cost(0.5)
def looked_up(f: Function, rng: Rng) -> None:
    """Encoding a short chunk does not go through all merges."""
    merges = WatchedDict({(i % 256, i): i + 256 for i in range(rng.randint(2000, 3000))})
    f(b"abcdefgh", merges)
    read = merges.read - len(merges)  # once by the fence, to see whether they were changed
    expect(read < len(merges), f"all {len(merges)} merges were gone through for a chunk of 8 bytes.")


encode_exam.conduct(0.5, *PACKAGES)


# 03.4


Encode = Callable[[str], list[int]]


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


special_exam = Exam(
    "03.4",
    naive_special,
    hints=(
        "First only cut: which list of strings should come out of the text, special tokens among them? "
        "Then go through that list.",
        "The section on special tokens says what they are for; the cutting is yours. `re.split` keeps the "
        "separators when the pattern stands in parentheses. What is `re.escape` for? And which of `a|ab` and "
        "`ab|a` finds `ab`?",
        "no special tokens: one piece, the text\n"
        "pattern = the escaped tokens, longest first, joined by |, in parentheses\n"
        "for each piece of re.split(pattern, text):\n"
        "    a special token: append its id\n"
        "    not empty: append all ids of encode(piece)",
    ),
)


special_exam.example(1, ("hi<|end|>", {"<|end|>": 300}, Spell()), [2, 104, 105, 300])


@special_exam.oracle(
    2,
    mistakes={
        "special tokens encoded as ordinary text": (
            lambda text, special, encode: encode(text),
            "Are the tokens found at all? Print the pieces before you encode them.",
        ),
        "a shorter special token found first": (
            shortest_first,
            "Where one token begins with another, which of them does your search try first?",
        ),
        "special tokens read as regular expressions": (
            lambda text, special, encode: by_pattern(text, special, encode, escape=str),
            "Characters such as | [ ] ? have a meaning in a pattern; the tokens must be taken literally.",
        ),
        "special tokens left out": (
            lambda text, special, encode: by_pattern(text, special, encode, keep=False),
            "Where do the tokens go when you split? Compare the number of ids you expect.",
        ),
        "encode called on empty strings": (
            lambda text, special, encode: by_pattern(text, special, encode, empty=True),
            "What stands between two tokens that touch, or before a token that begins the text?",
        ),
        "the text after the last special token lost": (
            last_piece_lost,
            "When your loop ends, is there still a piece that was not encoded?",
        ),
        "the text before the first special token lost": (
            first_piece_lost,
            "Look at the piece in front of the first token.",
        ),
        "the spaces around special tokens removed": (
            lambda text, special, encode: by_pattern(text, special, encode, change=str.strip),
            "Spaces and line breaks are text, too; give each piece to `encode` unchanged.",
        ),
    },
)
def random_texts(rng: Rng) -> Iterator[tuple[str, dict[str, int], Encode]]:
    """Text before, between and after tokens that touch and that begin with one another."""
    spell, word = Spell(), "".join(rng.choices("abcde", k=3))
    yield f"{word} [A][B] {word}", {"[A]": 300, "[B]": 301}, spell
    yield f"{word} [A]b {word}", {"[A]": 300, "[A]b": 301}, spell
    special = {"<|a|>": 501, "<|a|>?": 500, "[END]": 502, "\n\n": 503, "é": 504}
    parts = [*special, " x", "b ", "A|", "|?", "🙂", "\n", "[E"]
    for length in (6, 12, 30):
        middle = "".join(rng.choices(parts, k=length))
        yield f"{word} <|a|>?{middle}[END] {word}", special, spell


@special_exam.property(1)
def side_by_side(f: Function, rng: Rng) -> None:
    """Between two texts a special token is one id; before and after it stand the ids of the texts."""
    special, spell = {"<s>": 300, "<s><s>": 301, "</s>": 302}, Spell()
    for token, id in special.items():
        before, after = ("".join(rng.choices("xyz s/", k=rng.randint(1, 9))) for _ in range(2))
        got = [f(text, special, spell) for text in (before + token + after, before, after)]
        expect(all(isinstance(one, list) for one in got), f"the result is {kind(got[0])}")
        same(got[0], [*got[1], id, *got[2]], f"{before + token + after!r}")
        same(got[1], spell(before), f"{before!r}")


@special_exam.edge(
    1.5,
    mistakes={
        "the longest token of the whole text cut first": (
            longest_first,
            "Read from left to right: a long token only wins over those that start at the same place.",
        ),
        "encode called on an empty text": (
            lambda text, special, encode: by_pattern(text, special, encode) if text else encode(text),
            "An empty text has no ids, and `encode` must not be asked.",
        ),
    },
)
def bare_texts(rng: Rng) -> Iterator[tuple[str, dict[str, int], Encode]]:
    """No text, no tokens, nothing but tokens, tokens that overlap."""
    spell = Spell()
    yield from [("", {}, spell), ("", {"<s>": 300}, spell), ("a <s>\n", {}, spell)]
    yield "<s>" * rng.randint(2, 5), {"<s>": rng.randint(300, 400)}, spell
    yield "<s>", {"<s>": 0}, spell
    yield "abcd", {"ab": 300, "bcd": 301}, spell


special_exam.conduct(0.5, *PACKAGES)
