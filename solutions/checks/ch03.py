"""Checks of chapter 3: a naive reference, known mistakes and checks for each exercise."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

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


PACKAGES = ("myllm.tokenizers.*", "tiktoken.*", "tokenizers.*")


pairs_exam = Exam(
    "03.1",
    naive_pairs,
)


pairs_exam.example(1, ({(1, 2, 3): 5, (2, 3): 1},), {(1, 2): 5, (2, 3): 6})


@pairs_exam.oracle(
    1.5,
    "every word counted once",
    "a pair counted once a word",
    "only every second pair counted",
    "the count of the last word that holds the pair",
    "both orders of a pair counted as one",
    "the last pair of each word left out",
    "pairs that reach from one word into the next",
    mistakes={
        "overlapping pairs left out": (
            lambda words: weighted(words, without_overlap),
            "Nothing is used up while you count: three equal ids have two neighbouring places.",
        )
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


def overlapping(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Wrong: an id may go into two merges."""
    at = places(ids, pair)
    return [new_id if i in at else old for i, old in enumerate(ids) if i in at or i - 1 not in at]


merge_exam = Exam(
    "03.2",
    naive_merge,
)


merge_exam.example(0.5, ([1, 2, 3, 1, 2], (1, 2), 9), [9, 3, 9])


merge_exam.example(0.5, ([7, 7, 7], (7, 7), 9), [9, 7])


@merge_exam.oracle(
    2,
    "the second id of the pair left behind",
    "merging from right to left",
    "only the first occurrence merged",
    "the last id lost",
    "both orders of the pair merged",
    mistakes={
        "overlapping pairs merged twice": (
            overlapping,
            "An id that has gone into a merge is used up. How far do you go on after a merge?",
        )
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
    yield [int("700"), int("800"), 3], (int("700"), int("800")), 900  # equal numbers, other objects


merge_exam.conduct(0.5, *PACKAGES)


# 03.3


Merges = dict[Pair, int]


def naive_encode(chunk: bytes, merges: Merges) -> list[int]:
    """Apply all merges once, in the order they were learned."""
    ids = list(chunk)
    for new_id, pair in sorted((new_id, pair) for pair, new_id in merges.items()):
        ids = naive_merge(ids, pair, new_id)
    return ids


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
)


encode_exam.example(1, (b"abc", {(97, 98): 257, (98, 99): 256}), [97, 256])


@encode_exam.oracle(
    2,
    "the leftmost pair merged first",
    "the leftmost pair merged first, wherever it occurs",
    "the most frequent pair merged first",
    "the highest new id merged first",
    "the pair with the smallest ids merged first",
    "only one merge made",
    "the merges tried in the order of the dict",
    "pairs with new ids never merged",
    "no merge at all",
    mistakes={
        "the longest token taken from the left": (
            longest,
            "Encoding repeats the training, merge by merge. Which merge was learned first?",
        )
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


special_exam = Exam(
    "03.4",
    naive_special,
)


special_exam.example(1, ("hi<|end|>", {"<|end|>": 300}, Spell()), [2, 104, 105, 300])


@special_exam.oracle(
    2,
    "special tokens encoded as ordinary text",
    "a shorter special token found first",
    "special tokens read as regular expressions",
    "special tokens left out",
    "encode called on empty strings",
    "the spaces around special tokens removed",
    "the text after the last special token lost",
    "the text before the first special token lost",
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
    "encode called on an empty text",
    mistakes={
        "the longest token of the whole text cut first": (
            longest_first,
            "Read from left to right: a long token only wins over those that start at the same place.",
        )
    },
)
def bare_texts(rng: Rng) -> Iterator[tuple[str, dict[str, int], Encode]]:
    """No text, no tokens, nothing but tokens, tokens that overlap."""
    spell = Spell()
    yield from [("", {}, spell), ("", {"<s>": 300}, spell), ("a <s>\n", {}, spell)]
    yield "<s>" * rng.randint(2, 5), {"<s>": rng.randint(300, 400)}, spell
    yield "<s>", {"<s>": 0}, spell
    yield "<S> <s> <S>", {"<s>": 300}, spell
    yield "abcd", {"ab": 300, "bcd": 301}, spell


special_exam.conduct(0.5, *PACKAGES)
