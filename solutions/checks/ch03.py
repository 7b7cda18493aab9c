"""Checks of chapter 3: a naive reference, known mistakes and checks for each exercise."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import Any, ClassVar

from myllm.grading.exam import UNTIDY, Exam, Function, Rng, Spell, expect, same
from myllm.grading.meters import WatchedDict
from myllm.grading.verdicts import VerdictExam

Pair = tuple[int, int]
Merges = dict[Pair, int]
Words = dict[tuple[int, ...], int]
PACKAGES = ("myllm.tokenizers.*", "tiktoken.*", "tokenizers.*")


def naive_pairs(words: Words) -> dict[Pair, int]:
    """Add up the pairs one after the other."""
    total = Counter[Pair]()
    for word, n in words.items():
        for pair in pairwise(word):
            total[pair] += n
    return dict(total)


def naive_merge(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Replace the first occurrence, then do the same with what is right of it."""
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new_id, *naive_merge(ids[i + 2 :], pair, new_id)]
    return list(ids)


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


# 03.1


class Coin:
    """Answers for ``drop``, from a list and then from a generator; a copy gives the same answers again."""

    def __init__(self, share: float, seed: int, *answers: bool) -> None:
        self.__name__ = "drop"
        self.share, self.rng, self.answers, self.calls = share, Rng(seed), [*answers], 0

    def __call__(self) -> bool:
        """Whether a place is left out."""
        self.calls += 1
        return self.answers.pop(0) if self.answers else self.rng.random() < self.share

    def __repr__(self) -> str:
        return f"drop, true {self.share:.0%} of the time"


def naive_dropout(chunk: bytes, merges: Merges, drop: Callable[[], bool], /) -> list[int]:
    """Decide about every place first, then try the merges in the order they were learned."""
    ids = list(chunk)
    while True:
        left = [pair if pair in merges and not drop() else None for pair in pairwise(ids)]
        for pair in sorted(merges, key=merges.__getitem__):
            if pair in left:
                i = left.index(pair)
                ids = [*ids[:i], merges[pair], *ids[i + 2 :]]
                break
        else:
            return ids


dropout_exam = Exam("03.1", naive_dropout)


dropout_exam.example(1, (b"abab", {(97, 98): 256}, Coin(0, 0, True, False, True)), [97, 98, 256])


@dropout_exam.oracle(2)
def random_coins(rng: Rng) -> Iterator[tuple[bytes, Merges, Coin]]:
    """Merges learned from random text; few and many places dropped."""
    for size, share in ((2, 0.3), (3, 0.5), (3, 0.2), (4, 0.7), (2, 0.5)):
        letters = rng.sample(range(256), size)
        known = learned(rng, bytes(rng.choices(letters, k=150)), 10 * size)
        yield bytes(rng.choices(letters, k=24)), known, Coin(share, rng.getrandbits(32))


@dropout_exam.edge(1)
def extreme_coins(rng: Rng) -> Iterator[tuple[bytes, Merges, Coin]]:
    """No byte, one byte, no merges, runs, bytes that are no text; nothing dropped and everything."""
    a, b = rng.sample(range(256), 2)
    seed = rng.getrandbits(32)
    for share in (0.0, 1.0, 0.5):
        yield b"", {(a, b): 256}, Coin(share, seed)
        yield bytes([a]), {(a, a): 256}, Coin(share, seed)
        yield bytes([a, b, a]), {}, Coin(share, seed)
        yield bytes([a] * rng.randint(4, 8)), {(256, 256): 257, (a, a): 256}, Coin(share, seed)
        yield bytes([b, a, b]), {(b, a): 257, (a, b): 256}, Coin(share, seed)


@dropout_exam.property(1)
def without_dropout(f: Function, rng: Rng) -> None:
    """Where nothing is dropped the ids are those of the chapter; where everything is, they are the bytes."""
    merges = learned(rng, bytes(rng.choices(b"abcd", k=200)), 25)
    for length in (1, 7, 30):
        chunk = bytes(rng.choices(b"abcde", k=length))
        ids = list(chunk)
        for new_id, pair in sorted((new_id, pair) for pair, new_id in merges.items()):
            ids = naive_merge(ids, pair, new_id)
        same(f(chunk, merges, lambda: False), ids, f"{chunk!r} with nothing dropped")
        same(f(chunk, merges, lambda: True), list(chunk), f"{chunk!r} with everything dropped")


@dropout_exam.cost(0.5)
def looked_up(f: Function, rng: Rng) -> None:
    """Encoding a short chunk does not go through all merges."""
    merges = WatchedDict({(i % 256, i): i + 256 for i in range(rng.randint(2000, 3000))})
    f(b"abcdefgh", merges, lambda: False)
    read = merges.read - len(merges)  # once by the fence, to see whether they were changed
    expect(read < len(merges), f"all {len(merges)} merges were gone through for a chunk of 8 bytes.")


dropout_exam.conduct(0.5, *PACKAGES)


# 03.2


Step = tuple[Words, dict[Pair, int], Pair, int]


def naive_step(words: Words, counts: dict[Pair, int], pair: Pair, new_id: int, /) -> tuple[Words, Merges]:
    """What the other words contribute stays; what these contribute is counted before and after."""
    merged = {tuple(naive_merge(list(word), pair, new_id)): n for word, n in words.items()}
    total = Counter(counts)
    total.subtract(naive_pairs(words))
    total.update(naive_pairs(merged))
    return merged, {each: n for each, n in total.items() if n}


def step(rng: Rng, pair: Pair, ids: list[int], n: int) -> Step:
    """Words that hold a pair, some that have lost it, and counts that other words take part in."""
    text = {tuple(rng.choices(ids, k=rng.randint(1, 9))): rng.randint(2, 30) for _ in range(n)}
    listed = {word: times for word, times in text.items() if pair in pairwise(word) or rng.random() < 0.3}
    # Equal numbers that are not one object: large ints must be compared by their value.
    return listed, naive_pairs(text), (int(str(pair[0])), int(str(pair[1]))), max(ids) + rng.randint(1, 9)


step_exam = Exam("03.2", naive_step)


class HalfFixed:
    """The faulty step of the specification, with some of its faults left in."""

    LABELS: ClassVar = {
        "once": ("every word taken for one occurrence", "A word that occurs n times counts n times."),
        "left": (
            "the left neighbour as it was before the merge",
            "In (1, 2, 1, 2) the second merge has the new id on its left: look at the list that you build.",
        ),
        "lost": ("words lost in which nothing was merged", "Keep a word without the pair, as it is."),
        "zero": ("pairs with a count of 0", "See *Returns*: what no longer occurs is left out."),
    }

    def __init__(self, *faults: str) -> None:
        self.faults = faults

    def __call__(self, words: Words, counts: dict[Pair, int], pair: Pair, new_id: int, /) -> Any:
        """The faulty result."""
        merged, counts = dict[Any, int](), Counter(counts)
        for ids, n in words.items():
            new, n_counted = list[int](), 1 if "once" in self.faults else n
            for i, one in enumerate(ids):
                if new and (new[-1], one) == pair:
                    for at in [ids[i - 2]] * (i >= 2) if "left" in self.faults else new[-2:-1]:
                        counts[at, pair[0]] -= n_counted
                        counts[at, new_id] += n_counted
                    for at in ids[i + 1 : i + 2]:
                        counts[pair[1], at] -= n_counted
                        counts[new_id, at] += n_counted
                    new[-1] = new_id
                else:
                    new.append(one)
            if "lost" not in self.faults or new != [*ids]:
                merged[tuple(new)] = n
        del counts[pair]
        return merged, {each: n for each, n in counts.items() if n or "zero" in self.faults}

    @classmethod
    def all(cls) -> dict[str, tuple[Function, str]]:
        """Every choice of one to three faults; with the first two, a third one can hide."""
        chosen = [some for n in (1, 2, 3) for some in combinations(cls.LABELS, n)]
        chosen = [some for some in chosen if len(some) < 3 or some[:2] != ("once", "left")]
        told = [[*zip(*(cls.LABELS[one] for one in some), strict=True)] for some in chosen]
        return {
            " and ".join(labels): (cls(*some), " ".join(hints))
            for some, (labels, hints) in zip(chosen, told, strict=True)
        }


step_exam.example(
    1, ({(1, 2, 3): 5}, {(1, 2): 5, (2, 3): 6}, (1, 2), 9), ({(9, 3): 5}, {(2, 3): 1, (9, 3): 5})
)


@step_exam.oracle(2.5, mistakes=HalfFixed.all())
def random_steps(rng: Rng) -> Iterator[Step]:
    """Pairs of two ids and of one id twice, in words over few ids, so that merges touch each other."""
    x, y, z = rng.sample(range(300, 5000), 3)
    yield (
        {(x, y, x, y): 2, (z, x, y, z): 3, (z, z): 4},
        {(x, y): 7, (y, x): 9, (z, x): 3, (y, z): 4, (z, z): 6},
        (x, y),
        5000,
    )
    for pair in ((x, y), (x, x), (y, x)):
        yield step(rng, pair, [x, y, z], 12)
        yield step(rng, pair, [x, y], 30)


@step_exam.edge(1, "an error where the pair is gone already", "ids cut to 32 bits")
def border_steps(rng: Rng) -> Iterator[Step]:
    """No word; words that have all lost the pair; runs; the id 0; ids and numbers of any size."""
    x, y = rng.sample(range(1, 300), 2)
    yield {}, {(x, y): 3}, (y, x), 300
    yield {(x,): 3, (y, x, x): 2}, {(y, x): 2, (x, x): 5}, (x, y), 300
    for length in range(2, 8):
        yield {(x,) * length: 3}, {(x, x): 3 * length - 3, (x, y): 1}, (x, x), 300
    yield {(0, 0, 0, y): 2}, {(0, 0): 4, (0, y): 2}, (0, 0), 300
    big = 2**40
    yield {(big, y, big, y): 2}, {(big, y): 4, (y, big): 2}, (int(str(big)), y), big + 1
    yield {(x, y, x, y): big + 1}, {(x, y): 2 * big + 2, (y, x): 2**60 + 1}, (x, y), 300


@step_exam.property(1.5)
def whole_training(f: Function, rng: Rng) -> None:
    """Merge after merge, the counts are those of a new count of the text."""
    text: Words = {
        tuple(rng.choices(range(97, 101), k=rng.randint(2, 10))): rng.randint(1, 9) for _ in range(15)
    }
    counts = naive_pairs(text)
    for new_id in range(256, 256 + 6):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        held = {word: n for word, n in text.items() if best in pairwise(word)}
        merged, corrected = f(held, counts, best, new_id)
        wanted = naive_step(held, counts, best, new_id)
        same(merged, wanted[0], f"the words after merge {new_id} of {best}")
        same(corrected, wanted[1], f"the counts after merge {new_id} of {best}")
        text = {word: n for word, n in text.items() if word not in held} | wanted[0]
        counts = wanted[1]


step_exam.conduct(1, *PACKAGES)


# 03.3

Encoder = Callable[[bytes, Merges], Any]


class Remembering:
    """An encoder that keeps the ids of what ``key`` makes of its arguments."""

    def __init__(self, key: Callable[[bytes, Merges], Any]) -> None:
        self.key, self.memory = key, dict[Any, list[int]]()

    def __call__(self, chunk: bytes, merges: Merges) -> list[int]:
        """The ids, which were perhaps found before."""
        return self.memory.setdefault(self.key(chunk, merges), replayed(chunk, merges))[:]


def replayed(chunk: bytes, merges: Merges, rounds: int = 99) -> list[int]:
    """Every merge once, in the order they were learned; the first ``rounds`` of them."""
    ids = list(chunk)
    for pair in sorted(merges, key=merges.__getitem__)[:rounds]:
        ids = naive_merge(ids, pair, merges[pair])
    return ids


def chosen(
    chunk: bytes, merges: Merges, key: Callable[[int, int, int], Any], places: int = 99, again: bool = True
) -> list[int]:
    """Round by round the pair with the smallest key of (its id, its place, how often it occurs)."""
    ids = list(chunk)
    while known := [
        (merges[pair], i, [*pairwise(ids)].count(pair))
        for i, pair in enumerate(pairwise(ids))
        if pair in merges
    ]:
        _, i, _ = min(known, key=lambda one: key(*one))
        pair = ids[i], ids[i + 1]
        if places == 1:
            ids[i : i + 2] = [merges[pair]]
        else:
            ids = naive_merge(ids, pair, merges[pair])
        if not again:
            break
    return ids


def backwards(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: each pair from right to left."""
    ids = list(chunk)[::-1]
    for pair in sorted(merges, key=merges.__getitem__):
        ids = naive_merge(ids, (pair[1], pair[0]), merges[pair])
    return ids[::-1]


def popped(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: uses the merges up."""
    ids = list(chunk)
    while merges:
        pair = min(merges, key=merges.__getitem__)
        ids = naive_merge(ids, pair, merges.pop(pair))
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


def in_dict_order(chunk: bytes, merges: Merges) -> list[int]:
    """Wrong: the merges in the order of the dict."""
    ids = list(chunk)
    for pair in merges:
        ids = naive_merge(ids, pair, merges[pair])
    return ids


def bytes_for(text: bytes) -> Encoder:
    """Wrong: one chunk is not merged."""
    return lambda chunk, merges: list(chunk) if chunk == text else replayed(chunk, merges)


RIGHT: dict[str, Encoder] = {
    "right_round_by_round": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: new),
    "right_merge_by_merge": replayed,
    "right_place_by_place": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: (new, i), 1),
    "right_with_a_cache": Remembering(lambda chunk, merges: (chunk, *sorted(merges.items()))),
    "right_with_methods_of_bytes": lambda chunk, merges: replayed(chunk.ljust(0), merges),
}
ORDERS: dict[str, Encoder] = {
    "leftmost_pair_first": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: i),
    "most_frequent_pair_first": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: (-n, new)),
    "highest_id_first": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: -new),
    "one_round": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: new, again=False),
    "one_place": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: new, 1, again=False),
    "rightmost_place_first": lambda chunk, merges: chosen(chunk, merges, lambda new, i, n: (new, -i), 1),
    "first_merge_only": lambda chunk, merges: replayed(chunk, merges, 1),
    "merges_never_merged": lambda chunk, merges: replayed(
        chunk, {p: n for p, n in merges.items() if max(p) < 256}
    ),
    "from_right_to_left": backwards,
    "longest_token_from_the_left": longest,
    "in_the_order_of_the_dict": in_dict_order,
    "bytes_only": lambda chunk, merges: list(chunk),
    "last_id_lost": lambda chunk, merges: replayed(chunk, merges)[: max(1, len(chunk) - 1)],
}
FORMS: dict[str, Encoder] = {
    "in_the_order_of_the_dict": in_dict_order,
    "fails_on_nothing": lambda chunk, merges: [*replayed(chunk, merges)] if chunk[0] else [],
    "wrong_for_one_letter": lambda chunk, merges: (
        [min(pairwise(chunk), default=0)] if len(chunk) == 1 else replayed(chunk, merges)
    ),
    "bytes_for_a_list": lambda chunk, merges: tuple(replayed(chunk, merges)),
    "uses_the_merges_up": popped,
    "keeps_ids_by_chunk": Remembering(lambda chunk, merges: chunk),
    "only_three_letters_merged": lambda chunk, merges: replayed(chunk[:3], merges) + list(chunk[3:]),
    "runs_merged_once": lambda chunk, merges: (
        replayed(chunk, merges) if len({*chunk}) != 1 else replayed(chunk[:2], merges) + list(chunk[2:])
    ),
    **{f"wrong_for_{text.decode()}": bytes_for(text) for text in (b"ab", b"ba", b"aab", b"bab", b"bbbb")},
}


verdict_exam = VerdictExam("03.3", RIGHT)
verdict_exam.example(1, (verdict_exam.suspect("bytes_only", ORDERS["bytes_only"]),), False)
verdict_exam.reject("oracle", 2, ORDERS)
verdict_exam.reject("edge", 1.5, FORMS, "a test with one order of the dict", "a test of the number of ids")


@verdict_exam.property(1)
def tried(f: Function, rng: Rng) -> None:
    """A right encoder is called and accepted; a wrong one is rejected, whatever was tested before it."""
    encode = verdict_exam.suspect("right_merge_by_merge", replayed)
    same(f(encode), True, "is_encoder(a right encoder)")
    expect(encode.calls, "the encoder was never called")
    for name in ("leftmost_pair_first", "right_round_by_round", "keeps_ids_by_chunk"):
        encode = verdict_exam.suspect(name, (RIGHT | ORDERS | FORMS)[name])
        same(f(encode), name in RIGHT, f"is_encoder({name})")


verdict_exam.conduct(0.5, *PACKAGES)


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


@special_exam.oracle(2)
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
        same(f(before, special, spell), spell(before), f"{before!r}")
        same(f(after, special, spell), spell(after), f"{after!r}")
        text = before + token + after
        same(f(text, special, spell), [*spell(before), id, *spell(after)], f"{text!r}")


@special_exam.edge(
    1.5,
    "encode called on an empty text",
    "a text that was tidied up first",
    mistakes={
        "the longest token of the whole text cut first": (
            longest_first,
            "Read from left to right: a long token only wins over those that start at the same place.",
        )
    },
)
def bare_texts(rng: Rng) -> Iterator[tuple[str, dict[str, int], Encode]]:
    """No text, no tokens, nothing but tokens, tokens that overlap, an untidy text."""
    spell = Spell()
    yield from [("", {}, spell), ("", {"<s>": 300}, spell), ("a <s>\n", {}, spell)]
    yield "<s>" * rng.randint(2, 5), {"<s>": rng.randint(300, 400)}, spell
    yield "<s>", {"<s>": 0}, spell
    yield "<S> <s> <S>", {"<s>": 300}, spell
    yield "abcd", {"ab": 300, "bcd": 301}, spell
    yield UNTIDY + "\ufb01" + UNTIDY, {"\ufb01": 300, "fi": 301}, spell


special_exam.conduct(0.5, *PACKAGES)


# 03.5


Row = dict[str, Any]
Table = tuple[list[Row], int, int, bool, int, int, int]
Choice = tuple[int | None, dict[int, str]]


def naive_choice(
    rows: list[Row], n_bytes: int, width: int, tied: bool, budget: int, document: int, context: int, /
) -> Choice:
    """Rule by rule."""
    left, reasons = [*rows], dict[int, str]()

    def drop(rule: str, condition: Callable[[Row], bool]) -> None:
        for row in [row for row in left if condition(row)]:
            reasons[row["size"]] = rule
            left.remove(row)

    def bits(row: Row) -> float:
        return row["tokens"] * math.log(row["perplexity"]) / math.log(2) / n_bytes

    drop("memory", lambda row: sum(4 * width * row["size"] for _ in range(1 if tied else 2)) > budget)
    drop("context", lambda row: document * row["tokens"] > context * n_bytes)
    if not left:
        return None, reasons
    best = min(map(bits, left))
    drop("bits", lambda row: bits(row) > 1.01 * best)
    size = min(row["size"] for row in left)
    drop("size", lambda row: row["size"] != size)
    return size, reasons


def table(rng: Rng, tied: bool) -> Table:
    """A table in which every rule drops a size, with two sizes on a border."""
    n_bytes, width, base = 3000 * rng.randint(20, 40), 16 * rng.randint(2, 9), rng.uniform(2, 2.4)
    largest = rng.randint(4000, 6000)

    def row(size: int, bytes_per_token: float, bits: float) -> Row:
        tokens = round(n_bytes / bytes_per_token)
        return {"size": size, "tokens": tokens, "perplexity": 2 ** (base * bits * n_bytes / tokens)}

    rows = [
        row(300, 1.2, 1.5),
        row(512, 1.6, 0.95),  # too long for the context, although it needs few bits
        row(700, 2, 1.2),  # exactly as long as the context
        row(1024, 2.4, 1.02),
        row(1500, 2.5, 1.007),
        row(2100, 2.7, 1.004),
        row(3000, 2.9, 1),
        row(largest, 3, 1.05),  # exactly the budget
        row(largest + 1, 3.1, 0.9),  # the best, but too large
    ]
    budget = 4 * width * largest * (1 if tied else 2)
    return rng.sample(rows, len(rows)), n_bytes, width, tied, budget, 2000, 1000


vocabulary_exam = Exam("03.5", naive_choice)


vocabulary_exam.example(
    1,
    (
        [{"size": 300, "tokens": 10, "perplexity": 16.0}, {"size": 600, "tokens": 5, "perplexity": 32.0}],
        *(10, 8, True, 20000, 10, 10),
    ),
    (600, {300: "bits"}),
)


@vocabulary_exam.oracle(2.5)
def random_tables(rng: Rng) -> Iterator[Table]:
    """Tables in which each rule drops a size, tied and not."""
    for tied in (True, False, True):
        yield table(rng, tied)


@vocabulary_exam.edge(1.5, "the context looked at before the memory")
def border_tables(rng: Rng) -> Iterator[Table]:
    """No row, one row, no memory, no context, everything allowed, a document without bytes."""
    rows, n_bytes, width, tied, budget, document, context = table(rng, True)
    yield [], n_bytes, width, tied, budget, document, context
    yield rows[:1], n_bytes, width, tied, 10 * budget, document, 10 * context
    yield rows, n_bytes, width, tied, 0, document, context
    yield rows, n_bytes, width, tied, budget, document, 0
    yield rows, n_bytes, width, tied, 10 * budget, 0, 0
    yield rows, n_bytes, width, False, 10 * budget, document, 10 * context
    n = rng.randint(3, 9)  # documents of n + 1/2 tokens at 600 ids, which n tokens do not hold
    few = [{"size": size, "tokens": 300 * tokens, "perplexity": 9.0} for size, tokens in ((300, 4), (600, 1))]
    yield few, 600, 8, True, 10**9, 2 * n + 1, n
    yield [one | {"perplexity": 1.0} for one in few], 600, 8, True, 10**9, n, n  # no bits at all


@vocabulary_exam.property(1)
def order_of_the_table(f: Function, rng: Rng) -> None:
    """Every size but the chosen one has a reason, and the order of the rows does not matter."""
    rows, *rest = table(rng, False)
    for one in (rows, rows[::-1], sorted(rows, key=lambda row: row["size"])):
        same(f(one, *rest), naive_choice(one, *rest), "the choice")  # pyright: ignore[reportArgumentType]


vocabulary_exam.conduct(1, "myllm.evaluation.*")
