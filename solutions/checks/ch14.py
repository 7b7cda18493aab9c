"""Checks of chapter 14: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.compare import show
from myllm.grading.exam import Exam, Function, Mistakes, Raised, Rng, expect, same
from myllm.grading.meters import effort


class WholeExam(Exam[...]):
    """An exam whose results are small enough to be shown as a whole."""

    def _differ(self, got: Any, expected: Any) -> str | None:
        problem = super()._differ(got, expected)
        if problem is None or isinstance(got, Raised) or isinstance(expected, Raised):
            return problem
        return f"expected {show(expected)}, got {show(got)}"


# 14.1

Ring = tuple[list[int], int, int, int]


def naive_evict(positions: list[int], new: int, window: int, sinks: int, /) -> tuple[list[int], list[int]]:
    """Token by token: look for the first slot whose position is not kept."""
    first = max(positions) + 1
    keep = {*range(sinks), *range(first + new - window, first + new)}
    keep.discard(-1)
    table, slots = [*positions], list[int]()
    for p in range(first, first + new):
        slots.append(next(i for i, held in enumerate(table) if held not in keep) if p in keep else -1)
        if p in keep:
            table[slots[-1]] = p
    return slots, [p if p in keep else -1 for p in table]


ring_exam = WholeExam("14.1", naive_evict)
ring_exam.example(1, ([0, 5, 1, 3, 4], 2, 3, 2), ([3, 4], [0, 5, 1, 6, 7]))


def ring(rng: Rng, window: int, sinks: int, length: int, removed: int = 0) -> list[int]:
    """The table after ``length`` tokens, of which the last ``removed`` were removed again, in any order."""
    kept = [p for p in range(length) if p < sinks or p >= length - window]
    kept = [p if p < length - removed else -1 for p in kept]
    kept += [-1] * (window + sinks - len(kept))
    return rng.sample(kept, len(kept))


@ring_exam.oracle(2)
def random_rings(rng: Rng) -> Iterator[Ring]:
    """Full and half-full tables; one new token, and fewer than the window."""
    for window, sinks, length, new in (
        (4, 2, 9, 1),
        (5, 3, 30, 2),
        (3, 2, 3, 2),
        (4, 1, 12, 3),
        (6, 2, 8, 4),
    ):
        yield ring(rng, window, sinks, length + rng.randint(0, 1)), new, window, sinks


@ring_exam.edge(
    1.5,
    "new tokens written that are evicted at once",
    "new tokens not kept that are among the first of the text",
)
def long_rings(rng: Rng) -> Iterator[Ring]:
    """More new tokens than the window holds, into full, half-full and empty tables."""
    for window, sinks, length in ((3, 2, 0), (3, 3, 1), (2, 2, 9), (4, 0, 6)):
        yield ring(rng, window, sinks, length), window + sinks + rng.randint(1, 3), window, sinks


@ring_exam.edge(1, "evicted positions left in the table")
def border_rings(rng: Rng) -> Iterator[Ring]:
    """Nothing new, no sinks, a window of one token, positions that are missing."""
    yield ring(rng, 3, 2, 8), 0, 3, 2
    yield ring(rng, 1, 0, 5), 1, 1, 0
    yield ring(rng, 1, 2, 7), 2, 1, 2
    yield ring(rng, 4, 2, 10, removed=2), 1, 4, 2
    yield ring(rng, 4, 1, 9, removed=3), 5, 4, 1
    yield [-1, -1, -1], 2, 2, 1
    yield [-1, p := rng.randint(5, 90), p - 3, -1], 1, 4, 0


@ring_exam.cost(0.5)
def far_out(f: Function, rng: Rng) -> None:
    """No loop over all positions of the text."""
    near, far = (effort(f, ring(rng, 3, 0, 5), 2, 3, 0), effort(f, [n := 10**5, n + 1, n - 1], 2, 3, 0))
    expect(far < near + 3000, "after 100,000 tokens, two new ones take far more work than after five")


# 14.2

Pairs = list[tuple[int, int]]
Draft = tuple[Pairs, Tensor, Tensor, list[float]]


def floats(x: Tensor) -> list[list[float]]:
    """The rows as Python's numbers."""
    return [[*map(float, row)] for row in x]


def naive_verify(draft_ids: Pairs, q: Tensor, p: Tensor, u: list[float], /) -> tuple[list[int], int]:
    """With Python's numbers, case by case."""
    numbers, tokens, drawn = [*u], list[int](), list[float]()
    wanted, drafts = floats(p), floats(q)

    def pick(weights: list[float]) -> int:
        number, below = numbers.pop(0), 0.0
        for id, weight in enumerate(weights):
            below += weight
            if below > number:
                return id
        return max(id for id, weight in enumerate(weights) if weight)

    def residual(weights: list[float]) -> list[float]:
        over = [max(0.0, a - b) for a, b in zip(weights, drawn, strict=True)]
        return [one / math.fsum(over) for one in over]

    for i, (one, two) in enumerate(draft_ids):
        drawn = drafts[i]
        if numbers.pop(0) >= wanted[i][one] / drawn[one]:
            rest = residual(wanted[i])
            if numbers.pop(0) < rest[two] / drawn[two]:
                return [*tokens, two], i + 1
            return [*tokens, pick(residual(rest))], i
        tokens.append(one)
    return [*tokens, pick(wanted[-1])], len(draft_ids)


verify_exam = WholeExam("14.2", naive_verify)
Q = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
P = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
verify_exam.example(1, ([(1, 1), (0, 1)], Q, P, [0.3, 0.0, 0.9, 0.2, 0.2]), ([1, 1], 2))


def distributions(rng: Rng, rows: int, V: int) -> Tensor:
    """Rows that sum to 1, in which about one of six entries is 0."""
    weights = rng.normal(rows, V, dtype=torch.float64).exp() * (rng.integers(0, 6, rows, V) > 0)
    weights[:, 0] += 0.1
    return weights / weights.sum(-1, keepdim=True)


def drafted(rng: Rng, k: int, V: int) -> Draft:
    """Distributions, candidates that follow them, and numbers."""
    q, p = distributions(rng, k, V), distributions(rng, k + 1, V)
    ids = [(rng.choices(range(V), row)[0], rng.choices(range(V), row)[0]) for row in floats(q)]
    return ids, q, p, [rng.uniform(0, 0.999) for _ in range(2 * k + 1)]


def ending(rng: Rng, tokens: int, accepted: int, k: int, V: int, times: int = 0) -> Draft:
    """A draft whose pass ends so, and not with the token that p minus ``times`` q would give."""
    while True:
        _, q, p, u = draft = drafted(rng, k, V)
        found, count = naive_verify(*draft)
        if (len(found), count) == (tokens, accepted):
            over = (p[0] - times * q[0]).clamp(min=0).cumsum(0) if times else p[0]
            if not times or found[0] != int((over <= u[-1] * over[-1]).sum()):
                return draft


@verify_exam.oracle(2.5)
def random_drafts(rng: Rng) -> Iterator[Draft]:
    """Passes that end at each place in each of the ways; small enough to be printed."""
    for end, times in (((1, 1), 0), ((1, 0), 1), ((1, 0), 2), ((2, 1), 0)):
        yield from (ending(rng, *end, k=1, V=4, times=times) for _ in range(4))
    for end in ((1, 1), (1, 0), (2, 2), (2, 1), (3, 2)):
        yield from (ending(rng, *end, k=2, V=3) for _ in range(3))


@verify_exam.edge(
    1,
    "a bonus token from q",
    "no token after a draft that is accepted as a whole",
    "a token sampled whose probability is 0",
)
def accepted_drafts(rng: Rng) -> Iterator[Draft]:
    """Only first candidates, all accepted; no draft at all."""
    for k, V in (*[(1, 4)] * 6, *[(2, 3)] * 3, (3, 6)):
        yield ending(rng, k + 1, k, k, V)
    ids, q, p, u = drafted(rng, 0, 5)
    yield ids, q, p, u
    yield ids, q, p.index_fill(1, torch.tensor([0]), 0.0), [0.0]


@verify_exam.edge(1, "a candidate accepted that the target excludes")
def border_drafts(rng: Rng) -> Iterator[Draft]:
    """Numbers that are 0, a target that is certain of its token, p equal to q, the same candidate twice."""
    for turn in range(3):
        _, q, p, u = drafted(rng, 2, 3)
        excluded = p.index_fill(1, torch.tensor([1, 2]), 0.0)
        yield [(1, 1), (2, 2)], q.fill_(1 / 3), excluded / excluded.sum(-1, keepdim=True), [0.0] * 5
        certain = torch.eye(3, dtype=torch.float64)[[turn, 2, 1]]
        yield [(turn, 0), (rng.choice([0, 1]), 2)], q, certain, u
        yield [(rng.randrange(3), rng.randrange(3)) for _ in range(2)], q, torch.cat([q, p[:1]]), u


@verify_exam.property(1.5)
def follows_the_target(f: Function, rng: Rng) -> None:
    """The first token of a pass follows p, whatever q is."""
    q, p = distributions(rng, 1, 4), distributions(rng, 2, 4)
    n, counts = 300, [0] * 4
    (drafts,), (shares, _) = floats(q), floats(p)
    for _ in range(n):
        one, two = rng.choices(range(4), drafts, k=2)
        found: Any = f([(one, two)], q, p, [rng.random() for _ in range(3)])
        expect(type(found) in (tuple, list) and len(found) == 2, "the result is no pair")
        expect(found[0] and found[0][0] in range(4), f"of 4 tokens, {found[0]!r} are none")
        counts[found[0][0]] += 1
    for id, (count, share) in enumerate(zip(counts, shares, strict=True)):
        spread = 5 * math.sqrt(share * (1 - share) / n) + 1e-9
        told = f"token {id} comes first in {count / n:.0%} of {n} passes, p gives it {share:.0%}"
        expect(abs(count / n - share) <= spread, told)


# 14.3

Texts = list[list[int]]
Batch = tuple["Tiny", Texts, list[int], int, int]
VOCABULARY = 12


class Tiny:
    """Two layers of attention, and embeddings of positions; either may be left out."""

    def __init__(self, rng: Rng, *, attends: bool = True, counts: bool = True) -> None:
        self.table, self.at = rng.normal(VOCABULARY, 8, dtype=torch.float64), rng.normal(64, 8).double()
        self.layers, self.head = rng.normal(2, 3, 8, 8).double(), rng.normal(8, VOCABULARY).double()
        self.attends, self.counts = attends, counts
        self.__name__ = "model" + "_without_attention" * (not attends) + "_without_positions" * (not counts)
        self.columns = list[int]()

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits and the new cache."""
        (B, T), before = ids.shape, 0 if cache is None else cache[0].shape[1]
        for name, found, shape in (("positions", positions, (B, T)), ("mask", mask, (B, T, before + T))):
            if tuple(found.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, not {tuple(found.shape)}")
        if positions.amin() < 0:
            raise ValueError(f"positions must be 0 or more, not {int(positions.amin())}")
        self.columns.append(T)
        x = self.table[ids] + self.at[positions] * self.counts
        kept = list[Tensor]()
        for layer, (query, key, value) in enumerate(self.layers):
            kept.append(x if cache is None else torch.cat([cache[layer], x], 1))
            scores = (x @ query) @ (kept[layer] @ key).mT / 4
            mixed = torch.softmax(scores.masked_fill(~mask, -1e9), -1) @ kept[layer] @ value
            x = torch.tanh(x / 2 + mixed * self.attends)
        return x @ self.head, kept


def alone(model: Tiny, prompts: Texts, limits: list[int], stop_id: int, pad_id: int, /) -> Texts:
    """Each prompt for itself, all of it computed again for each token."""
    texts: Texts = []
    for prompt, limit in zip(prompts, limits, strict=True):
        ids = [*prompt]
        while len(ids) < len(prompt) + limit:
            T = len(ids)
            causal = torch.ones(1, T, T, dtype=torch.bool).tril()
            logits, _ = model(torch.tensor([ids]), torch.arange(T)[None], causal, None)
            if (token := int(logits[0, -1].argmax())) == stop_id:
                break
            ids.append(token)
        texts.append(ids[len(prompt) :])
    return texts


batch_exam = WholeExam("14.3", alone)


def next_larger(ids: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """The model of the example."""
    return torch.nn.functional.one_hot(ids + 1, 10).double(), cache


batch_exam.example(0.5, (next_larger, [[7, 1], [3]], [2, 4], 5, 0), [[2, 3], [4]])


def batch(rng: Rng, lengths: list[int], limits: list[int], stops: bool = False, **leave_out: bool) -> Batch:
    """Prompts of which the longest has the padding id; if they stop, one does long before another."""
    while True:
        model = Tiny(rng, **leave_out)
        prompts = [[rng.randrange(VOCABULARY) for _ in range(n)] for n in lengths]
        pad_id = max(prompts, key=len)[len(max(prompts, key=len)) // 2]
        texts = alone(model, prompts, limits, -1, pad_id)
        if not stops:
            return model, prompts, limits, -1, pad_id
        for stop_id in {id for text in texts for id in text}:
            ends = [text.index(stop_id) if stop_id in text else len(text) for text in texts]
            early = min(ends)
            if 0 < early < max(ends) - 2 and any({*text[early + 1 :]} - {stop_id} for text in texts):
                return model, prompts, limits, stop_id, pad_id


@batch_exam.oracle(1.5)
def random_batches(rng: Rng) -> Iterator[Batch]:
    """Prompts of different lengths, texts that end at different times."""
    yield batch(rng, [3, 6, 2], [6, 6, 6])
    yield batch(rng, [5, 2, 4], [7, 5, 8], stops=True)
    yield batch(rng, [2, 7], [8, 8], stops=True)


@batch_exam.edge(
    1,
    "positions that count the padding",
    "positions that are right in the prompt only",
    "positions that begin at 1",
)
def positions_only(rng: Rng) -> Iterator[Batch]:
    """A model without attention, to which masks mean nothing."""
    yield batch(rng, [2, 5, 3], [5, 5, 5], attends=False)
    yield batch(rng, [6, 1], [6, 6], attends=False)


@batch_exam.edge(
    1,
    "padding that is attended to",
    "padding that is hidden in the prompt only",
    "padding found by its id",
    "new tokens that attend to later ones",
)
def masks_only(rng: Rng) -> Iterator[Batch]:
    """A model without positions, and prompts that contain the padding id."""
    for lengths in ([1, 6, 2], [8, 1], [2, 9]):
        yield batch(rng, lengths, [8] * len(lengths), counts=False)


@batch_exam.edge(0.5, "the stop id in the text")
def one_that_stops(rng: Rng) -> Iterator[Batch]:
    """A single text that stops."""
    model, prompts, limits, *ids = batch(rng, [3], [6])
    yield model, prompts, limits, alone(model, prompts, limits, *ids)[0][rng.randint(1, 4)], ids[1]


@batch_exam.edge(0.5, "texts that go on after their stop id")
def just_stopped(rng: Rng) -> Iterator[Batch]:
    """Two texts, of which one stops a step before the limit."""
    while True:
        model, prompts, limits, *ids = batch(rng, [3, 3], [5, 5])
        one, two = alone(model, prompts, limits, *ids)
        if one.index(one[3]) == 3 and one[3] not in [*two, one[4]]:
            break
    yield model, prompts, limits, one[3], ids[1]


@batch_exam.edge(0.5, "a batch that ends with its first text", "a row that forgets that it has ended")
def long_stopped(rng: Rng) -> Iterator[Batch]:
    """Prompts of one length, texts that stop at different times."""
    yield batch(rng, [3, 3], [8, 8], stops=True)
    yield batch(rng, [2, 2], [8, 8], stops=True)


@batch_exam.edge(
    0.5,
    "texts longer than their limits",
    "texts one token longer than their limits",
    "a token where the limit is 0",
)
def limits_only(rng: Rng) -> Iterator[Batch]:
    """Prompts of one length with different limits, also 0."""
    yield batch(rng, [3, 3, 3], [2, 5, 3])
    yield batch(rng, [2, 2], [0, 4])
    yield batch(rng, [1], [0])


@batch_exam.cost(1)
def shared_passes(f: Function, rng: Rng) -> None:
    """All rows share one pass per step over the new tokens, and none follows the last that is needed."""
    for case in (next(one_that_stops(rng)), next(just_stopped(rng))):
        model, prompts, limits, *_ = case
        passes = max(min(len(text) + 1, limits[0]) for text in alone(*case))
        model.columns = []
        f(*case)
        same(model.columns, [len(prompts[0])] + [1] * (passes - 1), "the new tokens of each pass")


# 14.4

Requests = list[tuple[list[int], int]]
Paged = tuple[Requests, int, dict[str, int]]


def naive_blocks(requests: Requests, block_size: int, config: dict[str, int], /) -> dict[str, int]:
    """Slot by slot, against each earlier prompt."""
    taken = used = reused = 0
    for i, (prompt, generated) in enumerate(requests):
        earlier = [other for other, _ in requests[:i]]
        for start in range(0, len(prompt) + generated - 1, block_size):
            end = start + block_size
            if end < len(prompt) and any(len(o) >= end and o[:end] == prompt[:end] for o in earlier):
                reused += block_size
                continue
            taken += 1
            used += len(range(start, min(end, len(prompt) + generated - 1)))
    vector = config["head_dim"] * {32: 4, 16: 2, 8: 1}[config["bits"]] + {8: 4}.get(config["bits"], 0)
    slots = taken * block_size
    size = sum(slots * vector for _ in range(config["layers"] * config["kv_heads"]) for _ in ("k", "v"))
    return {"blocks": taken, "bytes": size, "empty": slots - used, "reused": reused}


blocks_exam = WholeExam("14.4", naive_blocks)
CONFIG = {"layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "bits": 16}
blocks_exam.example(
    1,
    ([([1, 2, 3, 4, 5], 2), ([1, 2, 3, 4, 6], 2)], 4, CONFIG),
    {"blocks": 3, "bytes": 768, "empty": 4, "reused": 4},
)


def some_config(rng: Rng, bits: int) -> dict[str, int]:
    """A model with fewer heads of keys than of queries."""
    kv = rng.randint(2, 4)
    sizes = {"layers": rng.randint(2, 9), "heads": kv * rng.randint(2, 4), "kv_heads": kv}
    return {**sizes, "head_dim": 8 * rng.randint(2, 9), "bits": bits}


def words(rng: Rng, n: int) -> list[int]:
    """So many ids, all different."""
    return rng.sample(range(100), n)


SIZES = (
    "keys without values",
    "as many heads of keys as of queries",
    "int8 without its scales",
    "one scale for all heads of a token",
    "bits counted as bytes",
    "a last token that is stored",
    "blocks that several requests fill together",
    "prompts without what is generated",
)


@blocks_exam.edge(1, *SIZES)
def unshared(rng: Rng) -> Iterator[Paged]:
    """Requests that share nothing, with numbers of 32, 16 and 8 bits."""
    for bits in (32, 16, 8):
        size = rng.randint(3, 4)
        requests = [(words(rng, rng.randint(2, 8)), rng.randint(2, 9)) for _ in range(2)]
        n = size * rng.randint(1, 2)
        yield [(words(rng, n - 1), 2), *requests, (words(rng, n), 2)], size, some_config(rng, bits)


@blocks_exam.oracle(2)
def shared(rng: Rng) -> Iterator[Paged]:
    """Prompts equal to an earlier one, at their beginning, in all, or behind another beginning."""
    for bits in (32, 16, 8):
        root, other = words(rng, 6), words(rng, 4)
        cut, behind = root[:5], other[:2] + root[2:] + [100]
        yield [(root, 2), (cut, 1), (behind, 3)], 2, some_config(rng, bits)
        yield [(root, 1), (other, 2), (root, rng.randint(1, 4))], 2, some_config(rng, bits)
        yield [(cut, 1), (cut, 3), ([*root, 100], 2)], 2, some_config(rng, bits)
        # Both blocks of the last prompt are in use, but the second one behind another first one.
        mixed = [([*root[:4], 100], 1), ([*other, 100], 1), (root[:2] + other[2:] + [100], 1)]
        yield mixed, 2, some_config(rng, bits)


@blocks_exam.edge(0.5)
def border_blocks(rng: Rng) -> Iterator[Paged]:
    """One token, blocks of one slot, equal prompts that fill their blocks, no requests."""
    config, root = some_config(rng, 8), words(rng, 8)
    yield [([5], 1)], 4, config
    yield [([5], 1), ([5], 1), ([5, 6], 2)], 1, config
    yield [(root, 1), (root, 1), ([*root, 101], 1)], 4, config
    yield [(root[:5], 5), ([*root[:5], 101, 102, 103, 104], 1)], 4, config
    yield [(root, 40), (root[4:], 3), (root[:4], 3)], 4, config
    yield [], 4, config


@blocks_exam.property(1.5)
def counts_alone(f: Function, rng: Rng) -> None:
    """Blocks, empty slots and reused tokens count by themselves, even if the bytes are wrong."""
    for requests, size, config in [*shared(rng), *unshared(rng)]:
        found, expected = f(requests, size, config), naive_blocks(requests, size, config)
        expect(type(found) is dict, f"the result is {show(found)}, no dict")
        del expected["bytes"]
        told = f"of the requests {show(requests)} in blocks of {size}"
        same({name: found.get(name) for name in expected}, expected, told)


# 14.5

State = tuple[list[dict[str, int]], list[dict[str, Any]], int, int, int]
KEPT = "all rules kept"


def first_broken_rule(f: Function) -> Function:
    """Makes of an answer a function that says which rule its decision breaks first."""

    def run(
        waiting: list[dict[str, int]], running: list[dict[str, Any]], free: int, size: int, reserve: int
    ) -> str:
        found: Any = f(waiting, running, free, size, reserve)
        parts = [cast("Any", found).get(name) for name in ("admit", "preempt")] if type(found) is dict else []
        right = [*map(type, parts)] == [list, list]
        expect(right, f"expected a dict of the lists 'admit' and 'preempt', got {show(found)}")
        admit, preempt = (cast("list[int]", part) for part in parts)
        needs = {one["id"]: math.ceil(one["tokens"] / size) for one in waiting}
        by_id = {one["id"]: one for one in running}
        strange = [id for id in admit if id not in needs] or [id for id in preempt if id not in by_id]
        expect(not strange, f"expected ids to admit that wait and ids to preempt that run, got {strange}")
        expect(len({*admit, *preempt}) == len(admit + preempt), "expected each id once")

        def left(admit: list[int], preempt: list[int]) -> int:
            blocks = free - sum(needs[id] for id in admit) + sum(by_id[id]["frees"] for id in preempt)
            going = [one["tokens"] for id, one in by_id.items() if id not in preempt]
            return blocks - sum(math.ceil(n / size) - math.ceil((n - 1) / size) for n in going)

        blocks, oldest = left(admit, preempt), min(by_id, default=None)
        plain = [id for id in by_id if not by_id[id]["shared"] and id != oldest]
        shared = [id for id in preempt if by_id[id]["shared"] and left([], plain) >= 0]
        later = [id for id in needs if id not in admit][:1]
        floor = reserve if by_id or admit else 0
        scarce = blocks < reserve and len(admit) > (0 if by_id else 1)
        rules = {
            "rule 1: {} of the needed blocks missing": [-blocks] * (blocks < 0),
            "rule 2: request {} waits, a younger one is admitted": later * (later < sorted(admit)[-1:]),
            "rule 3: request {} is preempted, the oldest that runs": [id for id in preempt if id == oldest],
            "rule 4: request {} could go on": [id for id in preempt if left([], [*{*preempt} - {id}]) >= 0],
            "rule 5: request {} is shared, others are enough": shared,
            "rule 6: request {} is admitted in a step that preempts": admit if preempt else [],
            f"rule 7: {{}} of {reserve} reserved blocks left": [blocks] * scarce,
            "rule 8: request {} could be admitted": later * (left(admit + later, []) >= floor),
        }
        return next((rule.format(*who) for rule, who in rules.items() if who), KEPT)

    run.__name__ = "plan"
    return run


class PlanExam(Exam[...]):
    """An exam that judges decisions by the rules."""

    def _compare(self, f: Function, cases: list[tuple[Any, ...]], mistakes: Mistakes[...]) -> None:
        super()._compare(first_broken_rule(f), cases, mistakes)

    def lifted(self, answer: Function) -> Function:
        """The first rule that it breaks."""
        return first_broken_rule(answer)


plan_exam = PlanExam("14.5", lambda *state: KEPT)


def runs(id: int, tokens: int, frees: int, shared: bool = False) -> dict[str, Any]:
    """A request that runs."""
    return {"id": id, "tokens": tokens, "frees": frees, "shared": shared}


def waits(rng: Rng, size: int, *blocks: int) -> list[dict[str, int]]:
    """Requests that wait, for so many blocks each."""
    return [{"id": 40 + i, "tokens": size * n - rng.randrange(size)} for i, n in enumerate(blocks)]


WAITING, RUNNING = [{"id": 3, "tokens": 5}], [runs(2, 6, 2), runs(1, 9, 2)]
plan_exam.example(0.5, (WAITING, RUNNING, 4, 4, 1), {"admit": [3], "preempt": []})
plan_exam.example(0.5, (WAITING, RUNNING, 0, 4, 1), {"admit": [], "preempt": [2]})


@plan_exam.edge(
    1.5,
    "blocks forgotten that running requests are about to need",
    "the reserve used while requests run",
    "a reserve that an empty engine keeps, too",
    "a younger request admitted past an older one",
    "blocks rounded down",
)
def admissions(rng: Rng) -> Iterator[State]:
    """Enough blocks for those that run, and for some of those that wait."""
    size, at = rng.randint(3, 6), rng.randint(1, 9)
    going = [runs(at + 9, 2 * size + 1, 2), runs(at, 3 * size + 1, 3), runs(at + 4, 2 * size, 2)]
    for free in (9, 8, 7, 6, 5, 3):
        yield waits(rng, size, 2, 2, 1), going, free, size, 2
    yield waits(rng, size, 4, 1), going, 6, size, 2
    yield waits(rng, size, 3, 3, 1), [], 6, size, 4
    yield waits(rng, size, 5), [], 5, size, 3
    yield waits(rng, size, 2, 1), going[:1], 4, size, 0


@plan_exam.oracle(2.5)
def preemptions(rng: Rng) -> Iterator[State]:
    """Too few blocks for those that run, none of which is shared."""
    size, at = rng.randint(3, 6), rng.randint(1, 9)
    full = [runs(at + i, size * rng.randint(4, 6) + 1, rng.randint(2, 4)) for i in range(4)]
    for free in (0, 1, 3):
        yield waits(rng, size, 1), rng.sample(full, 4), free, size, 1
    some = [runs(at + 2, 2 * size, 1), runs(at, 2 * size + 1, 2), runs(at + 1, 4 * size + 1, 4)]
    yield waits(rng, size, 1), some, 0, size, 0
    fat = [runs(at + i, size * 5 + 1, frees) for i, frees in enumerate((3, 1, 1, 5, 1))]
    yield [], [one | {"tokens": one["tokens"] + (one["frees"] == 1)} for one in fat], 0, size, 1
    yield [], rng.sample([runs(at + i, 2 * size + 1, 1) for i in range(4)], 4), 0, size, 1
    yield [], [runs(at, 2 * size + 1, 2), runs(at + 1, 2 * size + 1, 2)], 2, size, 2
    yield [], [runs(at + 1, size + 2, 1), runs(at, size + 1, 2)], 0, size, 0
    yield [], [runs(at, size + 1, 2), *(runs(at + i, size + 2, 1) for i in (1, 2, 3))], 0, size, 0


@plan_exam.edge(1, "shared requests preempted as all others")
def shared_prefixes(rng: Rng) -> Iterator[State]:
    """Too few blocks, and shared requests: the youngest, the oldest, all but the oldest."""
    size, at = rng.randint(3, 6), rng.randint(1, 9)
    for flags in ("oos", "soos", "oss", "sss", "oso"):
        ids = range(at, at + len(flags))
        full = [runs(id, 2 * size + 1, rng.randint(1, 2), flags[id - at] == "s") for id in ids]
        yield waits(rng, size, 1), rng.sample(full, len(full)), 1, size, 1


@plan_exam.edge(1)
def border_states(rng: Rng) -> Iterator[State]:
    """Blocks of one slot, nobody, only one that runs, a request too large for now."""
    yield [], [], 5, 4, 1
    yield waits(rng, 1, 3, 2), [runs(7, 5, 4), runs(3, 9, 8)], 6, 1, 1
    yield waits(rng, 1, 1), [runs(7, 5, 4), runs(3, 9, 8)], 1, 1, 1
    yield waits(rng, 4, 9), [], 8, 4, 2
    yield [], [runs(3, 9, 2)], 1, 4, 9
