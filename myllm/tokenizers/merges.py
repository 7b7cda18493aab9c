"""The merges of byte-pair encoding, learned from text and applied to it.

Byte-pair encoding (Gage 1994; on bytes: Radford et al. 2019) starts from the 256 bytes and repeats: find
the most frequent pair of adjacent ids, give it the next free id, replace it everywhere. Merges never cross a
chunk boundary, so the input is ``{chunk: count}``. Of equally frequent pairs, the smaller is merged first.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from myllm.files import UserError
from myllm.tokenizers.patterns import compile_pattern, well_formed

Pair = tuple[int, int]


def count_chunks(texts: Iterable[str], pattern: str) -> Counter[str]:
    """Split every text into chunks and count how often each occurs; one text is in memory at a time.

    Raises:
        UserError: An item of `texts` is not a string, or the pattern does not match every character.
    """
    split = compile_pattern(pattern).findall
    counts: Counter[str] = Counter()
    length = 0
    for text in texts:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"Training needs text (str), and was given {type(text).__name__}; decode it.")
        text = well_formed(text)
        counts.update(split(text))
        length += len(text)
    if length != sum(len(chunk) * n for chunk, n in counts.items()):
        raise UserError("The split pattern leaves characters out; add an alternative that matches the rest.")
    return counts


def train(
    chunks: Mapping[str, int], n_merges: int, *, on_merge: Callable[[], object] | None = None
) -> list[Pair]:
    """Learn merges, updating only the counts that each merge changes.

    Besides the count of the merged pair, a merge changes only those of its neighbouring pairs. So the counts
    are kept, along with the chunks that contain each pair, and the next pair comes from a heap, whose stale
    entries are discarded when popped. The merges are the same as if all pairs were recounted each time.

    Args:
        chunks: How often each chunk of the text occurs.
        n_merges: How many merges to learn; fewer are returned if the text runs out of pairs.
        on_merge: Called after each merge, for a progress bar.
    """
    words = [list(chunk.encode()) for chunk in chunks]
    weights = list(chunks.values())
    counts: dict[Pair, int] = defaultdict(int)
    holders: dict[Pair, set[int]] = defaultdict(set)  # pair -> words that contain it or used to
    for w, ids in enumerate(words):
        for pair in pairwise(ids):
            counts[pair] += weights[w]
            holders[pair].add(w)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        n, best = heapq.heappop(heap)
        if counts.get(best) != -n:
            continue  # stale: the count has changed, and its newer entry, if any, is in the heap
        left, right = best
        new_id = 256 + len(merges)
        change: dict[Pair, int] = defaultdict(int)
        for w in holders.pop(best):
            ids, weight = words[w], weights[w]
            i = 0
            while i < len(ids) - 1:
                if ids[i] == left and ids[i + 1] == right:
                    if i > 0:
                        before = ids[i - 1]
                        change[before, left] -= weight
                        change[before, new_id] += weight
                        holders[before, new_id].add(w)
                    if i + 2 < len(ids):
                        after = ids[i + 2]
                        change[right, after] -= weight
                        change[new_id, after] += weight
                        holders[new_id, after].add(w)
                    ids[i : i + 2] = [new_id]
                i += 1
        del counts[best]
        change.pop(best, None)  # only if left == right: "a a a" contains the pair twice
        for pair, difference in change.items():
            if difference:
                counts[pair] += difference
                if counts[pair] > 0:
                    heapq.heappush(heap, (-counts[pair], pair))
        merges.append(best)
        if on_merge:
            on_merge()
    return merges


def encode_chunk(chunk: bytes, merges: Mapping[Pair, int]) -> list[int]:
    """Encode one chunk: merge the pair with the lowest new id, the leftmost first, until none can be merged.

    The ids form a linked list, and a heap holds the possible merges, so that a chunk of n bytes takes
    O(n log n) steps. A heap entry is skipped if either of its ids has been merged in the meantime.

    Args:
        chunk: The bytes of one chunk.
        merges: The id that each pair of ids merges into, always higher than both.
    """
    ids = list(chunk)  # -1 where an id has been merged into the one before it
    after = [*range(1, len(ids)), -1]
    before = [*range(-1, len(ids) - 1)]
    heap: list[Pair] = []

    def consider(i: int) -> None:
        if i >= 0 and after[i] >= 0 and (new_id := merges.get((ids[i], ids[after[i]]))) is not None:
            heapq.heappush(heap, (new_id, i))

    for i in range(len(ids)):
        consider(i)
    while heap:
        new_id, i = heapq.heappop(heap)
        j = after[i]
        if j < 0 or merges.get((ids[i], ids[j])) != new_id:
            continue
        ids[i], ids[j] = new_id, -1
        after[i] = k = after[j]
        if k >= 0:
            before[k] = i
        consider(before[i])
        consider(i)
    return [i for i in ids if i >= 0]
